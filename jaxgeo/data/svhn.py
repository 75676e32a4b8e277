"""Street-view house numbers: the cropped digits in the published MATLAB files, read strictly and without pickle.

A file holds `X`, 8-bit images (row, col, channel, image), and `y`, classes 1 ... 10 of which 10 is the digit 0.

References:
    Netzer, Wang, Coates, Bissacco, Wu, Ng, "Reading Digits in Natural Images with Unsupervised Feature Learning",
    NIPS Workshop 2011.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxgeo.data.array_files import read_file
from jaxgeo.data.root import DATA_VARIABLE, StrPath, data_root
from jaxgeo.errors import ConfigError, CorruptFileError

SIZE = 32
NUM_CLASSES = 10
FOLDER = "svhn"
TRAIN_FILE, TEST_FILE, EXTRA_FILE = "train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"
_ADVICE = "an unbroken copy of the published file is needed"
_COMPRESSED = 15  # type of an element that zlib packed
_DESCRIPTION = 116  # bytes of text with which every MATLAB 5 file begins
# What SciPy is known to raise on damaged files.
_READ_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, EOFError, OSError, NotImplementedError, OverflowError, MemoryError,
    UnicodeDecodeError, struct.error, zlib.error,
)  # fmt: skip


class SvhnSet(NamedTuple):
    """Images of 8 bits with their digits 0 ... 9, on the host."""

    train_images: UInt8[np.ndarray, "train 32 32 3"]
    train_labels: Int[np.ndarray, " train"]  # int32
    test_images: UInt8[np.ndarray, "test 32 32 3"]
    test_labels: Int[np.ndarray, " test"]  # int32


def load_svhn(root: StrPath | None = None, *, extra: bool = False) -> SvhnSet:
    """Training and test images, in the order of the files.

    Args:
        root: folder that holds `svhn/`; by default the environment variable JAXGEO_DATA.
        extra: the easier images of `extra_32x32.mat` behind the training images.

    Raises:
        ConfigError: no root is named.
        InputError: a file is missing.
        CorruptFileError: a file is truncated, damaged or holds something else.
    """
    folder = data_root(root)
    if folder is None:
        raise ConfigError(
            f"SVHN is read from files: give the root folder, or set {DATA_VARIABLE} to the folder that holds "
            f"{FOLDER}/{TRAIN_FILE} and {FOLDER}/{TEST_FILE}"
        )
    names = (TRAIN_FILE, EXTRA_FILE) if extra else (TRAIN_FILE,)
    parts = [read_svhn(folder / FOLDER / name) for name in names]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return SvhnSet(images, labels, *read_svhn(folder / FOLDER / TEST_FILE))


def read_svhn(path: Path) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, " n"]]:
    """Images and digits (int32) of one published file.

    Raises:
        InputError: there is no such file.
        CorruptFileError: it is no MATLAB 5 file, is truncated or damaged, or has other arrays.
    """
    # SciPy's readers take a third of a second to import.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    content = read_file(path, "house numbers")
    if not content[:_DESCRIPTION].startswith(b"MATLAB 5.0"):
        raise CorruptFileError(
            f"{path} is no MATLAB 5 file: it starts with {content[:10]!r}, expected b'MATLAB 5.0'; {_ADVICE}"
        )
    _check_elements(path, content)
    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
    except (*_READ_ERRORS, MatReadError) as error:
        raise CorruptFileError(f"{path} is damaged ({type(error).__name__}: {error}); {_ADVICE}") from error
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise CorruptFileError(f"{path} lacks {', '.join(missing)}, which a file of house numbers has; {_ADVICE}")
    return _images(path, found["X"]), _digits(path, found["y"], found["X"].shape[-1])


def _check_elements(path: Path, content: bytes) -> None:
    """Walk over the top-level elements: of what is cut off behind them SciPy says nothing."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    place = 128
    if order is None:
        raise CorruptFileError(f"{path} has a damaged header: no byte order at bytes 126 and 127; {_ADVICE}")
    while place < len(content):
        if place + 8 > len(content):
            raise CorruptFileError(f"{path} is truncated within a header at byte {place}; {_ADVICE}")
        kind, size = struct.unpack(f"{order}II", content[place : place + 8])
        end = place + 8 + size
        if end > len(content):
            raise CorruptFileError(
                f"{path} is truncated: the element at byte {place} reaches to byte {end}, the file has {len(content)}; "
                f"{_ADVICE}"
            )
        if kind == _COMPRESSED:
            _check_stream(path, content[place + 8 : end], place)
        place = end


def _check_stream(path: Path, stream: bytes, place: int) -> None:
    """The sum at the end of a compressed element, which SciPy does not always read up to."""
    try:
        zlib.decompress(stream)
    except zlib.error as error:
        raise CorruptFileError(f"{path} is damaged in the element at byte {place} ({error}); {_ADVICE}") from error


def _images(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim != 4 or values.shape[:3] != (SIZE, SIZE, 3) or values.dtype != np.uint8 or not values.shape[3]:
        raise CorruptFileError(
            f"{path} holds X of {values.dtype} and shape {values.shape}, expected uint8 images of shape "
            f"({SIZE}, {SIZE}, 3, n); {_ADVICE}"
        )
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2))


def _digits(path: Path, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape not in ((count, 1), (1, count)) or not np.issubdtype(values.dtype, np.number):
        raise CorruptFileError(
            f"{path} holds y of {values.dtype} and shape {values.shape} for {count} images, expected one class each; "
            f"{_ADVICE}"
        )
    flat = values.ravel()
    bad = ~np.isin(flat, np.arange(1, NUM_CLASSES + 1))
    if bad.any():
        first = int(np.argmax(bad))
        raise CorruptFileError(
            f"{path} has classes other than 1 ... {NUM_CLASSES} (10 is the digit 0): {flat[first]} at image {first}, "
            f"{int(bad.sum())} in all; {_ADVICE}"
        )
    return flat.astype(np.int32) % NUM_CLASSES
