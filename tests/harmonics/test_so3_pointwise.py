"""A function of the samples in one pass against synthesis, the function and analysis one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics.so3 import plan_so3_transform, so3_analysis, so3_synthesis
from jaxgeo.harmonics.so3_pointwise import so3_pointwise

# Sums of some thousand terms of order one, in either order.
ROUNDING = {"atol": 1e-13}


def step_by_step(before, after, function, spectrum):
    return so3_analysis(after, function(so3_synthesis(before, spectrum)))


def plans(bandlimit, next_bandlimit, grid, **options):
    options = {"grid_bandlimit": grid, "dtype": jnp.float64, **options}
    return plan_so3_transform(bandlimit, **options), plan_so3_transform(next_bandlimit, **options)


def spectrum_of(plan, seed, *batch, channels=2):
    return jax.random.normal(jax.random.key(seed), (*batch, plan.num_coefficients, channels), plan.dtype)


# 1 and 3 samples in a quarter turn stand between their mirror images or on the mirror: even and odd grids differ.
@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("latitudes", ["soft", "gauss_legendre"])
def test_one_pass_is_three_steps_on_grids_of_every_symmetry(grid, latitudes):
    with jax.enable_x64(True):
        before, after = plans(4, 3, grid, latitudes=latitudes)
        spectrum = spectrum_of(before, grid)
        found = so3_pointwise(before, after, jnp.tanh, spectrum)
        np.testing.assert_allclose(found, step_by_step(before, after, jnp.tanh, spectrum), **ROUNDING)


@pytest.mark.parametrize("options", [{"orders": 2}, {"orders": 2, "grid_orders": 3}, {"aliased": True}])
def test_one_pass_is_three_steps_with_limits_and_aliases(options):
    with jax.enable_x64(True):
        before, after = plans(3, 5, 4, **options)
        spectrum = spectrum_of(before, 0)
        found = so3_pointwise(before, after, jax.nn.relu, spectrum)
        np.testing.assert_allclose(found, step_by_step(before, after, jax.nn.relu, spectrum), **ROUNDING)


@functools.cache
def small():
    return plans(3, 3, 3)


@settings(max_examples=6)
@given(batch=st.sampled_from([(), (1,), (3,), (2, 1)]), channels=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_batches_and_channels_are_columns(batch, channels, seed):
    with jax.enable_x64(True):
        before, after = small()
        spectrum = spectrum_of(before, seed, *batch, channels=channels)
        found = so3_pointwise(before, after, jnp.tanh, spectrum)
        assert found.shape == (*batch, after.num_coefficients, channels)
        np.testing.assert_allclose(found, step_by_step(before, after, jnp.tanh, spectrum), **ROUNDING)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (3, 4, 4)])
def test_derivatives_are_those_of_the_three_steps(sizes):
    with jax.enable_x64(True):
        before, after = plans(*sizes)
        spectrum, tangent = (spectrum_of(before, seed) for seed in range(2))
        cotangent = spectrum_of(after, 2)

        def ways(direction):
            """By both ways, compiled: each of many small operations would be compiled alone."""
            both = [functools.partial(way, before, after, jnp.tanh) for way in (so3_pointwise, step_by_step)]
            found = [jax.jit(lambda spectrum, way=way: direction(way, spectrum))(spectrum) for way in both]
            jax.tree.map(functools.partial(np.testing.assert_allclose, **ROUNDING), *found)

        def slope(way, spectrum):
            return jax.grad(lambda x: jnp.vdot(cotangent, way(x)))(spectrum)

        ways(lambda way, x: jax.jvp(way, (x,), (tangent,)))
        ways(slope)
        ways(lambda way, x: jax.vmap(functools.partial(slope, way))(jnp.stack([x, tangent])))
        # Second derivatives, forward over reverse and reverse over forward: a tanh has some.
        ways(lambda way, x: jax.jvp(functools.partial(slope, way), (x,), (tangent,)))
        ways(lambda way, x: jax.grad(lambda x: jnp.vdot(cotangent, jax.jvp(way, (x,), (tangent,))[1]))(x))


def test_functions_may_have_learned_slopes():
    with jax.enable_x64(True):
        before, after = small()
        spectrum = spectrum_of(before, 0)

        def size(way, slope):
            return jnp.sum(way(before, after, lambda signal: jnp.tanh(slope * signal), spectrum) ** 2)

        expected = jax.value_and_grad(functools.partial(size, step_by_step))(1.5)
        for compiled in (jax.jit, lambda function: function):
            found = compiled(jax.value_and_grad(functools.partial(size, so3_pointwise)))(1.5)
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_complex_signals_are_taken_step_by_step():
    with jax.enable_x64(True):
        before, after = plans(3, 2, 3, real=False)
        spectrum = jax.lax.complex(*(jax.random.normal(jax.random.key(i), (35, 2), jnp.float64) for i in range(2)))
        found = so3_pointwise(before, after, lambda signal: signal * jnp.abs(signal), spectrum)
        expected = step_by_step(before, after, lambda signal: signal * jnp.abs(signal), spectrum)
        np.testing.assert_allclose(found, expected, **ROUNDING)


def test_plans_of_different_grids_and_wrong_coefficients_are_refused():
    before, other = plan_so3_transform(3), plan_so3_transform(3, grid_bandlimit=4)
    with pytest.raises(ConfigError, match=r"the same grid.*\(6, 6, 6\).*\(8, 8, 8\)"):
        so3_pointwise(before, other, jax.nn.relu, jnp.zeros((before.num_coefficients, 2)))
    with pytest.raises(InputError, match="coefficients"):
        so3_pointwise(before, before, jax.nn.relu, jnp.zeros((before.num_coefficients + 1, 2)))
