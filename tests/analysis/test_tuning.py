"""What a study shows of its tuning, against brute force, statsmodels and hand calculation."""

import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from headtohead.analysis.checks import run_checks
from headtohead.analysis.claims import applicable, judge
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import summarise
from headtohead.analysis.tuning import (
    AtEnd,
    chosen_trials,
    expected_best,
    explained,
    importances,
    place,
    side_of,
    trials_of,
    unequal_spaces,
    wider,
)
from headtohead.record.files import to_json
from headtohead.record.study import Range, Trial
from headtohead.testing import configured_claims, make_study

RATE, WARMUP, WARM = Range(0.001, 1, True), Range(0, 0.3, False), Range(0.5, 2, True)
SPACE = {"optimizer.lr": RATE, "training.warmup": WARMUP, "head.temperature": WARM}
STABILITY = {name: vars(claim) for name, claim in configured_claims().items() if name.startswith("stability")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two arms of which one has no temperature; the rate matters, and the warm-up in its middle."""
    return make_study(
        tmp_path_factory.mktemp("tuning") / "study",
        seeds=4,
        space=SPACE,
        trials=24,
        optima={"training.warmup": 0.5},
        lacks={"sigmoid": ["head.temperature"]},
        effects={"sigmoid": {"val_accuracy": -0.01}},
        records=False,
    )


def edited(study, change):
    """Return a study whose results.csv was changed."""
    path = study / "results.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    return read_study(study)


# The expected best of n trials


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("values", [[0.3, 0.9, 0.5, 0.1, 0.7, 0.2], [0.5, 0.5, 0.9, 0.1], [0.4]])
def test_the_best_of_n_trials_is_that_of_all_subsets(values, higher):
    curve = expected_best(np.array(values), higher)
    assert [*curve.index] == [*range(1, len(values) + 1)]
    for n in curve.index:
        best = [(max if higher else min)(subset) for subset in combinations(values, n)]
        assert curve["mean"][n] == pytest.approx(np.mean(best))
        lower, upper = (np.quantile(best, share, method="inverted_cdf") for share in (0.1, 0.9))
        # By symmetry the percentiles of losses come from above.
        if not higher:
            lower, upper = (-np.quantile(np.negative(best), share, method="inverted_cdf") for share in (0.9, 0.1))
        assert (curve.lower[n], curve.upper[n]) == (lower, upper)


def test_the_best_of_few_of_many_trials_is_that_of_drawing_with_replacement():
    values = np.sort(np.random.default_rng(0).random(3000))
    curve = expected_best(values, True)
    for n in (1, 2, 5, 20):
        # Dodge et al. (2019): P(max <= v) is the n-th power of the share of trials at most v.
        below = (np.arange(1, len(values) + 1) / len(values)) ** n
        assert curve["mean"][n] == pytest.approx((np.diff(below, prepend=0) * values).sum(), abs=1e-3)
    assert curve["mean"][3000] == curve.lower[3000] == curve.upper[3000] == values[-1]


def test_a_trial_counts_by_its_mean_over_the_seeds_of_the_search(study):
    table = pd.read_csv(study / "results.csv")
    search = table[(table.phase == "search") & (table.arm == "softmax")]
    trials = trials_of(read_study(study), "softmax", "val_nll").set_index("trial").sort_index()
    assert len(trials) == 24
    pd.testing.assert_series_equal(trials.value, search.groupby("trial").val_nll.mean(), check_names=False)
    pd.testing.assert_series_equal(
        trials["training.warmup"], search.groupby("trial")["training.warmup"].first(), check_names=False
    )


def test_under_halving_a_trial_counts_by_the_first_seed(tmp_path):
    halved = make_study(tmp_path / "s", seeds=4, space=SPACE, trials=8, search="halving", records=False)
    table = pd.read_csv(halved / "results.csv")
    first = table[(table.phase == "search") & (table.arm == "sigmoid") & (table.seed == 0)]
    trials = trials_of(read_study(halved), "sigmoid", "val_accuracy").set_index("trial")
    assert trials.value.to_dict() == pytest.approx(first.set_index("trial").val_accuracy.to_dict())


def test_diverged_runs_of_a_trial_count_as_a_guess_and_failed_ones_not_at_all(tmp_path):
    whole = make_study(tmp_path / "s", seeds=3, space=SPACE, trials=8, claims={}, records=False)

    def worse(table):
        search = (table.phase == "search") & (table.arm == "softmax")
        first, second = (search & (table.trial == 1) & (table.seed == seed) for seed in (0, 1))
        table = table.assign(val_accuracy=table.val_accuracy.mask(first, 0.1).mask(second))
        return table.assign(status=table.status.mask(first, "diverged").mask(second, "failed"))

    rest = edited(whole, worse)
    table = rest.searched[(rest.searched.arm == "softmax") & (rest.searched.trial == 1)].set_index("seed")
    trials = trials_of(rest, "softmax", "val_accuracy").set_index("trial")
    assert trials.value[1] == pytest.approx((0.1 + table.val_accuracy[2]) / 2)


# Chosen trials and spaces


def test_an_arm_has_a_row_for_each_trial_that_a_criterion_chooses(tmp_path):
    both = make_study(
        tmp_path / "s", seeds=4, space=SPACE, trials=24, best_lr_of_nll=0.005, records=False,
        lacks={"sigmoid": ["head.temperature"]},
    )  # fmt: skip
    study = read_study(both)
    rows = chosen_trials(study)
    assert [(row.arm, row.criteria) for row in rows] == [
        (arm, (criterion,)) for arm in ("softmax", "sigmoid") for criterion in ("val_accuracy", "val_nll")
    ]
    table = pd.read_csv(both / "results.csv")
    for row in rows:
        assert row.trial == study.best_by(row.criteria[0])[row.arm]
        search = table[(table.phase == "search") & (table.arm == row.arm) & (table.trial == row.trial.number)]
        assert row.settings == {key: search[key].iloc[0] for key in row.settings}
        assert {*row.settings} == {*SPACE} - ({"head.temperature"} if row.arm == "sigmoid" else set())
        assert row.val_nll.mean == pytest.approx(search.val_nll.mean())
        half = stats.sem(search.val_accuracy) * stats.t.ppf(0.975, 3)
        assert row.val_accuracy.half_width == pytest.approx(half)


def test_one_trial_by_all_criteria_is_one_row(study):
    assert [row.criteria for row in chosen_trials(read_study(study))] == [("val_accuracy", "val_nll")] * 2


def test_arms_with_more_settings_are_named(study, tmp_path):
    assert unequal_spaces(read_study(study)) == (
        "softmax has one setting more than the others (head.temperature) for the same number of trials."
    )
    arms, lacking = ("a", "b", "c"), {"c": ["head.temperature", "training.warmup"]}
    three = make_study(tmp_path / "s", arms=arms, seeds=2, space=SPACE, lacks=lacking, claims={}, records=False)
    assert unequal_spaces(read_study(three)) == (
        "a and b have two settings more than the others (training.warmup and head.temperature) for the same number of "
        "trials."
    )
    alike = make_study(tmp_path / "t", seeds=2, space=SPACE, claims={}, records=False)
    assert unequal_spaces(read_study(alike)) == ""


# Which settings mattered


def test_a_setting_explains_what_a_quadratic_of_the_ranks_does():
    rng = np.random.default_rng(0)
    places, goodness = rng.random(40), rng.random(40)
    goodness += places
    ranks = stats.rankdata(goodness)
    fit = sm.OLS(ranks, sm.add_constant(np.stack([places, places**2], 1))).fit()
    share, direction = explained(places, goodness)
    assert share == pytest.approx(fit.rsquared_adj)
    assert direction == pytest.approx(stats.spearmanr(places, goodness).statistic)


def test_a_best_value_in_the_middle_counts_as_much_as_one_at_an_end():
    places = (np.arange(64) + 0.5) / 64
    share, direction = explained(places, -((places - 0.5) ** 2))
    assert share > 0.9 and abs(direction) < 0.01
    share, direction = explained(places, np.exp(-5 * places))
    assert share == pytest.approx(1) and direction == pytest.approx(-1)


def test_a_setting_that_does_not_matter_explains_nothing():
    rng = np.random.default_rng(0)
    shares = [explained(rng.random(64), rng.random(64))[0] for _ in range(200)]
    assert np.mean(shares) < 0.03
    assert all(map(math.isnan, explained(rng.random(7), rng.random(7))))
    assert all(map(math.isnan, explained(rng.random(9), np.ones(9))))


def test_the_settings_that_were_made_to_matter_do(study):
    rows = {(row.arm, row.setting): row for row in importances(read_study(study))}
    assert ("sigmoid", "head.temperature") not in rows and len(rows) == 5
    for arm in ("softmax", "sigmoid"):
        for metric in ("val_accuracy", "val_nll"):
            shares = {setting: rows[arm, setting].shares[metric] for setting in SPACE if (arm, setting) in rows}
            assert max(shares, key=shares.__getitem__) == "optimizer.lr" and shares["optimizer.lr"] > 0.3
    # Higher is better for both metrics: the best rate, 0.1, is in the upper third of the range.
    assert all(value > 0 for value in rows["softmax", "optimizer.lr"].directions.values())


# Best trials at the end of a range


def test_places_are_those_of_the_logarithm_where_a_range_has_one():
    assert place(RATE, np.array([0.001, 0.1, 1])) == pytest.approx([0, 2 / 3, 1])
    assert place(Range(-1, 3, False), 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("space", "value", "side"),
    [
        (RATE, 0.0019, -1), (RATE, 0.0021, 0), (RATE, 0.49, 0), (RATE, 0.51, 1),
        (WARMUP, 0.0, 0), (WARMUP, 0.28, 1), (Range(0.5, 1.5, False), 0.55, -1),
    ],
)  # fmt: skip
def test_an_outer_tenth_is_one_in_the_coordinate_of_the_range_and_zero_is_a_natural_end(space, value, side):
    assert side_of(space, value) == side


@pytest.mark.parametrize(
    ("space", "sides", "expected"),
    [
        (RATE, {1}, (0.001, 10**1.5)),
        (RATE, {-1, 1}, (10**-4.5, 10**1.5)),
        (WARMUP, {1}, (0, 0.45)),
        (Range(0.1, 0.5, False), {-1}, (0, 0.5)),
        (Range(0.5, 0.99, False), {1}, (0.5, 0.995)),
        (Range(1, 3, False), {1}, (1, 4)),
        (Range(-1, 1, False), {-1}, (-2, 1)),
    ],
)
def test_the_range_to_try_is_half_its_width_longer_within_what_makes_sense(space, sides, expected):
    longer = wider(space, sides)
    assert (longer.low, longer.high) == pytest.approx(expected) and longer.log == space.log


def test_a_best_trial_at_the_end_of_a_range_is_a_warning_with_the_range_to_try(tmp_path):
    at_end = make_study(
        tmp_path / "s", seeds=4, space=SPACE, trials=24, best_lr={"softmax": 100, "sigmoid": 0.05}, records=False
    )
    summary = summarise(at_end)
    rate = summary.study.best["softmax"].lr
    assert rate > 0.5
    (text,) = [check.text for check in summary.checks if check.kind == "warning" and "optimizer.lr" in check.text]
    assert text == (
        f"softmax may not be tuned: its best optimizer.lr, {rate:.3g}, lies in the outer tenth of 0.001 to 1; try "
        "optimizer.lr='tag(log,interval(0.001,31.62))'."
    )
    assert {arm.arm: arm.on_edge for arm in summary.arms} == {"softmax": True, "sigmoid": False}


def test_arms_at_one_end_share_a_sentence():
    both = AtEnd("training.warmup", (("a", 0.29), ("b", 0.29)), WARMUP, Range(0, 0.45, False))
    assert both.text == (
        "a and b may not be tuned: their best training.warmup, 0.29, lies in the outer tenth of 0 to 0.3; try "
        "training.warmup='interval(0,0.45)'."
    )


# Claims over a space


def test_claims_over_a_space_and_over_a_grid_exclude_each_other():
    claims = configured_claims()
    of_space, of_grid = applicable(claims, True), applicable(claims, False)
    assert {*claims} - {*of_space} == {"stability_lr"}
    assert {*claims} - {*of_grid} == {"stability_space_share", "stability_space_loss"}


def test_sensitivity_over_a_space_is_the_share_near_the_best_and_the_capped_loss(study):
    verdicts = {verdict.claim: verdict for verdict in judge(read_study(study))}
    table = pd.read_csv(study / "results.csv")
    for arm, of in (("softmax", "mean_arm"), ("sigmoid", "mean_versus")):
        search = table[(table.phase == "search") & (table.arm == arm)]
        accuracy = search.pivot(index="trial", columns="seed", values="val_accuracy")
        near = accuracy >= accuracy.loc[accuracy.mean(axis=1).idxmax()] - 0.01
        assert 0 < near.to_numpy().mean() < 0.9
        assert getattr(verdicts["stability_space_share"], of) == pytest.approx(near.to_numpy().mean())
        capped = search.val_nll.clip(upper=math.log(10))
        assert getattr(verdicts["stability_space_loss"], of) == pytest.approx(capped.mean())
    assert verdicts["stability_space_share"].seeds == 4 and "stability_lr" not in verdicts


def test_diverged_trials_are_not_near_the_best_and_lose_what_a_guess_does(tmp_path):
    one = {"training.warmup": WARMUP}
    claims = {name: STABILITY[name] for name in ("stability_space_share", "stability_space_loss")}
    whole = make_study(
        tmp_path / "s", seeds=3, space=one, trials=8, claims=claims, noise=0.1, records=False
    )  # no setting matters, so that all trials are near the best

    def worse(table):
        two = (table.phase == "search") & (table.arm == "sigmoid") & table.trial.isin([2, 5])
        guessed = {"val_accuracy": table.val_accuracy.mask(two, 0.1), "val_nll": table.val_nll.mask(two, math.log(10))}
        return table.assign(status=table.status.mask(two, "diverged"), **guessed)

    share, loss = judge(edited(whole, worse))
    assert (share.mean_arm, share.mean_versus) == pytest.approx((1, 6 / 8))
    table = pd.read_csv(whole / "results.csv")
    kept = table[(table.phase == "search") & (table.arm == "sigmoid") & (table.status == "finished")]
    assert loss.mean_versus == pytest.approx((kept.val_nll.sum() + 6 * math.log(10)) / 24)


def test_sensitivity_to_the_rate_needs_it_to_be_the_only_tuned_setting(tmp_path):
    claims = {"mine": STABILITY["stability_lr"]}
    (verdict,) = judge(read_study(make_study(tmp_path / "s", seeds=3, space=SPACE, claims=claims, records=False)))
    assert not verdict.seeds and verdict.note == (
        "not judged: lr_sensitivity needs the learning rate as the only tuned setting; the study tunes optimizer.lr, "
        "training.warmup and head.temperature"
    )


def test_a_grid_beside_ranges_has_trials_at_each_rate(tmp_path):
    one = {"training.warmup": WARMUP}
    both = make_study(tmp_path / "s", seeds=3, lrs=(0.01, 0.1), space=one, trials=8, records=False)
    summary = summarise(both)
    trials = trials_of(summary.study, "softmax", "val_accuracy")
    assert len(trials) == 16 and {*trials.lr} == {0.01, 0.1}
    best = summary.study.best["softmax"]
    assert best.lr == 0.1 and f"softmax at trial {best.number} (lr 0.1)" in str(summary.answer)
    assert any("its best learning rate, 0.1, is the highest" in check.text for check in summary.checks)


# Halving


def test_claims_over_all_trials_need_a_full_search(tmp_path):
    halved = make_study(tmp_path / "s", seeds=4, space=SPACE, trials=8, search="halving", records=False)
    study = read_study(halved)
    verdicts = judge(study)
    of_search = [verdict for verdict in verdicts if verdict.phase == "search"]
    assert {verdict.claim for verdict in of_search} > {"stability_space_share", "stability_divergence"}
    for verdict in of_search:
        assert not verdict.seeds and verdict.verdict == "inconclusive"
        assert verdict.note.startswith("not judged: ") and "protocol.search=full" in verdict.note
    assert all(verdict.seeds == 4 for verdict in verdicts if verdict.metric in ("test_accuracy", "test_nll"))
    remarks = [check.text for check in run_checks(study, verdicts) if check.kind == "remark"]
    assert any("protocol.search=full" in text and "stability_divergence" in text for text in remarks)
    assert any("of 8 trials 4 had 1 seed, 2 had 2 seeds and 2 had 4 seeds" in text for text in remarks)


def test_a_full_search_says_nothing_of_halving(study):
    whole = read_study(study)
    assert not any("dropped" in check.text for check in run_checks(whole, judge(whole)))


# Folders that are not whole


def test_a_study_with_a_space_that_has_only_begun_is_summarised(study, tmp_path):
    begun = tmp_path / "study"
    begun.mkdir()
    content = json.loads((study / "study.json").read_text())
    content["protocol"]["best"] = {}
    (begun / "study.json").write_text(to_json(content | {"runs": {"search": content["runs"]["search"]}}))
    summary = summarise(begun)
    assert summary.tuning.chosen == [] and summary.tuning.importances == [] and summary.tuning.unequal == ""
    assert "no answer yet" in summary.answer.headline


def test_results_without_the_columns_of_settings_are_summarised(study, tmp_path):
    lacking = tmp_path / "study"
    lacking.mkdir()
    for name in ("study.json", "results.csv"):
        (lacking / name).write_text((study / name).read_text())
    whole = edited(lacking, lambda table: table.drop(columns=[*SPACE]))
    assert summarise(whole.folder).tuning.importances == []
    assert [row.settings for row in chosen_trials(whole)] == [{}, {}]
    assert whole.best["softmax"] == Trial(
        **json.loads((study / "study.json").read_text())["protocol"]["best"]["val_accuracy"]["softmax"]
    )


def test_values_outside_their_range_and_a_halving_without_seeds_break_nothing(study, tmp_path):
    strange = tmp_path / "study"
    strange.mkdir()
    content = json.loads((study / "study.json").read_text())
    (strange / "study.json").write_text((study / "study.json").read_text())
    table = pd.read_csv(study / "results.csv")
    outside = table.assign(**{"optimizer.lr": table["optimizer.lr"].mask(table.trial == 1, -1.0)})
    outside.assign(val_nll=outside.val_nll.mask(table.trial == 2, math.inf)).to_csv(
        strange / "results.csv", index=False
    )
    assert len(summarise(strange).tuning.importances) == 5
    content["protocol"] |= {"search": "halving", "search_seeds": []}
    (strange / "study.json").write_text(to_json(content))
    assert trials_of(read_study(strange), "softmax", "val_nll").empty
    assert all(map(math.isnan, summarise(strange).tuning.importances[0].shares.values()))
