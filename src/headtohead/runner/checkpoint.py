"""The state of a pack on disk: written by rename, checked on reading, the one before kept.

A file is a line that names the format, the SHA-256 of what follows, and what `torch.save` wrote.
"""

import hashlib
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from headtohead.record.files import write_atomically

MAGIC = b"headtohead checkpoint 1\n"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state; the file that `path` held before becomes its predecessor.

    Args:
        path: the file of the checkpoint; its folder is made if missing.
        state: nested tensors, numbers and texts, with the key `identity` for `load`.

    Raises:
        OSError: there is no room, or no right, to write; the checkpoints before it stay.
    """
    sink = io.BytesIO()
    torch.save(state, sink)
    content = sink.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    newest = path.with_name(f"{path.name}.newest")
    write_atomically(newest, MAGIC + hashlib.sha256(content).digest() + content)
    if path.exists():
        path.replace(_before(path))
    newest.replace(path)


def load(path: Path, identity: object) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the last checkpoint that is whole and has this identity, or None, and the flaws of later ones.

    Args:
        path: the file of the checkpoint.
        identity: the value that `state["identity"]` must have.

    Returns:
        The state, and a line for each file that could not be used.
    """
    flaws = []
    for candidate in (path, _before(path)):
        try:
            if candidate.exists() and not candidate.is_file():  # reading a pipe would wait for ever
                flaws.append(f"{candidate}: no file")
                continue
            content = candidate.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            flaws.append(f"{candidate}: cannot be read ({error.strerror})")
            continue
        start = len(MAGIC) + hashlib.sha256().digest_size
        if content[:start] != MAGIC + hashlib.sha256(content[start:]).digest():
            flaws.append(f"{candidate}: damaged, or no checkpoint")
            continue
        try:
            # It makes tensors, numbers and texts alone, and refuses all that would run code.
            state = torch.load(io.BytesIO(content[start:]), weights_only=True)
        except Exception as error:  # of any type, by what the file holds
            flaws.append(f"{candidate}: holds something else ({type(error).__name__})")
            continue
        if isinstance(state, dict) and state.get("identity") == identity:
            return state, flaws
        flaws.append(f"{candidate}: of other runs, or of another version")
    return None, flaws


def remove(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    for candidate in (path, _before(path)):
        with suppress(OSError):  # no training fails for it
            candidate.unlink()


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")
