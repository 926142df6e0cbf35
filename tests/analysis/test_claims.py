"""Verdicts of studies whose effects are known."""

import gc
import json
import math
from functools import partial
from pathlib import Path

import headtohead.configs
import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_module
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from headtohead.analysis import claims as claims_module
from headtohead.analysis.claims import KEYS, Verdict
from headtohead.analysis.pairing import DERIVED, OF_GRID, OF_SPACE
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import summarise, verdicts_json
from headtohead.options import ConfigError
from headtohead.record.run import read_results
from headtohead.record.study import Range, read_claims
from headtohead.testing import ACCURACY, configured_claims, make_study


def judge(folder: Path) -> list[Verdict]:
    return claims_module.judge(read_study(folder))


NLL = ACCURACY | {"metric": "test_nll", "direction": "lower", "margin": 0.02}
# Without the folders of its runs a study is made, and judged, ten times as fast.
table_of = partial(make_study, records=False)
TWIN = {"softmax": ["head=softmax"], "twin": ["head=twin"]}


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """statsmodels collects garbage at every correction, which takes long where much is loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def claims(*metrics: str, phase: str = "search", direction: str = "lower", margin: float = 0.05) -> dict:
    changes = {"phase": phase, "direction": direction, "margin": margin}
    return {metric: ACCURACY | changes | {"metric": metric} for metric in metrics}


def edit(path, change) -> None:
    """Rewrite a JSON file or a CSV table by `change`, which alters it in place or returns another."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))
    else:
        content = pd.read_csv(path)
        changed = change(content)
        (content if changed is None else changed).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("shift", "noise", "expected"),
    [(-0.02, 1, "supported"), (0.02, 1, "refuted"), (0.0, 1, "equivalent"), (-0.005, 4, "inconclusive")],
)
def test_a_verdict_is_the_effect_put_in(tmp_path, shift, noise, expected):
    effects = {"sigmoid": {"test_accuracy": shift}}
    (verdict,) = judge(table_of(tmp_path / "s", claims={"accuracy": ACCURACY}, effects=effects, noise=noise))
    assert (verdict.verdict, verdict.arm, verdict.versus) == (expected, "softmax", "sigmoid")
    assert verdict.lower < -shift < verdict.upper
    assert bool(verdict.outlook) == (expected == "inconclusive")


def test_a_claim_of_lower_values_is_supported_by_a_negative_difference(tmp_path):
    study = table_of(tmp_path / "s", claims={"loss": NLL}, effects={"sigmoid": {"test_nll": 0.1}})
    (verdict,) = judge(study)
    assert verdict.verdict == "supported"
    assert verdict.difference == pytest.approx(-0.1, abs=0.02)


def test_a_metric_of_training_has_the_numbers_of_the_paired_t_test(tmp_path):
    study = table_of(tmp_path / "s", claims=claims("train_accuracy", phase="confirm", margin=0.005))
    (verdict,) = judge(study)
    table = read_results(study).query("phase == 'confirm'").pivot(index="seed", columns="arm")["train_accuracy"]
    assert verdict.seeds == 10 and verdict.examples is None
    assert (verdict.mean_arm, verdict.mean_versus) == pytest.approx((table.softmax.mean(), table.sigmoid.mean()))
    scipy = stats.ttest_rel(table.softmax, table.sigmoid)
    # The first look has half of the level.
    assert (verdict.lower, verdict.upper) == pytest.approx(tuple(scipy.confidence_interval(0.975)))
    assert (verdict.confidence, verdict.p, verdict.p_corrected) == pytest.approx(
        (0.975, scipy.pvalue, 2 * scipy.pvalue)
    )
    assert verdict.p_equivalence == pytest.approx(2 * ttost_paired(table.softmax, table.sigmoid, -0.005, 0.005)[0])


def test_a_real_difference_below_the_margin_supports_nothing(tmp_path):
    effects = {"sigmoid": {"test_accuracy": -0.003}}
    (verdict,) = judge(table_of(tmp_path / "s", claims={"accuracy": ACCURACY}, effects=effects, noise=0.3))
    assert verdict.p_corrected < 0.05
    assert verdict.verdict == "equivalent"
    assert verdict.note == "the difference is real, but below the margin"


