"""The report of studies that are complete, half-finished, untuned, tiny or broken."""

import gc
import json
import re
import shutil
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from headtohead.analysis.statistics import t_interval
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Summary, summarise
from headtohead.analysis.text import against, in_percent, rivals
from headtohead.options import ConfigError
from headtohead.record.files import write_arrays
from headtohead.record.run import read_results
from headtohead.record.study import Range
from headtohead.report import render
from headtohead.report.content import SYMBOLS
from headtohead.report.dashboard import write_dashboard
from headtohead.report.render import write_report
from headtohead.report.terminal import print_study
from headtohead.testing import ACCURACY, make_study

FIGURES = [
    "ambiguity", "forest", "gradients", "learning_rates", "reliability", "seeds", "shared_rate", "time_to_target",
    "training",
]  # fmt: skip
VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr"}


class Page(HTMLParser):
    """Tables by id as rows of cells, all text, and every element with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.words, self.tables, self.rows, self.marks = [], [], [], {}, {}, []
        self.table = None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(attributes.get("id") or attributes.get("class"), [])
        elif tag == "tr":
            self.table.append([])
            self.rows[attributes.get("id", "")] = self.table[-1]
        elif tag == "a" and attributes.get("class", "").startswith("mark "):
            self.marks.append((attributes["href"][1:], (attributes["class"].split()[1], "")))
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "elements close in the order in which they opened"

    def handle_data(self, data):
        if {"style", "script"} & {*self.open}:
            return
        self.words.append(data)
        if "a" in self.open and self.marks and not self.marks[-1][1][1]:
            self.marks[-1] = (self.marks[-1][0], (self.marks[-1][1][0], data))
        if self.table and self.table[-1] and ("td" in self.open or "th" in self.open):
            self.table[-1][-1] += data


def numbers(text: str) -> list[float]:
    return [float(number.replace("−", "-")) for number in re.findall(r"[−+]?\d+\.?\d*", text)]


def page(study: Path) -> Page:
    return Page((study / "report.html").read_text(encoding="utf-8"))


def warnings(summary: Summary) -> str:
    return "\n".join(check.text for check in summary.checks if check.kind == "warning")


def remarks(summary: Summary) -> str:
    return "\n".join(check.text for check in summary.checks if check.kind == "remark")


def interval_of(comparison):
    return comparison.difference, comparison.lower, comparison.upper


def small(folder: Path, **options) -> Path:
    return make_study(folder, **{"seeds": 4, "claims": {"accuracy": ACCURACY}} | options)


def change(path: Path, **fields) -> None:
    content = json.loads(path.read_text()) | fields
    content.pop("checksum", None)
    path.write_text(json.dumps(content))


def run_file(study: Path, index: int = 0, phase: str = "confirm") -> Path:
    name = json.loads((study / "study.json").read_text())["runs"][phase][index]
    return study / "runs" / name / "run.json"


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """statsmodels collects garbage with every correction, which costs more the more modules a process holds."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A finished study whose report has been written: three arms, diverged and failed runs among them."""
    study = make_study(
        tmp_path_factory.mktemp("outputs") / "digits",
        arms=("softmax", "sigmoid", "sigmoid_mean"),
        effects={"sigmoid_mean": {"val_accuracy": -0.02, "test_accuracy": -0.02}},
        diverged=[("sigmoid", 1.0, None)],
        failed=[("softmax", 0.01, 3)],
    )
    write_report(study)
    return study


def test_the_page_needs_nothing_else(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    parsed = page(study)
    assert not parsed.open
    # Vega's code names addresses that it is never asked to read, and the policy of the page forbids all of them.
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ' in text
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"|<script.*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"https?://|@import|url\((?!#)", outside)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"link", "img", "iframe", "object"}
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        attributes[key] for _, attributes in parsed.elements for key in ("href", "xlink:href") if key in attributes
    ]
    assert links and {link[0] for link in links} == {"#"}
    assert {link[1:] for link in links} <= set(ids)
    assert not any("src" in attributes for _, attributes in parsed.elements)


def test_figures_stand_in_the_page_and_beside_it(study):
    assert sorted(path.stem for path in (study / "figures").glob("*")) == FIGURES
    markdown = (study / "report.md").read_text(encoding="utf-8")
    figures = [attributes["id"] for tag, attributes in page(study).elements if tag == "figure"]
    assert sorted(figures) == [f"figure-{name}" for name in FIGURES]
    assert all(f"(figures/{name}.svg)" in markdown for name in FIGURES)


def test_figures_that_cannot_come_alive_stand_still_with_the_reason(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render, "interactive", fail)
    study = small(tmp_path / "study", seeds=20)
    assert "The figures of report.html stand still (No space left on device)." in remarks(write_report(study)[0])
    text = (study / "report.html").read_text(encoding="utf-8")
    assert text.count("<figure id=") > 5 and "stand still" in text and text.count("<script") == 1


