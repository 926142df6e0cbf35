"""Verdicts across settings: against scipy, statsmodels, hand calculation and simulations whose truth is known."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from headtohead.analysis.claims import Verdict, judge
from headtohead.analysis.estimates import Crossed, Shares
from headtohead.analysis.settings import across_settings
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import summarise, verdicts_json
from headtohead.testing import ACCURACY, make_study

LEVEL = 0.05 / 2  # of the first look
NLL = ACCURACY | {"metric": "test_nll", "direction": "lower", "margin": 0.02}
CLAIMS = {
    "accuracy": ACCURACY | {"weight": 0.25},
    "nll": NLL | {"weight": 0.25},
    "brier": NLL | {"metric": "test_brier"},
}


def verdict(difference, error, claim="accuracy", versus="sigmoid", differences_SG=None, **fields):
    names = {"claim": claim, "sentence": claim, "metric": "test_accuracy", "phase": "confirm", "direction": "higher"}
    heads = {"head": "softmax", "versus_head": versus, "arm": "a", "versus": "b"}
    values = {"margin": 0.005, "seeds": 5, "context": (), "difference": difference, "error": error}
    return Verdict(**names | heads | values | fields, differences_SG=differences_SG)


def across(verdicts, looks=(5,)):
    claims = dict.fromkeys(row.claim for row in verdicts)
    study = SimpleNamespace(record=SimpleNamespace(protocol=SimpleNamespace(looks=looks), claims=claims))
    return across_settings(study, verdicts)


def interval(row):
    return row.lower, row.upper


def test_with_equal_errors_it_is_the_interval_of_hartung_and_knapp():
    differences, error = np.array([0.031, -0.012, 0.024, 0.052, 0.003]), 0.008
    (row,) = across([verdict(difference, error) for difference in differences])
    expected = combine_effects(differences, np.full(5, error**2), method_re="iterated", use_t=True, alpha=LEVEL)
    *_, hartung_knapp = expected.conf_int(alpha=LEVEL, use_t=True)
    assert row.difference == pytest.approx(expected.mean_effect_re)
    assert interval(row) == pytest.approx(hartung_knapp, rel=1e-4)
    assert row.tau == pytest.approx(expected.tau2**0.5, rel=1e-4)
    assert (row.settings, row.seeds, row.arm, row.versus, row.context) == (5, 25, "softmax", "sigmoid", ())
    assert row.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_the_interval_for_a_new_setting_is_that_of_one_more_difference():
    differences = np.array([0.2, 0.5, 0.1, 0.8])
    (row,) = across([verdict(difference, 1e-6) for difference in differences])
    half = stats.t.isf(LEVEL / 2, 3) * math.sqrt(differences.var(ddof=1) * (1 + 1 / 4))
    assert (row.predicted_lower, row.predicted_upper) == pytest.approx((0.4 - half, 0.4 + half))


def test_settings_that_agree_by_chance_keep_their_own_errors():
    errors = [0.01, 0.02, 0.04]
    (row,) = across([verdict(difference, error) for difference, error in zip((0.1, 0.1001, 0.1), errors, strict=True)])
    assert row.error == pytest.approx(math.sqrt(sum(error**2 for error in errors)) / 3)
    assert row.tau == 0
    assert row.upper - row.lower >= 2 * stats.norm.isf(LEVEL / 2) * row.error


def test_settings_that_share_test_examples_are_no_surer_than_these_examples():
    """Four models of the same errors on the same examples say as much as one of them."""
    rng = np.random.default_rng(0)
    shared_SG = 0.02 + rng.normal(size=20) * 0.1 + rng.normal(size=(8, 20)) * 1e-3
    alone = Crossed.over_seeds_and_blocks(0.02, shared_SG)
    others = [rng.normal(size=(8, 20)) * 0.1 for _ in range(4)]
    for tables, ratio in (([shared_SG] * 4, 1.0), (others, 0.5)):
        estimates = [Crossed.over_seeds_and_blocks(0.02, table) for table in tables]
        rows = [verdict(0.02, one.error, differences_SG=table) for one, table in zip(estimates, tables, strict=True)]
        (row,) = across(rows)
        assert row.error == pytest.approx(ratio * np.mean([one.error for one in estimates]), rel=0.15)
    (row,) = across([verdict(0.02, alone.error, differences_SG=shared_SG)] * 4)
    assert row.error == pytest.approx(alone.error)


def test_two_settings_have_one_degree_of_freedom_and_predict_nothing():
    (row,) = across([verdict(0.1, 0.05), verdict(0.11, 0.05)])
    error = math.sqrt(2 * 0.05**2) / 2
    assert (row.upper - row.lower) / 2 == pytest.approx(stats.t.isf(LEVEL / 2, 1) * error)
    assert math.isnan(row.predicted_lower) and math.isnan(row.predicted_upper)


def test_settings_without_variance_show_no_equivalence():
    (one,) = across([verdict(0.0, 0.0), verdict(0.001, 0.01), verdict(-0.002, 0.02)])
    assert one.error == pytest.approx(math.sqrt(0.01**2 + 0.02**2) / 3) and one.verdict == "inconclusive"
    (same,) = across([verdict(0.0, 0.0)] * 3)
    assert (same.p, same.p_equivalence, same.verdict, same.tau) == (1.0, 1.0, "inconclusive", 0.0)
    (spread,) = across([verdict(difference, 0.0) for difference in (0.1, 0.2, 0.3)])
    assert spread.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)


def test_shares_of_runs_have_an_error_even_where_no_run_has_the_property():
    assert Shares(0, 0, 10).error == pytest.approx(1 / 12)  # half a pair in each cell of the table
    (row,) = across([verdict(0.0, Shares(0, 0, 10).error, margin=0.05)] * 3)
    assert row.verdict == "inconclusive"


def test_the_claims_of_a_pair_of_heads_are_one_family():
    rng = np.random.default_rng(1)
    settings = [
        verdict(0.02 + rng.normal() * 0.01, 0.001, claim=claim, versus=versus, weight=weight)
        for claim, weight in (("accuracy", 0.25), ("nll", None), ("brier", None), ("coupling", 0.0))
        for versus in ("sigmoid", "sigmoid_mean")
        for _ in range(5)
    ]
    rows = across(settings, looks=(3, 5))
    assert [(row.claim, row.versus) for row in rows] == [
        (claim, versus) for claim in ("accuracy", "nll", "brier", "coupling") for versus in ("sigmoid", "sigmoid_mean")
    ]
    for versus in ("sigmoid", "sigmoid_mean"):
        family = {row.claim: row for row in rows if row.versus == versus}
        shares = {"accuracy": 0.25, "nll": 0.375, "brier": 0.375}
        first = min(shares, key=lambda claim: family[claim].p / shares[claim])
        assert family[first].p_corrected == pytest.approx(6 * family[first].p / shares[first])
        assert family["coupling"].p_corrected == family["coupling"].p
        assert all(row.confidence == pytest.approx(1 - 0.05 / 6) for row in family.values())
        assert all((row.verdict == "supported") == (row.p_corrected < 0.05) for row in family.values())


def test_what_is_not_judged_in_a_setting_is_left_out_and_said():
    unjudged = verdict(math.nan, math.nan, seeds=0, note="not judged: nothing")
    (row,) = across([verdict(0.1, 0.01), unjudged, verdict(0.2, 0.01)])
    assert row.settings == 2 and row.difference == pytest.approx(0.15)
    assert row.note == "not judged in 1 of 3 settings"
    assert across([verdict(0.1, 0.01), unjudged]) == []


@pytest.mark.parametrize("settings", [4, 8, 12])
def test_the_intervals_contain_the_truth_whatever_the_errors_of_the_settings(settings):
    """Of 300 studies, by seeds and blocks; errors of the settings differ by a factor of up to 100."""
    rng, studies, truth = np.random.default_rng(settings), 300, 0.3
    for tau in (0.0, 0.3, 1.0):
        covered = predicted = 0
        for _ in range(studies):
            true_differences = truth + tau * rng.normal(size=settings)
            rows = []
            for true in true_differences:
                scale = 10 ** rng.uniform(-1, 1)
                noise = rng.normal(size=(6, 1)) + rng.normal(size=(1, 10)) + rng.normal(size=(6, 10))
                table = true + scale * noise
                estimate = Crossed.over_seeds_and_blocks(float(table.mean()), table)
                rows.append(verdict(estimate.mean, estimate.error, differences_SG=table))
            (row,) = across(rows)
            covered += row.lower <= truth <= row.upper
            predicted += row.predicted_lower <= truth + tau * rng.normal() <= row.predicted_upper
        # At 97.5 %, fewer than 283 of 300 have a probability of 0.1 %.
        assert covered >= 283 and predicted >= 283, tau


def test_the_interval_covers_new_examples_where_all_settings_share_a_test_split():
    """Of 300 studies of 8 models on one dataset, whose errors on a block have half of their variance in common."""
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        of_examples = rng.normal(size=(1, 10))
        rows = []
        for _ in range(8):
            own = rng.normal(size=(1, 10)) + 0.5 * rng.normal(size=(6, 1)) + rng.normal(size=(6, 10))
            table = of_examples + own
            error = Crossed.over_seeds_and_blocks(float(table.mean()), table).error
            rows.append(verdict(float(table.mean()), error, differences_SG=table))
        (row,), (alone,) = across(rows), across([replace(row, differences_SG=None) for row in rows])
        covered += row.lower <= 0 <= row.upper
        naive += alone.lower <= 0 <= alone.upper
    assert covered >= 283 and naive < 270


SETTINGS = {"iris": -0.02, "wine": -0.022, "digits": -0.018, "breast_cancer": -0.02}


def several(folder, effects=SETTINGS, claims=CLAIMS, records=False, **options):
    """A study of datasets in which the sigmoid differs from softmax in accuracy by `effects`."""
    heads = ("softmax", "sigmoid")
    arms = {f"{data},{head}": [f"dataset={data}", f"head={head}"] for data in effects for head in heads}
    shifts = {f"{data},sigmoid": dict.fromkeys(("val_accuracy", "test_accuracy"), of) for data, of in effects.items()}
    return make_study(folder, arms=arms, effects=shifts, claims=claims, records=records, **options)


def test_a_study_of_several_settings_has_one_answer_above_those_of_its_settings(tmp_path):
    summary = summarise(several(tmp_path / "s"))
    assert [row.claim for row in summary.settings] == ["accuracy", "nll", "brier"]
    row = summary.settings[0]
    of_settings = [one.difference for one in summary.verdicts if one.claim == "accuracy"]
    assert row.difference == pytest.approx(np.mean(of_settings)) and row.verdict == "supported"
    answer = summary.answer
    assert answer.headline == 'Across 4 settings, "Softmax reaches better accuracy" is supported (against sigmoid).'
    accuracy, nll, first, *_ = answer.sentences
    assert accuracy.startswith("Over 4 settings: softmax has the higher test accuracy by ")
    assert "In a new setting softmax − sigmoid may lie in [" in accuracy and accuracy.endswith("] points.")
    assert nll.startswith("Over 4 settings: ") and "test loss" in nll
    assert first.startswith("dataset=iris: Use softmax")
    written = json.loads(verdicts_json(summary))
    assert [line["claim"] for line in written["settings"]] == ["accuracy", "nll", "brier"]
    assert written["settings"][0]["predicted_lower"] == pytest.approx(row.predicted_lower)
    assert written["claims"][0]["error"] == pytest.approx(summary.verdicts[0].error)


def test_a_study_of_one_setting_has_nothing_across_settings(tmp_path):
    summary = summarise(make_study(tmp_path / "s", claims=CLAIMS, records=False))
    assert summary.settings == [] and json.loads(verdicts_json(summary))["settings"] == []
    assert "cross" not in summary.answer.headline


def test_settings_may_differ_in_their_numbers_of_classes_and_of_blocks(tmp_path):
    folder = several(tmp_path / "s", {"iris": -0.02, "wine": -0.02, "digits": -0.02})
    study = json.loads((folder / "study.json").read_text())
    study["num_classes"] |= {"iris,softmax": 3, "iris,sigmoid": 3, "wine,softmax": 2, "wine,sigmoid": 2}
    (folder / "study.json").write_text(json.dumps(study))
    blocks = pd.read_csv(folder / "blocks.csv")
    kept = ~blocks.run.str.contains("dataset=iris") | (blocks.block < 10)
    blocks[kept].to_csv(folder / "blocks.csv", index=False)
    study = read_study(folder)
    rows = judge(study)
    assert {row.differences_SG.shape for row in rows if row.claim == "accuracy"} == {(10, 10), (10, 20)}
    accuracy = next(row for row in across_settings(study, rows) if row.claim == "accuracy")
    assert accuracy.settings == 3 and accuracy.verdict == "supported"


def test_null_studies_of_several_settings_are_rarely_decided(tmp_path):
    twins = {f"{data},{head}": [f"dataset={data}", f"head={head}"] for data in "abcd" for head in ("softmax", "twin")}
    tested = {claim: fields | {"margin": 1e-6} for claim, fields in CLAIMS.items() if claim != "brier"}
    decided = 0
    for index in range(24):
        study = read_study(
            make_study(tmp_path / "s", arms=twins, claims=tested, seeds=5, tuned=False, records=False, seed=index)
        )
        decided += any(row.verdict in ("supported", "refuted") for row in across_settings(study, judge(study)))
    # At a rate of 5 %, five and more of 24 have a probability of 1 %.
    assert decided < 5


def test_verdicts_from_the_other_side_have_the_same_error():
    row = verdict(0.1, 0.01, differences_SG=np.ones((2, 2)))
    other = row.from_other_side()
    assert other.error == row.error and (other.differences_SG == -1).all()
    assert replace(row, differences_SG=None) == row
