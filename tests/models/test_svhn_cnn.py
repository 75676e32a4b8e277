"""The network of the house numbers: sizes, forms of its norm, fixed point that a circuit holds exactly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.learned_precision import VariableBits
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig, SvhnPrecision, max_pool

WEIGHT = FixedPoint(6, 1, True, "RND", "SAT")
BIAS = FixedPoint(8, 2, True, "RND", "SAT")
RESULT = FixedPoint(6, 3, False, "RND", "SAT")
LAYER = LinearPrecision(WEIGHT, BIAS, RESULT)
PRECISION = SvhnPrecision(FixedPoint(8, 0, False, "RND", "SAT"), (LAYER,) * 6)
SMALL = SvhnCnnConfig(size=22, channels=1, filters=(3, 4, 5), units=(6, 7))


def variables_of(config, seed=0):
    """Parameters and statistics away from zero and one, drawn without compiling an initialisation."""
    x = jax.ShapeDtypeStruct((1, config.size, config.size, config.channels), jnp.float32)
    variables = jax.eval_shape(SvhnCnn(config).init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[0].key == "precision":
            return jnp.full(leaf.shape, 1.0 if path[-1].key == "integer" else 5.0)
        low = -0.4 if path[-1].key == "kernel" else 0.3  # variances are positive
        return jnp.asarray(rng.uniform(low, 1.0 + 1.5 * min(low, 0.0), leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


def images(config, count=3, seed=1):
    shape = (count, config.size, config.size, config.channels)
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_default_is_the_published_network():
    config = SvhnCnnConfig()
    variables = jax.eval_shape(SvhnCnn(config).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernels = {name: variables["params"][name]["kernel"].shape for name in config.names}
    assert kernels == {
        "conv_0": (3, 3, 3, 16), "conv_1": (3, 3, 16, 16), "conv_2": (3, 3, 16, 24), "dense_0": (96, 42),
        "dense_1": (42, 64), "head": (64, 10),
    }  # fmt: skip
    assert (count(variables["params"]), count(variables["batch_stats"])) == (13_886, 324)
    assert "13,886 parameters, and 324 running statistics" in (SvhnCnnConfig.__doc__ or "")
    assert [name for name in config.names if "bias" in variables["params"][name]] == ["head"]
    assert [layer.positions for layer in config.matrix_layers] == [900, 169, 16, 1, 1, 1]
    for layer in config.matrix_layers:
        assert layer.fan_in * layer.features == np.prod(kernels[layer.name])


def test_training_normalises_by_the_batch_and_moves_the_statistics_by_the_momentum():
    config = dataclasses.replace(SMALL, momentum=0.75)
    variables, x = variables_of(config), images(config, 8)
    before = jax.tree.map(np.asarray, variables["batch_stats"])
    train = jax.jit(functools.partial(SvhnCnn(config).apply, train=True, mutable=["batch_stats"]))
    _, changed = train(variables, x)
    sums = jax.lax.conv_general_dilated(
        x, variables["params"]["conv_0"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for name, value in (("mean", np.mean(sums, (0, 1, 2))), ("var", np.var(sums, (0, 1, 2)))):
        expected = 0.75 * before["conv_0_norm"][name] + 0.25 * value
        np.testing.assert_allclose(changed["batch_stats"]["conv_0_norm"][name], expected, rtol=1e-4)  # float32
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables["batch_stats"]))


@pytest.mark.parametrize("config", [SvhnCnnConfig(), SMALL], ids=["published", "small"])
def test_the_network_in_floating_point_traces_to_layers_with_an_affine_map_for_each_norm(config):
    variables = variables_of(config)
    graph = trace(SvhnCnn(config).apply, variables, (config.size, config.size, config.channels))
    kinds = ["input"] + ["conv", "affine", "relu", "pool"] * 3 + ["reshape"] + ["dense", "affine", "relu"] * 2
    assert [node.kind for node in graph] == [*kinds, "dense"]
    assert {"conv_0", "conv_0_norm", "dense_1", "dense_1_norm", "head"} <= {node.name for node in graph}


@pytest.mark.parametrize("norm", ["folded", "affine"])
def test_a_quantised_network_has_exact_types_for_every_layer(norm):
    precision = PRECISION if norm == "folded" else dataclasses.replace(PRECISION, scales=(BIAS,) * 5)
    config = dataclasses.replace(SMALL, norm=norm, precision=precision)
    graph = trace(SvhnCnn(config).apply, variables_of(config), (config.size, config.size, 1))
    types = plan_types(graph)
    assert all(entry.exact for entry in types.values())
    logits = types[graph.output]
    assert (logits.result.width, logits.result.fraction) == (RESULT.width, RESULT.fraction)


def test_the_maximum_and_its_gradient_are_those_of_flax_also_of_equal_pixels_and_odd_sizes():
    rng = np.random.default_rng(0)
    # Few values, so that many pixels of a window are equal.
    x = jnp.asarray(rng.integers(0, 3, (2, 5, 7, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 2, 3, 3)), jnp.float32)

    @jax.jit
    def both(x):
        own = jax.value_and_grad(lambda x: jnp.sum(weights * max_pool(x)))(x)
        return own, jax.value_and_grad(lambda x: jnp.sum(weights * nn.max_pool(x, (2, 2), (2, 2))))(x)

    (value, slope), (expected, expected_slope) = both(x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)  # float32, a sum of 36
    np.testing.assert_array_equal(slope, expected_slope)


def test_batch_axes_come_through():
    variables, x = variables_of(SMALL), images(SMALL, 6)
    apply = jax.jit(SvhnCnn(SMALL).apply)
    whole = apply(variables, x)
    np.testing.assert_allclose(
        apply(variables, x.reshape(2, 3, *x.shape[1:])), whole.reshape(2, 3, -1), rtol=1e-4, atol=1e-5
    )  # float32, sums in another order


def test_variable_bits_stand_beside_the_parameters():
    config = dataclasses.replace(SMALL, norm="folded", precision=VariableBits(weight=5.0, granularity="channel"))
    variables = variables_of(config)
    plain = SvhnCnn(dataclasses.replace(SMALL, norm="folded"))
    like = jax.eval_shape(plain.init, jax.random.key(0), images(SMALL))
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(lambda leaf: leaf.shape, like["params"])
    bits = variables["precision"]
    assert set(bits) == {"input_bits", *config.names, *(f"{name}_result" for name in config.names)}
    assert bits["conv_1"]["kernel_bits"]["bits"].shape == (1, 1, 1, 4)
    assert bits["conv_1"]["bias_bits"]["bits"].shape == ()
    logits = jax.jit(SvhnCnn(config).apply)(variables, images(SMALL))
    np.testing.assert_array_equal(logits, jnp.round(logits * 2**4) / 2**4)  # 5 bits, 1 of them whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 21}, r"leave nothing of images of 21 rows \(sizes \(21, 9, 3, 0\)\)"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"filters": ()}, "of each convolution, at least one"),
        ({"units": (0,)}, "units must be a tuple, each a whole number of at least 1"),
        ({"epsilon": 0.0}, "positive epsilon, got 0.9 and 0.0"),
        ({"precision": dataclasses.replace(PRECISION, layers=(LAYER,))}, "6 layers need as many precisions, got 1"),
        ({"precision": PRECISION, "norm": "affine"}, "formats of 5 scales, .* got 0"),
        ({"precision": VariableBits(), "norm": "affine"}, "take norm 'folded' or 'batch'"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SvhnCnnConfig(), **changes)


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"images of shape \(\.\.\., 22, 22, 1\), channels last, got \(2, 22, 22, 3\)"):
        SvhnCnn(SMALL).init(jax.random.key(0), jnp.zeros((2, 22, 22, 3)))
