"""The typed graph as a Keras 3 functional model on the JAX backend, one layer for each node, names kept."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.typed_graph.graph import (
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Graph,
    Input,
    LeakyRelu,
    Node,
    Pairwise,
    Pool,
    PRelu,
    Quantize,
    Relu,
    Reshape,
    Softmax,
    Table,
    ThresholdedRelu,
    Transpose,
    Upsample,
    ZeroInsert,
    ZeroPad,
)
from fpga_bridge.typed_graph.tables import look_up
from jaxgeo.errors import ExportError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint, quantize


def import_keras() -> Any:
    """Keras on the JAX backend, imported here for the first time unless somebody did so before.

    Raises:
        ToolMissingError: where Keras runs on another backend already, which cannot change within a process, or where
            the environment asks for another one.
    """
    if "keras" not in sys.modules and os.environ.setdefault("KERAS_BACKEND", "jax") != "jax":
        raise ToolMissingError(
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}, but the same numbers as in JAX need Keras on its JAX "
            "backend; unset the variable or set KERAS_BACKEND=jax for the export"
        )
    import keras  # the variable must be set first, and a plain import of this package stays light

    backend = keras.backend.backend()
    if backend != "jax":
        raise ToolMissingError(
            f"keras was imported before fpga_bridge and runs on {backend}, but the same numbers as in JAX need its JAX "
            "backend; set KERAS_BACKEND=jax before anything imports keras, or import fpga_bridge.hls.keras_model first"
        )
    return keras


keras = import_keras()


@keras.saving.register_keras_serializable(package="jaxgeo")
class FixedPointQuantizer(keras.layers.Layer):
    """Rounds to a fixed-point format by the function that the JAX model calls."""

    @no_type_check  # Keras reads the signature of the function itself, which a run-time checker would hide
    def __init__(self, format: FixedPoint | dict[str, Any], **kwargs: Any) -> None:
        """A format, or its fields as `get_config` gives them."""
        super().__init__(**kwargs)
        self.format = format if isinstance(format, FixedPoint) else FixedPoint(**format)

    def call(self, inputs: Any) -> Any:
        """The nearest values of the format."""
        return quantize(inputs, self.format)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Unchanged."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shape and dtype unchanged; known without a trace."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """What a saved model keeps."""
        return {**super().get_config(), "format": dataclasses.asdict(self.format)}


@keras.saving.register_keras_serializable(package="jaxgeo")
class ZeroInsertion(keras.layers.Layer):
    """Zeros between neighbouring pixels, which then stand `strides` apart; Keras has no layer that does so."""

    @no_type_check  # Keras reads the signature of the function itself, which a run-time checker would hide
    def __init__(self, strides: Sequence[int], **kwargs: Any) -> None:
        """One stride for each spatial axis."""
        super().__init__(**kwargs)
        self.strides = tuple(strides)

    def call(self, inputs: Any) -> Any:
        """The pixels with zeros between them."""
        spatial = ((0, 0, stride - 1) for stride in self.strides)
        return jax.lax.pad(inputs, jnp.zeros((), inputs.dtype), ((0, 0, 0), *spatial, (0, 0, 0)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(n - 1) strides and one pixel."""
        spatial = ((n - 1) * stride + 1 for n, stride in zip(input_shape[1:-1], self.strides, strict=True))
        return (input_shape[0], *spatial, input_shape[-1])

    def compute_output_spec(self, inputs: Any) -> Any:
        """Known without a trace."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """What a saved model keeps."""
        return {**super().get_config(), "strides": self.strides}


@keras.saving.register_keras_serializable(package="jaxgeo")
class TableActivation(keras.layers.Layer):
    """A function of each number by a table of its values, one for every word of the format of its inputs."""

    @no_type_check  # Keras reads the signature of the function itself, which a run-time checker would hide
    def __init__(
        self,
        function: str,
        input_format: FixedPoint | dict[str, Any],
        output_format: FixedPoint | dict[str, Any],
        **kwargs: Any,
    ) -> None:
        """The function's name, and formats or their fields as `get_config` gives them."""
        super().__init__(**kwargs)
        self.function = function
        self.input_format = input_format if isinstance(input_format, FixedPoint) else FixedPoint(**input_format)
        self.output_format = output_format if isinstance(output_format, FixedPoint) else FixedPoint(**output_format)

    def build(self, input_shape: Any) -> None:
        """The values, entry i for the word `input_format.min_word + i`, are a weight that is not trained."""
        count = self.input_format.max_word - self.input_format.min_word + 1
        self.entries = self.add_weight(name="entries", shape=(count,), initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The values of the words that the inputs are."""
        return look_up(inputs, self.entries.value, self.input_format)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Unchanged."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shape and dtype unchanged; known without a trace."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """What a saved model keeps."""
        formats = {"input_format": self.input_format, "output_format": self.output_format}
        fields = {name: dataclasses.asdict(format) for name, format in formats.items()}
        return {**super().get_config(), "function": self.function, **fields}


def to_keras(graph: Graph, name: str = "network", dtype: str = "float32") -> Any:
    """A `keras.Model` with the weights of the graph, equal to the traced function up to float rounding.

    Where every value is quantised and `fpga_bridge.typed_graph.precision.plan_types` accepts the graph, equal bit for
    bit. `dtype="float64"` is for sums that float32 cannot hold; build and call such a model inside
    `jax.enable_x64(True)`.
    """
    tensors: dict[str, Any] = {}
    for node in graph:
        tensors[node.name] = _emit(node, [tensors[i] for i in node.inputs], dtype)
    model = keras.Model(tensors[graph.input.name], tensors[graph.output], name=name)
    for node in graph:
        arrays = _arrays(node)
        if arrays:
            model.get_layer(node.name).set_weights(arrays)
    return model


def _emit(node: Node, inputs: list[Any], dtype: str) -> Any:
    layers = keras.layers
    if isinstance(node, Input):
        return keras.Input(node.shape, name=node.name, dtype=dtype)
    if isinstance(node, Pairwise):
        return getattr(layers, type(node).__name__)(name=node.name, dtype=dtype)(inputs)
    if isinstance(node, Concatenate):
        return layers.Concatenate(axis=node.axis + 1, name=node.name, dtype=dtype)(inputs)
    return _layer(node, len(inputs[0].shape) - 2, dtype)(inputs[0])


def _layer(node: Node, spatial_rank: int, dtype: str) -> Any:  # noqa: PLR0911, PLR0912  # one case for each kind
    layers, common = keras.layers, {"name": node.name, "dtype": dtype}
    # Their weights are set once all layers stand; random ones until then would be compiled anew for each shape.
    kernel = {"kernel_initializer": "zeros"}
    match node:
        case Dense():
            return layers.Dense(node.shape[-1], use_bias=node.bias is not None, **kernel, **common)
        case Conv():
            conv = (layers.Conv1D, layers.Conv2D)[len(node.strides) - 1]
            window = node.kernel.value.shape[: len(node.strides)]
            use_bias = node.bias is not None
            return conv(node.shape[-1], window, node.strides, node.padding, use_bias=use_bias, **kernel, **common)
        case Affine():
            # Mean 0, variance 1 and epsilon 0 leave gamma and beta as they are.
            return layers.BatchNormalization(epsilon=0.0, **common)
        case Relu():
            return layers.Activation("relu", **common)
        case LeakyRelu():
            return layers.LeakyReLU(negative_slope=node.slope, **common)
        case PRelu():
            return layers.PReLU(**common)
        case ThresholdedRelu():
            return layers.ReLU(threshold=node.threshold, **common)
        case Table():
            # Keras and the files of it want a format, and `trace` gives one always.
            assert node.entries.format is not None
            return TableActivation(node.function, node.input_format, node.entries.format, **common)
        case Pool():
            kinds = {"max": (layers.MaxPooling1D, layers.MaxPooling2D)}
            kinds["average"] = (layers.AveragePooling1D, layers.AveragePooling2D)
            return kinds[node.reduce][len(node.window) - 1](node.window, node.strides, node.padding, **common)
        case GlobalPool():
            kinds = {"max": (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)}
            kinds["average"] = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)
            return kinds[node.reduce][spatial_rank - 1](**common)
        case Upsample():
            kinds = (layers.UpSampling1D, layers.UpSampling2D)
            return kinds[spatial_rank - 1](node.factors if spatial_rank == 2 else node.factors[0], **common)
        case ZeroPad():
            kinds = (layers.ZeroPadding1D, layers.ZeroPadding2D)
            return kinds[spatial_rank - 1](node.pads if spatial_rank == 2 else node.pads[0], **common)
        case ZeroInsert():
            return ZeroInsertion(node.strides, **common)
        case Reshape():
            return layers.Reshape(node.shape, **common)
        case Transpose():
            return layers.Permute(tuple(i + 1 for i in node.perm), **common)
        case Softmax():
            return layers.Softmax(**common)
        case Quantize():
            return FixedPointQuantizer(node.format, **common)
    raise ExportError(f"no Keras layer for {node.kind} {node.name} ({node.source})")


def _arrays(node: Node) -> list[np.ndarray]:
    if isinstance(node, Dense | Conv):
        return [node.kernel.value] + ([node.bias.value] if node.bias is not None else [])
    if isinstance(node, Affine):
        width = node.scale.value.shape
        return [node.scale.value, node.offset.value, np.zeros(width, np.float32), np.ones(width, np.float32)]
    if isinstance(node, PRelu):
        # One for each pixel too: a shared axis of Keras is none of hls4ml's.
        return [np.broadcast_to(node.slope.value, node.shape)]
    if isinstance(node, Table):
        return [node.entries.value]
    return []
