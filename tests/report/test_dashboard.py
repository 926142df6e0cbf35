import json
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from headtohead.analysis.study import read_study
from headtohead.record.files import write_arrays, write_atomically
from headtohead.record.run import read_history, read_run, write_run
from headtohead.report.dashboard import Live, write_curves, write_dashboard
from headtohead.report.render import write_report
from headtohead.testing import CLASSES, make_study


def scalars(study, arm, tag):
    return {event.step: event.value for event in EventAccumulator(str(study / "arms" / arm)).Reload().Scalars(tag)}


def curve(study, arm, phase, tag):
    """(S, R) a tag of an arm's runs of a phase, read anew."""
    table = pd.read_csv(study / "results.csv")
    runs = table[(table.arm == arm) & (table.phase == phase) & (table.lr == 0.1)].sort_values("seed").run
    histories = [pd.read_csv(study / "runs" / run / "history.csv").set_index("step")[tag].dropna() for run in runs]
    return pd.concat(histories, axis=1)


def test_bands_are_means_with_the_t_interval_over_confirmed_seeds(tmp_path):
    study = make_study(tmp_path / "s", seeds=5)
    write_curves(read_study(study))
    for arm in ("softmax", "sigmoid"):
        values_SR = curve(study, arm, "confirm", "val/accuracy")
        assert values_SR.shape[1] == 5
        assert scalars(study, arm, "mean/val/accuracy").keys() == set(values_SR.index)
        for step, row in values_SR.iloc[1:].iterrows():  # at first all seeds are at chance level
            lower, upper = stats.t.interval(0.95, 4, row.mean(), stats.sem(row))
            assert scalars(study, arm, "mean/val/accuracy")[step] == pytest.approx(row.mean(), rel=1e-6)
            assert scalars(study, arm, "mean_lower/val/accuracy")[step] == pytest.approx(lower, rel=1e-5)
            assert scalars(study, arm, "mean_upper/val/accuracy")[step] == pytest.approx(upper, rel=1e-5)


def test_other_scales(tmp_path):
    study = make_study(tmp_path / "s", seeds=4)
    write_curves(read_study(study))
    nll, norm = (curve(study, "sigmoid", "confirm", tag) for tag in ("val/nll", "grad_norm/total"))
    assert scalars(study, "sigmoid", "mean/val/nll_over_ln_K")[0] == pytest.approx(nll.loc[0].mean() / np.log(CLASSES))
    assert scalars(study, "sigmoid", "mean/grad_norm/total")[8] == pytest.approx(stats.gmean(norm.loc[8]))
    first = curve(study, "softmax", "confirm", "val/accuracy")
    gap = (curve(study, "sigmoid", "confirm", "val/accuracy").to_numpy() - first.to_numpy())[-1]
    lower, _ = stats.t.interval(0.95, 3, gap.mean(), stats.sem(gap))
    last = first.index[-1]
    assert scalars(study, "sigmoid", "difference/val/accuracy")[last] == pytest.approx(gap.mean(), abs=1e-6)
    assert scalars(study, "sigmoid", "difference_lower/val/accuracy")[last] == pytest.approx(lower, abs=1e-6)
    assert set(scalars(study, "softmax", "difference/val/accuracy").values()) == {0.0}


def test_a_diverged_run_counts_as_a_guess_from_there_on(tmp_path):
    study = make_study(tmp_path / "s", seeds=4, diverged=[("sigmoid", 0.1, 5)])
    write_curves(read_study(study))
    values_SR = curve(study, "sigmoid", "confirm", "val/accuracy")
    assert values_SR.iloc[-1].isna().sum() == 1
    expected = values_SR.iloc[-1].fillna(1 / CLASSES).mean()
    assert scalars(study, "sigmoid", "mean/val/accuracy")[values_SR.index[-1]] == pytest.approx(expected)


