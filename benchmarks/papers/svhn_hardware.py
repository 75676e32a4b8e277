"""What a network of the compression study takes on an FPGA and how long an image takes, before any synthesis.

The part of `benchmarks.papers.svhn_compression` that asks the bridge's models: the network with fixed formats is
traced, laid out as hls4ml does with io_stream, and simulated at 5 ns a cycle with every product unrolled, as in the
paper.
"""

import dataclasses
from typing import Any

from benchmarks.papers.svhn_training import CompressionConfig
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnPrecision
from jaxgeo.training.layer_precision import to_formats

PART = "xcvu9p"  # of the paper
COLUMNS = {"lut": "LUT", "ff": "FF", "bram_tiles": "BRAM", "latency_cycles": "latency", "interval_cycles": "II"}


def _whole(format: FixedPoint) -> FixedPoint:
    return dataclasses.replace(format, width=max(format.width, format.integer))


def hardware_costs(config: CompressionConfig, params: Any, collection: Any) -> dict[str, float | int]:
    """Cells and cycles of the whole design, FIFOs as small as the simulation lets them be.

    A format with more integer bits than bits, as one bit may get, is counted with as many bits as integer bits: hls4ml
    is not given others.

    Args:
        config: of the run.
        params: of a network with variable bits.
        collection: its collection `precision`.
    """
    from fpga_bridge.estimates.parts import find_part
    from fpga_bridge.estimates.summary import estimate_network
    from fpga_bridge.tracing.trace import trace
    from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types

    precision, rounded = to_formats(config.variable, params, collection)
    layers = tuple(
        LinearPrecision(*(_whole(format) for format in (layer.weight, layer.bias, layer.result)))
        for layer in precision.layers
    )
    precision = SvhnPrecision(_whole(precision.input), layers)
    model = SvhnCnn(dataclasses.replace(config.network, norm="folded", precision=precision))
    shape = (config.size, config.size, config.network.channels)
    graph = trace(lambda params, x: model.apply({"params": params}, x), rounded, shape)
    found = estimate_network(graph, find_part(PART), types=plan_types(graph, FLOAT64_BITS))
    cells = found.resources
    return {
        "lut": round(cells.lut),
        "ff": round(cells.ff),
        "bram_tiles": cells.bram_tiles,
        "latency_cycles": int(found.run.latency),
        "interval_cycles": int(found.run.interval),
    }
