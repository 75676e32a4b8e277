"""Index arithmetic against healpy: every pixel of small maps, random pixels of large ones."""

import functools
import inspect

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import healpix
from jaxgeo.grids.neighbours import neighbours

SMALL = [2**k for k in range(7)]
LARGE = [2**k for k in range(7, 14)]
SOME = [1, 2, 8, 64, 2**10, 2**13]  # where every nside would only repeat the same compiled arithmetic
HUGE = [2**14, 2**20, 2**29]  # int64 only; 2^29 is the format's own limit
ORDERS = ["nested", "ring"]
nsides = st.sampled_from([1, 2, 16, 2**13, 2**26, 2**29])  # few, because each is compiled


def pixels(nside, dtype=np.int64):
    """All pixels, or the ends and 20,000 others."""
    total = 12 * nside**2
    if nside <= 64:
        return np.arange(total, dtype=dtype)
    cap = 2 * nside * (nside - 1)
    edges = [0, 1, 3, 4, cap - 1, cap, cap + 4 * nside - 1, total - cap - 1, total - cap, total - 5, total - 1]
    return np.concatenate([edges, np.random.default_rng(nside).integers(0, total, 20_000)]).astype(dtype)


def check_against_healpy(nside, dtype):
    pix = pixels(nside, dtype)
    ring_to_nest = healpix.ring_to_nest(nside, pix)
    nest_to_ring = healpix.nest_to_ring(nside, pix)
    assert ring_to_nest.dtype == nest_to_ring.dtype == dtype
    np.testing.assert_array_equal(ring_to_nest, healpy.ring2nest(nside, pix))
    np.testing.assert_array_equal(nest_to_ring, healpy.nest2ring(nside, pix))
    for order, to_xyf, from_xyf in [
        ("nested", healpix.nest_to_xyf, healpix.xyf_to_nest),
        ("ring", healpix.ring_to_xyf, healpix.xyf_to_ring),
    ]:
        xyf = to_xyf(nside, pix)
        np.testing.assert_array_equal(xyf, healpy.pix2xyf(nside, pix, nest=order == "nested"))
        np.testing.assert_array_equal(from_xyf(nside, *xyf), pix)


@pytest.mark.parametrize("nside", SMALL + LARGE)
def test_int32_arithmetic_equals_healpy(nside):
    check_against_healpy(nside, np.int32)


@pytest.mark.parametrize("nside", SOME + HUGE)
def test_int64_arithmetic_equals_healpy(nside):
    with jax.enable_x64(True):
        check_against_healpy(nside, np.int64)


@pytest.mark.parametrize(
    ("nside", "order"), [(n, "nested") for n in SMALL + LARGE] + [(n, "ring") for n in [*SMALL, 2**13]]
)
def test_neighbours_equal_healpy(nside, order):
    pix = pixels(nside, np.int32)
    found = neighbours(nside, pix, order)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found.T, healpy.get_all_neighbours(nside, pix, nest=order == "nested"))


@pytest.mark.parametrize("nside", [2**13, *HUGE])
def test_neighbours_in_int64_equal_healpy(nside):
    pix = pixels(nside)
    with jax.enable_x64(True):
        found = np.asarray(neighbours(nside, pix, "nested"))
    np.testing.assert_array_equal(found.T, healpy.get_all_neighbours(nside, pix, nest=True))


@pytest.mark.parametrize("nside", SMALL[1:])
def test_twenty_four_pixels_have_seven_neighbours_and_touching_is_mutual(nside):
    found = np.asarray(neighbours(nside, jnp.arange(12 * nside**2), "nested"))
    assert np.bincount((found >= 0).sum(1)).tolist() == [0] * 7 + [24, 12 * nside**2 - 24]
    touching = {(p, q) for p, row in enumerate(found) for q in row if q >= 0}
    assert touching == {(q, p) for p, q in touching}


def test_neighbours_keep_the_shape_of_the_pixels():
    pix = jnp.arange(48).reshape(2, 3, 8)
    np.testing.assert_array_equal(
        neighbours(2, pix, "ring"), neighbours(2, pix.reshape(-1), "ring").reshape(2, 3, 8, 8)
    )
    assert neighbours(2, jnp.asarray(5), "ring").shape == (8,)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("nside", SOME + HUGE)
