"""What hls4ml has to be told before it can take the layers of `fpga_bridge.hls.keras_model`, and C++ that it lacks."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpga_bridge.typed_graph.graph import Graph, Table, Upsample, Weight, ZeroInsert
from jaxgeo.layers.fixed_point import FixedPoint

_MAX_DISTANCE_BITS = 4  # e^-16 is less than half of the last of 18 bits
_MAX_ADDRESS_BITS = 13  # of a softmax's table of exponentials
_MAX_RECIPROCAL_BITS = 14  # of its table of reciprocals
_RECIPROCAL_BITS = 9  # after the point, of the sum of exponentials that addresses the reciprocals
_HEADER = "nnet_zero_insertion.h"
_CONFIG = """struct config{index} : nnet::zero_insertion_config {{
    static const unsigned in_height = {in_height};
    static const unsigned in_width = {in_width};
    static const unsigned n_chan = {n_chan};
    static const unsigned stride_height = {stride_height};
    static const unsigned stride_width = {stride_width};
}};\n"""
_CALL = "nnet::zero_insertion<{input_t}, {output_t}, {config}>({input}, {output});"
_SOURCE = """#ifndef NNET_ZERO_INSERTION_H_
#define NNET_ZERO_INSERTION_H_

#include "hls_stream.h"
#include "nnet_common.h"

namespace nnet {

struct zero_insertion_config {
    static const unsigned in_height = 1;
    static const unsigned in_width = 1;
    static const unsigned n_chan = 1;
    static const unsigned stride_height = 1;
    static const unsigned stride_width = 1;
};

// Pixels of an image stand a stride apart in the result, with zeros between them and none behind the last.
template <class data_T, class res_T, typename CONFIG_T>
void zero_insertion(data_T data[CONFIG_T::in_height * CONFIG_T::in_width * CONFIG_T::n_chan], res_T *res) {
    const unsigned out_height = (CONFIG_T::in_height - 1) * CONFIG_T::stride_height + 1;
    const unsigned out_width = (CONFIG_T::in_width - 1) * CONFIG_T::stride_width + 1;
    #pragma HLS PIPELINE
Rows:
    for (unsigned i = 0; i < out_height; i++) {
    Columns:
        for (unsigned j = 0; j < out_width; j++) {
            const bool pixel = i % CONFIG_T::stride_height == 0 && j % CONFIG_T::stride_width == 0;
            const unsigned from = i / CONFIG_T::stride_height * CONFIG_T::in_width + j / CONFIG_T::stride_width;
        Channels:
            for (unsigned k = 0; k < CONFIG_T::n_chan; k++) {
                res_T value = 0;
                if (pixel) value = data[from * CONFIG_T::n_chan + k];
                res[(i * out_width + j) * CONFIG_T::n_chan + k] = value;
            }
        }
    }
}

template <class data_T, class res_T, typename CONFIG_T>
void zero_insertion(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    const unsigned out_height = (CONFIG_T::in_height - 1) * CONFIG_T::stride_height + 1;
    const unsigned out_width = (CONFIG_T::in_width - 1) * CONFIG_T::stride_width + 1;
Rows:
    for (unsigned i = 0; i < out_height; i++) {
    Columns:
        for (unsigned j = 0; j < out_width; j++) {
            #pragma HLS PIPELINE
            res_T result;
            PRAGMA_DATA_PACK(result)
            if (i % CONFIG_T::stride_height == 0 && j % CONFIG_T::stride_width == 0) {
                data_T pixel = data.read();
            Channels:
                for (unsigned k = 0; k < CONFIG_T::n_chan; k++) {
                    #pragma HLS UNROLL
                    result[k] = pixel[k];
                }
            } else {
            Zeros:
                for (unsigned k = 0; k < CONFIG_T::n_chan; k++) {
                    #pragma HLS UNROLL
                    result[k] = 0;
                }
            }
            res.write(result);
        }
    }
}

} // namespace nnet

#endif
"""


class _Named(NamedTuple):
    """A type as hls4ml's templates read it."""

    name: str


def register_layers(backend: str) -> None:
    """Make our quantiser, zero insertion and padding known to hls4ml, once in a process and backend."""
    from hls4ml.converters.keras_v3._base import registry

    if "fpga_bridge.hls.keras_model.FixedPointQuantizer" not in registry:
        _register_quantizer()
        _register_table()
        _register_zero_insertion()
        _register_passes()
    owner = "Vivado" if backend == "VivadoAccelerator" else backend  # whose templates write the network
    if owner not in _BACKENDS:
        _register_templates(owner)
        _register_padding(owner)
        _BACKENDS.add(owner)


_BACKENDS: set[str] = set()  # that know our templates; hls4ml refuses a second registration


