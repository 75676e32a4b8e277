"""The segmentation S2CNN with stored weights: outputs, layers' outputs, gradients, both of its backward passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    by_precision,
    compare,
    compare_entries,
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

from jaxgeo.layers import so3_nonlinearity
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.s2cnn_weights import params_from_torch, params_to_torch

# The pass marks of the files: float64 rounding is 1e-14 here; upstream's float32 run is itself off by 4e-7.
MARKS = {np.float64: 1e-10, np.float32: 2e-6}
UPSTREAM = "_upstream_backward"


def config_of(model):
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
    )


def read(path):
    """(configuration, inputs, results, statements) of a file."""
    arrays, stated = load(path)
    known = stated.get("upstream_class", "S2ConvNet_sem_seg") == "S2ConvNet_sem_seg" and "model" in stated
    assert known, f"no test knows the network {stated}"
    return config_of(stated["model"]), *split(arrays, lambda key: key in INPUTS or key.startswith("weights/")), stated


INPUTS = ("input", "cotangent")


@pytest.mark.parametrize("path", golden_files("s2cnn"), ids=name)
def test_outputs_layers_and_gradients_are_those_of_the_original(path):
    config, given, stored, _ = read(path)
    points = {key: stored.pop(key) for key in list(stored) if key.startswith("kernel_points/")}
    compare_entries(points, points_of(config), atol=1e-14)  # units in the last place
    for dtype, results in by_precision(stored):
        with jax.enable_x64(dtype == np.float64):
            compare(results, network_results(config, inputs(given, dtype), results, dtype), mark=MARKS[dtype])


def points_of(config):
    grid, (first, *hidden, last) = config.kernel_grid, config.kernel_max_beta
    found = {"kernel_points/input_layer": grid.s2_points(first), "kernel_points/output_layer": grid.so3_points(last)}
    return found | {f"kernel_points/hidden_layers.{i}": grid.so3_points(beta) for i, beta in enumerate(hidden)}


def network_results(config, given, stored, dtype):
    """All results that some stored key needs, of one compiled program."""
    plan = plan_s2cnn_segmenter(config, dtype=dtype)
    images, cotangent = (jnp.moveaxis(given[key], 1, -1) if key in given else None for key in INPUTS)
    params = params_of(config, plan, images, given)
    with_gradient = cotangent is not None and wanted(stored, "grad.*|loss")
    with_upstream = with_gradient and wanted(stored, f".*{UPSTREAM}.*")

    def forward(config, params, images, plan):
        output, captured = S2CNNSegmenter(config).apply(
            {"params": params}, plan, images, capture_intermediates=True, mutable=["intermediates"]
        )
        acts = (
            layers_outputs(config, plan.trunk, captured["intermediates"]["trunk"]) if wanted(stored, "acts/.*") else {}
        )
        return (output * cotangent).sum() if with_gradient else 0.0, (output, acts)

    @compiled
    def run(params, images, plan, plan_upstream):
        if not with_gradient:
            return forward(config, params, images, plan), None, None
        differentiate = jax.value_and_grad(forward, argnums=(1, 2), has_aux=True)
        found, gradients = differentiate(config, params, images, plan)
        upstream = differentiate(config_upstream, params, images, plan_upstream)[1] if with_upstream else None
        return found, gradients, upstream

    config_upstream = dataclasses.replace(config, upstream_backward=True)
    plan_upstream = plan_s2cnn_segmenter(config_upstream, dtype=dtype) if with_upstream else None
    (loss, (output, acts)), gradients, upstream = run(params, images, plan, plan_upstream)
    ours = {"output": np.moveaxis(output, -1, 1), "loss": loss}
    ours |= {f"acts/{key}": np.moveaxis(value, -1, 1) for key, value in acts.items()}
    ours["acts/output_layer"] = ours["output"]
    for suffix, found in (("", gradients), (UPSTREAM, upstream)):
        if found is not None:
            ours[f"grad_input{suffix}"] = np.moveaxis(found[1], -1, 1)
            for key, value in params_to_torch(found[0]).items():
                ours |= {f"grads{suffix}/{key}": value, f"gradstat{suffix}/{key}": gradient_statistics(value)}
    return ours


def params_of(config, plan, images, given):
    shapes = jax.eval_shape(S2CNNSegmenter(config).init, jax.random.key(0), plan, images)["params"]
    return params_from_torch(shapes, group(given, "weights/"))


def layers_outputs(config, plan, inner):
    """Signals after each module of the trunk, by the published names."""
    found, signal = {}, None
    for i, nonlinearity in enumerate(plan.nonlinearities):
        key = f"hidden_layers_{i - 1}" if i else "input_layer"
        total = so3_nonlinearity.samples(nonlinearity, inner[key]["__call__"][0])
        found[key.replace("layers_", "layers.")] = total
        if i and config.shortcuts:
            skipped = signal  # where nothing changes the shortcut is the signal itself
            if f"skip_layers_{i - 1}" in inner:
                skipped = so3_nonlinearity.samples(nonlinearity, inner[f"skip_layers_{i - 1}"]["__call__"][0])
                found[f"skip_layers.{i - 1}.conv"] = skipped
            found[f"skip_layers.{i - 1}"] = skipped
            total += skipped
        signal = jax.nn.relu(total)
    return found


@pytest.mark.parametrize("path", golden_files("s2cnn"), ids=name)
def test_weights_survive_import_and_export(path):
    config, given, _, stated = read(path)
    stored = group(given, "weights/")
    images = jnp.moveaxis(inputs(given, np.float32)["input"], 1, -1)
    exported = params_to_torch(params_of(config, plan_s2cnn_segmenter(config), images, inputs(given, np.float32)))
    assert set(exported) == set(stored)
    size = sum(value.size for value in exported.values())
    assert size == stated.get("n_params", size)
    for key, value in stored.items():
        np.testing.assert_array_equal(exported[key], value.astype(np.float32))
