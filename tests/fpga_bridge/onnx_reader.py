"""ONNX models read by Google's protocol buffers and computed in NumPy: shares nothing with what wrote them."""

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields

# Fields of onnx.proto3 (field number, kind, repeated), kinds being scalar types or names of messages.
MESSAGES = {
    "OperatorSetIdProto": {"domain": (1, "STRING", False), "version": (2, "INT64", False)},
    "Dimension": {"dim_value": (1, "INT64", False), "dim_param": (2, "STRING", False)},
    "TensorShapeProto": {"dim": (1, "Dimension", True)},
    "TypeTensor": {"elem_type": (1, "INT32", False), "shape": (2, "TensorShapeProto", False)},
    "TypeProto": {"tensor_type": (1, "TypeTensor", False)},
    "ValueInfoProto": {"name": (1, "STRING", False), "type": (2, "TypeProto", False)},
    "TensorProto": {
        "dims": (1, "INT64", True), "data_type": (2, "INT32", False), "name": (8, "STRING", False),
        "raw_data": (9, "BYTES", False),
    },
    "AttributeProto": {
        "name": (1, "STRING", False), "f": (2, "FLOAT", False), "i": (3, "INT64", False), "s": (4, "BYTES", False),
        "ints": (8, "INT64", True), "type": (20, "INT32", False),
    },
    "NodeProto": {
        "input": (1, "STRING", True), "output": (2, "STRING", True), "name": (3, "STRING", False),
        "op_type": (4, "STRING", False), "attribute": (5, "AttributeProto", True),
    },
    "GraphProto": {
        "node": (1, "NodeProto", True), "name": (2, "STRING", False), "initializer": (5, "TensorProto", True),
        "input": (11, "ValueInfoProto", True), "output": (12, "ValueInfoProto", True),
    },
    "ModelProto": {
        "ir_version": (1, "INT64", False), "producer_name": (2, "STRING", False), "graph": (7, "GraphProto", False),
        "opset_import": (8, "OperatorSetIdProto", True),
    },
}  # fmt: skip


def _model_class():
    file = descriptor_pb2.FileDescriptorProto(name="onnx_of_the_tests.proto", package="onnx_test", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, label=label)
            if kind in MESSAGES:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".onnx_test.{kind}"
            else:
                entry.type = getattr(kinds, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx_test.ModelProto"))


ModelProto = _model_class()
TYPES = {1: np.float32, 7: np.int64, 9: np.bool_, 11: np.float64}


def read(data):
    """The model; a field that the messages above lack is an error."""
    model = ModelProto.FromString(data)
    _check_known(model)
    return model


def _check_known(message):
    assert not len(unknown_fields.UnknownFieldSet(message)), f"unknown fields in {message.DESCRIPTOR.name}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _check_known(part)


def run(model, x):
    """Outputs of the model in NumPy."""
    graph = model.graph
    values = {"": None, graph.input[0].name: x.astype(TYPES[graph.input[0].type.tensor_type.elem_type])}
    for item in graph.initializer:
        values[item.name] = np.frombuffer(item.raw_data, TYPES[item.data_type]).reshape(tuple(item.dims))
    for node in graph.node:
        attributes = {a.name: {1: a.f, 2: a.i, 3: a.s.decode(), 7: tuple(a.ints)}[a.type] for a in node.attribute}
        values[node.output[0]] = OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
    return values[graph.output[0].name]


def _windows(x, kernel_shape, strides, pads, fill):
    """Views (batch, channel, *position, *window) of an image that is padded with a value."""
    rank = len(kernel_shape)
    x = np.pad(x, ((0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, kernel_shape, axis=tuple(range(2, 2 + rank)))
    return views[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]


def _conv(x, kernel, bias=None, *, kernel_shape, strides, pads):
    views = _windows(x, kernel_shape, strides, pads, 0.0)
    rank = len(kernel_shape)
    y = np.tensordot(views, kernel, ((1, *range(2 + rank, 2 + 2 * rank)), (1, *range(2, 2 + rank))))
    y = np.moveaxis(y, -1, 1)
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


def _pad(x, pads):
    rank = x.ndim
    x = np.pad(x, [(max(b, 0), max(e, 0)) for b, e in zip(pads[:rank], pads[rank:], strict=True)])
    return x[tuple(slice(-min(b, 0), n + min(e, 0)) for b, e, n in zip(pads[:rank], pads[rank:], x.shape, strict=True))]


def _resize(x, _, scales, *, coordinate_transformation_mode, mode, nearest_mode):
    assert (coordinate_transformation_mode, mode, nearest_mode) == ("asymmetric", "nearest", "floor")
    for axis, scale in enumerate(scales):
        places = np.floor(np.arange(int(np.floor(x.shape[axis] * scale))) / scale).astype(int)
        x = np.take(x, places, axis)
    return x


def _softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


OPERATORS = {
    "Identity": lambda x: x,
    "MatMul": np.matmul,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Relu": lambda x: np.maximum(x, 0),
    "Abs": np.abs,
    "Sign": np.sign,
    "Floor": np.floor,
    "Round": np.round,
    "Clip": np.clip,
    "Less": np.less,
    "Greater": np.greater,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": np.where,
    "Transpose": lambda x, perm: x.transpose(perm),
    "Reshape": lambda x, shape: x.reshape([n or old for n, old in zip(shape, (*x.shape, *shape), strict=False)]),
    "Cast": lambda x, to: x.astype(TYPES[to]),
    "Gather": np.take,
    "Concat": lambda *x, axis: np.concatenate(x, axis),
    "ReduceMax": lambda x, axes, keepdims: x.max(axis=axes, keepdims=bool(keepdims)),
    "ReduceMean": lambda x, axes, keepdims: x.mean(axis=axes, keepdims=bool(keepdims)),
    "Softmax": _softmax,
    "Conv": _conv,
    "Pad": _pad,
    "Resize": _resize,
    "MaxPool": lambda x, **a: _windows(x, fill=-np.inf, **a).max(axis=tuple(range(-len(a["strides"]), 0))),
    "AveragePool": lambda x, **a: _windows(x, fill=0.0, **a).mean(axis=tuple(range(-len(a["strides"]), 0))),
}
