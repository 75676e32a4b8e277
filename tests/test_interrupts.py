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
        with interrupts.heeded(), interrupts.postponed():
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
            while not result.is_ready():
                time.sleep(0.01)
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


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, interrupts.Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_postponed_signal_is_listed_and_sent_at_the_end(number, error):
    reached = []

    def work():
        with interrupts.postponed() as came:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            reached.append(list(came))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupts.heeded(), pytest.raises(error):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == [[number, number]]


def test_nothing_is_sent_where_nothing_came_or_is_ignored_and_an_error_goes_before_a_signal():
    ignored_before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.postponed() as came:
            os.kill(os.getpid(), signal.SIGINT)
        assert came == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ignored_before)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def fail():
        with interrupts.postponed():
            os.kill(os.getpid(), signal.SIGINT)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("status", [0, 1])
def test_a_program_that_was_not_stopped_leaves_as_usual(status):
    with pytest.raises(SystemExit) as left:
        interrupts.leave(status)
    assert left.value.code == status
