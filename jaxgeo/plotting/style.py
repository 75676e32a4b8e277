"""The common look of all figures, put on each figure's own artists; matplotlib's global settings stay untouched."""

import base64
import io
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
PAPER = "#ffffff"
GOOD = "#00795b"
WARNING = "#b3401f"
# Okabe and Ito's colours for all kinds of colour vision, the yellow darkened to be seen on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa5a91", "#b8860b", "#3a9fd8", "#7a4f2a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 110.0

LegendLocation = Literal["best", "upper left", "upper right", "lower left", "lower right"]


def color(index: int) -> str:
    """The palette's colour of that index, beginning anew after the last."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """A marker shape to go with `color`, so that a print without colours can be read too."""
    return MARKERS[index % len(MARKERS)]


def tint(base: str, share: float) -> tuple[float, float, float]:
    """The colour mixed with white; `share` 1 is the colour itself, 0 white."""
    r, g, b = to_rgb(base)
    return (1 - share * (1 - r), 1 - share * (1 - g), 1 - share * (1 - b))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, laid out so that labels do not collide."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=PAPER)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(w_pad=0.08, h_pad=0.08)  # pyright: ignore[reportCallIssue]
    return figure


def style_axes(ax: Axes, *, title: str = "", x: str = "", y: str = "", grid: Literal["x", "y", "both"] = "y") -> Axes:
    """Puts the common look on axes: two spines, a pale grid behind the data, title at the left."""
    ax.set_facecolor(PAPER)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=9, width=0.8)
    ax.tick_params(which="minor", length=2)
    ax.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    ax.set_xlabel(x, fontsize=9.5, color=INK)
    ax.set_ylabel(y, fontsize=9.5, color=INK)
    return ax


def add_title(figure: Figure, title: str) -> None:
    """A title over the whole figure, at the left like those of the axes."""
    figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold", color=INK)


def add_legend(ax: Axes, location: LegendLocation = "best", columns: int = 1) -> Legend:
    """A legend without a frame that hides nothing: its ground is nearly opaque white."""
    legend = ax.legend(
        loc=location, ncols=columns, fontsize=8.5, frameon=True, facecolor=PAPER, edgecolor="none",
        framealpha=0.85, labelcolor=INK, handlelength=1.8, borderaxespad=0.6,
    )  # fmt: skip
    legend.set_zorder(10)
    return legend


def figure_to_bytes(figure: Figure, format: Literal["png", "svg"] = "png", dpi: float = DPI) -> bytes:
    """The figure as a file's bytes; the same figure gives the same bytes (no date, no random identifiers)."""
    stream = io.BytesIO()
    # svg.hashsalt has no argument of its own; the context restores it before the function returns.
    with matplotlib.rc_context({"svg.hashsalt": "jaxgeo"}):
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(stream, format=format, dpi=dpi, facecolor=figure.get_facecolor(), metadata=metadata)
    return stream.getvalue()


def figure_to_data_uri(figure: Figure, format: Literal["png", "svg"] = "png", dpi: float = DPI) -> str:
    """The figure as a `data:` address, for an `<img src=...>` in a page that needs no other file.

    Args:
        figure: any figure.
        format: PNG suits figures of many points; SVG stays sharp at any size.
        dpi: dots per inch of a PNG.
    """
    kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
    return f"data:{kind};base64,{base64.b64encode(figure_to_bytes(figure, format, dpi)).decode('ascii')}"
