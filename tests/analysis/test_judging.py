"""Verdicts on runs of others, held against scipy, statsmodels and hand calculation."""

import math
import time
from decimal import Decimal
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from headtohead.analysis.judging import judge_runs
from headtohead.analysis.runs import Asked, Metric, check_runs
from headtohead.options import ConfigError

ACCURACY = Metric("accuracy", 0.005, "higher")
LOSS = Metric("loss", 0.02, "lower")
ASKED = Asked("head", "seed", (ACCURACY,))


def table(effects, seeds=10, metrics=("accuracy", "loss"), spread=0.01, settings=(None,)):
    """Return runs whose arms differ by `effects`, a number for each arm."""
    rng = np.random.default_rng(0)
    rows = []
    for setting, seed in product(settings, range(seeds)):
        shared = rng.normal(0, 0.05)
        for arm, effect in effects.items():
            row = {"head": arm, "seed": seed, "dataset": setting}
            row |= {metric: 0.8 + shared + effect + rng.normal(0, spread) for metric in metrics}
            rows.append(row)
    return pd.DataFrame(rows)


def judge(frame, asked=ASKED, scores=None):
    return judge_runs(frame, asked, "runs.csv", scores)


def paired(frame, metric="accuracy", arm="a", versus="b"):
    values = frame.pivot(index="seed", columns="head", values=metric)
    return values[arm].to_numpy(), values[versus].to_numpy()


def test_a_verdict_is_the_paired_t_test_of_scipy():
    frame = table({"a": 0.0, "b": 0.004}).sample(frac=1, random_state=0)
    (row,) = judge(frame, Asked("head", "seed", (ACCURACY,), against="a")).verdicts
    test = stats.ttest_rel(*paired(frame))
    # The first look has half of the level.
    interval = test.confidence_interval(0.975)
    assert (row.arm, row.versus, row.seeds) == ("a", "b", 10)
    assert row.p == pytest.approx(test.pvalue) and row.confidence == 0.975
    assert (row.lower, row.upper) == pytest.approx((interval.low, interval.high))
    assert row.difference == pytest.approx(np.mean(np.subtract(*paired(frame))))
    difference = np.subtract(*paired(frame))
    sides = [
        stats.ttest_1samp(difference, bound, alternative=side).pvalue
        for bound, side in ((-0.005, "greater"), (0.005, "less"))
    ]
    assert row.p_equivalence == pytest.approx(min(1, 2 * max(sides)))


def test_metrics_are_one_family_corrected_by_holm_for_each_pair_of_arms():
    frame = table({"a": 0.0, "b": 0.01, "c": -0.012}, metrics=("accuracy", "loss", "time"))
    metrics = (ACCURACY, LOSS, Metric("time", 0.001, "lower"))
    verdicts = judge(frame, Asked("head", "seed", metrics)).verdicts
    assert [(row.claim, row.versus) for row in verdicts] == [*product(("accuracy", "loss", "time"), ("b", "c"))]
    for versus in ("b", "c"):
        rows = [row for row in verdicts if row.versus == versus]
        tests = [stats.ttest_rel(*paired(frame, row.metric, "a", versus)).pvalue for row in rows]
        corrected = multipletests(tests, method="holm")[1]
        assert [row.p_corrected for row in rows] == pytest.approx(np.minimum(2 * corrected, 1))


@pytest.mark.parametrize(
    ("effect", "decision", "winner"),
    [(0.05, "winner", "b"), (-0.05, "winner", "a"), (0.0, "equivalent", None), (0.004, "undecided", None)],
)
def test_the_answer_names_what_the_primary_metric_decides(effect, decision, winner):
    spread = 0.001 if decision == "equivalent" else 0.02
    answer = judge(table({"a": 0.0, "b": effect}, spread=spread)).answer
    assert (answer.decision, answer.winner) == (decision, winner)
    if winner:
        loser = {"a": "b", "b": "a"}[winner]
        assert f"By accuracy, {winner} is better than {loser}: {winner} minus {loser} is +" in answer.headline
    assert "cover new runs on these test examples alone: the verdict holds for this test split" in answer.sentences[-1]


def test_lower_is_better_where_the_metric_says_so():
    frame = table({"a": 0.0, "b": 0.05})
    assert judge(frame, Asked("head", "seed", (LOSS,))).answer.winner == "a"
    assert judge(frame).answer.winner == "b"


