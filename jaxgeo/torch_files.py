"""Weights of PyTorch, in and out, without PyTorch and without unpickling.

Read are, told apart by their content and never by a file's name: safetensors; the zip archive that `torch.save` writes
since version 1.6 (`<folder>/data.pkl`, one uncompressed record `<folder>/data/<key>` for each storage, and perhaps
`byteorder` and `version`); and the stream that it wrote before (pickles of a magic number, a protocol, facts about the
machine, the object and the storage keys, then for each key a count and the elements, little endian on every machine).

Why a foreign file cannot do harm here: no pickle is ever loaded. `jaxgeo.torch_pickle` moves a pickle's plain data and
compares its names with a few strings; it imports nothing and calls nothing that a file names, and whatever a training
checkpoint holds beside tensors (hyperparameters, callbacks, optimizers of any class) becomes an inert stand-in that is
passed over. A storage must have the bytes that the file holds for it and a tensor must lie within its storage; arrays
are views of those bytes, so that none takes memory that the file did not; what is compressed is refused.

References:
    PyTorch documentation, "Serialization semantics", section "Serialized file format for torch.save".
    safetensors, README of github.com/huggingface/safetensors, section "Format".
"""

import functools
import io
import math
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxgeo import files
from jaxgeo.errors import CorruptFileError, InputError
from jaxgeo.torch_pickle import MOST_OPCODES, Foreign, Pairs, Storage, Tensor, interpret

# Element types by their names in safetensors.
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ZIP_VERSIONS = range(1, 11)  # what PyTorch itself accepts; it writes 3
_STATE_NAMES = ("state_dict", "model_state_dict", "model")

# What the parsers say of damaged bytes; `Warning` where a test run makes errors of them.
_DAMAGE = (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OverflowError, Warning)

_SAVE_AGAIN = "save it again in PyTorch by torch.save(module.state_dict(), path)"


class _Refused(Exception):
    """A file that is whole perhaps, but not one that can be read: the sentence after its name, with a remedy."""


_State = dict[str, Any]
_Opened = tuple[_State, Callable[[Any], np.ndarray]]


def read_state_dict(path: Path, *, prefix: str | None = None) -> dict[str, np.ndarray]:
    """Arrays by name from a PyTorch state dict: safetensors, or what `torch.save` wrote in its zip or older format.

    In a PyTorch file the state dict is the top object, if that maps names to tensors and to nothing else; or else its
    entry `state_dict` (as in Lightning), `model_state_dict` or `model`, if one of them is a dict with tensors in it; or
    else the only dict with tensors in it among the top object and its entries. Where several are left, none is guessed.

    Args:
        path: the file; all of it is read.
        prefix: keep only names that begin so, without it, e.g. `"model."`; the others need not be tensors then.

    Returns:
        Read-only arrays in native byte order, with PyTorch's shapes and dtypes (bfloat16 and float8 as `ml_dtypes` has
        them), in the file's order, or by name from safetensors. They are views: tensors that shared a storage share it
        still, and need not be contiguous.

    Raises:
        CorruptFileError: truncated, altered, encrypted, TorchScript, or of another format; no state dict in it, or
            several; an entry of the state dict that is no plain tensor. The message names the file.
        InputError: no name begins with the prefix; the prefixes in the file are listed.
        RunFolderError: there is no such file, or it may not be read.

    References:
        See the module's.
    """
    data = files.read_bytes(path)
    try:
        state, to_array = _open(data)
        if prefix is not None:
            state = _under(state, prefix, path)
        foreign = [f"{_brief(name)} ({_kind(value)})" for name, value in state.items() if not isinstance(value, Tensor)]
        if foreign:
            raise _Refused(
                f"has {len(foreign)} entries in its state dict that are no plain tensors: {_listed(foreign)}; save it "
                f"without them, or leave them out by a prefix"
            )
        return {name: to_array(tensor) for name, tensor in state.items()}
    except InputError:
        raise
    except _Refused as error:
        raise CorruptFileError(f"{path} {error}") from error
    except _DAMAGE as error:
        said = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        raise CorruptFileError(
            f"{path} is not a whole PyTorch or safetensors file ({said[:200]}): it was truncated or altered; an "
            f"unbroken copy is needed"
        ) from error


