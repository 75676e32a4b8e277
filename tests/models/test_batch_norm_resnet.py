"""ResNet with batch norms: the paper's sizes, shortcuts, folding, and fixed point that is hls4ml's C++ to the bit."""

import dataclasses
import functools
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge import networks
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes
from fpga_bridge.estimates.parts import PARTS
from fpga_bridge.estimates.summary import estimate_network
from fpga_bridge.hls import project as hls
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.files import save_tree
from jaxgeo.models.batch_norm_resnet import (
    BatchNormResNet,
    BatchNormResNetConfig,
    init_batch_norm_resnet,
    stride_of,
    widened,
)
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.resnet_precision import choose_resnet_precision

SMALL = BatchNormResNetConfig(depth=8, filters=2, size=8, num_classes=4)


def images(config, count, seed):
    shape = (count, config.size, config.size, config.channels)
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape) / 256, jnp.float32)


def trained(config):
    """Variables as of a trained network: statistics of variance near one, scales and offsets of either sign."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return leaf
        values = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(1 + np.abs(values) if kind in ("scale", "var") else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, init_batch_norm_resnet(jax.random.key(0), config))


@dataclasses.dataclass(frozen=True)
class Networks:
    """A float network, its folded form, and that in fixed point with its graph and its outputs for some images."""

    config: BatchNormResNetConfig
    variables: Any
    folded: BatchNormResNetConfig
    params: Any
    network: BatchNormResNet
    graph: ir.Graph
    x: np.ndarray
    expected: np.ndarray


@functools.cache
def quantised(shortcut, padding):
    config = dataclasses.replace(SMALL, shortcut=shortcut, padding=padding)
    variables = trained(config)
    folded, params = fold_norms(config, variables)
    x = images(config, 8, seed=2)
    formats = choose_resnet_precision(folded, params, x, 6, 7)
    network = BatchNormResNet(dataclasses.replace(folded, precision=formats))
    graph = trace(network.apply, {"params": params}, x.shape[1:])
    expected = np.asarray(jax.jit(network.apply)({"params": params}, x))
    assert len(np.unique(expected)) > 20
    return Networks(config, variables, folded, params, network, graph, np.asarray(x), expected)


EITHER = pytest.mark.parametrize("kinds", [("projection", "symmetric"), ("zeros", "same")], ids=lambda kinds: kinds[0])


@pytest.fixture
def fixed():
    return quantised("projection", "symmetric")


@pytest.mark.parametrize(("depth", "shortcut"), [(20, "zeros"), (20, "projection"), (110, "zeros")])
def test_the_parameters_of_the_paper(depth, shortcut):
    config = BatchNormResNetConfig(depth=depth, shortcut=shortcut)
    n = (depth - 2) // 6
    widths = [3, *[16] * (2 * n + 1), *[32] * (2 * n), *[64] * (2 * n)]
    pairs = list(itertools.pairwise(widths))
    assert len(pairs) == depth - 1  # and the dense layer
    expected = sum(9 * a * b + 2 * b for a, b in pairs) + 64 * 10 + 10
    if depth == 20:
        assert expected == 269_722  # 0.27 million in the paper's table 6
    if depth == 110:
        assert round(expected / 1e6, 1) == 1.7  # likewise
    if shortcut == "projection":
        expected += 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(BatchNormResNet(config).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    assert jax.eval_shape(BatchNormResNet(config).apply, variables, image).shape == (2, 10)


def test_stages_begin_by_halving_and_doubling():
    config = BatchNormResNetConfig()
    assert [stride_of(block) for block in config.blocks] == [1, 1, 1, 2, 1, 1, 2, 1, 1]
    assert [config.features(block) for block in config.blocks] == [16] * 3 + [32] * 3 + [64] * 3
    assert [name for name in config.names if "projection" in name] == [
        "stage_1_block_0/projection", "stage_2_block_0/projection"
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "channels", "features"), [(4, 2, 4), (5, 3, 6), (6, 1, 4)])
def test_the_shortcut_with_zeros_is_every_other_pixel_between_zeros(size, channels, features):
    x = jax.random.normal(jax.random.key(0), (2, size, size, channels))
    before = (features - channels) // 2
    expected = np.pad(np.asarray(x)[:, ::2, ::2], ((0, 0),) * 3 + ((before, features - channels - before),))
    np.testing.assert_array_equal(widened(x, features), expected)
    with pytest.raises(InputError, match="cannot have 0 features"):
        widened(x, 0)


def test_symmetric_padding_at_stride_two_sees_the_pixel_before_where_same_sees_the_one_behind():
    x = jnp.zeros((1, 8, 8, 3)).at[0, 2, 2].set(1.0)
    seen = {}
    for padding in ("symmetric", "same"):
        config = dataclasses.replace(SMALL, padding=padding, norm="folded")
        params = jax.tree.map(jnp.ones_like, BatchNormResNet(config).init(jax.random.key(0), x)["params"])
        _, state = BatchNormResNet(config).apply(
            {"params": params},
            x,
            capture_intermediates=lambda module, _: module.name == "layer_0",
            mutable="intermediates",
        )
        seen[padding] = state["intermediates"]["stage_1_block_0"]["layer_0"]["__call__"][0]
    assert seen["same"].shape == seen["symmetric"].shape == (1, 4, 4, 4)
    assert (seen["same"] != seen["symmetric"]).any()


def test_a_folded_network_is_the_same_function_and_batches_have_any_axes(fixed):
    expected = jax.jit(BatchNormResNet(fixed.config).apply)(fixed.variables, fixed.x)
    found = jax.jit(BatchNormResNet(fixed.folded).apply)({"params": fixed.params}, fixed.x[None])
    # float32 sums of up to 72 numbers near one through eight layers, their weights rounded once more.
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_training_moves_statistics_and_leaves_inference_alone(fixed):
    variables, x = fixed.variables, fixed.x
    model = BatchNormResNet(fixed.config)
    logits, changed = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)
    assert logits.shape == (8, 4)
    old, new = (tree["batch_stats"]["stem"]["conv_norm"]["mean"] for tree in (variables, changed))
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    sums = nn.Conv(2, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, jnp.asarray(x))
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * sums.mean((0, 1, 2)), rtol=1e-4)  # float32 means of 512 numbers


@EITHER
def test_the_fixed_point_network_is_the_traced_circuit_to_the_bit(kinds):
    fixed = quantised(*kinds)
    graph, network = fixed.graph, fixed.network
    assert plan_types(graph)[graph.output].exact
    np.testing.assert_array_equal(jax.jit(lambda x: apply_graph(graph, x))(fixed.x), fixed.expected)
    nodes = [type(node) for node in graph]
    assert nodes.count(ir.Conv) == 9  # seven layers and two shortcuts of either kind
    assert nodes.count(ir.Add) == 3
    assert ir.Relu not in nodes  # unsigned formats are the rectifiers
    formats = network.config.precision
    for name, layer in zip(network.config.names, formats.convolutions, strict=True):
        assert (layer.weight.width, layer.result.width) == (6, 7)
        assert layer.result.signed == name.endswith(("/layer_1", "/projection"))
    assert formats.head.result.width == 12


def exact_design(graph, types):
    """The types that `plan_types` chose, as a user would write them down."""
    layers = {
        node.name: LayerTypes(
            result=None if isinstance(node, ir.Quantize | ir.ZeroPad) else types[node.name].result,
            weight=types[node.name].weight,
            bias=types[node.name].bias,
            accum=types[node.name].accumulator,
        )
        for node in graph
    }
    return DesignTypes(layers=layers, io_type="io_stream")


@EITHER
def test_the_emulated_hardware_is_the_network_to_the_bit(kinds):
    fixed = quantised(*kinds)
    plan = plan_emulation(fixed.graph, exact_design(fixed.graph, plan_types(fixed.graph)))
    np.testing.assert_array_equal(emulate(plan, fixed.x), fixed.expected)


def test_streaming_cpp_with_strides_and_skips_is_the_network_to_the_bit(fixed, tmp_path):
    # A shortcut with zeros is a strided convolution too, by ones and zeros.
    project = hls.convert(fixed.graph, tmp_path / "project", io_type="io_stream")
    outputs = hls.emulate(hls.compile_project(project, optimization="-O0"), fixed.x)
    np.testing.assert_array_equal(outputs, fixed.expected)


def test_the_design_streams_pixel_by_pixel_and_a_skip_waits_for_two_convolutions(fixed):
    graph = fixed.graph
    found = estimate_network(graph, PARTS["xcu250"], types=plan_types(graph))
    assert all(found.layers[node.name].lut > 0 for node in graph if isinstance(node, ir.Conv))
    # The padded image of the first stage has 10 x 10 pixels; hardware takes one in each cycle.
    assert 100 <= found.run.interval < 150
    # Until the first sum, two windows of three rows of ten pixels must fill.
    (skip,) = (
        fifo for fifo in found.plan.design.fifos
        if fifo.source == "stem_conv_quantize_clone" and fifo.target == "stage_0_block_0_add"
    )  # fmt: skip
    assert skip.depth > 2 * 10


def test_the_command_line_knows_the_network(fixed, tmp_path):
    described = {"model": "resnet", **dataclasses.asdict(fixed.network.config)}
    paths = tmp_path / "net.json", tmp_path / "net.safetensors"
    paths[0].write_text(json.dumps(described))
    save_tree(paths[1], jax.tree.map(np.asarray, fixed.params))
    loaded = networks.load_network(*paths, needs_precision=True)
    assert (loaded.config, loaded.input_shape) == (fixed.network.config, (8, 8, 3))
    assert [node.name for node in networks.load_graph(*paths)] == [node.name for node in fixed.graph]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": 18}, r"6 n \+ 2.*nearest is 20"),
        ({"filters": 0}, "filters must be a whole number of at least 1"),
        ({"epsilon": 0.0}, "positive epsilon"),
    ],
)
def test_impossible_configurations_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        BatchNormResNetConfig(**fields)


def test_a_precision_needs_a_folded_network_and_a_format_for_each_layer(fixed):
    config, folded, params, x = fixed.config, fixed.folded, fixed.params, jnp.asarray(fixed.x)
    formats = fixed.network.config.precision
    with pytest.raises(ConfigError, match="norm='folded'"):
        dataclasses.replace(config, precision=formats)
    with pytest.raises(ConfigError, match=r"and 3 sums is needed, got .* and 0"):
        dataclasses.replace(folded, precision=dataclasses.replace(formats, sums=()))
    with pytest.raises(ConfigError, match="fold them first"):
        choose_resnet_precision(config, params, x, 6, 6)
    with pytest.raises(ConfigError, match=r"differ in .*stem"):
        choose_resnet_precision(folded, params, x, {"head": 4}, 6)
    with pytest.raises(ConfigError, match="at least 2 bits"):
        choose_resnet_precision(folded, params, x, 1, 6)
    with pytest.raises(ConfigError, match="only batch norms"):
        fold_norms(folded, {"params": params})
    with pytest.raises(InputError, match=r"\(\.\.\., 8, 8, 3\)"):
        jax.eval_shape(BatchNormResNet(SMALL).init, jax.random.key(0), jnp.zeros((1, 8, 9, 3)))
