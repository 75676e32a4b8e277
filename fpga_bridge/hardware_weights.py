"""A network for hardware in one file: weights as integer words, formats as text, the graph as JSON.

The file is an `.npz` (a zip of `.npy` arrays; `numpy.load(path, allow_pickle=False)` opens it) of

- `graph`: UTF-8 bytes of JSON `{"version", "output", "nodes", "types", "sha256"}`. A node has `kind` (class name of
  `fpga_bridge.typed_graph.graph`), `name`, `inputs`, `shape`, its settings, and for each weight
  `{"words", "fraction", "format"}`: the array of that name holds integers k, and the weight is k * 2^-fraction;
  `format` is the type in hardware, such as `ap_fixed<6,1,AP_RND_CONV,AP_SAT>`. `types` gives the type of every node's
  result, of its accumulator and weights.
- `<node>.<weight>`: the words, in the smallest of int8, int16, int32 and int64 that holds them. Kernels lie as
  (*window, in, out), channels last.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types, words
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError
from jaxgeo.files import read_bytes, write_bytes_atomically
from jaxgeo.layers.fixed_point import FixedPoint

VERSION = 1
_KINDS: dict[str, type[ir.Node]] = {kind.__name__: kind for kind in ir.Node.__subclasses__()}
_COMMON = ("name", "inputs", "shape", "source")


def save_hardware_weights(path: Path, graph: ir.Graph) -> str:
    """Write a graph with its words, and return the SHA-256 of the file.

    Args:
        path: ends in `.npz` by custom; written in one step.
        graph: fully quantised.

    Raises:
        ExportError: where a value has no fixed-point format; names layer and line.
        RunFolderError: where the file cannot be written.
    """
    types = plan_types(graph, FLOAT64_BITS)
    arrays: dict[str, np.ndarray] = {}
    nodes = [_node_to_json(node, arrays) for node in graph]
    keys = ("result", "accumulator", "weight", "bias")
    table = {
        name: {key: str(value) for key in keys if (value := getattr(planned, key)) is not None}
        for name, planned in types.items()
    }
    description = {"version": VERSION, "output": graph.output, "nodes": nodes, "types": table}
    description["sha256"] = _digest(description, arrays)
    text = np.frombuffer(json.dumps(description, allow_nan=False).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, graph=text, **arrays)  # pyright: ignore[reportArgumentType]
    return write_bytes_atomically(Path(path), file.getvalue())


def _digest(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    content = {key: value for key, value in description.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"\0{name}\0{arrays[name].dtype.str}\0{arrays[name].shape}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _node_to_json(node: ir.Node, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": type(node).__name__, "name": node.name, "inputs": node.inputs, "shape": node.shape}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if field.name in _COMMON or value is None:
            continue
        if isinstance(value, ir.Weight):
            found = words(value)
            if found is None:
                raise ExportError(f"the {field.name} of layer {node.name} ({node.source}) lies on no fixed-point grid")
            key = f"{node.name}.{field.name}"
            arrays[key] = _narrowest(found[0])
            format = None if value.format is None else str(value.format)
            entry[field.name] = {"words": key, "fraction": found[1], "format": format}
        else:
            entry[field.name] = str(value) if isinstance(value, FixedPoint) else value
    return entry


def _narrowest(integers: np.ndarray) -> np.ndarray:
    for dtype in (np.int8, np.int16, np.int32):
        range_ = np.iinfo(dtype)
        if range_.min <= integers.min(initial=0) and integers.max(initial=0) <= range_.max:
            return integers.astype(dtype)
    return integers


def load_hardware_weights(path: Path) -> ir.Graph:
    """The graph of a file that `save_hardware_weights` wrote: the same words, formats and connections.

    `source` of every node is the file.

    Raises:
        CorruptFileError: a file that is truncated, altered, or of another kind.
        ConfigError: a file of a later version.
        RunFolderError: a file that cannot be read.
    """
    data = read_bytes(Path(path))
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(arrays.pop("graph").tobytes())
        version = description["version"]
        whole = _digest(description, arrays) == description["sha256"]
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise CorruptFileError(f"{path} is no whole file of hardware weights ({error}); export it again") from error
    if version != VERSION:
        raise ConfigError(f"{path} is of version {version}, and this program reads version {VERSION}; export it again")
    if not whole:
        raise CorruptFileError(f"{path} was altered: its SHA-256 is not the one written in it; export it again")
    source = ir.Source(Path(path).name, 0)
    return ir.Graph(
        tuple(_node_from_json(entry, arrays, source) for entry in description["nodes"]), description["output"]
    )


def _node_from_json(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: ir.Source) -> ir.Node:
    fields: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            exact = arrays[value["words"]].astype(np.float64) * 2.0 ** -value["fraction"]
            format = None if value["format"] is None else FixedPoint.parse(value["format"])
            fields[key] = ir.Weight(exact.astype(np.float32), format)
        elif key.endswith("format"):
            fields[key] = FixedPoint.parse(value)
        elif key != "kind":
            fields[key] = _tuples(value)
    return _KINDS[entry["kind"]](**fields, source=source)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
