"""Figures of equivariance: a report layer by layer, and the error of a nonlinearity against oversampling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgeo.equivariance.meter import Measurement
from jaxgeo.equivariance.report import EquivarianceReport, LayerErrors
from jaxgeo.errors import InputError
from jaxgeo.plotting.style import INK, MUTED, add_legend, add_title, color, new_figure, style_axes

_FLOOR = 1e-17  # where errors of exactly zero stand on a logarithmic axis
_MOST_LINES = 6  # of layers in the panel over angles


def equivariance_report(report: EquivarianceReport, *, title: str = "Equivariance, layer by layer") -> Figure:
    """Left: for each layer its own error, what arises before it, and what has accumulated; right: error over angles.

    Points are means over angles and axes, bars and bands run from the smallest to the largest error. What is not finite
    leaves a gap; what is exactly zero, which a logarithmic axis does not have, stands on a line that says so.
    """
    rows = len(report.layers)
    figure = new_figure(max(10.5, 4.9 + 0.62 * rows + 4.6), 4.9)
    layers_axes, angle_axes = figure.subplots(1, 2, width_ratios=[max(1.25, 0.13 * rows), 1])
    _draw_layers(layers_axes, report.layers)
    _draw_angles(angle_axes, report)
    accumulated = [layer.accumulated for layer in report.layers]
    own = [part for layer in report.layers for part in (layer.own, layer.before) if part is not None]
    for ax, errors in ((layers_axes, accumulated + own), (angle_axes, accumulated)):
        ax.set_yscale("log")
        ax.set_ylim(*_limits(errors))
        if any((error == 0).any() for error in errors):
            ax.axhline(_FLOOR, color=MUTED, linewidth=0.8, linestyle=":")
            # The model's output, rightmost, has no points of its own there.
            at = (1, _FLOOR), (0, 3), ("axes fraction", "data"), "offset points"
            ax.annotate("exactly 0", *at, ha="right", color=MUTED, fontsize=8.5)
    # Points lie anywhere between rounding and one: a legend inside would hide some.
    _add_outside_legend(figure, layers_axes, "outside lower left", columns=4)
    _add_outside_legend(figure, angle_axes, "outside right upper")
    add_title(figure, title)
    return figure


def error_against_oversampling(
    measurements: Mapping[str, Mapping[float | int, Measurement]],
    *,
    title: str = "Equivariance of a nonlinearity",
) -> Figure:
    """Mean error over the oversampling of the grid, one line for each nonlinearity; bands run from least to largest.

    Args:
        measurements: by name, what `equivariance.meter.measure_oversampling` returned.
        title: over the axes.

    Raises:
        InputError: nothing to draw.
    """
    if not measurements or not all(measurements.values()):
        raise InputError("the figure needs at least one nonlinearity with at least one factor of oversampling")
    figure = new_figure(5.6, 4.2)
    ax = style_axes(figure.subplots(), title=title, x="oversampling of the grid", y="relative error", grid="both")
    every: set[float | int] = set()
    for i, (name, by_factor) in enumerate(measurements.items()):
        factors = sorted(by_factor)
        errors = [np.maximum(by_factor[factor].errors, _FLOOR) for factor in factors]
        low, high = [e.min() for e in errors], [e.max() for e in errors]
        ax.fill_between(factors, low, high, color=color(i), alpha=0.15, linewidth=0)
        ax.plot(factors, [e.mean() for e in errors], color=color(i), marker="o", markersize=4.5, label=name)
        every |= set(factors)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted(every), [f"{factor:g}" for factor in sorted(every)])
    ax.minorticks_off()
    add_legend(ax, "upper right")
    return figure


def _draw_layers(ax: Axes, layers: tuple[LayerErrors, ...]) -> None:
    style_axes(ax, title="where it arises", y="relative error", grid="y")
    places = np.arange(len(layers))
    accumulated = [np.maximum(layer.accumulated, _FLOOR) for layer in layers]
    low, high = [e.min() for e in accumulated], [e.max() for e in accumulated]
    ax.fill_between(places, low, high, color=MUTED, alpha=0.16, linewidth=0)
    ax.plot(places, [e.mean() for e in accumulated], color=INK, linewidth=1.4, marker="_", label="accumulated")
    # What arises before a layer stands to the left of it.
    _draw_points(ax, places - 0.3, [layer.before for layer in layers], color(1), "D", "between layers")
    for kind, index, shape in (("linear", 0, "o"), ("nonlinear", 3, "s")):
        chosen = [(place, layer.own) for place, layer in enumerate(layers) if layer.kind == kind]
        errors = [own for _, own in chosen if own is not None]
        if errors:
            _draw_points(ax, np.array([place for place, _ in chosen]), errors, color(index), shape, f"{kind} layers")
    ax.set_xticks(places, [layer.name for layer in layers], rotation=35, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(layers) - 0.5)


def _draw_points(ax: Axes, places: np.ndarray, errors: list[np.ndarray], shade: str, shape: str, label: str) -> None:
    errors = [np.maximum(error, _FLOOR) for error in errors]
    ax.vlines(places, [e.min() for e in errors], [e.max() for e in errors], color=shade, linewidth=2.2, alpha=0.45)
    ax.plot(
        places, [e.mean() for e in errors], linestyle="none", marker=shape, markersize=5.5, color=shade, label=label
    )


def _draw_angles(ax: Axes, report: EquivarianceReport) -> None:
    style_axes(ax, title="accumulated error by angle", x="angle of the rotation, degrees", grid="both")
    *inner, output = report.layers
    rising = np.argsort(report.angles_deg, kind="stable")
    angles = report.angles_deg[rising]
    step = -(-len(inner) // _MOST_LINES) or 1
    for i, layer in enumerate(inner[::step]):
        means = np.maximum(layer.accumulated[rising].mean(-1), _FLOOR)
        # With a marker a single angle is seen too.
        style = {"linewidth": 1.1, "alpha": 0.8, "marker": "o", "markersize": 2.5}
        ax.plot(angles, means, color=color(i), label=layer.name, **style)
    errors = np.maximum(output.accumulated[rising], _FLOOR)
    ax.fill_between(angles, errors.min(-1), errors.max(-1), color=MUTED, alpha=0.16, linewidth=0)
    ax.plot(angles, errors.mean(-1), color=INK, linewidth=2, marker="o", markersize=4, label=output.name)
    ax.set_xticks([0, 45, 90, 135, 180])


def _add_outside_legend(figure: Figure, ax: Axes, location: Any, columns: int = 1) -> None:
    # matplotlib's stubs know the places inside only.
    handles, labels = ax.get_legend_handles_labels()
    style = {"fontsize": 8.5, "frameon": False, "labelcolor": INK, "handlelength": 1.8}
    figure.legend(handles, labels, loc=location, ncols=columns, **style)


def _limits(errors: list[np.ndarray]) -> tuple[float, float]:
    every = np.concatenate([np.maximum(error, _FLOOR).ravel() for error in errors])
    every = every[np.isfinite(every)]
    if not every.size:
        return _FLOOR, 1.0
    return 10 ** np.floor(np.log10(every.min()) - 0.2), 10 ** np.ceil(np.log10(every.max()) + 0.2)
