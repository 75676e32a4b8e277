"""Where data sets lie: a folder that is given, or the one that the environment variable JAXGEO_DATA names."""

import os
from pathlib import Path

from jaxgeo.errors import ConfigError

DATA_VARIABLE = "JAXGEO_DATA"
StrPath = str | os.PathLike[str]


def data_root(root: StrPath | None = None) -> Path | None:
    """The folder of data sets: the argument, else JAXGEO_DATA, else None."""
    if root is not None:
        return Path(root)
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else None


def find_file(name: str, root: StrPath | None = None) -> Path | None:
    """A file of the folder, or None where it is not there."""
    folder = data_root(root)
    path = None if folder is None else folder / name
    return path if path is not None and path.is_file() else None


def named_file(what: str, name: str, root: StrPath | None = None) -> Path:
    """The path of a file of the folder, whether it is there or not.

    Args:
        what: it should hold, in the error's words: "maps of WMAP".
        name: of the file.
        root: the folder; by default JAXGEO_DATA.

    Raises:
        ConfigError: no folder is named.
    """
    folder = data_root(root)
    if folder is None:
        raise ConfigError(f"no folder is named that has {name}, the {what}: give it, or set {DATA_VARIABLE} to it")
    return folder / name
