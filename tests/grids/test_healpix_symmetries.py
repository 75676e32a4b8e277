"""The symmetries of HEALPix against healpy's angles, and as a group."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix_symmetries import NUM_SYMMETRIES, partial_turns, symmetry_permutations


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


@given(power=st.integers(0, 5), count=st.sampled_from([1, 3, 5, 7]))
def test_a_pixel_of_a_turned_map_shows_the_pixel_that_holds_its_centre_turned_back(power, count):
    # Of an odd number, for no turned centre then lies on the edge of two pixels, where rounding would choose.
    nside = 2**power
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True)
    held = [healpy.ang2pix(nside, theta, phi - row * np.pi / 2 / count, nest=True) for row in range(count)]
    np.testing.assert_array_equal(partial_turns(nside, count), np.stack(held))


@pytest.mark.parametrize("nside", [1, 2, 8])
def test_turns_by_whole_pixels_of_the_belt_are_exact_there(nside):
    pixels = np.arange(12 * nside**2)
    theta, phi = healpy.pix2ang(nside, pixels, nest=True)
    belt = np.abs(np.cos(theta)) < 2 / 3
    for row, shown in enumerate(partial_turns(nside, nside)):
        there = healpy.pix2ang(nside, shown[belt], nest=True)
        np.testing.assert_allclose(there[0], theta[belt], atol=1e-12)
        apart = there[1] - (phi[belt] - row * np.pi / 2 / nside)
        np.testing.assert_allclose(np.cos(apart), 1, atol=1e-12)


def test_an_impossible_nside_or_number_of_turns_is_named():
    with pytest.raises(ConfigError, match="power of two"):
        symmetry_permutations(3)
    with pytest.raises(ConfigError, match="power of two"):
        partial_turns(3, 1)
    with pytest.raises(InputError, match="at least 1 turn, got 0"):
        partial_turns(2, 0)
