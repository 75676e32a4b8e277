"""The graph of HEALPix pixels: its Laplacian, Chebyshev polynomials of it, its symmetries, and pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError, JaxgeoError
from jaxgeo.grids.healpix import pixel_vectors
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.layers.graph_convolution import (
    ChebyshevConv,
    edge_weights,
    plan_healpix_graph,
    pool,
    rescaled_laplacian,
    unpool,
)

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.


def dense_rescaled(nside, order="nested"):
    with jax.enable_x64(True):
        plan = plan_healpix_graph(nside, order=order, dtype=jnp.float64)
        return plan, np.asarray(rescaled_laplacian(plan, jnp.eye(12 * nside**2)))


@pytest.mark.parametrize("order", ["nested", "ring"])
@pytest.mark.parametrize("nside", [1, 4])
def test_the_laplacian_is_symmetric_with_zero_row_sums_and_a_bounded_spectrum(nside, order):
    plan, rescaled = dense_rescaled(nside, order)
    np.testing.assert_allclose(rescaled, rescaled.T, atol=1e-15)
    laplacian = (rescaled + np.eye(len(rescaled))) / np.asarray(plan.scale)
    np.testing.assert_allclose(laplacian.sum(1), 0, atol=1e-14)
    # Gershgorin: over twice the largest degree it lies in [0, 1], so that over the largest degree it lies in [0, 2].
    spectrum = np.linalg.eigvalsh(laplacian / np.diag(laplacian).max())
    assert spectrum[0] == pytest.approx(0, abs=1e-13)
    assert spectrum[1] > 0.01  # the graph is connected
    assert spectrum[-1] <= 2
    assert np.all(np.abs(np.linalg.eigvalsh(rescaled)) <= 1 + 1e-13)


def test_weights_fall_with_distance_and_absent_neighbours_have_none():
    others, weights = edge_weights(4, "nested")
    with jax.enable_x64(True):
        centres = np.asarray(pixel_vectors(4, jnp.arange(192), "nested"))
    distances = np.linalg.norm(centres[:, None] - centres[others], axis=-1)
    present = weights > 0
    assert (~present).sum() == 24  # eight points where three faces meet, three pixels each
    np.testing.assert_array_equal(others[~present], np.nonzero(~present)[0])
    order = np.argsort(distances[present])
    assert np.all(np.diff(weights[present][order]) <= 1e-15)  # equal distances, rounded differently
    mean_square = (distances[present] ** 2).mean()
    np.testing.assert_allclose(weights[present], np.exp(-(distances[present] ** 2) / (2 * mean_square)), rtol=1e-12)


@given(seed=st.integers(0, 2**31 - 1), terms=st.integers(1, 4))
@settings(max_examples=2)
def test_a_convolution_is_the_polynomial_of_the_dense_laplacian(seed, terms):
    plan, rescaled = dense_rescaled(2)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(seed), (2, 48, 3), jnp.float64)
        layer = ChebyshevConv(2, terms)
        params = layer.init(jax.random.key(seed), plan, x)
        found = layer.apply(params, plan, x)
        kernel = np.asarray(params["params"]["kernel"], np.float64)
        polynomials = [
            np.polynomial.chebyshev.Chebyshev.basis(k).convert(kind=np.polynomial.Polynomial) for k in range(terms)
        ]
        powers = [np.linalg.matrix_power(rescaled, k) for k in range(terms)]
        expected = sum(
            np.einsum("pq,bqi,io->bpo", sum(c * powers[j] for j, c in enumerate(polynomial.coef)), x, kernel[k])
            for k, polynomial in enumerate(polynomials)
        )
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_laplacians_gradient_is_itself():
    plan, rescaled = dense_rescaled(2)
    with jax.enable_x64(True):
        gradient = jax.jacrev(functools.partial(rescaled_laplacian, plan))(jnp.ones((48, 1)))
        np.testing.assert_allclose(gradient[:, 0, :, 0], rescaled, atol=1e-15)


def quarter_turn(x):
    """A NESTED map turned about the z axis by 90 degrees: each row of four faces moves by one."""
    faces = x.reshape(3, 4, -1, x.shape[-1])
    return jnp.roll(faces, 1, axis=1).reshape(x.shape)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=3)
def test_convolution_and_pooling_commute_with_the_grids_quarter_turn(seed):
    with jax.enable_x64(True):
        plan = plan_healpix_graph(4, dtype=jnp.float64)
        centres = pixel_vectors(4, jnp.arange(192), "nested")
        turned = jnp.stack([-centres[:, 1], centres[:, 0], centres[:, 2]], -1)
        # The value that was at x is at R x.
        np.testing.assert_allclose(quarter_turn(turned), centres, atol=1e-15)
        x = jax.random.normal(jax.random.key(seed), (192, 2), jnp.float64)
        layer = ChebyshevConv(3)
        params = layer.init(jax.random.key(seed), plan, x)
        for function in (
            functools.partial(layer.apply, params, plan),
            pool,
            functools.partial(pool, kind="mean"),
            unpool,
        ):
            np.testing.assert_allclose(function(quarter_turn(x)), quarter_turn(function(x)), atol=1e-13)


def test_a_fixed_signals_response_depends_less_on_its_rotation_on_finer_grids():
    with jax.enable_x64(True):
        rotation = haar_rotations(jax.random.key(0))

        def response(plan, points):
            f = (points[:, 0] * points[:, 1] + points[:, 2] ** 3)[:, None]
            return jnp.sum(f * rescaled_laplacian(plan, f)) / jnp.sum(f**2)

        errors = []
        for nside in (2, 4, 8):
            plan = plan_healpix_graph(nside, dtype=jnp.float64)
            centres = pixel_vectors(nside, jnp.arange(12 * nside**2), "nested")
            errors.append(float(abs(response(plan, centres) - response(plan, centres @ rotation))))
        assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_pooling_takes_the_children_and_unpooling_gives_to_them():
    x = jnp.arange(48.0).reshape(48, 1)
    np.testing.assert_array_equal(pool(x)[:, 0], 3 + 4 * np.arange(12))
    np.testing.assert_array_equal(pool(x, "mean")[:, 0], 1.5 + 4 * np.arange(12))
    np.testing.assert_array_equal(pool(unpool(x), "mean"), x)


def test_wrong_sizes_are_refused():
    plan = plan_healpix_graph(1)
    with pytest.raises(ConfigError, match="at least one term"):
        ChebyshevConv(1, 0).init(jax.random.key(0), plan, jnp.ones((12, 1)))
    with pytest.raises(InputError, match=r"nside 1 has 12 pixels, got a map of shape \(13, 1\)"):
        rescaled_laplacian(plan, jnp.ones((13, 1)))
    with pytest.raises(InputError, match="13 pixels are no children"):
        pool(jnp.ones((13, 1)))
    with pytest.raises(ConfigError, match="max, mean, got 'sum'"):
        pool(jnp.ones((12, 1)), "sum")


def test_an_unknown_order_and_another_dtype_are_refused():
    with pytest.raises(JaxgeoError, match="spiral"):
        unchecked(plan_healpix_graph)(1, order="spiral")
    plan = plan_healpix_graph(1)
    with pytest.raises(InputError, match="dtype float16 but the plan needs float32"):
        rescaled_laplacian(plan, jnp.ones((12, 1), jnp.float16))
