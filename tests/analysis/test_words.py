"""Verdicts in plain words: every outcome, unit and direction."""

import math
from dataclasses import replace
from importlib.resources import files

import pytest
import yaml

from headtohead.analysis.pairing import DERIVED
from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.verdicts import Comparison
from headtohead.analysis.words import METRICS, chance, comparative, remark, sentence, short_name, unit_of
from headtohead.record.study import read_claims

BASE = Comparison(
    metric="test_nll", phase="confirm", direction="lower", margin=0.02, arm="softmax", versus="sigmoid", seeds=10,
    mean_arm=0.10, mean_versus=0.13, difference=-0.03, lower=-0.05, upper=-0.01, confidence=0.975, error=0.008,
    p=0.004, p_corrected=0.03, p_equivalence=0.9, decision="better",
)  # fmt: skip
SHARE = {"metric": "test_accuracy", "direction": "higher", "margin": 0.005}


def said(**changes):
    return sentence(replace(BASE, **changes))


def test_a_supported_claim_is_said_with_its_unit_and_how_often_chance_would_do_as_much():
    assert said() == (
        "Softmax has the lower test loss by 0.030 nats; a difference this large would show up by chance in 4 of 1,000 "
        "studies."
    )
    points = said(**SHARE, difference=0.0123, lower=0.008, upper=0.0166)
    assert points.startswith("Softmax has the higher test accuracy by 1.23 points; ")
    epochs = said(metric="epochs_to_target", difference=-2.5, lower=-3.5, upper=-1.5)
    assert epochs.startswith("Softmax needs fewer epochs to the target by 2.5 epochs; ")
    ratio = said(metric="backbone_cv", direction="lower", difference=-0.5, lower=-0.7, upper=-0.3)
    assert ratio.startswith("Softmax has the smaller variation of the gradient by 0.50; ")
    tiny = said(metric="mse", difference=-3e-8, lower=-4e-8, upper=-2e-8)
    assert tiny.startswith("Softmax has the lower mse by 3e\N{MINUS SIGN}08; ")
    assert said(metric="my_score", direction="higher", difference=0.5, lower=0.2, upper=0.8).startswith(
        "Softmax has the higher my score by 0.50; "
    )


def test_a_refuted_claim_names_the_arm_that_is_better_and_no_word_is_made_of_a_name():
    text = said(decision="worse", difference=0.03, lower=0.01, upper=0.05, versus="sigmoid_mean")
    assert text.startswith("sigmoid_mean, not softmax, has the lower test loss by 0.030 nats; ")


def test_what_arms_share_is_said_before():
    assert said(arm="iris,softmax", versus="iris,sigmoid").startswith("iris: softmax has the lower test loss by ")
    assert said(arm="lr=1", versus="lr=2").startswith("lr=1 has the lower test loss by ")


def test_equivalence_is_said_with_the_margin_and_what_is_real_but_small_too():
    equal = {"decision": "equivalent", "difference": 0.001, "lower": -0.003, "upper": 0.005, "p": 0.6}
    assert said(**equal, p_corrected=1.0) == (
        "Softmax and sigmoid are equivalent in test loss: the difference of 0.0010 nats is shown to be less than 0.02 "
        "nats."
    )
    real = {"decision": "equivalent", "difference": 0.004, "lower": 0.002, "upper": 0.006, "p_corrected": 0.01}
    assert said(**real) == (
        "Sigmoid has the lower test loss by 0.0040 nats, which is real but too little to matter: less than 0.02 nats."
    )
    one = said(**equal | {"p_corrected": 1.0, "metric": "epochs_to_target", "margin": 1.0})
    assert one.endswith("to be less than 1 epoch.")


def test_an_open_claim_says_who_is_ahead_and_whether_the_correction_alone_leaves_it_open():
    opened = {"decision": "undecided", "p_corrected": 1.0, "p": 0.35, "lower": -0.08, "upper": 0.02}
    assert said(**opened) == (
        "No difference in test loss was shown between softmax and sigmoid: softmax has the lower one by 0.030 nats, "
        "but a difference this large would show up by chance in 35 of 100 studies."
    )
    assert "sigmoid has the lower one by" in said(**opened | {"difference": 0.03, "lower": -0.02, "upper": 0.08})
    alone = said(**opened | {"p": 0.008, "p_corrected": 0.061})
    assert "in 8 of 1,000 studies, but this is not rare enough" in alone and "(p = 0.061 after" in alone
    assert said(**opened | {"metric": "diverged_share"}).startswith(
        "No difference in diverged runs was shown between softmax and sigmoid: softmax has fewer by 3.0 points, but"
    )
    assert said(**opened | {"difference": 0.0}).endswith("between softmax and sigmoid: they have the same mean.")


