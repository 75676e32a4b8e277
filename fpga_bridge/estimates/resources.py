r"""DSP slices, LUTs, flip-flops and block RAM of a network, layer by layer, before any synthesis.

Rules, from the way Vivado HLS and hls4ml build multipliers and queues:

- A product by a constant exists where the weight is not zero. A power of two is wiring. Where either operand is
  narrower than `DSP_BITS` bits, or the constant has at most `SHIFT_ADD_DIGITS` digits in signed-digit form, it is a sum
  of shifts in LUTs; else it takes DSP slices. With a reuse factor above 1 the weights come from memory, and width alone
  decides.
- Each product is one addition of the accumulator's width, a LUT a bit.
- A product of two activations has both operands as they come: width alone decides, as from memory.
- A FIFO is a queue for each channel: in shift registers up to `SRL_BITS` bits, else in block RAM of 18 Kbit.
- A table of the network is copied for each channel of a pixel, and hls4ml partitions each copy completely: it is logic,
  a LUT of six inputs for each 64 entries and bit of the result. Smooth functions leave less after synthesis.
- Each of the two tables of a softmax takes a block-RAM tile, each class a DSP slice.

Fitted, on the two SVHN designs of hls4ml's tutorial (part 6), are three constants: `SHIFT_ADD_DIGITS` (the DSPs of the
16-bit design; an integer), `NARROW_DSP_SHARE` (those of the 6-bit design: narrow products that end up in DSPs all the
same) and `FF_PER_SUM_BIT` (both). `SRL_BITS` and the tile for each table are read off their block RAM. So these two
designs are no test of the model. Their weights are not published; random ones of the same sizes stand for them.

References:
    Aarrestad et al., "Fast convolutional neural networks on FPGAs with hls4ml", arXiv:2101.05108.
    AMD UG579, UltraScale Architecture DSP Slice: 27 x 18 bit multipliers; UG573: block RAM shapes.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int

from fpga_bridge.circuits.rtl import RtlDesign
from fpga_bridge.estimates.latency import DesignPlan, HardwareConfig, plan_design, tree_cycles
from fpga_bridge.estimates.reuse import Reuse
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import NodeTypes
from jaxgeo.errors import check_fields

DSP_BITS = 10
SHIFT_ADD_DIGITS = 2
NARROW_DSP_SHARE = 0.032
FF_PER_SUM_BIT = 0.17
SRL_BITS = 1024
UNROLLED_LUT_FACTOR = 1.15
UNROLLED_FF_FACTOR = 0.93
_RAM18 = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))  # words, bits of a word


@dataclasses.dataclass(frozen=True)
class Resources:
    """Cells of one layer or of a whole; `bram18` counts block RAMs of 18 Kbit, half a tile each."""

    dsp: float | int = 0
    lut: float | int = 0
    ff: float | int = 0
    bram18: float | int = 0

    def __add__(self, other: "Resources") -> "Resources":
        """Both together."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Resources(*(one + two for one, two in pairs))

    @property
    def bram_tiles(self) -> float:
        """Block RAM in tiles of 36 Kbit, as synthesis reports count."""
        return self.bram18 / 2


def total(parts: Iterable[Resources]) -> Resources:
    """The sum of all."""
    return sum(parts, Resources())


@dataclasses.dataclass(frozen=True)
class Widths:
    """Bits of the numbers where the network does not state formats: activations, weights, sums, batch norm's scales."""

    activation: int = 16
    weight: int = 16
    weight_fraction: int = 10
    accumulator: int = 16
    scale: int = 16
    scale_fraction: int = 10

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: for a width below 1.
        """
        check_fields(self, activation=1, weight=1, accumulator=1, scale=1)


def signed_digits(words: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Digits other than zero in canonical signed-digit form: the terms of the shortest sum of shifts.

    The count of ones in w XOR 3 w: a carry of 3 w = w + 2 w stands where neighbouring digits merge.
    """
    magnitude = np.abs(words.astype(np.int64))
    return np.bitwise_count(magnitude ^ (3 * magnitude)).astype(np.int64)


def dsp_tiles(bits_a: int, bits_b: int, multiplier: tuple[int, int] = (27, 18)) -> int:
    """DSP slices of one product of signed operands, in the better of both orientations."""
    large, small = multiplier
    if min(bits_a, bits_b) <= small and max(bits_a, bits_b) <= large:
        return 1
    # Parts behind the first are unsigned and lose the sign's bit.
    ways = [
        math.ceil((a - 1) / (large - 1)) * math.ceil((b - 1) / (small - 1))
        for a, b in ((bits_a, bits_b), (bits_b, bits_a))
    ]
    return max(1, min(ways))


def fifo_resources(depth: int, numbers: int, bits: int) -> Resources:
    """A FIFO of words of so many numbers, built as one queue for each number."""
    if depth * bits <= SRL_BITS:
        return Resources(lut=numbers * bits * math.ceil(depth / 32) if depth > 1 else 0, ff=numbers * bits)
    if depth > _RAM18[-1][0]:
        return Resources(bram18=numbers * bits * math.ceil(depth / _RAM18[-1][0]))
    width = next(width for words, width in _RAM18 if depth <= words)
    return Resources(bram18=numbers * math.ceil(bits / width))


