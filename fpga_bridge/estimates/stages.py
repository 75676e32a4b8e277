"""The processes that hls4ml's io_stream templates make of layers, as patterns of words read and written.

Images travel one pixel (all channels) a word, row by row. A window of k x k pixels needs k - 1 rows and k pixels in its
line buffers before its first output; padding is a process of its own, as in hls4ml.

References:
    Aarrestad et al., "Fast convolutional neural networks on FPGAs with hls4ml", arXiv:2101.05108, section 3.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool

from fpga_bridge.estimates.streams import Process
from jaxgeo.errors import ConfigError


def windows_complete(
    size: tuple[int, int], window: tuple[int, int], strides: tuple[int, int]
) -> Bool[np.ndarray, " pixel"]:
    """Which pixels of an image (height, width) complete a window, so that an output can be computed.

    Raises:
        ConfigError: for a window larger than the image.
    """
    axes = []
    for length, k, stride in zip(size, window, strides, strict=True):
        if k > length:
            raise ConfigError(f"a window of {window} does not fit into an image of {size}; pad the image first")
        position = np.arange(length) - (k - 1)
        axes.append((position >= 0) & (position % stride == 0))
    return (axes[0][:, None] & axes[1][None]).reshape(-1)


def windowed(
    name: str,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    *,
    depth: int = 3,
    busy: tuple[int, int] | None = None,
    kind: str = "conv",
) -> Process:
    """Convolution or pooling over an image (height, width), already padded.

    Args:
        name: of the process.
        size: of the image.
        window: pixels (vertical, horizontal).
        strides: of the window.
        depth: of the pipelined loop over pixels.
        busy: cycles of a pixel without and with an output, where the loop over pixels is not pipelined (strategy
            Resource); `depth` is not used then.
        kind: for tables.
    """
    complete = windows_complete(size, window, strides)
    reads = np.ones((1, complete.size), bool)
    if busy is None:
        return Process(name, reads, complete[None], depth=depth, kind=kind)
    cycles = np.where(complete, busy[1], busy[0]).astype(np.int64)
    return Process(name, reads, complete[None], cycles, cycles, kind=kind)


def pointwise(
    name: str, words: int, *, inputs: int = 1, depth: int = 2, interval: int = 1, kind: str = "pointwise"
) -> Process:
    """One word in from each input, one word out: activation, batch norm, sum, 1 x 1 convolution."""
    reads, writes = np.ones((inputs, words), bool), np.ones((1, words), bool)
    return Process(name, reads, writes, interval, depth, kind=kind)


def clone(name: str, words: int, copies: int) -> Process:
    """One word in, the same word to each of several readers."""
    return Process(name, np.ones((1, words), bool), np.ones((copies, words), bool), depth=1, kind="clone")


def padding(
    name: str, size: tuple[int, int], before: tuple[int, int], after: tuple[int, int], *, interval: int = 1
) -> Process:
    """A frame of zeros around an image (height, width): writes at every step, reads inside only."""
    inside = np.zeros((size[0] + before[0] + after[0], size[1] + before[1] + after[1]), bool)
    inside[before[0] : before[0] + size[0], before[1] : before[1] + size[1]] = True
    return Process(name, inside.reshape(1, -1), np.ones((1, inside.size), bool), interval, 1, kind="padding")


def upsampling(name: str, size: tuple[int, int], factors: tuple[int, int] = (2, 2)) -> Process:
    """Each pixel repeated along both axes; a whole row is read before its copies are written."""
    rows, columns = size
    copies = factors[0] * factors[1] * columns
    row_reads = np.concatenate([np.ones(columns, bool), np.zeros(copies, bool)])
    reads = np.tile(row_reads, rows)[None]
    return Process(name, reads, ~reads, depth=2, kind="upsampling")


def gather(name: str, words_in: int, words_out: int, *, depth: int = 2, kind: str = "dense") -> Process:
    """Reads everything, then writes its results: a dense layer on a vector, a global pooling, a transposition.

    The first result comes with the last word read.
    """
    steps = words_in + words_out - 1
    reads, writes = np.zeros((1, steps), bool), np.zeros((1, steps), bool)
    reads[0, :words_in], writes[0, words_in - 1 :] = True, True
    # A single word is no loop, and costs no cycle to enter one.
    return Process(name, reads, writes, depth=depth, setup=int(steps > 1), kind=kind)


def sequence(name: str, words: tuple[int, ...], repeats: int = 1) -> Process:
    """Some words of the first input, then some of the second, and again: concatenation along an axis of space.

    Args:
        name: of the process.
        words: of each input, in a row of them: all of a frame along the first axis, those of a row along the second.
        repeats: rows.
    """
    ends = np.cumsum([0, *words])
    steps = np.tile(np.arange(ends[-1]), repeats)
    reads = (steps[None] >= ends[:-1, None]) & (steps[None] < ends[1:, None])
    return Process(name, reads, np.ones((1, len(steps)), bool), depth=2, kind="concatenate")


def vector(name: str, words: tuple[int, ...]) -> Process:
    """Reads the words of one vector, then those of the next, and writes all of them as one word: concatenation."""
    if set(words) == {1}:
        return pointwise(name, 1, inputs=len(words), kind="concatenate")
    process = sequence(name, words)
    last = np.arange(process.steps) == process.steps - 1
    return dataclasses.replace(process, writes=last[None])


def repack(name: str, words_in: int, width_in: int, width_out: int) -> Process:
    """The same numbers in words of another width."""
    numbers = words_in * width_in
    reads, writes, held, written = [], [], 0, 0
    while written * width_out < numbers:
        read = held < (written + 1) * width_out
        held += width_in if read else 0
        write = held >= (written + 1) * width_out
        written += write
        reads.append(read)
        writes.append(write)
    return Process(name, np.array([reads]), np.array([writes]), depth=2, kind="reshape")
