"""Where the oracle files lie, of which family each is, and how every array of one is compared.

A test states what its inputs are and computes the rest by key; `compare` then goes through all that is stored. So an
array that may be missing may be missing, and one that nothing computes is an error that names it.
"""

import functools
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

STORED = Path(__file__).parents[1] / "references" / "golden"
EXACT, SINGLE = 1e-10, 2e-6  # pass marks of most files, relative L2: float64, and what the originals give in float32
_MARKS = {"float32": SINGLE, "complex64": SINGLE, "float16": 2e-3}  # of what a file can be met to in its own rounding

Arrays = Mapping[str, np.ndarray]

MET: list[tuple[str, float]] = []
"""Every array that the running test compared: its key, and its deviation in units of what is allowed."""

# Each program runs once: a quarter of the time to compile counts more than its speed.
compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)

# (pattern of the `kind` in the configuration, patterns of keys that no other family has); the first match counts.
FAMILIES = {
    "swin": ("SWIN", (r"weights/.*patch_embed.*|buffers/.*",)),
    "windows": (r"shift|\broll|in-window", (r"(nside|window)\d+.*",)),
    "fisheye": (
        "fisheye|sampling between plane and sphere",
        (r"(.+/)?rotate_pole\d/.*|.+/rot_grid_.*", r"img|(FV|RV|MVL|MVR|pc)/.*|unit/(signal|rx|ry|out)"),
    ),
    "depth": ("depth", (r"pred|loss(_grad)?/.*|(nonfinite/)?(un)?norm/.*",)),
    "metrics": ("metrics", ("logits", "confusion.*", "metric/.*")),
    "digits": ("projection", (r".*/(bilinear_raw|projected|rx|ry)", "rotation_matrix.*|randnums.*|grid_[xyz]")),
    "wigner": ("Wigner", ("ls", "D_.*")),
    "quadrature": ("quadrature", (r"b\d+/(weights|alpha|beta|gamma).*",)),
    "kernel points": ("kernel point", (r"(near_identity|equatorial|soft)_.*",)),
    "fft": ("FFT", (r"(s2|so3)_[^/]*/(x|X|inv_X).*",)),
    "layers": ("layers?$", (".*/input", ".+/weights/.*")),
    "cnn": ("CNN(?<!S2CNN)", (r"weights/(input|out)_layer\.weight",)),
    "s2cnn": ("S2CNN", (r"weights/.*\.kernel",)),
}


def golden_folder() -> Path:
    """The folder named by JAXGEO_GOLDEN, or else the small one stored with the tests."""
    return Path(os.environ.get("JAXGEO_GOLDEN") or STORED)


def folder_problem() -> str | None:
    """Why the folder named by JAXGEO_GOLDEN cannot be compared with; None where it can, or where none is named."""
    named, folder = os.environ.get("JAXGEO_GOLDEN"), golden_folder()
    if not named:
        return None
    if not folder.is_dir():
        return f"JAXGEO_GOLDEN names {named}, which is no folder; name one with oracle files (.npz), or unset it"
    files = all_files()
    if not files:
        return (
            f"JAXGEO_GOLDEN names {named}, which holds no .npz file, not in its subfolders either; unset it, or fill it"
        )
    damages = [damage(path) for path in files]
    if all(damages):
        return f"JAXGEO_GOLDEN names {named}, none of whose {len(files)} .npz files can be read: {damages[0]}"
    return None


def all_files() -> list[Path]:
    """Every file of the golden folder and its subfolders, in order of their paths."""
    return sorted(golden_folder().rglob("*.npz"))


@functools.cache
def damage(path: Path) -> str | None:
    """Why a file cannot be read; None where it can."""
    try:
        load(path)
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        return f"{path.name} is damaged ({type(error).__name__}: {error})"
    return None


@functools.cache
def family(path: Path) -> str | None:
    """The family of a file by its stated kind, or else by its keys: never by name or size.

    None: of no known family, or damaged.
    """
    if damage(path) is not None:
        return None
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        keys = [key for key in archive.files if key != "config_json"]
        kind = str(_config(archive).get("kind", ""))
    for name, (pattern, _) in FAMILIES.items():
        if kind and re.search(pattern, kind, re.IGNORECASE):
            return name
    for name, (_, patterns) in FAMILIES.items():
        if any(re.fullmatch(pattern, key) for pattern in patterns for key in keys):
            return name
    return None


def golden_files(name: str) -> list[Path]:
    """The files of a family; a folder may hold several, or none."""
    return [path for path in all_files() if family(path) == name]


class Held(dict[str, np.ndarray]):
    """Arrays by key: asked for one that is not there it tells so."""

    def __missing__(self, key: str) -> np.ndarray:
        raise AssertionError(f"the file holds no array {key!r}, which the others cannot be computed without")


class Stated(dict[str, Any]):
    """What a configuration says: asked for anything else it tells so."""

    def __missing__(self, key: str) -> Any:
        raise AssertionError(f"the file's config_json does not say {key!r}")


def load(path: Path) -> tuple[Held, Stated]:
    """Every array of a file, in this machine's order of bytes, and its configuration; nothing pickled is ever read.

    Keys under `nonfinite/` hold infinities or NaN and count without that prefix.
    """
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        stored = {key: archive[key] for key in archive.files if key != "config_json"}
        arrays = Held(
            (key.removeprefix("nonfinite/"), np.asarray(value, value.dtype.newbyteorder("="), order="C"))
            for key, value in stored.items()
        )
        return arrays, _config(archive)


