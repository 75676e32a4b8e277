"""Single calls with what they cannot take: one sentence each, and what can be taken is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import without_type_checks

from jaxgeo.data.corruptions import corrupt
from jaxgeo.data.digits import load_digits
from jaxgeo.data.fisheye_scenes import scene_camera
from jaxgeo.data.half_disc import half_disc
from jaxgeo.equivariance.domains import sphere_coefficients
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.fisheye_projection import point_cloud
from jaxgeo.harmonics.spectra import plan_bispectrum
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.spherical_norm import ChannelDropout, channel_means
from jaxgeo.metrics.multiple_comparisons import holm
from jaxgeo.metrics.point_clouds import chamfer_distance
from jaxgeo.posteriors.hmc import plan_hmc
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.microcanonical import MicrocanonicalConfig, sample_chains
from jaxgeo.training.schedules import learning_rates

IMAGES = np.zeros((1, 8, 8, 3), np.uint8)
CLOUD = np.zeros((3, 3))


def affine(params, inputs):
    return inputs @ params["w"]


def sampler():
    return plan_hmc(LogJoint(affine), {"w": jnp.zeros((2, 3))}, HmcConfig(num_chains=1))


def chains(starts):
    config = MicrocanonicalConfig(num_chains=2)
    data = jnp.zeros((4, 2)), jnp.zeros(4, jnp.int32)
    return sample_chains(jax.random.key(0), {"w": jnp.zeros((starts, 2, 3))}, LogJoint(affine), *data, config)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: corrupt(IMAGES, "fog", 1.0), ConfigError, "must be a whole number from 1 to 5, got 1.0"),
        (lambda: corrupt(IMAGES, "fog", True), ConfigError, "must be a whole number from 1 to 5, got True"),
        (lambda: corrupt(IMAGES, "fog", 1, 1.5), ConfigError, "the seed must be a whole number of at least 0, got 1.5"),
        (lambda: corrupt([[1, 2]], "fog", 1), InputError, r"images must be uint8 of shape \(image, row, column, 3\)"),
        (lambda: half_disc(10.5, 0), InputError, "number of points must be a whole number of at least 1, got 10.5"),
        (lambda: half_disc(10, -1), InputError, "the seed must be a whole number of at least 0, got -1"),
        (lambda: load_digits(num_train=2.5), InputError, "training images must be a whole number of at least 1"),
        (lambda: load_digits(num_test=20.5), InputError, "test images must be a whole number of at least 0, got 20.5"),
        (lambda: load_digits(seed=-1), ConfigError, "the seed must be a whole number of at least 0, got -1"),
        (lambda: chamfer_distance(CLOUD, CLOUD, chunk_size=2.5), ConfigError, "chunk_size must be a whole number"),
        (lambda: chamfer_distance(CLOUD, CLOUD, max_points=0), ConfigError, "max_points .* of at least 1, got 0"),
        (lambda: learning_rates("step up", 0.1, 9, 1), ConfigError, "one of constant, cosine, step, got 'step up'"),
        (lambda: point_cloud(scene_camera("FV", (4, 5)), CLOUD, CLOUD[:, 0], "car"), ConfigError, "camera, vehicle"),
        (lambda: plan_bispectrum(4, [(1.0, 1, 1)]), ConfigError, "of a triple must be a whole number .* got 1.0"),
        (lambda: channel_means(IMAGES, CLOUD[:, 0], "s2"), ConfigError, "one of sphere, so3, so3_spectrum, got 's2'"),
        (
            lambda: ChannelDropout("s2", 0.1).apply({}, IMAGES, deterministic=True),
            ConfigError,
            "so3_spectrum, got 's2'",
        ),
        (lambda: sphere_coefficients(2, "packed", dtype=np.float32), ConfigError, "one of native, dense, sphere_sp"),
        (
            lambda: sphere_coefficients(2, "sphere_spectrum", real=False, dtype=np.float32),
            ConfigError,
            "one of native, dense, got 'sphere_spectrum'",
        ),
        (lambda: holm(["a"]), InputError, "p-values are one axis of numbers from 0 to 1"),
        (lambda: holm(0.5), InputError, "p-values are one axis of numbers from 0 to 1"),
        (lambda: quantize(3, FixedPoint(8, 4)), InputError, "int32"),
        (
            lambda: sampler().draws(np.zeros((2, 5))),
            InputError,
            r"6 coordinates on .* axis, got shape \(2, 5\)",
        ),
        (lambda: sampler().run(None, None, None, -3), ConfigError, "transitions must be .* of at least 0, got -3"),
        (lambda: chains(1), ConfigError, "2 chains need as many starting points, got 1"),
        (lambda: chains(3), ConfigError, "2 chains need as many starting points, got 3"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, error, message):
    with without_type_checks(), pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_numbers_and_lists_are_taken_where_their_arrays_are():
    assert quantize(0.3, FixedPoint(8, 4)) == 0.25  # truncated to sixteenths
    assert holm([0.2, 0.01, 0.03]).tolist() == holm(np.array([0.2, 0.01, 0.03])).tolist()
