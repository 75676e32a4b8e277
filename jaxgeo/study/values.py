"""Numbers on their way into JSON and back: infinities and NaN, which JSON lacks, go by their names."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_NAMES = ("NaN", "Infinity", "-Infinity")


def plain(value: Any) -> Any:
    """JSON values: arrays become lists, infinities and NaN their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def restored(value: Any) -> Any:
    """What `plain` wrote, with the names as numbers again."""
    if isinstance(value, Mapping):
        return {key: restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item) for item in value]
    return float(value) if isinstance(value, str) and value in _NAMES else value