def test_what_was_not_judged_or_has_no_interval_claims_nothing():
    assert said(seeds=0, note="not judged: 1 pair", decision="undecided", difference=math.nan) == "Not judged: 1 pair."
    assert said(seeds=0, decision="undecided", difference=math.nan) == "Not judged."
    none = said(decision="undecided", **dict.fromkeys(["lower", "upper", "p", "p_corrected", "error"], math.nan))
    assert none.endswith("by 0.0300 nats, without an interval that would tell how sure this is.")


def test_arms_that_never_differ_are_said_to_be_the_same():
    same = {"decision": "undecided", "difference": 0.0, "lower": 0.0, "upper": 0.0, "error": 0.0, "p": 1.0}
    assert said(**same) == "Softmax and sigmoid have exactly the same test loss in all 10 pairs."


def test_a_fact_of_construction_has_no_chance():
    text = said(metric="coupling", direction="higher", difference=1.0, lower=1.0, upper=1.0, weight=0.0, p=0.0)
    assert text == "Softmax has the stronger coupling of the classes by 1.00; this follows from how the two are made."


def test_a_verdict_over_settings_says_over_how_many():
    row = AcrossSettings(
        **vars(BASE), claim="loss", sentence="", head="softmax", versus_head="sigmoid", context=(), settings=3, tau=0.1,
        predicted_lower=-0.3, predicted_upper=0.2,
    )  # fmt: skip
    assert sentence(row).startswith("Over 3 settings: softmax has the lower test loss by ")


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.0, "in fewer than 1 of 1,000 studies"), (0.00099, "in fewer than 1 of 1,000 studies"),
        (0.004, "in 4 of 1,000 studies"), (0.0994, "in 99 of 1,000 studies"), (0.0996, "in 10 of 100 studies"),
        (0.354, "in 35 of 100 studies"), (0.99, "in 99 of 100 studies"), (0.996, "in every study"),
        (1.0, "in every study"),
    ],
)  # fmt: skip
def test_a_p_value_is_a_count_of_studies(p, words):
    assert chance(p) == words


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"decision": "undecided", "p_corrected": 0.2}, "leaves out 0"),
        ({"decision": "undecided", "p_corrected": 0.2, "upper": 0.001}, ""),
        ({"decision": "undecided", "p_corrected": 0.2, "lower": -0.01, "upper": 0.001}, "within the margin"),
        ({"upper": 0.001}, "contains 0"),
        ({"decision": "equivalent", "p_corrected": 1.0, "upper": 0.01}, "two sides"),
        ({"decision": "equivalent", "p_corrected": 1.0, "lower": -0.01, "upper": 0.01}, ""),
        ({"decision": "undecided", "lower": math.nan, "upper": math.nan}, ""),
        ({"decision": "undecided", "p_corrected": 0.2, "margin": None}, "leaves out 0"),
    ],
)
def test_an_interval_that_seems_to_disagree_with_its_verdict_is_explained(changes, word):
    text = remark(replace(BASE, **changes))
    assert word in text and bool(word) == bool(text)


def test_every_metric_of_a_claim_has_words_and_a_meaning():
    folder = files("headtohead.configs") / "claims"
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.endswith(".yaml")]
    claims = read_claims({claim: fields for text in texts for claim, fields in yaml.safe_load(text).items()})
    assert {claim.metric for claim in claims.values()} | {*DERIVED} <= {*METRICS}
    assert all(words.meaning for words in METRICS.values())
    names = [short_name(claim.metric, claim.direction) for claim in claims.values()]
    assert len({*names}) == len(names), "claims have names of their own"
    assert short_name("test_nll", "lower") == "lower test loss"
    assert comparative("diverged_share", "lower") == "fewer diverged runs"
    assert [unit_of(metric) for metric in ("test_accuracy", "stalled", "gap_nll", "coupling")] == [
        "points", "points", "nats", "",
    ]  # fmt: skip