def test_an_open_question_says_what_the_next_look_could_decide(tmp_path):
    wide = ACCURACY | {"margin": 0.0005}
    study = table_of(tmp_path / "s", claims={"accuracy": wide}, effects={"sigmoid": {"test_accuracy": -0.002}})
    (verdict,) = judge(study)
    assert verdict.verdict == "inconclusive" and verdict.examples == 1800
    assert 0 < verdict.next_power < 1
    assert verdict.outlook == f"20 seeds would decide it in about {100 * verdict.next_power:.0f} of 100 studies"


def test_the_family_of_holm_is_the_claims_that_were_tested_of_a_pair_of_arms(tmp_path):
    tested = {"accuracy": ACCURACY, "loss": NLL, "missing": ACCURACY | {"metric": "test_charm"}}
    arms = ("softmax", "sigmoid", "sigmoid_mean")
    verdicts = judge(table_of(tmp_path / "s", arms=arms, claims=tested, effects={"sigmoid": {"test_nll": 0.1}}))
    assert [(verdict.claim, verdict.versus) for verdict in verdicts] == [
        (claim, other) for claim in tested for other in arms[1:]
    ]
    for other in arms[1:]:
        family = [verdict for verdict in verdicts if verdict.versus == other]
        smaller, larger = sorted((verdict.p, verdict.p_corrected) for verdict in family if verdict.claim != "missing")
        # Two tests, and the first look has half of the level.
        assert smaller[1] == pytest.approx(min(1, 4 * smaller[0]))
        assert larger[1] == pytest.approx(min(1, max(2 * larger[0], smaller[1])))
        assert all(math.isnan(verdict.p_corrected) for verdict in family if verdict.claim == "missing")


def test_rivals_differ_in_the_head_alone(tmp_path):
    arms = {
        f"{head},dropout={dropout}": [f"head={head}", f"model.dropout={dropout}"]
        for dropout in (0, 0.1)
        for head in ("softmax", "sigmoid")
    }
    verdicts = judge(table_of(tmp_path / "s", arms=arms, claims={"accuracy": ACCURACY}))
    pairs = [(verdict.arm, verdict.versus) for verdict in verdicts]
    assert pairs == [("softmax,dropout=0", "sigmoid,dropout=0"), ("softmax,dropout=0.1", "sigmoid,dropout=0.1")]
    assert judge(table_of(tmp_path / "t", arms=("sigmoid", "sigmoid_mean"))) == []


def test_failed_runs_cost_their_pair_and_are_named(tmp_path):
    failed = [("softmax", None, 12), ("sigmoid", 0.1, 3)]
    tested = {"accuracy": ACCURACY} | claims("val_nll", "lr_sensitivity")
    accuracy, nll, sensitivity = judge(table_of(tmp_path / "s", claims=tested, failed=failed))
    assert accuracy.seeds == 9
    assert accuracy.note == "1 of 10 pairs of runs lack test_accuracy, 1 failed"
    # In the search the seed stays with those rates that both arms have; a whole grid is whole or nothing.
    assert nll.seeds == 10
    assert nll.note == "1 of 30 pairs of runs lack val_nll, 1 failed"
    assert sensitivity.seeds == 9


def test_both_arms_are_compared_at_the_same_rates(tmp_path):
    """Rates at which only softmax has a value do not count: they are the easy ones."""
    study = table_of(tmp_path / "s", claims=claims("loss_spikes"), diverged=[("sigmoid", 1.0, None)], noise=0)

    def easy_at_one(table):
        table.loc[(table.lr == 1.0) & (table.arm == "softmax"), "loss_spikes"] = 0.0

    edit(study / "results.csv", easy_at_one)
    (verdict,) = judge(study)
    assert verdict.difference == 0
    assert verdict.note == "10 of 30 pairs of runs lack loss_spikes, 10 diverged"


def test_diverged_runs_count_as_a_guess(tmp_path):
    tested = claims("val_accuracy", "diverged_share", "lr_sensitivity", "stalled")
    study = table_of(tmp_path / "s", claims=tested, diverged=[("sigmoid", 1.0, None)], noise=0)
    accuracy, share, sensitivity, stalled = judge(study)
    assert (share.mean_arm, share.mean_versus) == pytest.approx((0, 1 / 3))
    assert (stalled.mean_arm, stalled.mean_versus) == pytest.approx((0, 1 / 3))
    assert accuracy.mean_versus == pytest.approx((0.96 + 0.91 + 0.1) / 3)
    assert sensitivity.mean_arm == pytest.approx((0.44 + 2 * 0.14 + 0.44) / 4 - 0.14)
    assert sensitivity.mean_versus == pytest.approx((0.44 + 2 * 0.14 + math.log(10)) / 4 - 0.14)
    assert sensitivity.note == "within a factor of 10 of each arm's lowest NLL"
    assert {verdict.verdict for verdict in (share, sensitivity)} == {"supported"}


