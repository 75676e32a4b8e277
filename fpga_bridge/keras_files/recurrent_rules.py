r"""Recurrent layers of Keras and QKeras as the layers of each step: dense ones, sums, products and activations.

With $a$ the `activation`, $\sigma$ the `recurrent_activation` and a state of zero before the first step:

- SimpleRNN: $h' = a(x W + b + h U)$;
- LSTM, gates in the order i, f, c, o: $c' = \sigma_f c + \sigma_i\,a(x W_c + b_c + h U_c)$, $h' = \sigma_o\,a(c')$;
- GRU, gates in the order z, r, h: $h' = \sigma_z h + (1 - \sigma_z)\,a(x W_h + b_h + g)$, where
  $g = (\sigma_r h) U_h$, or $g = \sigma_r (h U_h + b'_h)$ with `reset_after`, where each gate has a second bias $b'$.

QKeras rounds what a step reads of the state before it (of LSTM both $h$ and $c$) by `state_quantizer`. The bits of a
state grow with each step unless that, the activations or the formats of the hardware round it.

References:
    Hochreiter and Schmidhuber, Neural Computation 9 (1997) 1735; Cho et al., arXiv:1406.1078: the cells. The
    conventions are those of the programs of Keras 3 and QKeras 0.9.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from fpga_bridge.keras_files.archive import HALVES, LayerSpec, check_origin
from fpga_bridge.keras_files.merge_rules import scaled
from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_quantizers import activation_format
from fpga_bridge.tracing.selection_rules import ONE, select
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Tensor
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError

_INSTEAD = "scan a RoundedCell of jaxgeo.layers.recurrent in JAX, which becomes exact layers of each step"
_KEEP_ZERO = ("quantized_bits", "quantized_linear", "quantized_relu", "quantized_tanh")

States = tuple[Tensor, ...]
"""What a step leaves to the next: its output first, then the carry of an LSTM; empty before the first step."""
Step = Callable[[Tensor, States], States]


def recurrent(layer: Layer, x: Tensor) -> Tensor:
    """(Q)SimpleRNN, (Q)LSTM and (Q)GRU: the last state, or all in the order in which they were computed.

    Raises:
        ExportError: what keeps or puts out a state, and activations without an exact form.
        ConfigError: an input without an axis of steps.
    """
    return _output(layer, _states(layer, x))


def bidirectional(layer: Layer, x: Tensor) -> Tensor:
    """(Q)Bidirectional: two recurrent layers, of which one reads the steps from the end, and their outputs joined.

    Raises:
        ExportError: as `recurrent`; other layers in it, and outputs that are not joined.
        ConfigError: two layers that do not fit together.
    """
    forward, backward = (_half(layer, half) for half in HALVES)
    sequences, turned = (
        [bool(half.config.get(setting)) for half in (forward, backward)]
        for setting in ("return_sequences", "go_backwards")
    )
    if sequences[0] != sequences[1] or turned[0] == turned[1]:
        raise ConfigError(
            f"{layer.where} needs two layers with the same return_sequences and of which one has go_backwards, got "
            f"{sequences} and {turned}"
        )
    y, states = recurrent(forward, x), _states(backward, x)
    z = _output(backward, states[::-1] if sequences[0] else states)
    mode = layer.config.get("merge_mode", "concat")
    if mode == "concat":
        return join(layer.builder, [y, z], len(y.shape) - 1, layer.name, layer.source)
    if mode not in ("sum", "ave", "mul"):
        raise layer.refuse(f"has merge_mode {mode!r}, which leaves two outputs", "use concat, sum, ave or mul")
    if y.shape != z.shape:
        raise ConfigError(f"{layer.where} joins outputs of shapes {y.shape} and {z.shape} by merge_mode {mode!r}")
    merged = layer.pair(ir.Multiply if mode == "mul" else ir.Add, y, z, "sum" if mode == "ave" else "")
    return scaled(layer, merged, 0.5) if mode == "ave" else merged


def _half(layer: Layer, half: str) -> Layer:
    """One of the two layers of a Bidirectional; files of Keras 2 leave the second out where it is the first, turned."""
    entry = layer.config.get(half.removeprefix("forward_"))
    if entry is None and half == "backward_layer":
        entry = layer.config.get("layer")
        config = dict(entry["config"]) if _is_layer(entry) else {}
        config |= {"go_backwards": not config.get("go_backwards"), "name": f"backward_{config.get('name')}"}
        entry = {**entry, "config": config} if _is_layer(entry) else None
    if not _is_layer(entry):
        raise ConfigError(f"{layer.where}: its {half} must be a layer with class_name and config, got {entry!r}")
    check_origin(entry, f"{layer.where}: its {half}")
    kind = str(entry["class_name"])
    if kind.removeprefix("Q") not in _CELLS:
        raise layer.refuse(f"turns a layer of class {kind}", f"use it around one of {', '.join(_CELLS)}")
    spec = LayerSpec(f"{layer.spec.name}/{half}", kind, entry["config"], ())
    inner = Layer(layer.builder, spec, layer.file, layer.source, layer.tables)
    inner.check_dtype()
    return inner


def _is_layer(entry: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(entry, Mapping) and "class_name" in entry and isinstance(entry.get("config"), Mapping)


def _output(layer: Layer, states: list[Tensor]) -> Tensor:
    """Of the states after each step those that the layer puts out."""
    if not layer.config.get("return_sequences"):
        return states[-1]
    rows = [layer.node(ir.Reshape, state, (1, *state.shape), "row") for state in states]
    return rows[0] if len(rows) == 1 else join(layer.builder, rows, 0, layer.name, layer.source)


def _states(layer: Layer, x: Tensor) -> list[Tensor]:
    """The output of each step, in the order in which they are computed."""
    if len(x.shape) != 2:
        raise ConfigError(f"{layer.where} needs an axis of steps and channels, got a tensor of shape {x.shape}")
    for setting in ("return_state", "stateful", "time_major"):
        if layer.config.get(setting):
            raise layer.refuse(f"has {setting}", f"leave it out: {_INSTEAD}, if the state has to be kept")
    rounding = layer.quantizer("state")
    if rounding is not None and rounding.kind not in _KEEP_ZERO:
        raise layer.refuse(f"rounds its state by {rounding.kind}", f"use one of {', '.join(_KEEP_ZERO)}")
    (steps, width), outputs = x.shape, []
    step, state = _CELLS[layer.kind](layer, width), ()
    for number in range(steps)[:: -1 if layer.config.get("go_backwards") else 1]:
        row = select(layer.builder, x, [np.array([number]), np.arange(width)], "step", layer.place)
        row = layer.node(ir.Reshape, row, (width,), "row")
        if rounding is not None:
            state = tuple(
                layer.node(ir.Quantize, part, part.shape, "state", format=activation_format(rounding)) for part in state
            )
        state = step(row, state)
        outputs.append(state[0])
    return outputs


class _Gates:
    """The weights of a layer, by gate: equal blocks of columns of its arrays."""

    def __init__(self, layer: Layer, width: int, count: int, *, two_biases: bool = False) -> None:
        self.layer, self.units = layer, layer.number("units")
        columns = count * self.units
        shapes: dict[str, tuple[int, ...]] = {"kernel": (width, columns), "recurrent_kernel": (self.units, columns)}
        if layer.config.get("use_bias", True):
            shapes["bias"] = (2, columns) if two_biases else (columns,)
        arrays = layer.arrays(shapes)
        self._kernels = _blocks(layer.weight(arrays["kernel"], "kernel"), count)
        self._recurrent = _blocks(layer.weight(arrays["recurrent_kernel"], "recurrent"), count)
        biases = _blocks(layer.bias(arrays), count)
        self._biases = [_row(bias, 0) for bias in biases] if two_biases else biases
        self._second = [_row(bias, 1) for bias in biases] if two_biases else [None] * count

    def of_input(self, gate: int, row: Tensor) -> Tensor:
        """`x W + b`."""
        kernel, bias = self._kernels[gate], self._biases[gate]
        return self.layer.node(ir.Dense, row, (self.units,), "input", kernel=kernel, bias=bias)

    def of_state(self, gate: int, row: Tensor, state: Tensor | None) -> Tensor | None:
        """`h U + b'`, None where it is zero."""
        kernel, bias = self._recurrent[gate], self._second[gate]
        if state is None and bias is None:
            return None
        if state is None:  # the second bias alone, by a layer that reads zeros out of the row
            state, kernel = row, ir.Weight(np.zeros((row.shape[0], self.units), np.float32), ONE)
        return self.layer.node(ir.Dense, state, (self.units,), "recurrent", kernel=kernel, bias=bias)

    def sum(self, gate: int, row: Tensor, state: Tensor | None) -> Tensor:
        """What goes into an activation."""
        return self.added(self.of_input(gate, row), self.of_state(gate, row, state))

    def added(self, x: Tensor, y: Tensor | None) -> Tensor:
        """A sum whose second term may be zero."""
        return x if y is None else self.layer.pair(ir.Add, x, y, "sum")

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """Number by number."""
        return self.layer.pair(ir.Multiply, x, y, "product")

    def activation(self, x: Tensor) -> Tensor:
        """Of candidates and states."""
        return self.layer.activation(x, self.layer.config.get("activation", "tanh"), "activation")

    def opening(self, gate: int, row: Tensor, state: Tensor | None) -> Tensor:
        """How far a gate is open."""
        chosen = self.layer.config.get("recurrent_activation", "sigmoid")
        return self.layer.activation(self.sum(gate, row, state), chosen, "gate")


def _blocks(weight: ir.Weight | None, count: int) -> list[Any]:
    if weight is None:
        return [None] * count
    return [dataclasses.replace(weight, value=part) for part in np.split(weight.value, count, -1)]


def _row(weight: ir.Weight | None, row: int) -> ir.Weight | None:
    return None if weight is None else dataclasses.replace(weight, value=weight.value[row])


def _simple(layer: Layer, width: int) -> Step:
    gates = _Gates(layer, width, 1)

    def step(row: Tensor, states: States) -> States:
        return (gates.activation(gates.sum(0, row, states[0] if states else None)),)

    return step


def _lstm(layer: Layer, width: int) -> Step:
    gates = _Gates(layer, width, 4)

    def step(row: Tensor, states: States) -> States:
        state, carry = states or (None, None)
        enter, forget, leave = (gates.opening(gate, row, state) for gate in (0, 1, 3))
        new = gates.product(enter, gates.activation(gates.sum(2, row, state)))
        new = new if carry is None else gates.added(gates.product(forget, carry), new)
        return gates.product(leave, gates.activation(new)), new

    return step


def _gru(layer: Layer, width: int) -> Step:
    after = bool(layer.config.get("reset_after", False))
    if layer.spec.class_name == "QGRU" and layer.quantizer("recurrent") is None:
        raise layer.refuse(
            "has no recurrent_quantizer, and QKeras then multiplies its state by the kernel of the input",
            "give it one, such as quantized_bits(8,0,alpha=1)",
        )
    gates = _Gates(layer, width, 3, two_biases=after)
    minus, one = (ir.Weight(np.full(gates.units, value, np.float32), ONE) for value in (-1, 1))

    def step(row: Tensor, states: States) -> States:
        state = states[0] if states else None
        update, reset = (gates.opening(gate, row, state) for gate in (0, 1))
        if after:
            inner = gates.of_state(2, row, state)
            inner = None if inner is None else gates.product(reset, inner)
        else:
            inner = None if state is None else gates.of_state(2, row, gates.product(reset, state))
        candidate = gates.activation(gates.added(gates.of_input(2, row), inner))
        rest = layer.node(ir.Affine, update, update.shape, "rest", scale=minus, offset=one)
        new = gates.product(rest, candidate)
        return (new if state is None else gates.added(gates.product(update, state), new),)

    return step


_CELLS: dict[str, Callable[[Layer, int], Step]] = {"SimpleRNN": _simple, "LSTM": _lstm, "GRU": _gru}
