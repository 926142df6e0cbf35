"""Images in files that are read when they are needed.

Shape suffixes: N images, C channels, H height, W width; x any axes.
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
# Largest share of a device's memory that images may take, unless the user decides.
MEMORY_SHARE = 1 / 4
# Start method of the processes that read, which does not depend on the launcher's. A fork takes milliseconds.
_START = "fork" if sys.platform == "linux" else "spawn"
# Number of bytes that are read at once if all images are read.
PIECE_BYTES = 2**23


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N image files that replace a tensor (N, C, H, W) of bytes.

    Attributes:
        paths: paths of the files.
        image_shape: shape of an image, (C, H, W).
        read: function from a path to an image; it raises a ConfigError that names the path.
        keep: whether all images are kept in memory; None keeps them if they take at most MEMORY_SHARE of it.
        workers: number of processes that read.
        device: device on which the images are placed.
    """

    paths: Sequence[str]
    image_shape: tuple[int, int, int]
    read: Callable[[str], Tensor]
    keep: bool | None
    workers: int
    device: torch.device = CPU

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), *self.image_shape)

    def on(self, device: torch.device) -> "Tensor | ImageFiles":
        """Return the images themselves on `device`, or files that are read again whenever they are needed."""
        files = replace(self, device=device)
        keep = self.keep
        if keep is None:
            keep = math.prod(self.shape) <= MEMORY_SHARE * _memory(device)
        if not keep:
            return files
        images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        start = 0
        for piece in files.stream(files.pieces(torch.arange(len(self.paths)))):
            images[start : start + len(piece)] = piece
            start += len(piece)
        return images

    def pieces(self, index_N: Tensor) -> Sequence[Tensor]:
        """Split an index into parts whose images fit into memory."""
        return index_N.split(max(1, PIECE_BYTES // math.prod(self.image_shape)))

    def __getitem__(self, index_x: Tensor) -> Tensor:
        """Read the images (x, C, H, W) in this process."""
        places: list[int] = index_x.flatten().tolist()
        images = torch.stack([self.read(self.paths[place]) for place in places])
        return images.view(*index_x.shape, *self.image_shape).to(self.device)

    def stream(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images (x, C, H, W) of each index in order; other processes read them ahead.

        An image that occurs several times in an index is read once.

        Raises:
            ConfigError: a file cannot be read.
        """
        places: deque[Tensor] = deque()

        def unique_places() -> Iterator[list[int]]:
            for index_x in indices:
                unique, place_x = index_x.cpu().unique(return_inverse=True)
                places.append(place_x)
                yield unique.tolist()

        loader = DataLoader(
            _Reader(self.paths, self.read),
            batch_sampler=unique_places(),
            collate_fn=_unchanged,
            num_workers=self.workers,
            multiprocessing_context=_START if self.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_interrupts,
            # Not the global generator, which is for dropout.
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
    """The image files as a dataset of PyTorch's, which reads a batch at a time."""

    paths: Sequence[str]
    read: Callable[[str], Tensor]

    def __getitems__(self, index: list[int]) -> Tensor | ConfigError:
        try:
            return torch.stack([self.read(self.paths[place]) for place in index])
        except ConfigError as error:
            # If a worker raised it, it would arrive wrapped in a traceback.
            return error


def _unchanged(images: Any) -> Any:
    return images


def _ignore_interrupts(worker: int) -> None:
    """Ignore the signals that end a command, which come to all of its processes: the main one decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _memory(device: torch.device) -> int:
    """Return the memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
