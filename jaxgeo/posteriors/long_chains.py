"""HMC that takes long: saved as it goes, and gone on with bit for bit, on one process or several.

In the folder lie `states`, checkpoints by Orbax of which the newest two are kept, and `trace`, one safetensors file for
each stretch of transitions between two of them, written before the state that follows it. So a stretch is written
once, whatever the length of the run; a file without its state is of a run that was killed between the two, and done
again.
"""

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxgeo import files
from jaxgeo.errors import ConfigError, CorruptFileError, RunFolderError, check_whole
from jaxgeo.posteriors.hmc import Hmc, concatenate_traces
from jaxgeo.posteriors.hmc_state import HmcState, HmcTrace
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.ensemble import Params, Progress
from jaxgeo.training.fingerprints import RUN, check_same_run, fingerprint
from jaxgeo.training.processes import held, is_first, to_host

_SECONDS = "cpu_seconds"
_SHOWN = ("acceptance", "step_size", "num_leapfrogs")
_STRETCH = re.compile(r"(\d{9})-(\d{9})\.safetensors")
_MAY_DIFFER = ("num_draws", "chains_at_once", "likelihood_batches")
"""How long, and in which pieces: no transition depends on them but by rounding."""


class LongChains(NamedTuple):
    """A run to its end."""

    state: HmcState
    trace: HmcTrace
    """of all transitions, on every process"""
    cpu_seconds: float
    """processor time of one process for starting points and transitions, compilation included, saving not; summed over
    the runs that it took"""


def sample_chains(
    folder: Path,
    sampler: Hmc,
    key: PRNGKeyArray,
    inputs: Any,
    targets: Any,
    start: Params | None = None,
    *,
    every: int = 10,
    at_least_s: float = 0.0,
    progress: Progress | None = None,
) -> LongChains:
    """Run all chains from what the folder holds, or from the start, to the end of the sampler's configuration.

    A run that is killed at any moment and begun again ends in the same numbers, on the same number of devices. Each
    checkpoint knows its settings and the SHA-256 of its data, and other ones are refused; the log joint is code, and
    to keep it the same is up to the caller (of it only names, shapes and prior scales of the parameters are compared).

    Args:
        folder: of this run alone; on several processes all of them must see it.
        sampler: of `plan_hmc`, with a mesh over the devices of all processes where there are several. A run may go on
            to more `num_draws`, and with other `chains_at_once` and `likelihood_batches`.
        key: of starting points, momenta and acceptance.
        inputs: all inputs, the same on every process.
        targets: all targets.
        start: as for `Hmc.init`. Give it also where a run goes on: it is compared.
        every: transitions between two states that can be saved, after each of which progress is told.
        at_least_s: seconds between two savings, but for the last, and but for a run that an exception breaks off, whose
            last state is saved too. 0, and always so on several processes, saves every state that can be saved.
        progress: called on process 0 alone, with the `acceptance`, `step_size` and `num_leapfrogs` of the last
            transition (means over the chains) and the `divergences` of all chains after the warm-up.

    Returns:
        State, whole trace (its `position` thinned, as `Hmc.run` has it) and processor time.

    Raises:
        ConfigError: settings, data, key or starting points that the folder was not begun with, or fewer transitions
            than it already holds.
        InputError: what `Hmc.init` refuses.
        CorruptFileError: a file of the folder is damaged or missing.
        RunFolderError: the folder cannot be written, or another process works in it.
    """
    check_whole("every", every)
    sampler.check_data(inputs, targets)
    total, warm = sampler.config.num_transitions, sampler.config.num_warmup
    now = _identity(sampler, key, inputs, targets, start)
    stretches = files.make_folder(Path(folder) / "trace")
    with held(Path(folder)), Checkpoints(Path(folder) / "states") as checkpoints:
        notes = check_same_run(checkpoints, now, _MAY_DIFFER)
        begun = time.process_time()
        if notes is None:
            reached = _Reached(0, sampler.init(key, inputs, targets, start), (), 0.0)
        else:
            like = _like(sampler, key, inputs, targets)
            reached = _restored(checkpoints, stretches, like, float(notes[_SECONDS]))
            _check_length(folder, sampler, reached.done)
        if is_first():
            _remove_beyond(stretches, reached.done)
        on_disk, saved_at = reached, time.monotonic()
        divergences = sum(int(_after(warm, trace.diverging, first).sum()) for first, trace in _numbered(reached.traces))
        alone = jax.process_count() == 1  # the clocks of several would not agree on when to save, nor all be broken off
        try:
            while reached.done < total:
                state, trace = sampler.run(reached.state, inputs, targets, every)
                divergences += int(_after(warm, trace.diverging, reached.done).sum())
                # In one piece, so that what is saved fits together wherever the run is broken off.
                reached = _Reached(
                    int(to_host(state.iteration)), state, (*reached.traces, trace),
                    reached.seconds + time.process_time() - begun,
                )  # fmt: skip
                if reached.done == total or not alone or time.monotonic() - saved_at >= at_least_s:
                    _save(stretches, checkpoints, now, on_disk, reached)
                    on_disk, saved_at = reached, time.monotonic()
                if progress is not None and is_first():
                    shown = {name: float(getattr(trace, name)[:, -1].mean()) for name in _SHOWN}
                    progress(reached.done, total, shown | {"divergences": float(divergences)})
                begun = time.process_time()
        except BaseException:
            # What broke it off may be the very disk that this needs: the first error is the one to tell.
            with contextlib.suppress(RunFolderError):
                if alone and reached.done > on_disk.done:
                    _save(stretches, checkpoints, now, on_disk, reached)
            raise
    return LongChains(reached.state, concatenate_traces(reached.traces), reached.seconds)