def constant_products(
    words: Int[np.ndarray, "*shape"], activation_bits: int, weight_bits: int, multiplier: tuple[int, int] = (27, 18)
) -> Resources:
    """Multipliers by known constants, each built on its own (reuse factor 1).

    Args:
        words: the weights as integers.
        activation_bits: width of what is multiplied.
        weight_bits: width of the weights' format.
        multiplier: operands of a DSP slice.
    """
    digits = signed_digits(words)
    narrow = min(activation_bits, weight_bits) < DSP_BITS
    in_dsp = digits > (1 if narrow else SHIFT_ADD_DIGITS)
    share = NARROW_DSP_SHARE * np.count_nonzero(digits) / max(np.count_nonzero(in_dsp), 1) if narrow else 1.0
    share = min(share, 1.0)
    slices = float(np.count_nonzero(in_dsp)) * share * dsp_tiles(activation_bits, weight_bits, multiplier)
    # A sum of k shifts has k - 1 additions, each somewhat wider than the activation.
    additions = np.maximum(digits - 1, 0)
    in_lut = float(additions[~in_dsp].sum()) + (1 - share) * float(additions[in_dsp].sum())
    return Resources(dsp=slices, lut=in_lut * activation_bits)


def shared_products(count: int, reuse: int, activation_bits: int, weight_bits: int) -> Resources:
    """Multipliers that take their weights from memory, one in `reuse` cycles each."""
    multipliers = math.ceil(count / reuse)
    memory = rom_resources(reuse, multipliers * weight_bits)
    if min(activation_bits, weight_bits) < DSP_BITS:
        return memory + Resources(lut=multipliers * activation_bits * weight_bits)
    return memory + Resources(dsp=multipliers * dsp_tiles(activation_bits, weight_bits))


def pair_products(count: int, bits_a: int, bits_b: int, multiplier: tuple[int, int] = (27, 18)) -> Resources:
    """Multipliers of two activations: DSP slices, or a LUT for each pair of bits where one of both is narrow."""
    if min(bits_a, bits_b) < DSP_BITS:
        return Resources(lut=count * bits_a * bits_b, ff=count * (bits_a + bits_b))
    return Resources(dsp=count * dsp_tiles(bits_a, bits_b, multiplier), ff=count * (bits_a + bits_b))


def table_resources(node: ir.Table) -> Resources:
    """A table as hls4ml builds it for a stream of pixels: in logic, once for each channel."""
    entries, channels = len(node.by_pattern), node.shape[-1]
    bits = node.entries.format.width if node.entries.format is not None else HardwareConfig().default_width
    return Resources(lut=channels * bits * math.ceil(entries / 64), ff=channels * bits)


def rom_resources(words: int, bits: int) -> Resources:
    """A table of so many words of so many bits in block RAM, where it is worth one."""
    if words * bits <= SRL_BITS:
        return Resources(lut=math.ceil(words / 64) * bits)
    width = next((width for depth, width in _RAM18 if words <= depth), 1)
    return Resources(bram18=math.ceil(bits / width) * math.ceil(words / _RAM18[-1][0]))


def estimate(
    graph: ir.Graph,
    config: HardwareConfig | None = None,
    types: Mapping[str, NodeTypes] | None = None,
    *,
    widths: Widths | None = None,
    plan: DesignPlan | None = None,
    multiplier: tuple[int, int] = (27, 18),
) -> dict[str, Resources]:
    """Resources of each layer and, under the name `fifos`, of the FIFOs between them.

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`; its weights decide which products exist.
        config: None for strategy Latency at 5 ns.
        types: from `precision.plan_types`; where given, they override `widths`.
        widths: None for 16 bits.
        plan: from `plan_design`, where the caller has it or has set FIFO depths in it.
        multiplier: operands of a DSP slice, `Part.multiplier`.

    Raises:
        ConfigError: for a config that `plan_design` refuses.
        ExportError: likewise for a node.
    """
    config = HardwareConfig() if config is None else config
    widths = Widths() if widths is None else widths
    types = types or {}
    plan = plan_design(graph, config, types) if plan is None else plan
    found: dict[str, Resources] = {}
    for node in graph:
        before = types.get(node.inputs[0]) if node.inputs else None
        activation = widths.activation if before is None else before.result.width
        if isinstance(node, ir.Dense | ir.Conv):
            found[node.name] = _product(node, types.get(node.name), activation, widths, plan.reuse, config, multiplier)
        elif isinstance(node, ir.Affine):
            source = graph[node.inputs[0]]
            # hls4ml folds a batch norm into float weights, not into weights that have a format already.
            folded = isinstance(source, ir.Dense | ir.Conv) and source.kernel.format is None
            if not folded:
                words, bits = _words(node.scale, types.get(node.name), widths.scale, widths.scale_fraction)
                products = constant_products(words, max(activation, widths.accumulator), bits, multiplier)
                found[node.name] = products + Resources(lut=words.size * activation, ff=words.size * activation)
        elif isinstance(node, ir.Softmax):
            classes = node.shape[-1]
            found[node.name] = Resources(classes, classes * 3 * activation, classes * 2 * activation, 4.0)
        elif isinstance(node, ir.Table):
            found[node.name] = table_resources(node)
        elif isinstance(node, ir.Pool):
            comparisons = (math.prod(node.window) - 1) * node.shape[-1]
            found[node.name] = Resources(lut=comparisons * activation * 1.5, ff=comparisons * activation)
        elif isinstance(node, ir.PRelu):
            # hls4ml keeps a slope for each number of a sample, so they come from memory.
            layer, pixels = types.get(node.name), math.prod(node.shape[:-1])
            bits = widths.weight if layer is None or layer.weight is None else layer.weight.width
            memory = rom_resources(pixels, node.shape[-1] * bits)
            found[node.name] = memory + pair_products(node.shape[-1], activation, bits, multiplier)
        elif isinstance(node, ir.Multiply):
            bits = [types[name].result.width if name in types else widths.activation for name in node.inputs]
            found[node.name] = pair_products(node.shape[-1], bits[0], bits[1], multiplier)
        elif isinstance(node, ir.Pairwise | ir.Relu | ir.Rectifier | ir.GlobalPool):
            channels = node.shape[-1]
            found[node.name] = Resources(lut=channels * activation, ff=channels * activation)
    found["fifos"] = _fifos(graph, plan, types, widths)
    return found


