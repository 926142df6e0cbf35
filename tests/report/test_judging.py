"""`headtohead judge` on files as other programs write them."""

import json
import os
import re
from itertools import product
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from scipy import stats
from torch.utils.tensorboard import SummaryWriter

import headtohead
from headtohead.analysis.judging import judge_runs
from headtohead.analysis.runs import Asked, Metric
from headtohead.report.figures.forest import plots
from headtohead.report.judging import print_judgement

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "src/headtohead/record/verdicts.schema.json").read_text(encoding="utf-8"))
BY = ("--arm", "head", "--pair", "seed", "--metric", "accuracy:0.005")
EFFECT = {"a": 0.0, "b": -0.03}


def runs(seeds=6, arms=("a", "b")):
    rng = np.random.default_rng(0)
    keys = pd.DataFrame([*product(arms, range(seeds))], columns=["head", "seed"])
    shared = rng.normal(0, 0.02, seeds)[keys.seed]
    accuracy = 0.9 + shared + keys["head"].map(EFFECT) + rng.normal(0, 0.003, len(keys))
    return keys.assign(accuracy=accuracy, nll=1 - accuracy + rng.normal(0, 0.003, len(keys)))


def scores(frame, examples=40):
    """Return scores of 0 and 1, and the runs with their means."""
    rng = np.random.default_rng(1)
    level = rng.uniform(0.5, 1, examples)
    parts = []
    for row in frame.itertuples():
        score = (rng.uniform(size=examples) < level + row.accuracy - 0.9).astype(int)
        parts.append(pd.DataFrame({"head": row.head, "seed": row.seed, "example": range(examples), "score": score}))
    long = pd.concat(parts, ignore_index=True)
    return frame.drop(columns="accuracy").merge(
        long.groupby(["head", "seed"], as_index=False).score.mean().rename(columns={"score": "accuracy"})
    ), long


def verdicts(folder):
    content = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    return content


