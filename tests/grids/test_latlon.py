"""Grids of parallels and meridians: quadrature, geometry, errors."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.grids import latlon

GRIDS = [latlon.soft_grid, latlon.driscoll_healy_grid, latlon.gauss_legendre_grid]


@pytest.mark.parametrize("make_grid", GRIDS)
@pytest.mark.parametrize("bandlimit", [1, 2, 3, 7, 32, 129])
def test_quadrature_integrates_polynomials_below_twice_the_bandlimit(make_grid, bandlimit):
    grid = make_grid(bandlimit)
    # In an independent basis: powers of the cosine, whose integrals are 2 / (k + 1) or 0.
    powers = np.arange(2 * bandlimit)
    integrals = np.cos(grid.colatitudes)[None] ** powers[:, None] @ grid.weights
    # Sums of at most 258 numbers below 1.
    np.testing.assert_allclose(integrals, np.where(powers % 2, 0, 2 / (powers + 1)), atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 16, 127, 512])
def test_gauss_nodes_and_weights_match_scipy(order):
    nodes, weights = scipy.special.roots_legendre(order)
    colatitudes, ours = latlon.gauss_legendre_nodes(order)
    np.testing.assert_allclose(np.cos(colatitudes), nodes[::-1], atol=1e-15)
    # scipy's own error: it works in the cosine, in which a node near the pole keeps half of its digits.
    np.testing.assert_allclose(ours, weights[::-1], rtol=1e-14 * max(10, order**2))


def test_gauss_nodes_and_weights_keep_all_digits_near_the_pole():
    # 40 digits by mpmath: findroot of legendre(128, cos(theta)), weight 2 / (dP/dtheta)^2.
    expected = {
        0: (0.0187145485551710736, 0.0004493809602920903764),
        1: (0.04295769789484715053, 0.001045812679340348779),
        30: (0.751789995901883997, 0.01669655780158920459),
        63: (1.558572323405372868, 0.02444618019626251821),
    }
    colatitudes, weights = latlon.gauss_legendre_nodes(128)
    for node, (colatitude, weight) in expected.items():
        # One unit in the last place of a node; a weight divides by the square of a sum of 128 terms.
        assert colatitudes[node] == pytest.approx(colatitude, rel=2.3e-16, abs=0)
        assert weights[node] == pytest.approx(weight, rel=3e-15, abs=0)


@given(bandlimit=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), which=st.integers(0, 2))
def test_points_integrate_products_of_band_limited_functions(bandlimit, seed, which):
    grid = GRIDS[which](bandlimit)
    # The mean of (x . u)^(2b-1 or less) over the sphere is 1 / (k + 1) for even k, for every direction u.
    direction = np.random.default_rng(seed).normal(size=3)
    direction /= np.linalg.norm(direction)
    power = (2 * bandlimit - 2) // 2 * 2
    values = (latlon.pixel_vectors(grid) @ direction) ** power
    integral = (values * latlon.pixel_areas(grid)).sum()
    np.testing.assert_allclose(integral, 4 * np.pi / (power + 1), rtol=1e-12)  # rounding of the power


@pytest.mark.parametrize("make_grid", GRIDS)
def test_meshes_and_vectors_agree(make_grid):
    grid = make_grid(5)
    theta, phi = latlon.colatitude_mesh(grid), latlon.longitude_mesh(grid)
    expected = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    assert theta.shape == phi.shape == grid.shape == (grid.num_latitudes, grid.num_longitudes)
    np.testing.assert_allclose(latlon.pixel_vectors(grid), expected, atol=1e-15)  # one rounding each
    np.testing.assert_allclose(latlon.pixel_areas(grid).sum(), 4 * np.pi, rtol=1e-14)


def test_shapes_of_the_three_grids():
    assert latlon.soft_grid(6).shape == (12, 12)
    assert latlon.driscoll_healy_grid(6).shape == (12, 12)
    assert latlon.gauss_legendre_grid(6).shape == (6, 11)
    assert latlon.gauss_legendre_grid(6, 12).shape == (6, 12)


def test_driscoll_healy_begins_on_the_pole_with_weight_zero():
    grid = latlon.driscoll_healy_grid(9)
    assert grid.colatitudes[0] == 0
    assert grid.weights[0] == 0


@pytest.mark.parametrize("make_grid", [latlon.soft_grid, latlon.gauss_legendre_grid])
@pytest.mark.parametrize("bandlimit", [4, 5])
def test_south_mirrors_north(make_grid, bandlimit):
    grid = make_grid(bandlimit)
    np.testing.assert_allclose(grid.colatitudes + grid.colatitudes[::-1], np.pi, rtol=1e-15)
    np.testing.assert_allclose(grid.weights, grid.weights[::-1], rtol=1e-13)  # sums of sines with other arguments


def test_legendre_polynomials_match_scipy():
    colatitudes = np.linspace(0, np.pi, 50)
    values = latlon.legendre_polynomials(30, colatitudes)
    expected = scipy.special.eval_legendre(np.arange(30)[:, None], np.cos(colatitudes)[None])
    np.testing.assert_allclose(values, expected, atol=1e-14)  # 30 steps


@pytest.mark.parametrize("make_grid", GRIDS)
def test_a_grid_without_degrees_is_refused(make_grid):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        make_grid(0)


def test_too_few_longitudes_are_refused():
    with pytest.raises(ConfigError, match="at least 2 bandlimit - 1 = 7 longitudes"):
        latlon.gauss_legendre_grid(4, 6)


def test_grids_are_found_by_their_names():
    for name in ("soft", "driscoll_healy", "gauss_legendre"):
        grid = latlon.latlon_grid(name, 3)
        assert grid.name == name
        assert grid.bandlimit == 3
    with pytest.raises(ConfigError, match="must be one of soft, driscoll_healy, gauss_legendre, got 'cube'"):
        unchecked(latlon.latlon_grid)("cube", 3)


@pytest.mark.parametrize("bandlimit", [0, -1, 2.0, 2.5, None])
def test_bandlimits_are_positive_whole_numbers(bandlimit):
    for make_grid in GRIDS:
        with pytest.raises(ConfigError, match="whole number of at least 1"):
            unchecked(make_grid)(bandlimit)


def test_oversampled_bandlimits_are_rounded_up_but_for_the_last_bit():
    assert latlon.oversampled_bandlimit(27, 1.1) == 30
    assert latlon.oversampled_bandlimit(10, 1.1) == 11  # 11.000000000000002
    assert latlon.oversampled_bandlimit(5, 1.0) == 5
    for factor in (0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="oversampling"):
            latlon.oversampled_bandlimit(5, factor)