def test_the_numbers_of_the_arms_are_those_of_results_csv(study):
    results = pd.read_csv(study / "results.csv")
    header, *rows = page(study).tables["arms"]
    assert header[0] == "arm"
    assert [row[0] for row in rows] == ["softmax", "sigmoid", "sigmoid_mean"]
    for arm, lr, *cells in rows:
        runs = results[results.arm == arm]
        final = runs[runs.phase == "confirm"]
        means = runs[(runs.phase == "search") & (runs.status != "failed")].groupby("lr").val_accuracy.mean()
        assert float(lr.rstrip("*")) == means.idxmax()
        for cell, metric, scale, digits in zip(
            cells, ("val_accuracy", "test_accuracy", "test_nll"), (100, 100, 1), (2, 2, 3), strict=False
        ):
            interval = t_interval(final[metric])
            assert cell == f"{scale * interval.mean:.{digits}f} ± {scale * interval.half_width:.{digits}f}"
        assert cells[3] == str(final.seed.nunique())
        assert cells[4] == f"{(runs.status == 'diverged').sum()}/{len(runs)}"
        assert cells[5] == f"{(runs.status == 'failed').sum()}/{len(runs)}"


def verdict_rows(parsed: Page) -> dict[str, list[str]]:
    """The rows of verdicts and comparisons, by the anchors that lead to them."""
    return {key: row for key, row in parsed.rows.items() if "claim-" in key}


def test_verdicts_are_those_of_verdicts_json_in_words_and_symbols(study):
    verdicts = json.loads((study / "verdicts.json").read_text())["claims"]
    markdown = (study / "report.md").read_text(encoding="utf-8")
    parsed = page(study)
    rows, marks = verdict_rows(parsed), dict(parsed.marks)
    assert len(rows) == len(verdicts) > 10
    for (anchor, row), verdict in zip(rows.items(), verdicts, strict=True):
        versus, word, words, first, second, change, interval, p, corrected, pairs = row
        assert anchor.startswith(f"claim-{verdict['claim']}-") and versus == verdict["versus"]
        assert word == f"{SYMBOLS[verdict['verdict']]} {verdict['verdict']}" and pairs == str(verdict["seeds"])
        assert marks[anchor] == (verdict["verdict"], SYMBOLS[verdict["verdict"]])
        if verdict["difference"] is not None:
            scale = 100 if in_percent(verdict["metric"]) else 1
            shown = numbers(" ".join([change, interval, first, second]))
            wanted = [scale * verdict[key] for key in ("difference", "lower", "upper", "mean_arm", "mean_versus")]
            room = max(abs(wanted[2] - wanted[1]), abs(wanted[0]), 1e-6)
            assert shown == pytest.approx(wanted, abs=0.06 * room + 1e-3)
            assert numbers(p) == pytest.approx([max(verdict["p"], 0.001)], abs=6e-4)
            assert numbers(corrected) == pytest.approx([max(verdict["p_corrected"], 0.001)], abs=6e-4)
            assert any(start in words for start in ("softmax", "Softmax", "sigmoid"))
    claimed = markdown[markdown.index("## Common claims") : markdown.index("## The answer in numbers")]
    for word in ("supported", "refuted", "equivalent", "inconclusive"):
        count = sum(verdict["verdict"] == word for verdict in verdicts)
        assert f"{SYMBOLS[word]} {count} {word}" in claimed
        assert claimed.count(f"| {SYMBOLS[word]} {word} |") == claimed.count(f"- {SYMBOLS[word]} **{word}**: ") == count
    for verdict, row in zip(verdicts, rows.values(), strict=True):
        assert f"“{verdict['sentence']}”" in markdown and f"“{verdict['sentence']}”" in parsed.text
        assert row[2].partition(". ")[0].replace("_", "") in claimed.replace("_", "")


def test_the_same_records_give_the_same_bytes(study):
    def snapshot():
        files = [study / "results.csv", *study.glob("report.*"), *study.glob("verdicts.json"), *study.glob("figures/*")]
        return {path: path.read_bytes() for path in files}

    before = snapshot()
    write_report(study)
    assert snapshot() == before


@pytest.mark.parametrize("width", [80, 60])
def test_the_short_form_fits_the_terminal(study, width):
    console = Console(file=StringIO(), width=width, color_system=None)
    print_study(study, console)
    text = console.file.getvalue()
    summary = summarise(study)
    *body, results, report, board = text.rstrip().splitlines()
    assert max(map(len, body)) <= width
    assert [line.split()[-1] for line in (results, report, board)] == [
        str(study / name) for name in ("results.csv", "report.html", "")
    ]
    joined = " ".join(text.split())
    assert summary.answer.headline in joined
    for verdict in summary.verdicts:
        assert f"{SYMBOLS[verdict.verdict]} {verdict.verdict}" in joined
    assert all(check.text in joined for check in summary.checks if check.kind == "warning")
    if width == 80:
        assert re.search(r"^sigmoid_mean +0\.1 +\S+ ± \S+ +\S+ ± \S+ +\S+ ± \S+ +0/40 *$", text, re.MULTILINE)


