"""Baseline networks: parameter counts, sums written out, adjointness, sizes on the way up, the import of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.models.planar_cnn import (
    CNN_1M,
    CNN_5M,
    CNN_218K,
    CnnClassifier,
    CnnClassifierConfig,
    CnnSegmenter,
    CnnSegmenterConfig,
    Convolution,
    TransposedConvolution,
    count_parameters,
    segmenter_from_torch,
)


def parameter_shapes(module, config):
    image = jax.ShapeDtypeStruct((config.size, config.size, config.channels), jnp.float32)
    return jax.eval_shape(module(config).init, jax.random.key(0), image)["params"]


@pytest.mark.parametrize(
    ("module", "config", "count"),
    [
        (CnnSegmenter, CNN_218K, 218_144),
        (CnnSegmenter, CNN_1M, 1_042_013),
        (CnnSegmenter, CNN_5M, 5_519_335),
        # 25 * 32 + 32, 25 * 32 * 64 + 64, and 64 features on the 5 x 5 pixels that are left for ten classes.
        (CnnClassifier, CnnClassifierConfig(), 832 + 51_264 + 16_010),
    ],
)
def test_published_sizes_have_the_published_numbers_of_parameters(module, config, count):
    assert count_parameters(parameter_shapes(module, config)) == count


@given(
    size=st.integers(4, 9), kernel=st.integers(1, 4), stride=st.integers(1, 3), more=st.integers(0, 2),
    seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
@settings(max_examples=8)  # each draw of sizes compiles
def test_convolutions_are_the_sums_written_out(size, kernel, stride, more, seed):
    rng = np.random.default_rng(seed)
    image, weights = rng.normal(size=(size, size, 2)), rng.normal(size=(kernel, kernel, 2, 3))
    bias = rng.normal(size=3)
    out = (size - kernel) // stride + 1
    down = np.zeros((out, out, 3))
    reached = (size - 1) * stride + kernel
    up = np.zeros((reached + more % stride, reached + more % stride, 3))
    for a in range(kernel):
        for b in range(kernel):
            reach = stride * np.arange(out)
            down += image[np.ix_(reach + a, reach + b)] @ weights[a, b]
            spread = stride * np.arange(size)
            up[np.ix_(spread + a, spread + b)] += image @ weights[a, b]
    with jax.enable_x64(True):
        params = {"params": {"kernel": jnp.asarray(weights), "bias": jnp.asarray(bias)}}
        got_down = Convolution(3, kernel, stride).apply(params, jnp.asarray(image))
        got_up = TransposedConvolution(3, kernel, stride, up.shape[0]).apply(params, jnp.asarray(image))
        # At most 32 products of numbers near 1 in float64.
        np.testing.assert_allclose(got_down, down + bias, atol=1e-12)
        np.testing.assert_allclose(got_up, up + bias, atol=1e-12)


def test_transposed_convolution_is_the_adjoint_of_the_convolution():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 5)))
        x, y = jnp.asarray(rng.normal(size=(4, 8, 8, 2))), jnp.asarray(rng.normal(size=(4, 3, 3, 5)))
        down = Convolution(5, 3, 2).apply({"params": {"kernel": kernel, "bias": jnp.zeros(5)}}, x)
        backward = {"params": {"kernel": jnp.swapaxes(kernel, 2, 3), "bias": jnp.zeros(2)}}
        up = TransposedConvolution(2, 3, 2, 8).apply(backward, y)
        # Sums of a few hundred products in float64.
        assert abs(float(jnp.sum(down * y) - jnp.sum(x * up))) < 1e-11


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("size", [17, 20])
def test_segmenter_comes_back_to_the_size_it_started_from(shortcuts, size):
    config = CnnSegmenterConfig((3, 4, 5), (5, 3, 3), (2, 2, 1), shortcuts, size=size, channels=2, num_classes=4)
    module = CnnSegmenter(config)
    image = jax.random.normal(jax.random.key(1), (2, 3, size, size, 2))
    variables = module.init(jax.random.key(0), image)
    assert set(variables) == {"params"}
    logits, extra = module.apply(variables, image, mutable=["activations"])
    assert logits.shape == (2, 3, size, size, 4)
    for i, side in enumerate(config.sizes[2:]):
        assert extra["activations"][f"downsample_layers_{i}_output"][0].shape[-3:-1] == (side, side)
    # Leading axes are examples: each alone gives the same (float32, sums in another order).
    alone = module.apply(variables, image[1, 2])
    np.testing.assert_allclose(logits[1, 2], alone, atol=1e-5)


def test_classifier_gives_one_row_of_logits_for_each_image():
    config = CnnClassifierConfig((4, 6), (3, 3), (2, 2), size=12, num_classes=5)
    assert config.sizes == (12, 5, 2)
    images = jax.random.normal(jax.random.key(1), (3, 12, 12, 1))
    params = CnnClassifier(config).init(jax.random.key(0), images)
    assert CnnClassifier(config).apply(params, images).shape == (3, 5)
    assert CnnClassifier(config).apply(params, images[0]).shape == (5,)


def test_batch_norm_normalises_in_training_and_keeps_running_statistics():
    segmenter = CnnSegmenter(CnnSegmenterConfig((3, 4), (3, 3), (1, 2), True, True, size=9, num_classes=2))
    classifier = CnnClassifier(CnnClassifierConfig((3,), (3,), (2,), True, size=9))
    images = 5 + jax.random.normal(jax.random.key(1), (4, 9, 9, 1))
    for module in (segmenter, classifier):
        variables = module.init(jax.random.key(0), images)
        _, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
        still = module.apply(variables, images)
        moved = module.apply({"params": variables["params"], **updated}, images)
        assert not np.allclose(still, moved, atol=1e-3)
    with pytest.raises(InputError, match="batch_norm=False"):
        segmenter_from_torch(segmenter.config, {})


def test_shortcut_takes_the_largest_value_and_the_nearest_pixel():
    config = CnnSegmenterConfig((1, 1), (1, 2), (1, 2), True, size=4, num_classes=1)
    shapes = parameter_shapes(CnnSegmenter, config)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    for layer in ("input_layer", "skip_down_conv_layers_0", "skip_up_conv_layers_0", "out_layer"):
        params[layer]["kernel"] = jnp.ones_like(params[layer]["kernel"])
    image = jnp.arange(16.0).reshape(4, 4, 1)
    found = CnnSegmenter(config).apply({"params": params}, image)[..., 0]
    np.testing.assert_array_equal(found, np.kron([[5.0, 7.0], [13.0, 15.0]], np.ones((2, 2))))


@pytest.mark.parametrize("config", [CnnSegmenterConfig, CnnClassifierConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (1, 2)}, "describe the same convolutions"),
        ({"features": (), "kernel_sizes": (), "strides": ()}, "at least one"),
        ({"features": (1,), "kernel_sizes": (3,), "strides": (0,)}, "at least 1"),
        ({"features": (1, 1), "kernel_sizes": (5, 5), "strides": (3, 3), "size": 9}, r"leave nothing.*\(9, 2, 0\)"),
        ({"channels": 0}, "channels must be a whole number of at least 1"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
    ],
)
def test_impossible_configurations_are_refused(config, changes, message):
    if "features" in changes and "kernel_sizes" not in changes:
        changes = changes | {"kernel_sizes": (3,), "strides": (1,)}
    with pytest.raises(ConfigError, match=message):
        config(**changes)


@pytest.mark.parametrize("module", [CnnSegmenter(CNN_218K), CnnClassifier(CnnClassifierConfig())])
def test_image_of_another_size_is_refused(module):
    with pytest.raises(InputError, match=r"got \(24, 24, 1\)"):
        module.init(jax.random.key(0), jnp.zeros((24, 24, 1)))


def torch_weights(config):
    rng = np.random.default_rng(0)
    weights = {}
    for layer, leaves in parameter_shapes(CnnSegmenter, config).items():
        stem, _, number = layer.rpartition("_")
        prefix = f"{stem}.{number}" if number.isdigit() else layer
        row, col, fan_in, fan_out = leaves["kernel"].shape
        pair = (fan_in, fan_out) if layer.startswith(("up", "out")) else (fan_out, fan_in)
        weights[f"{prefix}.weight"] = rng.normal(size=(*pair, row, col))
        weights[f"{prefix}.bias"] = rng.normal(size=fan_out)
    return weights


def test_published_names_are_imported_whole_or_not_at_all():
    config = CnnSegmenterConfig((2, 3), (3, 3), (1, 2), True, size=8, num_classes=2)
    weights = torch_weights(config)
    params = segmenter_from_torch(config, weights)
    np.testing.assert_array_equal(
        params["out_layer"]["kernel"][0, 1, :, 1], weights["out_layer.weight"][:, 1, 0, 1].astype(np.float32)
    )
    assert CnnSegmenter(config).apply({"params": params}, jnp.zeros((8, 8, 1))).shape == (8, 8, 2)
    with pytest.raises(InputError, match=r"needs a weight input_layer\.bias"):
        segmenter_from_torch(config, {k: v for k, v in weights.items() if k != "input_layer.bias"})
    with pytest.raises(InputError, match="17 weights were given and the configured network has 12"):
        segmenter_from_torch(config, weights | {f"more.{i}": np.zeros(1) for i in range(5)})
    with pytest.raises(InputError, match=r"downsample_layers\.0\.weight is of shape"):
        segmenter_from_torch(config, weights | {"downsample_layers.0.weight": np.zeros((3, 2, 5, 5))})
