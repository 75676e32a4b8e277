"""The symmetries of HEALPix against healpy's angles, and as a group."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.grids.healpix_symmetries import NUM_SYMMETRIES, symmetry_permutations


@given(power=st.integers(0, 5), which=st.integers(0, NUM_SYMMETRIES - 1))
def test_what_a_pixel_shows_lies_where_the_inverse_motion_takes_it(power, which):
    nside = 2**power
    shown = symmetry_permutations(nside)[which]
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True)
    # Undone in the reverse order: the turn first.
    phi = phi - which % 4 * np.pi / 2
    phi = -phi if which // 4 % 2 else phi
    theta = np.pi - theta if which // 8 else theta
    np.testing.assert_array_equal(shown, healpy.ang2pix(nside, theta, phi, nest=True))


def test_they_are_sixteen_different_permutations_closed_under_composition():
    rows = symmetry_permutations(2)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.broadcast_to(np.arange(48), rows.shape))
    known = {tuple(row) for row in rows}
    assert len(known) == NUM_SYMMETRIES
    assert all(tuple(one[other]) in known for one in rows for other in rows)
    np.testing.assert_array_equal(rows[0], np.arange(48))


def test_an_impossible_nside_is_named():
    with pytest.raises(ConfigError, match="power of two"):
        symmetry_permutations(3)