def set_softmax_tables(model: Any, graph: Graph, formats: Mapping[str, FixedPoint]) -> None:
    """Tables of each softmax that no distance between two logits leaves, and one softmax for each place.

    Left alone, hls4ml holds the distance to the largest logit in the bits of one logit, where it wraps, and makes both
    tables as small as a logit has words. The distance is saturated at 16 here: what lies further is below 2^-23.

    Args:
        model: hls4ml's, with templates filled.
        graph: that it was made of.
        formats: of the logits, by the name of the softmax.
    """
    from hls4ml.backends.vivado.passes.core_templates import SoftmaxConfigTemplate, SoftmaxFunctionTemplate

    for name, logits in formats.items():
        layer, classes = model.graph[name], graph[name].shape[-1]
        integer = min(logits.integer, _MAX_DISTANCE_BITS)
        width = max(min(integer + logits.fraction, _MAX_ADDRESS_BITS), 1)
        layer.set_attr("inp_norm_t", _Named(f"ap_ufixed<{width}, {integer}, AP_RND, AP_SAT>"))
        layer.set_attr("exp_table_size", 1 << width)
        layer.set_attr("inv_table_size", 1 << _reciprocal_bits(classes))
        layer.set_attr("n_outer", math.prod(graph[name].shape[:-1]))
        layer.set_attr("config_cpp", SoftmaxConfigTemplate().format(layer))
        layer.set_attr("function_cpp", SoftmaxFunctionTemplate().format(layer))


def _reciprocal_bits(classes: int) -> int:
    return min(classes.bit_length() + _RECIPROCAL_BITS, _MAX_RECIPROCAL_BITS)


def softmax_error(classes: int) -> float:
    """A bound of the error of each probability, with the tables of `set_softmax_tables`.

    The sum of exponentials, at least 1, is cut to the bits that address its reciprocal. Another 2^-10 is for the
    distances, which are rounded to 9 bits after the point or more, and for the entries, which have 18 bits.
    """
    return 2.0 ** (classes.bit_length() - _reciprocal_bits(classes)) + 2.0**-10


def write_sources(folder: Path, graph: Graph) -> None:
    """The C++ of our own layers, beside hls4ml's, where the network has such layers.

    Raises:
        OSError: the folder cannot be written.
    """
    if any(isinstance(node, ZeroInsert) for node in graph):
        (folder / "firmware" / "nnet_utils" / _HEADER).write_text(_SOURCE, encoding="utf-8")


