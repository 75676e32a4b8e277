"""What nearness to the reference costs: distance against time, one point for each method."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jaxgeo.errors import InputError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.style import INK, MUTED, add_legend, color, marker, new_figure, style_axes


class Cost(NamedTuple):
    """One method."""

    seconds: float
    distance: Measure


def distance_against_cost(
    methods: Mapping[str, Cost],
    floor: Measure | None = None,
    reference_seconds: float | None = None,
    *,
    distance: str = "total variation",
    time: str = "processor time, s",
    reference_name: str = "HMC",
) -> Figure:
    """Distance to the reference against time, the latter on a logarithmic axis; error bars are Monte Carlo errors.

    Args:
        methods: by name.
        floor: the reference's one half against its other: what lies in the band cannot be told from the reference.
        reference_seconds: what the reference itself took, as a line.
        distance: its name, with its unit where it has one.
        time: likewise.
        reference_name: for the labels.

    Raises:
        InputError: no method, times that are not positive, or numbers that are not finite.
    """
    if not methods:
        raise InputError("a picture of costs needs at least one method, got none")
    for name, cost in methods.items():
        if not (math.isfinite(cost.seconds) and cost.seconds > 0 and math.isfinite(cost.distance.value)):
            raise InputError(
                f"{name} needs a positive finite time and a finite distance, got {cost.seconds} and "
                f"{cost.distance.value}"
            )
    if reference_seconds is not None and not (math.isfinite(reference_seconds) and reference_seconds > 0):
        raise InputError(f"the time of {reference_name} must be positive and finite, got {reference_seconds}")
    figure = new_figure(7.2, 4.6)
    ax = figure.subplots()
    if floor is not None:
        ax.axhspan(0, floor.value + (floor.standard_error or 0.0), color=MUTED, alpha=0.15, linewidth=0,
                   label=f"{reference_name}, one half against the other")  # fmt: skip
        ax.axhline(floor.value, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    if reference_seconds is not None:
        ax.axvline(reference_seconds, color=INK, linewidth=1, label=f"{reference_name}")
    for i, (name, cost) in enumerate(methods.items()):
        # More methods than markers: after one round of colours the markers are hollow.
        hollow = (i // 7) % 2 == 1
        ax.errorbar(
            cost.seconds, cost.distance.value, yerr=cost.distance.standard_error or 0.0, color=color(i),
            marker=marker(i), markersize=7, markerfacecolor="white" if hollow else color(i), linestyle="",
            elinewidth=1, capsize=2, label=name,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    style_axes(ax, title=f"Distance to {reference_name} and its price", x=time, y=distance, grid="both")
    ax.set_ylim(bottom=0)
    legend = add_legend(ax)
    legend.set_loc("center left")
    legend.set_bbox_to_anchor((1.01, 0.5))
    return figure
