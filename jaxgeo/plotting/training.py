"""Learning curves of many members trained at once."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jaxgeo.errors import InputError
from jaxgeo.plotting.style import add_legend, color, new_figure, style_axes, tint


def learning_curves(
    losses: Float[np.ndarray, "member epoch"],
    validation_losses: Float[np.ndarray, "member epochs"] | None = None,
    *,
    title: str = "Learning curves",
    unit: str = "loss per image, nats",
) -> Figure:
    """One thin line per member and the median over members, on a logarithmic scale; beside it, held-out losses.

    Args:
        losses: training loss of each member after each epoch, positive.
        validation_losses: the same on images not trained on, or None for one panel only.
        title: over the first panel.
        unit: label of the vertical axis.

    Raises:
        InputError: no member or no epoch.
    """
    panels = [(title, losses, color(0))]
    if validation_losses is not None:
        panels.append(("Held-out images", validation_losses, color(1)))
    if any(values.size == 0 for _, values, _ in panels):
        raise InputError(f"learning curves need at least one member and one epoch, got shape {losses.shape}")
    figure = new_figure(4.6 * len(panels) + 0.6, 3.5)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for i, (ax, (name, values, tone)) in enumerate(zip(axes, panels, strict=True)):
        _draw(ax, values, tone)
        style_axes(ax, title=name, x="epoch", y="" if i else unit, grid="both")
    return figure


def _draw(ax: Axes, values: Float[np.ndarray, "member epoch"], tone: str) -> None:
    epochs = np.arange(1, values.shape[1] + 1)
    marker = "o" if len(epochs) == 1 else ""
    for i, member in enumerate(values):
        label = f"{len(values)} members" if i == 0 else None
        ax.plot(epochs, member, color=tint(tone, 0.35), linewidth=0.7, marker=marker, markersize=3, label=label)
    median = np.median(values, axis=0)
    ax.plot(epochs, median, color=tone, linewidth=2.2, marker=marker, label=f"median (last: {median[-1]:.3g})")
    ax.set_yscale("log")
    # Within a decade or two the powers of ten alone would leave the axis nearly without numbers.
    positive = values[values > 0]
    narrow = positive.size == 0 or np.max(positive) < 200 * np.min(positive)
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if narrow else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    add_legend(ax, "upper right")
