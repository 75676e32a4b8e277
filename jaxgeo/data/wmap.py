"""Maps of the cosmic microwave background by WMAP: real fields of spin 0 (intensity) and spin 2 (polarisation).

References:
    Jarosik et al., "Seven-Year Wilkinson Microwave Anisotropy Probe (WMAP) Observations", arXiv:1001.4744.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.digits import DATA_VARIABLE, data_root
from jaxgeo.errors import ConfigError, CorruptFileError

FILE_NAME = "wmap7_nside32.npz"
NSIDE = 32
_PIXELS = 12 * NSIDE**2


class WmapMaps(NamedTuple):
    """Seven-year maps at nside 32 in NESTED order; rows are I, Q, U, in the units of the published maps."""

    w_band: Float32[np.ndarray, "3 pixel"]
    v_band: Float32[np.ndarray, "3 pixel"]
    mask: Bool[np.ndarray, " pixel"]  # True where the sky is clear of the galaxy
    w_spectrum: Float[np.ndarray, " degree"]  # C_l of W's intensity without its mean, unmasked, by the HEALPix programs


def wmap_file(root: Path | None = None) -> Path | None:
    """Where the maps lie, or None where there are none."""
    folder = data_root(root)
    path = None if folder is None else folder / FILE_NAME
    return path if path is not None and path.is_file() else None


def load_wmap(root: Path | None = None) -> WmapMaps:
    """The maps of two bands, the mask and one power spectrum.

    Args:
        root: folder of `wmap7_nside32.npz`; by default the environment variable JAXGEO_DATA.

    Raises:
        ConfigError: no folder is named.
        InputError: there is no such file.
        CorruptFileError: it is damaged, or holds other shapes or types.
    """
    folder = data_root(root)
    if folder is None:
        raise ConfigError(f"WMAP's maps are read from {FILE_NAME}: give its folder, or set {DATA_VARIABLE} to it")
    path = folder / FILE_NAME
    shapes = {"iqu_W": (3, _PIXELS), "iqu_V": (3, _PIXELS), "mask": (_PIXELS,), "cl_W_II_lmax64_fortran": (65,)}
    arrays = parse_npz(read_file(path, "maps of WMAP"), path, shapes)
    for name, shape in shapes.items():
        array = arrays[name]
        fits = array.dtype.kind in "iub" if name == "mask" else array.dtype.kind == "f" and np.isfinite(array).all()
        if array.shape != shape or not fits:
            raise CorruptFileError(f"{path} must hold {name} of shape {shape}, finite, got {array.dtype} {array.shape}")
    return WmapMaps(
        arrays["iqu_W"].astype(np.float32),
        arrays["iqu_V"].astype(np.float32),
        arrays["mask"].astype(bool),
        arrays["cl_W_II_lmax64_fortran"],
    )
