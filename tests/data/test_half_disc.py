"""The toy's training points and the domains that lead away from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.data.half_disc import domain, half_disc, inside_disc
from jaxgeo.errors import InputError


def test_labels_are_those_of_the_disc_and_their_share_is_its_area():
    points, labels = half_disc(40_000, 0)
    np.testing.assert_array_equal(labels, np.hypot(points[:, 0], points[:, 1]) < 2.4)
    share = np.pi * 2.4**2 / 2 / 18
    # 40,000 points: a standard error of 0.0025; 4 of them.
    np.testing.assert_allclose(labels.mean(), share, atol=0.01)


@given(number=st.integers(0, 9), seed=st.integers(0, 1000))
def test_points_lie_in_their_domain(number, seed):
    points = domain(number, 200, seed)
    assert points.dtype == np.float32
    x1, most = points[:, 0], np.abs(points).max(axis=1)
    tiny = 1e-5  # rounding to float32
    if number < 2:
        sign = 1 if number == 0 else -1
        assert np.all((sign * x1 >= -tiny) & (most <= 3 + tiny))
    else:
        assert np.all((most >= 3 * (number - 1) - tiny) & (most <= 3 * number + tiny))


@pytest.mark.parametrize("number", [2, 5])
def test_a_ring_is_filled_evenly(number):
    points = domain(number, 100_000, 1)
    inner, outer = 3 * (number - 1), 3 * number
    # The half x1 > 0, the corner x1, x2 > inner, and the part within the middle square of the ring.
    for inside, area in [
        (points[:, 0] > 0, (4 * outer**2 - 4 * inner**2) / 2),
        ((points[:, 0] > inner) & (points[:, 1] > inner), (outer - inner) ** 2),
        (np.abs(points).max(axis=1) < inner + 1, 4 * (inner + 1) ** 2 - 4 * inner**2),
    ]:
        share = area / (4 * outer**2 - 4 * inner**2)
        np.testing.assert_allclose(inside.mean(), share, atol=5 * np.sqrt(share * (1 - share) / 100_000))


def test_the_disc_is_open_and_seeds_differ():
    np.testing.assert_array_equal(inside_disc(np.array([[0.0, 0.0], [2.4, 0.0], [0.0, -2.39]])), [1, 0, 1])
    assert not np.array_equal(domain(0, 5, 0), domain(0, 5, 1))
    np.testing.assert_array_equal(domain(3, 5, 7), domain(3, 5, 7))


def test_what_cannot_be_is_refused():
    for arguments, message in [
        ((10, 5, 0), "from 0 to 9, got 10"),
        ((0, 0, 0), "of at least 1, got 0"),
        ((0, 5, -1), "of at least 0, got -1"),
    ]:
        with pytest.raises(InputError, match=message):
            domain(*arguments)
