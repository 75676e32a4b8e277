import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from s2cnn_by_definition import rotate_s2, rotate_so3, s2_inverse, so3_inverse

from jaxgeo.errors import InputError
from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics.so3 import plan_so3_transform, so3_synthesis
from jaxgeo.layers.spherical_norm import ChannelDropout, SphericalBatchNorm, channel_means

BANDLIMIT = 4
WEIGHTS = soft_grid(BANDLIMIT).weights
ANGLES = (0.7, 1.1, -2.0)


def random_spectrum(seed, space, channels):
    """Spectrum of a real signal: F_{-m,-n} = (-1)^(m-n) conj(F_mn)."""
    generator = np.random.default_rng(seed)
    spectrum = []
    for l in range(BANDLIMIT):
        shape = (2 * l + 1,) * (2 if space == "so3" else 1) + (channels,)
        block = generator.normal(size=(2, *shape))
        block = block[0] + 1j * block[1]
        m = np.arange(-l, l + 1)
        if space == "so3":
            mirrored, sign = block[::-1, ::-1].conj(), (-1.0) ** (m[:, None] - m[None])
        else:
            mirrored, sign = block[::-1].conj(), (-1.0) ** m
        spectrum.append(block + sign[..., None] * mirrored)
    return spectrum


def signals(space, channels=2):
    """A signal and the same signal rotated, both sampled exactly."""
    spectrum = random_spectrum(0, space, channels)
    rotate, inverse = {"so3": (rotate_so3, so3_inverse), "sphere": (rotate_s2, s2_inverse)}[space]
    return inverse(spectrum, BANDLIMIT), inverse(rotate(spectrum, *ANGLES), BANDLIMIT)


@pytest.mark.parametrize("space", ["sphere", "so3"])
def test_batch_norm_commutes_with_rotations(space):
    with jax.enable_x64(True):
        signal, rotated = (jnp.asarray(values)[None] for values in signals(space))
        norm = SphericalBatchNorm(space)
        weights = jnp.asarray(WEIGHTS)
        variables = norm.init(jax.random.key(0), signal, weights, use_running_average=False)
        straight, updated = norm.apply(variables, signal, weights, use_running_average=False, mutable=["batch_stats"])
        turned, turned_stats = norm.apply(
            variables, rotated, weights, use_running_average=False, mutable=["batch_stats"]
        )
        # Rotation of the normalised signal: an affine map with the statistics of the unrotated one.
        variance = updated["batch_stats"]["var"] * 10 - 9.0
        mean = updated["batch_stats"]["mean"] * 10
        expected = (rotated - mean[None, None, None]) if space == "sphere" else rotated - mean[None, None, None, None]
        scale = jnp.sqrt(variance + 1e-5).reshape((1,) * (rotated.ndim - 1) + (-1,))
        # float64 quadrature of a few hundred points.
        np.testing.assert_allclose(turned, expected / scale, atol=1e-12)
        for key in ("mean", "var"):
            np.testing.assert_allclose(turned_stats["batch_stats"][key], updated["batch_stats"][key], atol=1e-12)
        np.testing.assert_allclose(channel_means(straight, weights, space), 0, atol=1e-12)
        np.testing.assert_allclose(channel_means(straight**2, weights, space), 1, atol=1e-4)  # epsilon is 1e-5


def test_a_mean_over_grid_points_would_not_be_invariant():
    signal, rotated = signals("so3")
    difference = signal.mean((0, 1, 2)) - rotated.mean((0, 1, 2))
    assert np.abs(difference).max() > 1e-2


@pytest.mark.parametrize("use_running_average", [False, True])
def test_norm_of_coefficients_is_norm_of_their_samples(use_running_average):
    """Quadrature of a square is exact on the grid of its signal."""
    with jax.enable_x64(True):
        plan = plan_so3_transform(BANDLIMIT, dtype=jnp.float64)
        spectrum = jax.random.normal(jax.random.key(0), (3, plan.num_coefficients, 2), jnp.float64)
        keys = jax.random.split(jax.random.key(1), 4)
        scale, bias, mean, var = (jax.random.uniform(key, (2,), jnp.float64, 0.5, 2) for key in keys)
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
        options = {"use_running_average": use_running_average, "mutable": ["batch_stats"]}
        found, stats = SphericalBatchNorm("so3_spectrum").apply(variables, spectrum, plan.dimensions, **options)
        on_grid, grid_stats = SphericalBatchNorm("so3").apply(
            variables, so3_synthesis(plan, spectrum), plan.weights, **options
        )
        # float64 sums over some hundred coefficients and samples.
        np.testing.assert_allclose(so3_synthesis(plan, found), on_grid, atol=1e-12)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), stats, grid_stats)


def test_running_statistics_are_used_in_prediction():
    signal = jnp.ones((2, 2 * BANDLIMIT, 2 * BANDLIMIT, 1))
    norm = SphericalBatchNorm("sphere", epsilon=0.0)
    variables = {
        "params": {"scale": jnp.array([3.0]), "bias": jnp.array([1.0])},
        "batch_stats": {"mean": jnp.array([-1.0]), "var": jnp.array([4.0])},
    }
    normalised = norm.apply(variables, signal, jnp.asarray(WEIGHTS, jnp.float32), use_running_average=True)
    np.testing.assert_allclose(normalised, 3 * (1 + 1) / 2 + 1, rtol=1e-6)


def test_weights_of_another_grid_are_refused():
    with pytest.raises(InputError, match="as long as the 6 weights"):
        channel_means(jnp.zeros((1, 8, 8, 8, 2)), jnp.ones(6), "so3")


@pytest.mark.parametrize(
    ("space", "shape"), [("sphere", (3, 8, 8, 16)), ("so3", (3, 4, 4, 4, 16)), ("so3_spectrum", (3, 10, 16))]
)
def test_dropout_drops_whole_channels_of_single_examples(space, shape):
    dropout = ChannelDropout(space, rate=0.5)
    dropped = dropout.apply({}, jnp.ones(shape), deterministic=False, rngs={"dropout": jax.random.key(1)})
    flat = np.asarray(dropped).reshape(shape[0], -1, shape[-1])
    assert set(np.unique(flat)) == {0.0, 2.0}
    np.testing.assert_array_equal(flat, np.broadcast_to(flat[:, :1], flat.shape))
    assert (flat[0, 0] != flat[1, 0]).any()
    np.testing.assert_array_equal(dropout.apply({}, jnp.ones(shape), deterministic=True), np.ones(shape))
