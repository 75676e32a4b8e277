"""The fixed-point forward pass of hls4ml's hardware as a JAX function, equal to its compiled C++ in every word.

`plan_emulation` turns a traced graph and the types of a design into integers once; `emulate` runs batches through them,
`plan_members` whole ensembles: many weights, many precisions, or both, as one program under `vmap`.

    graph = trace(apply, params, shape)
    plan = plan_emulation(graph, DesignTypes(default=FixedPoint(16, 6)))
    logits = emulate(plan, images)

`layer_types.hls_config` gives hls4ml the same types, `hls.convert(graph, folder, config=...)` the same hardware.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.emulation.emulated_layers import Formats, Layer, inward, outward, run
from fpga_bridge.emulation.emulation_plan import PlannedLayer, plan_layer, with_padding
from fpga_bridge.emulation.layer_types import DesignTypes, is_identity, resolve_types
from fpga_bridge.emulation.products import plan_product, signed_bits
from fpga_bridge.emulation.words import Format, Wide, carrier
from fpga_bridge.typed_graph.graph import Conv, Dense, Graph
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, to_integers

BATCH = 32  # samples that go through together: the sums of a layer stay in the cache of the processor


@dataclasses.dataclass(frozen=True, eq=False)
class EmulationPlan:
    """A network in integers, from `plan_emulation`."""

    graph: Graph
    design: DesignTypes
    layers: tuple[PlannedLayer, ...]

    @property
    def input_format(self) -> FixedPoint:
        """Type of the first register."""
        return self.layers[0].types.result

    @property
    def output_format(self) -> FixedPoint:
        """Type of the output."""
        return next(layer.types.result for layer in self.layers if layer.node.name == self.graph.output)

    @functools.cached_property
    def program(self) -> Callable:
        """Compiled for each shape: input words (batch, *shape) and arrays to output words (batch, *shape)."""
        return _program((self,))

    @functools.cached_property
    def arrays(self) -> list[dict[str, np.ndarray]]:
        """Constants of all layers."""
        return [layer.arrays for layer in self.layers]


def plan_emulation(graph: Graph, design: DesignTypes | None = None) -> EmulationPlan:
    """Types, words of all constants, tables, and bounds of every number.

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`; weights need not be quantised, the types of the design round them
            as the C++ does when it reads hls4ml's files.
        design: types of the design; None for hls4ml's own, `ap_fixed<16,6>` throughout.

    Raises:
        ConfigError: for types that a layer cannot have, or numbers of more than 127 bits.
        ExportError: for weights that are not finite, and for an input of more than 53 bits.
    """
    design = DesignTypes() if design is None else design
    resolved = resolve_types(graph, design)
    layers: dict[str, PlannedLayer] = {}
    for node in graph:
        inputs = [layers[name] for name in node.inputs]
        layers[node.name] = plan_layer(graph, node, resolved[node.name], inputs)
        _merged([layers[node.name]], design.io_type == "io_stream")  # refuses numbers that are too wide
    return EmulationPlan(graph, design, tuple(layers.values()))


def _formats(layer: PlannedLayer) -> Formats:
    softmax = layer.types.softmax
    named = (layer.types.result, layer.types.weight, layer.types.bias, layer.types.accum, layer.types.slope)
    tables = (softmax.accum, softmax.inv_input, softmax.inv_table)
    return Formats(tuple(map(Format.of, layer.sources)), *map(Format.of, (*named, *tables)))


def _merged(members: Sequence[PlannedLayer], stream: bool) -> Layer:
    """Static facts of a layer that are right for every member.

    Raises:
        ConfigError: numbers of more bits than the emulation holds; names the layer.
    """
    node = members[0].node
    try:
        return _static(members, stream)
    except ConfigError as error:
        raise ConfigError(f"layer {node.name} ({node.source}): {error}") from error


def _static(members: Sequence[PlannedLayer], stream: bool) -> Layer:
    first = members[0]
    node, recipe = first.node, None
    if isinstance(node, Dense | Conv):
        reuse = first.types.reuse_factor if first.types.strategy == "Resource" else 1
        recipe = plan_product(
            [member.arrays["kernel"].reshape(-1, node.kernel.value.shape[-1]) for member in members],
            [member.arrays["bias"] for member in members],
            intervals=[with_padding(node, member.intervals[0]) for member in members],
            fractions=[
                (member.sources[0].fraction, member.types.weight.fraction, member.types.bias.fraction)
                for member in members
            ],
            accums=[member.types.accum for member in members],
            reuse_factor=reuse,
        )
    traced = len({_formats(member) for member in members}) > 1
    middle = max(member.middle_bits for member in members)
    # Traced formats shift by either sign; the carriers must hold the largest word of any member on the way.
    kinds = [carrier(max(signed_bits(*member.interval) for member in members)), carrier(middle)]
    if recipe is not None and recipe.kind is Wide:
        kinds[1] = Wide
    return Layer(
        node,
        kinds[0],
        kinds[1],
        fits=not traced and all(member.fits for member in members),
        stream=stream,
        recipe=recipe,
        kernel_shape=node.kernel.value.shape if isinstance(node, Dense | Conv) else (),
        plain_sum=not traced and all(member.plain_sum for member in members),
        identity=is_identity(node) and all(is_identity(member.node) for member in members),
        softmax=first.types.softmax.implementation,
    )


def _program(plans: Sequence[EmulationPlan], shared_inputs: bool = True) -> Callable:
    """The jitted forward pass of one plan, or of several at once with a leading member axis."""
    _check_members(plans)
    graph, design = plans[0].graph, plans[0].design
    merged = [
        _merged(members, design.io_type == "io_stream") for members in zip(*(p.layers for p in plans), strict=True)
    ]
    formats = [[_formats(layer) for layer in plan.layers] for plan in plans]
    traced = any(other != formats[0] for other in formats[1:])

    def forward(arrays: list[dict[str, Any]], given: list[Formats], x: Any) -> Any:
        values: dict[str, Any] = {}
        for layer, types, constants in zip(merged, given, arrays, strict=True):
            inputs = [values[name] for name in layer.node.inputs] or [inward(x).astype(layer.kind)]
            values[layer.node.name] = run(layer, types, constants, inputs)
        return outward(values[graph.output])

    if len(plans) == 1:
        return jax.jit(lambda arrays, x: forward(arrays, formats[0], x))
    inputs_axis = None if shared_inputs else 0
    if not traced:
        static = jax.vmap(lambda arrays, x: forward(arrays, formats[0], x), in_axes=(0, inputs_axis))
        return jax.jit(static)
    stacked = jax.tree.map(lambda *leaves: np.array(leaves, np.int64), *formats)
    dynamic = jax.vmap(forward, in_axes=(0, 0, inputs_axis))
    return jax.jit(lambda arrays, x: dynamic(arrays, stacked, x))


def _check_members(plans: Sequence[EmulationPlan]) -> None:
    def structure(plan: EmulationPlan) -> list[Any]:
        softmax = [layer.types.softmax.implementation for layer in plan.layers]
        shapes = [{key: value.shape for key, value in layer.arrays.items()} for layer in plan.layers]
        order = [(layer.types.strategy, layer.types.reuse_factor) for layer in plan.layers]
        kinds = [(type(layer.node), layer.node.name, layer.node.inputs, layer.node.shape) for layer in plan.layers]
        identity = [is_identity(layer.node) for layer in plan.layers]
        return [kinds, shapes, softmax, order, identity, plan.design.io_type]

    if not plans:
        raise InputError("an ensemble needs at least one plan, got none")
    for i, plan in enumerate(plans):
        if structure(plan) != structure(plans[0]):
            raise InputError(
                f"member {i} has other layers, table sizes or strategies than member 0; members of one program may "
                "differ in weights and types only"
            )


def input_words(plan: EmulationPlan, inputs: np.ndarray) -> np.ndarray:
    """Words of the first register, (sample, *shape), int32 or int64.

    Raises:
        InputError: for samples of another shape, none, or values that are not finite.
    """
    inputs = np.asarray(inputs)
    shape = plan.graph.input.shape
    if inputs.shape[1:] != shape or not len(inputs):
        raise InputError(f"the network takes samples of shape {shape}, at least one, got an array {inputs.shape}")
    if not np.isfinite(inputs).all():
        raise InputError("inputs must be finite, got NaN or infinities, which no register holds")
    format = plan.input_format
    exact = inputs.dtype == np.float32 and format.width - format.signed <= 24
    with jax.enable_x64(True):
        return np.asarray(_register(jnp.asarray(inputs, jnp.float32 if exact else jnp.float64), format))


_register = jax.jit(to_integers, static_argnames="format")


def emulate_words(
    plan: EmulationPlan, inputs: np.ndarray, *, batch_size: int = BATCH, threads: int | None = None
) -> np.ndarray:
    """Output words of every sample, int64 `(sample, *output_shape)`: multiples of the step of `plan.output_format`.

    Args:
        plan: from `plan_emulation`.
        inputs: floats `(sample, *input_shape)`, which the first register rounds.
        batch_size: samples that go through the program together.
        threads: batches computed at once; None for one per processor that this process may use.

    Raises:
        ConfigError: for batches of no sample.
        InputError: for samples of another shape, none, or values that are not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is how many samples go through the program together, got {batch_size}; use 1")
    words = input_words(plan, inputs)
    starts = range(0, len(words), batch_size)

    def one(start: int) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(plan.program(plan.arrays, words[start : start + batch_size]))

    workers = min(threads or len(os.sched_getaffinity(0)), len(starts))
    if workers == 1:
        parts = [one(start) for start in starts]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(one, starts))
    return np.concatenate(parts).astype(np.int64)


def to_values(words: np.ndarray, format: FixedPoint) -> np.ndarray:
    """Values of words, float64: exact up to 53 bits of magnitude."""
    return np.ldexp(words.astype(np.float64), -format.fraction)


def emulate(
    plan: EmulationPlan, inputs: np.ndarray, *, batch_size: int = BATCH, threads: int | None = None
) -> np.ndarray:
    """Outputs of the hardware, float64 `(sample, *output_shape)`; arguments and errors as `emulate_words`."""
    return to_values(emulate_words(plan, inputs, batch_size=batch_size, threads=threads), plan.output_format)


def plan_members(plans: Sequence[EmulationPlan]) -> Callable[[np.ndarray], np.ndarray]:
    """One program for many networks that differ in weights, types, or both.

    Where all have the same types these stay static and the program is as fast for each member as `emulate`; otherwise
    types are data, and every product is made in the widest integers that any member needs.

    Returns:
        A function of inputs `(sample, *input_shape)` that gives outputs float64 `(member, sample, *output_shape)`.

    Raises:
        InputError: for plans with different layers.
    """
    plans = tuple(plans)
    same_register = len({plan.input_format for plan in plans}) == 1
    program = _program(plans, shared_inputs=same_register)
    if len(plans) == 1:
        return lambda inputs: emulate(plans[0], inputs)[None]
    arrays = jax.tree.map(lambda *leaves: np.stack(leaves), *(plan.arrays for plan in plans))

    def outputs(inputs: np.ndarray) -> np.ndarray:
        words = input_words(plans[0], inputs)
        if not same_register:
            words = np.stack([input_words(plan, inputs).astype(np.int64) for plan in plans])
        with jax.enable_x64(True):
            results = np.asarray(program(arrays, words))
        return np.stack([to_values(r, plan.output_format) for r, plan in zip(results, plans, strict=True)])

    return outputs
