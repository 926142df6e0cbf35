"""Comparisons of pairs of arms: corrected by Holm as a family, and the same from either side."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headtohead.analysis.claims import judge
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import compare
from headtohead.analysis.verdicts import Comparison, decide
from headtohead.testing import ACCURACY, make_study

ARMS = ("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean")


def question(versus, metric="test_accuracy", direction="higher", margin=None):
    names = {"metric": metric, "direction": direction, "margin": margin}
    return Comparison(**names, phase="final", arm="softmax", versus=versus)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three arms behind the first, by less and less."""
    effects = {arm: {"test_accuracy": -shift} for arm, shift in zip(ARMS[1:], (0.02, 0.004, 0.0025), strict=True)}
    folder = tmp_path_factory.mktemp("outputs") / "s"
    return read_study(make_study(folder, arms=ARMS, effects=effects, claims={}, records=False))


def sign_flips(study, versus):
    """p-value by scipy's enumeration of the signs."""
    final = pd.read_csv(study.folder / "results.csv").query("phase == 'confirm'")
    table = final.pivot(index="seed", columns="arm", values="test_accuracy")
    differences = (table["softmax"] - table[versus]).to_numpy()
    return stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue


def test_the_family_is_corrected_by_holm(study):
    raw = sorted((sign_flips(study, versus), versus) for versus in ARMS[1:])
    assert 3 * raw[0][0] < 0.05 and raw[1][0] < 0.05
    expected, highest = {}, 0.0
    for place, (p, versus) in enumerate(raw):
        highest = expected[versus] = max(highest, min(1, (3 - place) * p))
    decided = decide(study, [question(versus) for versus in ARMS[1:]])
    assert [row.versus for row in decided] == list(ARMS[1:])
    for row in decided:
        assert row.p_corrected == pytest.approx(expected[row.versus])
        assert (row.decision == "better") == (row.p_corrected < 0.05)
    # Bonferroni's correction would leave open what Holm's decides.
    assert any(row.decision == "better" and 3 * row.p > 0.05 for row in decided)


def test_a_comparison_without_the_runs_is_no_test_of_the_family(study):
    whole = question("sigmoid", margin=0.005)
    alone = decide(study, [whole])
    together = decide(study, [whole, question("sigmoid_mean", metric="test_charm"), question("tanh")])
    assert together[0] == alone[0] and alone[0].p_corrected == alone[0].p
    for row in together[1:]:
        assert (row.seeds, row.decision, row.more_seeds) == (0, "undecided", None)
        assert row.note.startswith("not judged: ") and np.isnan(row.p_corrected)


def test_without_a_margin_nothing_is_equivalent(study):
    (bounded,) = decide(study, [question("sigmoid_mean", margin=0.5)])
    (unbounded,) = decide(study, [question("sigmoid_mean")])
    assert bounded.decision == "equivalent" and unbounded.decision != "equivalent"
    assert np.isnan(unbounded.p_equivalence) and unbounded.more_seeds is None
    assert (unbounded.difference, unbounded.p) == (bounded.difference, bounded.p)


def test_the_direction_says_which_difference_is_better(study):
    for direction, decision in (("higher", "better"), ("lower", "worse")):
        (row,) = decide(study, [question("sigmoid", direction=direction)])
        assert row.difference > 0 and row.decision == decision


def test_a_comparison_from_the_other_side_is_that_of_the_swapped_arms(study):
    (row,) = decide(study, [question("sigmoid", margin=0.005)])
    (swapped,) = decide(study, [replace(question("softmax", margin=0.005), arm="sigmoid")])
    assert row.from_other_side() == swapped and row.decision == "better" and swapped.decision == "worse"


def test_an_answer_takes_what_a_claim_has_decided_whatever_its_direction(tmp_path):
    effects = {"sigmoid": {"test_accuracy": -0.02}}
    contrary = {"contrary": ACCURACY | {"direction": "lower", "favours": "sigmoid"}}
    study = read_study(make_study(tmp_path / "s", claims=contrary, effects=effects, records=False))
    (verdict,) = judge(study)
    assert (verdict.arm, verdict.verdict) == ("sigmoid", "supported")
    (row,) = compare(study, [verdict], "softmax", "test_accuracy")
    assert row.decision == "better" and row.difference == -verdict.difference
