"""Where the oracle files lie, which of them hold what a test needs, and how far a result is from them."""

import fnmatch
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

STORED = Path(__file__).parents[1] / "references" / "golden"

# Each program runs once: half of the time to compile counts more than its speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def golden_folder() -> Path:
    """The folder named by JAXGEO_GOLDEN, or else the small one stored with the tests."""
    return Path(os.environ.get("JAXGEO_GOLDEN") or STORED)


def golden_files(*required: str, where: Callable[[dict[str, Any]], bool] | None = None) -> list[Path]:
    """Files of the golden folder that hold a key for each required pattern (`fnmatch`), in order of their paths.

    Chosen by content, never by name or size: a folder may hold several files of a kind, or none.

    Args:
        required: patterns such as "input" or "s2_b*/x".
        where: a further condition on the configuration (`config_json`, an empty dict where there is none).
    """
    found = []
    for path in sorted(golden_folder().rglob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            keys = archive.files
            config = read_config(archive)
        has_keys = all(fnmatch.filter(keys, pattern) for pattern in required)
        if has_keys and (where is None or where(config)):
            found.append(path)
    return found


def read_config(arrays: Any) -> dict[str, Any]:
    """The configuration stored as JSON under `config_json`."""
    return json.loads(str(arrays["config_json"])) if "config_json" in arrays else {}


def load(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file; nothing pickled is ever read."""
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose keys start with `prefix`, under the rest of the key."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def name(path: Path) -> str:
    """Test id of a file."""
    return path.stem


def relative_l2(got: Any, expected: Any) -> float:
    """|got - expected| / |expected| over all entries; infinite where the shapes differ; absolute where all is 0."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return float("inf")
    return float(np.linalg.norm(got - expected) / (np.linalg.norm(expected) or 1.0))
