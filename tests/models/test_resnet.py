"""Residual networks: parameter counts by hand, a block written out, purity, sizes, initial variances, errors."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.models.planar_cnn import count_parameters
from jaxgeo.models.resnet import ConvolutionNorm, ResidualBlock, ResNet, ResNetConfig, init_resnet
from jaxgeo.posteriors.log_joint import pure_apply

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def shapes(config):
    return jax.eval_shape(ResNet(config).init, jax.random.key(0), IMAGE)["params"]


def test_the_published_network_has_the_parameters_counted_by_hand():
    norm = 3  # scale, bias and threshold of each channel
    stem = 27 * 16 + 16 + norm * 16
    first = 6 * (9 * 16 * 16 + 16 + norm * 16)
    second = (9 * 16 * 32 + 32 + norm * 32) + 5 * (9 * 32 * 32 + 32 + norm * 32) + (16 * 32 + 32 + norm * 32)
    third = (9 * 32 * 64 + 64 + norm * 64) + 5 * (9 * 64 * 64 + 64 + norm * 64) + (32 * 64 + 64 + norm * 64)
    head = 64 * 10 + 10
    assert (stem, first, second, third, head) == (496, 14_208, 52_096, 206_592, 650)
    assert count_parameters(shapes(ResNetConfig())) == stem + first + second + third + head == 274_042


def test_without_thresholds_there_is_one_number_less_for_each_channel_of_a_norm():
    # Of stem, six layers in each stage and two projections.
    channels = 16 + 6 * (16 + 32 + 64) + 32 + 64
    assert count_parameters(shapes(ResNetConfig(norm="frn"))) == 274_042 - channels


@pytest.mark.parametrize(("depth", "layers"), [(8, 8), (20, 20), (32, 32)])
def test_depth_counts_the_layers_with_weights_but_projections(depth, layers):
    paths = jax.tree_util.tree_leaves_with_path(shapes(ResNetConfig(depth=depth, features=2)))
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    assert sum(name.endswith("['kernel']") and "projection" not in name for name in names) == layers
    assert sum(name.endswith("['kernel']") and "projection" in name for name in names) == 2


@pytest.mark.parametrize(("activation", "norm"), [("swish", "tau"), ("relu", "frn")])
def test_a_block_that_halves_the_image_is_the_sums_written_out(activation, norm):
    rng = np.random.default_rng(0)
    block = ResidualBlock(ResNetConfig(activation=activation, norm=norm), 3, 2)
    x = rng.normal(size=(6, 6, 2))
    variables = jax.eval_shape(block.init, jax.random.key(0), jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables["params"])

    def layer(x, weights, kernel_size, stride):
        kernel, bias = weights["conv"]["kernel"], weights["conv"]["bias"]
        size = x.shape[0] // stride
        # SAME pads a 3 x 3 kernel by one row and column on both sides, but at stride 2 on an even size only behind.
        around = (0, 0) if kernel_size == 1 else (0, 1) if stride == 2 else (1, 1)
        padded = np.pad(x, (around, around, (0, 0)))
        planes = []
        for out in range(kernel.shape[-1]):
            parts = [
                scipy.signal.correlate2d(padded[:, :, c], kernel[:, :, c, out], "valid")[::stride, ::stride]
                for c in range(x.shape[-1])
            ]
            planes.append(np.sum(parts, axis=0)[:size, :size] + bias[out])
        y = np.stack(planes, axis=-1)
        y = weights["norm"]["scale"] * y / np.sqrt((y**2).mean(axis=(0, 1)) + 1e-6) + weights["norm"]["bias"]
        return np.maximum(y, weights["norm"]["threshold"]) if norm == "tau" else y

    def activate(x):
        return x / (1 + np.exp(-x)) if activation == "swish" else np.maximum(x, 0)

    y = layer(activate(layer(x, params["layer_0"], 3, 2)), params["layer_1"], 3, 1)
    expected = activate(layer(x, params["projection"], 1, 2) + y)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    found = block.apply({"params": single}, jnp.asarray(x, jnp.float32))
    assert found.shape == (3, 3, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # float32, two normalised convolutions


def test_the_network_is_a_pure_function_of_its_parameters_and_images_do_not_see_each_other():
    config = ResNetConfig(depth=8, features=2)
    apply = jax.jit(pure_apply(ResNet(config), IMAGE))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes(config))
    images = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    others = images.copy()
    others[[0, 2]] = rng.normal(size=(2, 8, 8, 3))
    logits = apply(params, images)
    assert logits.shape == (3, 10)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(apply(params, others)[1], logits[1])


def test_kernels_begin_with_variance_two_over_fan_in_and_norms_as_identities():
    layer = ConvolutionNorm(ResNetConfig(), 64)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 1, 64)))["params"]
    # 36,864 draws: the variance is known to 1 / sqrt(18,432) of itself, and five of that are allowed.
    np.testing.assert_allclose(np.var(params["conv"]["kernel"]), 2 / (9 * 64), rtol=5 / np.sqrt(18_432))
    assert np.all(np.asarray(params["norm"]["scale"]) == 1)
    assert not np.any(params["norm"]["threshold"])
    assert not np.any(params["conv"]["bias"])


def test_parameters_from_one_vector_have_the_shapes_and_distributions_of_the_layers():
    params = init_resnet(jax.random.key(0), ResNetConfig())
    expected = shapes(ResNetConfig())
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert found == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values, name = np.asarray(leaf), path[-1].key
        if name != "kernel":
            assert np.all(values == (name == "scale"))
            continue
        variance = 2 / np.prod(leaf.shape[:-1])
        # Fourth moments of the cut distribution are below the normal's; five standard errors of a normal's variance.
        assert abs(values.var() / variance - 1) < 5 * np.sqrt(2 / values.size)
        assert np.abs(values).max() <= 2 * np.sqrt(variance) / 0.8796


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 18}, "depth must be 6 n .* got 18; the nearest is 20"),
        ({"depth": 2}, "the nearest is 8"),
        ({"features": 0}, "features must be a whole number of at least 1"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
        ({"channels": 0}, "channels must be a whole number of at least 1"),
        ({"activation": "gelu"}, "got 'gelu'"),
        ({"norm": "batch"}, "got 'batch'"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    config = copy.copy(ResNetConfig())
    for name, value in changes.items():
        object.__setattr__(config, name, value)  # past beartype, which users do not have switched on
    with pytest.raises(ConfigError, match=message):
        config.__post_init__()


def test_images_with_channels_first_are_refused():
    with pytest.raises(InputError, match=r"\(..., row, column, 3\), channels last, got \(2, 3, 32, 32\)"):
        jax.eval_shape(ResNet().init, jax.random.key(0), jax.ShapeDtypeStruct((2, 3, 32, 32), jnp.float32))
