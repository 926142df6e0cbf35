"""Pre-trained weights: networks compute what their library computes with them, on images as the weights expect them."""

import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import run
from omegaconf import OmegaConf
from PIL import Image
from plain_heads import PLAIN
from torch import nn

from headtohead.options import ConfigError, build_named
from headtohead.training import data
from headtohead.training.heads import Softmax
from headtohead.training.models import MODELS, checked_build, initialise
from headtohead.training.pack_data import Cohort

CONFIGS = Path(__file__).parents[2] / "configs/model"
SOFTMAX = Softmax(**PLAIN)
SMALL = "shufflenet_v2_x0_5"
K = 5


def configured(name, architecture, weights, **options):
    """Return the model of configs/model/<name>.yaml with some options replaced."""
    node = OmegaConf.load(CONFIGS / f"{name}.yaml")
    return build_named(
        MODELS, OmegaConf.merge(node, {"architecture": architecture, "weights": weights}, options), "model"
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a folder in place of torch's cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def random_network(architecture, seed=0, **options):
    """Return a network of torchvision whose norms do something."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(architecture, weights=None, **options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.weight, 0.8, 1.2)
    return network


def features_of(network, images):
    """Return what reaches the last Linear of a network of torchvision."""
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    kept = []
    last.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        network.eval()(images)
    return kept[0]


def pictures(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def own_features(model, images, shape=(3, 32, 32)):
    """Return what reaches the classifier of a network of ours, whose inputs are standardised."""
    network = checked_build(model, SOFTMAX, shape, K).eval()
    mean, std = model.pretrained.preprocessing.scaling_of(255)
    with torch.no_grad():
        return network.backbone(network.rgb((images.float() - mean) / std))


@pytest.mark.parametrize(
    ("architecture", "name", "options"),
    [
        (SMALL, "DEFAULT", {}),
        ("mobilenet_v3_small", "IMAGENET1K_V1", {}),
        ("mnasnet0_5", "DEFAULT", {}),  # its state dict has a version
        ("densenet121", "DEFAULT", {}),  # the names in its file are of an older release
        ("efficientnet_b0", "DEFAULT", {}),  # bicubic
        ("googlenet", "DEFAULT", {"aux_logits": False, "init_weights": False}),  # heads to leave out, other inputs
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_torchvision_with_its_weights_and_preprocessing(
    architecture, name, options, channels, home
):
    saved = random_network(architecture, **({"init_weights": False} if options else {})).state_dict()
    if architecture.startswith("densenet"):
        names = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): key for key in saved}
        saved = {old: saved[key] for old, key in names.items() if not key.endswith("num_batches_tracked")}
    weights = torchvision.models.get_model_weights(architecture)[name]
    torch.save(saved, home / Path(weights.url).name)
    theirs = torchvision.models.get_model(architecture, weights=weights)
    images = pictures(2, channels, 40, 48)
    expected = features_of(theirs, weights.transforms()(images.float().expand(-1, 3, -1, -1) / 255))
    found = own_features(configured("torchvision", architecture, name, options=options), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.save(saved, home / "mine.pth")
    from_file = own_features(configured("torchvision", architecture, str(home / "mine.pth"), options=options), images)
    default = torchvision.models.get_model_weights(architecture).DEFAULT
    if default == weights:
        assert torch.equal(from_file, found)


def test_a_side_replaces_that_of_the_weights(tmp_path):
    network = random_network(SMALL)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    images = pictures(2, 3, 50, 40)
    preset = torchvision.models.get_model_weights(SMALL).DEFAULT.transforms()
    small = torchvision.transforms.functional.resize(images.float() / 255, [36, 36], antialias=True)
    expected = features_of(network, torchvision.transforms.functional.normalize(small, preset.mean, preset.std))
    found = own_features(configured("torchvision", SMALL, str(tmp_path / "w.pt"), resize=36), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "model", "module."])
def test_files_of_training_scripts_with_any_number_of_classes_are_read(tmp_path, wrapped):
    network = random_network(SMALL, num_classes=7)
    state = network.state_dict()
    if wrapped == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({wrapped: state, "epoch": 3} if wrapped in ("state_dict", "model") else state, tmp_path / "w.pt")
    model = configured("torchvision", SMALL, str(tmp_path / "w.pt"), resize=32)
    first, second = (initialise(model, SOFTMAX, (3, 32, 32), K, seed) for seed in (0, 1))
    for name, value in network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(first.backbone.state_dict()[name], value)
            assert torch.equal(second.backbone.state_dict()[name], value)
    assert first.classifier.out_features == K
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_the_images_of_a_training_are_those_that_the_weights_expect(config, home, tmp_path):
    """From files on disk to the logits of a pack: the inputs are those of torchvision for the same pixels."""
    images = pictures(24, 3, 20, 20)
    for index, image in enumerate(images):
        folder = tmp_path / f"data/{'ab'[index % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:02}.png")
    network = random_network(SMALL)
    weights = torchvision.models.get_model_weights(SMALL).DEFAULT
    torch.save(network.state_dict(), home / Path(weights.url).name)
    made = config(
        "dataset=image_folder", f"dataset.root={tmp_path}/data", "dataset.size=20", "dataset.workers=0",
        "model=torchvision", f"model.architecture={SMALL}", "model.weights=DEFAULT", "training.batch_size=8",
    )  # fmt: skip
    pool = data.load(made.dataset, torch.device("cpu"))
    cohort = Cohort([made], pool)
    cohort.pack.train(False)
    ((inputs_VNx, _),) = cohort.chunks("test")
    with torch.no_grad():
        logits_RNK = cohort.logits(inputs_VNx)
    raw = pool.inputs[cohort.views[0].test].float() / 255
    assert torch.isin(raw.flatten(1).sum(1), (images.float() / 255).flatten(1).sum(1)).all()
    with torch.no_grad():
        expected = cohort.pack.template.classifier(features_of(network, weights.transforms()(raw)))
    torch.testing.assert_close(logits_RNK[0], expected, rtol=1e-3, atol=1e-4)


def test_white_of_digits_is_white(config, tmp_path):
    torch.save(random_network(SMALL).state_dict(), tmp_path / "w.pt")
    options = ["model=torchvision", f"model.architecture={SMALL}", f"model.weights={tmp_path}/w.pt", "model.resize=32"]
    made = config(*options)
    view = Cohort([made], data.load(made.dataset, torch.device("cpu"))).views[0]
    preset = torchvision.models.get_model_weights(SMALL).DEFAULT.transforms()
    mean, std = (sum(values) / 3 for values in (preset.mean, preset.std))
    assert view.inputs.max() == 16
    assert (view.mean.item(), view.std.item()) == pytest.approx((16 * mean, 16 * std))


def test_weights_are_fine_tuned_in_packs_as_alone(config, tmp_path):
    torch.save(random_network(SMALL).state_dict(), tmp_path / "w.pt")
    shared = ["model=torchvision", f"model.architecture={SMALL}", f"model.weights={tmp_path}/w.pt", "model.resize=32",
              "training.epochs=1", "training.batch_size=8", "training.points=2", "training.evaluations=1",
              "dataset.train_size=16", "dataset.val_fraction=0.02", "precision=float64"]  # fmt: skip
    runs = [config(*shared, f"seed={seed}", f"head={head}") for seed, head in ((0, "softmax"), (1, "sigmoid"))]
    _, packed = run(runs, test=False)
    for made, outcome in zip(runs, packed, strict=True):
        _, (alone,) = run([made], test=False)
        assert alone.metrics == pytest.approx(outcome.metrics, rel=1e-7, abs=1e-9, nan_ok=True)


def message_of(call):
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.startswith("model.weights=") and "accepted: " in text
    return text


class Foreign:
    """An object whose class a file may not name."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        ("pipe", "no regular file"),
        (b"", "damaged"),
        (b"no weights", "damaged"),
        (Foreign(), "more than tensors, which could run code"),
        (torch.zeros(3), "a Tensor that is no state dict"),
        ({}, "a dict that is no state dict"),
        ({"epoch": 3}, "a dict that is no state dict"),
        ("resnet18", "it lacks conv1.0.weight, "),
        ("shufflenet_v2_x1_0", "size mismatch for "),
        ("more", "the network lacks extra.weight, 1 tensors in all"),
        ("less", "it lacks conv5.0.weight, 1 tensors in all"),
    ],
)
def test_files_that_are_not_its_weights_are_refused(tmp_path, content, words):
    file = tmp_path / "w.pt"
    if content in ("more", "less"):
        state = random_network(SMALL).state_dict()
        _ = state.pop("conv5.0.weight") if content == "less" else state.update({"extra.weight": torch.zeros(1)})
        torch.save(state, file)
    elif content == "pipe":
        os.mkfifo(file)
    elif isinstance(content, str):
        torch.save(random_network(content).state_dict(), file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    model = configured("torchvision", SMALL, str(file))
    text = message_of(lambda: checked_build(model, SOFTMAX, (3, 32, 32), K))
    assert words in text and str(file) in text


@pytest.mark.parametrize("name", ["IMAGENET1K_V9", "default", "w.safetensors", ""])
def test_unknown_names_of_weights_are_refused(name):
    text = message_of(lambda: configured("torchvision", "resnet50", name))
    assert "IMAGENET1K_V2" in text and "a file .pt or .pth" in text


def test_weights_that_are_neither_there_nor_downloaded_are_refused(home, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    model = configured("torchvision", SMALL, "DEFAULT")
    text = message_of(lambda: checked_build(model, SOFTMAX, (3, 32, 32), K))
    url = torchvision.models.get_model_weights(SMALL).DEFAULT.url
    assert url in text and str(home) in text and "no route to host" in text
    assert not [*home.iterdir()]


# timm, which is optional


def timm_network(architecture):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(architecture)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
    return timm, network


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_features_are_those_of_timm_with_its_weights_and_preprocessing(tmp_path, architecture):
    timm, network = timm_network(architecture)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    images = pictures(2, 3, 40, 40)
    expected_data = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**expected_data, is_training=False)
    shown = torch.stack([transform(image.float() / 255) for image in images])
    network.eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(shown), pre_logits=True)
    found = own_features(configured("timm", architecture, str(tmp_path / "w.pt")), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_timm_come_from_the_cache_of_hugging_face(tmp_path, monkeypatch):
    timm, network = timm_network("test_resnet")
    hub = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    repository = timm.get_pretrained_cfg("test_resnet.r160_in1k").hf_hub_id
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    safetensors.save_file(network.state_dict(), folder / "snapshots/abc/model.safetensors")
    for name in ("DEFAULT", "r160_in1k"):
        model = configured("timm", "test_resnet", name)
        assert model.pretrained.place == folder / "snapshots/abc/model.safetensors"
        built = checked_build(model, SOFTMAX, (3, 32, 32), K)
        assert torch.equal(built.backbone.state_dict()["conv1.0.weight"], network.state_dict()["conv1.0.weight"])


def test_weights_of_timm_that_are_neither_there_nor_downloaded_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []

    def offline(repository, name):
        asked.append(name)
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    text = message_of(lambda: checked_build(configured("timm", "test_resnet", "DEFAULT"), SOFTMAX, (3, 32, 32), K))
    assert f"timm/test_resnet.r160_in1k/model.safetensors is not in {tmp_path}, and no download" in text
    assert asked == ["model.safetensors"]


@pytest.mark.parametrize(
    ("architecture", "weights", "words"),
    [
        ("test_resnet", "r160_in2k", "model.weights=r160_in2k: did you mean r160_in1k"),
        ("resnet19", None, "model.architecture=resnet19: did you mean"),
        ("hf-hub:someone/else", None, "model.architecture=hf-hub:someone/else: "),
        ("deit_tiny_distilled_patch16_224", None, "a classifier tuple"),
        ("test_resnet", "w.pt", "model.weights=w.pt: No such file"),
    ],
)
def test_networks_of_timm_that_are_refused(architecture, weights, words):
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=re.escape(words)):
        checked_build(configured("timm", architecture, weights), SOFTMAX, (3, 224, 224), K)


def test_without_timm_its_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"^model\.name=timm: needs timm: pip install 'headtohead\[timm\]'$"):
        configured("timm", "resnet18", None)
