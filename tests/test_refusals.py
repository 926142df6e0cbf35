"""What a command refuses without the data and without a network, it refuses before what takes long is imported."""

import json
import os
import subprocess
import sys

import pytest

# Each takes between a third of a second and two seconds.
HEAVY = {"torch", "torchvision", "pandas", "scipy", "sklearn", "vl_convert", "tensorboard", "joblib"}
# Commands, each with what its refusal says first.
REFUSED = {
    "head=sofmax": "head=sofmax: no such head",
    "head=sigmoid head.reduction=max": "head.reduction=max: ",
    "head.label_smoothing=1": "head.label_smoothing=1.0: ",
    "head=factory head.path=nowhere:Head": "head.path=nowhere:Head: ",
    "optimizer.lr=abc": "optimizer.lr=abc: ",
    "optimizer.lr=0.1,-1": "optimizer.lr=-1.0: ",
    "optimizer.lr=interval(0,1) protocol.trials=2 seed=0,1": "optimizer.lr=interval(0,1): its low end",
    "training.epochs=0": "training.epochs=0: ",
    "model=mlp model.widths=[0]": "model.widths=(0,): ",
    "model.freeze=one(": "model.freeze=one(: ",
    "model=factory model.path=nowhere:net": "model.name=factory model.path=nowhere:net",
    "dataset.val_fraction=0": "dataset.val_fraction=0.0: ",
    "dataset.ood=irs": "dataset.ood=irs: ",
    "dataset=table dataset.path=nowhere.csv dataset.target=x": "dataset.path=nowhere.csv: ",
    "dataset=arrays dataset.path=nowhere.npz": "dataset.path=nowhere.npz: ",
    "dataset=image_folder dataset.root=nowhere": "dataset.root=nowhere: ",
    "dataset=factory dataset.path=nowhere:make": "dataset.path=nowhere:make: ",
    "seed=0,-1": "seed=-1: ",
    "fold=0,7": "fold=7: ",
    "name=a/b": "name=a/b: ",
    "device=gpu": "device=gpu: ",
    "protocol.until_decided=true protocol.max_seeds=9": "protocol.until_decided=true: ",
    "claims.accuracy.metric=test_acuracy claims=[accuracy]": "claims.accuracy.metric=test_acuracy: ",
    "head=softmax,sigmoid head.path=x:Y": "head.path='x:Y': no arm has a head of your own",
    "data dataset=table dataset.path=nowhere.csv dataset.target=x": "dataset.path=nowhere.csv: ",
    "report nowhere": "nowhere: ",
    "reproduce nowhere": "nowhere: ",
}
CHILD = """
import io, json, sys
from contextlib import redirect_stderr
from headtohead import cli

commands, heavy = json.loads(sys.argv[1]), {*json.loads(sys.argv[2])}
found = {}
for command in commands:
    before = {*sys.modules}
    sys.argv[1:] = command.split()
    with redirect_stderr(io.StringIO()) as error:
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
    found[command] = [status, error.getvalue(), sorted(heavy & (sys.modules.keys() - before))]
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return for each command its exit status, its errors, and the heavy packages that it is the first to import."""
    folder = tmp_path_factory.mktemp("refusals")
    arguments = [json.dumps([*REFUSED, "--help"]), json.dumps([*HEAVY])]
    subprocess.run([sys.executable, "-c", CHILD, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    assert os.listdir(folder) == ["found.json"]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("command", REFUSED)
def test_a_wrong_value_is_refused_before_torch_is_imported(found, command):
    status, error, heavy = found[command]
    assert (status, heavy) == (2, [])
    assert error.startswith(f"headtohead: {REFUSED[command]}")


def test_help_imports_nothing_heavy(found):
    assert found["--help"] == [0, "", []]
