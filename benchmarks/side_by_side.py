"""Independent long jobs in several processes, each on its share of the cores.

XLA spreads one small training step over two cores at less than one and a half times the speed of one; two steps of two
runs, each on a core of its own, lose nothing. A job is a picklable `job(progress)` that keeps what it has done in
files: a study that is stopped takes its processes with it, and goes on by the same command.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from jaxgeo.errors import JaxgeoError
from jaxgeo.progress import Callback, Progress

Job = Callable[[Callback], Any]


class WorkerError(JaxgeoError):
    """A process of `run_jobs` ended without a result."""


def shares(cores: Sequence[int], workers: int) -> list[list[int]]:
    """The cores of each worker: as equal as can be, one core twice where there are fewer cores than workers."""
    return [list(cores[i::workers]) or [cores[i % len(cores)]] for i in range(workers)]


def run_jobs(jobs: Mapping[str, Job], workers: int, progress: Progress, unit: str = "steps") -> dict[str, Any]:
    """Results by label, in the order of the jobs.

    Args:
        jobs: by label; each is called with the callback of its own bar.
        workers: processes, started afresh and pinned; with 1 the jobs run here, one after the other.
        progress: where the bars are drawn.
        unit: what the bars count.

    Raises:
        WorkerError: a process was killed, or a job failed with something else than the library's own errors, which are
            raised as they are. The other processes are stopped.
    """
    if workers == 1:
        return {label: job(progress.bar(label, unit)) for label, job in jobs.items()}
    context = multiprocessing.get_context("spawn")
    waiting, results, bars = list(jobs), {}, {}
    processes: dict[Connection, Any] = {}
    busy: dict[Connection, str] = {}

    def hand_out(connection: Connection) -> None:
        busy.pop(connection, None)
        if waiting:
            label = busy[connection] = waiting.pop(0)
            bars[label] = progress.bar(label, unit)
            connection.send(jobs[label])

    try:
        for cores in shares(sorted(os.sched_getaffinity(0)), min(workers, len(jobs))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, cores), daemon=True)
            process.start()
            there.close()  # or the end of the process would not be seen here
            processes[here] = process
            hand_out(here)
        while busy:
            ready = wait(list(busy))
            for connection, label in list(busy.items()):
                if connection not in ready:
                    continue
                kind, value = _receive(connection, processes[connection], label)
                if kind == "progress":
                    bars[label](*value)
                else:
                    results[label] = value
                    hand_out(connection)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()
    return {label: results[label] for label in jobs}


def _receive(connection: Connection, process: Any, label: str) -> tuple[str, Any]:
    """The next message of a worker, unless it is an error."""
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        raise WorkerError(
            f"the process of {label} ended with status {process.exitcode} and no result; the system may have stopped "
            f"it for want of memory: take fewer workers"
        ) from None
    if kind != "error":
        return kind, value
    if isinstance(value, JaxgeoError):
        raise value
    raise WorkerError(f"{label} failed: {value!r}") from value


def _work(connection: Connection, cores: Sequence[int]) -> None:
    """Jobs from the connection until it is closed; messages are ("progress" or "result" or "error", value)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers it
    os.sched_setaffinity(0, cores)

    def say(done: int, total: int, values: Mapping[str, float]) -> None:
        connection.send(("progress", (done, total, dict(values))))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            result = job(say)
        except Exception as error:
            connection.send(("error", error))
        else:
            connection.send(("result", result))