def test_a_table_gives_the_report_of_a_study(command, tmp_path):
    runs().to_csv(tmp_path / "runs.csv", index=False)
    result = command("judge", "runs.csv", *BY, "--metric", "nll:0.02")
    assert result.status == 0, result.err
    folder = tmp_path / "judged/runs"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "verdicts.json", "figures"}
    answer = verdicts(folder)["answer"]
    assert answer["winner"] == "a"
    for page in (result.out, *((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))):
        text = re.sub(r"\s+", " ", page)
        assert "By accuracy, a is better than b" in text
        assert "the verdict holds for this test split" in text
        assert "Few runs: 6 pairs" in text
    assert "judged/runs/report.html" in result.out
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "headtohead judge runs.csv --arm head" in page and "## The arms" not in page
    assert "arms-title" not in (folder / "report.html").read_text(encoding="utf-8")
    assert "favours a" in (folder / "figures/forest.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_the_forest_takes_the_direction_that_was_asked_for(direction):
    """The better side is the right one, whatever the metric is called."""
    asked = Asked("head", "seed", (Metric("points", 0.01, direction),))
    summary = judge_runs(runs().rename(columns={"accuracy": "points"}), asked, "runs.csv")
    (plot,) = plots(summary)
    assert plot.descending == (direction == "lower")
    assert plot.sides == ("← favours b", "favours a →")
    ((mean, *_),) = [row.interval for row in plot.rows]
    assert mean > 0 and summary.answer.winner == {"higher": "a", "lower": "b"}[direction]


def test_the_same_runs_give_the_same_bytes(command, tmp_path):
    runs().to_csv(tmp_path / "runs.csv", index=False)
    files = []
    for _ in range(2):
        assert command("judge", "runs.csv", *BY, "--out", "here").status == 0
        files.append({path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()})
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_verdicts(command, tmp_path, kind):
    frame, long = scores(runs())
    write = {
        "csv": lambda table, path: table.to_csv(path, index=False),
        "tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
        "parquet": lambda table, path: table.to_parquet(path),
    }[kind]
    write(frame, tmp_path / f"runs.{kind}")
    write(long, tmp_path / f"scores.{kind}")
    result = command("judge", f"runs.{kind}", *BY, "--examples", f"scores.{kind}")
    assert result.status == 0, result.err
    (row,) = verdicts(tmp_path / "judged/runs")["claims"]
    assert row["examples"] == 40
    wide = frame.pivot(index="seed", columns="head", values="accuracy")
    assert row["difference"] == pytest.approx((wide.a - wide.b).mean())
    assert "they cover new runs and new examples" in re.sub(r"\s+", " ", result.out)


def test_an_export_of_wandb(command, tmp_path):
    """Columns of the web page: name, state, configuration, summary."""
    frame = runs().rename(columns={"accuracy": "val/accuracy"})
    table = frame.assign(Name=[f"run-{row}" for row in frame.index], State="finished", Tags="", Runtime=12)
    table.loc[[1, 9], "State"] = ["crashed", "running"]
    table.loc[1, "val/accuracy"] = np.nan
    table[::-1].to_csv(tmp_path / "wandb_export.csv", index=False)
    result = command("judge", "wandb_export.csv", *BY[:-1], "val/accuracy:0.005", "--against", "a")
    assert result.status == 0, result.err
    (row,) = verdicts(tmp_path / "judged/wandb_export")["claims"]
    wide = frame.drop([1, 9]).pivot(index="seed", columns="head", values="val/accuracy").dropna()
    assert row["seeds"] == len(wide) == 4 and row["p"] == pytest.approx(stats.ttest_rel(wide.a, wide.b).pvalue)
    text = re.sub(r"\s+", " ", result.out)
    assert "2 runs did not end (1 running and 1 crashed; rows 4 and 12) and are left out" in text
    assert "No partner of the same seed: rows 6 and 10" in text


def test_an_export_of_mlflow(command, tmp_path):
    frame = runs()
    table = frame.rename(columns={"head": "params.head", "seed": "params.seed", "accuracy": "metrics.accuracy"})
    table = table.assign(run_id=frame.index, status="FINISHED", **{"metrics.nll": frame.nll, "tags.user": "x"})
    table.loc[0, "status"] = "FAILED"
    table.to_csv(tmp_path / "mlflow.csv", index=False)
    (tmp_path / "x").mkdir()
    for metric in ("accuracy:0.005", "metrics.accuracy:0.005"):
        result = command("judge", "mlflow.csv", "--arm", "head", "--pair", "params.seed", "--metric", metric)
        assert result.status == 0, result.err
        (row,) = verdicts(tmp_path / "judged/mlflow")["claims"]
        assert (row["metric"], row["seeds"], row["claim"]) == ("accuracy", 5, "accuracy")
    result = command("judge", "mlflow.csv", "--arm", "haed", "--pair", "seed", "--metric", "accuracy:0.005")
    assert result.status == 2 and "did you mean head" in result.err


def test_folders_of_event_files(command, tmp_path):
    frame = runs()
    for row in frame.itertuples():
        job = tmp_path / "logs/multiruns/now" / str(row.Index)
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra/config.yaml").write_text(yaml.dump({"seed": row.seed, "model": {"lr": 0.1}}))
        (job / ".hydra/overrides.yaml").write_text(yaml.dump([f"model={row.head}", f"seed={row.seed}"]))
        (job / ".hydra/hydra.yaml").write_text(yaml.dump({"hydra": {"runtime": {"choices": {"model": row.head}}}}))
        plain = tmp_path / "plain" / row.head / f"seed_{row.seed}"
        for folder in (job / "tensorboard/version_0", plain):
            with SummaryWriter(str(folder)) as writer:
                writer.add_scalar("test/acc", 0.0, 0)
                writer.add_scalar("test/acc", row.accuracy, 1)
    metric = ("--pair", "seed", "--metric", "test/acc:0.005")
    wide = frame.pivot(index="seed", columns="head", values="accuracy")
    for place, arm, name in (("logs", "model", "logs"), ("plain/{head}/seed_{seed}", "head", "plain")):
        result = command("judge", place, "--arm", arm, *metric)
        assert result.status == 0, result.err
        (row,) = verdicts(tmp_path / "judged" / name)["claims"]
        assert row["difference"] == pytest.approx((wide.a - wide.b).mean(), rel=1e-4) and row["seeds"] == 6


@pytest.mark.parametrize("name", ["digits", "ladder", "fashion_mnist", "classes_10000"])
def test_published_runs_have_the_published_verdicts(command, tmp_path, name):
    """They were published by permutation tests at another level, so that a verdict near its bound may differ."""
    table = ROOT / f"experiments/{name}/results.csv"
    published = json.loads((table.parent / "verdicts.json").read_text(encoding="utf-8"))["claims"]
    of_test = [row for row in published if row["metric"].startswith("test_") and row["phase"] == "confirm"]
    of_test = [row for row in of_test if "ambiguity" not in row["metric"]]
    metrics = {row["metric"]: f"{row['metric']}:{row['margin']}:{row['direction']}" for row in of_test}
    asked = [part for text in metrics.values() for part in ("--metric", text)]
    (against,) = {row["arm"] for row in of_test}
    by = ("--arm", "arm", "--pair", "seed", "--where", "phase=confirm", "--against", against)
    result = command("judge", str(table), *by, *asked)
    assert result.status == 0, result.err
    judged = {(row["metric"], row["versus"]): row for row in verdicts(tmp_path / "judged/results")["claims"]}
    assert {*judged} == {(row["metric"], row["versus"]) for row in of_test} and len(judged) > 3
    for row in of_test:
        ours = judged[row["metric"], row["versus"]]
        for key in ("difference", "mean_arm", "mean_versus", "seeds"):
            assert ours[key] == pytest.approx(row[key], rel=1e-5, abs=1e-6)
        assert {row["verdict"], ours["verdict"]} != {"supported", "refuted"}
    same = [row["verdict"] == judged[row["metric"], row["versus"]]["verdict"] for row in of_test]
    assert np.mean(same) > 0.8


def test_settings_are_judged_apart_and_together(command, tmp_path):
    parts = [runs().assign(dataset=name, model="m") for name in ("wine", "iris")]
    pd.concat(parts).to_csv(tmp_path / "t.csv", index=False)
    result = command("judge", "t.csv", *BY, "--setting", "dataset", "--setting", "model")
    assert result.status == 0, result.err
    content = verdicts(tmp_path / "judged/t")
    assert [row["arm"] for row in content["claims"]] == ["wine,m,a", "iris,m,a"]
    assert content["settings"][0]["settings"] == 2
    assert [*content["answer"]["settings"]] == ["dataset=wine, model=m", "dataset=iris, model=m"]
    assert "wine, m" in (tmp_path / "judged/t/figures/forest.svg").read_text(encoding="utf-8")
    assert "Across 2 settings" in (tmp_path / "judged/t/report.html").read_text(encoding="utf-8")


B = "b"  # the second arm
WIDE = pd.DataFrame(1, range(12), [f"{number:030}" for number in range(99)])
BAD = {
    "no common pair": (lambda t: t.assign(seed=t.seed + 10 * (t["head"] == B)), "a and b share no seed"),
    "one pair": (lambda t: t.assign(seed=t.seed + 10 * ((t["head"] == B) & (t.seed > 0))), "alone (rows 2 and 8)"),
    "one pair with a value": (lambda t: t.assign(accuracy=t.accuracy.where(t.seed == 0)), "seed 0 alone (rows 2"),
    "one pair that is finite": (lambda t: t.assign(accuracy=t.accuracy.where(t.seed == 0, np.inf)), "seed 0 alone"),
    "a pair twice": (lambda t: t.assign(seed=t.seed.clip(0, 4)), "rows 6 and 7 of runs.csv are all of a, seed=4"),
    "one arm": (lambda t: t.assign(head="a", seed=range(12)), "a is the only value"),
    "a constant": (lambda t: t.assign(accuracy=0.5), "is 0.5 in all 12 rows"),
    "words": (lambda t: t.assign(accuracy="0.5 %"), "'0.5 %' is no number (rows 2, 3, 4, 5, 6 and 7 more of runs.csv)"),
    "no value": (lambda t: t.assign(accuracy=np.nan), "has no number in runs.csv"),
    "a run without arm": (lambda t: t.assign(head=t["head"].where(t.index != 3)), "is empty in row 5 of runs.csv"),
    "a run without seed": (lambda t: t.assign(seed=t.seed.where(t.index != 3)), "is empty in row 5 of runs.csv"),
    "no row": (lambda t: t[:0], "has no rows"),
    "all crashed": (lambda t: t.assign(State="crashed"), "no run of runs.csv has ended"),
    "a column twice": (lambda t: t.set_axis(["head", "seed", "accuracy", "accuracy"], axis=1), "names several"),
    "a date": (lambda t: t.assign(accuracy="2020-01-01"), "'2020-01-01' is no number"),
    "a blank arm": (lambda t: t.assign(head=t["head"].where(t.index != 3, " ")), "is empty in row 5 of runs.csv"),
    "wide": (lambda t: t.rename(columns={"seed": "x"}).join(WIDE), "103 names in all"),
    "no such column": (lambda t: t.rename(columns={"accuracy": "accurcy"}), "did you mean accurcy"),
}  # fmt: skip
BAD_SCORES = {
    "lacks an example": (lambda t: t.drop(t.index[3]), "lacks 1 of 40 examples, such as 3 of a, 0"),
    "lacks a run": (lambda t: t[(t["head"] != "b") | (t.seed != 2)], "lacks any row of b, 2"),
    "other runs": (lambda t: t.assign(head="z"), "lacks any row of a, 0 and 11 other runs"),
    "an example twice": (lambda t: t.assign(example=t.example.clip(1)), "rows 2 and 3 are all of a, 0, 1"),
    "an empty cell": (lambda t: t.assign(score=t.score.where(t.index != 5)), "holds no finite number in row 7"),
    "words": (lambda t: t.assign(score="right"), "'right' is no number"),
    "no name of an example": (lambda t: t.assign(example=t.example.where(t.index != 5)), "is empty in row 7"),
    "no example": (lambda t: t.drop(columns="example"), "examples=example: no such column of scores.csv"),
    "no score": (lambda t: t.rename(columns={"score": "points"}), "examples=score: no such column of scores.csv"),
    "no seed": (lambda t: t.drop(columns="seed"), "examples=seed: no such column of scores.csv"),
    "other scores": (lambda t: t.assign(score=t.score / 2), "the mean score of a, 0 is"),
    "no row": (lambda t: t[:0], "has no rows"),
}  # fmt: skip


def refusal(result):
    assert result.status == 2, result.out
    (line,) = result.err.splitlines()
    assert line.startswith("headtohead: ") and "accepted" in line
    return line


@pytest.mark.parametrize("name", BAD)
def test_runs_that_cannot_be_judged_are_refused_in_a_line(command, tmp_path, name):
    change, said = BAD[name]
    change(runs()).to_csv(tmp_path / "runs.csv", index=False)
    assert said in refusal(command("judge", "runs.csv", *BY))
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize("name", BAD_SCORES)
def test_scores_that_do_not_match_are_refused_in_a_line(command, tmp_path, name):
    frame, long = scores(runs())
    change, said = BAD_SCORES[name]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    change(long).to_csv(tmp_path / "scores.csv", index=False)
    assert said in refusal(command("judge", "runs.csv", *BY, "--examples", "scores.csv"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "accuracy:0.01"], "metric=accuracy: is given twice"),
        (["--metric", "seed:1:lower"], "column=seed: has two roles"),
        (["--metric", "nll"], "the margin"),
        (["--metric", "pair:1:lower"], "would be a second pair; accepted: another name"),
        (["--metric", "nll:0"], "must be a positive number"),
        (["--metric", "nll:0.1:lwoer"], "did you mean lower"),
        (["--against", "c"], "against=c: no arm of runs.csv; accepted: a, b"),
        (["--setting", "dataset"], "setting=dataset: no such column"),
        (["--where", "seed"], "accepted: COLUMN=VALUE"),
        (["--where", "seed=7"], "where=seed=7: no such row of runs.csv; accepted: 0, 1"),
        (["--look", "0"], "look=0: must be 1 or more"),
        (["--examples", "none.csv"], "examples=none.csv: there is no such file"),
        (["--out", "."], "--out=.: holds other files, such as runs.csv"),
        (["--out", "runs.csv"], "--out=runs.csv: is no folder"),
        (["--out", "study"], "--out=study: holds a study"),
    ],
)
def test_a_wrong_request_is_refused_in_a_line(command, tmp_path, arguments, said):
    runs().assign(pair=range(12)).to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/study.json").touch()
    result = command("judge", "runs.csv", *BY, *arguments)
    assert result.status == 2 and said in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace("\n", "\n\n   \n,,,\n"),
        lambda text: text.replace("\n", ",,\n"),
        lambda text: text.replace("\n", ",1,2\n").replace("nll,1,2", "nll,x,x"),
    ],
    ids=["mark", "CRLF", "CR", "semicolons", "blank rows", "commas at the end", "a name twice that nobody asks for"],
)
def test_what_editors_and_exports_do_to_a_table_changes_no_verdict(command, tmp_path, change):
    text = runs().to_csv(index=False)
    (tmp_path / "plain.csv").write_text(text, encoding="utf-8")
    (tmp_path / "runs{1}.csv").write_bytes(change(text).encode())
    for name in ("plain.csv", "runs{1}.csv"):
        result = command("judge", name, *BY)
        assert result.status == 0, result.err
    plain, changed = (verdicts(tmp_path / "judged" / name) for name in ("plain", "runs{1}"))
    assert plain == changed


