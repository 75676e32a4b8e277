r"""Cycle counts of a streaming design: processes joined by bounded FIFOs, simulated exactly before any synthesis.

A process is what hls4ml makes of one layer with io_stream: a loop whose steps each read at most one word from every
input FIFO and write at most one word to every output FIFO. Three constants say how fast it is (initiation interval,
depth from the start of a step to its end, cycles before the first step). With these the design is a timed event graph,
and the times of all steps are the least solution of max-plus recurrences, whatever the order of evaluation:

    start[n] = max(start[n-1] + interval, end[n-K] for the K steps that fit into the pipeline, words read written + 1)
    end[n]   = max(start[n] + depth, end[n-1] + 1, slots written freed + 1)

so times are exact integers, and a design that stops has run into a true deadlock.

References:
    Baccelli, Cohen, Olsder, Quadrat, "Synchronization and Linearity" (1992), chapter 2: timed event graphs.
    Kahn, "The semantics of a simple language for parallel programming" (1974): why the order does not matter.
"""

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from fpga_bridge.estimates.streams import Design, Fifo, Process
from fpga_bridge.estimates.sweeps import by_sweeps
from jaxgeo.errors import ConfigError, ExportError

_FEW_STEPS = 5000  # below, single steps are done before whole arrays have been set up


@dataclasses.dataclass(frozen=True)
class Wait:
    """Why a process stands still: for a word of an empty FIFO, or for room in a full one."""

    process: str
    fifo: str
    full: bool
    partner: str
    depth: int | None

    def __str__(self) -> str:
        """As a clause of a sentence."""
        if self.full:
            return f"{self.process} waits for room in {self.fifo} (full, depth {self.depth}) until {self.partner} reads"
        return f"{self.process} waits for a word in {self.fifo} (empty) until {self.partner} writes"


