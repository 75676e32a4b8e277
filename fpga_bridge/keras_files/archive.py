"""What lies in a file of Keras: the layers with their connections, and the arrays of each, read with h5py alone.

Three forms of Keras 2 and 3 are read: `.h5` with the architecture in the attribute `model_config`, `.keras` (a zip of
`config.json` and `model.weights.h5`), and a `.json` of the architecture beside a `.h5` or `.weights.h5`. Nothing in a
file is run or built: no pickle, no Lambda, no class by name; links that lead out of an HDF5 file are refused.
"""

import contextlib
import dataclasses
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, JaxgeoError, ToolMissingError
from jaxgeo.files import read_bytes

HALVES = ("forward_layer", "backward_layer")
"""What a Bidirectional consists of; their arrays stand in a `KerasFile` under its name, a slash and theirs."""
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # of `.weights.h5`, Keras 3 and late Keras 2
_ORIGINS = ("keras", "tf_keras", "tensorflow", "qkeras", "tensorflow_model_optimization", "fpga_bridge")
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Concatenate", "Softmax")
"""Of `keras.ops` those that compute what the layer of that name does."""
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)  # what h5py raises on damage


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of a layer: the calls (layer name, number) whose outputs it reads."""

    inputs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """A layer as the file describes it; wrappers that only prune are taken off.

    Attributes:
        name: unique in the file; of the wrapper where there is one, whose own layer is named in `config`.
        class_name: of Keras or QKeras.
        config: its settings.
        calls: its uses, in order; more than one where it is shared.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    calls: tuple[Call, ...]


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """The layers of a model, in the order of the file, its output call, and the arrays of each layer.

    Arrays have their last name (`kernel`, `moving_mean`, ...) where the file has names, else their number. Those of
    the two layers in a Bidirectional are under its name and one of `HALVES`, with a slash between.
    """

    path: str
    layers: tuple[LayerSpec, ...]
    output: tuple[str, int]
    arrays: Mapping[str, Mapping[str, np.ndarray]]


def read_keras_file(path: Path, weights: Path | None = None) -> KerasFile:
    """Read a model.

    Args:
        path: `.h5` or `.hdf5`, `.keras`, or `.json` of the architecture.
        weights: with a `.json` (or to replace the weights of the others): a `.h5` or `.weights.h5`.

    Raises:
        RunFolderError: a file is not there or may not be read.
        CorruptFileError: a file is truncated, altered or not of the format that its name promises.
        ConfigError: a `.json` without weights, or an architecture that does not hang together.
        ExportError: an architecture with more than one input or output, or models inside models.
    """
    path = Path(path)
    data = read_bytes(path)
    if path.suffix == ".json":
        architecture = _parse_json(data, path)
        if weights is None:
            raise ConfigError(f"{path} holds an architecture without weights; give the .h5 of its weights too")
    elif path.suffix == ".keras":
        architecture, data = _unzip(data, path)
    else:
        with _hdf5(data, path) as file:
            architecture = _attribute_json(file, path)
    layers, output = _layers(architecture, path)
    if weights is not None:
        data, source = read_bytes(Path(weights)), Path(weights)
    else:
        source = path
    with _hdf5(data, source) as file:
        arrays = dict(_all_arrays(file, layers, source))
    return KerasFile(str(path), layers, output, arrays)


def _parse_json(data: bytes | str, path: Path) -> Any:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptFileError(f"{path}: the architecture is not whole JSON ({error}); save the model again") from error
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str) or "config" not in value:
        raise CorruptFileError(f"{path}: the JSON is no architecture of Keras, which has class_name and config")
    return value


