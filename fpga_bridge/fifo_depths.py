"""How deep the FIFOs of a streaming design must be: to lose no cycle, or just not to deadlock.

Where a path forks and joins again (a skip connection), the words of the short branch wait while the long one fills its
line buffers. A FIFO that cannot hold them stops the fork, which starves the long branch: a deadlock.
"""

from fpga_bridge.dataflow import DeadlockError, simulate
from fpga_bridge.streams import Design


def free_running_depths(design: Design, frames: int = 2) -> tuple[int, ...]:
    """The peak filling of each FIFO where all are unbounded: with these depths no cycle is lost.

    Args:
        design: its own depths are ignored.
        frames: simulated one behind the other.
    """
    run = simulate(design.with_depths([None] * len(design.fifos)), frames)
    return tuple(run.peak(i) for i in range(len(design.fifos)))


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