def test_how_it_was_done_is_told(study):
    parsed = page(study)
    assert "headtohead experiment=digits" in parsed.text
    differing = {row[0]: row[1:] for row in parsed.tables["differing"]}
    assert differing["head.name"] == ["softmax", "sigmoid", "sigmoid"]
    assert "optimizer.lr" not in differing and "seed" not in differing
    assert ["training.epochs", "20"] in parsed.tables["shared"]
    facts = dict(parsed.tables["facts"])
    assert facts["search seeds"] == "0-9" and facts["confirm seeds"] == "10-19"
    assert ["torch", "2.11.0"] in parsed.tables["versions"]


# The answer


def test_a_head_that_is_better_than_all_others_is_recommended(tmp_path):
    worse = {"val_accuracy": -0.03, "test_accuracy": -0.03}
    study = small(tmp_path / "study", seeds=10, effects={"softmax": worse})
    answer = summarise(study).answer
    assert answer.headline == "Use sigmoid at learning rate 0.1: it is better than every other arm."
    (comparison,) = answer.comparisons
    results = pd.read_csv(study / "results.csv")
    table = results[results.phase == "confirm"].pivot(index="seed", columns="arm", values="test_accuracy")
    # The verdict on the claim about accuracy, whose test examples count as a source of error too.
    verdict = next(row for row in summarise(study).verdicts if row.claim == "accuracy")
    assert interval_of(comparison) == (-verdict.difference, -verdict.upper, -verdict.lower)
    assert comparison.difference == pytest.approx((table.sigmoid - table.softmax).mean())
    assert comparison.decision == "better" and comparison.seeds == 10


def test_equivalent_heads_are_called_so(tmp_path):
    answer = summarise(small(tmp_path / "study", seeds=10, noise=0.2)).answer
    assert re.fullmatch(r"Use (\w+) at learning rate 0\.1, or (\w+), which is equivalent\.", answer.headline)


def test_an_undecided_answer_tells_what_the_next_look_could_decide(tmp_path):
    summary = summarise(small(tmp_path / "study", noise=2.0))
    assert summary.answer.headline.startswith("No difference in test accuracy was shown between")
    (comparison,) = summary.answer.comparisons
    assert 0 < comparison.next_power < 1
    power = comparison.next_power
    decides = "hardly decide it" if power < 0.05 else f"decide it in about {100 * power:.0f} of 100 studies"
    assert any(f"undecided against {comparison.versus} (" in text for text in summary.answer.sentences)
    assert any(f"; {2 * comparison.seeds} seeds would {decides}" in text for text in summary.answer.sentences)


def test_the_answer_and_the_verdicts_never_disagree(tmp_path):
    effects = {"softmax": {"val_accuracy": -0.01, "test_accuracy": -0.01}}
    study = small(tmp_path / "study", seeds=10, arms=("softmax", "sigmoid", "sigmoid_prior"), effects=effects)
    summary = summarise(study)
    verdict = next(row for row in summary.verdicts if row.versus == summary.answer.headline.split()[1])
    comparison = next(item for item in summary.answer.comparisons if item.versus == "softmax")
    assert (verdict.verdict, comparison.decision) == ("refuted", "better")
    assert interval_of(comparison) == pytest.approx((-verdict.difference, -verdict.upper, -verdict.lower))
    assert comparison.p_corrected == verdict.p_corrected


def test_the_choice_is_made_on_validation_not_on_test(tmp_path):
    effects = {"softmax": {"val_accuracy": 0.03, "test_accuracy": -0.03}}
    headline = summarise(small(tmp_path / "study", seeds=10, effects=effects)).answer.headline
    assert headline == "Use sigmoid at learning rate 0.1: it is better than softmax, which validation favours."


def test_better_probabilities_are_mentioned(tmp_path):
    effects = {"softmax": {"val_accuracy": 0.02}, "sigmoid": {"val_nll": -0.08, "test_nll": -0.08}}
    sentences = summarise(small(tmp_path / "study", seeds=10, effects=effects)).answer.sentences
    assert "The probabilities of sigmoid are better (lower NLL): prefer it where they matter." in sentences


def test_every_setting_of_the_heads_has_an_answer(tmp_path):
    arms = {
        f"{head},dropout={share}": [f"head={head}", f"model.dropout={share}"]
        for share in (0.0, 0.5)
        for head in ("softmax", "sigmoid")
    }
    worse, better = ({"val_accuracy": change, "test_accuracy": change} for change in (-0.03, 0.03))
    effects = {"softmax,dropout=0.0": worse, "softmax,dropout=0.5": better}
    answer = summarise(small(tmp_path / "study", seeds=10, arms=arms, effects=effects)).answer
    assert answer.headline == "An answer for each of 2 settings."
    for sentence, share, head in zip(answer.sentences, ("0.0", "0.5"), ("sigmoid", "softmax"), strict=True):
        best = f"Use {head} at learning rate 0.1: it is better than every other arm."
        assert sentence == f"model.dropout={share}: {best}"
    assert [item.decision for item in answer.comparisons] == ["better", "better"]
    assert [item.versus for item in answer.comparisons] == ["softmax,dropout=0.0", "sigmoid,dropout=0.5"]


