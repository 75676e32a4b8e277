"""Uncertainty as images are turned away from the poses that were trained on."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from jaxgeo.errors import InputError
from jaxgeo.plotting.style import GRID, MUTED, color, marker, new_figure, style_axes


class Band(NamedTuple):
    """A line and the half width of the band around it (one standard error)."""

    value: Float[np.ndarray, " angle"]
    error: Float[np.ndarray, " angle"]


class UncertaintyCurve(NamedTuple):
    """One method at each angle, averaged over images; entropies in nats."""

    entropy: Band
    mutual_information: Band
    accuracy: Band | None = None


def uncertainty_under_rotation(
    angles: Float[np.ndarray, " angle"],
    curves: Mapping[str, UncertaintyCurve],
    *,
    trained_up_to: float | None = None,
    num_classes: int | None = None,
) -> Figure:
    """Predictive entropy and mutual information against the angle from the training poses, a line per method.

    Args:
        angles: degrees, increasing.
        curves: by name of the method; a panel of accuracies is added where every method has them.
        trained_up_to: largest angle among the training poses, shaded; None if they had one pose only.
        num_classes: draws log(num_classes), the entropy of knowing nothing.

    Raises:
        InputError: no curve, or one whose length is not that of the angles.
    """
    if not curves:
        raise InputError("a figure of uncertainties needs at least one curve, got none")
    for name, curve in curves.items():
        for band in filter(None, curve):
            if len(band.value) != len(angles) or len(band.error) != len(angles):
                raise InputError(f"{name} has {len(band.value)} values and {len(band.error)} errors, but there are "
                                 f"{len(angles)} angles; one of each per angle is needed")  # fmt: skip
    panels = ["entropy", "mutual_information"]
    if all(curve.accuracy is not None for curve in curves.values()):
        panels.append("accuracy")
    figure = new_figure(4.2 * len(panels), 3.9)
    axes = dict(zip(panels, figure.subplots(1, len(panels)), strict=True))
    titles = {
        "entropy": ("Predictive entropy", "nats"),
        "mutual_information": ("Mutual information", "nats"),
        "accuracy": ("Accuracy", ""),
    }
    for panel, ax in axes.items():
        for i, (name, curve) in enumerate(curves.items()):
            _draw_band(ax, angles, getattr(curve, panel), i, name)
        title, unit = titles[panel]
        style_axes(ax, title=title, x="rotation away from the training poses", y=unit, grid="both")
        ax.set_ylim(bottom=0)
        ax.set_xlim(float(angles[0]), float(angles[-1]))
        ax.xaxis.set_major_locator(MultipleLocator(45 if angles[-1] > 90 else 15))
        ax.xaxis.set_major_formatter("{x:.0f}°")
        if trained_up_to is not None:
            ax.axvspan(float(angles[0]), trained_up_to, color=GRID, alpha=0.6, zorder=0, linewidth=0, label="_trained")
    if num_classes is not None:
        _draw_ceiling(axes["entropy"], float(np.log(num_classes)), f"log {num_classes}: knows nothing")
    if "accuracy" in axes:
        axes["accuracy"].set_ylim(0, 1.03)
        axes["accuracy"].yaxis.set_major_formatter(PercentFormatter(1))
        if num_classes is not None:
            _draw_ceiling(axes["accuracy"], 1 / num_classes, "chance")
    if trained_up_to is not None:
        ax = axes["mutual_information"]
        ax.text(trained_up_to, 0.985, " trained", transform=ax.get_xaxis_transform(), ha="left", va="top",
                fontsize=8.5, color=MUTED, style="italic")  # fmt: skip
    handles, labels = axes["entropy"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(curves), 5), fontsize=9, frameon=False)
    return figure


def _draw_band(ax: Axes, angles: Float[np.ndarray, " angle"], band: Band, index: int, name: str) -> None:
    value, error = np.asarray(band.value), np.asarray(band.error)
    ax.fill_between(angles, value - error, value + error, color=color(index), alpha=0.18, linewidth=0)
    ax.plot(angles, value, color=color(index), marker=marker(index), markersize=4.5, linewidth=1.8, label=name)


def _draw_ceiling(ax: Axes, height: float, text: str) -> None:
    ax.axhline(height, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), label="_ceiling")
    ax.text(0.985, height, text, transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=8.5, color=MUTED)
    ax.set_ylim(top=max(ax.get_ylim()[1], 1.12 * height))