def _unzip(data: bytes, path: Path) -> tuple[Any, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _parse_json(archive.read("config.json"), path), archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise CorruptFileError(
            f"{path} is no whole .keras archive of config.json and model.weights.h5 ({error}); save the model again"
        ) from error


@contextlib.contextmanager
def _hdf5(data: bytes, path: Path) -> Iterator[Any]:
    """An HDF5 file in memory; every error that h5py has with its content becomes one sentence."""
    try:
        import h5py
    except ImportError as error:
        raise ToolMissingError(
            "h5py is not installed here, and Keras' files are read with it; install the extra with "
            "`pip install 'jaxgeo[fpga]'`"
        ) from error
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file
    except JaxgeoError:  # some of them are OSErrors too
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is no whole HDF5 file of Keras ({error}); save or copy it again") from error


def _attribute_json(file: Any, path: Path) -> Any:
    if "model_config" not in file.attrs:
        raise ConfigError(
            f"{path} holds weights without an architecture; give the .json of the architecture first, or save the "
            "whole model by model.save"
        )
    text = file.attrs["model_config"]
    return _parse_json(text.decode() if isinstance(text, bytes) else str(text), path)


def _layers(architecture: Mapping[str, Any], path: Path) -> tuple[tuple[LayerSpec, ...], tuple[str, int]]:
    """Specifications and the output of a Sequential or functional architecture of either dialect."""
    kind, config = architecture["class_name"], architecture["config"]
    if isinstance(config, list):  # as Sequential models were written at first
        config = {"layers": config}
    entries = config.get("layers") if isinstance(config, dict) else None
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(entries, list) or not entries:
        raise ExportError(
            f"{path}: a model of class {kind} has no list of layers to read; build it as Sequential or functional model"
        )
    specs = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict) or "class_name" not in entry:
            raise CorruptFileError(f"{path}: a layer has no class_name and config but reads {str(entry)[:80]}")
        specs.append(_spec(entry, path))
    if kind == "Sequential":
        return _chained(specs, config, path), (specs[-1].name, 0)
    ends = {}
    for what in ("input_layers", "output_layers"):
        found = config.get(what, [])
        found = [found] if len(found) == 3 and isinstance(found[0], str) else found
        if len(found) != 1:
            raise ExportError(
                f"{path}: the model has {len(found)} {what.replace('_layers', 's')}, and hardware is made for one; "
                "save a model of one input and one output"
            )
        ends[what] = (str(found[0][0]), int(found[0][1]))
    return tuple(specs), ends["output_layers"]


def _spec(entry: Mapping[str, Any], path: Path) -> LayerSpec:
    config, kind = entry["config"], str(entry["class_name"])
    outer = str(config.get("name", entry.get("name", "")))
    check_origin(entry, f"{path}: layer {outer!r}")
    calls = tuple(_calls(entry.get("inbound_nodes", []), outer, path))
    if kind.startswith("PruneLowMagnitude"):
        inner = config.get("layer", {})
        check_origin(inner, f"{path}: the layer in {outer!r}")
        config, kind = inner.get("config", {}), str(inner.get("class_name"))
    if not outer:
        raise CorruptFileError(f"{path}: a layer of class {kind} has no name")
    return LayerSpec(outer, kind, config, calls)


def check_origin(entry: Mapping[str, Any], where: str) -> None:
    """Refuse a layer that is none of Keras and QKeras, whatever its class is called.

    Args:
        entry: as files hold it; of one without a `module`, as older versions wrote it, nothing is known.
        where: file and layer, to begin the message.

    Raises:
        ExportError: names the class and where it comes from.
    """
    module, kind = str(entry.get("module") or ""), str(entry.get("class_name"))
    if module and module.split(".", maxsplit=1)[0] not in _ORIGINS:
        raise ExportError(
            f"{where} is {kind} of {module}, which may compute anything else than the {kind} of Keras or QKeras; build "
            "the network of layers of these two, or export the JAX function"
        )
    if ".ops." in module and kind not in _OPERATIONS:
        raise ExportError(f"{where} is the operation {kind} of keras.ops, which is not read; use a layer of Keras")


def _calls(nodes: Any, name: str, path: Path) -> Iterator[Call]:
    """Keras 2: [[[layer, number, 0, {}], ...], ...]; Keras 3: [{"args": [tensor or [tensors]], "kwargs": {}}]."""
    for node in nodes:
        if isinstance(node, dict):
            named: dict[Any, Any] = {**dict(enumerate(node.get("args", []))), **(node.get("kwargs") or {})}
            yield Call(tuple(_histories(list(named.values()))))
        elif node and isinstance(node[0], str):
            yield Call(((str(node[0]), int(node[1])),))
            named = _keywords(node)
        elif all(isinstance(tensor, list) and isinstance(tensor[0], str) for tensor in node):
            yield Call(tuple((str(tensor[0]), int(tensor[1])) for tensor in node))
            named = {key: value for tensor in node for key, value in _keywords(tensor).items()}
        else:
            raise CorruptFileError(f"{path}: the connections of layer {name} read {str(node)[:80]}")
        for key, value in named.items():
            # Such as training=True, by which a dropout draws and a normalisation takes its batch at inference too.
            if value is not None and value is not False and not any(_histories(value)):
                given = f"{key}={value!r}" if isinstance(key, str) else f"the argument {value!r}"
                raise ExportError(
                    f"{path}: layer {name!r} is called with {given}, and hardware computes what it does of tensors "
                    "alone; call it without, or say it by a layer of its own"
                )


