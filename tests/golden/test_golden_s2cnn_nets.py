"""Published S2CNNs with stored weights: outputs, layers' outputs, gradients, both backward passes.

The segmenter of "Equivariance versus Augmentation", and the classifier of the older program that it grew from.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    Stated,
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
from jaxgeo.models.s2cnn_classifier import S2CNNClassifier, S2CNNClassifierConfig, plan_s2cnn_classifier
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.s2cnn_weights import params_from_torch, params_to_torch

# The pass marks of the files: float64 rounding is 1e-14 here; upstream's float32 run is itself off by 4e-7.
MARKS = {np.float64: 1e-10, np.float32: 2e-6}
UPSTREAM = "_upstream_backward"


def segmenter_of(model, given):
    features, max_beta = tuple(model["fs"]), model["kernel_max_beta"]
    max_beta = max_beta if isinstance(max_beta, list) else [max_beta] * (len(features) + 1)
    config = S2CNNSegmenterConfig(
        channels=model["f_in"],
        input_bandlimit=model["b_in"],
        features=features,
        bandlimits=tuple(model["b_ls"]),
        kernel_max_beta=tuple(map(float, max_beta)),
        shortcuts=bool(model["use_skips"]),
        num_classes=model["f_out"],
        output_bandlimit=model["b_out"],
        mode="faithful",
    )
    return Network(config, S2CNNSegmenter, plan_s2cnn_segmenter, ["input_layer", *hidden(config)], "output_layer")


def hidden(config):
    return [f"hidden_layers.{i}" for i in range(len(config.features) - 1)]


def classifier_of(model, given):
    """The older program's network, whose sizes are not arguments: they show in the arrays, the bandlimits are fixed."""
    config = S2CNNClassifierConfig(
        channels=given["input"].shape[1],
        input_bandlimit=given["input"].shape[-1] // 2,
        features=(given["weights/conv1.kernel"].shape[1], given["weights/conv2.kernel"].shape[1]),
        bandlimits=(model.get("b_l1", 10), model.get("b_l2", 6)),
        num_classes=len(given["weights/out_layer.weight"]),
        mode="faithful",
    )
    return Network(config, S2CNNClassifier, plan_s2cnn_classifier, ["conv1", "conv2"], "out_layer")


class Network(NamedTuple):
    """A network and how its program calls its layers."""

    config: Any
    module: Any
    plan: Any  # by configuration and dtype
    trunk: list[str]
    last: str


NETWORKS = {"S2ConvNet_sem_seg": segmenter_of, "S2ConvNet_original": classifier_of}
INPUTS = ("input", "cotangent")


def read(path):
    """(network, inputs, results, statements) of a file."""
    arrays, stated = load(path)
    given, stored = split(arrays, lambda key: key in INPUTS or key.startswith("weights/"))
    build = NETWORKS.get(stated.get("upstream_class", "S2ConvNet_sem_seg"))
    assert build is not None, f"no test knows the network {stated['upstream_class']}"
    return build(stated.get("model", Stated()), given), given, stored, stated


@pytest.mark.parametrize("path", golden_files("s2cnn"), ids=name)
def test_outputs_layers_and_gradients_are_those_of_the_original(path):
    network, given, stored, _ = read(path)
    points = {key: stored.pop(key) for key in list(stored) if key.startswith("kernel_points/")}
    compare_entries(points, points_of(network), atol=1e-14)  # units in the last place
    for dtype, results in by_precision(stored):
        with jax.enable_x64(dtype == np.float64):
            compare(results, network_results(network, inputs(given, dtype), results, dtype), mark=MARKS[dtype])


def points_of(network):
    grid, (first, *rest) = network.config.kernel_grid, network.config.kernel_max_beta
    # Only the first convolution is on the sphere; the segmenter's last layer has a kernel too.
    points = [grid.s2_points(first), *map(grid.so3_points, rest)]
    layers = [*network.trunk, network.last][: len(points)]
    return {f"kernel_points/{key}": values for key, values in zip(layers, points, strict=True)}


def network_results(network, given, stored, dtype):
    """All results that some stored key needs, of one compiled program."""
    config = network.config
    plan = network.plan(config, dtype=dtype)
    images = jnp.moveaxis(given["input"], 1, -1)
    cotangent = jnp.moveaxis(given["cotangent"], 1, -1) if "cotangent" in given else None
    params = params_of(network, plan, images, given)
    with_gradient = cotangent is not None and wanted(stored, "grad.*|loss")
    with_upstream = with_gradient and wanted(stored, f".*{UPSTREAM}.*")

    def forward(config, params, images, plan):
        output, captured = network.module(config).apply(
            {"params": params}, plan, images, capture_intermediates=True, mutable=["intermediates"]
        )
        acts = {}
        if wanted(stored, "acts/.*"):
            acts = layers_outputs(network, getattr(plan, "trunk", plan), captured["intermediates"]["trunk"])
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
    plan_upstream = network.plan(config_upstream, dtype=dtype) if with_upstream else None
    (loss, (output, acts)), gradients, upstream = run(params, images, plan, plan_upstream)
    ours = {"output": np.moveaxis(output, -1, 1), "loss": loss}
    ours |= {f"acts/{key}": np.moveaxis(value, -1, 1) for key, value in acts.items()}
    ours[f"acts/{network.last}"] = ours["output"]
    for suffix, found in (("", gradients), (UPSTREAM, upstream)):
        if found is not None:
            ours[f"grad_input{suffix}"] = np.moveaxis(found[1], -1, 1)
            for key, value in params_to_torch(found[0]).items():
                ours |= {f"grads{suffix}/{key}": value, f"gradstat{suffix}/{key}": gradient_statistics(value)}
    return ours


def params_of(network, plan, images, given):
    shapes = jax.eval_shape(network.module(network.config).init, jax.random.key(0), plan, images)["params"]
    return params_from_torch(shapes, group(given, "weights/"))


def layers_outputs(network, plan, inner):
    """Signals after each module of the trunk, by the published names."""
    found, signal, config = {}, None, network.config
    for i, (key, nonlinearity) in enumerate(zip(network.trunk, plan.nonlinearities, strict=True)):
        ours = f"hidden_layers_{i - 1}" if i else "input_layer"
        total = so3_nonlinearity.samples(nonlinearity, inner[ours]["__call__"][0])
        found[key] = total
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
    network, given, _, stated = read(path)
    stored = group(given, "weights/")
    images = jnp.moveaxis(inputs(given, np.float32)["input"], 1, -1)
    exported = params_to_torch(params_of(network, network.plan(network.config), images, inputs(given, np.float32)))
    assert set(exported) == set(stored)
    size = sum(value.size for value in exported.values())
    assert size == stated.get("n_params", size)
    for key, value in stored.items():
        np.testing.assert_array_equal(exported[key], value.astype(np.float32))