def _config(archive: Any) -> Stated:
    if "config_json" not in archive.files:
        return Stated()
    stated = json.loads(str(archive["config_json"]), object_hook=Stated)
    if not isinstance(stated, Stated):
        raise ValueError(f"config_json must hold an object of names and values, got {type(stated).__name__}")
    return stated


def group(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose keys start with `prefix`, under the rest of the key."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def groups(arrays: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """All arrays by the part of their keys before the first slash; a key without one is of group ""."""
    names = dict.fromkeys(key.rpartition("/")[0] and key.partition("/")[0] for key in arrays)
    return {name: group(arrays, f"{name}/") if name else _loose(arrays) for name in names}


def _loose(arrays: Arrays) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if "/" not in key}


def name(path: Path) -> str:
    """Test id of a file."""
    return "-".join(path.relative_to(golden_folder()).with_suffix("").parts)


def inputs(arrays: Arrays, dtype: Any) -> Held:
    """Real arrays in a dtype, complex ones in its complex twin; integers as they are."""
    kinds = {"f": np.dtype(dtype), "c": np.result_type(dtype, np.complex64)}
    return Held((key, value.astype(kinds.get(value.dtype.kind, value.dtype))) for key, value in arrays.items())


def by_precision(stored: Arrays) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """The stored results as (float64, those of it), (float32, those of it under their keys without `_f32`)."""
    exact = {key: value for key, value in stored.items() if not key.endswith("_f32")}
    single = {key.removesuffix("_f32"): value for key, value in stored.items() if key.endswith("_f32")}
    yield from ((dtype, results) for dtype, results in ((np.float64, exact), (np.float32, single)) if results)


def compare(stored: Arrays, ours: Arrays, *, mark: float = EXACT) -> None:
    """Every stored array against ours of the same key, by `relative_l2`.

    Args:
        stored: results only, no inputs.
        ours: may hold more.
        mark: largest deviation where the stored array is of float64; a file of less can be met to its rounding only.
    """
    assert not set(stored) - set(ours), f"nothing computes {sorted(set(stored) - set(ours))}"
    misses = {}
    for key, value in stored.items():
        error = relative_l2(ours[key], value)
        allowed = max(mark, _MARKS.get(value.dtype.name, 0.0))
        met(key, error / allowed)
        if not error <= allowed:
            misses[key] = error
    assert not misses, f"relative L2 deviations above {mark}: {misses}"


def compare_entries(stored: Arrays, ours: Arrays, *, atol: float) -> None:
    """Every stored array against ours of the same key, entry by entry; NaN equals NaN."""
    assert not set(stored) - set(ours), f"nothing computes {sorted(set(stored) - set(ours))}"
    for key, value in stored.items():
        rtol = float(np.finfo(value.dtype).eps) if value.dtype.name in _MARKS else 0.0
        met(key, _worst_share(ours[key], value, rtol, atol))
        np.testing.assert_allclose(ours[key], value, rtol=rtol, atol=atol, err_msg=key, strict=False)
        assert np.shape(ours[key]) == value.shape, key


def met(key: str, share: float) -> None:
    """Note the deviation of a compared array, in units of what is allowed, for the summary of the run."""
    MET.append((key, float("inf") if np.isnan(share) else float(share)))


def _worst_share(got: Any, expected: np.ndarray, rtol: float, atol: float) -> float:
    """The largest deviation of an entry in units of what is allowed for it; 0 where equal, infinite where it counts."""
    got = np.asarray(got)
    if got.shape != expected.shape or expected.dtype.kind not in "biufc":
        return 0.0 if np.array_equal(got, expected) else float("inf")
    wide = np.result_type(got, expected, np.float64)  # bytes would wrap around
    got, expected = got.astype(wide), expected.astype(wide)
    different = (got != expected) & ~(np.isnan(got) & np.isnan(expected))
    got, expected = got[different], expected[different]
    if not got.size or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf") if got.size else 0.0
    allowed = atol + rtol * np.abs(expected)
    return float(np.max(np.abs(got - expected) / allowed)) if allowed.all() else float("inf")


def relative_l2(got: Any, expected: Any) -> float:
    """|got - expected| / |expected| over all entries; infinite where the shapes differ; absolute where all is 0."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return float("inf")
    expected = expected.astype(np.result_type(expected, np.float64))  # squares may be beyond a narrow type
    return float(np.linalg.norm(got - expected) / (np.linalg.norm(expected) or 1.0))


def gradient_statistics(gradient: np.ndarray) -> np.ndarray:
    """What the files keep of every gradient: its norm, and its product with cos(0), cos(1), ..."""
    return np.array([np.linalg.norm(gradient), gradient.ravel() @ np.cos(np.arange(gradient.size))])


def wanted(arrays: Arrays, pattern: str) -> bool:
    """Whether some key matches."""
    return any(re.fullmatch(pattern, key) for key in arrays)


def split(arrays: Arrays, is_input: Callable[[str], bool]) -> tuple[Held, dict[str, np.ndarray]]:
    """(inputs, results)."""
    return (
        Held((key, value) for key, value in arrays.items() if is_input(key)),
        {key: value for key, value in arrays.items() if not is_input(key)},
    )
