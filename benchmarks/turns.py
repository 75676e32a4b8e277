"""Candidates of a benchmark in processes of their own that take turns: one call for every line that comes in.

So two programs whose libraries, memory or threads do not bear each other are still timed in one run, alternating.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OUT_OF_MEMORY = 75  # status of a child that said so itself
Calls = Mapping[str, Callable[[], Any]]


def serve(make: Callable[[], tuple[Calls, dict[str, Any]]], peak_call: str | None = None) -> int:
    """The child's side: says its notes when it is ready, then times one call for every line; its exit status.

    Args:
        make: gives the calls by name, and notes that can be said as JSON. A call's result is told if it is a float.
        peak_call: the call that gives the peak memory in GiB; by default the largest resident set of the process.
    """
    try:
        calls, notes = make()
        print(json.dumps(notes), flush=True)
        for line in sys.stdin:
            start = time.perf_counter()
            found = calls[line.strip()]()
            seconds = time.perf_counter() - start
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            peak = resident if peak_call is None else calls[peak_call]()
            answer = {"seconds": seconds, "peak_gib": peak, "found": found if isinstance(found, float) else None}
            print(json.dumps(answer), flush=True)
    except Exception as error:
        if not wants_memory(error):
            raise
        print(error, file=sys.stderr)
        return OUT_OF_MEMORY
    return 0


def wants_memory(error: BaseException) -> bool:
    """Whether Python, XLA or PyTorch says that memory is at an end."""
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(
        sign in said
        for sign in ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "not enough memory", "can't allocate memory")
    )


class Candidate:
    """A child process that takes turns. Once it has ended it answers nothing any more, and `fate` says why."""

    def __init__(self, name: str, command: Sequence[str], device: str = "cpu") -> None:
        self.name, self.peak_gib, self.found, self.fate = name, 0.0, None, ""
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- as long as the process lives
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": device},
        )
        self.notes = self._answer() or {}

    def _answer(self) -> dict[str, Any] | None:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            return json.loads(line)
        status = self._process.wait()
        if status in (-signal.SIGKILL, OUT_OF_MEMORY):
            self.fate = "out of memory"
        else:
            self._said.seek(0)
            self.fate = f"failed with status {status}: {self._said.read()[-2000:].strip() or 'it said nothing'}"
        return None

    def time(self, what: str) -> float | None:
        """Seconds of one call; None if the process is no more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._answer()
        if answer is None:
            return None
        self.peak_gib, self.found = answer["peak_gib"], answer["found"]
        return answer["seconds"]

    def close(self) -> None:
        """Let the process end."""
        for stream in (self._process.stdin, self._process.stdout, self._said):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
