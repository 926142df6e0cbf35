"""The answer: who leads, by which runs, and what is said where nothing is decided."""

import json
from functools import partial
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Answer, compare, summarise
from headtohead.analysis.verdicts import Comparison, decide
from headtohead.record.files import to_json
from headtohead.testing import ACCURACY, make_study

table_of = partial(make_study, records=False, claims={"accuracy": ACCURACY})
NLL = ACCURACY | {"metric": "test_nll", "direction": "lower", "margin": 0.02}
SENSITIVITY = ACCURACY | {"metric": "lr_sensitivity", "phase": "search", "direction": "lower", "margin": 0.05}
# Too noisy to decide anything.
UNDECIDED = "No difference in test accuracy was shown between"


def answer(study: Path) -> Answer:
    return summarise(study).answer


def with_protocol(study: Path, **fields: object) -> Path:
    """Change the protocol in a study's record."""
    content = json.loads((study / "study.json").read_text())
    content["protocol"] |= fields
    (study / "study.json").write_text(to_json(content))
    return study


def test_without_a_decision_the_answer_names_no_winner_but_a_safer_choice(tmp_path):
    study = table_of(tmp_path / "s", seeds=4, noise=2.0)
    told = answer(study)
    (row,) = told.comparisons
    leader, other = row.arm, row.versus
    lower, mean, upper = (f"{100 * bound:+.1f}".replace("-", "−") for bound in (row.lower, row.difference, row.upper))
    shown = f"{leader} minus {other} is {mean} [{lower}, {upper}] points"
    safer = "The safer choice is softmax at learning rate 0.1: its head is PyTorch's default."
    assert told.headline == f"{UNDECIDED} {leader} and {other}: {shown}. {safer}"
    assert row.lower < 0 < row.upper and row.decision == "undecided"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"diverged": [("softmax", 0.1, 5)]}, "fewer of its runs diverged"),
        ({"best_lr": {"softmax": 1.0, "sigmoid": 0.1}}, "its learning rate is not on the edge of the grid"),
        ({}, None),
    ],
)
def test_the_safer_choice_has_a_reason(tmp_path, options, reason):
    told = answer(table_of(tmp_path / "s", seeds=4, noise=3.0, **options))
    safer = f"sigmoid at learning rate 0.1: {reason}." if reason else "softmax at learning rate 0.1: its head"
    assert told.headline.startswith(UNDECIDED) and f"The safer choice is {safer}" in told.headline


def test_an_arm_that_is_less_sensitive_to_its_rate_is_safer(tmp_path):
    claims = {"accuracy": ACCURACY, "stability_lr": SENSITIVITY}
    study = table_of(tmp_path / "s", seeds=10, noise=4.0, claims=claims)
    table = pd.read_csv(study / "results.csv")
    table["val_nll"] += 0.5 * ((table.arm == "softmax") & (table.lr != 0.1))
    table.to_csv(study / "results.csv", index=False)
    safer = "The safer choice is sigmoid at learning rate 0.1: it is less sensitive to the learning rate."
    assert answer(study).headline.endswith(safer)


def test_the_search_picks_the_leader_and_no_run_that_tests_it(tmp_path):
    study = table_of(tmp_path / "s", seeds=4, noise=2.0, effects={"sigmoid": {"val_accuracy": -0.02}})
    table = pd.read_csv(study / "results.csv")
    # On fresh seeds validation says the opposite.
    table["val_accuracy"] += 0.5 * ((table.phase == "confirm") & (table.arm == "sigmoid"))
    table.to_csv(study / "results.csv", index=False)
    told = answer(study)
    searched = table[(table.phase == "search") & (table.arm == "softmax") & (table.lr == 0.1)]
    confirmed = table[(table.phase == "confirm") & (table.arm == "softmax")]
    assert told.comparisons[0].arm == "softmax"
    first = told.sentences[0]
    assert first.startswith("Validation favours softmax: its validation accuracy in the search is ")
    assert f" {100 * searched.val_accuracy.mean():.2f} ± " in first and "the highest of 2 arms" in first
    assert f"Fresh runs of it reach a test accuracy of {100 * confirmed.test_accuracy.mean():.2f} ± " in first


def test_an_arm_that_the_test_shows_better_is_used_whatever_validation_favours(tmp_path):
    effects = {"softmax": {"val_accuracy": 0.03, "test_accuracy": -0.03}}
    two = answer(table_of(tmp_path / "two", effects=effects))
    assert two.headline == "Use sigmoid at learning rate 0.1: it is better than softmax, which validation favours."
    arms = ("softmax", "sigmoid", "sigmoid_prior")
    three = answer(table_of(tmp_path / "three", arms=arms, effects=effects))
    worse = "Validation favours softmax, but by test accuracy it is worse than sigmoid and sigmoid_prior."
    assert three.headline.startswith(f"{worse} The safer choice is sigmoid")
    effects |= {"sigmoid": {"test_accuracy": -0.03}}
    one = answer(table_of(tmp_path / "one", arms=arms, effects=effects))
    worse = "Validation favours softmax, but by test accuracy it is worse than sigmoid_prior."
    assert one.headline == f"{worse} Rather use sigmoid_prior at learning rate 0.1."


