"""Folders of event files that PyTorch's writer made, named in the ways of others."""

import math
from pathlib import Path

import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from headtohead.options import ConfigError
from headtohead.record.logged import read_logged


def log(folder: Path, values: list[float], tag: str = "test/acc", **more: float) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, value in enumerate(values):
            writer.add_scalar(tag, value, step)
        for name, value in more.items():
            writer.add_scalar(name, value)


def template(root: Path, runs: list[tuple[str, int, float]]) -> Path:
    """Write a multirun of lightning-hydra-template: a folder per job, with Hydra's files and a version of Lightning."""
    for number, (model, seed, accuracy) in enumerate(runs):
        job = root / "2026-01-31_12-00-00" / str(number)
        hydra = job / ".hydra"
        hydra.mkdir(parents=True)
        config = {"seed": seed, "model": {"optimizer": {"lr": 0.1}, "net": "${net}"}, "task_name": "train"}
        (hydra / "config.yaml").write_text(yaml.dump(config))
        choices = {"hydra": {"runtime": {"choices": {"model": model, "data": "mnist"}}}}
        (hydra / "hydra.yaml").write_text(yaml.dump(choices))
        (hydra / "overrides.yaml").write_text(yaml.dump([f"seed={seed}", "+trainer.fast=true"]))
        version = job / "tensorboard" / "version_0"
        log(version, [0.1, 0.2], "val/acc")
        log(version, [accuracy])  # the test is another file of the same folder
        (version / "hparams.yaml").write_text("model/params/total: 12\noptimizer: !!python/object:x.Y {}\n")
    return root


def test_a_template_of_hydra_and_lightning(tmp_path):
    runs = [("mlp", 0, 0.5), ("mlp", 1, 0.6), ("cnn", 0, 0.7), ("cnn", 1, 0.8)]
    frame = read_logged(template(tmp_path, runs))
    assert [*zip(frame.model, frame.seed.astype(int), frame["test/acc"].round(6), strict=True)] == runs
    assert list(frame["model.optimizer.lr"]) == [0.1] * 4 and list(frame["trainer.fast"]) == ["true"] * 4
    assert frame["val/acc"].round(6).tolist() == [0.2] * 4
    assert frame.index[1] == "2026-01-31_12-00-00/1"


def test_a_pattern_of_folders(tmp_path):
    for head in ("softmax", "sigmoid_prior"):
        for seed in (0, 10):
            log(tmp_path / "logs" / f"{head}-net" / f"seed_{seed}" / "tb", [0.0, seed / 100])
    log(tmp_path / "logs" / "other", [1.0])
    frame = read_logged(tmp_path / "logs" / "{head}-net" / "seed_{seed}")
    assert {*zip(frame["head"], frame["seed"], frame["test/acc"].round(6), strict=True)} == {
        ("softmax", "0", 0.0),
        ("softmax", "10", 0.1),
        ("sigmoid_prior", "0", 0.0),
        ("sigmoid_prior", "10", 0.1),
    }


def test_names_of_folders_with_values(tmp_path):
    log(tmp_path / "head=a,seed=3", [0.25])
    frame = read_logged(tmp_path)
    assert frame.loc["head=a,seed=3"].to_dict() == {"head": "a", "seed": "3", "test/acc": 0.25}


def test_hyperparameters_of_the_events(tmp_path):
    for seed in range(2):
        with SummaryWriter(str(tmp_path / str(seed))) as writer:
            writer.add_scalar("loss", 1.0)
            writer.add_hparams({"head": "a", "seed": seed, "nesterov": True}, {"accuracy": 0.5}, run_name="end")
    frame = read_logged(tmp_path).dropna(subset="head")
    assert frame["seed"].tolist() == [0, 1] and frame["accuracy"].tolist() == [0.5, 0.5]


def test_a_resumed_run_has_the_last_value(tmp_path):
    log(tmp_path / "seed=0", [0.1, 0.2])
    log(tmp_path / "seed=0", [0.3])
    assert read_logged(tmp_path)["test/acc"].round(6).tolist() == [0.3]


def test_scalars_as_tensors(tmp_path):
    """As tf.summary and TensorBoard's newer writers store them."""
    with SummaryWriter(str(tmp_path / "seed=0")) as writer:
        writer.add_scalar("test/acc", 0.5, new_style=True)
        writer.add_scalar("test/acc", 0.75, 1, new_style=True)
        writer.add_text("test/note", "0.5")
    assert read_logged(tmp_path)["test/acc"].tolist() == [0.75]


def test_a_file_cut_short_has_what_stands_before(tmp_path):
    log(tmp_path / "seed=0", [0.1, 0.2, 0.3])
    (path,) = tmp_path.glob("*/*tfevents*")
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        row = read_logged(tmp_path).iloc[0]
        assert round(row.get("test/acc", math.nan), 6) in (0.1, 0.2, 0.3) or "test/acc" not in row
    path.write_bytes(content[: len(content) // 2] + b"\xff" * 100)
    read_logged(tmp_path)


def test_folders_without_runs_or_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no event file"):
        read_logged(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder"):
        read_logged(tmp_path / "none" / "{head}")
    log(tmp_path / "a" / "0", [0.1])
    with pytest.raises(ConfigError, match=r"nothing tells what its runs are, such as a/0; .*\{head\}/seed_\{seed\}"):
        read_logged(tmp_path)
    with pytest.raises(ConfigError, match="no folder fits the pattern"):
        read_logged(tmp_path / "{head}" / "seed_{seed}")
    (tmp_path / "study.json").touch()
    with pytest.raises(ConfigError, match="headtohead report"):
        read_logged(tmp_path)
