r"""Cycle counts of the reduced ENet of arXiv:2205.07690 (hls4ml, strategy Resource, the release of 2021) on a frame.

The slowest process sets the time of a frame. Two loops over all P = rows * columns pixels, neither pipelined, compete:

    window loop    four passes of a loop over the reuse factor R for each pixel, and 4 cycles for each pixel of the
                   zero frame around the image:    P * (4 R + k) + 4 * frame + s
    pixel loop     work that depends on no reuse factor:    P * (FLOOR_CYCLES + k) + TAIL_CYCLES + s

R is the valid factor nearest to the one asked for, for a product of 4 f inputs and f outputs (f filters). Both loops
hold the same arithmetic, in m stages between registers, and the stages decide k and s. With n = m - 2:

    k = 1 - 3 min(n, 1) + 4 max(n - 1, 0),    s = 3 min(n, 1),    m = ceil((a + b * width) / (clock - c))

Up to n = 1 each stage lets the next pixel begin 3 cycles earlier; from there on it costs one cycle in each of the four
passes. What is read off the published table (34 designs) and what is guessed: the form 4 R + k, the frame of 4 cycles
a pixel, FLOOR_CYCLES, TAIL_CYCLES and the steps 3 and 4 are read off and reproduce all 34 counts to the cycle; the
table has 6 of the pairs of clock and width, and three constants (a, b, c) explain their six k. Guessed, since no
design of the table shows it: that k is the same in the pixel loop at 5 ns, and with 16 bits at 7 ns. The step of 4
has been seen in the window loop alone, whose four passes it lengthens; if the pixel loop has none, the prediction at
5 ns with 16 bits and a reuse factor of 10 or less is 4 of 42 cycles a pixel, 9.5 %, too high.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fpga_bridge.estimates.reuse import Reuse, closest_reuse_factor
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_fields

FRAME = (152, 240)  # rows, columns
FLOOR_CYCLES = 44
TAIL_CYCLES = 12
COLUMNS = ("Filters", "Clock", "ReuseFactor", "Precision", "MaxLatency")
_PASSES = 4
_BORDER_CYCLES = 4
_LARGEST = 1e12  # of any cell; what is beyond is no design but a slip of the pen
_MISSING = ("", "-", "na", "n/a", "nan", "none", "null")  # in small letters


class EnetDesign(NamedTuple):
    """One row of the table; None for a cell that is not available or cannot be read."""

    filters: int | None
    clock_ns: float | None
    reuse_factor: int | None
    width: int | None  # bits of the activations
    latency_cycles: int | None
    problem: str = ""  # what cannot be read of the row, if anything

    @property
    def cell(self) -> tuple[float | None, int | None]:
        """What the number of stages depends on."""
        return self.clock_ns, self.width


@dataclasses.dataclass(frozen=True)
class StageModel:
    """Delay of the arithmetic of one pixel, in ns, and the clock's part that registers take; fitted on 34 designs."""

    base_ns: float = 4.098
    bit_ns: float = 0.2949
    register_ns: float = 2.306
    floor_cycles: int = FLOOR_CYCLES

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        check_fields(self)

    def stages(self, clock_ns: float, width: int) -> int:
        """Stages between registers, at least 1.

        Raises:
            ConfigError: for a clock in which not even the registers fit.
        """
        if not clock_ns > self.register_ns:
            raise ConfigError(f"a clock period must exceed the {self.register_ns:.2f} ns of a register, got {clock_ns}")
        return max(1, math.ceil((self.base_ns + self.bit_ns * width) / (clock_ns - self.register_ns)))

    def overheads(self, clock_ns: float, width: int) -> tuple[int, int]:
        """Cycles on top of the loop: k for each pixel, s for each frame."""
        n = self.stages(clock_ns, width) - 2
        return 1 - 3 * min(n, 1) + 4 * max(n - 1, 0), 3 * min(n, 1)


class EnetLatency(NamedTuple):
    """A prediction: cycles of a frame, which loop sets them, and the reuse factor that the window loop gets."""

    cycles: int
    bottleneck: str
    reuse: Reuse


def enet_latency(
    filters: int,
    clock_ns: float,
    reuse_factor: int,
    width: int,
    *,
    model: StageModel | None = None,
    frame: tuple[int, int] = FRAME,
) -> EnetLatency:
    """Cycles of one frame.

    Args:
        filters: f of every layer.
        clock_ns: clock period.
        reuse_factor: as asked for.
        width: bits of the activations.
        model: None for the constants fitted on the published table.
        frame: rows and columns.

    Raises:
        ConfigError: for a reuse factor, a number of filters or a clock that is impossible.
    """
    model = StageModel() if model is None else model
    reuse = closest_reuse_factor(_PASSES * filters, filters, reuse_factor, f"the window loop of {filters} filters")
    per_pixel, per_frame = model.overheads(clock_ns, width)
    rows, columns = frame
    pixels, border = rows * columns, (rows + 2) * (columns + 2) - rows * columns
    window = pixels * (_PASSES * reuse.used + per_pixel) + _BORDER_CYCLES * border + per_frame
    pixel = pixels * (model.floor_cycles + per_pixel) + TAIL_CYCLES + per_frame
    # Compared per pixel: the border of the faster loop is hidden behind the slower one.
    if _PASSES * reuse.used > model.floor_cycles:
        return EnetLatency(window, "window loop", reuse)
    return EnetLatency(pixel, "pixel loop", reuse)


