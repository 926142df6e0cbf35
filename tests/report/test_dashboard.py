import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from headtohead.analysis.study import read_study
from headtohead.record.files import write_arrays, write_atomically
from headtohead.record.run import read_history, read_run, write_run
from headtohead.report.dashboard import Live, write_curves, write_dashboard
from headtohead.report.render import write_report
from headtohead.testing import CLASSES, make_study

# Tags of lines, and of a bound of a line's band.
ACCURACY, LEAD, LOSS = "1 ahead/accuracy, %", "1 ahead/accuracy, lead in points", "1 ahead/loss, NLL over ln K"
BOUND = "~ bounds of bands/{}, {}"


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
        values_SR = 100 * curve(study, arm, "confirm", "val/accuracy")
        assert values_SR.shape[1] == 5
        assert scalars(study, arm, ACCURACY).keys() == set(values_SR.index)
        for step, row in values_SR.iloc[1:].iterrows():  # at first all seeds are at chance level
            lower, upper = stats.t.interval(0.95, 4, row.mean(), stats.sem(row))
            assert scalars(study, arm, ACCURACY)[step] == pytest.approx(row.mean(), rel=1e-6)
            assert scalars(study, arm, BOUND.format(ACCURACY, "lower"))[step] == pytest.approx(lower, rel=1e-5)
            assert scalars(study, arm, BOUND.format(ACCURACY, "upper"))[step] == pytest.approx(upper, rel=1e-5)


def test_other_scales(tmp_path):
    study = make_study(tmp_path / "s", seeds=4)
    write_curves(read_study(study))
    nll, norm = (curve(study, "sigmoid", "confirm", tag) for tag in ("val/nll", "grad_norm/total"))
    assert scalars(study, "sigmoid", LOSS)[0] == pytest.approx(nll.loc[0].mean() / np.log(CLASSES))
    assert scalars(study, "sigmoid", "3 gradients/total")[8] == pytest.approx(stats.gmean(norm.loc[8]))
    first = curve(study, "softmax", "confirm", "val/accuracy")
    gap = 100 * (curve(study, "sigmoid", "confirm", "val/accuracy").to_numpy() - first.to_numpy())[-1]
    lower, _ = stats.t.interval(0.95, 3, gap.mean(), stats.sem(gap))
    last = first.index[-1]
    assert scalars(study, "sigmoid", LEAD)[last] == pytest.approx(gap.mean(), abs=1e-4)
    assert scalars(study, "sigmoid", BOUND.format(LEAD, "lower"))[last] == pytest.approx(lower, abs=1e-4)
    assert set(scalars(study, "softmax", LEAD).values()) == {0.0}


def test_a_diverged_run_counts_as_a_guess_from_there_on(tmp_path):
    study = make_study(tmp_path / "s", seeds=4, diverged=[("sigmoid", 0.1, 5)])
    write_curves(read_study(study))
    values_SR = curve(study, "sigmoid", "confirm", "val/accuracy")
    assert values_SR.iloc[-1].isna().sum() == 1
    expected = 100 * values_SR.iloc[-1].fillna(1 / CLASSES).mean()
    assert scalars(study, "sigmoid", ACCURACY)[values_SR.index[-1]] == pytest.approx(expected)


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
        assert list(scalars(study, arm, LOSS).values())[-1] == pytest.approx(expected)


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
        whole = {ACCURACY, BOUND.format(ACCURACY, "upper")} <= {*seen.Tags()["scalars"]}
        return scalars(study, "softmax", ACCURACY) if whole else {}

    def band_has_a_width():
        means, uppers = mean(), scalars(study, "softmax", BOUND.format(ACCURACY, "upper"))
        return any(upper > means[step] for step, upper in uppers.items() if step in means)

    with Live(study):
        bring(0)
        until(lambda: (study / "arms" / "softmax").is_dir() and mean())
        assert not band_has_a_width()
        bring(1)
        until(band_has_a_width)
    points = EventAccumulator(str(study / "arms" / "softmax")).Reload().Scalars(ACCURACY)
    assert [point.step for point in points] == sorted({point.step for point in points})


def test_a_broken_record_does_not_take_the_page_along(tmp_path):
    study = make_study(tmp_path / "s", seeds=3)
    broken = read_study(study).final.run.iloc[0]
    (study / "runs" / broken / "run.json").write_text("{")
    (study / "arms").mkdir()
    (study / "arms" / "notes.txt").write_text("kept")
    write_dashboard(*write_report(study))
    assert scalars(study, "softmax", ACCURACY) and (study / "arms" / "notes.txt").exists()


def test_runs_begin_in_the_order_of_their_colours(tmp_path):
    """TensorBoard sorts them by the time of their first event: the comparison, which has no line, and then the arms."""
    study = make_study(tmp_path / "s", seeds=3)
    write_curves(read_study(study))
    started = [
        EventAccumulator(str(study / "arms" / name)).Reload().FirstEventTimestamp()
        for name in ("all arms", "softmax", "sigmoid")
    ]
    assert started == sorted(set(started)) and started[-1] < time.time() - 1e9, "a run of the study could come first"


def test_a_long_answer_goes_on_in_the_title_of_the_first_chart(tmp_path):
    study = make_study(tmp_path / "s", seeds=3)
    summary, _ = write_report(study)
    for headline, sentences in (("Use this.", "abc"), ("Use this. " * 20, "abcd")):
        answer = replace(summary.answer, headline=headline, sentences=tuple(sentences))
        write_dashboard(replace(summary, answer=answer), [])
        *_, event = EventAccumulator(str(study / "arms" / "all arms")).Reload().Tensors("custom_scalars__config__")
        layout = Layout.FromString(event.tensor_proto.string_val[0])
        assert layout.category[0].title == headline
        more = (headline, "a b c More under Text.") if len(sentences) > 3 else ("a b c",)
        # TensorBoard shows the charts of a category from last to first.
        assert layout.category[0].chart[-1].title == " ".join(["validation accuracy, %.", *more])


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
    tags = sorted(together.Tags()["images"])
    assert tags == [f"figures/{place:02d} {drawing.name}" for place, drawing in enumerate(drawings, 1)]
    last = max(scalars(study, "softmax", ACCURACY))
    for tag in tags:
        (image,) = together.Images(tag)
        assert image.step == last
        assert image.encoded_image_string.startswith(b"\x89PNG") and image.width == 1000
    (page,) = together.Tensors("answer and verdicts")
    text = page.tensor_proto.string_val[0].decode()
    assert summary.answer.headline in text and "| sigmoid" not in text
    assert text.count("softmax against sigmoid") == len(summary.verdicts)
    curves = EventAccumulator(str(study / "arms" / "softmax")).Reload().Tags()["tensors"]
    assert {"all classes", *(f"class/{label}" for label in range(CLASSES))} <= set(curves)
