"""The folded batch norm computes what Flax's does, and its fixed-point form stays on its grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.normalization import ChannelAffine, fold_batch_norm


def _vector(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_batch_norm_equals_flax(affine):
    norm = nn.BatchNorm(use_running_average=True, use_scale=affine, use_bias=affine, epsilon=1e-3)
    params = {"scale": _vector(0, 5), "bias": _vector(1, 5)} if affine else {}
    stats = {"mean": _vector(2, 5), "var": _vector(3, 5) ** 2}
    x = jnp.asarray(_vector(4, 7, 3, 5))
    with jax.numpy_rank_promotion("allow"):
        expected = norm.apply({"params": params, "batch_stats": stats}, x)
    folded = ChannelAffine().apply({"params": fold_batch_norm(params, stats, 1e-3)}, x)
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-5)  # a few roundings of float32


def test_in_fixed_point_scale_offset_and_result_are_rounded():
    precision = LinearPrecision(FixedPoint(6, 2), FixedPoint(5, 2), FixedPoint(7, 3, rounding="RND", overflow="SAT"))
    x, params = (
        jnp.asarray(_vector(0, 9, 4)),
        {"scale": jnp.tanh(_vector(1, 4)), "offset": jnp.tanh(_vector(2, 4))},
    )
    y = ChannelAffine(precision).apply({"params": params}, x)
    scale, offset = jnp.floor(params["scale"] * 16) / 16, jnp.floor(params["offset"] * 8) / 8  # TRN
    np.testing.assert_array_equal(y, quantize(x * scale[None] + offset[None], precision.result))
    assert set(ChannelAffine(precision).init(jax.random.key(0), x)["params"]) == {"scale", "offset"}


def test_statistics_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"mean and var, got \['mean'\]"):
        fold_batch_norm({}, {"mean": np.zeros(2)})
    with pytest.raises(InputError, match="must be positive"):
        fold_batch_norm({}, {"mean": np.zeros(2), "var": -np.ones(2)})
