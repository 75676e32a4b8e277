import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.layers import fixed_point
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import Dense, LinearPrecision

PRECISION = LinearPrecision(FixedPoint(6, 2), FixedPoint(8, 3), FixedPoint(12, 5))


@given(
    seed=st.integers(0, 2**31 - 1),
    features=st.sampled_from([1, 2, 9]),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
)
def test_dense_is_the_affine_map_of_flax(seed, features, batch):
    key = jax.random.key(seed)
    x = jax.random.normal(key, (*batch, 5))
    params = Dense(features).init(key, x)
    params["params"]["bias"] = jax.random.normal(key, (features,))
    expected = nn.Dense(features).apply(params, x[None])[0]  # flax adds its bias by itself for one batch axis only
    np.testing.assert_allclose(Dense(features).apply(params, x), expected, rtol=1e-5, atol=1e-6)  # float32


def test_a_precision_changes_the_arithmetic_and_not_the_parameters():
    key = jax.random.key(0)
    x = jax.random.normal(key, (7, 5))
    params = Dense(3).init(key, x)
    fixed = Dense(3, PRECISION).init(key, x)
    assert jax.tree.map(jnp.shape, fixed) == jax.tree.map(jnp.shape, params)
    found = Dense(3, PRECISION).apply(params, x)
    kernel = fixed_point.quantize(params["params"]["kernel"], PRECISION.weight)
    expected = fixed_point.quantize(x @ kernel, PRECISION.result)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(found) * 2**7, np.round(np.asarray(found) * 2**7))  # 12 - 5 fraction bits


def test_dense_computes_in_the_type_of_its_input():
    x = jnp.ones((2, 4), jnp.bfloat16)
    assert Dense(3).apply(Dense(3).init(jax.random.key(0), x), x).dtype == jnp.bfloat16
