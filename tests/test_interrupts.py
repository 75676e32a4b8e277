"""A signal to stop is heeded wherever it comes, also where Python ignores exceptions."""

import gc
import os
import signal
import sys
import threading
import time

import pytest

from jaxgeo import interrupts

LONG_S = 30


def stopped_by_itself():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LONG_S)


def stopped_in_a_collection(number):
    """Send a signal while the garbage collector's callbacks run, then work on."""
    sent = []

    def callback(phase, info):
        if not sent:
            sent.append(phase)
            os.kill(os.getpid(), number)
            time.sleep(0)  # the handler runs between two instructions: here

    gc.callbacks.append(callback)
    try:
        gc.collect()
        assert sent
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:
            time.sleep(0.001)
    finally:
        gc.callbacks.remove(callback)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, interrupts.Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_stop_during_garbage_collection_is_raised_after_it(number, error):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupts.heeded(), pytest.raises(error):
            stopped_in_a_collection(number)
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_is_raised_at_once_and_the_handlers_come_back():
    before, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(interrupts.Terminated), interrupts.heeded():
        stopped_by_itself()
    assert signal.getsignal(signal.SIGTERM) == before
    assert sys.unraisablehook is hook


def test_other_ignored_errors_go_to_the_hook_that_was_there(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    class Broken:
        def __del__(self):
            raise ArithmeticError

    with interrupts.heeded():
        Broken()
        gc.collect()
    assert told == [ArithmeticError]


def test_other_threads_leave_signals_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with interrupts.heeded():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
