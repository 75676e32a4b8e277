"""The baseline segmenters against stored outputs, activations and derivatives of the published program."""

import jax
import jax.numpy as jnp
import pytest
from golden_files import golden_files, group, load, name, read_config, relative_l2

from jaxgeo.models.planar_cnn import CnnSegmenter, CnnSegmenterConfig, count_parameters, segmenter_from_torch

FILES = golden_files("weights/out_layer.weight", "weights/input_layer.bias", "input", "cotangent", "grad_input")
# Both sides are float64 sums of at most some thousand products; the stored file's own mark.
TOLERANCE = 1e-12


def config_of(arrays):
    model = read_config(arrays)["model"]
    return CnnSegmenterConfig(
        features=tuple(model["fs"]),
        kernel_sizes=tuple(model["k_sizes"]),
        strides=tuple(model["strides"]),
        shortcuts=model["use_skips"],
        size=model["dim_in"],
        channels=model["f_in"],
        num_classes=model["f_out"],
    )


def channels_last(array):
    return jnp.moveaxis(jnp.asarray(array), 1, -1)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_outputs_activations_and_gradients_are_the_published_ones(path):
    arrays = load(path)
    config = config_of(arrays)
    with jax.enable_x64(True):
        params = segmenter_from_torch(config, group(arrays, "weights/"))
        stated = read_config(arrays)
        assert count_parameters(params) == stated.get("n_params", count_parameters(params))
        assert list(config.sizes) == stated.get("dims", list(config.sizes))
        cotangent = channels_last(arrays["cotangent"])

        def run(params, image):
            output, extra = CnnSegmenter(config).apply({"params": params}, image, mutable=["activations"])
            return jnp.sum(output * cotangent), (output, extra["activations"])

        image = channels_last(arrays["input"])
        (_, (output, kept)), (grads, grad_input) = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(
            params, image
        )
        assert relative_l2(output, channels_last(arrays["output"])) < TOLERANCE
        assert relative_l2(grad_input, channels_last(arrays["grad_input"])) < TOLERANCE
        for layer, value in group(arrays, "acts/").items():
            ours = kept[f"{layer.replace('.', '_')}_output"][0]
            assert relative_l2(ours, channels_last(value)) < TOLERANCE, layer
        # The gradients have the form of the weights, so that the same import puts them in place.
        expected = segmenter_from_torch(config, group(arrays, "grads/"))
        for layer, leaves in expected.items():
            for leaf, value in leaves.items():
                assert relative_l2(grads[layer][leaf], value) < TOLERANCE, f"{layer} {leaf}"
