"""A signal to stop is heeded wherever it comes, also where Python ignores exceptions."""

import gc
import os
import signal
import subprocess
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


ENDLESS = """
import sys, time
import jax, jax.numpy as jnp
from jaxgeo import interrupts

def work():
    try:
        with interrupts.heeded():
            steps = jnp.asarray(2**40)
            # Products, as an epoch has them: what JAX takes for cheap on a CPU it computes before it comes back.
            loop = jax.jit(lambda n, x: jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ x), x))
            result = loop(steps, jnp.ones((300, 300)))
            print("begun", flush=True)
            interrupts.wait(result)
    except interrupts.Terminated:
        print("stopped", file=sys.stderr)
        return 143
    return 0

jax.config.update("jax_enable_x64", True)
interrupts.leave(work())
"""


def test_a_program_is_stopped_in_the_middle_of_what_jax_computes():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(LONG_S, process.kill)  # the loop would take days
        watchdog.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.terminate()
            _, said = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
    assert (process.returncode, said) == (143, "stopped\n")


class ReadyAtThird:
    """Ready when it is asked for the third time."""

    asked = 0

    def is_ready(self):
        self.asked += 1
        return self.asked >= 3


def test_waiting_ends_when_all_is_computed():
    arrays = ReadyAtThird(), ReadyAtThird()
    interrupts.wait(*arrays)
    assert min(array.asked for array in arrays) == 3


@pytest.mark.parametrize("status", [0, 1])
def test_a_program_that_was_not_stopped_leaves_as_usual(status):
    with pytest.raises(SystemExit) as left:
        interrupts.leave(status)
    assert left.value.code == status
