import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spin_sets

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import layout
from jaxgeo.layers import spin_weighted_convolution as layers
from jaxgeo.layers import spin_weighted_norm
from jaxgeo.layers.zonal import apply_spectrum

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

# Each program runs a few times only: time to compile counts more than speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

L, CHANNELS, FEATURES = 5, 2, 3
SPINS_IN, SPINS_OUT = (0, 1), (2, 0, -1)


def random_kernel(seed, plan, fan_in=CHANNELS, features=FEATURES):
    shape = (2, plan.interpolation.shape[1], len(plan.spins_in), len(plan.spins_out), fan_in, features)
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("bandlimit", "anchors"), [(5, None), (6, 3)])
def test_convolution_is_its_definition(bandlimit, anchors):
    dense = spin_sets.random_dense(0, SPINS_IN, bandlimit, CHANNELS, batch=(2,))
    with jax.enable_x64(True):
        plan = layers.plan_spin_convolution(bandlimit, SPINS_IN, SPINS_OUT, anchors=anchors, dtype=jnp.float64)
        kernel = random_kernel(1, plan)
        out = compiled(layers.convolve_spins)(plan, jnp.asarray(kernel), spin_sets.to_spectra(dense))
        found = spin_sets.to_dense(out)
    places = np.linspace(0, bandlimit - 1, anchors or bandlimit)
    rows = kernel[0] + 1j * kernel[1]
    for t, spin in enumerate(SPINS_OUT):
        expected = np.zeros((2, bandlimit, 2 * bandlimit - 1, FEATURES), complex)
        for l in range(abs(spin), bandlimit):
            right = min(int(np.searchsorted(places, l)), len(places) - 1)
            left = max(right - 1, 0)
            share = 1.0 if right == left else (l - places[left]) / (places[right] - places[left])
            spectrum = (1 - share) * rows[left] + share * rows[right]
            expected[:, l] = np.einsum("bsmi,sio->bmo", dense[:, :, l], spectrum[:, t])
        if spin == 0:
            expected = spin_sets.real_part(expected)
        np.testing.assert_allclose(found[:, t], expected, atol=1e-13)  # float64 sums over four numbers
    # Where no coefficient stands there are zeros: the norm sums over all places.
    np.testing.assert_allclose((found.real**2 + found.imag**2).sum(), (np.asarray(out) ** 2).sum(), rtol=1e-13)


# float64: sums of tens of numbers of order one; float32: the bar of the linear layers.
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-6)])
def test_convolution_and_batch_norm_commute_with_haar_random_rotations(dtype, tolerance):
    dense = spin_sets.random_dense(2, SPINS_IN, L, CHANNELS, batch=(2,))
    dense[:, 0, 0, L - 1] += 3.0  # a mean for the batch norm to take away
    with jax.enable_x64(True):
        plan = layers.plan_spin_convolution(L, SPINS_IN, SPINS_OUT, anchors=4, dtype=dtype)
        convolution, norm = layers.SpinConvolution(FEATURES), spin_weighted_norm.SpinBatchNorm(SPINS_OUT)
        x = spin_sets.to_spectra(dense, dtype)
        variables = compiled(convolution.init)(jax.random.key(0), plan, x)
        start = {
            "params": {"scale": jnp.asarray([[1.0, 2.0, 3.0]] * 3, dtype)},
            "batch_stats": {"mean": jnp.zeros(FEATURES, dtype), "var": jnp.ones((3, FEATURES), dtype)},
        }

        @compiled
        def apply(plan, variables, start, x):
            y = convolution.apply(variables, plan, x)
            z, state = norm.apply(start, y, use_running_average=False, mutable=["batch_stats"])
            return y, z, spin_weighted_norm.invariants(z, SPINS_OUT), state["batch_stats"]

        *straight, invariant, state = apply(plan, variables, start, x)
        assert invariant.shape == (2, 3, FEATURES)
        for matrix in haar_rotations(jax.random.key(3), (3,)):
            *turned, same, turned_state = apply(
                plan, variables, start, spin_sets.to_spectra(spin_sets.rotate(dense, matrix), dtype)
            )
            for found, before in zip(turned, straight, strict=True):
                expected = spin_sets.rotate(spin_sets.to_dense(before), matrix)
                error = np.linalg.norm(spin_sets.to_dense(found) - expected)
                assert error <= tolerance * np.linalg.norm(expected)
            np.testing.assert_allclose(same, invariant, atol=tolerance * 10)  # numbers up to three
            for name, value in state.items():
                np.testing.assert_allclose(turned_state[name], value, rtol=tolerance * 10, atol=tolerance)


def test_from_spin_zero_to_spin_zero_it_is_a_zonal_filter_with_the_real_part():
    dense = spin_sets.random_dense(4, (0,), L, CHANNELS)
    with jax.enable_x64(True):
        plan = layers.plan_spin_convolution(L, (0,), (0,), dtype=jnp.float64)
        kernel = jnp.asarray(random_kernel(5, plan))
        scalars = layout.dense_to_native(jnp.asarray(dense[0]), real=True)

        @compiled
        def apply(plan, kernel, scalars):
            out = layers.to_scalars(layers.convolve_spins(plan, kernel, layers.from_scalars(scalars))[0])
            return out, apply_spectrum(kernel[0, :, 0, 0], scalars)

        np.testing.assert_allclose(*apply(plan, kernel, scalars), atol=1e-14)  # float64 sums of two numbers


