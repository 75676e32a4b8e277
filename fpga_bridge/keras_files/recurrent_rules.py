"""Recurrent layers of Keras and QKeras: the simple one as the layers of each step, the gated ones refused."""

import numpy as np

from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_quantizers import activation_format
from fpga_bridge.tracing.selection_rules import select
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Tensor
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError

_INSTEAD = "scan a RoundedCell of jaxgeo.layers.recurrent in JAX, which becomes exact layers of each step"


def gated(layer: Layer, x: Tensor) -> Tensor:
    """LSTM and GRU.

    Raises:
        ExportError: always.
    """
    raise layer.refuse(
        "has no form in hardware here, since hls4ml's recurrent layers look sigmoid and tanh up in 1024 samples and "
        "keep their gates in the type of their sums",
        _INSTEAD,
    )


def bidirectional(layer: Layer, x: Tensor) -> Tensor:
    """Bidirectional.

    Raises:
        ExportError: always.
    """
    raise layer.refuse(
        "has no form in hardware here",
        "write its two layers, one with go_backwards=True, and Concatenate where they are SimpleRNN, or " + _INSTEAD,
    )


def simple_rnn(layer: Layer, x: Tensor) -> Tensor:
    """SimpleRNN and QSimpleRNN: two dense layers, a sum and the activation for each step, the first from a state of 0.

    The bits of a state grow with each step unless its activation (or `state_quantizer`) or the formats of the hardware
    round it.
    """
    if len(x.shape) != 2:
        raise ConfigError(f"{layer.where} needs an axis of steps and channels, got a tensor of shape {x.shape}")
    for setting in ("return_state", "stateful"):
        if layer.config.get(setting):
            raise layer.refuse(f"has {setting}", f"leave it out: {_INSTEAD}, if the state has to be kept")
    (steps, width), units = x.shape, layer.number("units")
    shapes = {"kernel": (width, units), "recurrent_kernel": (units, units)}
    arrays = layer.arrays(shapes | ({"bias": (units,)} if layer.config.get("use_bias", True) else {}))
    kernel, bias = layer.weight(arrays["kernel"], "kernel"), layer.bias(arrays)
    recurrent, rounding = layer.weight(arrays["recurrent_kernel"], "recurrent"), layer.quantizer("state")
    states: list[Tensor] = []
    for step in range(steps)[:: -1 if layer.config.get("go_backwards") else 1]:
        row = select(layer.builder, x, [np.array([step]), np.arange(width)], "step", layer.place)
        row = layer.node(ir.Reshape, row, (width,), "row")
        y = layer.node(ir.Dense, row, (units,), "input", kernel=kernel, bias=bias)
        if states:
            state = states[-1]
            if rounding is not None:
                state = layer.node(ir.Quantize, state, (units,), "state", format=activation_format(rounding))
            state = layer.node(ir.Dense, state, (units,), "recurrent", kernel=recurrent)
            y = layer.builder.emit(
                ir.Add, f"{layer.name}_sum", inputs=(y.name, state.name), shape=(units,), source=layer.source
            )
        states.append(layer.activation(y, layer.config.get("activation", "tanh"), "activation"))
    if not layer.config.get("return_sequences"):
        return states[-1]
    rows = [layer.node(ir.Reshape, state, (1, units), "row") for state in states]
    return rows[0] if steps == 1 else join(layer.builder, rows, 0, layer.name, layer.source)
