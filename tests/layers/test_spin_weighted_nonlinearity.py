import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spin_sets
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.layers import spin_weighted_nonlinearity as layers

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 4.

# Each program runs a few times only: time to compile counts more than speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

L, CHANNELS, SPINS = 4, 2, (0, 2)


def test_the_phase_is_kept_and_the_modulus_is_a_rectified_sum():
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2, 2)) @ np.array([1, 1j]))
        bias = jnp.asarray([-0.8, 0.4])

        @compiled
        def act(z, bias):
            turned = layers.magnitude_relu(z * jnp.exp(0.7j), bias)
            return layers.magnitude_relu(z, bias, epsilon=0.0), turned, layers.magnitude_relu(z, bias)

        found, turned, smoothed = act(z, bias)
        modulus = np.maximum(np.abs(z) + np.asarray(bias), 0)
        np.testing.assert_allclose(found, modulus * np.exp(1j * np.angle(z)), atol=1e-14)
        np.testing.assert_allclose(turned, smoothed * np.exp(0.7j), atol=1e-14)
        np.testing.assert_allclose(smoothed, found, atol=2e-3)  # epsilon is 1e-3
        np.testing.assert_allclose(act(z, jnp.zeros(2))[2], z, atol=1e-14)


def test_a_signal_of_zeros_has_a_derivative():
    def total(z, bias):
        out = layers.magnitude_relu(z, bias)
        return jnp.sum(out.real**2 + out.imag + bias[None] * out.real)

    slopes = compiled(jax.grad(total, (0, 1)))(jnp.zeros((3, 2), jnp.complex64), jnp.asarray([0.5, -0.5]))
    assert all(bool(jnp.isfinite(jnp.abs(slope)).all()) for slope in slopes)


@pytest.mark.parametrize("next_bandlimit", [3, 5])
def test_without_acting_samples_lead_back_to_the_coefficients(next_bandlimit):
    dense = spin_sets.random_dense(0, SPINS, L, CHANNELS, batch=(2,))
    with jax.enable_x64(True):
        plan = layers.plan_spin_nonlinearity(L, SPINS, next_bandlimit, grid="soft", dtype=jnp.float64)

        @compiled
        def there_and_back(plan, spectra):
            signals = layers.samples(plan, spectra)
            assert [signal.dtype for signal in signals] == [jnp.float64, jnp.complex128]
            return layers.coefficients(plan, signals)

        found = spin_sets.to_dense(there_and_back(plan, spin_sets.to_spectra(dense)))
    inner = min(L, next_bandlimit)
    expected = np.zeros_like(found)
    place, old = next_bandlimit - 1, L - 1
    orders = slice(1 - inner, inner)
    expected[:, :, :inner, place + orders.start : place + orders.stop] = dense[
        :, :, :inner, old + orders.start : old + orders.stop
    ]
    np.testing.assert_allclose(found, expected, atol=1e-13)  # float64, a quadrature


def test_the_error_of_equivariance_falls_with_oversampling():
    dense = spin_sets.random_dense(1, SPINS, L, CHANNELS)
    layer = layers.SpinNonlinearity()
    errors = []
    with jax.enable_x64(True):
        params = {"params": {"bias": jnp.asarray([[0.1, -0.3], [-0.3, -0.6]])}}
        matrices = np.asarray(haar_rotations(jax.random.key(0), (4,)))
        turned = np.stack([dense, *(spin_sets.rotate(dense, matrix) for matrix in matrices)])
        for oversampling in (1.0, 2.0, 4.0):
            plan = layers.plan_spin_nonlinearity(L, SPINS, oversampling=oversampling, dtype=jnp.float64)
            out = spin_sets.to_dense(compiled(layer.apply)(params, plan, spin_sets.to_spectra(turned)))
            expected = np.stack([spin_sets.rotate(out[0], matrix) for matrix in matrices])
            difference = np.linalg.norm(out[1:] - expected, axis=(2, 3)).mean((0, 2))
            errors.append(difference / np.linalg.norm(expected, axis=(2, 3)).mean((0, 2)))
    errors = np.array(errors)
    assert (errors[0] > 1e-3).all()  # the plain form has aliases at both spins
    # A kink's aliases fall with the square of the grid's bandlimit; constants differ between rotations.
    assert (errors[1:] < errors[:-1] / 2.5).all(), errors


def test_errors_say_what_would_work():
    with pytest.raises(ConfigError, match=r"at least 1 on the grid's bandlimit, got 0\.5"):
        layers.plan_spin_nonlinearity(3, (0,), oversampling=0.5)
    with pytest.raises(ConfigError, match=r"spins \(0, 2\) need a bandlimit above 2, got 2"):
        layers.plan_spin_nonlinearity(3, (0, 2), 2)
    with without_type_checks(), pytest.raises(ConfigError, match=r"grid must be one of .*, got 'other'"):
        layers.plan_spin_nonlinearity(3, (0,), grid="other")
    plan = layers.plan_spin_nonlinearity(3, (0,))
    assert layers.plan_spin_nonlinearity(3, (0,), oversampling=1.1).to_samples[0].grid_shape == (4, 7)
    with pytest.raises(InputError, match="bandlimit 3"):
        layers.samples(plan, jnp.zeros((2, 2, 5, 2, 2, 1)))