def test_picking_the_leader_of_a_study_without_a_search_costs_all_pairs(tmp_path):
    arms = ("softmax", "sigmoid", "sigmoid_mean", "tanh")
    study = read_study(table_of(tmp_path / "s", arms=arms, tuned=False, claims={}))
    family = [
        Comparison(metric="test_accuracy", phase="final", direction="higher", margin=None, arm=arm, versus=other)
        for arm, other in combinations(arms, 2)
    ]
    expected = {(row.arm, row.versus): row.p_corrected for row in decide(study, family)}
    rows = compare(study, [], "softmax", "test_accuracy")
    assert {(row.arm, row.versus): row.p_corrected for row in rows} == {
        pair: p for pair, p in expected.items() if pair[0] == "softmax"
    }
    # Where the search picks it, the comparisons with it are the family.
    tuned = read_study(table_of(tmp_path / "t", arms=arms, claims={}))
    rows = compare(tuned, [], "softmax", "test_accuracy")
    smallest = min(rows, key=lambda row: row.p)
    assert smallest.p_corrected == pytest.approx(min(1, 3 * 2 * smallest.p))


@pytest.mark.parametrize("tuned", [True, False])
def test_the_leader_of_equal_arms_is_rarely_a_winner(tmp_path, tuned):
    arms = {f"w={place}": ["head=softmax", f"w={place}"] for place in range(5)}
    winners = 0
    for index in range(40):
        study = read_study(table_of(tmp_path / "s", arms=arms, tuned=tuned, claims={}, lrs=(0.1, 1.0), seed=index))
        # The worst pick that there is: by the test itself, where no search has picked.
        picked = study.results[study.results.phase == "search"] if tuned else study.final
        means = picked.groupby("arm")["val_accuracy" if tuned else "test_accuracy"].mean()
        rows = compare(study, [], str(means.idxmax()), "test_accuracy")
        winners += any(row.decision in ("better", "worse") for row in rows)
    # At a rate of 5 %, seven and more of forty have a probability of 1 %.
    assert winners < 7


@pytest.mark.parametrize(("metric", "sign"), [("balanced_accuracy", 1), ("macro_f1", 1), ("nll", -1)])
def test_the_primary_metric_leads_and_compares(tmp_path, metric, sign):
    shift = dict.fromkeys((f"val_{metric}", f"test_{metric}"), sign * 0.06)
    claim = ACCURACY | {"metric": f"test_{metric}", "direction": "higher" if sign > 0 else "lower"}
    study = table_of(tmp_path / "s", effects={"sigmoid": shift}, claims={metric: claim})
    trials = {"softmax": {"lr": 0.1}, "sigmoid": {"lr": 0.1}}
    told = answer(with_protocol(study, selected_by=f"val_{metric}", best={f"val_{metric}": trials}))
    assert told.headline == "Use sigmoid at learning rate 0.1: it is better than every other arm."
    assert [(row.metric, row.arm, row.decision) for row in told.comparisons] == [
        (f"test_{metric}", "sigmoid", "better")
    ]
    words = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "nll": "NLL"}[metric]
    assert f"Validation favours sigmoid: its validation {words} in the search is" in told.sentences[0]
    assert f"the {'highest' if sign > 0 else 'lowest'} of 2 arms" in told.sentences[0]


def test_better_probabilities_are_those_at_the_rates_of_the_best_nll(tmp_path):
    effects = {
        "softmax": {"val_accuracy": 0.02, "test_accuracy": 0.02},
        "sigmoid": {"val_nll": -0.08, "test_nll": -0.08},
    }
    claims = {"accuracy": ACCURACY, "loss_nll": NLL | {"selected_by": "val_nll"}}
    told = answer(table_of(tmp_path / "s", effects=effects, claims=claims, best_lr_of_nll=0.01))
    assert told.headline.startswith("Use softmax at learning rate 0.1")
    better = "The probabilities of sigmoid at learning rate 0.01 are better (lower NLL): prefer it where they matter."
    assert better in told.sentences


def test_most_runs_diverged_is_a_warning(tmp_path):
    rates = (0.01, 0.03, 0.1, 1.0)
    diverged = [("sigmoid", rate, None) for rate in rates if rate != 0.1]
    study = table_of(tmp_path / "s", seeds=4, lrs=rates, diverged=diverged)
    warnings = [check.text for check in summarise(study).checks if check.kind == "warning"]
    assert any(text.startswith("Most runs of sigmoid diverged.") for text in warnings)
    assert not any("Most runs of softmax" in text for text in warnings)
