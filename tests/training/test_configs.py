"""Every config of every group builds and trains."""

from pathlib import Path

import factories
import headtohead.configs
import numpy as np
import pytest
from conftest import run
from data_files import DOWNLOADED, Made, pictures

from headtohead.training.config import REGISTRIES

CONFIGS = Path(headtohead.configs.__path__[0])
TINY = ["training.epochs=1", "training.batch_size=8", "training.points=2", "training.evaluations=1"]
TINY += ["dataset.train_size=16"]
# Options without which a choice cannot be used.
NEEDS = {
    "model/factory": ["model.path=factories:transformer"],
    "model/torchvision": ["model.architecture=shufflenet_v2_x0_5"],
    "model/timm": ["model.architecture=test_resnet"],
    "model/resnet18": ["dataset.val_fraction=0.02"],
    "dataset/table": ["dataset.path=t.csv", "dataset.target=label"],
    "dataset/composite": ["dataset.base=digits"],
    "head/factory": ["head.path=factories:Plain"],
    "head/one_logit": ["dataset=breast_cancer"],
    "dataset/factory": ["dataset.path=factories:table"],
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("choice", [f"{group}/{name}" for group in REGISTRIES for name in choices(group)])
def test_every_choice_trains(config, choice, tmp_path, monkeypatch):
    group, name = choice.split("/")
    if choice == "model/timm":
        pytest.importorskip("timm")
    if group == "dataset" and name in DOWNLOADED:
        Made(monkeypatch, name).write(tmp_path)
    elif choice == "dataset/image_folder":
        pictures(tmp_path, count=20)
    elif choice == "dataset/table":
        rows = [f"{number % 7},{'xyz'[number % 3]}" for number in range(60)]
        (tmp_path / "t.csv").write_text("\n".join(["a,label", *rows]))
        monkeypatch.chdir(tmp_path)
    elif choice == "dataset/arrays":
        np.savez(tmp_path / "data.npz", **dict(zip("Xy", factories.table(), strict=True)))
    root = [f"dataset.path={tmp_path}/data.npz"] if choice == "dataset/arrays" else []
    root += [f"dataset.root={tmp_path}"] if choice == "dataset/image_folder" or name in DOWNLOADED else []
    made = config(*TINY, *root, f"{group}={name}", *NEEDS.get(choice, []))
    # A head of the user's own takes the place of what names it.
    assert choice == "head/factory" or type(getattr(made, group)) in REGISTRIES[group].values()
    points, (outcome,) = run([made])
    assert outcome.steps >= 2
    assert outcome.diverged_at is None
    assert points[0].values["grad_norm_total"] > 0


def test_every_registered_name_has_a_yaml_of_its_name():
    for group, registry in REGISTRIES.items():
        assert set(registry) <= set(choices(group)), group


def test_every_yaml_starts_with_a_description():
    for path in CONFIGS.rglob("*.yaml"):
        first = path.read_text(encoding="utf-8").splitlines()
        line = next(line for line in first if line != "# @package _global_")
        assert line.startswith("# ") and len(line) > 20, path


def test_only_yaml_has_default_values():
    """The dataclasses give types and no second default."""
    from dataclasses import MISSING, fields

    for registry in REGISTRIES.values():
        for cls in registry.values():
            assert all(field.default is MISSING for field in fields(cls)), cls