def test_of_several_arms_one_wins_only_if_it_beats_all():
    answer = judge(table({"a": 0.0, "b": -0.05, "c": -0.05})).answer
    assert (answer.decision, answer.winner) == ("winner", "a")
    mixed = judge(table({"a": 0.0, "b": -0.05, "c": 0.05})).answer
    assert (mixed.decision, mixed.winner) == ("undecided", None)
    assert mixed.headline == "By accuracy, a is better than b; worse than c."
    named = judge(table({"a": 0.0, "b": -0.05, "c": 0.05}), Asked("head", "seed", (ACCURACY,), against="c")).answer
    assert named.headline == "By accuracy, c is better than a and b."


def scored(seeds=4, examples=7, arms=("a", "b")):
    """Return scores per example, shuffled, and the runs whose metrics are their means."""
    rng = np.random.default_rng(1)
    keys = pd.DataFrame([*product(arms, range(seeds), range(examples))], columns=["head", "seed", "example"])
    scores = keys.assign(score=0.1 * rng.normal(size=len(keys)) + keys.example / 100 + (keys["head"] == "a") * 0.03)
    runs = scores.groupby(["head", "seed"], as_index=False).score.mean().rename(columns={"score": "accuracy"})
    return runs, scores.sample(frac=1, random_state=0)


def test_scores_give_the_crossed_interval_computed_by_hand():
    runs, scores = scored(seeds=3, examples=40)
    (row,) = judge(runs, scores=scores).verdicts
    # Blocks are of one size, at random.
    checked = check_runs(runs, ASKED, "runs.csv", scores).scores
    assert checked.sizes[""].tolist() == [2] * 20
    values = scores.pivot_table(index="seed", columns=["head", "example"], values="score")
    blocks = checked.on_blocks("accuracy", "", "a", ["0", "1", "2"])
    assert blocks.mean(1) == pytest.approx(values["a"].mean(axis=1).to_numpy())
    pairs_of_examples = [[(values["a"][i] + values["a"][j]).loc[0] / 2 for j in range(40) if j != i] for i in range(40)]
    assert all(any(np.isclose(block, means).any() for means in pairs_of_examples) for block in blocks[0])

    difference = blocks - checked.on_blocks("accuracy", "", "b", ["0", "1", "2"])
    seeds, count = difference.shape
    mean = difference.mean()
    over_seeds = ((difference.mean(1) - mean) ** 2).sum() / (seeds - 1) / seeds
    over_blocks = ((difference.mean(0) - mean) ** 2).sum() / (count - 1) / count
    residual = difference - difference.mean(1, keepdims=True) - difference.mean(0) + mean
    both = over_seeds + over_blocks - (residual**2).sum() / ((seeds - 1) * (count - 1)) / (seeds * count)
    variance = max(both, over_seeds, over_blocks)
    degrees = variance**2 / (over_seeds**2 / (seeds - 1) + over_blocks**2 / (count - 1))
    expected = stats.t.interval(0.975, degrees, mean, math.sqrt(variance))
    assert (row.lower, row.upper) == pytest.approx(expected) and row.examples == 40


def test_the_answer_says_that_intervals_cover_new_examples():
    runs, scores = scored(seeds=3, examples=40)
    last = judge(runs, scores=scores).answer.sentences[-1]
    assert "crossed with 40 test examples: they cover new runs and new examples" in last


def test_shares_of_few_discordant_examples_are_never_sure():
    """Scores of 0 and 1 that never differ have no spread, and still an error."""
    keys = pd.DataFrame([*product("ab", range(3), range(100))], columns=["head", "seed", "example"])
    scores = keys.assign(score=(keys.example % 10 > 0) * 1.0)
    scores.loc[(keys["head"] == "b") & (keys.example == 1) & (keys.seed == 0), "score"] = 0.0
    runs = scores.groupby(["head", "seed"], as_index=False).score.mean().rename(columns={"score": "accuracy"})
    (row,) = judge(runs, scores=scores).verdicts
    assert row.error > 0.009 and row.decision == "undecided"


def test_settings_are_joined_as_random_effects():
    frame = table({"a": 0.0, "b": -0.03}, settings=("x", "y", "z"))
    summary = judge(frame, Asked("head", "seed", (ACCURACY, LOSS), settings=("dataset",)))
    row = summary.settings[0]
    means = [np.subtract(*paired(rows)).mean() for _, rows in frame.groupby("dataset")]
    assert row.settings == 3 and row.difference == pytest.approx(np.mean(means))
    assert [verdict.arm for verdict in summary.verdicts if verdict.claim == "accuracy"] == ["x,a", "y,a", "z,a"]
    assert summary.answer.headline.startswith("Across 3 settings, by accuracy, a is better than b: a minus b is +")
    assert summary.answer.winner == "a"
    assert any(sentence.startswith("In a new setting like these a minus b") for sentence in summary.answer.sentences)


