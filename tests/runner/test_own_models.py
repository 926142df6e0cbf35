"""Networks with pre-trained weights, through the command line: their files are sources, and wrong ones are refused."""

import json
import os

import pytest
import torch
import torchvision
from data_files import pictures

from headtohead.training import data

SMALL = "shufflenet_v2_x0_5"
SHORT = ["name=x", "training.epochs=1", "training.batch_size=8", "training.points=2", "training.evaluations=1"]
PICTURES = ["dataset=image_folder", "dataset.root=pictures", "dataset.workers=0", "dataset.size=16"]
STUDY = [*SHORT, *PICTURES, "model=torchvision", f"model.architecture={SMALL}", "model.resize=32"]


@pytest.fixture
def folder(tmp_path):
    """Return the working directory, with pictures of two classes and weights in w.pt."""
    data._load.cache_clear()
    pictures(tmp_path / "pictures", count=20)
    write(tmp_path / "w.pt")
    return tmp_path


def write(path, seed=0, architecture=SMALL):
    torch.manual_seed(seed)
    torch.save(torchvision.models.get_model(architecture, weights=None).state_dict(), path)


def records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/x/runs/*/run.json"))]


def test_weights_are_an_arm_and_their_file_is_a_source(command, folder):
    result = command(*STUDY, "model.weights=null,w.pt")
    assert result.status == 0, result.err
    found = records(folder)
    assert {record["arm"] for record in found} == {"weights=null", "weights=w.pt"}
    from_file = [record for record in found if record["arm"] == "weights=w.pt"]
    assert all("file of model.weights" in record["sources"] for record in from_file)
    assert not any("file of model.weights" in record["sources"] for record in found if record not in from_file)
    run = folder / "outputs/x/runs" / from_file[0]["run"]
    again = command("reproduce", str(run))
    assert again.status == 0 and "equal" in again.out, again.err
    os.rename(folder / "w.pt", folder / "same.pt")
    write(folder / "w.pt", seed=1)
    refused = command(*STUDY, "model.weights=null,w.pt")
    assert refused.status == 2 and "(file of model.weights: changed)" in refused.err
    refused = command("reproduce", str(run))
    assert refused.status == 2 and "file of model.weights: changed since the run" in refused.err
    os.replace(folder / "same.pt", folder / "w.pt")
    assert command(*STUDY, "model.weights=null,w.pt").status == 0


def test_a_record_of_before_there_were_weights_is_trained_again(command, folder):
    assert command(*STUDY).status == 0
    (path,) = folder.glob("outputs/x/runs/*/run.json")
    record = json.loads(path.read_text())
    assert record["config"]["model"].pop("weights") is None
    path.write_text(json.dumps(record | {"checksum": ""}))
    result = command("reproduce", str(path.parent))
    assert result.status == 0 and "bitwise equal" in result.out, result.err


def test_weights_that_torchvision_has_come_from_its_cache(command, folder, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", None)
    refused = command(*STUDY, "model.weights=DEFAULT")
    assert refused.status == 2 and len(refused.err.splitlines()) == 1
    file = os.path.basename(torchvision.models.get_model_weights(SMALL).DEFAULT.url)
    assert f"{file} is not in {folder}/torch/hub/checkpoints" in refused.err
    assert not (folder / "outputs").exists()
    write(folder / "torch/hub/checkpoints" / file)
    result = command(*STUDY, "model.weights=DEFAULT")
    assert result.status == 0, result.err
    assert "file of model.weights" in records(folder)[0]["sources"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["model.weights=gone.pt"], "model.weights=gone.pt: No such file"),
        (["model.weights=pictures"], "model.weights=pictures: accepted: DEFAULT, IMAGENET1K_V1, or a file"),
        (["model.weights=other.pt"], "model.weights=other.pt: it lacks conv1.0.weight"),
        (["model.weights=words.pt"], "words.pt: damaged"),
        (["model.weights=3"], "model.weights=3: accepted"),
        (["model.weights=w.pt", "model.resize=0"], "model.resize=0: accepted: a side"),
        (["model.weights=w.pt", "dataset=iris"], "inputs (4,); accepted: images"),
        (["+model.options.weights=w.pt"], "model.options.weights=w.pt: must be left out"),
        (["head=softmax,sigmoid", "model.weights=w.pt,gone.pt"], "model.weights=gone.pt: No such file"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(command, folder, options, words):
    write(folder / "other.pt", architecture="alexnet") if "other" in str(options) else None
    (folder / "words.pt").write_text("no weights")
    keys = {option.partition("=")[0] for option in options}
    replaced = {part for part in STUDY if part.partition("=")[0] in keys or ("dataset" in keys and "dataset" in part)}
    study = [part for part in STUDY if part not in replaced]
    result = command(*study, *options)
    assert result.status == 2 and words in result.err, result.err
    assert len(result.err.splitlines()) <= 2 and not (folder / "outputs").exists()


def test_networks_of_timm_train_and_are_trained_again(command, folder):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "t.pt")
    study = [*SHORT, *PICTURES, "model=timm", "model.architecture=test_resnet", "model.weights=t.pt", "model.resize=32"]
    result = command(*study, "head=softmax,sigmoid")
    assert result.status == 0, result.err
    first = records(folder)[0]
    assert first["sources"]["version of timm"] == timm.__version__ and "file of model.weights" in first["sources"]
    again = command("reproduce", str(folder / "outputs/x/runs" / first["run"]))
    assert again.status == 0 and "equal" in again.out, again.err
