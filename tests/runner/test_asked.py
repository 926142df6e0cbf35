"""Overrides as they were typed: refused with the key and what is accepted, or prepared for Hydra."""

import shlex
from pathlib import Path

import headtohead.configs
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from headtohead.options import ConfigError
from headtohead.runner.asked import GROUPS, options_of, prepare_overrides


def test_the_groups_are_those_of_the_configs():
    folders = {path.name for path in Path(headtohead.configs.__path__[0]).iterdir() if path.is_dir()}
    assert {name for name in folders if not name.startswith("_")} == {*GROUPS, "hydra"}


@pytest.mark.parametrize(
    "value", ["bü", "a#b", "b(x", "b)", "a b#", "\U0001f600", "a;b", "a&b", "x!", "<x>", "`x`", "^", 'a"b', "a'b", "${"]
)
def test_text_that_is_not_in_the_grammar_is_shown_with_the_quotes_that_it_needs(value):
    with pytest.raises(ConfigError) as refusal:
        prepare_overrides([f"dataset.root={value}"], None)
    first, hint = str(refusal.value).splitlines()
    assert first.startswith(f"dataset.root={value}: not in Hydra's grammar") and "Exception" not in first
    # What a shell makes of the line that is shown.
    (argument,) = shlex.split(hint.partition("quotes: ")[2])
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert override.value() == value


def test_of_swept_text_only_the_values_that_need_quotes_are_shown_with_them():
    with pytest.raises(ConfigError, match=r"""'[+]model.options.tag=a,"bü",c'$"""):
        prepare_overrides(["+model.options.tag=a,bü,c"], None)


@pytest.mark.parametrize("argument", ["ü=1", "seed", "", "a b=1"])
def test_what_quotes_do_not_help_is_refused_without_a_class_of_the_parser(argument):
    with pytest.raises(ConfigError, match="not in Hydra's grammar") as refusal:
        prepare_overrides([argument], None)
    assert "Exception" not in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2


@pytest.mark.parametrize("argument", ["=1", "~", "+=1"])
def test_an_override_names_a_key(argument):
    with pytest.raises(ConfigError, match=r"names no key|not in Hydra's grammar"):
        prepare_overrides([argument], None)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        prepare_overrides(["+model.options.tag='\udcff'"], None)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+experiment=digits", "leave the plus out: experiment=digits"),
        ("++experiment=digits", "leave the plus out: experiment=digits"),
        ("+dataset=iris", "leave the plus out: dataset=iris"),
        ("+model=mlp", "leave the plus out: model=mlp"),
        ("+head=softmax,sigmoid", "leave the plus out: head=softmax,sigmoid"),
        ("++optimizer=sgd", "leave the plus out: optimizer=sgd"),
        ("++claims=[accuracy]", "leave the plus out: claims=[accuracy]"),
        ("~model", "needs this group; choose an option by model=; accepted: cnn, factory"),
        ("~head", "needs this group; choose an option by head="),
        ("~dataset=digits", "needs this group"),
        ("~claims", "write claims=[]"),
        *((f"{group}={value}", "must name an option") for group in ("head", "model") for value in (
            "2", "[1.5]", "null", "true", "[[1]]", "[softmax]", "softmax,2", "[a],[b]", "3.5,{a:2}", "choice(1,a)",
        )),
        *((f"claims={value}", "accepted: accuracy") for value in ("2", "[2]", "null", "[accuracy,3]", "[[a]]")),
        *((f"experiment={value}", "accepted: capacity") for value in ("1", "[1]", "[[1]]", "{a:1}", "[digits,null]")),
        ("hydra=1", "must name an option of hydra"),
        ("hydra/launcher=1", "must name an option of hydra/launcher"),
    ],
)  # fmt: skip
def test_an_override_of_a_config_group_names_an_option(argument, message):
    with pytest.raises(ConfigError) as refusal:
        prepare_overrides([argument], None)
    assert str(refusal.value).startswith(f"{argument}: ") and message in str(refusal.value)


@pytest.mark.parametrize(
    "argument",
    [
        "head=softmax", "head='softmax'", "head=softmax,sigmoid", "head=glob(s*)", "experiment=null", "claims=[]",
        "experiment=[digits,ladder]", "claims=[accuracy,loss]", "claims=accuracy", "~experiment", "model={widths:[8]}",
        "+claims=mine", "+mine=3", "~mine", "head=choice(softmax)", "+group/mine=x", "hydra/launcher=basic",
    ],
)  # fmt: skip
def test_other_overrides_are_left_as_they_are(argument):
    assert prepare_overrides([argument], None) == [argument]


def test_options_of_a_swept_group_are_left_out_of_what_its_arms_share():
    arguments = ["head=sigmoid,sigmoid_mean", "head.reduction=sum", "model.widths=[8]", "~head.prior_bias", "headx=1"]
    prepared = ["head=sigmoid,sigmoid_mean", "head.reduction=choice(sum)", *arguments[2:]]
    assert prepare_overrides(arguments, None) == prepared


def test_own_options_are_listed(tmp_path):
    (tmp_path / "head").mkdir()
    (tmp_path / "head/mine.yaml").write_text("name: softmax")
    assert {"mine", "softmax"} <= {*options_of("head", str(tmp_path))}


@pytest.mark.parametrize("value", ["os.system", "null", "a,b"])
@pytest.mark.parametrize("group", ["sweeper", "launcher"])
def test_a_class_that_is_no_plugin_is_refused(group, value):
    with pytest.raises(ConfigError, match=rf"^hydra\.{group}\._target_=.*: no plugin of Hydra; "):
        prepare_overrides([f"hydra.{group}._target_={value}"], None)
    assert prepare_overrides([f"hydra.{group}._target_=hydra_plugins.mine.Mine"], None)