def predict(design: EnetDesign, model: StageModel | None = None) -> EnetLatency | None:
    """The prediction of one row; None where a cell that it needs is not available.

    Raises:
        ConfigError: for a row that cannot be read, or that describes an impossible design.
    """
    if design.problem:
        raise ConfigError(design.problem)
    filters, clock_ns, reuse_factor, width = design[:4]
    if filters is None or clock_ns is None or reuse_factor is None or width is None:
        return None
    return enet_latency(filters, clock_ns, reuse_factor, width, model=model)


def fit(designs: Sequence[EnetDesign], frame: tuple[int, int] = FRAME) -> StageModel:
    """The constants (a, b, c) and FLOOR_CYCLES from measured designs.

    The constants are the middle of all grid points (0.05 to 0.1 ns apart) that explain as many designs as any point
    can; FLOOR_CYCLES is the median of what the designs with a small reuse factor need.

    Raises:
        InputError: where no design has a reuse factor large enough to show the window loop.
    """
    pixels = frame[0] * frame[1]
    known = [d for d in designs if d.latency_cycles is not None and predict(d) is not None]
    per_pixel = {d: (d.latency_cycles or 0) // pixels for d in known}
    rounded = {
        d: closest_reuse_factor(_PASSES * (d.filters or 1), d.filters or 1, d.reuse_factor or 1).used for d in known
    }
    large = [d for d in known if _PASSES * rounded[d] > FLOOR_CYCLES]
    if not large:
        raise InputError("the fit needs designs with a reuse factor of 16 or more, where the window loop is the slower")
    c, b, a = (axis.reshape(-1) for axis in np.meshgrid(
        np.arange(0.0, 3.0, 0.05), np.arange(0.0, 1.0, 0.02), np.arange(0.0, 12.0, 0.1), indexing="ij"
    ))  # fmt: skip
    explained = np.zeros(len(a), np.int64)
    cells: dict[tuple[float | None, int | None, int], int] = {}
    for design in large:
        key = (*design.cell, per_pixel[design] - _PASSES * rounded[design])
        cells[key] = cells.get(key, 0) + 1
    for (clock_ns, width, k), count in cells.items():
        n = np.maximum(1, np.ceil((a + b * (width or 0)) / ((clock_ns or 0.0) - c))) - 2
        explained += count * (1 - 3 * np.minimum(n, 1) + 4 * np.maximum(n - 1, 0) == k)
    best = explained == explained.max()
    model = StageModel(float(a[best].mean()), float(b[best].mean()), float(c[best].mean()))
    small = [d for d in known if _PASSES * rounded[d] <= FLOOR_CYCLES]
    if small:
        needs = [per_pixel[d] - model.overheads(d.clock_ns or 0.0, d.width or 0)[0] for d in small]
        model = dataclasses.replace(model, floor_cycles=int(np.median(needs)))
    return model


def read_designs(path: Path) -> tuple[EnetDesign, ...]:
    """The rows of a table with the columns of the published one; the order of the columns is free.

    A row with a cell that is neither a number nor NA says so in its `problem`, and leaves the others as they are.

    Raises:
        CorruptFileError: for a file that cannot be read, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is not a readable table of designs: {error}") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise CorruptFileError(
                f"{path} lacks the column {missing[0]}; a table of designs is a csv file with the columns "
                f"{', '.join(COLUMNS)} in its first line"
            )
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CorruptFileError(f"{path}, line {reader.line_num}: {error}; save the table as csv again") from error
    if not rows:
        raise CorruptFileError(f"{path} has column names but no designs below them")
    return tuple(_design(row, f"{path}, line {line}") for line, row in rows)


def _design(row: dict[str, str | None], where: str) -> EnetDesign:
    problems = []

    def number(name: str, text: str | None) -> float | None:
        if text is not None and text.strip().lower() in _MISSING:
            return None
        try:
            value = math.nan if text is None else float(text)
        except ValueError:
            value = math.nan
        if 0 < value <= _LARGEST:
            return value
        end = f"{where} ends before the column {name}"
        found = f"{where}: {name} is {text!r}, a positive number up to {_LARGEST:g} or NA is needed"
        problems.append(end if text is None else found)
        return None

    def whole(name: str, text: str | None) -> int | None:
        value = number(name, text)
        if value is None or value == int(value):
            return None if value is None else int(value)
        problems.append(f"{where}: {name} is {text!r}, a whole number or NA is needed")
        return None

    precision = row["Precision"]
    width = None if precision is None else precision.split(",")[0]
    cells = (
        whole("Filters", row["Filters"]),
        number("Clock", row["Clock"]),
        whole("ReuseFactor", row["ReuseFactor"]),
        whole("Precision", width),
        whole("MaxLatency", row["MaxLatency"]),
    )
    return EnetDesign(*cells, problem="; ".join(problems))
