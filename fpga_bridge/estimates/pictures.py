"""Pictures of an estimate: the pipeline in time, and each layer's share of the part."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fpga_bridge.estimates.dataflow import Run
from fpga_bridge.estimates.parts import Part
from fpga_bridge.estimates.resources import Resources
from jaxgeo.errors import ConfigError

# The bridge does not import jaxgeo.plotting; these are its ink and the first of its colours (Okabe and Ito's).
INK, MUTED, GRID, PAPER = "#1f2933", "#66727f", "#e4e8ec", "#ffffff"
BUSY, STARVED, BLOCKED = "#0072b2", "#f0d9a8", "#d55e00"
_BINS = 600


def shares_of_time(run: Run, bins: int = _BINS) -> Float[np.ndarray, "process bin state"]:
    """What each process does in equal spans of the whole run: share of steps, of waiting for words, for room.

    A process waits between the cycle at which its next step could start and the one at which it does; for a word
    where the latest word that the step reads was written in the cycle before, else for room in its own pipeline. The
    rest, up to 1, is time outside of any frame.

    Raises:
        ConfigError: for less than one bin.
    """
    if bins < 1:
        raise ConfigError(f"time is cut into at least one span, got {bins}")
    edges = np.linspace(0, int(run.finished()[-1]) + 1, bins + 1)
    shares = np.zeros((len(run.design.processes), bins, 3))
    for i, process in enumerate(run.design.processes):
        starts, ends = run.starts[process.name], run.ends[process.name]
        following = starts + np.tile(process.intervals, run.frames)
        # The last step of a frame is done at its end, and the next frame follows after one cycle and the setup.
        last = slice(process.steps - 1, None, process.steps)
        following[last] = ends[last] + 1
        ready = np.concatenate([[0], following[:-1]])
        ready[:: process.steps] += process.setup
        latest = np.zeros_like(starts)
        for port, fifo in enumerate(run.design.fifos):
            if fifo.target == process.name:
                mask = np.tile(process.reads[fifo.input], run.frames)
                latest[mask] = np.maximum(latest[mask], run.written[port])
        starved = (starts > ready) & (latest + 1 == starts)
        blocked = (starts > ready) & ~starved
        for state, (begin, end) in enumerate(
            ((starts, np.maximum(np.minimum(following, ends + 1), starts + 1)), (ready, starts), (ready, starts))
        ):
            chosen = (slice(None), starved, blocked)[state]
            shares[i, :, state] = _covered(begin[chosen], end[chosen], edges)
    return shares


def main_waits(run: Run) -> dict[str, tuple[str, str]]:
    """What each process waits for longest: ("word" or "room", the process that it waits for); absent if for nothing."""
    found: dict[str, dict[tuple[str, str], int]] = {process.name: {} for process in run.design.processes}
    for i, fifo in enumerate(run.design.fifos):
        source, target = run.design[fifo.source], run.design[fifo.target]
        reads = np.tile(target.reads[fifo.input], run.frames)
        starts = run.starts[fifo.target]
        ready = np.concatenate([[0], (starts + np.tile(target.intervals, run.frames))[:-1]])
        lost = (starts - ready)[reads]
        late = run.written[i] + 1 == run.read[i]
        found[fifo.target]["word", fifo.source] = int(lost[late & (lost > 0)].sum())
        if fifo.depth is not None and fifo.depth < len(run.written[i]):
            writes = np.tile(source.writes[fifo.output], run.frames)
            planned = (run.starts[fifo.source] + np.tile(source.depths, run.frames))[writes][fifo.depth :]
            held = run.written[i][fifo.depth :] == run.read[i][: -fifo.depth] + 1
            lost = run.written[i][fifo.depth :] - planned
            found[fifo.source]["room", fifo.target] = int(lost[held & (lost > 0)].sum())
    longest = {name: max(waits, key=lambda key: waits[key]) for name, waits in found.items() if waits}
    return {name: key for name, key in longest.items() if found[name][key] > 0}


def _covered(begin: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of each span that half-open intervals, sorted and apart, cover."""
    if not len(begin):
        return np.zeros(len(edges) - 1)
    # The time covered up to a point grows within an interval and rests between two.
    points = np.stack([begin, end], axis=1).reshape(-1).astype(float)
    lengths = np.cumsum(end - begin).astype(float)
    covered = np.stack([lengths - (end - begin), lengths], axis=1).reshape(-1)
    return np.diff(np.interp(edges, points, covered)) / np.diff(edges)


