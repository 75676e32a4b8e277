"""The baseline segmenters against stored outputs, activations and derivatives of the published program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    by_precision,
    compare,
    compiled,
    golden_files,
    gradient_statistics,
    group,
    inputs,
    load,
    name,
    split,
    wanted,
)

from jaxgeo.models.planar_cnn import CnnSegmenter, CnnSegmenterConfig, count_parameters, segmenter_from_torch

# Both sides are float64 sums of at most some thousand products; the stored files' own marks.
MARKS = {np.float64: 1e-12, np.float32: 2e-6}


def config_of(model):
    return CnnSegmenterConfig(
        features=tuple(model["fs"]),
        kernel_sizes=tuple(model["k_sizes"]),
        strides=tuple(model["strides"]),
        shortcuts=bool(model["use_skips"]),
        size=model["dim_in"],
        channels=model["f_in"],
        num_classes=model["f_out"],
    )


def torch_arrays(params):
    """By state-dict name, in the published layout."""
    found = {}
    for layer, leaves in params.items():
        stem, _, number = layer.rpartition("_")
        prefix = f"{stem}.{number}" if number.isdigit() else layer
        order = (2, 3, 0, 1) if layer.startswith(("upsample_layers", "out_layer")) else (3, 2, 0, 1)
        found[f"{prefix}.weight"] = np.transpose(leaves["kernel"], order)
        found[f"{prefix}.bias"] = np.asarray(leaves["bias"])
    return found


@pytest.mark.parametrize("path", golden_files("cnn"), ids=name)
def test_outputs_activations_and_gradients_are_the_published_ones(path):
    arrays, stated = load(path)
    assert stated.get("upstream_class", "ConvNet_sem_seg") == "ConvNet_sem_seg", f"no test knows the network {stated}"
    config = config_of(stated["model"])
    given, stored = split(arrays, lambda key: key in ("input", "cotangent") or key.startswith("weights/"))
    weights = segmenter_from_torch(config, group(given, "weights/"))
    assert count_parameters(weights) == stated.get("n_params", count_parameters(weights))
    assert list(config.sizes) == list(stated.get("dims", config.sizes))
    for dtype, results in by_precision(stored):
        with jax.enable_x64(dtype == np.float64):
            compare(results, network_results(config, inputs(given, dtype), results), mark=MARKS[dtype])


def network_results(config, given, stored):
    params = segmenter_from_torch(config, group(given, "weights/"))
    image = jnp.moveaxis(given["input"], 1, -1)
    cotangent = jnp.moveaxis(given["cotangent"], 1, -1) if "cotangent" in given else None
    with_gradient = cotangent is not None and wanted(stored, "grad.*|loss")

    def run(params, image):
        output, extra = CnnSegmenter(config).apply({"params": params}, image, mutable=["activations"])
        return jnp.sum(output * cotangent) if with_gradient else 0.0, (output, extra["activations"])

    if with_gradient:
        run = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
    found, gradients = compiled(run)(params, image), ()
    if with_gradient:
        found, gradients = found
    loss, (output, kept) = found
    ours = {"output": np.moveaxis(output, -1, 1), "loss": loss}
    ours["acts/out_layer"] = ours["output"]
    for key, (value,) in kept.items():
        stem, _, number = key.removesuffix("_output").rpartition("_")
        ours[f"acts/{f'{stem}.{number}' if number.isdigit() else f'{stem}_{number}'}"] = np.moveaxis(value, -1, 1)
    for of_params, of_image in (gradients,) if gradients else ():
        ours["grad_input"] = np.moveaxis(of_image, -1, 1)
        for key, value in torch_arrays(of_params).items():
            ours |= {f"grads/{key}": value, f"gradstat/{key}": gradient_statistics(value)}
    return ours
