"""The max-plus recurrences of a streaming design solved by whole arrays: all steps of a process at once.

Iterated from below, monotone recurrences meet their least solution, which are the true times. Where backpressure comes
from a slower process a few sweeps are enough; where two processes wait for each other word by word, or for ever, it
would take as many sweeps as words, and `dataflow` goes on step by step.
"""

import numpy as np
from jaxtyping import Int

from fpga_bridge.estimates.streams import Design, Process

_SWEEPS = 24


def by_sweeps(design: Design, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Starts and ends (frame * step) of each process, or None where the sweeps do not settle soon."""
    index = {process.name: i for i, process in enumerate(design.processes)}
    reads = [np.tile(process.reads, frames) for process in design.processes]
    writes = [np.tile(process.writes, frames) for process in design.processes]
    starts = [np.zeros(frames * process.steps, np.int64) for process in design.processes]
    ends = [np.zeros(frames * process.steps, np.int64) for process in design.processes]
    order = list(range(len(design.processes)))
    for sweep in range(_SWEEPS):
        changed = False
        for i in order if sweep % 2 == 0 else reversed(order):
            process = design.processes[i]
            available, free = np.zeros_like(starts[i]), np.zeros_like(ends[i])
            for fifo in design.fifos:
                if index[fifo.target] == i:
                    source = index[fifo.source]
                    words = ends[source][writes[source][fifo.output]] + 1
                    mask = reads[i][fifo.input]
                    available[mask] = np.maximum(available[mask], words)
                elif index[fifo.source] == i and fifo.depth is not None:
                    target = index[fifo.target]
                    slots = starts[target][reads[target][fifo.input]][: -fifo.depth] + 1
                    behind = np.flatnonzero(writes[i][fifo.output])[fifo.depth :]
                    free[behind] = np.maximum(free[behind], slots)
            new = _settle(process, available, free, starts[i], ends[i])
            if new is None:
                return None
            changed |= not np.array_equal(new[0], starts[i]) or not np.array_equal(new[1], ends[i])
            starts[i], ends[i] = new
        if not changed:
            return starts, ends
    return None


def _settle(
    process: Process,
    available: Int[np.ndarray, " step"],
    free: Int[np.ndarray, " step"],
    starts: Int[np.ndarray, " step"],
    ends: Int[np.ndarray, " step"],
) -> tuple[np.ndarray, np.ndarray] | None:
    """One process alone: its starts and ends given when words are there and slots are free."""
    starts, ends = starts.copy(), ends.copy()
    steps, k = process.steps, process.in_flight
    offsets = np.concatenate([[0], np.cumsum(process.intervals[:-1])])
    count = np.arange(steps)
    ready = process.setup
    for frame in range(0, len(starts), steps):
        own = slice(frame, frame + steps)
        s, e = starts[own], ends[own]
        for _ in range(_SWEEPS):
            bound = available[own].copy()
            bound[k:] = np.maximum(bound[k:], e[:-k])
            bound[0] = max(bound[0], ready)
            new_s = np.maximum.accumulate(bound - offsets) + offsets
            new_e = np.maximum.accumulate(np.maximum(new_s + process.depths, free[own]) - count) + count
            settled = np.array_equal(new_e, e) and np.array_equal(new_s, s)
            s, e = new_s, new_e
            if settled:
                break
        else:
            return None
        starts[own], ends[own] = s, e
        ready = int(e[-1]) + 1 + process.setup
    return starts, ends
