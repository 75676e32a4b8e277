"""The few messages of ONNX's protocol buffers that a network needs, encoded byte by byte; no package of ONNX is used.

A message is a row of fields, each a key (field number and wire type in one variable-length integer) and a value:
integers in groups of seven bits, floats in four bytes, and texts, arrays and messages behind their length.

References:
    ONNX, "onnx.proto3" (field numbers), version 1.14; Protocol Buffers, "Encoding".
"""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

IR_VERSION = 8
OPSET = 13
_ELEMENT_TYPES = {"float32": 1, "int64": 7, "bool": 9, "float64": 11}
Attribute = int | float | str | Sequence[int]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as two's complement of 64 bits
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, array: np.ndarray) -> bytes:
    """A TensorProto; float32, float64, int64 or bool, little-endian."""
    kind = _ELEMENT_TYPES[array.dtype.name]
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    dims = b"".join(_integer(1, size) for size in array.shape)
    return dims + _integer(2, kind) + _bytes(8, name) + _bytes(9, little.tobytes())


def _attribute(name: str, value: Attribute) -> bytes:
    head = _bytes(1, name)
    if isinstance(value, str):
        return head + _bytes(4, value) + _integer(20, 3)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _integer(20, 1)
    if isinstance(value, int):
        return head + _integer(3, value) + _integer(20, 2)
    return head + b"".join(_integer(8, int(item)) for item in value) + _integer(20, 7)


def node(operation: str, inputs: Iterable[str], output: str, attributes: dict[str, Attribute] | None = None) -> bytes:
    """A NodeProto of one output, which gives it its name."""
    data = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(3, output) + _bytes(4, operation)
    return data + b"".join(_bytes(5, _attribute(name, value)) for name, value in (attributes or {}).items())


def value_info(name: str, shape: Sequence[int | str], dtype: str) -> bytes:
    """A ValueInfoProto; a size that is a text is free, such as that of the batch."""
    dims = (_integer(1, size) if isinstance(size, int) else _bytes(2, size) for size in shape)
    dimensions = b"".join(_bytes(1, dim) for dim in dims)
    element = _integer(1, _ELEMENT_TYPES[dtype]) + _bytes(2, dimensions)
    return _bytes(1, name) + _bytes(2, _bytes(1, element))


def model(
    name: str,
    nodes: Iterable[bytes],
    initializers: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
) -> bytes:
    """A ModelProto around one graph, for the operator set `OPSET`."""
    graph = b"".join(_bytes(1, item) for item in nodes) + _bytes(2, name)
    graph += b"".join(_bytes(5, item) for item in initializers)
    graph += b"".join(_bytes(11, item) for item in inputs) + b"".join(_bytes(12, item) for item in outputs)
    opset = _bytes(1, "") + _integer(2, OPSET)
    return _integer(1, IR_VERSION) + _bytes(2, "jaxgeo") + _bytes(7, graph) + _bytes(8, opset)
