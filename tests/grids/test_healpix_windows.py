"""Layout of windows and crossings of edges against healpy, and relative positions against sums written out."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.grids import healpix_windows

sides = st.sampled_from([1, 2, 4, 8, 16])
WINDOWS = [4, 16, 64, 256]


@given(side=sides)
def test_places_in_a_square_are_those_of_healpy_and_numbers_are_their_inverse(side):
    x, y = healpix_windows.nested_places(side)
    np.testing.assert_array_equal((x, y), healpy.pix2xyf(side, np.arange(side**2), nest=True)[:2])
    np.testing.assert_array_equal(healpix_windows.nested_numbers(side, x, y), np.arange(side**2))


@pytest.mark.parametrize("window_size", WINDOWS)
def test_rows_run_to_the_north_west_and_columns_to_the_south_west(window_size):
    row, column = healpix_windows.window_positions(window_size)
    side = round(window_size**0.5)
    assert row.dtype == column.dtype == np.int64
    # A window in a face's south corner, where x grows to the north-east and y to the north-west.
    x, y, _ = healpy.pix2xyf(32, np.arange(window_size), nest=True)
    np.testing.assert_array_equal(row, y)
    np.testing.assert_array_equal(column, side - 1 - x)


@pytest.mark.parametrize("window_size", WINDOWS)
def test_relative_positions_number_each_offset_once_and_in_the_order_of_a_table(window_size):
    index = healpix_windows.relative_position_index(window_size)
    row, column = healpix_windows.window_positions(window_size)
    side = round(window_size**0.5)
    offsets = list(np.ndindex(2 * side - 1, 2 * side - 1))  # row and column of the table of biases, counted from 0
    for query in range(0, window_size, 3):
        for key in range(window_size):
            offset = (row[query] - row[key] + side - 1, column[query] - column[key] + side - 1)
            assert offsets[index[query, key]] == offset
    # Swapping query and key reads the table backwards; a token is at offset 0 of itself.
    np.testing.assert_array_equal(index + index.T, (2 * side - 1) ** 2 - 1)
    np.testing.assert_array_equal(np.diag(index), ((2 * side - 1) ** 2 - 1) // 2)
    assert set(index.ravel()) == set(range((2 * side - 1) ** 2))


@pytest.mark.parametrize("nside", [1, 2, 8])
def test_steps_over_edges_lead_to_the_neighbours_of_healpy(nside):
    pix = np.arange(12 * nside**2)
    x, y, face = healpy.pix2xyf(nside, pix, nest=True)
    steps = (
        (-1, 0),
        (-1, 1),
        (0, 1),
        (1, 1),
        (1, 0),
        (1, -1),
        (0, -1),
        (-1, -1),
    )  # healpy's order, from the south-west
    found = [healpix_windows.enter_faces(nside, face, x + step_x, y + step_y) for step_x, step_y in steps]
    np.testing.assert_array_equal(found, healpy.get_all_neighbours(nside, pix, nest=True))


@given(side=st.sampled_from([2, 4, 8]), steps=st.integers(1, 7), face=st.integers(0, 11), way=st.integers(0, 3))
def test_lattice_outside_a_face_is_walked_step_by_step(side, steps, face, way):
    # A straight walk over an edge: each pixel's two neighbours ahead and behind lie opposite to each other.
    steps = min(steps, side - 1)
    across = np.arange(side)
    ahead = np.arange(side, side + steps + 1) if way % 2 else -1 - np.arange(steps + 1)
    first, second = np.meshgrid(ahead, across, indexing="ij")
    x, y = (first, second) if way < 2 else (second, first)
    pixels = healpix_windows.enter_faces(side, np.full_like(x, face), x, y)
    neighbours = healpy.get_all_neighbours(side, pixels, nest=True)
    forward = (neighbours[:, :-1] == pixels[None, 1:]).any(0)
    sideways = (neighbours[:, :, :-1] == pixels[None, :, 1:]).any(0)
    assert forward.all()
    assert sideways.all()
    assert len(np.unique(pixels)) == pixels.size


def test_lattice_continues_over_24_of_the_48_sides_and_the_rest_is_turned():
    faces = np.arange(12)
    straight = [healpix_windows.lattice_continues(faces, *step) for step in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    # Polar caps have four edges each, seen from two sides, where the lattice turns.
    assert [(row < 0).sum() for row in straight] == [4, 4, 4, 4]
    nside = 4
    for row, (x, y) in zip(straight, ((nside, 1), (-1, 1), (1, nside), (1, -1)), strict=True):
        pixels = healpix_windows.enter_faces(nside, faces, np.full(12, x), np.full(12, y))
        kept = row >= 0
        np.testing.assert_array_equal(row[kept], pixels[kept] // nside**2)


@pytest.mark.parametrize(
    ("window_size", "message"),
    [
        (8, "nearest are 4 and 16"),
        (2, "smallest is 4"),
        (1, "smallest is 4"),
        (0, "smallest is 4"),
        (-4, "smallest is 4"),
        (128, "nearest are 64 and 256"),
        (48, "nearest are 16 and 64"),
    ],
)
def test_windows_that_are_no_squares_are_refused(window_size, message):
    for function in (healpix_windows.window_positions, healpix_windows.relative_position_index):
        with pytest.raises(ConfigError, match=message):
            function(window_size)


@pytest.mark.parametrize("window_size", [16.0, "16", None])
def test_windows_of_no_whole_number_are_refused(window_size):
    with pytest.raises(ConfigError, match=f"window_size must be a whole number, got {window_size!r}"):
        unchecked(healpix_windows.check_window)(window_size)


def test_numbers_beyond_int32_are_refused():
    healpix_windows.check_token_nside(2**13)
    with pytest.raises(ConfigError, match="reaches nside 8192, got 16384"):
        healpix_windows.check_token_nside(2**14)