def test_an_arm_that_a_setting_lacks_is_not_judged_there():
    frame = table({"a": 0.0, "b": -0.03, "c": 0.0}, settings=("x", "y"))
    frame = frame[(frame["head"] != "c") | (frame.dataset == "x")]
    summary = judge(frame, Asked("head", "seed", (ACCURACY,), settings=("dataset",)))
    assert {(row.arm, row.versus) for row in summary.verdicts} == {("x,a", "x,b"), ("x,a", "x,c"), ("y,a", "y,b")}
    assert [(row.versus, row.settings) for row in summary.settings] == [("b", 2)]


def test_accuracies_in_percent_are_not_shown_as_shares():
    frame = table({"a": 0.0, "b": 0.05})
    frame.accuracy *= 100
    summary = judge(frame, Asked("head", "seed", (Metric("accuracy", 0.5, "higher"),)))
    (row,) = summary.verdicts
    assert row.metric == "accuracy, %" and 4 < -row.difference < 6
    assert "points" not in str(summary.answer)


def test_arms_that_are_the_same_run_by_run_are_said_to_be():
    frame = table({"a": 0.0, "b": 0.0})
    frame.loc[frame["head"] == "b", "accuracy"] = frame.accuracy[frame["head"] == "a"].to_numpy()
    summary = judge(frame)
    assert "is the same run by run" in summary.answer.headline and summary.answer.decision == "none"
    # A difference without any spread is no evidence either: a table may round.
    frame.loc[frame["head"] == "b", "accuracy"] += 0.01
    summary = judge(frame, Asked("head", "seed", (ACCURACY, LOSS)))
    assert "differs by -0.01 in each of 10 pairs" in summary.answer.headline
    assert [row.seeds for row in summary.verdicts] == [0, 10]


@pytest.mark.parametrize("name", ["seed", "lr", "wall_s", "run", "phase", "status", "steps"])
def test_a_metric_may_be_called_like_a_column_of_a_study(name):
    frame = table({"a": 0.0, "b": 0.004}).rename(columns={"seed": "rep", "accuracy": name})
    (row,) = judge(frame, Asked("head", "rep", (Metric(name, 0.005, "higher"),))).verdicts
    values = frame.pivot(index="rep", columns="head", values=name)
    assert row.metric == name and row.p == pytest.approx(stats.ttest_rel(values.a, values.b).pvalue)


def test_metrics_of_one_short_name_are_refused():
    frame = table({"a": 0.0, "b": 0.004}).rename(columns={"accuracy": "val.x", "loss": "x"})
    frame = frame.rename(columns={"val.x": "metrics.x"})
    metrics = (Metric("metrics.x", 0.1, "higher"), Metric("x", 0.1, "higher"))
    with pytest.raises(ConfigError, match="would be a second x"):
        judge(frame, Asked("head", "seed", metrics))


