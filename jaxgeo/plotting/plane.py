"""What several posteriors believe about a plane: one map for each, on one scale, beside the points they learnt from."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure

from jaxgeo.errors import InputError
from jaxgeo.plotting.style import INK, MUTED, new_figure

MAP = "viridis"
POINT_COLORS = ("#ffffff", "#d55e00")  # of the two labels


def plane_maps(
    maps: Mapping[str, Float[np.ndarray, "row column"]],
    extent: tuple[float, float, float, float],
    *,
    limits: tuple[float, float],
    unit: str,
    points: Float[np.ndarray, "point 2"] | None = None,
    labels: Integer[np.ndarray, " point"] | None = None,
    columns: int = 3,
) -> Figure:
    """Panels of equal size with a common colorbar.

    Args:
        maps: values by title; row 0 is the lowest x2.
        extent: x1 from, to, x2 from, to.
        limits: of the colours.
        unit: beside the colorbar.
        points: drawn on the first panel.
        labels: 0 or 1 for each point.
        columns: panels side by side.

    Raises:
        InputError: no maps.
    """
    if not maps:
        raise InputError("a figure of maps of the plane needs at least one map, got none")
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    figure = new_figure(0.9 + 3.4 * columns, 3.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    drawn = None
    for place, ax in enumerate(axes.ravel()):
        if place >= len(maps):
            ax.set_axis_off()
            continue
        title, values = list(maps.items())[place]
        drawn = ax.imshow(values, origin="lower", extent=extent, vmin=limits[0], vmax=limits[1], cmap=MAP)
        ax.set_title(title, loc="left", fontsize=10, color=INK)
        ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
        for spine in ax.spines.values():
            spine.set_visible(False)
        if place == 0 and points is not None:
            shades = POINT_COLORS[0] if labels is None else [POINT_COLORS[label] for label in labels]
            ax.scatter(points[:, 0], points[:, 1], s=1.0, c=shades, alpha=0.6, linewidths=0)
    assert drawn is not None
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30, pad=0.01)
    bar.set_label(unit, color=INK, fontsize=9)
    bar.ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return figure