def write_state_dict(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write arrays as safetensors under PyTorch's names, in one step, and return the file's SHA-256.

    `safetensors.torch.load_file` reads it, and so does `read_state_dict`, bit for bit.

    Args:
        path: ends in `.safetensors` by custom.
        arrays: NumPy or JAX, by state-dict name; any shape and order in memory.

    Raises:
        InputError: dtypes that safetensors lacks (complex128, text), or names that it cannot hold; all are listed.
        RunFolderError: as for `jaxgeo.files.write_bytes_atomically`.
    """
    from safetensors.numpy import save

    # Not ascontiguousarray, which makes a vector of a scalar.
    plain = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    known = {_dtype(name) for name in _SAFETENSORS.values()}
    unfit = [
        f"{_brief(name)} ({array.dtype})"
        for name, array in plain.items()
        if name == "__metadata__"
        or name != name.encode(errors="replace").decode()
        or array.dtype.newbyteorder("=") not in known
    ]
    if unfit:
        raise InputError(
            f"{path} cannot hold {len(unfit)} of these arrays: {_listed(unfit)}; safetensors takes "
            f"{', '.join(_SAFETENSORS.values())}, under any Unicode text but __metadata__; a complex128 array can be "
            f"written as its real and imaginary parts"
        )
    # The entry by which other readers know whose layout the tensors have.
    return files.write_bytes_atomically(path, save(plain, {"format": "pt"}))


def match_state(
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    ignore: Callable[[str], bool] = lambda name: False,
) -> None:
    """Check that the tensors of a file are those that a network takes.

    Args:
        found: arrays by name, as `read_state_dict` returns them.
        wanted: shapes by name.
        ignore: names that are not looked at on either side, e.g. counters of batch norms; none by default.

    Raises:
        InputError: tensors that are missing, unexpected or of another shape. One message counts all of them and names
            the first of each kind.
    """
    missing = [
        f"{_brief(name)} {tuple(shape)}" for name, shape in wanted.items() if name not in found and not ignore(name)
    ]
    unexpected = [f"{_brief(name)} {found[name].shape}" for name in found if name not in wanted and not ignore(name)]
    misshapen = [
        f"{_brief(name)} is {found[name].shape} and must be {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != tuple(shape) and not ignore(name)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise InputError(
            f"the tensors found are not those of the network: {'; '.join(problems)}; a file of the same architecture "
            f"and sizes is needed, read with the prefix under which its names stand"
        )


def _brief(text: str, most: int = 80) -> str:
    # repr, because a name in a foreign file may hold line ends or control codes of a terminal.
    return repr(text) if len(text) <= most else f"{text[:most]!r}..."


def _listed(items: Iterable[str], most: int = 10) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _kind(value: object) -> str:
    if isinstance(value, Foreign):
        return f"{'an object of ' if value.made else ''}{_brief(value.name)}"
    return {Pairs: "dict", Storage: "storage without a shape"}.get(type(value), type(value).__name__)


def _under(state: _State, prefix: str, path: Path) -> _State:
    chosen = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix) and name != prefix}
    if not chosen:
        prefixes = sorted({name[: name.find(".") + 1] for name in state} - {""})
        there = f"begin with {_listed(map(_brief, prefixes))}" if prefixes else "have no prefix"
        raise InputError(f"{path} has no tensor under {_brief(prefix)}; its {len(state)} names {there}")
    return chosen


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _open(data: bytes) -> _Opened:
    """Entries by name, tensors among them not yet read, and what makes an array of one."""
    # Asked first: a header of 640 bytes begins as a pickle of protocol 2 does.
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER:
        return _open_safetensors(data)
    if data.startswith((b"PK\3\4", b"PK\5\6")):
        return _open_zip(data)
    if data.startswith(b"\x80"):
        return _open_legacy(data)
    if data[257:262] == b"ustar":
        raise _Refused(f"is a tar archive, as PyTorch wrote before version 0.1.10; {_SAVE_AGAIN}")
    start = f"begins with {data[:8]!r}" if data else "is empty"
    raise _Refused(f"{start}, as neither safetensors nor a file of torch.save does; one of them is needed")


def _open_safetensors(data: bytes) -> _Opened:
    from safetensors import SafetensorError, deserialize

    try:
        records = dict(sorted(deserialize(data)))  # which comes in no fixed order
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    unknown = sorted({record["dtype"] for record in records.values()} - set(_SAFETENSORS))
    if unknown:
        raise _Refused(f"has tensors of dtype {_listed(unknown)}, which NumPy lacks; save them as float32")
    state = {}
    for name, record in records.items():
        size, dtype = tuple(record["shape"]), _SAFETENSORS[record["dtype"]]
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        storage = Storage(name, dtype, math.prod(size), 0, math.prod(size))
        state[name] = Tensor(storage, dtype, 0, size, stride)
    return state, _array_maker(lambda key: records[key]["data"], "little")


def _open_zip(data: bytes) -> _Opened:
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: info for info in archive.infolist()}
    folders = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise _Refused(
            f"is a zip archive with {len(folders)} members <folder>/data.pkl where torch.save writes one (it has "
            f"{_listed(map(_brief, members))}); a file of torch.save is needed"
        )
    (folder,) = folders
    if f"{folder}constants.pkl" in members:
        raise _Refused(
            "is a TorchScript archive, which holds a program; in PyTorch, "
            "torch.save(torch.jit.load(path).state_dict(), new_path) makes a file that can be read"
        )

    def record(name: str) -> bytes:
        info = members.get(folder + name)
        if info is None:
            raise ValueError(f"no record {folder}{name}")
        if info.flag_bits & 1:
            raise _Refused("is encrypted; decrypt it first")
        if info.compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"is compressed, which torch.save never does and which can hide any size; {_SAVE_AGAIN}")
        if getattr(info, "CRC", None) == 0:
            del info.CRC  # PyTorch writes 0 where it was told to compute none; without the field zipfile checks none
        return archive.read(info)

    order = record("byteorder").decode("ascii") if f"{folder}byteorder" in members else "little"
    version = record("version").decode("ascii").strip() if f"{folder}version" in members else "3"
    if order not in ("little", "big") or not version.isdigit() or int(version) not in _ZIP_VERSIONS:
        raise _Refused(
            f"says that its byte order is {_brief(order)} and its version {_brief(version)}; known are little and big, "
            f"and versions {_ZIP_VERSIONS[0]} to {_ZIP_VERSIONS[-1]}"
        )
    state = _find_state(interpret(io.BytesIO(record("data.pkl")), {}))
    return state, _array_maker(lambda key: record(f"data/{key}"), order)


def _open_legacy(data: bytes) -> _Opened:
    stream = io.BytesIO(data)
    if interpret(stream, {}) != _LEGACY_MAGIC:
        raise _Refused(f"is a pickle, but not one of torch.save; {_SAVE_AGAIN}")
    protocol = interpret(stream, {})
    if protocol != _LEGACY_PROTOCOL:
        raise ValueError(f"its protocol is not {_LEGACY_PROTOCOL}")
    interpret(stream, {})  # byte order and type sizes of the machine: the elements do not depend on them
    storages: dict[str, Storage] = {}
    top = interpret(stream, storages)
    keys = interpret(stream, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its list of storages is not that of its tensors")
    records: dict[str, bytes] = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little", signed=True)
        length = count * _dtype(storages[key].dtype).itemsize
        records[key] = stream.read(max(length, 0))
        if len(records[key]) != length:
            raise ValueError(f"storage {_brief(key)} of {length} bytes ends after {len(records[key])}")
    if stream.read(1):
        raise ValueError("bytes are left after the last storage")
    return _find_state(top), _array_maker(lambda key: records.get(key, b""), "little")


def _find_state(top: object) -> _State:
    """The state dict in a file's top object, by the rule of `read_state_dict`."""
    if not isinstance(top, Pairs):
        raise _Refused(f"holds {_kind(top)} where a state dict is needed; {_SAVE_AGAIN}")
    entries = _entries(top)
    if all(isinstance(value, Tensor) for value in entries.values()):
        return entries
    dicts = [value for value in entries.values() if isinstance(value, Pairs)]
    if sum(len(value.items) for value in dicts) > MOST_OPCODES:
        raise ValueError("one dict stands in it many times")
    inner = {name: _entries(value) for name, value in entries.items() if isinstance(value, Pairs)}
    holders = {name: state for name, state in inner.items() if _has_tensors(state)}
    candidates = [(_brief(name), holders[name]) for name in _STATE_NAMES if name in holders]
    if not candidates:
        candidates = [(_brief(name), state) for name, state in holders.items()]
        candidates += [("the top object", entries)] if _has_tensors(entries) else []
    if not candidates:
        kinds = (f"{_brief(name)} ({_kind(value)})" for name, value in entries.items())
        raise _Refused(f"has no dict of tensors among its entries {_listed(kinds)}; {_SAVE_AGAIN}")
    if len(candidates) > 1:
        raise _Refused(
            f"has {len(candidates)} state dicts: {_listed(name for name, _ in candidates)}; save the one that is "
            f"wanted alone, by torch.save(checkpoint[name], path) in PyTorch"
        )
    ((_, state),) = candidates
    return state


def _entries(pairs: Pairs) -> _State:
    state = {}
    for pair in pairs.items:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError("a dict in it does not consist of pairs")
        key, value = pair
        if isinstance(key, str):
            state[key] = value
        else:
            state[f"<{type(key).__name__}>"] = Foreign("name that is no text", made=True)
    return state


def _has_tensors(state: _State) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def _array_maker(record: Callable[[str], Any], order: str) -> Callable[[Tensor], np.ndarray]:
    """What makes arrays of tensors, given the bytes under a storage key and their byte order."""
    stored = functools.cache(record)

    @functools.cache
    def content(key: str, dtype: np.dtype, flags: frozenset[str]) -> np.ndarray:
        # Bytes, because ml_dtypes exports no buffer. Whole storages, so that views stay views.
        data = np.frombuffer(stored(key), np.uint8)
        data = data[: len(data) // dtype.itemsize * dtype.itemsize]
        if order != sys.byteorder:
            parts = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            data = data.view(f"u{parts}").byteswap().view(np.uint8)
        if dtype == np.bool_:
            data = (data != 0).view(np.uint8)
        if "conj" in flags:
            data = data.view(dtype).conj().view(np.uint8)
        if "neg" in flags:
            data = np.negative(data.view(dtype)).view(np.uint8)
        data.flags.writeable = False
        return data

    def to_array(tensor: Tensor) -> np.ndarray:
        storage, dtype = tensor.storage, _dtype(tensor.dtype)
        width, size, stride = _dtype(storage.dtype).itemsize, tensor.size, tensor.stride
        length = len(stored(storage.key))
        if not 0 <= length - storage.total * width < width:
            raise ValueError(
                f"storage {_brief(storage.key)} has {length} bytes and not {storage.total} elements of {storage.dtype}"
            )
        within = 0 <= storage.start <= storage.start + storage.length <= storage.total
        proper = len(size) == len(stride) and min((tensor.offset, *size, *stride)) >= 0
        last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=False))
        if not within or not proper or (all(size) and last >= storage.length * width // dtype.itemsize):
            raise ValueError(f"a tensor lies outside storage {_brief(storage.key)}")
        if tensor.flags and dtype.kind not in "cf":
            raise ValueError(f"a tensor of {dtype} is said to be conjugate or negative")
        if not all(size):
            return np.ndarray(size, dtype, b"")
        start = storage.start * width + tensor.offset * dtype.itemsize
        steps = [step * dtype.itemsize if n > 1 else dtype.itemsize for n, step in zip(size, stride, strict=True)]
        return np.ndarray(size, dtype, content(storage.key, dtype, tensor.flags), start, steps)

    return to_array