CELLS = {
    "nullable": lambda values: pd.array(values, dtype="Float64"),
    "arrow": lambda values: pd.array(values, dtype="double[pyarrow]"),
    "text": lambda values: [*map(repr, values)],
    "categories": lambda values: pd.Categorical([*map(repr, values)]),
    "decimals": lambda values: [*map(Decimal, values)],
    "arrays": lambda values: pd.Series([np.array(value) for value in values], dtype=object),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_number_is_read_from_every_kind_of_cell(kind):
    frame = table({"a": 0.0, "b": 0.004})
    expected = judge(frame).verdicts[0]
    cells = CELLS[kind]([*map(float, frame.accuracy)])
    row = judge(frame.assign(accuracy=cells, head=frame["head"].astype("category"))).verdicts[0]
    assert (row.p, row.difference) == pytest.approx((expected.p, expected.difference))


@pytest.mark.parametrize(
    "cells",
    [
        pd.date_range("2020", periods=20),
        pd.to_timedelta(range(20), unit="s"),
        pd.period_range("2020", periods=20, freq="D"),
        np.arange(20) * 1j,
        pd.Series([[1]] * 20, dtype=object),
    ],
    ids=["dates", "durations", "periods", "complex numbers", "lists"],
)
def test_what_is_no_number_is_refused(cells):
    with pytest.raises(ConfigError, match="is no number"):
        judge(table({"a": 0.0, "b": 0.004}).assign(accuracy=cells))


@pytest.mark.parametrize("kind", [bool, str, "boolean", "bool[pyarrow]"])
def test_what_is_so_counts_as_one(kind):
    frame = table({"a": 0.0, "b": 0.0}, seeds=12)
    solved = frame.accuracy > frame.accuracy.median()
    row = judge(frame.assign(accuracy=solved.astype(kind))).verdicts[0]
    assert row.mean_arm == pytest.approx(solved[frame["head"] == "a"].mean())


def test_a_number_that_has_overflowed_is_none():
    frame = table({"a": 0.0, "b": 0.004})
    frame.loc[0, "accuracy"] = 1e300
    summary = judge(frame)
    assert summary.verdicts[0].seeds == 9
    assert any("no finite value in row 0" in check.text for check in summary.checks)


def test_a_run_that_is_left_out_needs_no_scores():
    runs, scores = scored(seeds=4)
    runs.loc[0, "accuracy"] = math.nan
    runs = pd.concat([runs, pd.DataFrame({"head": ["a"], "seed": [9], "accuracy": [0.5]})], ignore_index=True)
    row = judge(runs, scores=scores[(scores["head"] != "a") | (scores.seed != 0)]).verdicts[0]
    assert row.seeds == 3 and row.examples == 7


def test_scores_whose_mean_is_zero_are_those_of_their_run():
    runs, scores = scored(seeds=4)
    scores = scores.assign(score=scores.score - scores.groupby(["head", "seed"]).score.transform("mean"))
    runs = runs.assign(accuracy=0.0)
    runs.loc[0, "accuracy"] = 1e-12
    assert np.abs(scores.groupby(["head", "seed"]).score.mean()).max() > 0
    assert judge(runs, scores=scores).verdicts[0].metric == "accuracy"


def test_a_run_with_an_unknown_state_hides_no_crash():
    frame = table({"a": 0.0, "b": 0.004}).assign(State="finished")
    frame.loc[[0, 3], "State"] = ["crashed", None]
    summary = judge(frame)
    assert summary.verdicts[0].seeds == 9 and any("1 run did not end" in check.text for check in summary.checks)


def test_many_rows_are_matched_in_seconds():
    """Each row is looked up once, not once for each row."""
    frame = table({"a": 0.0, "b": 0.004}, seeds=20_000)
    started = time.perf_counter()
    assert judge(frame).verdicts[0].seeds == 20_000
    assert time.perf_counter() - started < 10


def test_looks_share_the_level():
    frame = table({"a": 0.0, "b": 0.01})
    rows = [judge(frame, Asked("head", "seed", (ACCURACY,), look=look)).verdicts[0] for look in (1, 2)]
    assert [row.confidence for row in rows] == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 6])
    assert rows[1].p_corrected == pytest.approx(3 * rows[0].p_corrected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy:0.005", Metric("accuracy", 0.005, "higher")),
        ("val_top1:1", Metric("val_top1", 1.0, "higher")),
        ("nll:0.02:lower", Metric("nll", 0.02, "lower")),
        ("test/loss:2e-2", Metric("test/loss", 0.02, "lower")),
        ("score:0.1:lower", Metric("score", 0.1, "lower")),
        ("bleu:1:2", Metric("bleu:1", 2.0, "higher")),
        ("foo:0.1:higher", Metric("foo", 0.1, "higher")),
    ],
)
def test_a_metric_is_read_from_text(text, expected):
    assert Metric.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy", "the margin"),
        ("accuracy:", "the margin"),
        (":0.1", "accepted: NAME:MARGIN"),
        ("accuracy:big", "'big' is no number"),
        ("accuracy:0", "must be a positive number"),
        ("accuracy:-0.1", "must be a positive number"),
        ("accuracy:nan", "must be a positive number"),
        ("accuracy:inf", "must be a positive number"),
        ("accuracy:0.1:hihger", "did you mean higher"),
        ("foo:0.1", "write foo:0.1:higher or foo:0.1:lower"),
        ("accuracy_error:0.1", "write accuracy_error:0.1:higher"),
    ],
)
def test_a_metric_that_is_none_is_refused(text, said):
    with pytest.raises(ConfigError) as error:
        Metric.parse(text)
    assert said in str(error.value) and "\n" not in str(error.value)
