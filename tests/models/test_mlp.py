"""The perceptron equals plain matrix products, and has the published number of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.models.mlp import Mlp, MlpConfig

FUNCTIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "swish": lambda x: x / (1 + np.exp(-x))}


@pytest.mark.parametrize("activation", ["relu", "tanh", "swish"])
def test_logits_are_those_of_numpy(activation):
    model, x = Mlp(MlpConfig(activation=activation)), jax.random.normal(jax.random.key(1), (7, 2))
    params = model.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases begin at zero
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 162
    y = np.asarray(x, np.float64)
    for name in ("hidden_0", "hidden_1", "output"):
        y = y @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"], np.float64)
        y = FUNCTIONS[activation](y) if name != "output" else y
    np.testing.assert_allclose(np.asarray(model.apply({"params": params}, x)), y, rtol=1e-5, atol=1e-5)  # float32


def test_any_widths_and_leading_axes():
    model = Mlp(MlpConfig(features=3, widths=(4,), num_outputs=5))
    params = model.init(jax.random.key(0), jnp.zeros((2, 6, 3)))["params"]
    assert set(params) == {"hidden_0", "output"}
    assert jax.eval_shape(model.apply, {"params": params}, jnp.zeros((2, 6, 3))).shape == (2, 6, 5)


@pytest.mark.parametrize(
    ("settings", "message"), [({"widths": (10, 0)}, r"widths\[1\].*got 0"), ({"features": 0}, "features.*got 0")]
)
def test_sizes_below_one_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MlpConfig(**settings)
