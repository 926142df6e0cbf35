"""Comparisons of pairs of arms: corrected by Holm as a family, and the same from either side."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headtohead.analysis.claims import judge
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import compare
from headtohead.analysis.verdicts import Comparison, decide, level_of_look
from headtohead.options import ConfigError
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


def raw_p(study, versus):
    """p-value of the two-way layout, from the tables and by formula."""
    final = pd.read_csv(study.folder / "results.csv").query("phase == 'confirm'")
    rows = pd.read_csv(study.folder / "blocks.csv").merge(final[["run", "arm", "seed"]], on="run")
    table = rows.pivot(index=["seed", "block"], columns="arm", values="test_accuracy")
    difference = (table["softmax"] - table[versus]).unstack("block")
    seeds, blocks = difference.shape
    of_seeds, of_blocks = difference.mean(axis=1).var() / seeds, difference.mean(axis=0).var() / blocks
    residual = difference.sub(difference.mean(axis=1), axis=0) - difference.mean(axis=0) + difference.to_numpy().mean()
    of_both = (residual**2).to_numpy().sum() / ((seeds - 1) * (blocks - 1)) / (seeds * blocks)
    variance = max(of_seeds + of_blocks - of_both, of_seeds, of_blocks)
    degrees = variance**2 / (of_seeds**2 / (seeds - 1) + of_blocks**2 / (blocks - 1))
    return 2 * stats.t.sf(abs(difference.to_numpy().mean()) / variance**0.5, degrees)


def test_the_family_is_corrected_by_holm(study):
    raw = sorted((raw_p(study, versus), versus) for versus in ARMS[1:])
    # The first look spends half of the level.
    expected, highest = {}, 0.0
    for place, (p, versus) in enumerate(raw):
        highest = expected[versus] = max(highest, min(1, 2 * (3 - place) * p))
    decided = decide(study, [question(versus) for versus in ARMS[1:]])
    assert [row.versus for row in decided] == list(ARMS[1:])
    for row in decided:
        assert row.p_corrected == pytest.approx(expected[row.versus])
        assert (row.decision == "better") == (row.p_corrected < 0.05)
    assert {row.decision for row in decided} == {"better", "undecided"}


def test_weights_share_the_level_and_weight_zero_takes_no_part(study):
    metrics = ("test_accuracy", "test_nll", "test_brier", "coupling")
    alone = {metric: decide(study, [question("sigmoid_mean", metric)])[0].p for metric in metrics}
    weights = (0.25, None, None, 0.0)
    family = [replace(question("sigmoid_mean", metric), weight=w) for metric, w in zip(metrics, weights, strict=True)]
    decided = {row.metric: row for row in decide(study, family)}
    shares = {"test_accuracy": 0.25, "test_nll": 0.375, "test_brier": 0.375}
    first = min(shares, key=lambda metric: alone[metric] / shares[metric])
    assert decided[first].p_corrected == pytest.approx(min(1, 2 * alone[first] / shares[first]))
    assert decided["coupling"].p_corrected == alone["coupling"]


def test_each_look_spends_a_part_of_the_level(study):
    (first,) = decide(study, [question("sigmoid_mean")])
    protocol = replace(study.record.protocol, looks=(3, 5, 10))
    third = replace(study, record=replace(study.record, protocol=protocol))
    (later,) = decide(third, [question("sigmoid_mean")])
    assert (first.confidence, later.confidence) == pytest.approx((1 - 0.05 / 2, 1 - 0.05 / 12))
    assert later.p_corrected == pytest.approx(min(1, 12 * later.p)) and first.p == later.p
    assert later.upper - later.lower > first.upper - first.lower
    assert sum(level_of_look(look) for look in range(1, 10**5)) == pytest.approx(0.05, rel=1e-4)


def test_what_is_undecided_says_what_would_decide_it(tmp_path):
    effects = {"sigmoid": {"test_accuracy": -0.002}}
    folder = make_study(tmp_path / "s", arms=ARMS[:2], effects=effects, claims={}, records=False)
    (row,) = decide(read_study(folder), [question("sigmoid", margin=0.0001)])
    assert row.decision == "undecided" and row.examples == 1800 and row.needs_examples is None
    assert row.outlook == f"20 seeds would decide it in about {100 * row.next_power:.0f} of 100 studies"
    rare = replace(row, next_power=0.004)
    assert rare.outlook == "20 seeds would hardly decide it: they do in fewer than 5 of 100 studies"


def with_blocks_that_favour(folder, arm, deviation):
    """Add to the accuracy of an arm on each block a number whose mean over blocks is zero."""
    by_block = np.random.default_rng(0).normal(0, deviation, 20)
    by_block -= by_block.mean()
    table = pd.read_csv(folder / "blocks.csv")
    chosen = table.run.str.contains(f"head={arm},")
    table.loc[chosen, "test_accuracy"] += by_block[table.block[chosen].astype(int)]
    table.to_csv(folder / "blocks.csv", index=False)


def test_what_more_seeds_cannot_decide_asks_for_more_test_examples(tmp_path):
    effects = {"sigmoid": {"test_accuracy": -0.008}}
    folder = make_study(tmp_path / "s", arms=ARMS[:2], effects=effects, claims={}, records=False)
    (before,) = decide(read_study(folder), [question("sigmoid", margin=0.001)])
    with_blocks_that_favour(folder, "sigmoid", 0.03)
    study = read_study(folder)
    (row,) = decide(study, [question("sigmoid", margin=0.001)])
    assert before.decision == "better" and row.decision == "undecided"
    assert row.difference == pytest.approx(before.difference)
    final = study.results.query("phase == 'confirm'").pivot(index="seed", columns="arm", values="test_accuracy")
    over_seeds = stats.ttest_rel(final.softmax, final.sigmoid).confidence_interval(0.975)
    assert over_seeds.high - over_seeds.low < (row.upper - row.lower) / 2
    # The standard error of endless seeds is that of the blocks; the power formula says how far it must shrink.
    error = 0.03 / 20**0.5
    needed = 1800 * (error * (stats.norm.isf(0.05 / 6 / 2) + stats.norm.isf(0.2)) / row.difference) ** 2
    assert needed / 2 < row.needs_examples < 4 * needed
    assert row.outlook == f"it needs more test examples, about {row.needs_examples:,}"


def test_a_comparison_without_the_runs_is_no_test_of_the_family(study):
    whole = question("sigmoid", margin=0.005)
    alone = decide(study, [whole])
    together = decide(study, [whole, question("sigmoid_mean", metric="test_charm"), question("tanh")])
    assert together[0] == alone[0] and alone[0].p_corrected == 2 * alone[0].p
    for row in together[1:]:
        assert (row.seeds, row.decision, row.outlook) == (0, "undecided", "")
        assert row.note.startswith("not judged: ") and np.isnan(row.p_corrected)


def test_without_a_margin_nothing_is_equivalent(study):
    (bounded,) = decide(study, [question("sigmoid_mean", margin=0.5)])
    (unbounded,) = decide(study, [question("sigmoid_mean")])
    assert bounded.decision == "equivalent" and unbounded.decision != "equivalent"
    assert np.isnan(unbounded.p_equivalence)
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


@pytest.mark.parametrize("content", ["", "run,block\na,0\n", "run,block,size,test_accuracy\na,0,1,high\n"])
def test_broken_blocks_of_a_published_study_are_named(tmp_path, content):
    folder = make_study(tmp_path / "s", claims={}, records=False)
    (folder / "blocks.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"blocks\.csv: "):
        decide(read_study(folder), [question("sigmoid")])


def test_without_blocks_an_interval_says_that_it_covers_seeds_alone(tmp_path):
    folder = make_study(tmp_path / "s", claims={}, records=False)
    (folder / "blocks.csv").unlink()
    (row,) = decide(read_study(folder), [question("sigmoid")])
    assert row.examples is None and "covers new seeds on these examples alone" in row.note