def test_arms_are_as_sensitive_whose_curves_are_the_same_but_for_a_shift(tmp_path):
    best = {"softmax": 0.1, "sigmoid": 1.0}
    tested = claims("lr_sensitivity")
    rates = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    (shifted,) = judge(table_of(tmp_path / "s", claims=tested, best_lr=best, lrs=rates, noise=0))
    assert shifted.mean_arm == pytest.approx(shifted.mean_versus) and shifted.mean_arm > 0.1
    (on_edge,) = judge(table_of(tmp_path / "t", claims=tested, best_lr=best, lrs=rates[:4], noise=0))
    assert on_edge.note.startswith("not judged: lr_sensitivity needs learning rates on both sides")
    assert on_edge.note.endswith("that of sigmoid, 1, is on the edge")


def test_a_run_stalls_before_a_tenth_of_the_way_to_certainty(tmp_path):
    study = table_of(tmp_path / "s", claims=claims("stalled"))

    def slow(table):
        table.loc[table.arm == "softmax", "val_nll"] = 0.89 * math.log(10)
        table.loc[(table.arm == "sigmoid") & (table.lr < 1), "val_nll"] = 0.91 * math.log(10)

    edit(study / "results.csv", slow)
    (verdict,) = judge(study)
    assert (verdict.mean_arm, verdict.mean_versus) == pytest.approx((0, 2 / 3))


def test_spread_over_seeds_is_measured_from_the_median(tmp_path):
    study = table_of(tmp_path / "s", claims=claims("seed_spread", phase="confirm"))

    def wide(table):
        chosen = (table.arm == "sigmoid") & (table.phase == "confirm")
        table.loc[chosen, "val_accuracy"] = [0.5, 0.7, 0.7, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8, 0.9]

    edit(study / "results.csv", wide)
    (verdict,) = judge(study)
    assert verdict.mean_versus == pytest.approx((0.25 + 8 * 0.05 + 0.15) / 10)


def test_a_broken_history_costs_its_pair(tmp_path):
    study = make_study(tmp_path / "s", claims=claims("steps_to_target", phase="confirm"), seeds=3)
    (study / "runs" / "head=sigmoid,optimizer.lr=0.1,seed=4" / "history.csv").write_text("step,val/")
    (verdict,) = judge(study)
    assert verdict.seeds == 2
    assert "1 runs have no readable history.csv with step and val/accuracy; 1 of 3 pairs of runs lack" in verdict.note


def test_runs_that_never_reach_the_target_count_at_the_horizon(tmp_path):
    tested = claims("steps_to_target", "epochs_to_target", phase="confirm", margin=5.0)
    effects = {"sigmoid": {"delay": 80.0}}
    steps, epochs = judge(make_study(tmp_path / "s", claims=tested, effects=effects, diverged=[("sigmoid", None, 13)]))
    assert steps.verdict == "supported"
    assert steps.seeds == 10
    assert epochs.difference == pytest.approx(steps.difference / 20)
    assert "1 of 20 runs never reach it and count at the horizon, 400 steps" in steps.note
    assert steps.note.startswith("target: 0.91")


def test_without_a_search_the_runs_confirm_and_the_grid_is_not_judged(tmp_path):
    tested = {"accuracy": ACCURACY} | claims("lr_sensitivity", "val_nll")
    tested |= {"speed": ACCURACY | {"metric": "steps_to_target", "direction": "lower", "margin": 5.0}}
    accuracy, sensitivity, nll, speed = judge(make_study(tmp_path / "s", claims=tested, tuned=False))
    assert accuracy.seeds == speed.seeds == 10
    for verdict in (sensitivity, nll):
        assert verdict.verdict == "inconclusive"
        assert verdict.note == "not judged: the study has no runs of the phase search"
    # Those that cannot be judged are no tests of the family.
    smaller, larger = sorted((verdict.p, verdict.p_corrected) for verdict in (accuracy, speed))
    assert smaller[1] == min(1, 4 * smaller[0])
    assert larger[1] == min(1, max(2 * larger[0], smaller[1]))