@pytest.mark.parametrize("lengths", [{1: 2}, {}, {0: 1, 1: 2, 2: 4, 3: 5, 4: 6, 5: 7}])
def test_a_run_that_stopped_before_most_is_named(command, tmp_path, lengths):
    """Where each run has an end of its own, as by early stopping, none is."""
    frame = runs(seeds=3)
    for number, row in enumerate(frame.itertuples()):
        with SummaryWriter(str(tmp_path / "logs" / f"{row.head}_{row.seed}")) as writer:
            for step in range(lengths.get(number, 3)):
                writer.add_scalar("val/acc", row.accuracy, 10 * step)
    result = command("judge", "logs/{head}_{seed}", "--arm", "head", "--pair", "seed", "--metric", "val/acc:0.005")
    assert result.status == 0, result.err
    said = "val/acc ends at step 20 in most runs, and before it in row a_1" in re.sub(r"\s+", " ", result.out)
    assert said == (len(lengths) == 1) and ("ends at step" in result.out) == said


def test_a_line_of_json_may_hold_any_text(command, tmp_path):
    frame = runs().assign(note="one\u2028two")
    frame.to_json(tmp_path / "runs.jsonl", orient="records", lines=True, force_ascii=False)
    assert "\u2028" in (tmp_path / "runs.jsonl").read_text(encoding="utf-8")
    assert command("judge", "runs.jsonl", *BY).status == 0


