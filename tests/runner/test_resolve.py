"""Configurations of runs: values that refer to others, the name of the study, and claims before training."""

import pytest
from hydra import initialize_config_module

from headtohead.options import ConfigError
from headtohead.runner.axes import read_axes, search
from headtohead.runner.resolve import Member, compose


@pytest.fixture
def members():
    """Return a function from overrides to the runs that they span."""
    with initialize_config_module("headtohead.configs", version_base="1.3"):

        def make(*overrides: str) -> list[Member]:
            axes = read_axes(overrides, None)
            return [compose("config", axes.common, run) for run in search(axes)]

        yield make


RATES, SEEDS = (0.01, 0.5), (3, 4)
SWEEP = ("optimizer.lr=0.01,0.5", "seed=3,4")


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("optimizer.weight_decay=${optimizer.lr}", lambda c: c.optimizer.weight_decay, lambda lr, seed: lr),
        ("optimizer.weight_decay='${.lr}'", lambda c: c.optimizer.weight_decay, lambda lr, seed: lr),
        ("training.warmup=${optimizer.weight_decay}", lambda c: c.training.warmup, lambda lr, seed: lr),
        ("training.epochs=${seed}", lambda c: c.training.epochs, lambda lr, seed: seed),
        ("training.epochs='1${seed}'", lambda c: c.training.epochs, lambda lr, seed: 10 + seed),
        ("model.widths=[8,${seed}]", lambda c: c.model.widths, lambda lr, seed: (8, seed)),
        ("dataset.label_noise=${oc.select:optimizer.lr,0}", lambda c: c.dataset.label_noise, lambda lr, seed: lr),
    ],
)  # fmt: skip
def test_a_value_that_refers_to_the_rate_or_the_seed_differs_with_it(members, override, read, expected):
    chain = ["optimizer.weight_decay=${optimizer.lr}"] if override.startswith("training.warmup=${opt") else []
    runs = members(override, *chain, *SWEEP, "head=softmax,sigmoid")
    assert [read(member.config) for member in runs] == [expected(lr, seed) for lr in RATES for seed in SEEDS] * 2
    for member in runs:
        assert member.values["optimizer"]["lr"] == member.config.optimizer.lr
        assert "${" not in str(member.values)


def test_an_option_of_the_head_can_refer_to_the_rate(members):
    runs = members("head=sigmoid_smoothed", "head.label_smoothing=${optimizer.lr}", *SWEEP)
    assert [member.config.head.label_smoothing for member in runs] == [0.01, 0.01, 0.5, 0.5]


def test_a_rate_can_refer_to_a_swept_key(members):
    runs = members("optimizer.lr=${training.warmup}", "training.warmup=0.1,0.2")
    assert [member.config.optimizer.lr for member in runs] == [0.1, 0.2]


def test_a_swept_reference_is_an_arm(members):
    runs = members("optimizer.weight_decay='${optimizer.lr}',0.25", "optimizer.lr=0.01,0.5")
    assert [member.config.optimizer.weight_decay for member in runs] == [0.01, 0.5, 0.25, 0.25]
    assert len({member.name for member in runs}) == 4


def test_a_value_out_of_range_at_one_rate_is_refused(members):
    with pytest.raises(ConfigError, match=r"training\.warmup=2\.0"):
        members("training.warmup=${optimizer.lr}", "optimizer.lr=0.5,2.0")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=${optimizer.lrr}", r"^optimizer\.lr=\${optimizer\.lrr}: .*did you mean optimizer\.lr"),
        ("optimizer.lr=${oc.env:NOT_SET}", r"^optimizer\.lr=\${oc\.env:NOT_SET}: .*'NOT_SET' not found; accepted"),
        ("seed=${oc.env:NOT_SET}", r"^seed=\${oc\.env:NOT_SET}: .*accepted"),
        ("training.epochs=${eval:1}", r"^training\.epochs=\${eval:1}: .*accepted"),
        ("training.epochs=${training.epochs}", r"^training\.epochs=\${training\.epochs}: .*accepted"),
        ("model.widths=[8,${nothing}]", r"^model\.widths\[1\]=\${nothing}: .*accepted"),
    ],
)  # fmt: skip
def test_a_reference_to_nothing_names_its_key(members, override, message):
    with pytest.raises(ConfigError, match=message):
        members(override)
