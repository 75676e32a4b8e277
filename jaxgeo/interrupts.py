"""SIGTERM as an exception, and a stop that nothing swallows.

Python throws away what is raised in a finaliser or in a callback of the garbage collector (it says "Exception ignored
in" and goes on), and a signal may come while one of those runs: JAX has such a callback, called at every collection.
A program that was told to stop would then run to its end. And Python heeds no signal while it waits for JAX: long work
is done in short calls, between which it looks whether it was told to stop (`postponed`), and `leave` does not wait.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_AGAIN_AFTER_S = 0.02


class Terminated(BaseException):
    """SIGTERM came."""


_SIGNALS = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """While this lasts SIGTERM raises `Terminated`, and neither it nor Ctrl-C is lost.

    A stop that was raised where exceptions are ignored is sent again a moment later, until it is raised elsewhere.
    Outside the main thread, where Python allows no handlers, signals are left to the caller.
    """
    try:
        before = signal.signal(signal.SIGTERM, _terminate)
    except ValueError:
        yield
        return
    ignored_before = sys.unraisablehook

    def ignored(unraisable: Any) -> None:
        number = _SIGNALS.get(unraisable.exc_type)
        if number is None:
            ignored_before(unraisable)
            return
        # Not at once: this hook still runs where exceptions are ignored.
        again = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = ignored_before
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def postponed() -> Iterator[list[int]]:
    """While this lasts Ctrl-C and SIGTERM only enter the list that it gives; at its end the first of them is sent.

    What must not be torn looks at the list between its steps, and ends where it is not empty. Signals that were ignored
    still are. Outside the main thread, where Python allows no handlers, the list stays empty.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS.values()}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, note)
    except ValueError:
        yield came
        return
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def leave(status: int) -> NoReturn:
    """End the program with this status; where it was told to stop (130, 143), without waiting for what JAX computes."""
    if status in {128 + number for number in _SIGNALS.values()}:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