def test_what_cannot_be_judged_is_open_and_named(tmp_path):
    tested = claims("test_acuracy", "test_nll", "lr_sensitivity", phase="confirm")
    study = table_of(tmp_path / "s", claims=tested)

    def infinite(table):
        table["test_nll"] = np.inf

    edit(study / "results.csv", infinite)
    typo, nll, sensitivity = judge(study)
    assert {verdict.verdict for verdict in (typo, nll, sensitivity)} == {"inconclusive"}
    assert typo.note.startswith("not judged: no run has the metric test_acuracy; did you mean test_accuracy")
    assert nll.note.startswith("not judged: 0 pairs of seeds have test_nll, at least 2 are needed")
    assert sensitivity.note.startswith("not judged: lr_sensitivity needs a grid")
    assert all(math.isnan(verdict.p) and verdict.seeds == 0 for verdict in (typo, nll, sensitivity))


def test_a_study_without_histories_or_claims(tmp_path):
    study = table_of(tmp_path / "s", claims=claims("steps_to_target", phase="confirm"))
    (speed,) = judge(study)
    assert speed.seeds == 0 and "20 runs have no readable history.csv" in speed.note
    edit(study / "study.json", lambda content: content | {"claims": {}})
    assert judge(study) == []


def test_a_half_finished_study_is_judged_on_what_there_is(tmp_path):
    study = table_of(tmp_path / "s", claims={"accuracy": ACCURACY} | claims("val_nll"))
    edit(study / "results.csv", lambda table: table[(table.phase == "search") & (table.arm == "softmax")])
    accuracy, nll = judge(study)
    assert accuracy.note == "not judged: the study has no runs of the phase confirm"
    assert nll.note.startswith("not judged: 0 pairs of seeds have val_nll")
    edit(study / "results.csv", lambda table: table[:0])
    assert {verdict.verdict for verdict in judge(study)} == {"inconclusive"}


def test_runs_of_an_earlier_command_do_not_count(tmp_path):
    study = table_of(tmp_path / "s", claims={"accuracy": ACCURACY})
    before = judge(study)

    def stale(table):
        return pd.concat([table, table.assign(run="old " + table.run, test_accuracy=0.0)])

    edit(study / "results.csv", stale)
    assert judge(study) == before


def test_verdicts_and_the_answer_are_strict_json(tmp_path):
    study = table_of(tmp_path / "s", claims={"accuracy": ACCURACY} | claims("charm"))
    summary = summarise(study)
    verdicts = summary.verdicts
    written = json.loads(verdicts_json(summary), parse_constant=pytest.fail)
    answer = written["answer"]
    assert [answer["headline"], *answer["sentences"]] == str(summary.answer).splitlines()
    assert [list(row) for row in written["claims"]] == [[*KEYS]] * 2
    assert written["claims"][0]["difference"] == verdicts[0].difference
    assert written["claims"][1]["difference"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "up"}, "claims.accuracy.direction=up: accepted: higher, lower"),
        ({"margin": 0}, "claims.accuracy.margin=0.0: must be positive"),
        ({"margin": math.nan}, "claims.accuracy.margin=nan: must be positive"),
        ({"margin": "wide"}, "claims.accuracy.margin=wide"),
        ({"phase": "test"}, "claims.accuracy.phase=test: accepted: confirm, search"),
        ({"margn": 1}, "claims.accuracy.margn: no such key; did you mean margin"),
    ],
)
def test_a_wrong_claim_is_refused(change, message):
    with pytest.raises(ConfigError) as error:
        read_claims({"accuracy": ACCURACY | change})
    assert str(error.value).startswith(message)


def test_a_claim_needs_all_its_keys():
    with pytest.raises(ConfigError, match=r"claims\.accuracy\.margin: missing"):
        read_claims({"accuracy": {key: value for key, value in ACCURACY.items() if key != "margin"}})
    with pytest.raises(ConfigError, match=r"claims\.accuracy=better: must be a group of named values"):
        read_claims({"accuracy": "better"})


