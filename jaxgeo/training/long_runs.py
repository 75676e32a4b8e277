"""Ensembles whose training takes long: checkpointed, gone on with bit for bit, on one process or several."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from jaxgeo import files
from jaxgeo.errors import ConfigError
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.ensemble import (
    Objective,
    Params,
    Progress,
    TrainingConfig,
    init_ensemble,
    place,
    train_epochs,
)
from jaxgeo.training.fingerprints import RUN, check_same_run, fingerprint
from jaxgeo.training.processes import held, is_first, to_host


def train_ensemble(
    folder: Path,
    keys: Key[Array, " member"],
    init_fn: Callable[[Array], Params],
    objective: Objective,
    inputs: Any,
    labels: Any,
    config: TrainingConfig,
    *,
    mesh: Mesh | None = None,
    epochs_per_checkpoint: int = 10,
    progress: Progress | None = None,
) -> tuple[Params, Float[np.ndarray, "epoch member"]]:
    """Train from the newest checkpoint in the folder, or from the start, to `config.epochs`.

    A run that is killed at any moment and begun again ends in the same numbers, on the same number of devices. Each
    checkpoint knows its settings and the SHA-256 of its data, and other ones are refused; `init_fn` and `objective`
    are code, and to keep them the same is up to the caller.

    Args:
        folder: of the checkpoints alone; on several processes all of them must see it.
        keys: the seed of each member.
        init_fn: parameters of one member from a key.
        objective: loss of one member on one batch.
        inputs: all training inputs, the same on every process.
        labels: one per input.
        config: optimiser, schedule and length. A run may go on with other `members_per_block`, and, where the rate is
            constant, to more `epochs`.
        mesh: over the devices of all processes; axes `member` and `data`.
        epochs_per_checkpoint: a checkpoint is written, and progress told, after so many.
        progress: called on process 0 alone.

    Returns:
        All members stacked, and their losses, as NumPy arrays on every process.

    Raises:
        ConfigError: a loss that is not finite (earlier checkpoints stay), settings that do not go together, or a
            checkpoint of other settings, data or seeds; the message says which.
        InputError: inputs and labels of different lengths, or labels that the objective knows to be no classes.
        CorruptFileError: the newest checkpoint is damaged or of another network.
        RunFolderError: the folder cannot be written, or another process works in it.
    """
    if epochs_per_checkpoint < 1:
        raise ConfigError(f"epochs_per_checkpoint must be at least 1, got {epochs_per_checkpoint}")
    state = init_ensemble(keys, init_fn, config)
    if mesh is not None:
        state = place(state, mesh)
    losses = np.zeros((0, keys.shape[0]), np.float32)
    data = {"training inputs": inputs, "labels": labels, "seeds of the members": jax.random.key_data(keys)}
    now = fingerprint(config, data)
    with held(files.make_folder(Path(folder))), Checkpoints(folder) as checkpoints:
        check_same_run(checkpoints, now, _may_differ(config))
        saved = checkpoints.restore(state)
        if saved is not None:
            state, notes = saved
            losses = np.asarray(notes["losses"], np.float32).reshape(-1, keys.shape[0])
        done = int(to_host(state.epoch))
        while done < config.epochs:
            count = min(epochs_per_checkpoint, config.epochs - done)
            state, history = train_epochs(state, objective, inputs, labels, config, count, mesh)
            new = to_host(history.loss)
            if not np.all(np.isfinite(new)):
                raise ConfigError(
                    f"a loss became {new[~np.isfinite(new)][0]} before epoch {done + count}; what was saved before is "
                    f"still there. Take a lower learning_rate than {config.learning_rate}"
                )
            done, losses = done + count, np.concatenate([losses, new])
            # JSON keeps every digit of a float32 that is written as a float64.
            checkpoints.save(done, state, {"losses": losses.astype(np.float64).tolist(), RUN: now})
            if progress is not None and is_first():
                progress(done, config.epochs, {"loss": float(math.fsum(losses[-1]) / losses.shape[1])})
    return to_host(state.params), losses


def _may_differ(config: TrainingConfig) -> set[str]:
    if config.schedule == "constant" and not config.warmup_fraction:
        return {"members_per_block", "epochs"}  # the rate of no step depends on the number of epochs
    return {"members_per_block"}


def seeds(seed: int, stream: int, members: int) -> Key[Array, " member"]:
    """Keys of members; other streams of the same seed are independent of them."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), stream), members)
