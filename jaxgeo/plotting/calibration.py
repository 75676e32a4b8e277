"""Reliability diagrams."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jaxgeo.errors import InputError
from jaxgeo.metrics.calibration import ReliabilityCurve
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.style import INK, MUTED, add_legend, color, marker, new_figure, style_axes

FEW_IMAGES = 10


def reliability_diagram(
    curves: Mapping[str, ReliabilityCurve],
    errors: Mapping[str, Measure] | None = None,
    *,
    title: str = "Reliability",
) -> Figure:
    """Accuracy against confidence of several methods, and below how many images each bin holds.

    On the dotted diagonal confidence is honest; below it a method is overconfident. Error bars are binomial, one
    standard deviation; bins of fewer than ten images have hollow markers and no line.

    Args:
        curves: by name of the method.
        errors: expected calibration error of each method, for the legend.
        title: over the diagram.

    Raises:
        InputError: no curve.
    """
    if not curves:
        raise InputError("a reliability diagram needs at least one curve, got none")
    figure = new_figure(5.4, 6.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label="_honest")
    top.text(0.03, 0.07, "honest", rotation=45, rotation_mode="anchor", fontsize=8.5, color=MUTED,
             transform_rotates_text=True)  # fmt: skip
    for i, (name, curve) in enumerate(curves.items()):
        count, confidence, accuracy, edges = (
            np.asarray(x) for x in (curve.num_images, curve.confidence, curve.accuracy, curve.edges)
        )
        filled = count > 0
        x, y, n = confidence[filled], accuracy[filled], count[filled]
        # With Laplace's rule a bin that was always right still has an error bar.
        p = (y * n + 1) / (n + 2)
        label = name
        if errors is not None and name in errors:
            label += f"  (ECE {100 * errors[name].value:.1f} %)"
        top.errorbar(x, y, yerr=np.sqrt(p * (1 - p) / n), fmt="none", ecolor=color(i), elinewidth=0.9, alpha=0.6)
        few = n < FEW_IMAGES
        top.plot(x[~few], y[~few], color=color(i), linewidth=1.6, zorder=3, label="_line")
        style = {"marker": marker(i), "s": 30, "edgecolors": color(i), "linewidths": 1.2, "zorder": 4, "clip_on": False}
        top.scatter(x[~few], y[~few], facecolors=color(i), label=label, **style)
        top.scatter(x[few], y[few], facecolors="white", **style)
        bottom.stairs(count, edges, color=color(i), linewidth=1.5, label=name)
    style_axes(top, title=title, y="accuracy in bin", grid="both")
    style_axes(bottom, x="confidence (probability of the predicted class)", y="images in bin")
    top.set(xlim=(0, 1.02), ylim=(0, 1.04))
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    bottom.set_yscale("symlog", linthresh=1)
    bottom.set_ylim(bottom=0)
    add_legend(top, "lower right")
    top.text(
        0.02, 0.985, "underconfident", transform=top.transAxes, fontsize=8.5, color=MUTED, va="top", style="italic"
    )
    top.spines["left"].set_color(INK)
    return figure
