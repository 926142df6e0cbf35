"""Command lines to axes and runs."""

import re
import unicodedata

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from headtohead.options import ConfigError
from headtohead.record.study import Trial
from headtohead.runner.axes import Run, confirm, rates_beyond, read_axes, search
from headtohead.runner.space import points


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
    name = run.name(("name=x", "experiment=digits", "device=cpu", "dataset.root=/data", "claims=[]"))
    assert re.fullmatch(r"model\.path=a_b_c-[0-9a-f]{12},optimizer\.lr=0\.1,seed=3", name)
    long = [Run("", ("model.options={" + "x" * 300 + end + "}",), 1.2345678901234567e-100, 2**63 - 1) for end in "ab"]
    assert len({run.name(()) for run in long}) == 2
    # Notes of the progress add eight characters, and file systems take 255 bytes.
    assert all(len(run.name(()).encode()) <= 240 for run in long)
    assert Run("", (), None, None).name(()) == "default"


# In each group all must have names of their own, also where a file system knows no case or composes accents.
@pytest.mark.parametrize(
    "values",
    [
        ["'a b'", "a_b", "'a-b'", "'a  b'", "'a\tb'", "'a:b'", "'a/b'"],
        ["1", "1.0", "'1'", '"1"', "01", "1e0", "true", "'true'", "null", "'null'"],
        ["a", "A", "'a '", "' a'", "a.", ".a", "..a"],
        ["''", "' '", "'_'", "_", "'.'", "'..'"],
        ["'é'", "'e\u0301'", "'É'", "'\u00e9 '", "'ß'", "'ss'"],
        ["'\U0001f600'", "'\U0001f601'", "'\u4e2d'", "'\u6587'"],
        ["[1]", "['1']", "[1.0]", "_1_", "{a:1}", "(1)"],
        ["x" * 300, "x" * 301, "'" + "\u4e2d" * 300 + "'", "'" + "\u4e2d" * 301 + "'"],
        ["'a,seed=1'", "'a'", "a"],
    ],
)
def test_names_differ_whatever_the_values(values):
    runs = [Run("", (f"+model.options.tag={value}",), None, seed) for value in values for seed in (0, 1)]
    names = {unicodedata.normalize("NFC", run.name(())).casefold() for run in runs}
    assert len(names) == len(runs)
    assert all(re.fullmatch(r"[\w=,.+-]+", name) and len(name.encode()) < 240 for name in names)


def test_rates_that_differ_in_the_last_digit_have_names_that_differ():
    names = {Run("", (), lr, 0).name(()) for lr in (0.1, 0.10000000000000002, 3.0, 1e-6)}
    assert names == {f"optimizer.lr={lr},seed=0" for lr in ("0.1", "0.10000000000000002", "3", "1e-06")}


def test_a_forced_seed_or_rate_is_the_plain_key():
    axes = read_axes(["++seed=0,1", "++optimizer.lr=0.1,'1'"], None)
    assert axes.seeds == (0, 1) and axes.lrs == (0.1, 1.0)
    assert axes.arms == {"": ()} and axes.common == ()


def test_a_rate_or_a_seed_that_refers_to_another_key_is_left_to_hydra():
    axes = read_axes(["optimizer.lr=${training.warmup}", "seed='${oc.env:SEED,3}'"], None)
    assert axes.common == ("optimizer.lr=${training.warmup}", "seed='${oc.env:SEED,3}'")
    assert axes.lrs == axes.seeds == ()


AWKWARD = st.text(
    st.sampled_from("\\'\"$:,=[]{}()%#@~ ${a}\t\n01.e-é\U0001f600") | st.characters(exclude_categories=["Cs"])
)
VALUES = st.recursive(
    AWKWARD | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(), st.lists, max_leaves=4
)


def quoted(value: object) -> str:
    """Write a value in Hydra's grammar in another way than the program: all text in double quotes."""
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, str):
        # Backslashes count before a quote alone.
        return '"' + re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + match[2].replace('"', '\\"'), value) + '"'
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=4, unique_by=repr))
def test_swept_values_read_back_as_themselves(values):
    axes = read_axes([f"+model.options.tag={','.join(map(quoted, values))}"], None)
    assert len(axes.arms) == len(values)
    read = [OverridesParser.create().parse_override(line).value() for (line,) in axes.arms.values()]
    assert repr(read) == repr(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=a,b"], "optimizer.lr=a: must be a number"),
        (["seed=1,x"], "seed=x: must be an integer"),
        (["seed=1,1"], "names a value twice"),
        (["name=a,b"], "cannot be swept"),
        (["claims.accuracy.margin=0.1,0.2"], "claims.accuracy.margin cannot be swept"),
        (["claims=accuracy,loss"], "claims cannot be swept"),
        (["protocol.confirm_seeds=1,2"], "protocol.confirm_seeds cannot be swept"),
        (["experiment=digits,tabular"], "experiment cannot be swept"),
        (["seed=1", "seed=2"], "seed=1, 2: given twice"),
        (["++seed=1", "seed=2"], "seed=1, 2: given twice"),
        (["head=softmax", "head=sigmoid"], "head=softmax, sigmoid: given twice"),
        (["head=softmax,softmax"], "head=softmax: names a value twice"),
        (["++seed=0,x"], "seed=x: must be an integer"),
        (["seed=true"], "seed=true: must be an integer"),
        (["seed=range(0)"], r"seed=range\(0\): sweeps no value"),
        (["seed=range(1,5,0)"], "must not be zero"),
        (["seed=range(10000000)"], "more than 1000000 values"),
        (["seed=range(10000)", "optimizer.lr=range(1,1000)"], "at most 1000000"),
    ],
)
def test_bad_axes(arguments, message):
    with pytest.raises(ConfigError, match=message):
        read_axes(arguments, None)


def test_confirm_takes_each_arm_at_its_best():
    axes = read_axes(["optimizer.lr=0.1,0.3"], None)
    arms = {"a": ("head=a",), "b": ("head=b",)}
    runs = confirm(arms, {"a": Trial(0.1), "b": Trial(0.3)}, [10, 11], axes)
    assert [(run.arm, run.overrides, run.lr, run.seed) for run in runs] == [
        ("a", ("head=a",), 0.1, 10),
        ("a", ("head=a",), 0.1, 11),
        ("b", ("head=b",), 0.3, 10),
        ("b", ("head=b",), 0.3, 11),
    ]
    # A point of the space brings its learning rate.
    axes = read_axes(["optimizer.lr=interval(0.1,0.3)"], None)
    drawn = points(axes.space, 4)
    (run,) = confirm(arms, {"a": Trial(drawn[2][0].value, 3)}, [10], axes, drawn)
    assert (run.lr, run.trial, run.point) == (None, 3, drawn[2])


@pytest.mark.parametrize(
    ("best", "extended", "beyond"),
    [
        ({"a": [0.1], "b": [0.1]}, (0, 0), {}),
        ({"a": [0.01], "b": [0.1]}, (0, 0), {"below": 0.001}),
        ({"a": [0.1, 0.01], "b": [0.1, 0.1]}, (0, 0), {"below": 0.001}),
        ({"a": [0.01], "b": [3.0]}, (1, 1), {"below": 0.001, "above": 90.0}),
        ({"a": [0.01], "b": [3.0]}, (2, 0), {"above": 90.0}),
        ({"a": [0.01]}, (2, 2), {}),
    ],
)
def test_a_grid_grows_at_the_edges_that_hold_a_best_rate_twice_each(best, extended, beyond):
    below, above = extended
    assert rates_beyond([0.01, 0.1, 3.0], best, {"below": below, "above": above}) == beyond