def test_what_holds_across_settings_stands_above_the_verdicts_of_settings(tmp_path, study):
    arms = {
        f"{data},{head}": [f"dataset={data}", f"head={head}"]
        for data in ("iris", "wine", "digits")
        for head in ("softmax", "sigmoid", "sigmoid_mean")
    }
    claims = {"accuracy": ACCURACY | {"weight": 0.25}, "val_nll": ACCURACY | {"metric": "val_nll", "margin": 0.02}}
    folder = small(tmp_path / "several", arms=arms, claims=claims, failed=[("wine,sigmoid", None, None)])
    summary, _ = write_report(folder)
    rows = json.loads((folder / "verdicts.json").read_text())["settings"]
    assert [(row["claim"], row["versus_head"], row["settings"]) for row in rows] == [
        (claim, head, count)
        for claim in ("accuracy", "val_nll")
        for head, count in (("sigmoid", 2), ("sigmoid_mean", 3))
    ]
    shown = [row for key, row in page(folder).rows.items() if key.startswith("across-")]
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for cells, row in zip(shown, rows, strict=True):
        scale = 100 if row["metric"].endswith("accuracy") else 1
        versus, word, words, change, interval, predicted, _, _, _, settings = cells
        assert versus == row["versus_head"] and settings == str(row["settings"])
        keys = ("difference", "lower", "upper", "predicted_lower", "predicted_upper")
        wanted = [scale * row[key] for key in keys if row[key] is not None]
        assert numbers(change + interval + predicted) == pytest.approx(wanted, abs=0.06 * (wanted[2] - wanted[1]))
        assert predicted == "-" if row["settings"] == 2 else predicted.startswith("[")
        assert word == f"{SYMBOLS[row['verdict']]} {row['verdict']}" and words.startswith("Over ")
        assert f"| {settings} | {change} {interval} | {predicted} |" in markdown
    assert "Not judged in 1 of 3 settings" in shown[0][2]
    assert (
        markdown.index("## Across settings") < markdown.index("## Common claims") < markdown.index("## The answer in")
    )
    parsed = page(folder)
    folded = [
        attributes for tag, attributes in parsed.elements if tag == "details" and attributes.get("class") == "setting"
    ]
    assert len(folded) == 3 and parsed.text.index("Across settings #") < parsed.text.index("Each setting #")
    for name, text in summary.answer.by_setting:
        assert f"{name} {text}" in parsed.text and f"{name}: {text}" in summary.answer.sentences
    console = Console(record=True, width=80, file=StringIO())
    print_study(summary, console)
    assert "common claims across settings" in console.export_text()
    assert not any(key.startswith("across-") for key in page(study).rows)
    assert "## Across" not in (study / "report.md").read_text(encoding="utf-8")


def test_what_two_arms_share_is_said_once():
    assert against("softmax", "sigmoid") == "softmax against sigmoid"
    assert against("noise=0.2,softmax", "noise=0.2,sigmoid") == "noise=0.2: softmax against sigmoid"
    assert against("softmax,widths=[8,8]", "sigmoid,widths=[8,8]") == "widths=[8, 8]: softmax against sigmoid"
    # Nothing would be left of the first.
    assert against("softmax", "softmax,bias=1") == "softmax against softmax,bias=1"
    assert rivals([("softmax", "sigmoid"), ("softmax", "mean")]) == "sigmoid, mean"
    pairs = [("x=1,softmax", "x=1,sigmoid"), ("x=1,softmax", "x=1,mean"), ("x=2,softmax", "x=2,sigmoid")]
    assert rivals(pairs) == "x=1: sigmoid, mean; x=2: sigmoid"


# What could be wrong


def test_a_clean_study_has_no_warning(tmp_path):
    study = small(tmp_path / "study", seeds=20)
    summary, _ = write_report(study)
    assert summary.checks == []
    assert "No check found anything" in page(study).text
    assert "Warning" not in (study / "report.md").read_text(encoding="utf-8")


def test_an_untuned_study_says_so_first(tmp_path):
    study = small(tmp_path / "study", seeds=20, tuned=False)
    summary, _ = write_report(study)
    parsed = page(study)
    assert "not tuned" in parsed.text[:600]
    assert parsed.text.index("not tuned") < parsed.text.index("Common claims")
    assert "The arms are not tuned: all of them ran at one learning rate, 0.1" in warnings(summary)
    assert "no arm is tuned" in summary.answer.headline
    assert not (study / "figures" / "learning_rates.svg").exists()