def _fifos(graph: ir.Graph, plan: DesignPlan, types: Mapping[str, NodeTypes], widths: Widths) -> Resources:
    default = HardwareConfig().default_width
    found = Resources()
    for fifo in plan.design.fifos:
        node = graph[plan.layers[fifo.source]]
        if node.name in types:
            bits = types[node.name].result.width
        else:
            # Sums leave a layer at the accumulator's width; an activation function rounds them.
            rounds = isinstance(node, ir.Relu | ir.Rectifier | ir.Pool | ir.Softmax | ir.Table)
            bits = widths.activation if rounds else widths.accumulator
        numbers = max(1, fifo.width // (types[node.name].result.width if node.name in types else default))
        found += fifo_resources(fifo.depth or 1, numbers, bits)
    return found


def _words(weight: ir.Weight, layer: NodeTypes | None, bits: int, fraction: int) -> tuple[np.ndarray, int]:
    """Weights as integers, and their format's bits; `bits` and `fraction` where they have no format."""
    format = weight.format or (layer.weight if layer is not None else None)
    if format is not None:
        bits, fraction = format.width, format.width - format.integer
    return np.round(np.asarray(weight.value, np.float64) * 2.0**fraction).astype(np.int64), bits


def _product(
    node: ir.Dense | ir.Conv,
    layer: NodeTypes | None,
    activation: int,
    widths: Widths,
    reuses: Mapping[str, Reuse],
    config: HardwareConfig,
    multiplier: tuple[int, int],
) -> Resources:
    words, bits = _words(node.kernel, layer, widths.weight, widths.weight_fraction)
    accumulator = widths.accumulator
    if layer is not None:
        accumulator = (layer.accumulator or layer.result).width
    reuse, fan_in = reuses[node.name].used, words.size // words.shape[-1]
    inputs = Resources(ff=fan_in * activation)  # the window or the vector at hand
    if isinstance(node, ir.Conv):
        inputs += _line_buffer(node, activation)
    if reuse == 1:
        sums = np.count_nonzero(words) * accumulator
        products = constant_products(words, activation, bits, multiplier)
    else:
        sums = math.ceil(words.size / reuse) * accumulator
        products = shared_products(words.size, reuse, activation, bits)
    stages = tree_cycles(fan_in, config.clock_period_ns)
    outputs = Resources(ff=words.shape[-1] * accumulator * stages)
    return inputs + products + outputs + Resources(lut=float(sums), ff=FF_PER_SUM_BIT * sums)


def _line_buffer(node: ir.Conv, activation: int) -> Resources:
    """Rows that a window waits for, as shift registers of 32 bits a LUT."""
    window = node.kernel.value.shape[:-2]
    if len(window) == 1:
        return Resources()
    row = node.shape[1] * node.strides[1] + window[1] - 1
    bits = (window[0] - 1) * node.kernel.value.shape[-2] * activation
    return Resources(lut=bits * math.ceil(row / 32))


def unrolled_cost(design: RtlDesign) -> Resources:
    """LUTs and flip-flops of a network that `rtl.emit_verilog` has unrolled, as Yosys counts them.

    da4ml's own estimates times one factor each, fitted on six designs of `python -m benchmarks.resources`, which prints
    the errors on all of its designs, and on each by factors fitted without it.
    """
    return Resources(lut=UNROLLED_LUT_FACTOR * design.lut_estimate, ff=UNROLLED_FF_FACTOR * design.register_bits)
