"""Keras and QKeras files as graphs of the bridge, without QKeras, TensorFlow or any object of the file being built.

Every layer becomes the nodes that hardware takes: quantised layers with their weights rounded and their formats kept,
batch normalisation folded to one scale and offset for each channel, pruning masks applied. What has no exact form is
refused by the layer's name. `hardware_formats` beside this module gives formats to what a file leaves in floats.

References:
    Coelho et al., arXiv:2006.10159 (QKeras).
    Aarrestad et al., "Fast convolutional neural networks on FPGAs with hls4ml", arXiv:2101.05108: its street view
    house numbers network, pruned to half its weights at 6 bits, is such a file.
"""

from pathlib import Path

from fpga_bridge.keras_files.archive import KerasFile, read_keras_file
from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_rules import emit
from fpga_bridge.tracing.values import Builder, Tensor
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.same_pooling import pad_by_zeros
from jaxgeo.errors import CorruptFileError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint


def load_keras_graph(path: Path, weights: Path | None = None, tables: FixedPoint | None = None) -> ir.Graph:
    """The graph of a model that Keras 2, Keras 3 or QKeras saved.

    Layers: (Q)Dense, (Q)Conv1D and (Q)Conv2D, dilated and in groups too, (Q)DepthwiseConv2D and (Q)SeparableConv1D/2D
    (as convolutions with zeros), Conv1DTranspose and (Q)Conv2DTranspose (with zeros between the pixels),
    QConv2DBatchnorm, (Q)BatchNormalization, (Q)Activation, ReLU, LeakyReLU, PReLU, Softmax, pooling (global),
    UpSampling2D by repetition, ZeroPadding, Add, Subtract, Average, Multiply, Maximum and Minimum (of shapes that
    broadcast), Concatenate, Dot, (Q)SimpleRNN, (Q)LSTM and (Q)GRU (as the layers of each step), (Q)Bidirectional
    around them, Flatten, Reshape, Permute, dropout (nothing at inference) and PruneLowMagnitude around any of them.
    Nodes take the layers' names; `source` is the file with the number of the layer in it, from 1, as its line.

    Args:
        path: `.h5`, `.keras`, or `.json` of the architecture.
        weights: `.h5` or `.weights.h5`, needed with a `.json`.
        tables: format in which tanh, sigmoid, gelu, silu and exponential are looked up, of at most 16 bits: what they
            read is rounded to it, and so are their results, except those of `quantized_tanh` and `quantized_sigmoid`
            in their real form, which have a format of their own. None refuses these functions.

    Raises:
        ExportError: a layer, setting or quantiser that has no exact form here; names it and what would work.
        ConfigError: an architecture that contradicts itself, or a `.json` without weights.
        CorruptFileError: a damaged file, missing arrays, or arrays that do not fit the architecture.
        RunFolderError: a file that cannot be read.
    """
    return to_graph(read_keras_file(path, weights), tables)


def to_graph(file: KerasFile, tables: FixedPoint | None = None) -> ir.Graph:
    """As `load_keras_graph`, from a file that is read already."""
    builder = Builder()
    layers = {spec.name: (number, spec) for number, spec in enumerate(file.layers, 1)}
    done: dict[tuple[str, int], Tensor] = {}
    inputs = [spec for spec in file.layers if spec.class_name == "InputLayer"]
    if len(inputs) != 1:
        raise ExportError(f"{file.path}: the model has {len(inputs)} inputs, and hardware is made for one")

    # Depth first without recursion: networks may be deeper than Python's stack.
    todo = [file.output]
    while todo:
        name, number = todo[-1]
        if (name, number) in done:
            todo.pop()
            continue
        if name not in layers:
            raise CorruptFileError(f"{file.path}: a connection comes from {name!r}, which is no layer of the model")
        line, spec = layers[name]
        layer = Layer(builder, spec, file, ir.Source(Path(file.path).name, line), tables)
        if spec.class_name == "InputLayer":
            done[name, number] = layer.input()
            continue
        if not 0 <= number < len(spec.calls) or not spec.calls[number].inputs:
            raise CorruptFileError(f"{file.path}: layer {name!r} is read at its use {number}, which has no inputs")
        missing = next((call for call in spec.calls[number].inputs if call not in done), None)
        if missing in todo:  # the list is the way from the output to here
            raise CorruptFileError(f"{file.path}: layer {name!r} depends on itself")
        if missing is not None:
            todo.append(missing)
            continue
        done[name, number] = emit(layer, [done[call] for call in spec.calls[number].inputs])
    return pad_by_zeros(builder.finish(done[file.output]))
