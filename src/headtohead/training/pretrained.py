"""Pre-trained weights: where they lie, how they are read, and what images they expect.

Shape suffixes: B batch, C channels, H height, W width.

A file of weights is read as tensors alone: nothing in it can run code. Images reach the network standardised by
`Preprocessing.scaling`, as all inputs are standardised; its first layers resize and crop them, and turn this scaling
into that of each channel.
"""

import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from headtohead.options import ConfigError, nearest, one_line, require

KEY = "model.weights"
SUFFIXES = (".pt", ".pth")
A_FILE = "a file .pt or .pth with a state dict"
# Keys under which training scripts save the state dict beside other things.
WRAPPERS = ("state_dict", "model")


@dataclass(frozen=True)
class Preprocessing:
    """The images that weights expect.

    Attributes:
        resize: sides in pixels to which images are resized; of one number, the shorter side.
        crop: height and width of the centre that is cut out.
        interpolation: name of the method of resizing.
        mean, std: those of the channels of their training images, as shares of white.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def scaling(self) -> tuple[float, float]:
        """The mean and the standard deviation, as shares of white, by which images of any channels are standardised."""
        return sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)

    def scaling_of(self, white: int) -> tuple[float, float]:
        """Return `scaling` in units of pixels, of which the largest value is `white`."""
        mean, std = self.scaling
        return white * mean, white * std

    def layer(self, side: int | None) -> nn.Module:
        """Return a layer from images (B, 1 or 3, H, W), standardised by `scaling`, to those that the weights expect.

        Args:
            side: side in pixels to which images are resized, without a crop; None for that of the weights.
        """
        from torchvision.transforms import CenterCrop, InterpolationMode, Resize

        sides = [*self.resize] if side is None else [side, side]
        resize = Resize(sides, InterpolationMode(self.interpolation), antialias=True)
        crop = nn.Identity() if side is not None else CenterCrop([*self.crop])
        return nn.Sequential(resize, crop, _Channels(self))


class _Channels(nn.Module):
    """A layer that gives each of three channels its own scaling."""

    def __init__(self, expected: Preprocessing):
        super().__init__()
        mean, std = expected.scaling
        mean_C, std_C = torch.tensor(expected.mean).double(), torch.tensor(expected.std).double()
        self.scale_C11 = nn.Buffer((std / std_C).float().view(-1, 1, 1))
        self.shift_C11 = nn.Buffer(((mean - mean_C) / std_C).float().view(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW * self.scale_C11 + self.shift_C11


@dataclass(frozen=True)
class Weights:
    """Pre-trained weights of an architecture.

    Attributes:
        name: value of `model.weights`.
        architecture: name of the architecture; in timm with the tag of the weights.
        preprocessing: the images that they expect; of a file, those of the default weights of its architecture.
        url: where torchvision or timm has them, if in no repository.
        repository: repository of Hugging Face that has them.
        files: names that their file may have there.
    """

    name: str
    architecture: str
    preprocessing: Preprocessing
    url: str = ""
    repository: str | None = None
    files: tuple[str, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether they are in a file of the user's."""
        return self.name.endswith(SUFFIXES)

    @property
    def place(self) -> Path | None:
        """Where their file is, or belongs; None where Hugging Face has not brought it."""
        if self.is_file:
            return Path(self.name).expanduser()
        if self.repository is None:
            return Path(torch.hub.get_dir(), "checkpoints", os.path.basename(self.url))
        hub = import_module("huggingface_hub")
        found = [hub.try_to_load_from_cache(self.repository, name) for name in self.files]
        return next((Path(place) for place in found if isinstance(place, str)), None)

    def fetch(self) -> Path:
        """Return the file, downloaded where it is not in the cache.

        Raises:
            ConfigError: it is not there and cannot be downloaded.
        """
        place = self.place
        if self.is_file or (place and place.is_file()):
            assert place is not None
            return place
        source = self.url if self.repository is None else f"{self.repository}/{self.files[0]}"
        try:
            return _downloaded(self.url, place) if place else self._from_hub()
        except Exception as error:  # the network, a proxy or a server may raise anything
            cache = place.parent if place else import_module("huggingface_hub").constants.HF_HUB_CACHE
            found = f"{source} is not in {cache}, and no download: {one_line(error, most=100)}"
            raise ConfigError(f"{KEY}={self.name}: {found}; accepted: weights that are there, or {A_FILE}") from error

    def _from_hub(self) -> Path:
        hub, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its attempts
        *others, last = self.files
        for name in others:
            try:
                return Path(hub.hf_hub_download(self.repository, name))
            except errors.LocalEntryNotFoundError:  # no connection
                raise
            except errors.EntryNotFoundError:
                continue
        return Path(hub.hf_hub_download(self.repository, last))