def test_a_rate_on_the_edge_of_the_grid_and_an_extended_grid_are_told(tmp_path):
    study = small(tmp_path / "study", best_lr={"softmax": 1.0, "sigmoid": 0.1})
    protocol = json.loads((study / "study.json").read_text())["protocol"]
    change(study / "study.json", protocol=protocol | {"extended": {"below": 0, "above": 2}})
    summary, _ = write_report(study)
    listed = warnings(summary)
    assert "softmax may not be tuned: its best learning rate, 1, is the highest of the grid (0.01 to 1)" in listed
    assert "sigmoid may not be tuned" not in listed
    assert "extended the grid of every arm by learning rates (2 above)" in remarks(summary)
    assert [row[1] for row in page(study).tables["arms"][1:]] == ["1*", "0.1"]


@pytest.mark.parametrize(("seeds", "kind"), [(5, "warning"), (12, "remark"), (20, None)])
def test_few_seeds_are_told(tmp_path, seeds, kind):
    checks = summarise(small(tmp_path / "study", seeds=seeds)).checks
    assert {check.kind for check in checks if "seed" in check.text and str(seeds) in check.text} == {kind} - {None}


def test_too_few_test_examples_are_told(tmp_path):
    study = small(tmp_path / "study")
    for path in (study / "runs").glob("*/run.json"):
        blocks = json.loads(path.read_text())["blocks"]
        change(path, blocks={name: values[:3] for name, values in blocks.items()})
    assert "Few test examples: 270 make 3 blocks" in warnings(summarise(study))


def test_diverged_and_failed_runs_are_counted_with_their_reason(study, tmp_path):
    summary = summarise(study)
    assert "1 run failed: head=softmax,optimizer.lr=0.01,seed=3. RuntimeError: made up." in warnings(summary)
    assert "10 runs diverged (10 of sigmoid). A diverged run counts at chance level." in remarks(summary)
    at_best = summarise(small(tmp_path / "study", diverged=[("sigmoid", 0.1, 4)]))
    assert "1 run diverged (1 of sigmoid), 1 of them at a chosen learning rate" in warnings(at_best)


def test_mixed_devices_versions_commits_and_packs_are_told(tmp_path):
    study = small(tmp_path / "study")
    path = run_file(study)
    environment = json.loads(path.read_text())["environment"]
    versions = environment["versions"] | {"torch": "2.12.0"}
    environment |= {"device": "cuda:0", "device_name": "NVIDIA H200", "versions": versions, "commit": "abc+"}
    change(path, environment=environment, pack={"size": 1, "mode": "vmap", "chosen_by": "user", "threads": 1})
    summary = summarise(study)
    for what in ("devices: cpu x86_64", "versions of torch: 2.11.0", "commits: 0123", "pack modes: stacked"):
        assert f"Mixed {what}" in warnings(summary)
    assert "The code differed from its commit" in remarks(summary)


def test_records_of_other_configs_under_one_name_are_told(tmp_path):
    study = small(tmp_path / "study")
    path = run_file(study, phase="search")
    config = json.loads(path.read_text())["config"]
    change(path, config=config | {"training": config["training"] | {"epochs": 3}})
    listed = warnings(summarise(study))
    assert f"1 run of softmax, such as {path.parent.name}, differ from the rest in training.epochs" in listed


def test_runs_of_earlier_commands_are_left_out_but_named(tmp_path):
    study = small(tmp_path / "study")
    content = json.loads((study / "study.json").read_text())
    runs = {phase: [run for run in names if "softmax" in run] for phase, names in content["runs"].items()}
    protocol = content["protocol"] | {"best": {"val_accuracy": {"softmax": {"lr": 0.1}}}}
    change(study / "study.json", arms={"softmax": content["arms"]["softmax"]}, runs=runs, protocol=protocol)
    summary = summarise(study)
    assert "16 runs in the folder belong to earlier commands" in remarks(summary)
    assert [arm.arm for arm in summary.arms] == ["softmax"]
    assert summary.answer.headline.startswith("Only softmax at learning rate 0.1 has run")


# Studies that tune ranges


@pytest.fixture(scope="module")
def ranged(tmp_path_factory):
    """A study of arms of which one lacks a setting, with another best trial by the NLL than by the accuracy."""
    study = make_study(
        tmp_path_factory.mktemp("outputs") / "ranged",
        seeds=4,
        space={"optimizer.lr": Range(0.001, 1, True), "head.temperature": Range(0.5, 2, True)},
        trials=16,
        best_lr_of_nll=0.01,
        lacks={"sigmoid": ["head.temperature"]},
    )
    return write_report(study)[0]


