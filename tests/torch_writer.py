"""Writes files as `torch.save` does, by Python's own pickler and stand-ins for PyTorch's names.

References:
    PyTorch documentation, "Serialization semantics".
"""

import collections
import functools
import io
import math
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORAGES = {
    np.dtype(dtype): f"{name}Storage"
    for name, dtype in [
        ("Double", "f8"), ("Float", "f4"), ("Half", "f2"), ("BFloat16", BFLOAT16), ("ComplexFloat", "c8"),
        ("ComplexDouble", "c16"), ("Char", "i1"), ("Short", "i2"), ("Int", "i4"), ("Long", "i8"), ("Byte", "u1"),
        ("Bool", "?"),
    ]
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


@functools.cache
def named(module, name):
    """Something that a pickle names so; only its name is ever written."""
    return type(name, (), {"__module__": module, "__qualname__": name})


REBUILD = functools.partial(named, "torch._utils")
NAMES = {
    "torch": [*STORAGES.values(), "Tensor", "Size", "uint16", "float32"],
    "torch.storage": ["UntypedStorage"],
    "torch.nn.parameter": ["Parameter"],
    "torch._tensor": ["_rebuild_from_type_v2"],
    "torch._utils": [
        f"_rebuild_{name}"
        for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "sparse_tensor")
    ],
    "torch.nn.modules.linear": ["Linear"],
}


class Stored:
    """A storage: flat elements, which it writes in one byte order."""

    def __init__(self, elements, type_name=None, view=None):
        self.elements, self.view = elements, view
        self.kind = named("torch.storage" if type_name else "torch", type_name or STORAGES[elements.dtype])

    def written(self, order="little"):
        # By parts of numbers, as bits: a cast of a NaN may change it.
        parts = self.elements.itemsize // (2 if self.elements.dtype.kind == "c" else 1)
        return self.elements.view(f"u{parts}").astype(f"{'<' if order == 'little' else '>'}u{parts}").tobytes()


class Call:
    """An object that is pickled as a call, and then perhaps given a state."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)


def tensor(stored, size, stride, offset=0, *more):
    return Call(REBUILD("_rebuild_tensor_v2"), stored, offset, size, stride, False, collections.OrderedDict(), *more)


def whole(array):
    """A contiguous tensor with a storage of its own."""
    stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    return tensor(Stored(array.ravel()), array.shape, stride)


def pickled(top, protocol=2, legacy=False):
    """Bytes of the pickle, and the storages by key."""
    stream, keys = io.BytesIO(), {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Stored):
                return None
            key = next((key for key, other in keys.items() if other is value), str(len(keys)))
            keys[key] = value
            return ("storage", value.kind, key, "cpu", len(value.elements), *([value.view] if legacy else []))

        def reducer_override(self, value):
            return value.reduced if isinstance(value, Call) else NotImplemented

    modules = {}
    for module, names in NAMES.items():
        modules[module] = types.ModuleType(module)
        for name in names:
            setattr(modules[module], name, named(module, name))
    with mock.patch.dict(sys.modules, modules):
        Pickler(stream, protocol).dump(top)
    return stream.getvalue(), keys


def zipped(program, storages, order="little", folder="archive", compression=zipfile.ZIP_STORED, **records):
    stream = io.BytesIO()
    records = {"data.pkl": program, "byteorder": order, "version": "3\n"} | records
    records |= {f"data/{key}": stored.written(order) for key, stored in storages.items()}
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"{folder}/{name}", content)
    return stream.getvalue()


def zip_file(top, protocol=2, **options):
    return zipped(*pickled(top, protocol), **options)


def legacy_file(top, protocol=2, magic=MAGIC, version=1001):
    program, storages = pickled(top, protocol, legacy=True)
    head = [magic, version, {"little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}]
    tail = b"".join(struct.pack("<q", len(stored.elements)) + stored.written() for stored in storages.values())
    dumped = [pickle.dumps(value, protocol) for value in (*head, list(storages))]
    return b"".join((*dumped[:3], program, dumped[3], tail))