def draw_timeline(run: Run, clock_period_ns: float | None = None) -> Figure:
    """The pipeline in time, one row a process: blue works, sand waits for words, orange waits for room.

    At the right of each row stands what the process waits for longest.

    Args:
        run: from `dataflow.simulate`.
        clock_period_ns: for a second axis in microseconds.
    """
    processes = run.design.processes
    shares = shares_of_time(run)
    colors = np.array([to_rgb(color) for color in (BUSY, STARVED, BLOCKED)])
    rest = np.clip(1 - shares.sum(axis=2, keepdims=True), 0, 1)
    image = np.clip(shares @ colors + rest * np.array(to_rgb(PAPER))[None, None], 0, 1)
    figure = Figure(figsize=(9.5, 1.6 + 0.24 * len(processes)), dpi=110.0, layout="constrained", facecolor=PAPER)
    ax = figure.add_subplot()
    total = int(run.finished()[-1]) + 1
    ax.imshow(image, aspect="auto", interpolation="nearest", extent=(0, total, len(processes) - 0.5, -0.5))
    for row in range(1, len(processes)):
        ax.axhline(row - 0.5, color=PAPER, linewidth=1.5)
    waits = main_waits(run)
    for row, process in enumerate(processes):
        if process.name in waits:
            what, partner = waits[process.name]
            ax.text(1.01 * total, row, f"{what} from {partner}", va="center", fontsize=7.5, color=MUTED)
    for end in run.finished()[:-1]:
        ax.axvline(end, color=INK, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(processes)), [process.name for process in processes])
    title = f"latency {run.latency} cycles" + (f", interval {run.interval}" if run.frames > 1 else "")
    _style(ax, title, "clock cycles")
    if clock_period_ns is not None:
        scale = clock_period_ns / 1000
        functions = (lambda x: np.multiply(x, scale), lambda x: np.divide(x, scale))
        upper = ax.secondary_xaxis("top", functions=functions)
        upper.set_xlabel("microseconds", fontsize=9, color=MUTED)
        upper.tick_params(colors=MUTED, labelsize=8)
    handles = [
        Patch(color=color, label=label)
        for color, label in ((BUSY, "works"), (STARVED, "waits for a word"), (BLOCKED, "waits for room"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False, labelcolor=INK)
    return figure


def draw_resources(layers: Mapping[str, Resources], part: Part) -> Figure:
    """Each layer's cells as bars, one panel for each kind, as a share of what the part holds.

    Args:
        layers: from `resources.estimate`.
        part: of the FPGA.

    Raises:
        ConfigError: where there is no layer.
    """
    if not layers:
        raise ConfigError("there is no layer to draw; estimate a network first")
    kinds = (("DSP", "dsp", part.dsp), ("LUT", "lut", part.lut), ("FF", "ff", part.ff))
    panels: Sequence[tuple[str, str, float]] = (*kinds, ("block RAM tiles", "bram_tiles", part.bram_tiles))
    figure = Figure(figsize=(11.0, 1.3 + 0.25 * len(layers)), dpi=110.0, layout="constrained", facecolor=PAPER)
    axes = figure.subplots(1, len(panels), sharey=True)
    names = list(layers)
    for i, (ax, (title, field, available)) in enumerate(zip(axes, panels, strict=True)):
        counts = np.array([getattr(cells, field) for cells in layers.values()], float)
        shares = 100 * counts / available
        ax.barh(range(len(names)), shares, color=(BUSY, "#009e73", "#aa5a91", "#b8860b")[i], height=0.7)
        for row, (share, count) in enumerate(zip(shares, counts, strict=True)):
            if count:
                ax.text(share, row, f" {count:.0f}", va="center", fontsize=7.5, color=INK)
        ax.set_xlim(0, max(1.28 * shares.max(), 1e-3))
        whole = f"{counts.sum():.0f} of {available:.0f} ({shares.sum():.1f} %)"
        _style(ax, f"{title}\n{whole}", f"% of {part.name}")
        ax.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return figure


def _style(ax: Axes, title: str, x: str) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=6)
    ax.set_xlabel(x, fontsize=9, color=INK)