def test_the_chosen_trials_are_shown_with_their_settings(ranged):
    study = ranged.study
    page = Page((study.folder / "report.html").read_text())
    table = pd.read_csv(study.folder / "results.csv").groupby(["arm", "trial"]).first()
    head, *rows = page.tables["chosen"]
    assert head[:5] == ["arm", "best by", "trial", "optimizer.lr", "head.temperature"] and len(rows) == 4
    for arm, criterion, trial, lr, temperature, *_ in rows:
        assert int(trial) == study.best_by(criterion)[arm].number
        assert lr == f"{table.loc[(arm, int(trial)), 'optimizer.lr']:.4g}"
        own = table.loc[(arm, int(trial)), "head.temperature"]
        assert temperature == ("-" if arm == "sigmoid" else f"{own:.4g}")
    assert "softmax has one setting more than the others (head.temperature) for the same number of trials." in page.text
    markdown = (study.folder / "report.md").read_text()
    assert all(f"| {row[0]} | {row[1]} | {row[2]} | {row[3]} | {row[4]} |" in markdown for row in rows)
    best = study.best["softmax"]
    assert page.tables["arms"][0][1] == "best trial" and page.tables["arms"][1][1].rstrip("*") == str(best.number)


def test_the_terminal_shows_the_chosen_trials_shortly(ranged):
    sink = StringIO()
    print_study(ranged, Console(file=sink, width=120))
    for row in ranged.tuning.chosen:
        settings = ", ".join(f"{key.partition('.')[2]} {value:.3g}" for key, value in row.settings.items())
        assert f"{row.trial.number} by {row.criteria[0]}: {settings}" in sink.getvalue()


def test_settings_that_mattered_come_first(ranged):
    page = Page((ranged.study.folder / "report.html").read_text())
    _, *rows = page.tables["importances"]
    assert [row[:2] for row in rows] == [
        ["optimizer.lr", "softmax"], ["optimizer.lr", "sigmoid"], ["head.temperature", "softmax"],
    ]  # fmt: skip
    (row,) = [row for row in ranged.tuning.importances if (row.arm, row.setting) == ("sigmoid", "optimizer.lr")]
    assert rows[1][2] == f"{100 * row.shares['val_accuracy']:.0f}"
    assert float(rows[1][5].replace("−", "-")) == pytest.approx(row.directions["val_nll"], abs=0.005)


def test_a_report_of_ranges_has_figures_of_its_own(ranged):
    drawn = {path.stem for path in (ranged.study.folder / "figures").glob("*.svg")}
    assert drawn == {"forest", "budget", "tuned_settings", *FIGURES} - {"learning_rates", "shared_rate"}
    facts = dict(Page((ranged.study.folder / "report.html").read_text()).tables["facts"])
    assert facts["tuned settings"] == "optimizer.lr from 0.001 to 1 (log) and head.temperature from 0.5 to 2 (log)"
    assert facts["trials"] == "16, the same for all arms" and "learning rates" not in facts


def test_a_study_of_a_grid_shows_nothing_of_trials(tmp_path):
    study = small(tmp_path / "study")
    summary, _ = write_report(study)
    for name in ("report.html", "report.md"):
        assert "trial" not in (study / name).read_text()
    assert summary.tuning is None


# Studies that are not whole


def test_a_half_finished_study_reports_what_there_is(tmp_path):
    study = small(tmp_path / "study")
    for run in sorted(study.glob("runs/*seed=[67]")):
        shutil.rmtree(run)
    (study / "results.csv").unlink()
    summary = summarise(study)
    assert "Half-finished: 4 of 8 runs of the phase confirm have no record" in warnings(summary)
    assert [arm.seeds for arm in summary.arms] == [2, 2]
    assert len(read_results(study)) == 28


def test_a_study_without_its_confirm_phase_is_provisional(tmp_path):
    study = small(tmp_path / "study")
    runs = json.loads((study / "study.json").read_text())["runs"]
    for run in runs["confirm"]:
        shutil.rmtree(study / "runs" / run)
    (study / "results.csv").unlink()
    change(study / "study.json", runs={"search": runs["search"]})
    summary, _ = write_report(study)
    assert "the confirm phase has not begun" in warnings(summary)
    assert "provisional" in " ".join(summary.answer.sentences)
    assert summary.answer.headline.startswith("Provisional: ")
    assert "test_accuracy" not in summary.study.results
    assert not (study / "figures" / "seeds.svg").exists()


def test_a_study_that_has_only_begun(tmp_path):
    study = small(tmp_path / "study")
    shutil.rmtree(study / "runs")
    (study / "results.csv").unlink()
    summary, _ = write_report(study)
    assert summary.answer.headline == "There is no answer yet: no run has ended well."
    assert "24 of 24 runs of the phase search have no record" in warnings(summary)
    print_study(study, Console(file=StringIO()))


def test_a_study_whose_runs_all_failed(tmp_path):
    study = small(tmp_path / "study", tuned=False, failed=[(None, None, None)])
    assert "8 runs failed" in warnings(write_report(study)[0]) and "no run has ended well" in page(study).text
    print_study(study, Console(file=StringIO()))