def of_torchvision(architecture: str, name: str) -> Weights:
    """Return weights by their name in torchvision, or those in a file.

    Raises:
        ConfigError: there are none of this name.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture)
    _require_known(name, [*known.__members__])
    member: Any = known["DEFAULT" if name.endswith(SUFFIXES) else name]
    preset = member.transforms()
    crop = (*preset.crop_size, *preset.crop_size)[:2]
    images = Preprocessing((*preset.resize_size,), crop, preset.interpolation.value, (*preset.mean,), (*preset.std,))
    return Weights(name, architecture, images, member.url)


def of_timm(architecture: str, name: str) -> Weights:
    """Return weights by their tag in timm, or those in a file.

    Raises:
        ConfigError: there are none of this name.
    """
    timm = import_module("timm")

    base = architecture.partition(".")[0]
    tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{base}.*")]
    _require_known(name, ["DEFAULT", *tags] if tags else [])
    is_tag = name != "DEFAULT" and not name.endswith(SUFFIXES)
    architecture = f"{base}.{name}" if is_tag else architecture
    known = timm.get_pretrained_cfg(architecture)
    data = timm.data.resolve_data_config(pretrained_cfg=known.to_dict())
    crop = data["input_size"][1:]
    sides = tuple(math.floor(side / data["crop_pct"]) for side in crop)
    sides = sides if data["crop_mode"] == "squash" or crop[0] != crop[1] else sides[:1]
    images = Preprocessing(sides, crop, data["interpolation"], data["mean"], data["std"])
    files = (known.hf_hub_filename,) if known.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    return Weights(name, architecture, images, known.url or "", known.hf_hub_id, files)


def _require_known(weights: str, names: Sequence[str]) -> None:
    known = f"{nearest(weights, names)}, or " if names else "accepted: "
    require(weights in names or weights.endswith(SUFFIXES), KEY, weights, known + A_FILE)


def _downloaded(url: str, place: Path) -> Path:
    """Download a file, which is complete where it is there, and return its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    digits = torch.hub.HASH_REGEX.search(place.name)  # in the name: those with which the checksum begins
    torch.hub.download_url_to_file(url, str(place), digits and digits.group(1))
    return place


def load(network: nn.Module, weights: Weights, classifier: str) -> None:
    """Load weights into a network, but for those of its classifier.

    Args:
        classifier: name of the layer that is to be replaced, which may have any number of classes in the file.

    Raises:
        ConfigError: the file is missing, damaged, holds something else, or the weights of another network.
    """
    state = _read(weights.fetch())
    for name in [*state]:
        # A part that the options leave out, such as an auxiliary head, is None in the network.
        if name.startswith(f"{classifier}.") or getattr(network, name.partition(".")[0], network) is None:
            del state[name]
    try:
        found = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:  # other shapes, or another version of the network
        reason = str(error).strip().splitlines()[-1].strip()
        raise _of_another(weights, reason.replace("torch.Size", "")) from error
    lacking = [name for name in found.missing_keys if not name.startswith(f"{classifier}.")]
    if lacking:
        raise _of_another(weights, f"it lacks {lacking[0]}, {len(lacking)} tensors in all")
    if found.unexpected_keys:
        count = len(found.unexpected_keys)
        raise _of_another(weights, f"the network lacks {found.unexpected_keys[0]}, {count} tensors in all")


def _of_another(weights: Weights, reason: str) -> ConfigError:
    accepted = f"accepted: the state dict of model.architecture={weights.architecture}"
    return ConfigError(f"{KEY}={weights.name}: {reason}; {accepted}")


def _read(file: Path) -> dict[str, Any]:
    """Return the state dict in a file."""
    require(file.is_file() or not file.exists(), KEY, file, f"no regular file; accepted: {A_FILE}")
    try:
        saved: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{KEY}={file}: {one_line(error)}; accepted: {A_FILE}") from error
    except Exception as error:  # a damaged file may raise anything
        reason = f"damaged, or more than tensors, which could run code ({type(error).__name__})"
        raise ConfigError(f"{KEY}={file}: {reason}; accepted: {A_FILE}") from error
    for key in WRAPPERS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    is_state = isinstance(saved, dict) and saved and all(isinstance(value, Tensor) for value in saved.values())
    require(is_state, KEY, file, f"a {type(saved).__name__} that is no state dict; accepted: {A_FILE}")
    state: dict[str, Any] = saved
    consume_prefix_in_state_dict_if_present(state, "module.")  # of DataParallel
    for name in [*state]:
        # Files of densenet say norm.1 for norm1.
        renamed = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
        state[renamed] = state.pop(name)
    return state
