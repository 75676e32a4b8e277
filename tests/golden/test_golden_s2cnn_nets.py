"""The segmentation S2CNN with stored weights: outputs, layers' outputs, gradients, both of its backward passes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import compiled, golden_files, group, load, name, read_config, relative_l2

from jaxgeo.layers import so3_nonlinearity
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.s2cnn_weights import params_from_torch, params_to_torch, torch_name

FILES = golden_files("input", "output", "weights/*", where=lambda c: c.get("upstream_class") == "S2ConvNet_sem_seg")
# The pass marks of the files: float64 rounding is 1e-14 here; upstream's float32 run is itself off by 4e-7.
FLOAT64, FLOAT32 = 1e-10, 2e-6


def config_of(arrays, **options):
    model = read_config(arrays)["model"]
    max_beta = model["kernel_max_beta"]
    return S2CNNSegmenterConfig(
        input_channels=model["f_in"],
        input_bandlimit=model["b_in"],
        features=tuple(model["fs"]),
        bandlimits=tuple(model["b_ls"]),
        kernel_max_beta=tuple(max_beta) if isinstance(max_beta, list) else (max_beta,) * (len(model["fs"]) + 1),
        shortcuts=model["use_skips"],
        num_classes=model["f_out"],
        output_bandlimit=model["b_out"],
        mode="faithful",
        **options,
    )


def channels_last(array, dtype):
    return jnp.asarray(np.moveaxis(array, 1, -1), dtype)


def channels_first(array):
    return np.moveaxis(np.asarray(array), -1, 1)


def params_of(model, plan, arrays, dtype):
    images = channels_last(arrays["input"], dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), plan, images)["params"]
    weights = {key: value.astype(dtype) for key, value in group(arrays, "weights/").items()}
    return params_from_torch(shapes, weights)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_outputs_layers_and_gradients_are_those_of_the_original(path):
    arrays = load(path)
    with jax.enable_x64(True):
        config = config_of(arrays)
        model, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config, dtype=jnp.float64)
        params = params_of(model, plan, arrays, jnp.float64)
        images, cotangent = (channels_last(arrays[key], jnp.float64) for key in ("input", "cotangent"))

        def loss(model, params, images):
            output, captured = model.apply(
                {"params": params}, plan_of[model], images, capture_intermediates=True, mutable=["intermediates"]
            )
            return (output * cotangent).sum(), (output, captured["intermediates"])

        upstream = S2CNNSegmenter(dataclasses.replace(config, upstream_backward=True))
        plan_of = {model: plan, upstream: plan_s2cnn_segmenter(upstream.config, dtype=jnp.float64)}
        differentiate = functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
        gradients, (output, inner) = compiled(differentiate(functools.partial(loss, model)))(params, images)
        assert relative_l2(channels_first(output), arrays["output"]) < FLOAT64
        check_layers(arrays, inner["trunk"], plan.trunk, config)
        check_gradients(gradients, arrays)
        gradients, _ = compiled(differentiate(functools.partial(loss, upstream)))(params, images)
        suffix = "_upstream_backward"
        # Where a derivative is not stored a second time, both agree.
        expected = {
            "grad_input": arrays.get(f"grad_input{suffix}", arrays["grad_input"]),
            **{f"grads/{key}": value for key, value in group(arrays, "grads/").items()},
            **{f"grads/{key}": value for key, value in group(arrays, f"grads{suffix}/").items()},
        }
        check_gradients(gradients, expected)


def check_layers(arrays, inner, plan, config):
    acts = group(arrays, "acts/")
    seen = set()
    for key, (spectrum,) in ((module, values["__call__"]) for module, values in inner.items() if module != "__call__"):
        stored = torch_name((key, "kernel")).removesuffix(".kernel").removesuffix(".conv")
        if stored not in acts or key.startswith("output"):
            continue
        layer = 0 if key == "input_layer" else int(key.rpartition("_")[2]) + 1
        signal = so3_nonlinearity.samples(plan.nonlinearities[layer], spectrum)
        assert relative_l2(channels_first(signal), acts[stored]) < FLOAT64, stored
        seen.add(stored)
    assert seen == {key for key in acts if not key.startswith("output") and not is_identity(key, config)}


def is_identity(key, config):
    if not key.startswith("skip_layers"):
        return False
    i = int(key.rpartition(".")[2])
    return config.features[i] == config.features[i + 1] and config.bandlimits[i] == config.bandlimits[i + 1]


def check_gradients(gradients, arrays):
    of_params, of_images = gradients
    assert relative_l2(channels_first(of_images), arrays["grad_input"]) < FLOAT64
    found = params_to_torch(of_params)
    for key, value in group(arrays, "grads/").items():
        assert relative_l2(found[key], value) < FLOAT64, key


@pytest.mark.parametrize("path", golden_files("input", "output_f32", "weights/input_layer.kernel"), ids=name)
def test_float32_agrees_with_the_unmodified_original(path):
    arrays = load(path)
    config = config_of(arrays)
    model, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config)
    params = params_of(model, plan, arrays, jnp.float32)
    output = compiled(model.apply)({"params": params}, plan, channels_last(arrays["input"], jnp.float32))
    assert relative_l2(channels_first(output), arrays["output_f32"]) < FLOAT32


@pytest.mark.parametrize("path", FILES, ids=name)
def test_kernels_lie_on_the_points_of_the_original(path):
    arrays = load(path)
    config = config_of(arrays)
    first, *hidden, last = config.kernel_max_beta
    expected = {"input_layer": config.kernel_grid.s2_points(first), "output_layer": config.kernel_grid.so3_points(last)}
    expected |= {f"hidden_layers.{i}": config.kernel_grid.so3_points(beta) for i, beta in enumerate(hidden)}
    for key, points in group(arrays, "kernel_points/").items():
        np.testing.assert_allclose(expected[key], points, rtol=0, atol=1e-14)  # units in the last place


@pytest.mark.parametrize("path", FILES, ids=name)
def test_weights_survive_import_and_export(path):
    arrays = load(path)
    config = config_of(arrays)
    model, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config)
    params = params_of(model, plan, arrays, jnp.float32)
    exported, stored = params_to_torch(params), group(arrays, "weights/")
    assert set(exported) == set(stored)
    assert sum(value.size for value in exported.values()) == read_config(arrays)["n_params"]
    for key, value in stored.items():
        np.testing.assert_array_equal(exported[key], value)  # stored values are exact in float32
