"""Maps of the cosmic microwave background by WMAP: real fields of spin 0 (intensity) and spin 2 (polarisation).

References:
    Jarosik et al., "Seven-Year Wilkinson Microwave Anisotropy Probe (WMAP) Observations", arXiv:1001.4744.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.root import StrPath, named_file
from jaxgeo.errors import CorruptFileError

FILE_NAME = "wmap7_nside32.npz"
NSIDE = 32
_PIXELS = 12 * NSIDE**2


class WmapMaps(NamedTuple):
    """Seven-year maps at nside 32 in NESTED order; rows are I, Q, U, in the units of the published maps."""

    w_band: Float32[np.ndarray, "3 pixel"]
    mask: Bool[np.ndarray, " pixel"]  # True where the sky is clear of the galaxy
    w_spectrum: Float[np.ndarray, " degree"]  # C_l of W's intensity without its mean, unmasked, by the HEALPix programs


def load_wmap(root: StrPath | None = None) -> WmapMaps:
    """The maps of the W band, the mask and one power spectrum.

    Args:
        root: folder of `wmap7_nside32.npz`; by default the environment variable JAXGEO_DATA.

    Raises:
        ConfigError: no folder is named.
        InputError: there is no such file.
        CorruptFileError: it is damaged, or holds other shapes or types.
    """
    path = named_file("maps of WMAP", FILE_NAME, root)
    shapes = {"iqu_W": (3, _PIXELS), "mask": (_PIXELS,), "cl_W_II_lmax64_fortran": (65,)}
    arrays = parse_npz(read_file(path, "maps of WMAP"), path, shapes)
    for name, shape in shapes.items():
        array = arrays[name]
        fits = array.dtype.kind in "iub" if name == "mask" else array.dtype.kind == "f" and np.isfinite(array).all()
        if array.shape != shape or not fits:
            raise CorruptFileError(f"{path} must hold {name} of shape {shape}, finite, got {array.dtype} {array.shape}")
    return WmapMaps(
        arrays["iqu_W"].astype(np.float32),
        arrays["mask"].astype(bool),
        arrays["cl_W_II_lmax64_fortran"],
    )