STUDY_BREAKS = {
    "text": lambda study: study.write_text("{"),
    "binary": lambda study: study.write_bytes(b"\xff\xfe\x00"),
    "list": lambda study: study.write_text("[]"),
    "no arms": lambda study: edit(study, lambda content: content.pop("arms") and None),
    "arms": lambda study: edit(study, lambda content: content | {"arms": [1]}),
    "runs": lambda study: edit(study, lambda content: content | {"runs": {"search": None}}),
    "claims": lambda study: edit(study, lambda content: content | {"claims": [1]}),
    "classes": lambda study: edit(study, lambda content: content | {"num_classes": "ten"}),
    "margin": lambda study: edit(study, lambda content: content | {"claims": {"a": ACCURACY | {"margin": -1}}}),
}
RESULTS_BREAKS = {
    "empty": lambda results: results.write_text(""),
    "ragged": lambda results: results.write_text("a\n1,2\n1,2,3\n"),
    "columns": lambda results: edit(results, lambda table: table.drop(columns=["arm", "seed"])),
    "words": lambda results: edit(results, lambda table: table.astype(object).assign(test_nll="low")),
    "twice": lambda results: edit(results, lambda table: pd.concat([table, table[:1]])),
}


@pytest.mark.parametrize(
    ("file", "break_it"),
    [("study.json", broken) for broken in STUDY_BREAKS.values()]
    + [("results.csv", broken) for broken in RESULTS_BREAKS.values()],
    ids=[*STUDY_BREAKS, *RESULTS_BREAKS],
)
def test_a_broken_file_is_named(tmp_path, file, break_it):
    study = table_of(tmp_path / "s", claims={"accuracy": ACCURACY})
    break_it(study / file)
    with pytest.raises(ConfigError) as error:
        judge(study)
    assert str(study / file) in str(error.value)


def test_a_folder_that_is_no_study(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"not a study's folder, as it has no study\.json"):
            judge(folder)


def test_the_configured_claims_are_judged(tmp_path):
    """Every common claim has a metric that studies measure."""
    configured = configured_claims()
    assert {key.partition("_")[0] for key in configured} == {
        *("stability", "gradients", "competition", "ambiguity"),
        *("accuracy", "loss", "speed", "generalisation"),
    }
    of_grid = judge(make_study(tmp_path / "grid", seeds=12))
    of_space = judge(make_study(tmp_path / "space", seeds=12, space={"training.warmup": Range(0, 0.3, False)}))
    for verdicts, others in ((of_grid, OF_SPACE), (of_space, OF_GRID)):
        assert [verdict.claim for verdict in verdicts] == [
            name for name, claim in configured.items() if claim.metric not in others
        ]
        for verdict in verdicts:
            assert verdict.seeds == 12, verdict
        by_claim = {verdict.claim: verdict.verdict for verdict in verdicts}
        assert by_claim["competition"] == by_claim["ambiguity_several"] == "supported"


def test_hydra_merges_the_claims_into_one_node():
    groups = sorted(path.stem for path in Path(headtohead.configs.__path__[0]).glob("claims/*"))
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        node = compose(overrides=[f"+claims=[{','.join(groups)}]"])
    claims = read_claims(node.claims)
    texts = [path.read_text() for path in Path(headtohead.configs.__path__[0]).glob("claims/*")]
    assert {*claims} == {claim for text in texts for claim in yaml.safe_load(text)}
    configured = configured_claims()
    assert {name: claims[name] for name in configured} == configured and len(configured) < len(claims)


def test_a_claim_about_an_unknown_metric_hears_of_those_that_are_derived(tmp_path):
    for metric in DERIVED:
        (verdict,) = judge(table_of(tmp_path / metric, seeds=2, claims=claims(f"{metric}s", phase="confirm")))
        assert verdict.note.startswith(f"not judged: no run has the metric {metric}s; did you mean {metric}")


