"""Places of data and code, as options name them: what is not there is refused before anything is read or imported."""

import importlib.util
import os
from pathlib import Path

from headtohead.options import ConfigError, one_line, require

# Suffixes of files of tables: of text with the delimiter of each, and of Parquet.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
# The names of the arrays that a file may hold.
NAMES = ("X", "y", "X_test", "y_test", "classes", "groups", "groups_test")
A_TABLE = "a .csv, .tsv or .parquet file"
A_NPZ = f"a file that numpy.savez wrote, with {', '.join(NAMES[:2])} and optionally {', '.join(NAMES[2:])}"
A_NPY = "a .npy file that numpy.save wrote"


def require_table(path: str, key: str) -> None:
    """Refuse what is no file of a table."""
    path = os.path.expanduser(path)
    require(Path(path).suffix.lower() in (*DELIMITERS, PARQUET), key, path, A_TABLE)
    require(os.path.isfile(path), key, path, f"no such file; accepted: {A_TABLE}")


def require_arrays(path: str, labels: str | None) -> None:
    """Refuse what is no file of arrays, or no pair of files with inputs and labels."""
    path, labels = os.path.expanduser(path), labels and os.path.expanduser(labels)
    if Path(path).suffix.lower() == ".npy":
        require(labels is not None, "dataset.labels", "null", f"a .npy file with the labels of {path}")
        for key, file in (("dataset.path", path), ("dataset.labels", labels)):
            require(Path(str(file)).is_file(), key, file, f"no such file; accepted: {A_NPY}")
    else:
        require(labels is None, "dataset.labels", labels, f"null for {path}, which is no .npy file")
        require(Path(path).is_file(), "dataset.path", path, f"no such file; accepted: {A_NPZ}")


def require_folder(root: str) -> None:
    """Refuse what is no folder of images."""
    require(
        os.path.isdir(os.path.expanduser(root)),
        "dataset.root",
        root,
        "an existing folder, with a folder of images per class",
    )


def require_function(path: str) -> None:
    """Refuse what names no function of a dataset, or one in a module that is not there."""
    accepted = "accepted: package.module:function"
    require(":" in path, "dataset.path", path, accepted)
    try:
        require_module(path)
    except (Exception, SystemExit) as error:  # the import of a package runs code, which may raise anything
        raise ConfigError(f"dataset.path={path}: {one_line(error)}; {accepted}") from error


def require_module(path: str) -> None:
    """Raise the error of an import where there is no module of "package.module:function"; only packages are imported.

    Raises:
        ImportError: there is no such module. The import of a package that holds it may raise anything.
    """
    module = path.partition(":")[0]
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