def test_before_an_arm_is_confirmed_its_searched_seeds_are_shown(tmp_path):
    study = make_study(tmp_path / "s", seeds=3)
    for run in (study / "runs").glob("head=sigmoid,*"):
        if json.loads((run / "run.json").read_text())["phase"] == "confirm":
            (run / "run.json").unlink()
    (study / "results.csv").unlink()
    write_curves(read_study(study))
    searched, confirmed = curve(study, "sigmoid", "search", "val/nll"), curve(study, "softmax", "confirm", "val/nll")
    for arm, values_SR in (("sigmoid", searched), ("softmax", confirmed)):
        expected = values_SR.iloc[-1].mean() / np.log(CLASSES)
        assert list(scalars(study, arm, "mean/val/nll_over_ln_K").values())[-1] == pytest.approx(expected)


def test_a_study_in_progress_fills_its_page(tmp_path, monkeypatch):
    """With one seed first, whose band has no width, then with more."""
    monkeypatch.setattr("headtohead.report.dashboard.PAUSE", 0.05)
    whole, study = make_study(tmp_path / "whole", seeds=3), tmp_path / "live"
    (study / "runs").mkdir(parents=True)
    write_atomically(study / "study.json", (whole / "study.json").read_bytes())

    def bring(seed):
        for run in (whole / "runs").glob(f"*,seed={seed}"):
            write_run(study / "runs" / run.name, read_run(run), read_history(run).to_dict("records"))

    def until(condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def mean():
        # The page may have been opened but not yet filled.
        seen = EventAccumulator(str(study / "arms" / "softmax")).Reload()
        whole = {"mean/val/accuracy", "mean_upper/val/accuracy"} <= {*seen.Tags()["scalars"]}
        return scalars(study, "softmax", "mean/val/accuracy") if whole else {}

    def band_has_a_width():
        means, uppers = mean(), scalars(study, "softmax", "mean_upper/val/accuracy")
        return any(upper > means[step] for step, upper in uppers.items() if step in means)

    with Live(study):
        bring(0)
        until(lambda: (study / "arms" / "softmax").is_dir() and mean())
        assert not band_has_a_width()
        bring(1)
        until(band_has_a_width)
    points = EventAccumulator(str(study / "arms" / "softmax")).Reload().Scalars("mean/val/accuracy")
    assert [point.step for point in points] == sorted({point.step for point in points})


def test_a_broken_record_does_not_take_the_page_along(tmp_path):
    study = make_study(tmp_path / "s", seeds=3)
    broken = read_study(study).final.run.iloc[0]
    (study / "runs" / broken / "run.json").write_text("{")
    (study / "arms").mkdir()
    (study / "arms" / "notes.txt").write_text("kept")
    write_dashboard(*write_report(study))
    assert scalars(study, "softmax", "mean/val/accuracy") and (study / "arms" / "notes.txt").exists()


def test_the_page_of_a_finished_study(tmp_path):
    study = make_study(tmp_path / "s", seeds=3)
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, 50)
    for run in (study / "runs").iterdir():
        activations = rng.random((50, CLASSES)).astype(np.float32)
        predictions = {"label": label, "prediction": activations.argmax(1), "activations": activations}
        write_arrays(run / "predictions.npz", predictions)
    images = rng.integers(0, 255, (2, 1, 8, 8)).astype(np.uint8)
    write_arrays(study / "examples.npz", {"index": np.array([3, 7]), "inputs": images})
    stale = study / "arms" / "gone"
    stale.mkdir(parents=True)
    summary, drawings = write_report(study, pictures=True)
    write_dashboard(summary, drawings)

    assert {path.name for path in (study / "arms").iterdir()} == {"softmax", "sigmoid", "all arms"}
    together = EventAccumulator(str(study / "arms" / "all arms")).Reload()
    names = {drawing.name for drawing in drawings}
    assert {"confusion", "ambiguous_examples", "reliability"} <= names
    assert {f"figure/{name}" for name in names} == set(together.Tags()["images"])
    for name in names:
        (image,) = together.Images(f"figure/{name}")
        assert image.encoded_image_string.startswith(b"\x89PNG") and image.width == 1000
    (page,) = together.Tensors("verdicts")
    text = page.tensor_proto.string_val[0].decode()
    assert summary.answer.headline in text and "| sigmoid" not in text
    assert text.count("softmax against sigmoid") == len(summary.verdicts)
    curves = EventAccumulator(str(study / "arms" / "softmax")).Reload().Tags()["tensors"]
    assert {"all classes", *(f"class/{label}" for label in range(CLASSES))} <= set(curves)
