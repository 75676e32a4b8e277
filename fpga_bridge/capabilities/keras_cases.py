"""Layers of Keras and QKeras files for the table of capabilities, where a file says more than JAX does.

What a file shares with JAX (dense layers, convolutions, pooling, ...) is in `fpga_bridge.capabilities.jax_cases`. A
case here is a function too: its layers are read as a file's would be, and the graph of them is applied.
"""

import functools
from typing import Any

import jax
import numpy as np

from fpga_bridge.capabilities.jax_cases import IMAGE, PAIRS, RESULT, SIGNAL, Case
from fpga_bridge.keras_files.archive import Call, KerasFile, LayerSpec
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import to_graph
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.layers.fixed_point import FixedPoint, quantize

_ROUND = "quantized_bits(8,3,alpha=1)"


def _eighths(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).integers(-15, 16, shape) / 8).astype(np.float32)


def _file(
    x: Any,
    *layers: tuple[str, dict[str, Any], tuple[str, ...]],
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = (),
    affine: FixedPoint | None = None,
) -> Any:
    """The output of the last of some layers (class, settings, what they read: `input` or classes), rounded.

    `arrays` are those of the last one, by name and shape; a slash in it ends the name of a layer within the layer.
    `affine` is the format of scales that the file leaves in floats.
    """
    specs = [LayerSpec("input", "InputLayer", {"batch_shape": (None, *x.shape[1:])}, ())]
    for kind, config, sources in layers:
        call = Call(tuple((source, 0) for source in sources))
        specs.append(LayerSpec(kind, kind, {"name": kind, **config}, (call,)))
    last, found = specs[-1].name, {}
    for path, shape in arrays:
        place, slash, name = path.rpartition("/")
        found.setdefault(last + slash + place, {})[name] = _eighths(*shape)
    graph = to_graph(KerasFile("model.keras", tuple(specs), (last, 0), found))
    with jax.ensure_compile_time_eval():  # constants stay numbers while the case is traced
        graph = with_formats(graph, HardwareFormats(affine=affine))
    return quantize(apply_graph(graph, x), RESULT)


def _one(
    kind: str,
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = (),
    *,
    affine: FixedPoint | None = None,
    **config: Any,
) -> Any:
    return lambda x: _file(x, (kind, config, ("input",)), arrays=arrays, affine=affine)


def _with_vector(kind: str, **config: Any) -> Any:
    """A layer that joins the input and its largest channels."""
    pooling = "GlobalMaxPooling2D" if kind == "Multiply" else "GlobalMaxPooling1D"
    return lambda x: _file(x, (pooling, {}, ("input",)), (kind, config, ("input", pooling)))


_RELU, _TOP = (("ReLU", {}, ("input",)), ("GlobalMaxPooling1D", {}, ("input",)))


_transposed = functools.partial(
    _one, "Conv2DTranspose", (("kernel", (2, 3, 3, 2)),), filters=3, kernel_size=(2, 3), use_bias=False, strides=(2, 2)
)
_dense = functools.partial(_one, "QDense", (("kernel", (4, 3)),), units=3, use_bias=False)


def _scaled(quantizer: str) -> Any:
    return _dense(kernel_quantizer=quantizer, affine=FixedPoint(7, 3, True, "RND", "SAT"))


def _cell(columns: int, place: str = "", biases: int = 1) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The arrays of two units, of so many columns each."""
    bias = (2 * columns,) if biases == 1 else (biases, 2 * columns)
    return (f"{place}kernel", (4, 2 * columns)), (f"{place}recurrent_kernel", (2, 2 * columns)), (f"{place}bias", bias)


def _rnn(kind: str, columns: int, steps: int = 2, **config: Any) -> Any:
    layer = _one(kind, _cell(columns, biases=1 + config.get("reset_after", False)), units=2, **config)
    return lambda x: layer(x[:, :steps])


def _both_ways(kind: str, columns: int, **config: Any) -> Any:
    arrays = (*_cell(columns, "forward_layer/"), *_cell(columns, "backward_layer/"))
    layer = _one("Bidirectional", arrays, layer={"class_name": kind, "config": {"name": "cell", "units": 2, **config}})
    return lambda x: layer(x[:, :2])


_simple_rnn = functools.partial(_rnn, "QSimpleRNN", 1, 3, activation=_ROUND)
_GATES: dict[str, Any] = {
    "activation": "quantized_tanh(6)", "recurrent_activation": "quantized_sigmoid(5)", "state_quantizer": _ROUND,
    "recurrent_quantizer": _ROUND,
}  # fmt: skip


_BEHIND = "a batch norm of the scales, in a format that is stated, behind the layer"
_COPIES = "copies of the vector at all pixels"
_STEPS = "layers of each step"
_INSERTED = "a convolution of the input with zeros between its pixels"
CASES = (
    Case("Keras Multiply", "an image by a vector", _with_vector("Multiply"), IMAGE, _COPIES),
    Case(
        "Keras Subtract", "a vector from a signal", _with_vector("Subtract"), SIGNAL, "the sum with -1 times a vector"
    ),
    Case("Keras Average", "of two", lambda x: _file(x, _RELU, ("Average", {}, ("input", "ReLU"))), SIGNAL,
         "half of the sum"),
    Case("Keras Dot", "of vectors", lambda x: _file(x, _TOP, ("Dot", {"axes": 1}, (_TOP[0],) * 2)), SIGNAL, PAIRS),
    Case("Keras Dot", "places by a vector", _with_vector("Dot", axes=(2, 1)), SIGNAL, PAIRS),
    Case("Keras Dot", "of matrices", lambda x: _file(x, ("Dot", {"axes": 2}, ("input", "input"))), SIGNAL, PAIRS),
    Case("Keras Conv2DTranspose", "output_padding", _transposed(output_padding=(1, 0)), IMAGE, _INSERTED),
    Case("Keras Conv2DTranspose", "groups", _transposed(groups=2), IMAGE),
    Case("QKeras weights", "ternary, alpha='auto_po2'", _dense(kernel_quantizer="ternary(alpha='auto_po2')")),
    Case("QKeras weights", "binary, alpha='auto_po2'", _dense(kernel_quantizer="binary(alpha='auto_po2')")),
    Case("QKeras weights", "4 bits, alpha='auto'", _scaled("quantized_bits(4,0,1,alpha='auto')"), SIGNAL,
         _BEHIND),
    Case("QKeras weights", "ternary, alpha='auto'", _scaled("ternary(alpha='auto')"), SIGNAL, _BEHIND),
    Case("QKeras SimpleRNN", "last state", _simple_rnn(), SIGNAL, _STEPS),
    Case("QKeras SimpleRNN", "all states", _simple_rnn(return_sequences=True), SIGNAL, _STEPS),
    Case("QKeras LSTM", "last state", _rnn("QLSTM", 4, **_GATES), SIGNAL, _STEPS),
    Case("QKeras GRU", "last state, reset before", _rnn("QGRU", 3, **_GATES), SIGNAL, _STEPS),
    Case("QKeras GRU", "all states, reset after", _rnn("QGRU", 3, reset_after=True, return_sequences=True, **_GATES),
         SIGNAL, _STEPS),
    Case("QKeras Bidirectional", "SimpleRNN", _both_ways("QSimpleRNN", 1, activation="hard_sigmoid"), SIGNAL, _STEPS),
    Case("Keras LSTM", "tanh and sigmoid", _rnn("LSTM", 4, activation="tanh", recurrent_activation="sigmoid")),
)  # fmt: skip