def test_a_claim_is_judged_at_the_best_rates_by_its_criterion(tmp_path):
    tested = {"accuracy": ACCURACY, "at_accuracy": NLL, "at_nll": NLL | {"selected_by": "val_nll"}}
    study = table_of(tmp_path / "s", claims=tested, best_lr_of_nll=0.01)
    verdicts = {verdict.claim: verdict for verdict in judge(study)}
    table = read_results(study).query("phase == 'confirm'")
    for claim, lr in (("at_accuracy", 0.1), ("at_nll", 0.01)):
        nll = table[table.lr == lr].groupby("arm").test_nll.mean()
        assert verdicts[claim].mean_arm == pytest.approx(nll["softmax"])
        assert verdicts[claim].mean_versus == pytest.approx(nll["sigmoid"])
        assert verdicts[claim].seeds == 10 and verdicts[claim].examples == 1800
    assert verdicts["at_accuracy"].mean_arm > verdicts["at_nll"].mean_arm + 0.1
    assert (verdicts["at_accuracy"].note, verdicts["at_nll"].selected_by) == (None, "val_nll")
    assert verdicts["at_nll"].note == "at the learning rates of the best val_nll: softmax 0.01 and sigmoid 0.01"
    # Where nothing is tuned, nothing was selected.
    untuned = judge(table_of(tmp_path / "u", claims=tested, tuned=False))
    assert {verdict.selected_by for verdict in untuned} == {None} and untuned[1].difference == untuned[2].difference


def test_studies_of_one_head_against_itself_are_rarely_decided(tmp_path):
    """Any claim of a null study is decided in at most one study of twenty, whatever the number of claims."""
    tested = {metric: ACCURACY | {"metric": metric, "margin": 1e-6} for metric in ("test_accuracy", "test_nll")}
    tested |= claims("loss_spikes", "val_nll", "lr_sensitivity", margin=1e-6)
    decided = 0
    for index in range(60):
        study = table_of(tmp_path / "s", arms=TWIN, claims=tested, lrs=(0.1, 1.0), seed=index)
        decided += any(verdict.verdict in ("supported", "refuted") for verdict in judge(study))
    # At a rate of 5 %, eight and more of sixty have a probability of 1 %.
    assert decided < 8


def test_a_known_effect_is_found_as_often_as_its_power(tmp_path):
    """The difference that ten pairs detect with a power of 80 % is detected in four of five studies."""
    # Two arms share half of their variance, so that a difference deviates as much as one arm.
    effect = TTestPower().solve_power(nobs=10, alpha=0.025, power=0.8)
    tested = claims("train_accuracy", phase="confirm", direction="higher", margin=1e-6)
    shift = {"twin": {"train_accuracy": -effect * 0.002}}
    supported = 0
    for index in range(60):
        study = table_of(tmp_path / "s", arms=TWIN, tuned=False, claims=tested, effects=shift, seed=index)
        (verdict,) = judge(study)
        supported += verdict.verdict == "supported"
    assert supported / 60 == pytest.approx(0.8, abs=0.1)


def test_the_loss_of_a_guess_is_that_of_the_arms_own_classes(tmp_path):
    study = table_of(tmp_path / "s", claims=claims("lr_sensitivity", phase="search"))
    edit(study / "study.json", lambda content: content | {"num_classes": {"softmax": 10, "sigmoid": 2}})
    edit(study / "results.csv", lambda table: table.assign(val_nll=table.val_nll + 0.35))
    (verdict,) = judge(study)
    table = pd.read_csv(study / "results.csv")
    for arm, count, measured in (("softmax", 10, verdict.mean_arm), ("sigmoid", 2, verdict.mean_versus)):
        nll = table[(table.phase == "search") & (table.arm == arm)].pivot(index="seed", columns="lr", values="val_nll")
        capped = nll.clip(upper=math.log(count))
        expected = (capped[0.01] + 2 * capped[0.1] + capped[1.0]) / 4 - capped.min(axis=1)
        assert measured == pytest.approx(expected.mean())


def test_means_and_difference_of_a_share_of_runs_are_those_of_the_same_pairs(tmp_path):
    """A failed run costs its pair, so that seeds have different numbers of pairs."""
    folder = make_study(
        tmp_path / "study", diverged=[("sigmoid", 1.0, None), ("sigmoid", 0.1, 2)], failed=[("softmax", 0.01, 2)],
        claims=claims("diverged_share"),
    )  # fmt: skip
    (verdict,) = judge(folder)
    table = pd.read_csv(folder / "results.csv")
    runs = table[(table.phase == "search") & (table.status != "failed")]
    pairs = (
        runs.assign(gone=runs.status == "diverged").pivot(index=["seed", "lr"], columns="arm", values="gone").dropna()
    )
    assert verdict.mean_arm == 0 and verdict.mean_versus == pytest.approx(pairs.sigmoid.astype(float).mean())
    assert verdict.mean_arm - verdict.mean_versus == pytest.approx(verdict.difference)
