"""Ensembles whose training takes long: checkpointed, gone on with bit for bit, on one process or several."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from jaxgeo import files, interrupts
from jaxgeo.errors import ConfigError
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.ensemble import (
    Objective,
    Params,
    Progress,
    TrainingConfig,
    init_ensemble,
    place,
    plan_steps,
)
from jaxgeo.training.fingerprints import RUN, check_same_run, fingerprint
from jaxgeo.training.processes import held, is_first, to_host

_STEP, _TOTALS = "step", "totals"  # of an epoch that is begun, among a checkpoint's notes
CALL_S = 4.0
"""Seconds of one compiled call at most, unless a step takes longer: they are what a signal waits for, and beside half
of them the milliseconds are little that each call costs for its dispatch and for drawing the order of the epoch."""


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
    at_least_s: float = 0.0,
    progress: Progress | None = None,
) -> tuple[Params, Float[np.ndarray, "epoch member"]]:
    """Train from the newest checkpoint in the folder, or from the start, to `config.epochs`.

    A run that is killed at any moment and begun again ends in the same numbers, on the same number of devices. Ctrl-C
    and SIGTERM lose nothing where there is one process: within a few seconds, or after the step in hand where all
    members take longer for one, or after compiling, the steps done are saved, in the middle of an epoch too, and the
    signal then does what it would have done. One of several processes is ended by it as by any other signal.

    Each checkpoint knows its settings and the SHA-256 of its data, and other ones are refused; `init_fn` and
    `objective` are code, and to keep them the same is up to the caller.

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
        at_least_s: seconds between two checkpoints, but for the last; for one process.
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
    alone = jax.process_count() == 1  # several would not agree on when to save, nor all be told to stop
    step, steps_at_once, saved_at = 0, 1, time.monotonic()
    with held(files.make_folder(Path(folder))), Checkpoints(folder) as checkpoints:
        check_same_run(checkpoints, now, _may_differ(config))
        steps = plan_steps(state, objective, inputs, labels, config, mesh)
        totals = steps.no_losses()
        saved = checkpoints.restore(state)
        if saved is not None:
            state, notes = saved
            losses = np.asarray(notes["losses"], np.float32).reshape(-1, keys.shape[0])
            step = int(notes.get(_STEP, 0))
            totals = totals + np.asarray(notes.get(_TOTALS, 0), np.float32)
        done = told = int(to_host(state.epoch))

        def save() -> None:
            # JSON keeps every digit of a float32 that is written as a float64.
            rows = {"losses": losses, _TOTALS: to_host(totals)}
            notes = {name: values.astype(np.float64).tolist() for name, values in rows.items()}
            checkpoints.save(done * steps.number + step, state, notes | {_STEP: step, RUN: now})

        with interrupts.postponed() if alone else contextlib.nullcontext([]) as signals:
            while done < config.epochs and not signals:
                begun = time.monotonic()
                stop = min(step + steps_at_once, steps.number) if alone else steps.number
                state, totals = steps.run(state, totals, step, stop)
                found = to_host(totals)
                if not np.all(np.isfinite(found)):
                    raise ConfigError(
                        f"a loss became {found[~np.isfinite(found)][0]} in epoch {done + 1}; what was saved before is "
                        f"still there. Take a lower learning_rate than {config.learning_rate}"
                    )
                step, steps_at_once = stop, next_steps(steps_at_once, time.monotonic() - begun)
                if step < steps.number:
                    continue
                losses = np.concatenate([losses, (found / np.float32(steps.number))[None]])
                done, step, totals = done + 1, 0, steps.no_losses()
                if done - told < epochs_per_checkpoint and done < config.epochs:
                    continue
                told = done
                if done == config.epochs or not alone or time.monotonic() - saved_at >= at_least_s:
                    save()
                    saved_at = time.monotonic()
                if progress is not None and is_first():
                    progress(done, config.epochs, {"loss": float(math.fsum(losses[-1]) / losses.shape[1])})
            if done * steps.number + step > (checkpoints.latest_step or 0):
                save()
    return to_host(state.params), losses


def next_steps(steps: int, seconds: float) -> int:
    """How many steps the next call does, after a call of so many took so long."""
    return 2 * steps if seconds < CALL_S / 2 else max(1, steps // 2) if seconds > 2 * CALL_S else steps


def _may_differ(config: TrainingConfig) -> set[str]:
    if config.schedule == "constant" and not config.warmup_fraction:
        return {"members_per_block", "epochs"}  # the rate of no step depends on the number of epochs
    return {"members_per_block"}


def seeds(seed: int, stream: int, members: int) -> Key[Array, " member"]:
    """Keys of members; other streams of the same seed are independent of them."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), stream), members)
