"""Files that are either whole or not there, and that say so when they are damaged.

Everything is written beside its place and renamed into it, so that a reader (or a killed process that starts
again) sees the old file or the new one and never half of one. Arrays lie in safetensors files that carry a
SHA-256 of their own content; nothing is ever pickled.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo.errors import CorruptFileError, InputError, RunFolderError

TEMPORARY_SUFFIX = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# safetensors keeps its metadata in a hash map: with one entry the bytes do not depend on the map's order.
_METADATA = "jaxgeo"


def run_folder_error(error: OSError, path: Path) -> RunFolderError:
    """What the system said about a file that was to be written, as one sentence with a remedy."""
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return RunFolderError(
            f"no space left to write {path} ({said}); what was done before is still there: free some space on that "
            f"disk and go on"
        )
    if error.errno in _FORBIDDEN:
        return RunFolderError(
            f"{path.parent} cannot be written or read ({said}); what was done before is still there: make it writable "
            f"or choose another folder"
        )
    return RunFolderError(f"{path} cannot be written or read ({said}); what was done before is still there")


def make_folder(path: Path) -> Path:
    """Make a folder and its parents where missing.

    Raises:
        RunFolderError: the folder cannot be made (read-only, a file in its place, disk full).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise run_folder_error(error, path) from error
    return path


def write_bytes_atomically(path: Path, data: bytes) -> str:
    """Put `data` at `path` in one step and return its SHA-256 in hexadecimal.

    The bytes are on the disk before the name is, and the name before this returns: a crash at any moment leaves
    either the former file or the new one, and at worst a `.part` file beside it.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written; the former file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise run_folder_error(error, path) from error
    finally:
        # Also on KeyboardInterrupt; after the rename there is nothing left to remove.
        with contextlib.suppress(OSError):
            temporary.unlink()
    return hashlib.sha256(data).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete the `.part` files that a killed process left in `folder`; only the folder's sole user may call this."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def write_json_atomically(path: Path, value: object) -> str:
    """Write `value` as indented JSON in one step; NaN and infinities, which JSON lacks, are refused.

    Raises:
        InputError: the value holds something that JSON cannot.
        RunFolderError: as for `write_bytes_atomically`.
    """
    try:
        data = json_bytes(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{Path(path).name} cannot be written as JSON: {error}") from error
    return write_bytes_atomically(path, data)


def json_bytes(value: object) -> bytes:
    """What `write_json_atomically` writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        RunFolderError: there is no such file, or it may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        CorruptFileError: the file is not JSON.
        RunFolderError: there is no such file, or it may not be read.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise CorruptFileError(
            f"{path} is not whole JSON ({error}): it was truncated or altered; delete it or restore it"
        ) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _content_digest(arrays: Mapping[str, np.ndarray], note: Mapping[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, Any], note: Mapping[str, object] | None = None) -> str:
    """Write named arrays (NumPy or JAX, PRNG keys included) as one safetensors file and return the file's SHA-256.

    Args:
        path: ends in `.safetensors` by custom.
        arrays: any dtype of NumPy's numbers and booleans, any shape; typed PRNG keys are kept as their words.
        note: small JSON values kept beside the arrays, read back by `load_note`.

    Raises:
        InputError: something that is not an array of numbers, or names that are no leaves of one tree.
        RunFolderError: as for `write_bytes_atomically`.
    """
    from safetensors.numpy import save

    if both := _leaf_and_branch(arrays):
        raise InputError(f"{both} would be an array and a branch of arrays, which {path} cannot hold; rename one")

    plain: dict[str, np.ndarray] = {}
    keys: dict[str, str] = {}
    for name, value in arrays.items():
        words = value
        if not isinstance(value, np.ndarray) and _is_prng_key(value):
            words, keys[name] = _key_words(value)
        # Not ascontiguousarray, which makes a vector of a scalar.
        array = np.asarray(words, order="C")
        if array.dtype.kind not in "biufc":
            raise InputError(f"{name} is no array of numbers but {type(value).__name__}, which {path} cannot hold")
        plain[name] = array
    content: dict[str, object] = {"note": dict(note or {}), "keys": keys}
    content["sha256"] = _content_digest(plain, content)
    return write_bytes_atomically(path, save(plain, {_METADATA: json.dumps(content, sort_keys=True)}))


