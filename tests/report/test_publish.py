"""Published studies, and the matrix of all."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from specs import marks, panels

from headtohead.analysis.study import read_study
from headtohead.options import ConfigError
from headtohead.record.files import without_home
from headtohead.record.study import Range
from headtohead.report.content import SYMBOLS
from headtohead.report.figures import FIGURES
from headtohead.report.overview import COLUMN_WIDTH, LEFT, PAGE_WIDTH, draw_matrix, read_columns
from headtohead.report.publish import PUBLISHED, publish, question, without_folders
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study

CONTEXTS = {
    f"classes={classes},{head}": [f"dataset.classes={classes}", f"head={head}"]
    for classes in (2, 10)
    for head in ("softmax", "sigmoid")
}


def published(outputs, name, experiments, **options):
    study = make_study(outputs / name, **{"seeds": 4} | options)
    publish(*write_report(study), experiments / name)
    return study


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    arms = ("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean")
    published(folder / "outputs", "digits", folder / "experiments", arms=arms)
    published(folder / "outputs", "classes", folder / "experiments", arms=CONTEXTS)
    return folder / "experiments"


def test_a_study_is_published_whole_and_small(experiments):
    files = {str(path) for path in snapshot(experiments / "digits")}
    figures = {"figures/seeds.svg", "figures/learning_rates.svg", "figures/shared_rate.svg"}
    assert files == {"README.md", "results.csv", "blocks.csv", "verdicts.json"} | figures
    assert {str(path) for path in snapshot(experiments / "classes")} == files | {"figures/settings.svg"}
    assert all(len(content) < 300_000 for content in snapshot(experiments).values())
    text = (experiments / "digits/README.md").read_text(encoding="utf-8")
    assert text.startswith("# digits\n\n**Does softmax beat sigmoid on a small real dataset")
    assert "\n\nCost: 340 runs" in text and "\n\nExpected: no head" in text and "Command:" not in text
    assert "\n    headtohead experiment=digits\n" in text
    assert all(f"]({path})" in text for path in figures)
    outputs = experiments.parent / "outputs"
    assert (experiments / "digits/verdicts.json").read_bytes() == (outputs / "digits/verdicts.json").read_bytes()
    ours, theirs = (pd.read_csv(folder / "digits/results.csv") for folder in (experiments, outputs))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6, check_dtype=False)


def test_a_study_with_ranges_is_published_with_its_tuning(tmp_path):
    space = {"optimizer.lr": Range(0.001, 1, True)} | {f"optimizer.a{place}": Range(0, 1, False) for place in range(4)}
    arms = ("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean")
    published(tmp_path / "outputs", "x", tmp_path / "experiments", arms=arms, seeds=2, space=space, trials=64)
    files = snapshot(tmp_path / "experiments/x")
    figures = {"figures/seeds.svg", "figures/budget.svg", "figures/tuned_settings.svg"}
    assert {str(path) for path in files} == {"README.md", "results.csv", "blocks.csv", "verdicts.json"} | figures
    assert all(len(files[Path(name)]) < 300_000 for name in figures)
    text = files[Path("README.md")].decode()
    assert all(f"]({path})" in text for path in figures)
    header = " | ".join(["arm", "best by", "trial", *space, "validation accuracy, %", "validation NLL"])
    assert f"\n| {header} |\n" in text and "\n| setting | arm | of accuracy, % |" in text


def test_every_verdict_stands_in_the_readme(experiments):
    verdicts = json.loads((experiments / "classes/verdicts.json").read_text())["claims"]
    text = (experiments / "classes/README.md").read_text(encoding="utf-8")
    for row in verdicts:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {row['claim']}: ")]
        place = list(SYMBOLS).index(row["verdict"])
        settings = dict(part.split(": ") for part in line.split("|")[2 + place].strip().split("; "))
        setting, _, head = row["versus"].partition(",")
        assert head in settings[setting].split(", ")


def test_the_same_records_and_remarks_give_the_same_bytes(tmp_path):
    study = published(tmp_path / "outputs", "digits", tmp_path / "experiments")
    remarks = tmp_path / "experiments/digits/remarks.md"
    remarks.write_text("The test split is *small*: /see/this | that.\n")
    for name in ("training", "mine"):
        (tmp_path / f"experiments/digits/figures/{name}.svg").write_text("<svg/>")
    publish(*write_report(study), tmp_path / "experiments/digits")
    once = snapshot(tmp_path / "experiments")
    publish(*write_report(study), tmp_path / "experiments/digits")
    assert snapshot(tmp_path / "experiments") == once
    text = (tmp_path / "experiments/digits/README.md").read_text(encoding="utf-8")
    assert text.endswith("## Remarks\n\nThe test split is *small*: /see/this | that.\n")
    assert remarks.read_text().startswith("The test split") and not list(
        tmp_path.glob("experiments/*/figures/training.svg")
    )
    assert list(tmp_path.glob("experiments/*/figures/mine.svg")), "a figure that is not ours stays"


def test_no_path_of_the_machine_is_published(tmp_path):
    study = make_study(tmp_path / "study", seeds=4, failed=[("sigmoid", 1.0, 0)])
    content = json.loads((study / "study.json").read_text())
    command = [*content["command"], "dataset.root=/home/me/data", "+x=[~/a/b.csv,/c]"]
    (study / "study.json").write_text(json.dumps(content | {"command": command}))
    for path in study.glob("runs/*/run.json"):
        if '"failed"' in path.read_text():
            run = json.loads(path.read_text())
            run["error"] = run["error"].replace("made up", f"no file {tmp_path}/runs/x.npz")
            path.write_text(json.dumps(run | {"checksum": ""}))
    publish(*write_report(study), tmp_path / "experiments/study")
    text = (tmp_path / "experiments/study/README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "/home" not in text and "~/" not in text
    assert "dataset.root=…/data" in text and "…/b.csv,…/c" in text and "no file …/x.npz" in text


@pytest.mark.parametrize("text", ["NLL / ln K", "1/80", "a/b.csv", "figures/x.svg", "</details>", "https://x.org/y"])
def test_what_is_no_absolute_path_stays(text):
    assert without_folders(text) == text


def test_a_study_that_is_no_experiment_has_no_question(tmp_path):
    for name in ("mine", "../config"):
        study = make_study(tmp_path / "study", seeds=2, claims={"accuracy": ACCURACY}, records=False)
        content = json.loads((study / "study.json").read_text())
        (study / "study.json").write_text(json.dumps(content | {"common": [f"experiment={name}"]}))
        assert question(read_study(study)) == []


def test_the_question_keeps_its_paragraphs_and_code(tmp_path):
    study = make_study(tmp_path / "control_mean", seeds=2, claims={"accuracy": ACCURACY}, records=False)
    kinds = [kind for kind, _ in question(read_study(study))]
    assert kinds == ["text", "text", "code", "text", "text"]


def test_a_study_is_not_published_onto_itself(tmp_path):
    study = make_study(tmp_path / "study", seeds=2, claims={"accuracy": ACCURACY})
    before = (study / "results.csv").read_bytes()
    with pytest.raises(ConfigError, match="--to"):
        publish(*write_report(study), study)
    assert (study / "results.csv").read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"claims": 3}', '{"claims": [{"verdict": "maybe"}]}'])
def test_a_broken_neighbour_is_named(tmp_path, text):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/verdicts.json").write_text(text)
    with pytest.raises(ConfigError, match=r"old/verdicts\.json"):
        read_columns(tmp_path)


# The matrix


def test_the_matrix_has_a_column_per_study_and_context(experiments):
    columns, sentences = read_columns(experiments)
    assert [column.title for column in columns] == ["classes=2 *", "classes=10 *", "digits"]
    assert [column.rival for column in columns] == ["sigmoid", "sigmoid", "sigmoid_prior"]
    verdicts = json.loads((experiments / "digits/verdicts.json").read_text())["claims"]
    assert list(sentences) == list(dict.fromkeys(row["claim"] for row in verdicts))
    table = {(row["claim"], row["versus"]): row["verdict"] for row in verdicts}
    markdown = (experiments / "matrix.md").read_text(encoding="utf-8")
    for claim in sentences:
        proper, naive = table[claim, "sigmoid_prior"], table[claim, "sigmoid_mean"]
        assert (columns[2].proper[claim], columns[2].naive[claim]) == (proper, naive)
        (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {claim}: ")]
        assert line.endswith(f"| {SYMBOLS[proper]} / {SYMBOLS[naive]} |")


def test_the_matrix_is_one_small_figure_with_a_mark_per_verdict(experiments):
    columns, sentences = read_columns(experiments)
    columns = [column for column in columns for _ in range(8)]
    drawing = draw_matrix(columns, list(sentences))
    assert len(drawing.svg.encode()) < 300_000
    words = " ".join(ElementTree.fromstring(drawing.svg).itertext())
    assert all(claim in words for claim in sentences) and "supported" in words
    marked = sum(len(column.proper) + len(column.naive) for column in columns)
    squares = [rows for mark, rows in marks(drawing) if mark == "point"]
    assert sum(map(len, squares)) == marked + 4  # those of the legend


def test_a_claim_that_was_not_judged_has_no_mark(tmp_path):
    claims = {"accuracy": ACCURACY, "beauty": ACCURACY | {"metric": "test_beauty"}}
    published(tmp_path / "outputs", "digits", tmp_path / "experiments", claims=claims)
    ((column,), sentences) = read_columns(tmp_path / "experiments")
    assert set(column.proper) == {"accuracy"} and set(sentences) == set(claims)
    assert "| – |" in (tmp_path / "experiments/matrix.md").read_text(encoding="utf-8")


def test_a_matrix_of_many_studies_goes_on_below(experiments):
    columns, sentences = read_columns(experiments)
    many = [replace(column, study=f"{column.study}{copy}") for copy in range(12) for column in columns]
    drawing = draw_matrix(many, list(sentences))
    assert panels(drawing)[0]["width"] <= PAGE_WIDTH + 10
    texts = [row.get("text") for mark, rows in marks(drawing) if mark == "text" for row in rows]
    titles = {column.title for column in many}
    assert sorted(text for text in texts if text in titles) == sorted(column.title for column in many)
    lines = -(-len(many) * COLUMN_WIDTH // (PAGE_WIDTH - LEFT))
    assert texts.count("accuracy") >= lines > 1


def test_studies_without_a_sigmoid_leave_no_matrix(tmp_path):
    published(tmp_path / "outputs", "x", tmp_path / "experiments", arms=("softmax",), claims={"accuracy": ACCURACY})
    assert not (tmp_path / "experiments/matrix.md").exists()
    assert (tmp_path / "experiments/x/README.md").exists()


def test_figures_that_answer_are_known():
    assert {*PUBLISHED} <= {*FIGURES}


def test_a_report_publishes_on_request(command, tmp_path):
    make_study(tmp_path / "outputs/digits", seeds=4)
    result = command("report", "outputs/digits", "--to", "experiments/digits")
    assert result.status == 0, result.err
    assert "experiments/digits/README.md" in result.out
    assert (tmp_path / "experiments/matrix.md").is_file() and (tmp_path / "experiments/matrix.svg").is_file()
    refused = command("report", "outputs/digits", "--to", "outputs/digits")
    assert refused.status == 2 and "--to=outputs/digits: another folder" in refused.err


# What must stay


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "verdicts.json", ".git"])
def test_a_folder_that_is_no_published_study_is_left_alone(command, tmp_path, name):
    make_study(tmp_path / "outputs/digits", seeds=2, claims={"accuracy": ACCURACY})
    target = tmp_path / "experiments"
    target.mkdir()
    (target / name).write_text("by hand")
    refused = command("report", "outputs/digits", "--to", "experiments")
    assert refused.status == 2 and "--to=experiments: holds other files" in refused.err and name in refused.err
    assert snapshot(target) == {Path(name): b"by hand"} and not (tmp_path / "matrix.md").exists()


def test_a_file_and_a_hand_written_overview_are_left_alone(tmp_path):
    study = make_study(tmp_path / "outputs/digits", seeds=2, claims={"accuracy": ACCURACY})
    report = write_report(study)
    (tmp_path / "file").write_text("by hand")
    with pytest.raises(ConfigError, match="file: is no folder"):
        publish(*report, tmp_path / "file")
    for name in ("matrix.md", "matrix.svg"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("by hand")
        with pytest.raises(ConfigError, match=f"beside it lies .*{name}"):
            publish(*report, folder / "digits")
        assert snapshot(folder) == {Path(name): b"by hand"}


def test_remarks_may_come_before_the_study(tmp_path):
    study = make_study(tmp_path / "outputs/digits", seeds=2, claims={"accuracy": ACCURACY})
    (tmp_path / "experiments/digits").mkdir(parents=True)
    (tmp_path / "experiments/digits/remarks.md").write_text("Mine.\n")
    publish(*write_report(study), tmp_path / "experiments/digits")
    assert "Mine." in (tmp_path / "experiments/digits/README.md").read_text()


def test_no_file_names_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/data/jürgen")
    roots = {f"root=/data/jürgen/{name},{head}": name for name in "ab" for head in ("softmax", "sigmoid")}
    arms = {arm: [f"dataset.root=/data/jürgen/{name}", f"head={arm.split(',')[1]}"] for arm, name in roots.items()}
    # As this release writes it, and as an older one did.
    study = make_study(tmp_path / "outputs/digits", seeds=2, arms={without_home(arm): arms[arm] for arm in arms})
    text = (study / "study.json").read_text().replace("~/", "/data/j\\u00fcrgen/")
    assert text.count("j\\u00fcrgen") > 8
    for content in (None, text):
        if content:
            (study / "study.json").write_text(content.replace('"root=/data/j\\u00fcrgen', '"root=~'))
        publish(*write_report(study), tmp_path / "experiments/digits")
        kept = [path for path in snapshot(tmp_path) if content is None or path.name != "study.json"]
        assert len(kept) > 20
        for path in kept:
            written = (tmp_path / path).read_text(encoding="utf-8", errors="replace")
            assert "jürgen" not in written and "u00fcrgen" not in written, path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root=/data/me/x", "root=~/x"),
        ("/data/me", "~"),
        ("'/data/me/x','/data/me'", "'~/x','~'"),
        ("file:///data/me/x", "file://~/x"),
        ("/data/merlin /data/me.old /data/me-2 /srv/data/me ~/data/me", None),
    ],
)
def test_a_home_folder_is_one_where_a_path_begins_with_it(monkeypatch, text, expected):
    monkeypatch.setenv("HOME", "/data/me")
    assert without_home(text) == (expected or text)
    monkeypatch.setenv("HOME", "/")
    assert without_home(text) == text
