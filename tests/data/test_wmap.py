"""WMAP's maps: the real ones have the power spectrum that the HEALPix programs computed from them."""

import healpy
import numpy as np
import pytest

from jaxgeo.data.root import find_file
from jaxgeo.data.wmap import FILE_NAME, load_wmap
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

# Of the environment at collection, so that a test never changes what another one reads.
REAL = [path for path in [find_file(FILE_NAME)] if path is not None]


def arrays():
    rng = np.random.default_rng(0)
    return {
        "iqu_W": rng.normal(size=(3, 12288)).astype(np.float32),
        "mask": rng.integers(0, 2, 12288).astype(np.uint8),
        "cl_W_II_lmax64_fortran": rng.uniform(size=65),
    }


def test_maps_come_back(tmp_path, monkeypatch):
    written = arrays()
    np.savez(tmp_path / "wmap7_nside32.npz", **written)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    for found, expected in zip(load_wmap(), written.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert load_wmap(tmp_path).mask.dtype == bool


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("iqu_W", None, "lacks iqu_W"),
        ("iqu_W", np.zeros((12288, 3)), "iqu_W of shape"),
        ("iqu_W", np.full((3, 12288), np.nan), "iqu_W of shape .* finite"),
        ("mask", np.zeros(12288), "mask of shape"),
    ],
)
def test_files_of_another_form_are_named(tmp_path, name, value, message):
    changed = {key: array for key, array in (arrays() | {name: value}).items() if array is not None}
    np.savez(tmp_path / "wmap7_nside32.npz", **changed)
    with pytest.raises(CorruptFileError, match=rf"wmap7_nside32\.npz.*{message}"):
        load_wmap(tmp_path)


def test_absent_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"wmap7_nside32\.npz.*cannot be read"):
        load_wmap(tmp_path)
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    with pytest.raises(ConfigError, match="set JAXGEO_DATA"):
        load_wmap()


@pytest.mark.parametrize("path", REAL)
def test_real_maps_have_the_stored_power_spectrum(path):
    found = load_wmap(path.parent)
    intensity = healpy.reorder(found.w_band[0].astype(np.float64), n2r=True)
    spectrum = healpy.anafast(intensity - intensity.mean(), lmax=64, iter=3)
    # Two programs on float32 maps, whose own agreement is 3e-8 of the largest value.
    np.testing.assert_allclose(spectrum, found.w_spectrum, atol=1e-6 * found.w_spectrum.max())
