"""The published heterogeneous bits of the ENet: those of its file, and exact in the emulator."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.data.root import find_file
from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.models.enet import ENet, ENetConfig, init_enet
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.enet_precision import PUBLISHED_FILE, choose_enet_precision, published_bits

WIDE = DesignTypes(default=FixedPoint(48, 16))  # where the network has no quantiser: exact sums
WHOLE = ENetConfig(encoder=(3, 6), decoder=(3, 2))
# Bits by layer of the published file, as its own JSON states them.
REFERENCE = json.loads((Path(__file__).parents[1] / "references/enet_published_bits.json").read_text())


def test_every_convolution_has_four_or_eight_bits_and_most_weights_of_a_bottleneck_end_are_coarse():
    bits = published_bits(WHOLE)
    assert set(bits.weights) == set(WHOLE.names)
    assert set(bits.weights.values()) == set(bits.results.values()) == {4, 8}
    small = published_bits(ENetConfig())
    assert small.weights == {name: bits.weights[name] for name in ENetConfig().names}
    assert small.results == {name: bits.results[name] for name in ENetConfig().names}


@pytest.mark.parametrize("fields", [{"encoder": (4, 2)}, {"decoder": (1, 3)}, {"upsampling": "transposed"}])
def test_networks_that_the_published_one_has_no_counterpart_of_are_refused(fields):
    with pytest.raises(ConfigError, match=r"encoders up to \(3, 6\)"):
        published_bits(ENetConfig(**fields))


def test_a_network_with_the_published_bits_is_exact_in_the_emulator():
    config = ENetConfig(rows=8, columns=16, filters=4, encoder=(1,), decoder=(1,))
    variables = init_enet(jax.random.key(0), config)
    folded, params = fold_norms(config, variables)
    x = np.random.default_rng(1).integers(0, 256, (4, 8, 16, 3)).astype(np.float32) / 256
    formats = choose_enet_precision(folded, params, jnp.asarray(x), published_bits(folded))
    network = ENet(dataclasses.replace(folded, precision=formats))
    graph = trace(lambda p, x: network.apply({"params": p}, x), params, x.shape[1:])
    widths = {layer.weight.width for layer in formats.convolutions}
    assert widths == {4, 8}
    expected = np.asarray(jax.jit(network.apply)({"params": params}, x))
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(emulate(plan_emulation(graph, WIDE), x), expected)


def test_the_table_is_that_of_the_published_file():
    widths, seen = dict(REFERENCE), {"conv_initial", "relu_initial", "final_block"}
    bits, stages = published_bits(WHOLE), {"encoder_0": (1,), "encoder_1": (2, 3), "decoder_0": (4,), "decoder_1": (5,)}
    counterparts = {
        "project": ("proj_conv", "relu_1"),
        "convolve": ("main_conv", "relu_2"),
        "expand": ("out_conv", "relu_3"),
    }
    for name in WHOLE.bottlenecks:
        stage, place = name.rsplit("_", 1)
        number = stages[stage][int(place) // 3]
        for part, kinds in counterparts.items():
            layers = [f"{kind}_bottleneck_{number}_{int(place) % 3}" for kind in kinds]
            assert [bits.weights[f"{name}/{part}"], bits.results[f"{name}/{part}"]] == [widths[k] for k in layers]
            seen |= set(layers)
    assert [bits.weights["initial"], bits.results["initial"]] == [widths["conv_initial"], widths["relu_initial"]]
    assert bits.weights["head"] == widths["final_block"]
    assert {name.split("_bottleneck")[0] for name in set(widths) - seen} == {"skip_conv"}


# Of the environment at collection; a run without the file reports a skip.
REAL = [path for path in [find_file(PUBLISHED_FILE)] if path is not None]


@pytest.mark.parametrize("published", REAL)
def test_the_reader_finds_the_same_bits_in_the_published_file(published):
    graph = load_keras_graph(published)
    widths = {node.name: node.kernel.format.width for node in graph if isinstance(node, ir.Conv)}
    assert widths | {node.name: node.format.width for node in graph if isinstance(node, ir.Quantize)} == REFERENCE
