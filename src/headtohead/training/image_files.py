"""Images in files, read as they are needed.

Shapes: N images, C channels, H height, W width; x any axes.
"""

import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headtohead.options import ConfigError

CPU = torch.device("cpu")
# The share of a device's memory that images may take, unless the user decides.
SHARE = 1 / 4
# How processes that read are started, whatever a launcher has set for its own. To fork takes milliseconds.
_START = "fork" if sys.platform == "linux" else "spawn"
# Bytes that are read at once where all images are.
PIECE = 2**23


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N images in as many files, which stand in for a tensor (N, C, H, W) of bytes."""

    paths: Sequence[str]
    image_shape: tuple[int, int, int]
    read: Callable[[str], Tensor]  # from a path to an image; raises a ConfigError that names it
    keep: bool | None  # whether all images are kept in memory; None: where they take at most SHARE of it
    workers: int  # processes that read
    device: torch.device = CPU  # where the images are put

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), *self.image_shape)

    def on(self, device: torch.device) -> "Tensor | ImageFiles":
        """The images themselves on `device`, or files that are read anew whenever they are needed."""
        files = replace(self, device=device)
        keep = self.keep
        if keep is None:
            keep = math.prod(self.shape) <= SHARE * _memory(device)
        if not keep:
            return files
        images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        start = 0
        for piece in files.stream(files.pieces(torch.arange(len(self.paths)))):
            images[start : start + len(piece)] = piece
            start += len(piece)
        return images

    def pieces(self, index_N: Tensor) -> Sequence[Tensor]:
        """The index in parts, whose images may be held at once."""
        return index_N.split(max(1, PIECE // math.prod(self.image_shape)))

    def __getitem__(self, index_x: Tensor) -> Tensor:
        """The images (x, C, H, W), read here and now."""
        places: list[int] = index_x.flatten().tolist()
        images = torch.stack([self.read(self.paths[place]) for place in places])
        return images.view(*index_x.shape, *self.image_shape).to(self.device)

    def stream(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images (x, C, H, W) of each index, in order, read ahead by other processes.

        An image that stands in an index several times, as for runs that share a seed, is read once.

        Raises:
            ConfigError: a file cannot be read.
        """
        places: deque[Tensor] = deque()

        def wanted() -> Iterator[list[int]]:
            for index_x in indices:
                once, place_x = index_x.cpu().unique(return_inverse=True)
                places.append(place_x)
                yield once.tolist()

        loader = DataLoader(
            _Reader(self.paths, self.read),
            batch_sampler=wanted(),
            collate_fn=_as_it_is,
            num_workers=self.workers,
            multiprocessing_context=_START if self.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_interrupts,
            # Of its own: the global one is dropout's.
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, ConfigError):
                raise images
            place_x = places.popleft()
            read = images.to(self.device, non_blocking=True)
            yield read.index_select(0, place_x.flatten().to(self.device)).view(*place_x.shape, *self.image_shape)


@dataclass(frozen=True)
class _Reader(Dataset):
    """What DataLoader calls a dataset."""

    paths: Sequence[str]
    read: Callable[[str], Tensor]

    def __getitems__(self, index: list[int]) -> Tensor | ConfigError:
        try:
            return torch.stack([self.read(self.paths[place]) for place in index])
        except ConfigError as error:
            # Raised in a worker it would arrive wrapped in a traceback.
            return error


def _as_it_is(images: Any) -> Any:
    return images


def _leave_interrupts(worker: int) -> None:
    """The sweep says when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _memory(device: torch.device) -> int:
    """Bytes of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