def _is_prng_key(value: Any) -> bool:
    import jax

    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _key_words(key: Any) -> tuple[np.ndarray, str]:
    import jax

    return np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))


def _load(path: Path) -> tuple[dict[str, Any], dict[str, object]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = read_bytes(path)
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = json.loads(header["__metadata__"][_METADATA])
        expected = content.pop("sha256")
        note, keys = content["note"], content["keys"]
        intact = _content_digest(arrays, content) == expected
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptFileError(
            f"{path} is not a whole safetensors file of jaxgeo ({error}): it was truncated or altered; delete it "
            f"and make it again"
        ) from error
    if not intact:
        raise CorruptFileError(
            f"{path} does not have the SHA-256 that it was written with: it was altered; delete it and make it again"
        )
    if keys:
        import jax

        arrays |= {
            name: jax.random.wrap_key_data(jax.numpy.asarray(arrays[name]), impl=impl) for name, impl in keys.items()
        }
    return arrays, note


def load_arrays(path: Path) -> dict[str, Any]:
    """NumPy arrays by name (and typed JAX PRNG keys), as `save_arrays` took them.

    Raises:
        CorruptFileError: truncated or altered, by its SHA-256; the message names the file.
        RunFolderError: there is no such file.
    """
    return _load(path)[0]


def load_arrays_and_note(path: Path) -> tuple[dict[str, Any], dict[str, object]]:
    """Arrays and the note beside them in one reading; raises as `load_arrays` does."""
    return _load(path)


def load_note(path: Path) -> dict[str, object]:
    """The note that `save_arrays` kept beside the arrays; checked like them."""
    return _load(path)[1]


def flatten_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by their path, joined by "/".

    Raises:
        InputError: a name holds "/" or is empty, or what could not be read back: an empty branch, a list or tuple.
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if not name or "/" in name:
            raise InputError(f"names in a tree must be non-empty and without '/', which joins them, got {name!r}")
        if isinstance(value, Mapping):
            if not value:
                raise InputError(f"{prefix}{name} is an empty branch, which a flat file cannot hold")
            flat |= flatten_tree(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            # As an array of equal parts it would be written, and come back as something else.
            raise InputError(
                f"{prefix}{name} is a {type(value).__name__}, which a flat file cannot hold; stack it to one array, or "
                f"name its parts in a dictionary"
            )
        else:
            flat[prefix + name] = value
    return flat


def unflatten_tree(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from "/"-joined names; inverse of `flatten_tree`.

    Raises:
        InputError: a name is that of a leaf and of a branch.
    """
    if both := _leaf_and_branch(flat):
        raise InputError(f"{both} is a leaf and a branch of leaves, which no tree can hold")
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *branches, leaf = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    return tree


def _leaf_and_branch(names: Collection[str]) -> str | None:
    """A name that stands before the "/" of another one."""
    parents = ("/".join(parts[:i]) for name in names for parts in [name.split("/")] for i in range(1, len(parts)))
    return next((parent for parent in parents if parent in names), None)


def save_tree(path: Path, tree: Mapping[str, Any], note: Mapping[str, object] | None = None) -> str:
    """Write nested dicts of arrays (a params tree) with "/"-joined names; returns the file's SHA-256."""
    return save_arrays(path, flatten_tree(tree), note)


def load_tree(path: Path) -> dict[str, Any]:
    """Nested dicts of NumPy arrays, as `save_tree` took them.

    Raises:
        CorruptFileError: truncated or altered, by its SHA-256, or no tree; the message names the file.
        RunFolderError: there is no such file.
    """
    try:
        return unflatten_tree(load_arrays(path))
    except InputError as error:
        raise CorruptFileError(f"{path} holds no tree: {error}; load_arrays reads it as it is") from error
