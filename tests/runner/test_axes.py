"""Command lines to axes and runs."""

import pytest

from headtohead.options import ConfigError
from headtohead.runner.axes import Run, confirm, rates_beyond, read_axes, search


def test_a_sweep_has_arms_rates_and_seeds():
    axes = read_axes(
        ["head=softmax,sigmoid", "model.dropout=0,0.1", "optimizer.lr=0.1,1e-2", "seed=range(3)", "dataset=iris"], None
    )
    assert axes.common == ("dataset=iris",)
    assert axes.arms == {
        "softmax,dropout=0": ("head=softmax", "model.dropout=0"),
        "softmax,dropout=0.1": ("head=softmax", "model.dropout=0.1"),
        "sigmoid,dropout=0": ("head=sigmoid", "model.dropout=0"),
        "sigmoid,dropout=0.1": ("head=sigmoid", "model.dropout=0.1"),
    }
    assert axes.lrs == (0.1, 0.01)
    assert axes.seeds == (0, 1, 2)
    runs = search(axes)
    assert len(runs) == len(set(runs)) == 4 * 2 * 3
    assert len({run.name(axes.common) for run in runs}) == len(runs)


def test_the_command_line_overrides_an_experiment():
    params = {"head": "softmax,sigmoid", "optimizer.lr": "0.1,0.2", "seed": "range(10)"}
    axes = read_axes(["experiment=digits", "seed=7", "head=sigmoid"], params)
    assert axes.seeds == (7,)
    assert axes.lrs == (0.1, 0.2)
    assert axes.arms == {"": ()}
    assert axes.common == ("experiment=digits", "head=sigmoid")


def test_lists_and_quotes_survive():
    axes = read_axes(["model.widths=[64,32],[16]", "+note='a,b'"], None)
    assert list(axes.arms.values()) == [("model.widths=[64,32]",), ("model.widths=[16]",)]
    assert axes.common == ("+note='a,b'",)


def test_names_are_plain_short_and_distinct():
    run = Run("", ("model.path=a/b:c",), 0.1, 3)
    assert run.name(("name=x", "experiment=digits", "device=cpu", "dataset.root=/data")) == (
        "model.path=a_b_c,optimizer.lr=0.1,seed=3"
    )
    long = [Run("", ("model.options={" + "x" * 300 + end + "}",), None, None).name(()) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(name) <= 200 for name in long)
    assert Run("", ("..",), None, None).name(()) == "default"


def test_rates_that_differ_in_the_last_digit_have_names_that_differ():
    names = {Run("", (), lr, 0).name(()) for lr in (0.1, 0.10000000000000002, 3.0, 1e-6)}
    assert names == {f"optimizer.lr={lr},seed=0" for lr in ("0.1", "0.10000000000000002", "3", "1e-06")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=a,b"], "optimizer.lr=a: must be a number"),
        (["seed=1,x"], "seed=x: must be an integer"),
        (["seed=1,1"], "names a value twice"),
        (["name=a,b"], "cannot be swept"),
    ],
)
def test_bad_axes(arguments, message):
    with pytest.raises(ConfigError, match=message):
        read_axes(arguments, None)


def test_confirm_takes_each_arm_at_its_best():
    runs = confirm({"a": ("head=a",), "b": ("head=b",)}, {"a": 0.1, "b": 1.0}, [10, 11])
    assert [(run.arm, run.overrides, run.lr, run.seed) for run in runs] == [
        ("a", ("head=a",), 0.1, 10),
        ("a", ("head=a",), 0.1, 11),
        ("b", ("head=b",), 1.0, 10),
        ("b", ("head=b",), 1.0, 11),
    ]


@pytest.mark.parametrize(
    ("best", "extended", "beyond"),
    [
        ({"a": 0.1, "b": 0.1}, (0, 0), {}),
        ({"a": 0.01, "b": 0.1}, (0, 0), {"below": 0.001}),
        ({"a": 0.01, "b": 3.0}, (1, 1), {"below": 0.001, "above": 90.0}),
        ({"a": 0.01, "b": 3.0}, (2, 0), {"above": 90.0}),
        ({"a": 0.01}, (2, 2), {}),
    ],
)
def test_a_grid_grows_at_the_edges_that_hold_a_best_rate_twice_each(best, extended, beyond):
    below, above = extended
    assert rates_beyond([0.01, 0.1, 3.0], best, {"below": below, "above": above}) == beyond
