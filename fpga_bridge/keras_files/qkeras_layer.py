"""A layer of a Keras file while its nodes are built: its settings, arrays, quantisers and activation."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga_bridge.keras_files.archive import KerasFile, LayerSpec
from fpga_bridge.keras_files.channel_scales import channel_scaled
from fpga_bridge.keras_files.qkeras_quantizers import (
    BY_TABLE,
    Quantizer,
    activation_format,
    constant_scale,
    hard_form,
    parse_quantizer,
    quantize_weight,
    ternary_threshold,
)
from fpga_bridge.tracing.values import Builder, Tensor
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.source import Place
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.table_activation import EXP, GELU, SIGMOID, SILU, TANH, ScalarFunction, plan_table

_FUNCTIONS = {"tanh": TANH, "sigmoid": SIGMOID, "gelu": GELU, "silu": SILU, "swish": SILU, "exponential": EXP}
_CLIPPED = {"hard_sigmoid": 0.5, "hard_tanh": 1.0}
"""Of QKeras, by their slopes; the `hard_sigmoid` of Keras has another one in each version."""


class Layer:
    """One use of a layer while the graph is built."""

    def __init__(
        self,
        builder: Builder,
        spec: LayerSpec,
        file: KerasFile,
        source: ir.Source,
        tables: FixedPoint | None = None,
    ) -> None:
        """`tables` as in `fpga_bridge.keras_files.qkeras_files.load_keras_graph`."""
        self.builder, self.spec, self.file, self.source, self.tables = builder, spec, file, source, tables
        self.config: Mapping[str, Any] = spec.config
        self.name = str(spec.config.get("name", spec.name))
        self.kind = spec.class_name.removeprefix("Q") if spec.class_name != "QConv2DBatchnorm" else spec.class_name
        self.where = f"layer {self.name!r} ({spec.class_name}) of {Path(file.path).name}"

    @property
    def place(self) -> Place:
        """For rules of the trace, which name what they add after the layer."""
        return Place(self.source, f"/{self.name}")

    def refuse(self, why: str, instead: str) -> ExportError:
        """The error for what hardware cannot take of this layer, to be raised by the caller."""
        return ExportError(f"{self.where} {why}; {instead}")

    def check_dtype(self) -> None:
        """Refuse a layer that computes in other numbers than float32 or float64."""
        dtype = self.config.get("dtype", "float32")
        dtype = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
        if dtype not in ("float32", "float64", None):
            raise self.refuse(f"computes in {dtype}", "save the model with dtype float32")

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

    def pair(self, kind: type[ir.Node], x: Tensor, y: Tensor, suffix: str = "") -> Tensor:
        """Add a node that joins two activations of one shape number by number, named as by `node`."""
        name = f"{self.name}_{suffix}" if suffix else self.name
        return self.builder.emit(kind, name, inputs=(x.name, y.name), shape=x.shape, source=self.source)

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

    def bias(self, arrays: Mapping[str, np.ndarray]) -> ir.Weight | None:
        """The bias of a layer that has one, rounded by its quantiser."""
        return self.weight(arrays["bias"], "bias") if "bias" in arrays else None

    def product(
        self,
        emit: Callable[[ir.Weight, ir.Weight | None], Tensor],
        kernel: np.ndarray,
        bias: ir.Weight | None,
        *,
        quantizer: str = "kernel",
        rounded: bool = False,
        copies: int = 1,
    ) -> Tensor:
        """What `emit` makes of a kernel and a bias; scales of channels that are no constants stand behind it.

        Args:
            emit: adds the layer for a kernel and a bias.
            kernel: as stored, channels last.
            bias: rounded; goes behind the scales.
            quantizer: begins the name of the setting that rounds the kernel.
            rounded: whether float arithmetic made the kernel.
            copies: times that the layer has each channel of the kernel.
        """
        scaled = channel_scaled(self.quantizer(quantizer), kernel)
        if scaled is None:
            return emit(self.weight(kernel, quantizer, rounded), bias)
        y = emit(scaled.kernel, None)
        scale = dataclasses.replace(scaled.scale, value=np.tile(scaled.scale.value, copies))
        offset = bias or ir.Weight(np.zeros_like(scale.value))
        return self.builder.emit(
            ir.Affine,
            f"{y.name}_alpha",
            inputs=(y.name,),
            shape=y.shape,
            source=self.source,
            scale=scale,
            offset=offset,
        )

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
        name = value.split("(")[0].removeprefix("stochastic_") if isinstance(value, str) else ""
        if name in _CLIPPED and self.spec.class_name.startswith("Q"):
            return self._clipped(x, _CLIPPED[name])
        if name in _FUNCTIONS and self.tables is not None:
            return self._looked_up(x, _FUNCTIONS[name], self.tables, suffix)
        if name.isidentifier() and "quantized" not in name and name not in ("binary", "ternary"):
            remedy = "use relu, softmax, linear, binary, ternary or a quantized_ activation"
            raise self.refuse(f"has the activation {value}", remedy + (BY_TABLE if name in _FUNCTIONS else ""))
        quantizer = parse_quantizer(value, self.where)
        assert quantizer is not None  # of None there is none
        return self._quantized(x, quantizer, suffix)

    def _quantized(self, x: Tensor, quantizer: Quantizer, suffix: str) -> Tensor:
        """The activation that a quantiser is."""
        function, hard = hard_form(quantizer)
        if function and self.tables is not None:
            return self._looked_up(x, _FUNCTIONS[function], activation_format(hard), suffix)
        if quantizer.kind in ("binary", "ternary"):
            return self._levels(x, quantizer, suffix)
        format = activation_format(quantizer)
        if quantizer.kind == "quantized_sigmoid":
            half = ir.Weight(np.full(x.shape[-1], 0.5, np.float32), FixedPoint(2, 1))
            x = self.node(ir.Affine, x, x.shape, "hard_sigmoid", scale=half, offset=half)
        # An unsigned saturating format is the rectifier: negative values go to zero.
        return self.node(ir.Quantize, x, x.shape, suffix, format=format)

    def _clipped(self, x: Tensor, scale: float) -> Tensor:
        """The smaller of 1 and the rectified line `scale * x + scale`, which begins at 1 - 2 * scale."""

        def line(x: Tensor, scale: float, offset: float) -> Tensor:
            weights = (
                ir.Weight(np.full(x.shape[-1], value, np.float32), FixedPoint(4, 3)) for value in (scale, offset)
            )
            fields = dict(zip(("scale", "offset"), weights, strict=True))
            return self.node(ir.Affine, x, x.shape, "clip", **fields)

        above = self.node(ir.Relu, line(x, scale, scale), x.shape, "above")
        return line(self.node(ir.Relu, line(above, -1.0, 2 * scale), x.shape, "below"), -1.0, 1.0)

    def _looked_up(self, x: Tensor, function: ScalarFunction, output: FixedPoint, suffix: str) -> Tensor:
        """A function of numbers rounded to the format of tables."""
        assert self.tables is not None
        try:
            table = plan_table(function, self.tables, output)
        except ConfigError as error:
            raise ConfigError(f"{self.where}: {error}") from error
        x = self.node(ir.Quantize, x, x.shape, f"{function.name}_input", format=self.tables)
        entries = ir.Weight(table.values.astype(np.float32), output)
        fields = dict(function=function.name, entries=entries, input_format=self.tables)
        return self.node(ir.Table, x, x.shape, suffix and function.name, **fields)

    def _levels(self, x: Tensor, quantizer: Quantizer, suffix: str) -> Tensor:
        """`binary` and `ternary`: a sign of one bit, and for the latter whether the size reaches the threshold."""

        def name(part: str) -> str:
            return f"{suffix}_{part}" if suffix else part

        def scaled(x: Tensor, scale: float, offset: float, label: str) -> Tensor:
            integer = 3 + round(math.log2(offset))  # the scale is once or twice the offset
            format = FixedPoint(max(3, integer), integer)
            weights = (ir.Weight(np.full(x.shape[-1], value, np.float32), format) for value in (scale, offset))
            return self.node(ir.Affine, x, x.shape, label, **dict(zip(("scale", "offset"), weights, strict=True)))

        alpha = constant_scale(quantizer)
        # -1 below zero, else 0: floor, then saturation.
        sign = self.node(ir.Quantize, x, x.shape, name("sign"), format=FixedPoint(1, 1, True, "TRN", "SAT"))
        if quantizer.kind == "binary":
            scale = alpha if quantizer["use_01"] else 2 * alpha
            return scaled(sign, scale, alpha, suffix)
        threshold = ternary_threshold(quantizer)
        minus = ir.Weight(np.full(x.shape[-1], -1, np.float32), FixedPoint(2, 2))
        size = self.node(ir.PRelu, x, x.shape, name("size"), slope=minus)
        # The rectifier keeps what is greater than its threshold, `ternary` what reaches it.
        below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
        size = self.node(ir.ThresholdedRelu, size, x.shape, name("large"), threshold=below)
        # All that is left is at least half of this step, and saturates at one step.
        shift = min(math.floor(math.log2(2 * np.float32(threshold))), 0)
        size = self.node(ir.Quantize, size, x.shape, name("one"), format=FixedPoint(1, 1 + shift, False, "RND", "SAT"))
        sign = scaled(sign, alpha * 2.0 ** (1 - shift), alpha * 2.0**-shift, name("signed"))
        return self.pair(ir.Multiply, sign, size, suffix)
