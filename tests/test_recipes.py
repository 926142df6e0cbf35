"""The recipes of the README for data of one's own run as they are written, on small files."""

import json
import re
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from data_files import pictures
from test_docs import commands, read

from headtohead.training import data

SECTION = read("README.md").partition("\n## Your own data\n")[2].partition("\n## ")[0]
LOOK, *OTHERS = sorted(commands(SECTION), key=lambda command: not command.startswith("headtohead data "))
RECIPES = {command.rpartition("name=")[2]: command for command in OTHERS}
# What is written for five seeds and whole trainings is tried with two and short ones.
SHORT = ["training.epochs=1", "training.points=3", "training.evaluations=2", "protocol.confirm_seeds=2"]


def test_there_are_four_recipes():
    assert [*RECIPES] == ["table", "images", "photos", "probe"]
    assert all("'seed=range(5)'" in recipe for recipe in RECIPES.values())


@pytest.fixture
def cook(command, tmp_path):
    """Return a function that follows a recipe and returns the records of its runs."""
    data._load.cache_clear()

    def call(name, *smaller):
        words = shlex.split(RECIPES[name].replace("'seed=range(5)'", "seed=0,1"))
        result = command(*words[1:], *SHORT, *smaller)
        assert result.status == 0, result.err
        runs = [json.loads(path.read_text()) for path in tmp_path.glob(f"outputs/{name}/runs/*/run.json")]
        assert {run["status"] for run in runs} == {"finished"}
        assert {(run["head"], run["phase"]) for run in runs} == {
            (head, phase) for head in ("softmax", "sigmoid") for phase in ("search", "confirm")
        }
        return runs

    return call


def test_a_table(command, cook, tmp_path):
    rng = np.random.default_rng(0)
    species = np.array(["Adelie", "Gentoo"])[np.arange(60) % 2]
    size = (species == "Gentoo") + rng.normal(scale=0.1, size=60)
    columns = {"size": np.where(np.arange(60) % 7, size, np.nan), "island": rng.choice(["Biscoe", "Dream"], 60)}
    pd.DataFrame({"species": species, **columns}).to_csv(tmp_path / "penguins.csv", index=False)
    look = command(*shlex.split(LOOK)[1:])
    assert look.status == 0 and "Adelie" in look.out and not (tmp_path / "outputs").exists()
    assert {run["fold"] for run in cook("table") if run["phase"] == "confirm"} == {*range(5)}


def test_images_in_folders(cook, tmp_path):
    pictures(tmp_path / "pictures", count=12)
    assert len(cook("images", "dataset.size=8")) >= 2 * 2 * 3 + 2 * 2


def test_a_dataset_of_pytorch(cook, tmp_path, monkeypatch):
    (module,) = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    pictures(tmp_path / "photos", count=12)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("photos/*/*"))
    pd.DataFrame({"file": files, "label": [path.parent.name for path in files]}).to_csv(tmp_path / "photos.csv")
    runs = cook("photos", "dataset.folds=2")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert all({"code of mine", "data of dataset"} <= {*run["sources"]} for run in runs)


def test_a_pre_trained_network(cook, tmp_path):
    pictures(tmp_path / "pictures", count=12)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pt")
    assert all("file of model.weights" in run["sources"] for run in cook("probe"))
