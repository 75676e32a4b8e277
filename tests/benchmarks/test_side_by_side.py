"""Jobs in several processes: results in order, errors as they are, and a word where a process is gone."""

import os
import signal
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.side_by_side import WorkerError, run_jobs, shares
from jaxgeo.errors import InputError
from jaxgeo.progress import SilentProgress


class Recorder(SilentProgress):
    """Every value that a bar was given."""

    def __init__(self):
        self.seen = []

    def bar(self, label, unit):
        return lambda done, total, values: self.seen.append((label, unit, done, total, dict(values)))


def square(number, progress):
    progress(number, 10, {"square": float(number**2)})
    return number**2, sorted(os.sched_getaffinity(0))


def fail(error, progress):
    raise error


def vanish(progress):
    os.kill(os.getpid(), signal.SIGKILL)


@given(cores=st.integers(1, 9), workers=st.integers(1, 12))
def test_every_core_has_a_worker_and_every_worker_a_core(cores, workers):
    numbers = list(range(10, 10 + cores))
    found = shares(numbers, workers)
    assert len(found) == workers
    assert all(found)
    assert {core for share in found for core in share} == set(numbers)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_two_processes_give_the_results_of_one_in_the_order_of_the_jobs_and_say_how_far_they_are():
    jobs = {f"job {number}": partial(square, number) for number in (3, 1, 2)}
    alone, together = Recorder(), Recorder()
    expected, found = run_jobs(jobs, 1, alone), run_jobs(jobs, 2, together)
    assert [(label, value) for label, (value, _) in found.items()] == [
        (label, value) for label, (value, _) in expected.items()
    ]
    assert sorted(map(str, together.seen)) == sorted(map(str, alone.seen))
    pinned = {tuple(cores) for _, cores in found.values()}
    assert pinned <= {tuple(share) for share in shares(sorted(os.sched_getaffinity(0)), 2)}


@pytest.mark.parametrize(
    ("job", "expected", "words"),
    [
        (partial(fail, InputError("a map has 7 pixels")), InputError, "a map has 7 pixels"),
        (partial(fail, ValueError("seven")), WorkerError, r"bad failed: ValueError\('seven'\)"),
        (vanish, WorkerError, "the process of bad ended with status -9"),
    ],
    ids=["the library's own", "another", "killed"],
)
def test_a_job_that_fails_is_named(job, expected, words):
    with pytest.raises(expected, match=words):
        run_jobs({"bad": job, "good": partial(square, 2)}, 2, SilentProgress())
