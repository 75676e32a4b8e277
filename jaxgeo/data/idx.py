"""The IDX format of the MNIST files: a typed array behind a header of big-endian numbers.

Two zero bytes, a type code, the number of dimensions, each dimension as 32 bits, then the values row by row.

References:
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from jaxgeo.errors import CorruptFileError
from jaxgeo.files import read_bytes

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, shape: tuple[int | None, ...] | None = None, dtype: np.dtype | None = None) -> np.ndarray:
    """The array of an IDX file, raw or compressed by gzip (told by content, not by name), in native byte order.

    Args:
        path: the file.
        shape: what is expected; None stands for any length.
        dtype: what is expected.

    Raises:
        CorruptFileError: the file is truncated, too long, no IDX file, or holds another type or shape.
        RunFolderError: there is no such file, or it may not be read.
    """
    content = read_bytes(path)
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise CorruptFileError(
                f"{path} is a damaged gzip file ({error}); an unbroken copy of the published file is needed"
            ) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        codes = ", ".join(f"{code:#04x}" for code in _TYPES)
        raise CorruptFileError(
            f"{path} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00, a type ({codes}) and the number of dimensions"
        )
    found_type, rank = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise CorruptFileError(
            f"{path} is truncated: a header of {rank} dimensions has {start} bytes, the file {len(content)}"
        )
    found_shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    expected = start + math.prod(found_shape) * found_type.itemsize
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "longer than its header says"
        raise CorruptFileError(
            f"{path} is {problem}: shape {found_shape} of {found_type.name} needs {expected} bytes, "
            f"the file has {len(content)}"
        )
    if dtype is not None and found_type.newbyteorder("=") != dtype:
        raise CorruptFileError(f"{path} holds {found_type.name}, expected {np.dtype(dtype).name}")
    if shape is not None and not _fits(found_shape, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise CorruptFileError(f"{path} holds an array of shape {found_shape}, expected ({wanted})")
    return np.frombuffer(content, found_type, offset=start).reshape(found_shape).astype(found_type.newbyteorder("="))


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(w is None or f == w for f, w in zip(found, wanted, strict=True))
