"""Attributes of modules beside parameters and buffers, such as a tensor or a number.

A pack calls one network with the parameters and buffers of each run, so that it cannot have attributes that differ.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# The attributes of every module: its parameters, buffers, submodules and hooks, and its mode.
OF_MODULES = {*vars(nn.Module())}


def digest(network: nn.Module) -> str:
    """Return a text that differs between networks whose attributes differ in a tensor, an array, a number or a text."""
    found = hashlib.sha256()
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            # Masks of dropout are drawn with the rate of each run.
            if key not in OF_MODULES and not (key == "p" and type(module) is nn.Dropout):
                for part in _parts(value):
                    found.update(f"{name}.{key} ".encode())
                    found.update(part)
    return found.hexdigest()


def have_equal_attributes(networks: Sequence[nn.Module]) -> bool:
    """Return whether `digest` is the same for all networks, of which several may be one object."""
    return len({digest(network) for network in {id(network): network for network in networks}.values()}) == 1


def _parts(value: Any) -> Iterator[Any]:
    """Yield the bytes of a value and of what it contains; none of a parameter or of an object of any other kind."""
    if isinstance(value, nn.Parameter):
        return  # as a recurrent layer keeps its own in a list
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        if value.layout == torch.strided and not value.is_meta:
            yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield b"" if value.dtype.hasobject else np.ascontiguousarray(value)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield repr(key).encode()
            yield from _parts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        yield repr(value).encode()
