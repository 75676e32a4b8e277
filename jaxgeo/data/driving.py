"""Four classes of a drive (background, road, car, person), and pictures at the size that an FPGA takes.

References:
    Ghielmetti et al., "Real-time semantic segmentation on FPGAs for autonomous vehicles with hls4ml", arXiv:2205.07690:
    these classes, at 240 columns and 152 rows.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Real, UInt8
from scipy.sparse import csr_array

from jaxgeo.errors import InputError

DRIVING_CLASSES = ("background", "road", "car", "person")
DRIVING_COLORS = ("#4b5563", "#804080", "#274b9a", "#dc143c")
ROWS, COLUMNS = 152, 240
UNKNOWN = 255  # a label that counts nowhere


class SegmentationSet(NamedTuple):
    """Pictures and the class of each pixel, on the host."""

    names: tuple[str, ...]
    images: UInt8[np.ndarray, "image row column 3"]
    labels: UInt8[np.ndarray, "image row column"]  # 255 where unknown


def network_input(images: UInt8[np.ndarray, "*batch row column 3"]) -> Float32[np.ndarray, "*batch row column 3"]:
    """Bytes as numbers from 0 to below 1, in steps of 1/256: exact in eight bits."""
    return images.astype(np.float32) / np.float32(256)


def merge_classes(
    labels: UInt8[np.ndarray, "*shape"], table: UInt8[np.ndarray, " class"]
) -> UInt8[np.ndarray, "*shape"]:
    """Each label replaced by its entry in the table.

    Raises:
        InputError: a label beyond the table; 255 stays as it is, unless the table has 256 entries.
    """
    full = np.full(256, UNKNOWN, np.uint8)
    full[: len(table)] = table
    bad = (labels >= len(table)) & (labels != UNKNOWN)
    if bad.any():
        raise InputError(
            f"labels must lie between 0 and {len(table) - 1}, or be {UNKNOWN}, got {int(labels[bad][0])} at index "
            f"{tuple(int(i) for i in np.argwhere(bad)[0])}; are they of another set of classes?"
        )
    return full[labels]


def resize_area(
    image: UInt8[np.ndarray, "row column channel"], rows: int, columns: int
) -> UInt8[np.ndarray, "new_row new_col channel"]:
    """The mean colour of the area that each new pixel covers, rounded to nearest.

    Raises:
        InputError: a size below 1, or an empty picture.
    """
    _check_sizes(image.shape, rows, columns)
    old_rows, old_columns, channels = image.shape
    low = _shares(old_rows, rows) @ image.reshape(old_rows, old_columns * channels).astype(np.float64)
    across = low.reshape(rows, old_columns, channels).swapaxes(0, 1).reshape(old_columns, rows * channels)
    small = (_shares(old_columns, columns) @ across).reshape(columns, rows, channels).swapaxes(0, 1)
    return np.floor(small + 0.5).clip(0, 255).astype(np.uint8)


def resize_nearest(
    labels: Real[np.ndarray, "row column"], rows: int, columns: int
) -> Real[np.ndarray, "new_row new_col"]:
    """The label (or depth) at the centre of each new pixel; on an edge between two, that of the later one.

    Raises:
        InputError: a size below 1, or an empty picture.
    """
    _check_sizes(labels.shape, rows, columns)
    at = [((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(labels.shape, (rows, columns), strict=True)]
    return labels[np.ix_(*at)]


def _check_sizes(shape: tuple[int, ...], rows: int, columns: int) -> None:
    if min(rows, columns) < 1 or min(shape) < 1:
        raise InputError(f"a picture with pixels, and at least one row and column are needed, got {shape} to "
                         f"{rows} x {columns}")  # fmt: skip


@functools.lru_cache(maxsize=8)
def _shares(old: int, new: int) -> csr_array:
    """Which share of each new pixel each old one covers, (new, old), mostly 0; rows sum to one."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    low = np.maximum(edges[:-1, None], pixels[None])
    high = np.minimum(edges[1:, None], pixels[None] + 1.0)
    return csr_array(np.maximum(high - low, 0) * (new / old))