def test_what_is_no_run_in_a_folder_of_runs_is_passed_over(command, tmp_path):
    """Copies in hidden folders, folders and pipes that are called like event files, and values that are no scalars."""
    frame = runs(seeds=3)
    for row in frame.itertuples():
        folder = tmp_path / "logs" / f"{row.head}{row.seed}"
        with SummaryWriter(str(folder)) as writer:
            writer.add_scalar("test/acc", row.accuracy, 1)
            writer.add_histogram("test/acc", np.arange(5), 2)
            writer.add_text("test/acc", "a text", 3)
        text = f"head: {row.head}\nseed: {row.seed}\noptimizer: !!python/object/apply:functools.partial\n- 1\n"
        (folder / "hparams.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "logs/.trash/a0").mkdir(parents=True)
    (tmp_path / "logs/a0/old.tfevents").mkdir()
    os.mkfifo(tmp_path / "logs/a0/pipe.tfevents")
    with SummaryWriter(str(tmp_path / "logs/.trash/a0")) as writer:
        writer.add_scalar("test/acc", 0.0, 1)
    result = command("judge", "logs", "--arm", "head", "--pair", "seed", "--metric", "test/acc:0.005")
    assert result.status == 0, result.err
    (row,) = verdicts(tmp_path / "judged/logs")["claims"]
    wide = frame.pivot(index="seed", columns="head", values="accuracy")
    assert row["seeds"] == 3 and row["difference"] == pytest.approx((wide.a - wide.b).mean(), rel=1e-5)


def test_runs_without_a_value_are_named_and_left_out(command, tmp_path):
    frame = runs()
    frame.loc[[2, 10], "accuracy"] = [np.nan, np.inf]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    result = command("judge", "runs.csv", *BY)
    assert result.status == 0, result.err
    text = re.sub(r"\s+", " ", result.out)
    assert "accuracy has no finite value in rows 4 and 12. These runs are left out, with their partners" in text
    (row,) = verdicts(tmp_path / "judged/runs")["claims"]
    assert row["seeds"] == 4 and row["note"] == "2 of 6 pairs of runs lack accuracy"


def test_a_narrow_terminal_breaks_no_word(tmp_path):
    name = "accuracy_on_a_rather_long_held_out_split"
    frame = pd.DataFrame({"head": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], name: [0.9, 0.8, 0.91, 0.83, 0.92, 0.8]})
    found = headtohead.compare(frame, arm="head", pair="seed", metric=name, margin=0.01)
    console = Console(width=45, record=True, force_terminal=False)
    print_judgement(found.summary, tmp_path, console)
    assert name in console.export_text()
