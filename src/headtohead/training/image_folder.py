"""Folders of images: which folders are classes, which are splits, and what is left out."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headtohead.options import ConfigError
from headtohead.training.decoding import readable_suffixes
from headtohead.training.examples import Skipped, Split

# Names of splits, in lower case.
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that the name of a split may have beside it, as in "training_set" or "TestData".
_FILLERS = {"", "set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder"}
# Names, in lower case, of what systems and programs leave beside the data of a person.
_SYSTEM = {
    "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "lost+found",
    "$recycle.bin", "#recycle", "@recycle", "@recently-snapshot", "system volume information",
    "network trash folder", "temporary items",
}  # fmt: skip
_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")

# Reasons to leave something out.
HIDDEN = "hidden or of the system"
BESIDE_CLASSES = "beside the folders of the classes"
BESIDE_SPLITS = "beside the folders of the splits"
NO_FILES = "neither files nor folders"


@dataclass(frozen=True)
class ImageTree:
    """The image files below a folder.

    Attributes:
        classes: names of the classes, sorted.
        files: the path and the number of the class of each file, sorted by class and path, for each split that has a
            folder; for None where there are no folders of splits.
        skipped: what is left out.
    """

    classes: tuple[str, ...]
    files: dict[Split | None, list[tuple[str, int]]]
    skipped: tuple[Skipped, ...]


def read_tree(root: Path) -> ImageTree:
    """Find the images in a folder that holds a folder for each class, or a folder for each split that does.

    Raises:
        ConfigError: it holds something else, or a class has no image.
    """
    reader = _Reader(root)
    try:
        return reader.read()
    except OSError as error:
        raise ConfigError(f"dataset.root={root}: cannot read {error.filename}: {error.strerror}") from error


def split_of(name: str) -> Split | None:
    """Return the split that the name of a folder stands for, such as "train" for "Training_Set"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = re.split(r"[^a-z0-9]+|(?<=[a-z])(?=(?:data)?set$|data$)", spaced)
    kinds = [word for word in words if word not in _FILLERS]
    return SPLITS.get(kinds[0]) if len(kinds) == 1 else None


