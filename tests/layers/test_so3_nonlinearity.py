import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from s2cnn_by_definition import so3_forward, so3_inverse, wigner

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import so3_layout
from jaxgeo.harmonics.wigner import euler_angles
from jaxgeo.layers import so3_nonlinearity, so3_pooling

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

L = 4


def random_spectrum(seed, bandlimit=L, channels=1):
    return jax.random.normal(jax.random.key(seed), (so3_layout.num_coefficients(bandlimit), channels), jnp.float64)


def to_blocks(packed, bandlimit):
    dense = np.asarray(so3_layout.packed_to_matrices(packed, bandlimit))
    inner = [slice(bandlimit - 1 - l, bandlimit + l) for l in range(bandlimit)]
    return [dense[l, inner[l], inner[l]] for l in range(bandlimit)]


def from_blocks(blocks):
    bandlimit = len(blocks)
    dense = np.zeros((bandlimit, 2 * bandlimit - 1, 2 * bandlimit - 1, blocks[0].shape[-1]), complex)
    for l, block in enumerate(blocks):
        dense[l, bandlimit - 1 - l : bandlimit + l, bandlimit - 1 - l : bandlimit + l] = block
    return so3_layout.matrices_to_packed(jnp.asarray(dense))


@pytest.mark.parametrize(("next_bandlimit", "aliased"), [(3, False), (6, True), (6, False)])
def test_a_nonlinearity_is_sampling_acting_and_analysing(next_bandlimit, aliased):
    with jax.enable_x64(True):
        spectrum = random_spectrum(0)
        plan = so3_nonlinearity.plan_so3_nonlinearity(
            L, next_bandlimit, grid_bandlimit=L, aliased=aliased, dtype=jnp.float64
        )
        found = to_blocks(so3_nonlinearity.pointwise(plan, jax.nn.relu, spectrum), next_bandlimit)
        expected = so3_forward(np.maximum(so3_inverse(to_blocks(spectrum, L), L), 0), next_bandlimit)
        for l, block in enumerate(found):
            # Beyond the grid's degrees: zeros, or what upstream finds there.
            reference = expected[l] if l < L or aliased else np.zeros_like(expected[l])
            np.testing.assert_allclose(block, reference, atol=1e-13)


@functools.cache
def equivariance_error(oversampling, latitudes):
    """Relative error of a rectifier on a white spectrum, over Haar-random rotations."""
    with jax.enable_x64(True):
        plan = so3_nonlinearity.plan_so3_nonlinearity(
            L, oversampling=oversampling, latitudes=latitudes, dtype=jnp.float64
        )
        act = jax.jit(lambda spectrum: so3_nonlinearity.pointwise(plan, jax.nn.relu, spectrum))
        spectrum = random_spectrum(1)
        straight = to_blocks(act(spectrum), L)
        error = size = 0.0
        for matrix in haar_rotations(jax.random.key(2), (3,)):
            angles = [float(angle) for angle in euler_angles(np.asarray(matrix))]

            def turn(blocks, angles=angles):
                return [np.einsum("mk,knc->mnc", wigner(l, *angles), block) for l, block in enumerate(blocks)]

            turned = to_blocks(act(from_blocks(turn(to_blocks(spectrum, L)))), L)
            for block, reference in zip(turned, turn(straight), strict=True):
                error += np.linalg.norm(block - reference) ** 2
                size += np.linalg.norm(reference) ** 2
    return (error / size) ** 0.5


@pytest.mark.parametrize("latitudes", ["soft", "gauss_legendre"])
def test_oversampling_makes_a_nonlinearity_equivariant(latitudes):
    plain, finer = (equivariance_error(factor, latitudes) for factor in (1.0, 3.0))
    # A rectifier's coefficients fall off algebraically: three times the grid is several times better, not exact.
    assert 1e-3 < finer < plain / 3


def test_the_identity_needs_no_oversampling():
    with jax.enable_x64(True):
        plan, spectrum = so3_nonlinearity.plan_so3_nonlinearity(L, dtype=jnp.float64), random_spectrum(3)
        np.testing.assert_allclose(
            so3_nonlinearity.pointwise(plan, lambda signal: signal, spectrum), spectrum, atol=1e-13
        )


def test_upstream_backward_changes_derivatives_alone():
    with jax.enable_x64(True):
        signal = jax.random.normal(jax.random.key(0), (1, 6, 6, 6, 1), jnp.float64)
        options = {"grid_bandlimit": 3, "dtype": jnp.float64}
        plans = {
            "aliased": so3_nonlinearity.plan_so3_nonlinearity(3, 4, aliased=True, **options),
            "upstream": so3_nonlinearity.plan_so3_nonlinearity(3, 4, aliased=True, upstream_backward=True, **options),
            "padded": so3_nonlinearity.plan_so3_nonlinearity(3, 4, **options),
        }
        values, slopes = {}, {}
        for key, plan in plans.items():
            values[key], pull = jax.vjp(lambda signal, plan=plan: so3_nonlinearity.coefficients(plan, signal), signal)
            (slopes[key],) = pull(jnp.ones_like(values[key]))
        np.testing.assert_array_equal(values["upstream"], values["aliased"])
        assert np.abs(values["upstream"] - values["padded"]).max() > 1e-2
        np.testing.assert_allclose(slopes["upstream"], slopes["padded"], atol=1e-14)
        assert np.abs(slopes["aliased"] - slopes["padded"]).max() > 1e-2


def test_pooling_and_upsampling_keep_the_low_degrees():
    with jax.enable_x64(True):
        spectrum = random_spectrum(0)
        pooled = so3_pooling.bandlimit_pooling(spectrum, L, 2)
        np.testing.assert_array_equal(pooled, spectrum[: so3_layout.num_coefficients(2)])
        raised = so3_pooling.bandlimit_upsampling(pooled, 2, L)
        assert raised.shape == spectrum.shape
        np.testing.assert_array_equal(raised[: len(pooled)], pooled)
        assert not raised[len(pooled) :].any()
        np.testing.assert_array_equal(so3_pooling.integrate(spectrum), spectrum[0])
        limited = spectrum[: so3_layout.num_coefficients(3, 2)]
        pooled = so3_pooling.bandlimit_pooling(limited, 3, 2, orders=2)
        np.testing.assert_array_equal(pooled, limited[: so3_layout.num_coefficients(2)])
        raised = so3_pooling.bandlimit_upsampling(pooled, 2, 3, orders=2)
        np.testing.assert_array_equal(raised - jnp.pad(pooled, [(0, len(limited) - len(pooled)), (0, 0)]), 0 * limited)


def test_impossible_changes_are_refused():
    with pytest.raises(ConfigError, match="oversampling"):
        so3_nonlinearity.plan_so3_nonlinearity(L, oversampling=0.5)
    spectrum = jnp.zeros((so3_layout.num_coefficients(L), 1))
    with pytest.raises(ConfigError, match="lowers the bandlimit"):
        so3_pooling.bandlimit_pooling(spectrum, L, L + 1)
    with pytest.raises(ConfigError, match="raises the bandlimit"):
        so3_pooling.bandlimit_upsampling(spectrum, L, L - 1)
    with pytest.raises(InputError, match="coefficients"):
        so3_pooling.bandlimit_pooling(spectrum, L + 1, 2)
    with pytest.raises(ConfigError, match="N <= bandlimit"):
        so3_pooling.bandlimit_pooling(spectrum[: so3_layout.num_coefficients(3, 2)], 3, 1, orders=2)
