"""PNG pictures of published data sets as arrays: colours, class indices and 16-bit depth, each strictly of its kind.

The chunks are walked first: their sums show damage that decoders pass over, and the header tells a colour picture from
a picture of indices before anything is converted.

References:
    ISO/IEC 15948:2004, "Portable Network Graphics (PNG): Functional specification", sections 5 and 11.
"""

import io
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8, UInt16

from jaxgeo.data.array_files import read_file
from jaxgeo.errors import CorruptFileError, ToolMissingError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}
_ADVICE = "an unbroken copy of the published file is needed"


def read_color_png(path: Path, what: str = "image") -> UInt8[np.ndarray, "row column 3"]:
    """Red, green and blue of an 8-bit colour PNG; an alpha channel is left out.

    Raises:
        InputError: there is no such file.
        CorruptFileError: damaged, or no 8-bit colour.
        ToolMissingError: Pillow is not installed.
    """
    return _read(path, what, {(8, 2), (8, 6)}, "8-bit colour")[..., :3]


def read_index_png(path: Path, what: str = "labels") -> UInt8[np.ndarray, "row column"]:
    """The numbers of an 8-bit grey PNG, or the indices of one with a palette (whose colours are left out).

    Raises:
        InputError: there is no such file.
        CorruptFileError: damaged, or no single 8-bit channel.
        ToolMissingError: Pillow is not installed.
    """
    return _read(path, what, {(8, 0), (8, 3), (4, 3), (2, 3), (1, 3)}, "one channel of 8 bits")


def read_depth_png(path: Path, what: str = "depth") -> UInt16[np.ndarray, "row column"]:
    """The numbers of a 16-bit grey PNG.

    Raises:
        InputError: there is no such file.
        CorruptFileError: damaged, or no 16-bit grey.
        ToolMissingError: Pillow is not installed.
    """
    return _read(path, what, {(16, 0)}, "one channel of 16 bits").astype(np.uint16)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolMissingError(
            f"PNG pictures are read by Pillow, which cannot be imported ({error}); pip install pillow"
        ) from error
    return Image


def _read(path: Path, what: str, kinds: set[tuple[int, int]], wanted: str) -> np.ndarray:
    image_module = _pillow()
    content = read_file(path, what)
    bits, color_type = _check_chunks(content, path)
    if (bits, color_type) not in kinds:
        raise CorruptFileError(
            f"{path}, which should hold the {what}, has {bits} bits of {_COLOR_TYPES.get(color_type, 'unknown kind')}, "
            f"needed is {wanted}; is it another picture of the set under this name?"
        )
    try:
        with image_module.open(io.BytesIO(content), formats=["PNG"]) as picture:
            array = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, image_module.DecompressionBombError) as error:
        raise CorruptFileError(f"{path}, which should hold the {what}, is damaged ({error}); {_ADVICE}") from error
    return array


def _check_chunks(content: bytes, path: Path) -> tuple[int, int]:
    """Bit depth and colour type of the header, after every chunk's sum was found right."""
    if not content.startswith(_SIGNATURE):
        raise CorruptFileError(
            f"{path} is no PNG file: it starts with {content[:8].hex(' ') or 'nothing'}, expected {_SIGNATURE.hex(' ')}"
        )
    position, header = len(_SIGNATURE), b""
    while True:
        length = int.from_bytes(content[position : position + 4], "big")
        end = position + 12 + length
        if len(content) < end:
            raise CorruptFileError(
                f"{path} is truncated: {len(content)} bytes, and the next part ends at {end}; {_ADVICE}"
            )
        kind, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        if zlib.crc32(kind + data) != int.from_bytes(content[end - 4 : end], "big"):
            raise CorruptFileError(f"{path} was altered: the sum of its part at byte {position} is wrong; {_ADVICE}")
        if position == len(_SIGNATURE):
            header = data
            if kind != b"IHDR" or length != 13:
                raise CorruptFileError(f"{path} is a PNG file without a header; {_ADVICE}")
        if kind == b"IEND":
            break
        position = end
    return header[8], header[9]