def test_a_study_of_one_run(tmp_path):
    study = small(tmp_path / "study", arms=("sigmoid",), seeds=1, tuned=False, claims={})
    summary, _ = write_report(study)
    assert page(study).tables["arms"][1][2].count("±") == 0
    assert warnings(summary) == ""
    assert "study.json names no claims" in remarks(summary)
    print_study(study, Console(file=StringIO()))


def test_results_without_records_are_enough(tmp_path):
    whole, results = summarise(small(tmp_path / "whole")), write_report(small(tmp_path / "results", records=False))[0]
    assert results.answer == whole.answer
    assert "Broken history" in warnings(results)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"run": "half', "JSONDecodeError"),
        ("[]", "no JSON object"),
        ('{"run": "x"}', "phase: missing"),
        ({"phase": "later"}, "phase=later: accepted: confirm, run, search"),
        ({"lr": None}, "lr=None: must be a number"),
        ({"metrics": {"test_accuracy": "high"}}, "metrics.test_accuracy=high: must be a number"),
        ({"curves": {"test": {"reliability": {"confidence": ["a"]}}}}, "curves.test.reliability.confidence.0=a"),
        ({"version": 99}, "version=99: another release of headtohead wrote this"),
    ],
)
def test_a_broken_record_is_named_and_its_row_kept(tmp_path, text, reason):
    study = small(tmp_path / "study")
    path, other = run_file(study), run_file(study, 1)
    before = read_results(study)
    if isinstance(text, str):
        path.write_text(text)
    else:
        change(path, **text)
    summary = summarise(study)
    assert f"Broken record: runs/{path.parent.name}/run.json ({reason}" in warnings(summary)
    assert set(summary.study.results.run) == set(before.run)
    other.write_bytes(other.read_bytes()[:100])
    (study / "results.csv").unlink()
    summary = summarise(study)
    assert warnings(summary).count("Broken record") == 2
    assert len(summary.study.results) == len(before) - 2


def test_a_record_under_another_name_is_broken(tmp_path):
    study = small(tmp_path / "study")
    path, other = run_file(study), run_file(study, 1)
    path.write_bytes(other.read_bytes())
    assert f"run={other.parent.name}: must be the folder's name, {path.parent.name}" in warnings(summarise(study))


@pytest.mark.parametrize("text", ["", "step,val/accuracy\n0,x\n", "epoch\n1\n", "\0"])
def test_a_broken_history_is_named(tmp_path, text):
    study = small(tmp_path / "study")
    path = run_file(study).with_name("history.csv")
    path.write_text(text)
    summary = summarise(study)
    assert f"Broken history: runs/{path.parent.name}/history.csv" in warnings(summary)
    assert path.parent.name not in set(summary.study.history.run)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=re.escape(str(folder))):
            write_report(folder)


@pytest.mark.parametrize(
    ("change_it", "reason"),
    [
        ("", "JSONDecodeError"),
        ("{", "JSONDecodeError"),
        ("[]", "no JSON object"),
        ("{}", "name: missing"),
        ({"arms": {}}, "arms={}: a study has one arm or more"),
        ({"arms": []}, "arms=[]: must be a group of named values"),
        ({"runs": {"search": None}}, "runs.search=None: must be a list"),
        ({"grid": {"optimizer.lr": "high"}}, "grid.optimizer.lr=high: must be a list"),
        ({"num_classes": {"softmax": 10}}, "num_classes=softmax: must name every arm"),
    ],
)
def test_a_broken_study_json_is_refused_by_its_key(tmp_path, change_it, reason):
    study = small(tmp_path / "study", records=False)
    path = study / "study.json"
    if isinstance(change_it, str):
        path.write_text(change_it)
    else:
        change(path, **change_it)
    with pytest.raises(ConfigError) as error:
        write_report(study)
    assert str(error.value).startswith(f"{path}: broken ({reason}") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "run,phase\nx,y\n", "\0\0", 'run,"phase\n'])
def test_a_broken_results_csv_is_refused(tmp_path, text):
    study = small(tmp_path / "study", records=False)
    (study / "results.csv").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(study / "results.csv"))):
        write_report(study)


def test_a_results_csv_that_breaks_off_is_refused(tmp_path):
    study = small(tmp_path / "study", records=False)
    text = (study / "results.csv").read_text()
    (study / "results.csv").write_text(text[: text.rindex("confirm")])
    with pytest.raises(ConfigError, match=r"results\.csv"):
        write_report(study)


def test_a_wrong_claim_is_refused_by_its_name(tmp_path):
    study = small(tmp_path / "study")
    change(study / "study.json", claims={"mine": ACCURACY | {"margin": -1.0}})
    with pytest.raises(ConfigError, match=r"mine\.margin"):
        write_report(study)


def test_a_claim_without_its_metric_is_a_warning(tmp_path):
    study = small(tmp_path / "study", claims={"mine": ACCURACY | {"metric": "test_beauty"}})
    listed = warnings(summarise(study))
    assert "Claim mine: " in listed and "test_beauty" in listed


