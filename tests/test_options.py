"""Options: values become checked dataclasses, or an error that names key, value and what is accepted."""

import json
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from headtohead.options import ConfigError, build, build_named, nearest, require


@dataclass(frozen=True)
class Inner:
    numbers: tuple[float | None, ...]

    def __post_init__(self):
        require(len(self.numbers) < 3, "inner.numbers", list(self.numbers), "at most two")


@dataclass(frozen=True)
class Everything:
    whole: int
    real: float
    text: str
    truth: bool
    maybe: int | None
    word: Literal["one", "two"]
    names: tuple[str, ...]
    table: dict[str, int | float | str]
    anything: dict[str, Any]
    inner: Inner
    default: int = 7
    made: dict[str, int] = field(default_factory=dict)


GOOD = {
    "whole": 1,
    "real": 2,
    "text": "a",
    "truth": True,
    "maybe": None,
    "word": "one",
    "names": ["x", "y"],
    "table": {"a": 1, "b": 0.5, "c": "d"},
    "anything": {"deep": [{"er": None}]},
    "inner": {"numbers": [1, None]},
}


@pytest.mark.parametrize("source", [GOOD, OmegaConf.create(GOOD), json.loads(json.dumps(GOOD))])
def test_values_take_the_types_of_the_fields(source):
    built = build(Everything, source, "")
    assert built == Everything(
        whole=1,
        real=2.0,
        text="a",
        truth=True,
        maybe=None,
        word="one",
        names=("x", "y"),
        table={"a": 1, "b": 0.5, "c": "d"},
        anything={"deep": [{"er": None}]},
        inner=Inner((1.0, None)),
    )
    assert type(built.real) is float and type(built.table["a"]) is int
    assert built.default == 7 and built.made == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": "ten"}, "top.whole=ten: must be an integer"),
        ({"whole": 1.5}, "top.whole=1.5: must be an integer"),
        ({"whole": True}, "top.whole=True: must be an integer"),
        ({"whole": None}, "top.whole=None: must be an integer"),
        ({"whole": "???"}, "top.whole: missing; it needs a value"),
        ({"real": "fast"}, "top.real=fast: must be a number"),
        ({"real": False}, "top.real=False: must be a number"),
        ({"text": ["a"]}, "top.text=['a']: must be text"),
        ({"truth": 2}, "top.truth=2: must be true or false"),
        ({"maybe": "x"}, "top.maybe=x: must be an integer, or null"),
        ({"word": "three"}, "top.word=three: accepted: one, two"),
        ({"word": ["one"]}, "top.word=['one']: did you mean one? accepted: one, two"),
        ({"names": "x"}, "top.names=x: must be a list"),
        ({"names": ["x", None]}, "top.names.1=None: must be text"),
        ({"table": [1]}, "top.table=[1]: must be a group of named values"),
        ({"table": {"a": None}}, "top.table.a=None: must be text"),
        ({"inner": 3}, "top.inner=3: must be a group of named values"),
        ({"inner": {}}, "top.inner.numbers: missing; it needs a value"),
        ({"inner": {"numbers": [1, 2, 3]}}, "top.inner.numbers=[1.0, 2.0, 3.0]: at most two"),
        ({"inner": {"numbers": ["x"]}}, "top.inner.numbers.0=x: must be a number, or null"),
        ({"wole": 1}, "top.wole: no such key; did you mean whole or word? accepted: "),
    ],
)
def test_what_does_not_fit_is_refused_with_key_value_and_what_is_accepted(change, message):
    with pytest.raises(ConfigError) as refusal:
        build(Everything, GOOD | change, "top")
    assert str(refusal.value).startswith(message)


def test_words_of_the_command_line_are_converted():
    words = {"whole": "3", "real": "1e-3", "text": 2024, "truth": "off", "maybe": "4"}
    built = build(Everything, GOOD | words, "")
    assert (built.whole, built.real, built.text, built.truth, built.maybe) == (3, 1e-3, "2024", False, 4)


@pytest.mark.parametrize(
    "name", [name for name in (f.name for f in fields(Everything)) if name not in ("default", "made")]
)
def test_a_missing_value_is_named(name):
    with pytest.raises(ConfigError, match=f"^{name}: missing; it needs a value"):
        build(Everything, {key: value for key, value in GOOD.items() if key != name}, "")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_is_built_or_refused_with_anything_but_a_config_error(value):
    for name in GOOD:
        with suppress(ConfigError):
            build(Everything, GOOD | {name: value}, "")


def test_a_registry_is_asked_for_the_name():
    node = OmegaConf.create({"name": "inner", "numbers": [1]})
    assert build_named({"inner": Inner}, node, "thing") == Inner((1.0,))
    with pytest.raises(ConfigError, match=r"^thing\.name=iner: no such thing; did you mean inner\? accepted: inner$"):
        build_named({"inner": Inner}, OmegaConf.create({"name": "iner"}), "thing")
    with pytest.raises(ConfigError, match=r"^thing=.*: a group with a `name`"):
        build_named({"inner": Inner}, OmegaConf.create({"numbers": [1]}), "thing")


def test_long_lists_of_names_are_cut():
    names = [f"n{index:02}" for index in range(30)]
    assert nearest("n03x", names).endswith("accepted: n00, n01, n02, ..., n29, 30 names in all")
    assert nearest("?", names).count(", ") == 29


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("head.label_smothing", "did you mean head.label_smoothing? "),
        ("head.temperature", ""),
        ("training.lr", "did you mean optimizer.lr? "),
        ("lable", "did you mean label? "),
    ],
)
def test_the_group_of_a_key_is_no_likeness(name, hint):
    names = ["head.tau", "head.beta", "head.label_smoothing", "optimizer.lr", "training.warmup", "label"]
    assert nearest(name, names) == f"{hint}accepted: {', '.join(sorted(names))}"
