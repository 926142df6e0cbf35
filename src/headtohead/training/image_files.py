"""Images in files that are read when they are needed.

Shape suffixes: N images, C channels, H height, W width; x any axes.
"""

import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headtohead.options import ConfigError
from headtohead.training.memory import memory, require_memory

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
        size = math.prod(self.shape)
        keep = self.keep
        if keep is None:
            keep = size <= MEMORY_SHARE * memory(device)
        if not keep:
            return files
        require_memory(size, device, "dataset.stream", "false")
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

        for images in self._read_ahead(unique_places()):
            if isinstance(images, ConfigError):
                raise images
            place_x = places.popleft()
            read = torch.from_numpy(images)
            read = (read.pin_memory() if self.device.type == "cuda" else read).to(self.device, non_blocking=True)
            yield read.index_select(0, place_x.flatten().to(self.device)).view(*place_x.shape, *self.image_shape)

    def _read_ahead(self, batches: Iterable[list[int]]) -> Iterator[np.ndarray | ConfigError]:
        """Yield the images of each batch, or the first error, in this process where no others can be started."""
        reader = _Reader(self.paths, self.read)
        loader = DataLoader(
            reader,
            batch_sampler=batches,
            collate_fn=_unchanged,
            num_workers=self.workers,
            multiprocessing_context=_START if self.workers else None,
            worker_init_fn=_ignore_interrupts,
            # Not the global generator, which is for dropout.
            generator=torch.Generator(),
        )
        try:
            ahead = iter(loader)
        except OSError:  # a limit of processes, or no shared memory for their locks; no batch was taken
            ahead = map(reader.__getitems__, batches)
        yield from ahead


@dataclass(frozen=True)
class _Reader(Dataset):
    """The image files as a dataset of PyTorch's, which reads a batch at a time."""

    paths: Sequence[str]
    read: Callable[[str], Tensor]

    def __getitems__(self, index: list[int]) -> np.ndarray | ConfigError:
        try:
            # Not a tensor: that would travel in shared memory, of which containers have little (/dev/shm).
            return torch.stack([self.read(self.paths[place]) for place in index]).numpy()
        except ConfigError as error:
            # If a worker raised it, it would arrive wrapped in a traceback.
            return error


def _unchanged(images: Any) -> Any:
    return images


def _ignore_interrupts(worker: int) -> None:
    """Ignore interrupts: the main process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
