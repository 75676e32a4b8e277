"""Biases by place in the window, and by face and lattice."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.grids.healpix_windows import relative_position_index, window_positions
from jaxgeo.grids.neighbours import DIRECTIONS, neighbours
from jaxgeo.grids.window_shifts import plan_shift
from jaxgeo.layers.position_bias import face_bias_index, num_face_biases, num_window_biases, window_bias_index


@pytest.mark.parametrize("window", [4, 16, 64])
def test_windows_of_the_table_s_size_have_the_published_numbers(window):
    np.testing.assert_array_equal(window_bias_index(window, window), relative_position_index(window))
    assert window_bias_index(window, window).max() + 1 == num_window_biases(window)


@pytest.mark.parametrize("window", [1, 4, 16])
def test_smaller_windows_use_the_middle_of_the_table(window):
    side, large = round(window**0.5), 64
    index = window_bias_index(window, large)
    row, column = window_positions(window) if window > 1 else (np.zeros(1, int), np.zeros(1, int))
    rows, columns = np.divmod(index, 15)
    np.testing.assert_array_equal(rows - 7, row[:, None] - row[None, :])
    np.testing.assert_array_equal(columns - 7, column[:, None] - column[None, :])
    assert len(np.unique(index)) == (2 * side - 1) ** 2


def test_in_windows_inside_a_face_the_numbers_are_the_window_s_in_the_face_s_block():
    faces, nside, window = (3, 0, 11), 8, 16
    index = face_bias_index(nside, faces, np.arange(3 * nside**2), window, window)
    block = np.repeat(np.arange(3), nside**2 // window) * (num_window_biases(window) + 1)
    np.testing.assert_array_equal(index - block[:, None, None], np.tile(relative_position_index(window), (12, 1, 1)))
    assert index.max() < num_face_biases(window, 3)


def test_next_pixels_are_one_step_apart_over_edges_and_corners_too():
    nside = 4
    pixels = np.arange(12 * nside**2)
    found = np.asarray(neighbours(nside, jnp.asarray(pixels), "nested"))
    for direction, (step_x, step_y) in enumerate(DIRECTIONS):
        known = found[:, direction] >= 0
        pairs = np.stack([pixels, np.where(known, found[:, direction], pixels)], -1).reshape(-1)
        # Windows of two tokens, with a table that has room for offsets up to 3.
        index = face_bias_index(nside, range(12), pairs, 2, 16)[:, 0, 1]
        rows, columns = np.divmod(index - pixels // nside**2 * (num_window_biases(16) + 1), 7)
        np.testing.assert_array_equal(rows[known] - 3, -step_y)  # query minus key; rows go along y
        np.testing.assert_array_equal(columns[known] - 3, step_x)  # columns against x


def test_faces_that_do_not_touch_share_one_number():
    nside = 2
    pairs = np.array([0, 10 * nside**2, 5 * nside**2, 7 * nside**2])
    index = face_bias_index(nside, range(12), pairs, 2, 4)
    assert index[0, 0, 1] == num_window_biases(4)
    assert index[1, 1, 0] == 7 * (num_window_biases(4) + 1) + num_window_biases(4)


def test_attending_pairs_of_the_seamless_shift_keep_their_distance():
    # A window of that shift is a square on the sphere, turned as some face; or three quarters of one around a corner.
    nside, window = 16, 16
    shift = plan_shift("seamless", nside, window, 1, range(12))
    source, labels = np.asarray(shift.source), np.asarray(shift.labels).reshape(-1, window)
    index = face_bias_index(nside, range(12), source, window, window)
    block = source.reshape(-1, window)[:, :, None] // nside**2
    offset = index - block * (num_window_biases(window) + 1)
    one_face = (source.reshape(-1, window) // nside**2 == source.reshape(-1, window)[:, :1] // nside**2).all(-1)
    flat = (labels == labels[:, :1]).all(-1)
    assert one_face.sum() > 24
    assert (flat & ~one_face).sum() > 24
    expected = np.sort(relative_position_index(window).reshape(-1))
    for each in offset[one_face]:
        np.testing.assert_array_equal(np.sort(each.reshape(-1)), expected)
    # From its own face's lattice a query of a flat window sees the others in a square around or beside it.
    for each in offset[flat]:
        rows, columns = np.divmod(each, 7)
        assert (np.ptp(rows, axis=-1) == 3).all()
        assert (np.ptp(columns, axis=-1) == 3).all()