class _Reached(NamedTuple):
    """A run as far as it has come: transitions done, the state after them, their trace in pieces, seconds."""

    done: int
    state: HmcState
    traces: tuple[HmcTrace, ...]
    seconds: float


def _identity(sampler: Hmc, key: Any, inputs: Any, targets: Any, start: Params | None) -> Any:
    """What a checkpoint knows of its run: the settings, and digests of all that the numbers come from."""
    scales = sampler.draws(np.ones(sampler.dim, sampler.dtype))
    return fingerprint(
        sampler.config,
        {
            "training inputs": inputs, "targets": targets, "key": jax.random.key_data(key), "starting points": start,
            "parameters or prior scales": scales,
        },
    )  # fmt: skip


def _restored(checkpoints: Checkpoints, stretches: Path, like: HmcState, seconds: float) -> _Reached:
    """The run as its last checkpoint, of which there is one, left it."""
    saved = checkpoints.restore(like)
    assert saved is not None
    state = HmcState(*saved[0])
    done = int(to_host(state.iteration))
    return _Reached(done, state, _read(stretches, done), seconds)


def _check_length(folder: Path, sampler: Hmc, done: int) -> None:
    config = sampler.config
    if done > config.num_transitions:
        raise ConfigError(
            f"{folder} holds {done} transitions, more than the {config.num_transitions} of this configuration; take "
            f"num_draws of at least {-(-(done - config.num_warmup) // config.thinning)}, or another folder"
        )


def _save(stretches: Path, checkpoints: Checkpoints, run: Any, before: _Reached, now: _Reached) -> None:
    """Write what came since the last saving: first the trace, then the state."""
    if is_first():
        stretch = concatenate_traces(now.traces[len(before.traces) :])
        files.save_arrays(stretches / f"{before.done:09d}-{now.done:09d}.safetensors", stretch._asdict())
    checkpoints.save(now.done, now.state, {RUN: run, _SECONDS: now.seconds})


def _like(sampler: Hmc, key: Any, inputs: Any, targets: Any) -> HmcState:
    """A state of zeros, placed as the sampler's are: to be filled from a file without computing one."""
    chains = sampler.config.num_chains
    position = jax.ShapeDtypeStruct((chains, sampler.dim), sampler.dtype)
    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.split(key, chains)))
    shapes = jax.eval_shape(sampler.start_state, position, words, inputs, targets)
    return sampler.place_state(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))


def _stretches(folder: Path) -> list[tuple[int, int, Path]]:
    """First transition, the one after the last, and file, of all stretches in order."""
    named = ((_STRETCH.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), int(match[2]), path) for match, path in named if match)


def _read(folder: Path, done: int) -> tuple[HmcTrace, ...]:
    """The trace of the first `done` transitions in stretches."""
    traces, reached = [], 0
    for first, stop, path in _stretches(folder):
        if stop <= done and first == reached:
            try:
                traces.append(HmcTrace(**files.load_arrays(path)))
            except TypeError as error:
                raise CorruptFileError(f"{path} is no stretch of a trace: it has other arrays ({error})") from error
            reached = stop
    if reached != done:
        raise CorruptFileError(
            f"{folder} lacks the trace of the transitions from {reached} on, which the state after {done} needs; "
            f"restore that file, or begin in another folder"
        )
    return tuple(traces)


def _remove_beyond(folder: Path, done: int) -> None:
    """Delete stretches that no state followed, which another `every` would leave beside those that take their place."""
    files.remove_leftovers(folder)
    for _, stop, path in _stretches(folder):
        if stop > done:
            try:
                path.unlink()
            except OSError as error:
                raise files.run_folder_error(error, path) from error


def _numbered(traces: Sequence[HmcTrace]) -> list[tuple[int, HmcTrace]]:
    """Each stretch with the number of its first transition."""
    starts = np.cumsum([0] + [trace.energy.shape[1] for trace in traces])
    return [(int(first), trace) for first, trace in zip(starts, traces, strict=False)]


def _after(warm: int, column: np.ndarray, first: int) -> np.ndarray:
    """What of a stretch's column comes after the warm-up."""
    return column[:, max(0, warm - first) :]