def _keywords(tensor: list[Any]) -> dict[str, Any]:
    """Of a connection of Keras 2 what the layer was called with beside it."""
    return tensor[3] if len(tensor) > 3 and isinstance(tensor[3], dict) else {}


def _histories(value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        history = value["config"]["keras_history"]
        yield str(history[0]), int(history[1])
    elif isinstance(value, list):
        for item in value:
            yield from _histories(item)


def _chained(specs: list[LayerSpec], config: Mapping[str, Any], path: Path) -> tuple[LayerSpec, ...]:
    """The layers of a Sequential model, each reading the one before; the first is made an input where it is none."""
    if specs[0].class_name != "InputLayer":
        shape = specs[0].config.get("batch_input_shape") or specs[0].config.get("batch_shape")
        shape = shape or config.get("build_input_shape")
        if shape is None:
            raise ConfigError(f"{path}: the model does not say the shape of its input; build it before it is saved")
        specs.insert(0, LayerSpec("input_layer", "InputLayer", {"batch_shape": shape}, ()))
    chain = [specs[0]]
    for spec in specs[1:]:
        chain.append(dataclasses.replace(spec, calls=(Call(((chain[-1].name, 0),)),)))
    return tuple(chain)


def _member(group: Any, name: str, path: Path) -> Any:
    """A member by its path, None where there is none; through hard links only, as others lead to any file at all."""
    import h5py

    for part in name.split("/"):
        if not hasattr(group, "keys") or part not in group.keys():  # noqa: SIM118  # `in` would follow the link
            return None
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise CorruptFileError(f"{path}: {name} is a link to somewhere else, which is not followed; copy it in")
        group = group[part]
    return group


def _array(dataset: Any, name: str, path: Path) -> np.ndarray:
    if not hasattr(dataset, "dtype") or dataset.dtype.kind not in "fiub":
        raise CorruptFileError(f"{path}: {name} is missing or no array of numbers; save the model again")
    if dataset.external or dataset.is_virtual:
        raise CorruptFileError(f"{path}: {name} keeps its numbers in another file, which is not read")
    return np.asarray(dataset[()])


def _all_arrays(file: Any, layers: tuple[LayerSpec, ...], path: Path) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    old = _member(file, "model_weights", path)
    root = file if old is None else old
    containers = [_member(root, name, path) for name in _CONTAINERS]
    container = next((group for group in containers if group is not None), None)
    counts: dict[str, int] = {}
    for spec in layers:
        parts = [f"/{half}" for half in HALVES] if spec.class_name.removeprefix("Q") == "Bidirectional" else [""]
        if container is not None:
            # Keras 3 names a place by the class and its number, not by the layer.
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", spec.class_name).lower()
            number = counts[snake] = counts.get(snake, -1) + 1
            place = f"{snake}_{number}" if number else snake
            for part in parts:
                found = _member(container, f"{place}{part}/vars", path)
                if found is None or not len(found):  # a recurrent layer keeps them in its cell
                    found = _member(container, f"{place}{part}/cell/vars", path)
                names = {key: key for key in found} if found is not None else {}
                yield f"{spec.name}{part}", _members(found, names, f"{place}{part}", path)
        else:
            found = _member(root, spec.name, path)
            stored = [] if found is None else found.attrs.get("weight_names", [])
            groups: dict[str, dict[str, str]] = {}
            for name in (n.decode() if isinstance(n, bytes) else str(n) for n in stored):
                group, _, last = name.rpartition("/")
                groups.setdefault(group if len(parts) > 1 else "", {})[last.split(":")[0]] = name
            for part, names in zip(
                parts, [*groups.values(), {}, {}], strict=False
            ):  # some are missing in damaged files
                yield f"{spec.name}{part}", _members(found, names, spec.name, path)


def _members(group: Any, names: Mapping[str, str], place: str, path: Path) -> dict[str, np.ndarray]:
    return {key: _array(_member(group, name, path), f"{place}/{name}", path) for key, name in names.items()}