def test_nothing_from_the_records_is_markup(tmp_path):
    arm = "<script>alert(1)</script>|`$x$`"
    claims = {"accuracy": ACCURACY | {"sentence": "<b>Softmax</b> | better"}}
    arms = {"softmax": ["head=softmax"], arm: ["head=sigmoid"]}
    behind = {arm: {"val_accuracy": -0.05}}
    study = small(tmp_path / "study", arms=arms, claims=claims, failed=[(arm, 1.0, 0)], effects=behind)
    for path in study.glob("runs/*/run.json"):
        if '"failed"' in path.read_text():
            change(path, error="Error: <img src=x onerror=alert(1)> | [a](javascript:alert(1))")
    write_report(study)
    parsed = page(study)
    assert not {tag for tag, _ in parsed.elements} & {"img", "b"}
    scripts = re.findall("<script.*?</script>", (study / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert len(scripts) == 3 and "<script>alert" not in "".join(scripts)
    assert arm in parsed.text and "<img src=x onerror=alert(1)>" in parsed.text
    for name in FIGURES:
        assert "<script" not in (study / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    markdown = (study / "report.md").read_text(encoding="utf-8")
    assert "<" not in markdown and not re.search(r"(?<!\\)\]\(javascript", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|") and "alert(1)" in line]
    assert rows and all("alert(1)&lt;/script&gt;\\|\\`$x$\\`" in row for row in rows)
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in rows if line.startswith("| &lt;script")}
    assert columns == {9}  # the arms
    console = Console(file=StringIO(), width=80)
    print_study(study, console)
    assert "<script>alert(1)</script>" in "".join(console.file.getvalue().split())


EVIL = "a\x07b\x1b[31mc\x00d\re\nf\tg|h<i>\u202ej\ufffek"
SEEN = "a?b?[31mc?d e f g|h<i>?j?k".replace("?", "\N{REPLACEMENT CHARACTER}")


def test_names_with_characters_that_cannot_be_shown_break_no_page(tmp_path):
    """Labels of arms, classes, the study and the command, in SVG, HTML, Markdown, CSV, TensorBoard and the terminal."""
    study = small(tmp_path / "study", seeds=2, arms={"softmax": ["head=softmax"], EVIL: ["head=sigmoid"]})
    change(study / "study.json", name=EVIL, classes=[EVIL] * 10, command=["headtohead", EVIL])
    label = np.arange(20) % 10
    arrays = {"label": label, "prediction": label, "activations": np.full((20, 10), 0.5, dtype=np.float32)}
    for run in read_study(study).final.run:
        write_arrays(study / "runs" / run / "predictions.npz", arrays)
    write_arrays(study / "examples.npz", {"index": np.arange(2), "inputs": np.zeros((2, 3))})
    summary, drawings = write_report(study)
    assert not [check for check in summary.checks if "could not be drawn" in check.text]
    assert {"confusion", "ambiguous_examples"} <= {drawing.name for drawing in drawings}
    for path in study.glob("figures/*.svg"):
        ElementTree.fromstring(path.read_text(encoding="utf-8"))
    console = Console(file=StringIO(), width=300)
    print_study(summary, console)
    texts = [(study / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")]
    for text in (*texts, console.file.getvalue()):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ufffe]", text)
    assert any(SEEN in row[0] for row in page(study).tables["arms"])
    rows = [line for line in texts[1].splitlines() if line.startswith("| a\N{REPLACEMENT CHARACTER}b")]
    assert rows and all("g\\|h&lt;i&gt;" in row for row in rows)
    assert {*read_results(study).arm} == {"softmax", EVIL}
    write_dashboard(summary, drawings[:1])
    assert len([*(study / "arms").iterdir()]) == 3


def test_a_study_that_cannot_be_written_is_reported_elsewhere(command, tmp_path, monkeypatch):
    study = small(tmp_path / "outputs/study", seeds=2)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    written = Path.open

    def refuse(path, mode="r", *arguments, **options):
        if "w" in mode and "outputs" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return written(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    refused = command("report", "outputs/study")
    assert refused.status == 2 and "Permission denied: " in refused.err and "; --out FOLDER" in refused.err
    assert len(refused.err.splitlines()) == 1
    shutil.rmtree(study / "figures", ignore_errors=True)
    for _ in range(2):
        done = command("report", "outputs/study", "--out", "elsewhere/report")
        assert done.status == 0 and "elsewhere/report/report.html" in done.out, done.err
    names = {path.name for path in (tmp_path / "elsewhere/report").iterdir()}
    assert names == {"report.html", "report.md", "verdicts.json", "figures"}
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.md").write_text("by hand")
    kept = command("report", "outputs/study", "--out", "mine")
    assert kept.status == 2 and "--out=mine: holds other files, such as report.md" in kept.err
    assert (tmp_path / "mine/report.md").read_text() == "by hand"
