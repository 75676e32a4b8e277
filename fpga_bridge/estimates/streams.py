"""A streaming design as data: one process for each layer, and the bounded FIFOs that join them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """One layer in hardware; all times in clock cycles.

    Attributes:
        name: unique in the design.
        reads: which steps of a frame read a word from each input FIFO, (input, step).
        writes: which steps of a frame write a word to each output FIFO, (output, step).
        interval: initiation interval from a step to the next, at least 1; one number, or one for each step.
        depth: from the start of a step to the cycle that writes its word, at least 1; likewise.
        setup: cycles from the start of a frame to its first step.
        kind: of the layer, for tables.
    """

    name: str
    reads: Bool[np.ndarray, "input step"]
    writes: Bool[np.ndarray, "output step"]
    interval: int | Int[np.ndarray, " step"] = 1
    depth: int | Int[np.ndarray, " step"] = 1
    setup: int = 1
    kind: str = ""

    @property
    def steps(self) -> int:
        """Steps of one frame."""
        return self.reads.shape[1]

    @property
    def latency(self) -> int:
        """Cycles of one frame where the process never waits: what a synthesis report gives for the module."""
        starts = np.concatenate([[0], np.cumsum(self.intervals[:-1])])
        return self.setup + int((starts + self.depths).max())

    @property
    def intervals(self) -> Int[np.ndarray, " step"]:
        """The initiation interval behind each step."""
        return np.broadcast_to(np.asarray(self.interval, np.int64), (self.steps,))

    @property
    def depths(self) -> Int[np.ndarray, " step"]:
        """The depth of each step."""
        return np.broadcast_to(np.asarray(self.depth, np.int64), (self.steps,))

    @property
    def in_flight(self) -> int:
        """Steps that the pipeline holds at once; 1 for a loop that is not pipelined."""
        if np.all(self.depths <= self.intervals):
            return 1
        return -(-int(self.depths.max()) // int(self.intervals.min()))


@dataclasses.dataclass(frozen=True)
class Fifo:
    """A queue from an output of one process to an input of another; `depth` in words, None for as many as it takes."""

    source: str
    target: str
    output: int = 0
    input: int = 0
    depth: int | None = None
    width: int = 16

    @property
    def name(self) -> str:
        """For messages and tables."""
        return f"{self.source}->{self.target}"


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """Processes in an order in which each comes after what it reads, and the FIFOs between them."""

    processes: tuple[Process, ...]
    fifos: tuple[Fifo, ...]

    def __post_init__(self) -> None:
        """Check that the graph is one.

        Raises:
            ConfigError: for a name twice, an end of a FIFO that is no port, a port without exactly one FIFO, constants
                out of range, or FIFOs whose two ends disagree on the words of a frame.
        """
        by_name = {process.name: process for process in self.processes}
        if len(by_name) != len(self.processes) or not by_name:
            raise ConfigError(f"a design needs processes of distinct names, got {[p.name for p in self.processes]}")
        for process in self.processes:
            least = process.steps and min(int(process.intervals.min()), int(process.depths.min()))
            if least < 1 or process.setup < 0:
                raise ConfigError(
                    f"process {process.name} needs at least one step, intervals and depths of at least 1 and a setup "
                    f"of at least 0, got {process.steps} steps, intervals and depths down to {least}, {process.setup}"
                )
            if process.reads.shape[1] != process.writes.shape[1]:
                raise ConfigError(f"process {process.name} reads for another number of steps than it writes")
        ends: dict[tuple[str, str, int], str] = {}
        for fifo in self.fifos:
            for end, port, side in ((fifo.source, fifo.output, "output"), (fifo.target, fifo.input, "input")):
                process = by_name.get(end)
                ports = 0 if process is None else len(process.reads if side == "input" else process.writes)
                if not 0 <= port < ports or (end, side, port) in ends:
                    raise ConfigError(f"FIFO {fifo.name} ends at {side} {port} of {end}, which is taken or not there")
                ends[end, side, port] = fifo.name
            written = int(by_name[fifo.source].writes[fifo.output].sum())
            read = int(by_name[fifo.target].reads[fifo.input].sum())
            if written != read:
                raise ConfigError(
                    f"FIFO {fifo.name} gets {written} words of a frame and {read} are read: it would fill up or run "
                    "dry; give both layers the same size"
                )
            if fifo.depth is not None and fifo.depth < 1:
                raise ConfigError(f"FIFO {fifo.name} must hold at least one word, got a depth of {fifo.depth}")
        ports = sum(len(process.reads) + len(process.writes) for process in self.processes)
        if ports != len(ends):
            raise ConfigError(f"{ports} ports of processes, but {len(ends)} ends of FIFOs; every port needs one FIFO")

    def __getitem__(self, name: str) -> Process:
        """The process of that name.

        Raises:
            ConfigError: where there is none; says which there are.
        """
        for process in self.processes:
            if process.name == name:
                return process
        known = ", ".join(process.name for process in self.processes)
        raise ConfigError(f"no process of the design is called {name!r}; there are {known}")

    def with_depths(self, depths: Sequence[int | None]) -> "Design":
        """The same design with these FIFO depths, in the order of `fifos`."""
        pairs = zip(self.fifos, depths, strict=True)
        return Design(self.processes, tuple(dataclasses.replace(fifo, depth=depth) for fifo, depth in pairs))
