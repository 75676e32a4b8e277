"""A linear map with a coded adjoint obeys every rule of differentiation that the plain product obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.harmonics.linear_map import linear_map


def product(tables, x):
    return jnp.einsum("ij,...j->...i", tables["matrix"], x)


def transposed_product(tables, y):
    return jnp.einsum("ij,...i->...j", tables["matrix"], y)


def marked_transpose(tables, y):
    return 2 * transposed_product(tables, y)  # wrong on purpose: shows which function ran


@pytest.fixture
def matrix():
    return jax.random.normal(jax.random.key(0), (3, 5))


def apply(matrix, x):
    return linear_map(product, transposed_product, {"matrix": matrix}, x)


def cubic(function):
    return lambda matrix, x: jnp.sum(function(matrix, x) ** 3)


def plain(matrix, x):
    return product({"matrix": matrix}, x)


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: jax.grad(f, 1),
        lambda f: jax.jacfwd(f, 1),
        lambda f: jax.hessian(f, 1),
        lambda f: jax.jacrev(jax.jacrev(f, 1), 1),
        lambda f: jax.jit(jax.grad(jax.checkpoint(f), 1)),
    ],
)
def test_every_derivative_equals_that_of_the_plain_product(derivative, matrix):
    x = jax.random.normal(jax.random.key(1), (5,))
    ours, expected = derivative(cubic(apply))(matrix, x), derivative(cubic(plain))(matrix, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)  # float32, sums of a few terms


@pytest.mark.parametrize("axes", [(None, 0), (0, 0), (0, None), (None, 1), (2, 1)])
def test_vmap_over_any_argument_commutes_with_differentiation(axes):
    matrix_axis, x_axis = axes
    matrix = jax.random.normal(jax.random.key(2), (3, 5))
    x = jax.random.normal(jax.random.key(3), (5,))
    if matrix_axis is not None:
        matrix = jnp.stack([matrix, 2 * matrix, -matrix, matrix + 1], axis=matrix_axis)
    if x_axis is not None:
        x = jnp.stack([x, 2 * x, x - 1, 0.5 * x], axis=x_axis)
    ours = jax.vmap(jax.grad(cubic(apply), 1), in_axes=axes)(matrix, x)
    expected = jax.vmap(jax.grad(cubic(plain), 1), in_axes=axes)(matrix, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)  # float32, cubes of order 100


def test_reverse_mode_runs_the_coded_adjoint(matrix):
    def marked(x):
        return jnp.sum(linear_map(product, marked_transpose, {"matrix": matrix}, x))

    x = jnp.ones(5)
    np.testing.assert_allclose(jax.grad(marked)(x), 2 * matrix.sum(0), rtol=1e-6)


def test_tables_are_constants(matrix):
    gradient = jax.grad(cubic(apply), 0)(matrix, jnp.ones(5))
    np.testing.assert_array_equal(gradient, 0)


def test_a_map_is_compiled_once():
    traces = []

    def counted(tables, x):
        traces.append(x.shape)
        return product(tables, x)

    function = jax.jit(lambda matrix, x: linear_map(counted, transposed_product, {"matrix": matrix}, x))
    first = function(jnp.ones((3, 5)), jnp.ones(5))
    before = len(traces)
    second = function(2 * jnp.ones((3, 5)), jnp.ones(5))
    assert len(traces) == before
    np.testing.assert_array_equal(second, 2 * first)