class DeadlockError(ExportError):
    """The design stops for ever; `waits` is the circle of processes that wait for each other."""

    def __init__(self, waits: tuple[Wait, ...]) -> None:
        self.waits = waits
        full = sorted({f"{wait.fifo} (now {wait.depth})" for wait in waits if wait.full})
        super().__init__(
            f"the design deadlocks: {'; '.join(map(str, waits))}; deepen {' or '.join(full)}, "
            "dataflow.minimal_depths says by how much"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a simulation gave; cycles count from the start of the design, frames follow each other at once.

    Attributes:
        starts: of each process, the cycle at which each step starts, (frame * step).
        ends: likewise, the cycle at which it writes.
        written: of each FIFO, the cycle at which each word is written.
        read: of each FIFO, the cycle at which each word is read.
        frames: simulated.
    """

    design: Design
    starts: Mapping[str, Int[np.ndarray, " _"]]
    ends: Mapping[str, Int[np.ndarray, " _"]]
    written: tuple[Int[np.ndarray, " _"], ...]
    read: tuple[Int[np.ndarray, " _"], ...]
    frames: int

    def finished(self) -> Int[np.ndarray, " frame"]:
        """The cycle at which the last process has finished each frame."""
        last = [self.ends[p.name].reshape(self.frames, p.steps)[:, -1] for p in self.design.processes]
        return np.max(last, axis=0)

    @property
    def latency(self) -> int:
        """Cycles from the start to the end of the first frame, T(1) of the batch rule T(B) = L + (B - 1) II."""
        return int(self.finished()[0])

    @property
    def interval(self) -> int:
        """Cycles from the end of the last frame but one to the end of the last.

        Raises:
            ConfigError: where only one frame was simulated.
        """
        if self.frames < 2:
            raise ConfigError("an initiation interval needs at least two frames, got 1; simulate(design, frames=3)")
        return int(self.finished()[-1] - self.finished()[-2])

    def occupancy(self, fifo: int) -> tuple[Int[np.ndarray, " event"], Int[np.ndarray, " event"]]:
        """Cycles at which a FIFO's filling changes, and the words in it (slots taken) from that cycle on."""
        return _filling(self.written[fifo], self.read[fifo])

    def peak(self, fifo: int) -> int:
        """The most slots that a FIFO has taken at any time; with this depth no time of the run changes."""
        return int(_filling(self.written[fifo], self.read[fifo])[1].max())

    def batch_cycles(self, frames: int) -> int:
        """T(B) = L + (B - 1) II for a batch of so many frames."""
        return self.latency + (frames - 1) * self.interval


def _filling(written: np.ndarray, read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A slot read at cycle t can be written again at t + 1, so it counts as taken until then.
    times = np.concatenate([written, read + 1])
    changes = np.concatenate([np.ones(len(written), np.int64), -np.ones(len(read), np.int64)])
    cycles, where = np.unique(times, return_inverse=True)
    return cycles, np.cumsum(np.bincount(where, weights=changes, minlength=len(cycles)).astype(np.int64))


def simulate(design: Design, frames: int = 1) -> Run:
    """All times of all steps, exactly.

    By whole arrays where that settles within a few sweeps, else step by step (some 20,000 steps a second); the times
    are the same.

    Args:
        design: of any shape without directed circles.
        frames: that follow each other; a process takes the next one the cycle after it has finished one.

    Raises:
        DeadlockError: where processes wait for each other for ever; names them and the FIFOs.
        ConfigError: for less than one frame.
    """
    if frames < 1:
        raise ConfigError(f"at least one frame must be simulated, got {frames}")
    large = frames * sum(process.steps for process in design.processes) > _FEW_STEPS
    starts, ends = (by_sweeps(design, frames) if large else None) or by_steps(design, frames)
    names = [process.name for process in design.processes]
    index = {name: i for i, name in enumerate(names)}
    written, read = [], []
    for fifo in design.fifos:
        source, target = index[fifo.source], index[fifo.target]
        written.append(ends[source][np.tile(design.processes[source].writes[fifo.output], frames)])
        read.append(starts[target][np.tile(design.processes[target].reads[fifo.input], frames)])
    by_name = [dict(zip(names, times, strict=True)) for times in (starts, ends)]
    return Run(design, by_name[0], by_name[1], tuple(written), tuple(read), frames)


def by_steps(design: Design, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Starts and ends (frame * step) of each process.

    Each process runs as far as the words and the slots that are known let it, then its neighbours do; the work is
    proportional to the number of steps.

    Raises:
        DeadlockError: where processes wait for each other for ever.
    """
    runners = [_Runner(process, frames) for process in design.processes]
    index = {process.name: i for i, process in enumerate(design.processes)}
    queues = [_Queue(fifo.depth, index[fifo.source], index[fifo.target]) for fifo in design.fifos]
    for queue, fifo in zip(queues, design.fifos, strict=True):
        runners[queue.source].outputs[fifo.output] = queue
        runners[queue.target].inputs[fifo.input] = queue
    pending, waiting = deque(range(len(runners))), [True] * len(runners)
    while pending:
        current = pending.popleft()
        waiting[current] = False
        if runners[current].advance():
            for queue in (*runners[current].inputs, *runners[current].outputs):
                neighbour = queue.source if queue.target == current else queue.target
                if not waiting[neighbour]:
                    waiting[neighbour] = True
                    pending.append(neighbour)
    _check_finished(design, runners)
    starts = [np.array(runner.starts, np.int64) for runner in runners]
    return starts, [np.array(runner.ends, np.int64) for runner in runners]


class _Queue:
    """Times at which words were written to and read from one FIFO, as far as they are known."""

    __slots__ = ("depth", "read", "source", "target", "written")

    def __init__(self, depth: int | None, source: int, target: int) -> None:
        self.depth, self.source, self.target = depth, source, target
        self.written: list[int] = []
        self.read: list[int] = []


class _Runner:
    """One process on its way through its steps."""

    def __init__(self, process: Process, frames: int) -> None:
        self.process, self.total, self.in_flight = process, frames * process.steps, process.in_flight
        self.inputs: list[_Queue] = [None] * len(process.reads)  # pyright: ignore[reportAttributeAccessIssue]
        self.outputs: list[_Queue] = [None] * len(process.writes)  # pyright: ignore[reportAttributeAccessIssue]
        self.intervals, self.depths = process.intervals.tolist(), process.depths.tolist()
        self.reads = [[int(i) for i in np.flatnonzero(column)] for column in process.reads.T]
        self.writes = [[int(i) for i in np.flatnonzero(column)] for column in process.writes.T]
        self.starts: list[int] = []
        self.ends: list[int] = []

    def advance(self) -> bool:
        """Go on until a word or a slot is missing; whether any step was made."""
        starts, ends, steps = self.starts, self.ends, self.process.steps
        before = len(starts), len(ends)
        while len(ends) < self.total:
            n = len(ends)
            step = n % steps
            if len(starts) == n:
                start = self._start(n, step)
                if start is None:
                    break
                starts.append(start)
            end = starts[n] + self.depths[step]
            if n and ends[n - 1] >= end:
                end = ends[n - 1] + 1
            blocked = False
            for port in self.writes[step]:
                queue = self.outputs[port]
                freed = -1 if queue.depth is None else len(queue.written) - queue.depth
                if freed >= 0:
                    if freed >= len(queue.read):
                        blocked = True
                        break
                    end = max(end, queue.read[freed] + 1)
            if blocked:
                # Steps behind a blocked one still fill the pipeline, and what they read makes room upstream.
                self._run_ahead(n)
                break
            for port in self.writes[step]:
                self.outputs[port].written.append(end)
            ends.append(end)
        return (len(starts), len(ends)) != before

    def _run_ahead(self, blocked: int) -> None:
        steps = self.process.steps
        while len(self.starts) < min(blocked + self.in_flight, self.total) and len(self.starts) % steps:
            start = self._start(len(self.starts), len(self.starts) % steps)
            if start is None:
                return
            self.starts.append(start)

    def _start(self, n: int, step: int) -> int | None:
        start = self.process.setup
        if n:
            start = self.starts[n - 1] + self.intervals[step - 1] if step else self.ends[n - 1] + 1 + start
        if step >= self.in_flight:  # earlier frames have left the pipeline before this one enters
            start = max(start, self.ends[n - self.in_flight])
        for port in self.reads[step]:
            queue = self.inputs[port]
            word = len(queue.read)
            if word >= len(queue.written):
                return None
            start = max(start, queue.written[word] + 1)
        for port in self.reads[step]:
            self.inputs[port].read.append(start)
        return start


def _check_finished(design: Design, runners: Sequence[_Runner]) -> None:
    names = {id(queue): fifo for runner in runners for queue, fifo in _named(design, runner)}
    waits: dict[int, Wait] = {}
    for i, runner in enumerate(runners):
        if len(runner.ends) == runner.total:
            continue
        name = runner.process.name
        n = len(runner.ends)
        full = [
            queue
            for port in runner.writes[n % runner.process.steps]
            for queue in [runner.outputs[port]]
            if queue.depth is not None and 0 <= len(queue.written) - queue.depth >= len(queue.read)
        ]
        if len(runner.starts) > n and full:
            fifo = names[id(full[0])]
            waits[i] = Wait(name, fifo.name, True, fifo.target, fifo.depth)
        else:
            n = len(runner.starts)
            empty = [
                queue
                for port in runner.reads[n % runner.process.steps]
                for queue in [runner.inputs[port]]
                if len(queue.read) >= len(queue.written)
            ]
            fifo = names[id(empty[0])]
            waits[i] = Wait(name, fifo.name, False, fifo.source, fifo.depth)
    if not waits:
        return
    index = {process.name: i for i, process in enumerate(design.processes)}
    seen: list[int] = []
    current = next(iter(waits))
    while current not in seen:  # each that waits has a partner that waits too, so this ends in a circle
        seen.append(current)
        current = index[waits[current].partner]
    raise DeadlockError(tuple(waits[i] for i in seen[seen.index(current) :]))


def _named(design: Design, runner: _Runner) -> list[tuple[_Queue, Fifo]]:
    return [(runner.outputs[fifo.output], fifo) for fifo in design.fifos if fifo.source == runner.process.name]
