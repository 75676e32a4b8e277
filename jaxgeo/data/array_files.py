"""Bytes, JSON and NumPy files of data sets, read strictly: what is absent or damaged is one error naming the file."""

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo.errors import CorruptFileError, InputError

_NPZ_ERRORS = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_file(path: Path, what: str) -> bytes:
    """All bytes of a file.

    Args:
        path: the file.
        what: what it should hold, in the error's words: "calibration".

    Raises:
        InputError: there is no such file, or it may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}, which should hold the {what}, cannot be read ({error.strerror or error})") from error


def read_json_file(path: Path, what: str) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: there is no such file.
        CorruptFileError: it is no JSON.
    """
    content = read_file(path, what)
    try:
        return json.loads(content)
    except ValueError as error:
        raise CorruptFileError(
            f"{path}, which should hold the {what}, is not whole JSON ({error}); an unbroken copy of the published "
            f"file is needed"
        ) from error


def read_npy(path: Path, what: str) -> np.ndarray:
    """The array of an npy file; pickled objects are refused.

    Raises:
        InputError: there is no such file.
        CorruptFileError: it is no npy file, is truncated or too long, or holds objects.
    """
    stream = io.BytesIO(read_file(path, what))
    try:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError("more bytes than the array has")
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:  # what NumPy says of damaged headers
        raise CorruptFileError(
            f"{path}, which should hold the {what}, is no whole npy file of numbers ({error}); an unbroken copy of the "
            f"published file is needed"
        ) from error
    return array


def parse_npz(content: bytes, path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The named arrays of an npz file's bytes, each checked against the file's own sums; others are left unread.

    Raises:
        CorruptFileError: no npz file, damaged, or without one of the arrays; pickled objects are refused.
    """
    arrays = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if not missing:
                # Members whose name does not end in .npy come as bytes.
                arrays = {name: np.asarray(archive[name]) for name in names}
            found = sorted(archive.files)
    except _NPZ_ERRORS as error:
        raise CorruptFileError(
            f"{path} is no whole npz file of numbers ({error}); an unbroken copy of it is needed"
        ) from error
    except TypeError as error:  # np.load gives a bare array, which is no context manager, for an npy file
        raise CorruptFileError(f"{path} is no npz file but a single array") from error
    if missing:
        raise CorruptFileError(f"{path} lacks {', '.join(missing)}; it has {', '.join(found) or 'nothing'}")
    return arrays
