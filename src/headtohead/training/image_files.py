"""Images in files that are read when they are needed.

Shape suffixes: N images, C channels, H height, W width; x any axes.
"""

from __future__ import annotations

import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headtohead.late import torch
from headtohead.options import ConfigError
from headtohead.training.memory import memory, require_memory

if TYPE_CHECKING:
    from torch import Tensor

# Largest share of a device's memory that images may take, unless the user decides.
MEMORY_SHARE = 1 / 4
# Start method of the processes that read, which does not depend on the launcher's. A fork takes milliseconds.
_START = "fork" if sys.platform == "linux" else "spawn"
# Number of bytes that are read at once if all images are read.
PIECE_BYTES = 2**23
# Number of files that a process verifies before it says so.
_VERIFIED_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N image files that replace a tensor (N, C, H, W) of bytes.

    Attributes:
        paths: paths of the files, or whatever else `read` takes.
        image_shape: shape of an image, (C, H, W).
        read: function from a path to an image (C, H, W); it raises a ConfigError that names the path.
        keep: whether all images are kept in memory; None keeps them if they take at most MEMORY_SHARE of it.
        workers: number of processes that read.
        device: device on which the images are placed.
    """

    paths: Sequence[Any]
    image_shape: tuple[int, int, int]
    read: Callable[[Any], Tensor]
    keep: bool | None
    workers: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), *self.image_shape)

    def on(self, device: torch.device) -> Tensor | ImageFiles:
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

    def verify(self) -> None:
        """Read every file once, which takes as long as an epoch, so that no broken one stops a training.

        Raises:
            ConfigError: a file cannot be read.
        """
        places = torch.arange(len(self.paths)).split(_VERIFIED_AT_ONCE)
        for error in self._read_ahead((part.tolist() for part in places), discard=True):
            if error is not None:
                raise error

    def errors(self) -> Iterator[ConfigError | None]:
        """Read every file once, and yield for each what is wrong with it; None if nothing is."""
        return self._read_ahead(([place] for place in range(len(self.paths))), discard=True)

    def _read_ahead(self, batches: Iterable[list[int]], discard: bool = False) -> Iterator[Any]:
        """Yield the images of each batch, None if they are discarded, or an error.

        They are read in this process where no others can be started.
        """
        reader = _Reader(self.paths, self.read, discard)
        loader = torch.utils.data.DataLoader(
            reader,  # pyright: ignore[reportArgumentType]
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
class _Reader:
    """The image files as a dataset for PyTorch, which reads a batch at a time."""

    paths: Sequence[Any]
    read: Callable[[Any], Tensor]
    discard: bool

    def __getitems__(self, index: list[int]) -> np.ndarray | ConfigError | None:
        try:
            if self.discard:
                for place in index:
                    self.read(self.paths[place])
                return None
            # Not a tensor: that would travel in shared memory, of which containers have little (/dev/shm).
            return torch.stack([self.read(self.paths[place]) for place in index]).numpy()
        except ConfigError as error:
            # If a worker raised it, it would arrive wrapped in a traceback.
            return error


def _unchanged(images: Any) -> Any:
    return images


def _ignore_interrupts(worker: int) -> None:
    """Ignore the signals that end a command, which come to all of its processes: the main one decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
