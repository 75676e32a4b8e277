"""Streaming designs: exact times against a simulation cycle by cycle, deadlocks found, depths minimal."""

import dataclasses
import re
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.estimates import stages
from fpga_bridge.estimates.dataflow import DeadlockError, simulate
from fpga_bridge.estimates.fifo_depths import deadlocks, free_running_depths, lean_depths, minimal_depths
from fpga_bridge.estimates.streams import Design, Fifo
from fpga_bridge.estimates.sweeps import by_sweeps
from jaxgeo.errors import ConfigError


class Clocked:
    """The design as registers and queues that change once a cycle; knows nothing of max-plus algebra."""

    def __init__(self, design: Design, frames: int):
        self.room = [10**9 if fifo.depth is None else fifo.depth for fifo in design.fifos]
        self.queues = [0 for _ in design.fifos]
        self.state = []
        for p in design.processes:
            reads = [[i for i, f in enumerate(design.fifos) if f.target == p.name and p.reads[f.input, step]]
                     for step in range(p.steps)]  # fmt: skip
            writes = [[i for i, f in enumerate(design.fifos) if f.source == p.name and p.writes[f.output, step]]
                      for step in range(p.steps)]  # fmt: skip
            self.state.append(
                {"reads": reads, "writes": writes, "depths": p.depths.tolist(), "intervals": p.intervals.tolist(),
                 "steps": p.steps, "total": frames * p.steps, "setup": p.setup, "slots": p.in_flight, "next": 0,
                 "pipe": deque(), "ready": p.setup, "last": -1, "ends": [], "starts": []}
            )  # fmt: skip

    def cycle(self, now: int) -> bool:
        """Every decision of a cycle sees the queues as they stood before it; whether anything happened."""
        changes = [0] * len(self.queues)
        happened = False
        for s in self.state:
            if s["pipe"]:
                start, step = s["pipe"][0]
                ports = s["writes"][step]
                room = all(self.queues[i] < self.room[i] for i in ports)
                if now >= start + s["depths"][step] and s["last"] < now and room:
                    s["pipe"].popleft()
                    s["last"] = now
                    s["ends"].append(now)
                    happened = True
                    for i in ports:
                        changes[i] += 1
                    if step == s["steps"] - 1:
                        s["ready"] = now + 1 + s["setup"]
            step = s["next"] % s["steps"]
            if s["next"] == s["total"] or now < s["ready"] or len(s["pipe"]) >= s["slots"]:
                continue
            if step == 0 and s["pipe"]:
                continue  # the frame before has not left yet
            ports = s["reads"][step]
            if all(self.queues[i] > 0 for i in ports):
                s["pipe"].append((now, step))
                s["starts"].append(now)
                s["ready"] = now + s["intervals"][step]
                s["next"] += 1
                happened = True
                for i in ports:
                    changes[i] -= 1
        self.queues = [queue + change for queue, change in zip(self.queues, changes, strict=True)]
        return happened

    def run(self) -> bool:
        """Whether all frames end; a design in which nothing happens for longer than any step takes never will."""
        longest = max(max(s["depths"]) + max(s["intervals"]) + s["setup"] for s in self.state) + 2
        now = idle = 0
        while idle < longest:
            idle = 0 if self.cycle(now) else idle + 1
            now += 1
        return all(len(s["ends"]) == s["total"] for s in self.state)


def random_design(seed):
    """A fork, a long branch of windows and a short one of pointwise layers, an addition; then perhaps a pooling.

    By a seed, because beartype draws random elements to check, which a strategy of Hypothesis must not.
    """
    rng = np.random.default_rng(seed)

    def draw(low, high):
        return int(rng.integers(low, high + 1))

    height, width, copies = draw(2, 4), draw(2, 4), draw(2, 3)
    pixels = height * width
    head = stages.pointwise("head", pixels, depth=draw(1, 3), interval=draw(1, 3))
    processes = [dataclasses.replace(head, reads=np.ones((0, pixels), bool)), stages.clone("fork", pixels, copies)]
    fifos = [Fifo("head", "fork")]
    for branch in range(copies):
        at, port = "fork", branch
        for layer in range(draw(0, 2) if branch else 1):
            pad, name = f"pad{branch}{layer}", f"layer{branch}{layer}"
            if branch == 0 or draw(0, 1):
                k = draw(2, 3)
                before = (k - 1) // 2
                processes.append(stages.padding(pad, (height, width), (before,) * 2, (k - 1 - before,) * 2))
                fifos.append(Fifo(at, pad, port))
                at, port = pad, 0
                busy = (draw(1, 3), draw(1, 3)) if draw(0, 1) else None
                size = (height + k - 1, width + k - 1)
                processes.append(stages.windowed(name, size, (k, k), depth=draw(1, 5), busy=busy))
            else:
                processes.append(stages.pointwise(name, pixels, depth=draw(1, 3), interval=draw(1, 3)))
            fifos.append(Fifo(at, name, port))
            at, port = name, 0
        fifos.append(Fifo(at, "sum", port, branch))
    processes.append(stages.pointwise("sum", pixels, inputs=copies, depth=draw(1, 3)))
    if draw(0, 1):
        processes.append(stages.windowed("pool", (height, width), (2, 2), (2, 2), kind="pool"))
        fifos.append(Fifo("sum", "pool"))
    processes[-1] = dataclasses.replace(processes[-1], writes=processes[-1].writes[:0])
    return Design(tuple(processes), tuple(fifos))


SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=16)
@given(seed=SEEDS, frames=st.integers(1, 2))
def test_times_equal_those_of_the_simulation_cycle_by_cycle(seed, frames):
    design = random_design(seed)
    free = np.array(free_running_depths(design))
    depths = np.random.default_rng(seed).integers((free + 1) // 2, free + 1)
    design = design.with_depths([max(int(depth), 1) for depth in depths])
    clocked = Clocked(design, frames)
    ended = clocked.run()
    if not ended:
        with pytest.raises(DeadlockError):
            simulate(design, frames)
        return
    run = simulate(design, frames)
    for process, state in zip(design.processes, clocked.state, strict=True):
        np.testing.assert_array_equal(run.starts[process.name], state["starts"])
        np.testing.assert_array_equal(run.ends[process.name], state["ends"])
    settled = by_sweeps(design, frames)
    if settled is not None:
        for times, others in zip(settled, (run.starts, run.ends), strict=True):
            for own, other in zip(times, others.values(), strict=True):
                np.testing.assert_array_equal(own, other)


@settings(max_examples=6)
@given(seed=SEEDS)
def test_minimal_depths_do_not_deadlock_and_one_less_does(seed):
    design = random_design(seed)
    depths = minimal_depths(design)
    assert Clocked(design.with_depths(depths), 1).run()
    for i, depth in enumerate(depths):
        if depth > 1:
            less = [*depths[:i], depth - 1, *depths[i + 1 :]]
            assert deadlocks(design.with_depths(less))
            assert not Clocked(design.with_depths(less), 1).run()


@settings(max_examples=10)
@given(seed=SEEDS)
def test_free_running_depths_change_no_time(seed):
    design = random_design(seed)
    depths = free_running_depths(design, frames=3)
    free = simulate(design.with_depths([None] * len(depths)), 3)
    bounded = simulate(design.with_depths(depths), 3)
    for process in design.processes:
        np.testing.assert_array_equal(free.ends[process.name], bounded.ends[process.name])


@settings(max_examples=5)
@given(seed=SEEDS)
def test_lean_depths_delay_no_frame_and_one_less_does(seed):
    design = random_design(seed)
    depths = lean_depths(design)
    finished = simulate(design.with_depths([None] * len(depths)), 2).finished()
    np.testing.assert_array_equal(simulate(design.with_depths(depths), 2).finished(), finished)
    assert all(lean <= free for lean, free in zip(depths, free_running_depths(design), strict=True))
    for i, depth in enumerate(depths):
        if depth > 2:
            less = design.with_depths([*depths[:i], depth - 1, *depths[i + 1 :]])
            assert deadlocks(less) or np.any(simulate(less, 2).finished() > finished)


def residual(height=6, width=8):
    """A 3 x 3 convolution with a skip connection around it."""
    pixels = height * width
    head = dataclasses.replace(stages.pointwise("head", pixels), reads=np.ones((0, pixels), bool))
    processes = (
        head,
        stages.clone("fork", pixels, 2),
        stages.padding("pad", (height, width), (1, 1), (1, 1)),
        stages.windowed("conv", (height + 2, width + 2), (3, 3)),
        dataclasses.replace(stages.pointwise("sum", pixels, inputs=2), writes=np.ones((0, pixels), bool)),
    )
    fifos = (
        Fifo("head", "fork"),
        Fifo("fork", "pad"),
        Fifo("fork", "sum", 1, 1),
        Fifo("pad", "conv"),
        Fifo("conv", "sum"),
    )
    return Design(processes, fifos)


def test_the_first_output_of_a_window_needs_its_rows_and_pixels():
    height, width = 6, 8
    complete = stages.windows_complete((height, width), (3, 3), (1, 1))
    assert np.argmax(complete) == 2 * width + 2
    assert complete.sum() == (height - 2) * (width - 2)
    strided = stages.windows_complete((height, width), (2, 2), (2, 2))
    np.testing.assert_array_equal(np.flatnonzero(strided)[:4], [width + 1, width + 3, width + 5, width + 7])


def test_a_skip_connection_needs_a_row_and_a_pixel_in_its_fifo():
    design = residual(6, 8)
    depths = minimal_depths(design)
    # With a frame of zeros, the centre of the first 3 x 3 window is complete one row and two pixels later; the
    # pipelines between hold some of these words.
    skip = depths[2]
    assert depths[:2] == (1, 1)
    assert depths[3:] == (1, 1)
    assert 1 < skip <= 8 + 2
    with pytest.raises(DeadlockError, match=r"fork waits for room in fork->sum \(full, depth \d+\) until sum reads"):
        simulate(design.with_depths([None, None, skip - 1, None, None]).with_depths([1, 1, skip - 1, 1, 1]))


def test_a_deadlock_names_the_circle_and_what_to_deepen():
    with pytest.raises(DeadlockError) as caught:
        simulate(residual().with_depths([1, 1, 2, 1, 1]))
    waits = caught.value.waits
    assert {wait.process for wait in waits} == {"fork", "sum", "conv", "pad"}
    for wait, follower in zip(waits, (*waits[1:], waits[0]), strict=True):
        assert wait.partner == follower.process
    assert re.search(r"deepen fork->sum \(now 2\)", str(caught.value))


def test_batch_time_is_latency_and_intervals():
    run = simulate(residual(), 5)
    assert run.finished()[-1] == run.batch_cycles(5)
    slowest = max(process.latency for process in run.design.processes)
    assert run.interval == slowest + 1
    cycles, filling = run.occupancy(2)
    assert filling[-1] == 0
    assert filling.max() == run.peak(2)
    assert np.all(np.diff(cycles) > 0)


def test_sweeps_settle_for_a_slow_reader_and_give_up_where_two_wait_for_each_other():
    head = dataclasses.replace(stages.pointwise("head", 200), reads=np.ones((0, 200), bool))
    for interval, depth, settles in ((3, 2, True), (1, 1, False)):
        tail = stages.pointwise("tail", 200, interval=interval)
        tail = dataclasses.replace(tail, writes=np.ones((0, 200), bool))
        design = Design((head, tail), (Fifo("head", "tail", depth=depth),))
        assert (by_sweeps(design, 2) is not None) == settles
        # At depth 1 a slot is written, read and freed in two cycles.
        assert simulate(design).latency == pytest.approx(200 * (3 if settles else 2), abs=8)


def test_a_process_alone_takes_its_latency():
    process = stages.windowed("conv", (5, 6), (3, 3), depth=4)
    alone = dataclasses.replace(process, reads=process.reads[:0], writes=process.writes[:0])
    assert simulate(Design((alone,), ())).latency == process.latency == 1 + 29 + 4
    slow = stages.windowed("conv", (5, 6), (3, 3), busy=(4, 20))
    assert slow.latency == 1 + 18 * 4 + 12 * 20


@given(words=st.integers(1, 6), width=st.integers(1, 6), parts=st.integers(1, 6))
def test_repacking_keeps_all_numbers_and_writes_none_before_it_is_read(words, width, parts):
    width_out = next(w for w in range(parts, words * width + 1) if words * width % w == 0) if parts <= width else width
    process = stages.repack("repack", words, width, width_out)
    assert process.reads.sum() == words
    assert process.writes.sum() * width_out == words * width
    assert np.all(np.cumsum(process.reads) * width >= np.cumsum(process.writes) * width_out)


def test_designs_that_are_none_are_refused():
    process = stages.pointwise("a", 4)
    source = dataclasses.replace(process, reads=process.reads[:0])
    sink = dataclasses.replace(stages.pointwise("b", 5), writes=np.ones((0, 5), bool))
    with pytest.raises(ConfigError, match=r"a->b gets 4 words of a frame and 5 are read"):
        Design((source, sink), (Fifo("a", "b"),))
    with pytest.raises(ConfigError, match=r"2 ports of processes, but 0 ends"):
        Design((process,), ())
    with pytest.raises(ConfigError, match=r"at least one word, got a depth of 0"):
        residual().with_depths([1, 1, 0, 1, 1])
    with pytest.raises(ConfigError, match=r"no process of the design is called 'relu'; there are head, fork, "):
        residual()["relu"]
    with pytest.raises(ConfigError, match=r"distinct names"):
        Design((source, source), ())
    with pytest.raises(ConfigError, match=r"input 1 of b, which is taken or not there"):
        Design((source, sink), (Fifo("a", "b", 0, 1),))
    with pytest.raises(ConfigError, match=r"intervals and depths down to 0"):
        Design((dataclasses.replace(source, interval=0),), ())
    with pytest.raises(ConfigError, match=r"at least one frame"):
        simulate(residual(), 0)
    with pytest.raises(ConfigError, match=r"at least two frames"):
        _ = simulate(residual()).interval
    with pytest.raises(ConfigError, match=r"does not fit"):
        stages.windowed("conv", (2, 2), (3, 3))