def test_conjugate_signals_have_conjugate_convolutions_with_the_mirrored_kernel():
    spins = (-1, 0, 1)
    dense = spin_sets.random_dense(6, spins, L, CHANNELS)
    mirrored = np.stack([spin_sets.conjugate(dense[i], spin) for i, spin in enumerate(spins)])[::-1]
    with jax.enable_x64(True):
        plan = layers.plan_spin_convolution(L, spins, spins, dtype=jnp.float64)
        kernel = random_kernel(7, plan)
        signs = (-1.0) ** np.add.outer(spins, spins)[:, :, None, None]
        other = kernel[:, :, ::-1, ::-1] * signs * np.array([1, -1]).reshape(2, 1, 1, 1, 1, 1)
        apply = compiled(layers.convolve_spins)
        out = spin_sets.to_dense(apply(plan, jnp.asarray(kernel), spin_sets.to_spectra(dense)))
        found = spin_sets.to_dense(apply(plan, jnp.asarray(other), spin_sets.to_spectra(mirrored)))
    expected = np.stack([spin_sets.conjugate(out[i], spin) for i, spin in enumerate(spins)])[::-1]
    np.testing.assert_allclose(found, expected, atol=1e-13)  # float64


def test_initial_spectra_keep_the_power_of_white_signals():
    wide = 48
    with jax.enable_x64(True):
        plan = layers.plan_spin_convolution(L, (0, 1), (0, 1), dtype=jnp.float64)
        x = spin_sets.to_spectra(spin_sets.random_dense(8, (0, 1), L, wide))
        layer = layers.SpinConvolution(wide)
        out = compiled(lambda plan, x: layer.apply(layer.init(jax.random.key(0), plan, x), plan, x))(plan, x)
        # Degree 0 exists at spin 0 only.
        x, out = (np.abs(spin_sets.to_dense(values)[:, 1:]) ** 2 for values in (x, out))
    # Each spin gets the mean power of both; thousands of draws.
    np.testing.assert_allclose(out.sum((1, 2, 3)) / x.sum((1, 2, 3)).mean(), 1.0, atol=0.15)


def test_power_and_means_are_those_of_the_samples():
    dense = spin_sets.random_dense(9, (0, 2), L, CHANNELS)
    with jax.enable_x64(True):
        x = spin_sets.to_spectra(dense)
        means = spin_weighted_norm.scalar_means(x, (0, 2))
        np.testing.assert_allclose(means, dense[0, 0, L - 1].real / np.sqrt(4 * np.pi), atol=1e-15)
        expected = (np.abs(dense) ** 2).sum((1, 2)) / (4 * np.pi)
        np.testing.assert_allclose(spin_weighted_norm.mean_power(x), expected, rtol=1e-13)
        np.testing.assert_allclose(spin_weighted_norm.invariants(x, (0, 2))[0], means)
        np.testing.assert_allclose(spin_weighted_norm.invariants(x, (1, 2)), np.sqrt(expected), rtol=1e-9)


def test_batch_norm_makes_unit_power_and_remembers_statistics():
    spins = (0, 1)
    dense = spin_sets.random_dense(10, spins, L, CHANNELS, batch=(3,))
    dense[:, 0, 0, L - 1] += 2.0
    for chosen in (spins, (1, 2)):
        norm = spin_weighted_norm.SpinBatchNorm(chosen, momentum=0.0, epsilon=0.0)

        @compiled
        def apply(x, norm=norm, chosen=chosen):
            variables = norm.init(jax.random.key(0), x, use_running_average=False)
            y, state = norm.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
            again = norm.apply({**variables, **state}, x, use_running_average=True)
            means = spin_weighted_norm.scalar_means(y, chosen).mean(0) if 0 in chosen else None
            return y, again, spin_weighted_norm.mean_power(y).mean(0), means, state["batch_stats"]

        with jax.enable_x64(True):
            y, again, power, means, state = apply(spin_sets.to_spectra(dense))
            np.testing.assert_allclose(power, np.ones((2, CHANNELS)), rtol=1e-12)
            np.testing.assert_allclose(again, y, atol=1e-13)
            assert ("mean" in state) == (0 in chosen)
            if 0 in chosen:
                np.testing.assert_allclose(means, 0.0, atol=1e-14)


def test_errors_say_what_would_work():
    for spins, message in [((), "at least one spin"), ((1, 1), "each once"), ((0, 3), "a bandlimit above 3")]:
        with pytest.raises(ConfigError, match=message):
            layers.plan_spin_convolution(3, (0,), spins)
    for anchors in (1, 4):
        with pytest.raises(ConfigError, match="at least two anchors and at most one per degree, here 3"):
            layers.plan_spin_convolution(3, (0,), (0,), anchors=anchors)
    plan = layers.plan_spin_convolution(3, (0, 1), (0,))
    kernel = jnp.zeros((2, 3, 2, 1, 1, 1))
    with pytest.raises(InputError, match=r"spins \(0, 1\) and bandlimit 3"):
        layers.convolve_spins(plan, kernel, jnp.zeros((1, 2, 5, 2, 2, 1)))
    with pytest.raises(InputError, match="float32"):
        layers.convolve_spins(plan, kernel, jnp.zeros((2, 2, 5, 2, 2, 1), jnp.int32).astype(jnp.float16))
