"""The perceptron equals plain matrix products, and has the published number of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.mlp import Mlp, MlpConfig, MlpPrecision

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
    model = Mlp(MlpConfig(channels=3, features=(4,), num_classes=5))
    params = model.init(jax.random.key(0), jnp.zeros((2, 6, 3)))["params"]
    assert set(params) == {"hidden_0", "output"}
    assert jax.eval_shape(model.apply, {"params": params}, jnp.zeros((2, 6, 3))).shape == (2, 6, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"features": (10, 0)}, r"features must be a tuple, each .* got \(10, 0\)"), ({"channels": 0}, "channels.*got 0")],
)
def test_sizes_below_one_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MlpConfig(**settings)


@pytest.mark.parametrize("activation", ["relu", "tanh", "swish"])
def test_a_perceptron_in_fixed_point_is_its_maps_and_activations_rounded_one_by_one(activation):
    wide, narrow = FixedPoint(9, 4, True, "RND", "SAT"), FixedPoint(6, 2, True, "RND", "SAT")
    layer = LinearPrecision(narrow, narrow, wide)
    config = MlpConfig(features=(4, 3), activation=activation, precision=MlpPrecision(narrow, (layer,) * 3))
    x = jax.random.normal(jax.random.key(0), (30, 2))
    rng = np.random.default_rng(0)
    params = jax.eval_shape(Mlp(config).init, jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    y = np.asarray(quantize(x, narrow), np.float64)

    def rounded(values, format):
        return np.clip(np.floor(values / format.step + 0.5) * format.step, format.min, format.max)

    for name in ("hidden_0", "hidden_1", "output"):
        kernel, bias = (rounded(np.asarray(params[name][leaf], np.float64), narrow) for leaf in ("kernel", "bias"))
        y = rounded(y @ kernel + bias[None], wide)
        if name != "output":
            y = rounded(FUNCTIONS[activation](y), wide)
    np.testing.assert_array_equal(jax.jit(Mlp(config).apply)({"params": params}, x), y)
    with pytest.raises(ConfigError, match="3 affine maps need as many precisions, got 2"):
        MlpConfig(precision=MlpPrecision(narrow, (layer,) * 2))