class _Reader:
    """A reader of one folder that keeps an account of what it leaves out."""

    def __init__(self, root: Path):
        self._root = root
        self._readable = readable_suffixes()
        self._skipped: dict[str, list[str]] = {}

    def read(self) -> ImageTree:
        """Read the folder."""
        folders, others = self._contents(self._root)
        splits = self._splits([entry.name for entry in folders])
        files: dict[Split | None, list[tuple[str, int]]] = {}
        if not splits:
            self._skip(BESIDE_CLASSES, others)
            classes, files[None] = self._classes(self._root, folders)
            self._require_classes(classes)
        else:
            self._skip(BESIDE_SPLITS, [entry for entry in folders if entry.name not in splits.values()] + others)
            classes = ()
            for split, name in splits.items():
                folder = self._root / name
                below, others = self._contents(folder)
                self._skip(BESIDE_CLASSES, others)
                found, files[split] = self._classes(folder, below)
                classes = classes or found
                if found != classes:
                    expected = f"those of {next(iter(splits.values()))}: {_listed(classes)}"
                    raise ConfigError(f"dataset.root={folder}: classes={_listed(found)}: {expected}")
        skipped = tuple(Skipped(reason, len(paths), paths[0]) for reason, paths in self._skipped.items())
        return ImageTree(classes, files, skipped)

    def _splits(self, names: Sequence[str]) -> dict[Split, str]:
        """Return the folder of each split; nothing if the folders are those of classes."""
        named = [name for name in names if split_of(name)]
        # A class may be called "test" beside other classes. Alone, a folder "train" is a split if it holds folders.
        alone = len(names) == 1 and bool(self._contents(self._root / names[0], note=False)[0])
        if len(named) < 2 and not (named and alone):
            return {}
        splits: dict[Split, str] = {}
        for split in ("train", "val", "test"):
            same = [name for name in named if split_of(name) == split]
            if len(same) > 1:
                raise self._refusal(f"{' and '.join(same)} name the same split; accepted: one of them")
            if same:
                splits[split] = same[0]
        if "train" not in splits:
            raise self._refusal(f"{' and '.join(named)} without train; accepted: a folder train beside them")
        return splits

    def _classes(
        self, folder: Path, folders: Sequence[os.DirEntry[str]]
    ) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
        """Return the names of the classes and their files."""
        if not folders:
            raise ConfigError(f"dataset.root={folder}: cannot find any class folder; accepted: a folder for each class")
        self._refuse_unnamed_splits(folder, folders)
        files = []
        for label, entry in enumerate(folders):
            if any("\ud800" <= letter <= "\udfff" for letter in entry.name):
                raise ConfigError(f"dataset.root={folder}: the name of the class {entry.name!a} is not UTF-8")
            paths = self._images(entry.path, set())
            if not paths:
                raise ConfigError(f"dataset.root={folder}: no image in {entry.name}{self._unread(entry)}")
            # By folder, then by name.
            files += [(path, label) for path in sorted(paths, key=os.path.split)]
        return tuple(entry.name for entry in folders), files

    def _refuse_unnamed_splits(self, folder: Path, folders: Sequence[os.DirEntry[str]]) -> None:
        """Refuse folders that hold nothing but folders of the same names: splits or folds, and not classes."""
        below = []
        for entry in folders:
            inside, files = self._contents(Path(entry.path), note=False)
            if len(folders) < 2 or not inside or any(self._is_image(file, note=False) for file in files):
                return
            below.append({sub.name for sub in inside})
        most = max(below, key=len)
        if len(most) > 1 and all(names <= most for names in below):
            found = f"{_listed([entry.name for entry in folders])} all hold the folders {_listed(sorted(most))}"
            accepted = "accepted: a folder for each class, or folders train, val and test that hold them"
            raise ConfigError(f"dataset.root={folder}: {found}; {accepted}")

    def _require_classes(self, classes: Sequence[str]) -> None:
        """Refuse a single folder, and name it if it holds the classes."""
        if len(classes) > 1:
            return
        below, _ = self._contents(self._root / classes[0], note=False)
        hint = f"; did you mean {self._root / classes[0]}?" if len(below) > 1 else ""
        raise self._refusal(f"1 class, {classes[0]}; accepted: 2 or more{hint}")

    def _images(self, folder: str, seen: set[str]) -> list[str]:
        """Return the paths of all images in a folder and those in it, each folder once however it is linked."""
        real = os.path.realpath(folder)
        if real in seen:
            return []
        seen.add(real)
        folders, files = self._contents(Path(folder))
        found = [entry.path for entry in files if self._is_image(entry)]
        return found + [path for entry in folders for path in self._images(entry.path, seen)]

    def _is_image(self, entry: os.DirEntry[str], note: bool = True) -> bool:
        suffix = os.path.splitext(entry.name)[1].lower()
        reason = ""
        if suffix in _HEIF and suffix not in self._readable:
            reason = f"{suffix} files need the package pillow-heif"
        elif suffix not in self._readable:
            reason = f"{suffix} files are not read" if suffix else "files without a suffix are not read"
        # A link to nothing is a file that cannot be read. A pipe would be waited for.
        elif not _is_file(entry) and os.path.exists(entry.path):
            reason = NO_FILES
        if reason and note:
            self._skip(reason, [entry])
        return not reason

    def _contents(self, folder: Path, note: bool = True) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Return the folders and everything else in a folder, sorted by name, without what is hidden."""
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        if note:
            self._skip(HIDDEN, [entry for entry in entries if _is_hidden(entry.name)])
        shown = [entry for entry in entries if not _is_hidden(entry.name)]
        return [entry for entry in shown if _is_folder(entry)], [entry for entry in shown if not _is_folder(entry)]

    def _skip(self, reason: str, entries: Sequence[os.DirEntry[str]]) -> None:
        for entry in entries:
            path = os.path.relpath(entry.path, self._root)
            self._skipped.setdefault(reason, []).append(f"{path}/" if _is_folder(entry) else path)

    def _unread(self, entry: os.DirEntry[str]) -> str:
        """Describe what a folder without images holds."""
        inside = f"{os.path.relpath(entry.path, self._root)}/"
        counts = {reason: sum(path.startswith(inside) for path in paths) for reason, paths in self._skipped.items()}
        found = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        return f" ({found})" if found else ""

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(f"dataset.root={self._root}: {reason}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _listed(names: Sequence[str]) -> str:
    """List names, some of them where they are many."""
    return ", ".join(names if len(names) <= 20 else [*names[:3], "...", names[-1], f"{len(names)} in all"])
