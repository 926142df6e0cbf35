"""Ranges of a command line, and the points that are drawn from them."""

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy import stats

from headtohead.options import ConfigError
from headtohead.record.study import Range
from headtohead.runner.axes import Run, read_axes, search
from headtohead.runner.space import points, read_range, tunable

SPACE = {
    "optimizer.lr": Range(1e-3, 1.0, log=True),
    "training.warmup": Range(0.0, 0.3, log=False),
    "optimizer.momentum": Range(0.5, 0.99, log=False),
}


def override(text):
    return OverridesParser.create().parse_override(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=interval(0.001,1)", Range(0.001, 1.0, log=False)),
        ("optimizer.lr=interval(end=1,start=0.5)", Range(0.5, 1.0, log=False)),
        ("+head.options.scale=interval(-1,1)", Range(-1.0, 1.0, log=False)),
        ("optimizer.lr=tag(log,interval(1e-3,1))", Range(0.001, 1.0, log=True)),
        ("optimizer.lr=float(tag(log,interval(1,5)))", Range(1.0, 5.0, log=True)),
    ],
)
def test_a_range_is_written_in_hydras_grammar(text, expected):
    assert read_range(override(text)) == expected
    key = text.partition("=")[0]
    assert read_range(override(f"{key}={expected.override}")) == expected


def test_a_range_is_tuned_and_a_list_makes_arms():
    lines = ["head=softmax,sigmoid", "optimizer.weight_decay=0,1e-4", "training.warmup=interval(0,0.3)", "seed=0,1"]
    axes = read_axes([*lines, "optimizer.lr=tag(log,interval(1e-3,1))"], None)
    assert axes.space == {"training.warmup": Range(0.0, 0.3, False), "optimizer.lr": Range(0.001, 1.0, True)}
    assert len(axes.arms) == 4
    assert axes.lrs == () and axes.common == () and axes.is_tuned and not axes.is_single
    drawn = points(axes.space, 8)
    runs = search(axes, drawn)
    assert len(runs) == len({*runs}) == len({run.name(()) for run in runs}) == 4 * 8 * 2
    # All arms and seeds have the same points.
    assert len({(run.trial, run.point) for run in runs}) == 8
    assert Run("", ("head=softmax",), None, 3, trial=17, point=drawn[0]).name(()) == "head=softmax,trial=17,seed=3"


def test_rates_of_a_list_are_tried_with_each_point():
    axes = read_axes(["optimizer.lr=0.1,0.3", "training.warmup=interval(0,0.3)"], None)
    runs = search(axes, points(axes.space, 4))
    assert {(run.lr, run.trial) for run in runs} == {(lr, trial) for lr in (0.1, 0.3) for trial in (1, 2, 3, 4)}
    assert len({run.name(()) for run in runs}) == 8


def test_an_experiment_may_have_ranges_which_the_command_line_replaces():
    params = {"optimizer.lr": "tag(log,interval(1e-3,1))", "training.warmup": "interval(0,0.3)"}
    axes = read_axes(["optimizer.lr=0.1"], params)
    assert {*axes.space} == {"training.warmup"} and axes.lrs == (0.1,)


def test_points_fill_the_ranges_evenly():
    drawn = points(SPACE, 64)
    by_key = {
        key: np.array([setting.value for point in drawn for setting in point if setting.key == key]) for key in SPACE
    }
    for key, of in SPACE.items():
        values = by_key[key]
        assert len(values) == 64 and values.min() >= of.low and values.max() <= of.high
        low, high, values = (np.log(number) if of.log else number for number in (of.low, of.high, values))
        # A Sobol sequence puts one of 64 points into each 64th of a range; rounding moves few over an edge.
        counts = np.histogram(values, np.linspace(low, high, 17))[0]
        assert (abs(counts - 4) <= 1).all()
        assert stats.kstest((values - low) / (high - low), "uniform").statistic < 1 / 32
    independent = np.corrcoef([by_key["optimizer.momentum"], by_key["training.warmup"]])[0, 1]
    assert abs(independent) < 0.1


def test_more_points_begin_with_the_fewer_and_the_order_of_keys_does_not_matter():
    assert points(SPACE, 64)[:5] == points(SPACE, 5)
    assert points(dict(reversed(SPACE.items())), 5) == points(SPACE, 5)
    assert points({}, 5) == ()
    (point,) = points(SPACE, 1)
    assert all(float(f"{setting.value:.4g}") == setting.value for setting in point)


def test_only_numbers_with_a_fraction_can_be_tuned(config):
    common = {
        "optimizer.lr", "optimizer.weight_decay", "optimizer.clip_norm", "training.warmup",
        "head.label_smoothing", "head.tau", "head.beta",
    }  # fmt: skip
    assert tunable(config("head=softmax", "model=linear", "optimizer=sgd")) == common | {"optimizer.momentum"}
    assert tunable(config("head=softmax_cosine", "model=mlp", "optimizer=adamw")) == common | {
        "optimizer.beta1", "optimizer.beta2", "optimizer.eps", "head.temperature", "model.dropout",
    }  # fmt: skip
    assert "head.gamma" in tunable(config("head=sigmoid_focal"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr=interval(1,0.1)", "no range; accepted: .* the lower one first"),
        ("optimizer.lr=interval(1,1)", "no range"),
        ("optimizer.lr=interval(0.1,inf)", "no range; accepted: .*finite ends"),
        ("optimizer.lr=interval(nan,1)", "no range"),
        ("optimizer.lr=tag(log,interval(0,1))", "the logarithm of 0 is not finite; accepted: a lower end above 0"),
        ("optimizer.lr=tag(log,interval(-1,1))", "the logarithm of -1 is not finite"),
        ("optimizer.lr=tag(lgo,interval(0.1,1))", "unknown tag lgo; accepted: tag"),
        ("optimizer.lr=tag(a,log,interval(0.1,1))", "unknown tag a"),
        ("training.batch_size=int(interval(5,20))", "integers cannot be tuned; accepted: numbers of optimizer"),
        ("~optimizer.lr=interval(0,1)", "optimizer.lr cannot be tuned"),
        *(
            (f"{key}=interval(0.1,1)", f"{key} cannot be tuned; accepted: numbers of optimizer")
            for key in ("seed", "fold", "name", "head", "optimizer", "device", "pack_size", "dataset.label_noise",
                        "dataset.train_size", "claims.accuracy.margin", "protocol.confirm_seeds", "checkpoint_s")
        ),
    ],
)  # fmt: skip
def test_what_is_no_range_is_refused_with_the_key(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_axes([text], None)
    assert str(error.value).startswith(text)


def test_a_key_has_a_range_or_a_list():
    with pytest.raises(ConfigError, match=r"^optimizer.lr=interval\(0.1,1\), 0.1,0.2: given twice"):
        read_axes(["optimizer.lr=interval(0.1,1)", "optimizer.lr=0.1,0.2"], None)
    with pytest.raises(ConfigError, match=r"^optimizer.lr=0.1,interval\(0,1\): a list .* or one range"):
        read_axes(["optimizer.lr=0.1,interval(0,1)"], None)
