"""A layer of a Keras file while its nodes are built: its settings, arrays, quantisers and activation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga_bridge import graph as ir
from fpga_bridge.keras_files.archive import KerasFile, LayerSpec
from fpga_bridge.keras_files.qkeras_quantizers import Quantizer, activation_format, parse_quantizer, quantize_weight
from fpga_bridge.tracing.values import Builder, Tensor
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint


class Layer:
    """One use of a layer while the graph is built."""

    def __init__(self, builder: Builder, spec: LayerSpec, file: KerasFile, source: ir.Source) -> None:
        self.builder, self.spec, self.file, self.source = builder, spec, file, source
        self.config: Mapping[str, Any] = spec.config
        self.name = str(spec.config.get("name", spec.name))
        self.kind = spec.class_name.removeprefix("Q") if spec.class_name != "QConv2DBatchnorm" else spec.class_name
        self.where = f"layer {self.name!r} ({spec.class_name}) of {Path(file.path).name}"

    def refuse(self, why: str, instead: str) -> ExportError:
        """The error for what hardware cannot take of this layer, to be raised by the caller."""
        return ExportError(f"{self.where} {why}; {instead}")

    def number(self, key: str, default: int | None = None) -> int:
        """A setting that is a whole number of at least 1."""
        value = self.config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{self.where}: {key} must be a whole number of at least 1, got {value!r}")
        return value

    def numbers(self, key: str) -> tuple[int, ...]:
        """A setting that is a list of whole numbers."""
        value = self.config.get(key)
        if not isinstance(value, list | tuple) or not all(isinstance(n, int) for n in value):
            raise ConfigError(f"{self.where}: {key} must be a list of whole numbers, got {value!r}")
        return tuple(value)

    def input(self) -> Tensor:
        """The input node."""
        shape = self.config.get("batch_shape") or self.config.get("batch_input_shape")
        if not isinstance(shape, list | tuple) or len(shape) < 2 or not all(isinstance(n, int) for n in shape[1:]):
            raise self.refuse(f"has the shape {shape}", "give all sizes but the batch's a number, which hardware needs")
        return self.builder.emit(ir.Input, self.name, inputs=(), shape=tuple(shape[1:]), source=self.source)

    def node(self, kind: type[ir.Node], x: Tensor, shape: tuple[int, ...], suffix: str = "", **fields: Any) -> Tensor:
        """Add a node that reads `x`, under the layer's name and a suffix."""
        name = f"{self.name}_{suffix}" if suffix else self.name
        return self.builder.emit(kind, name, inputs=(x.name,), shape=shape, source=self.source, **fields)

    def arrays(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """The layer's arrays by name, in float32, checked against the shapes that its settings ask for."""
        stored = self.file.arrays.get(self.spec.name, {})
        result = {}
        for position, (name, shape) in enumerate(shapes.items()):
            array = stored.get(name, stored.get(str(position)))
            if array is None:
                raise CorruptFileError(f"{self.where}: its {name} of shape {shape} is missing; save the model again")
            if array.shape != shape:
                raise CorruptFileError(
                    f"{self.where}: its {name} must be of shape {shape} by the architecture, got {array.shape}; the "
                    "weights belong to another model"
                )
            if not np.isfinite(array).all():
                raise CorruptFileError(f"{self.where}: its {name} holds NaN or infinities; train or save it again")
            mask = stored.get("mask")
            pruned = mask is not None and name.endswith("kernel") and mask.shape == array.shape
            result[name] = (array * mask if pruned else array).astype(np.float32)
        return result

    def quantizer(self, name: str) -> Quantizer | None:
        """The setting `<name>_quantizer`."""
        return parse_quantizer(self.config.get(f"{name}_quantizer"), f"{self.where}, {name}")

    def weight(self, array: np.ndarray, quantizer: str, rounded: bool = False) -> ir.Weight:
        """An array rounded by the setting `<quantizer>_quantizer`."""
        return quantize_weight(self.quantizer(quantizer), array, rounded)

    def activation(self, x: Tensor, value: Any, suffix: str) -> Tensor:
        """An activation by name, as text of a quantiser, or serialised."""
        if isinstance(value, Mapping) and value.get("class_name") in ("function", "Activation"):
            value = value.get("config")
            value = value.get("activation") if isinstance(value, Mapping) else value
        if value is None or value == "linear":
            return x
        if value == "relu":
            return self.node(ir.Relu, x, x.shape, suffix and "relu")
        if value == "softmax":
            return self.node(ir.Softmax, x, x.shape, suffix and "softmax")
        if isinstance(value, str) and value.split("(")[0].isidentifier() and "quantized" not in value:
            raise self.refuse(f"has the activation {value}", "use relu, softmax, linear or a quantized_ activation")
        quantizer = parse_quantizer(value, self.where)
        if quantizer is None:
            return x
        format = activation_format(quantizer)
        if quantizer.kind == "quantized_sigmoid":
            half = ir.Weight(np.full(x.shape[-1], 0.5, np.float32), FixedPoint(2, 1))
            x = self.node(ir.Affine, x, x.shape, "hard_sigmoid", scale=half, offset=half)
        # An unsigned saturating format is the rectifier: negative values go to zero.
        return self.node(ir.Quantize, x, x.shape, suffix, format=format)
