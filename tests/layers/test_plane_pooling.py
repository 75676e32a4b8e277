"""Maxima over 2 x 2 pixels: derivatives forward and backward against Flax's, second derivatives, mapping, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgeo.errors import InputError
from jaxgeo.layers.plane_pooling import max_pool


def test_derivatives_are_those_of_flax_also_of_equal_pixels_and_odd_sizes():
    rng = np.random.default_rng(0)
    # Few values, so that many pixels of a window are equal.
    x = jnp.asarray(rng.integers(0, 3, (2, 5, 7, 3)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(2, 2, 3, 3)), jnp.float32)
    tangent = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    @jax.jit
    def both(x):
        results = []
        for f in (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2))):
            y, pull = jax.vjp(f, x)
            results.append((y, pull(cotangent)[0]))
        return results

    (value, slope), (expected, expected_slope) = both(x)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(slope, expected_slope)
    forward = jax.jit(lambda x: jax.jvp(max_pool, (x,), (tangent,))[1])(x)
    # <J t, c> = <t, J* c>; float32, sums of 126 numbers of about 1.
    np.testing.assert_allclose(jnp.vdot(forward, cotangent), jnp.vdot(tangent, slope), rtol=1e-4)


def test_second_derivatives_and_members_come_through():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 4, 4, 1)), jnp.float32)
    twice = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(max_pool(x) ** 3))(x)))))(x)
    # d/dx of 3 y^2 at the largest pixel, whose derivative is one: 6 y there, else nothing.
    y = np.asarray(x).reshape(3, 2, 2, 2, 2, 2, 1).max((3, 5), keepdims=True)
    expected = np.where(np.asarray(x).reshape(3, 2, 2, 2, 2, 2, 1) == y, 6 * y, 0.0).reshape(x.shape)
    np.testing.assert_allclose(twice, expected, rtol=1e-6)  # float32, two products


def test_what_has_no_blocks_is_refused():
    with pytest.raises(InputError, match=r"of 2 x 2 at least, got \(1, 4, 2\)"):
        max_pool(jnp.zeros((1, 4, 2)))
