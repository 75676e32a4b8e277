"""Scores of several methods as their inputs get worse."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxgeo.errors import InputError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.style import add_legend, add_title, color, marker, new_figure, style_axes

Curves = Mapping[str, Mapping[int, Measure]]
"""by method: a measure at each severity, 0 being the clean images"""


def scores_by_severity(panels: Mapping[str, Curves], *, title: str = "Scores under corruption") -> Figure:
    """One panel for each measure, one line for each method; error bars are Monte Carlo errors of the draws.

    Args:
        panels: by the measure's name, with its unit where it has one.
        title: over all panels.

    Raises:
        InputError: no measure, a measure of no method or a method of no severity, or a value that is not finite.
    """
    if not panels:
        raise InputError("a picture of scores by severity needs at least one measure, got none")
    for measure, curves in panels.items():
        if not curves or not all(curves.values()):
            empty = [name for name, curve in curves.items() if not curve]
            raise InputError(f"{measure} needs methods with at least one severity each, got none of {empty or 'them'}")
        for name, curve in curves.items():
            for severity, found in curve.items():
                if not math.isfinite(found.value):
                    raise InputError(
                        f"{measure} of {name} at severity {severity} must be finite to be drawn, got {found.value}"
                    )
    figure = new_figure(3.7 * len(panels) + 2.0, 3.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (measure, curves) in zip(axes, panels.items(), strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            severities = sorted(curve)
            # A little apart, so that the bars of methods that agree can be told from each other.
            apart = 0.06 * (i - (len(curves) - 1) / 2)
            ax.errorbar(
                [severity + apart for severity in severities], [curve[severity].value for severity in severities],
                yerr=[curve[severity].standard_error or 0.0 for severity in severities], color=color(i),
                marker=marker(i), markersize=5, linewidth=1.4, elinewidth=1, capsize=2, label=name,
            )  # fmt: skip
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axes(ax, title=measure, x="severity (0: clean)", grid="both")
    # Beside the panels: curves of several methods leave no corner free.
    legend = add_legend(axes[-1])
    legend.set_loc("center left")
    legend.set_bbox_to_anchor((1.01, 0.5))
    add_title(figure, title)
    return figure
