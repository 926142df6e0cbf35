"""Command lines to axes, runs and packs."""

import pytest

from headtohead.options import ConfigError
from headtohead.runner.plan import Run, confirm, into_packs, read_axes, search


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
    ("count", "size", "packs"), [(1, 16, 1), (16, 16, 1), (17, 16, 2), (40, 16, 3), (280, 16, 20), (5, 1, 5)]
)
def test_packs_are_even_and_hold_every_run_once(count, size, packs):
    made = into_packs(range(count), key=lambda i: 0, seed=lambda i: i % 10, size=lambda i: size)
    assert sorted(i for pack in made for i in pack) == list(range(count))
    assert len(made) == packs
    lengths = [len(pack) for pack in made]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_a_seed_that_fills_more_than_half_a_pack_has_packs_of_its_own():
    made = into_packs(range(70), key=lambda i: 0, seed=lambda i: i % 10 if i < 40 else 10, size=lambda i: 16)
    assert sorted(i for pack in made for i in pack) == list(range(70))
    # Thirty runs of one seed, and forty of ten seeds with four runs each.
    assert sorted(len(pack) for pack in made if min(pack) >= 40) == [15, 15]
    assert sorted(len(pack) for pack in made if min(pack) < 40) == [13, 13, 14]


def test_packs_keep_keys_apart_and_seeds_together():
    made = into_packs(range(40), key=lambda i: i % 2, seed=lambda i: i % 5, size=lambda i: 4)
    for pack in made:
        assert len({i % 2 for i in pack}) == 1
        assert len({i % 5 for i in pack}) == 1
