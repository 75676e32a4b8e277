"""What a long run was begun with: its settings, and SHA-256 of its data, beside every checkpoint."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxgeo.config_files import check_same_settings
from jaxgeo.errors import ConfigError
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.processes import to_host

RUN = "run"
"""Name of the fingerprint among a checkpoint's notes."""


def fingerprint(config: Any, data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run depends on beside code, as JSON values.

    Args:
        config: a dataclass of JSON values.
        data: trees of arrays (no typed PRNG keys) by what an error message shall call them.

    Returns:
        `config`, and SHA-256 of `data` by name.
    """
    return {"config": dataclasses.asdict(config), "data": {name: digest(tree) for name, tree in data.items()}}


def digest(tree: Any) -> str:
    """SHA-256 of the names, dtypes, shapes and values of a tree of arrays, hexadecimal; of arrays of all processes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(to_host(leaf), order="C")
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape} ".encode())
        total.update(array.reshape(-1).view(np.uint8).data)  # not its buffer: bfloat16 has none
    return total.hexdigest()


def check_same_run(
    checkpoints: Checkpoints, now: dict[str, dict[str, Any]], may_differ: Collection[str] = ()
) -> dict[str, Any] | None:
    """Refuse to go on from a checkpoint that other settings or data led to.

    Args:
        checkpoints: the newest is looked at; one without a fingerprint passes.
        now: `fingerprint` of the run that would go on.
        may_differ: settings that may have changed.

    Returns:
        The notes of the newest checkpoint, None where there is none.

    Raises:
        ConfigError: it was begun with other settings or data; the message says which.
        CorruptFileError: its notes cannot be read.
    """
    notes = checkpoints.latest_notes()
    before = (notes or {}).get(RUN)
    if before is None:  # no checkpoint, or one of a version that kept no fingerprint
        return notes
    # An older version may have had fewer settings.
    known = {name: value for name, value in now["config"].items() if name in before["config"]}
    check_same_settings(checkpoints.folder, {name: before["config"][name] for name in known}, known, may_differ)
    for name, value in now["data"].items():
        if before["data"].get(name) != value:
            raise ConfigError(
                f"{checkpoints.folder} was begun with other {name} (SHA-256 {str(before['data'].get(name))[:12]}, now "
                f"{value[:12]}); go on with those, or begin another"
            )
    return notes
