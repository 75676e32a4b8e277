"""How deep the FIFOs of a streaming design must be: to delay no step, to delay no frame, or just not to deadlock.

Where a path forks and joins again (a skip connection), the words of the short branch wait while the long one fills its
line buffers. A FIFO that cannot hold them stops the fork, which starves the long branch: a deadlock.
"""

from fpga_bridge.estimates.dataflow import DeadlockError, simulate
from fpga_bridge.estimates.streams import Design


def free_running_depths(design: Design, frames: int = 2) -> tuple[int, ...]:
    """The peak filling of each FIFO where all are unbounded: with these depths no step is delayed.

    Args:
        design: its own depths are ignored.
        frames: simulated one behind the other.
    """
    run = simulate(design.with_depths([None] * len(design.fifos)), frames)
    return tuple(run.peak(i) for i in range(len(design.fifos)))


def lean_depths(design: Design, frames: int = 2) -> tuple[int, ...]:
    """Depths with which every frame ends when it does with unbounded FIFOs, of which none can be made smaller alone.

    A fast process in front of a slow one fills any FIFO to no use; here it waits. No depth is made smaller than 2,
    which a word a cycle needs. Takes one simulation for each step of a bisection, so it suits designs of up to some
    100,000 steps.

    Args:
        design: its own depths are ignored.
        frames: that follow each other.
    """
    free = simulate(design.with_depths([None] * len(design.fifos)), frames)
    depths = [free.peak(i) for i in range(len(design.fifos))]

    def delays(i: int, depth: int) -> bool:
        tried = design.with_depths([*depths[:i], depth, *depths[i + 1 :]])
        try:
            return bool((simulate(tried, frames).finished() != free.finished()).any())
        except DeadlockError:
            return True

    for i in range(len(depths)):
        low, high, step = 2, depths[i], 2
        while low < high:  # most FIFOs need few words, so the first guesses double
            middle = min(step, (low + high) // 2)
            if delays(i, middle):
                low, step = middle + 1, 2 * step
            else:
                high = middle
        depths[i] = high
    return tuple(depths)


def quick_depths(design: Design, frames: int = 2) -> tuple[int, ...]:
    """Depths with which every frame ends when it does with unbounded FIFOs, for designs too large for `lean_depths`.

    Words pile up to some use only where paths join again: FIFOs elsewhere get 2 words, where a simulation finds that
    no frame ends later for it, and all others hold their peak filling.

    Args:
        design: its own depths are ignored.
        frames: that follow each other.
    """
    free = simulate(design.with_depths([None] * len(design.fifos)), frames)
    peaks = [free.peak(i) for i in range(len(design.fifos))]
    joined = _on_circles(design)
    shallow = [peak if fifo.name in joined else min(peak, 2) for fifo, peak in zip(design.fifos, peaks, strict=True)]
    if (simulate(design.with_depths(shallow), frames).finished() != free.finished()).any():
        return tuple(peaks)
    return tuple(shallow)


def minimal_depths(design: Design) -> tuple[int, ...]:
    """Depths of at least 1 that cannot deadlock, of which none can be made smaller alone.

    One FIFO after the other is shrunk by bisection; that is sound because deeper FIFOs never cause a deadlock. One
    frame tells all: no process waits for words of the next frame to finish this one.

    Args:
        design: its own depths are ignored.
    """
    depths = list(free_running_depths(design, frames=1))
    joined = _on_circles(design)
    for i, fifo in enumerate(design.fifos):
        if fifo.name not in joined:
            depths[i] = 1  # a FIFO whose removal parts the design has nothing to wait for but itself
    for i in range(len(depths)):
        low, high = 1, depths[i]
        while low < high:
            middle = (low + high) // 2
            depths[i] = middle
            if deadlocks(design.with_depths(depths)):
                low = middle + 1
            else:
                high = middle
        depths[i] = low
    return tuple(depths)


def deadlocks(design: Design) -> bool:
    """Whether the design stops for ever with its depths."""
    try:
        simulate(design)
    except DeadlockError:
        return True
    return False


def _on_circles(design: Design) -> set[str]:
    """Names of FIFOs that lie on an undirected circle of the graph."""
    on_circle = set()
    for fifo in design.fifos:
        reached, border = {fifo.source}, [fifo.source]
        while border:
            at = border.pop()
            for other in design.fifos:
                if other is not fifo and at in (other.source, other.target):
                    next_ = other.target if at == other.source else other.source
                    if next_ not in reached:
                        reached.add(next_)
                        border.append(next_)
        if fifo.target in reached:
            on_circle.add(fifo.name)
    return on_circle