def test_centers_equal_healpy_to_rounding(nside, order):
    pix = pixels(nside)
    with jax.enable_x64(True):
        theta, phi = healpix.pixel_centers(nside, jnp.asarray(pix), order)
        vectors = healpix.pixel_vectors(nside, jnp.asarray(pix), order)
        assert theta.dtype == phi.dtype == vectors.dtype == np.float64
        theta, phi, vectors = np.asarray(theta), np.asarray(phi), np.asarray(vectors)
    expected_theta, expected_phi = healpy.pix2ang(nside, pix, nest=order == "nested")
    # A few units in the last place of numbers up to 2 pi (8.9e-16 each).
    np.testing.assert_allclose(theta, expected_theta, rtol=0, atol=3e-15)
    np.testing.assert_allclose(phi, expected_phi, rtol=0, atol=3e-15)
    expected = np.stack(healpy.pix2vec(nside, pix, nest=order == "nested"), axis=-1)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-15)
    np.testing.assert_allclose((vectors**2).sum(-1), 1, rtol=0, atol=2e-15)


@pytest.mark.parametrize("order", ORDERS)
def test_centers_in_float32_are_near_those_in_float64(order):
    pix = np.arange(12 * 32**2, dtype=np.int32)
    theta, phi = healpix.pixel_centers(32, jnp.asarray(pix), order)
    assert theta.dtype == phi.dtype == np.float32
    # Two roundings of numbers up to 2 pi, 4.8e-7 each.
    np.testing.assert_allclose([theta, phi], healpy.pix2ang(32, pix, nest=order == "nested"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("nside", SOME)
def test_points_fall_into_the_pixels_that_healpy_says(nside, order):
    rng = np.random.default_rng(nside)
    vectors = rng.normal(size=(20_000, 3))
    # Some close to the poles, where 1 - |z| loses its digits.
    vectors[:2000, :2] *= 10.0 ** rng.uniform(-9, 0, (2000, 1))
    nest = order == "nested"
    theta, phi = healpy.vec2ang(vectors)
    phi = phi + 2 * np.pi * rng.integers(-2, 3, phi.shape)
    with jax.enable_x64(True):
        by_vector = np.asarray(healpix.vectors_to_pixels(nside, vectors, order))
        by_angle = np.asarray(healpix.angles_to_pixels(nside, theta, phi, order))
    np.testing.assert_array_equal(by_vector, healpy.vec2pix(nside, *vectors.T, nest=nest))
    np.testing.assert_array_equal(by_angle, healpy.ang2pix(nside, theta, np.mod(phi, 2 * np.pi), nest=nest))


@pytest.mark.parametrize("nside", [1, 2, 8, 1024, 2**29])
def test_points_on_edges_and_corners_get_a_pixel_that_touches_them(nside):
    angles = np.linspace(-2 * np.pi, 2 * np.pi, 65)  # includes every multiple of pi / 4: all edges of the faces
    theta, phi = np.meshgrid([0, np.arccos(2 / 3), np.pi / 2, np.arccos(-2 / 3), np.pi], angles, indexing="ij")
    theta, phi = theta.ravel(), phi.ravel()
    vectors = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    with jax.enable_x64(True):
        for found in [
            healpix.angles_to_pixels(nside, jnp.asarray(theta), jnp.asarray(phi), "nested"),
            healpix.vectors_to_pixels(nside, jnp.asarray(vectors), "nested"),
        ]:
            assert found.min() >= 0
            assert found.max() < 12 * nside**2
            gap = np.linalg.norm(np.asarray(healpix.pixel_vectors(nside, found, "nested")) - vectors, axis=-1)
            assert gap.max() <= healpy.max_pixrad(nside) + 1e-15  # a chord is no longer than its arc; plus rounding


@given(nside=nsides, seed=st.integers(0, 2**32 - 1))
def test_every_order_is_a_permutation_and_centers_lie_in_their_pixels(nside, seed):
    pix = np.random.default_rng(seed).integers(0, 12 * nside**2, 64)
    with jax.enable_x64(True):
        pix = jnp.asarray(pix)
        np.testing.assert_array_equal(healpix.nest_to_ring(nside, healpix.ring_to_nest(nside, pix)), pix)
        np.testing.assert_array_equal(healpix.ring_to_nest(nside, healpix.nest_to_ring(nside, pix)), pix)
        # A double resolves a third of a pixel's width only up to about nside 2^26 (2 pi 2^-53 against 2^-26 / 3).
        if nside <= 2**26:
            theta, phi = healpix.pixel_centers(nside, pix, "nested")
            np.testing.assert_array_equal(healpix.angles_to_pixels(nside, theta, phi, "nested"), pix)
            vectors = healpix.pixel_vectors(nside, pix, "nested")
            np.testing.assert_array_equal(healpix.vectors_to_pixels(nside, 3.0 * vectors, "nested"), pix)


@pytest.mark.parametrize("nside", [1, 4, 64])
def test_float32_centers_lie_in_their_pixels(nside):
    pix = jnp.arange(12 * nside**2)
    np.testing.assert_array_equal(
        healpix.vectors_to_pixels(nside, healpix.pixel_vectors(nside, pix, "ring"), "ring"), pix
    )


@pytest.mark.parametrize("bits", [31, 63])
def test_integer_square_root_is_exact_at_squares_and_beside_them(bits):
    rng = np.random.default_rng(bits)
    dtype = np.int32 if bits == 31 else np.int64
    top = 46_340 if bits == 31 else 2**31 - 1  # so that (root + 1)^2 still fits
    roots = np.concatenate([[1, 2, 3, top - 1], rng.integers(1, top, 10_000)]).astype(np.int64)
    value = np.concatenate([[0], roots**2 - 1, roots**2, roots**2 + 2 * roots]).astype(dtype)
    with jax.enable_x64(bits == 63):
        found = np.asarray(healpix.isqrt(jnp.asarray(value)))
    np.testing.assert_array_equal(found, np.concatenate([[0], roots - 1, roots, roots]))


@given(nside=st.sampled_from(SMALL[:5]), seed=st.integers(0, 2**32 - 1))
def test_reorder_equals_healpy_and_goes_back(nside, seed):
    maps = np.random.default_rng(seed).normal(size=(2, 12 * nside**2)).astype(np.float32)
    ring = healpix.reorder(jnp.asarray(maps), "nested", "ring")
    np.testing.assert_array_equal(ring, healpy.reorder(maps, n2r=True))
    np.testing.assert_array_equal(healpix.reorder(ring, "ring", "nested"), maps)
    assert healpix.reorder(ring, "ring", "ring") is ring


def test_compilation_is_reused_for_maps_of_one_size():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def counted(nside, pix):
        traces.append(nside)
        return healpix.ring_to_nest(nside, pix)

    for start in range(3):
        counted(8, jnp.arange(10) + start)
    assert traces == [8]


@pytest.mark.parametrize(
    ("nside", "advice"),
    [
        (0, "smallest is 1"),
        (-4, "smallest is 1"),
        (3, "nearest are 2 and 4"),
        (100, "nearest are 64 and 128"),
        (2**30, "largest is"),
    ],
)
def test_nside_that_is_no_power_of_two_is_refused(nside, advice):
    with pytest.raises(ConfigError, match=f"power of two.*got {nside}; .*{advice}"):
        healpix.check_nside(nside)
    with pytest.raises(ConfigError, match="power of two"):
        healpix.npix(nside)


def test_nside_that_is_no_integer_is_refused():
    # beartype would stop it first in the tests; without beartype the sentence is ours.
    check_unannotated = inspect.unwrap(healpix.check_nside)
    with pytest.raises(ConfigError, match=r"got 2\.0"):
        check_unannotated(2.0)


@pytest.mark.parametrize("nside", [1, 2, 8, 2**29])
def test_nside_and_number_of_pixels_go_back_and_forth(nside):
    assert healpix.nside_of(healpix.npix(nside)) == nside


@pytest.mark.parametrize(
    ("length", "near"),
    [
        (0, r"12 \(nside 1\)"),
        (-3, "nside 1"),
        (767, r"192 \(nside 4\) and 768 \(nside 8\)"),
        (12 * 9, "48.*192"),
        (3 * 4**40, "nside 536870912"),
    ],
)
def test_length_of_no_map_is_refused(length, near):
    with pytest.raises(InputError, match=near):
        healpix.nside_of(length)


def test_pixel_numbers_that_would_overflow_are_refused():
    with pytest.raises(InputError, match="int64"):
        healpix.nest_to_ring(2**14, jnp.arange(3, dtype=jnp.int32))
    with pytest.raises(InputError, match="int16"):
        healpix.nest_to_ring(2, jnp.arange(3, dtype=jnp.int16))
    with pytest.raises(InputError, match="int64"):
        healpix.vectors_to_pixels(2**14, jnp.ones((1, 3)), "nested")


def test_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="'spiral'"):
        healpix.check_order("spiral")