def nearest_is_exact(graph: Graph, node: Upsample) -> bool:
    """Whether hls4ml's parallel upsampling, which divides by a product with 16 fraction bits, finds every pixel."""
    for old, new in zip(graph[node.inputs[0]].shape[:-1], node.shape[:-1], strict=True):
        ratio = (old << 16) // new + 1
        places = np.arange(new, dtype=np.int64)
        # The C++ computes in int; beyond 31 bits it would go astray.
        if (old << 16) >= 1 << 31 or (new - 1) * ratio >= 1 << 31:
            return False
        if not np.array_equal(places * ratio >> 16, places * old // new):
            return False
    return True


def _register_quantizer() -> None:
    """Our quantiser is an identity whose output type does the rounding.

    hls4ml's own FixedPointQuantizer layer exists for io_parallel only; a typed identity streams too, and hls4ml
    removes it where the layer before already writes that type.
    """
    from hls4ml.converters.keras_v3._base import KerasV3LayerHandler

    class QuantizerHandler(KerasV3LayerHandler):
        handles = ("fpga_bridge.hls.keras_model.FixedPointQuantizer",)

        def handle(self, layer: Any, in_tensors: Any, out_tensors: Any) -> dict[str, Any]:
            size = math.prod(in_tensors[0].shape[1:])
            return {"class_name": "Activation", "activation": "linear", "n_in": size}


def _register_table() -> None:
    """Our table is the one of hls4ml that HGQ2's functions become, with an entry for every pattern of bits."""
    from hls4ml.converters.keras_v3._base import KerasV3LayerHandler
    from hls4ml.model.types import FixedPrecisionType

    class TableHandler(KerasV3LayerHandler):
        handles = ("fpga_bridge.hls.keras_model.TableActivation",)

        def handle(self, layer: Any, in_tensors: Any, out_tensors: Any) -> dict[str, Any]:
            result = layer.output_format
            entries = Weight(np.asarray(layer.entries.value), result)
            node = Table(
                name=layer.name, inputs=(), shape=(), function=layer.function, entries=entries,
                input_format=layer.input_format,
            )  # fmt: skip
            return {
                "class_name": "UnaryLUT",
                "activation": "unary_lut",
                "table_data": node.by_pattern,
                "table_t": FixedPrecisionType(result.width, result.integer, result.signed),
            }


def _register_zero_insertion() -> None:
    """A layer of hls4ml's own graph, and how our Keras layer becomes one."""
    from hls4ml.converters.keras_v3._base import KerasV3LayerHandler
    from hls4ml.model.attributes import Attribute
    from hls4ml.model.layers import Layer, register_layer

    class HlsZeroInsertion(Layer):
        _expected_attributes = [  # noqa: RUF012  # hls4ml reads a list of the class
            Attribute(name) for name in ("in_height", "in_width", "n_chan", "stride_height", "stride_width")
        ]

        def initialize(self) -> None:
            variable = self.get_input_variable()
            self.add_output_variable(self.get_attr("out_shape"), precision=variable.type.precision)

    register_layer("ZeroInsertion", HlsZeroInsertion)

    class ZeroInsertionHandler(KerasV3LayerHandler):
        handles = ("fpga_bridge.hls.keras_model.ZeroInsertion",)

        def handle(self, layer: Any, in_tensors: Any, out_tensors: Any) -> dict[str, Any]:
            *sizes, channels = in_tensors[0].shape[1:]
            sizes, strides = (1, *sizes)[-2:], (1, *layer.strides)[-2:]
            return {
                "class_name": "ZeroInsertion",
                "in_height": sizes[0],
                "in_width": sizes[1],
                "n_chan": channels,
                "stride_height": strides[0],
                "stride_width": strides[1],
                "out_shape": list(out_tensors[0].shape[1:]),
            }


def _register_passes() -> None:
    """Let hls4ml leave out or merge layers only where that changes no number.

    A transpose it merges into the dense layer behind a flatten as if channels had come first, whatever the transpose
    says; one of an input of a single row it leaves out, whatever its axes; and of a batch norm of scale 1 and offset 0
    it leaves out the rounding too.
    """
    from hls4ml.model.optimizer.optimizer import optimizer_map
    from hls4ml.model.optimizer.passes.batchnorm_opt import RemoveNopBatchNormalization
    from hls4ml.model.optimizer.passes.convert_to_channels_last import RemoveTransposeBeforeFlatten
    from hls4ml.model.optimizer.passes.transpose_opt import RemoveSingleChannelTranspose

    class MergesChannelsFirst(RemoveTransposeBeforeFlatten):
        def match(self, node: Any) -> bool:
            matches = super().match(node)
            return matches and tuple(node.get_input_node().get_attr("perm")) in ((1, 0), (2, 0, 1))

    class RemovesNoTranspose(RemoveSingleChannelTranspose):
        def match(self, node: Any) -> bool:
            return False

    class RemovesWhatRoundsNothing(RemoveNopBatchNormalization):
        def match(self, node: Any) -> bool:
            if not super().match(node):
                return False
            return node.get_input_variable().type.precision == node.get_output_variable().type.precision

    optimizer_map["remove_transpose_before_flatten"] = MergesChannelsFirst()
    optimizer_map["remove_single_channel_transpose"] = RemovesNoTranspose()
    optimizer_map["remove_nop_batch_normalization"] = RemovesWhatRoundsNothing()


def _register_templates(backend: str) -> None:
    from hls4ml.backends import get_backend
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.model.layers import layer_map

    kind = layer_map["ZeroInsertion"]

    class ZeroInsertionConfigTemplate(LayerConfigTemplate):
        def __init__(self) -> None:
            super().__init__(kind)

        def format(self, node: Any) -> str:
            return _CONFIG.format(**self._default_config_params(node))

    class ZeroInsertionFunctionTemplate(FunctionCallTemplate):
        def __init__(self) -> None:
            super().__init__(kind, include_header=[f"nnet_utils/{_HEADER}"])

        def format(self, node: Any) -> str:
            return _CALL.format(**self._default_function_params(node))

    for template in (ZeroInsertionConfigTemplate, ZeroInsertionFunctionTemplate):
        get_backend(backend).register_template(template)


def _register_padding(backend: str) -> None:
    """Put the zeros of a streamed 1-D convolution before that convolution.

    hls4ml puts them before whichever layer comes first of those that read the same stream, and computes on.
    """
    from hls4ml.backends.vivado.passes.conv_same_pad import InsertZeroPaddingBeforeConv1D
    from hls4ml.model.optimizer.optimizer import optimizer_map

    class PaddingBeforeItsConvolution(InsertZeroPaddingBeforeConv1D):
        def transform(self, model: Any, node: Any) -> bool:
            return super().transform(_InsertsBefore(model, node), node)

    for owner in ("vivado", backend.lower()):  # Vitis runs passes of Vivado
        optimizer_map[f"{owner}:{InsertZeroPaddingBeforeConv1D.name}"] = PaddingBeforeItsConvolution()


class _InsertsBefore:
    """hls4ml's model, with every insertion before one node."""

    def __init__(self, model: Any, node: Any) -> None:
        self._model, self._node = model, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def insert_node(self, node: Any) -> None:
        self._model.insert_node(node, before=self._node)
