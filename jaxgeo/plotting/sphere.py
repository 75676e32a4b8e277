"""NESTED maps in Mollweide's equal-area projection, seen from outside: east is right, north is up."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import ArrayLike

from jaxgeo.errors import InputError
from jaxgeo.grids.healpix import nside_of, vectors_to_pixels

BACKGROUND = "#0e1117"
FOREGROUND = "#d7dce5"
GRATICULE = "#ffffff"
DEFAULT_COLORMAP = "magma"


def mollweide(
    axes: Axes,
    sphere_map: Float[ArrayLike, " pixel"],
    *,
    title: str = "",
    central_longitude_deg: float = 0.0,
    limits: tuple[float, float] | None = None,
    logarithmic: bool = False,
    colormap: str | Colormap = DEFAULT_COLORMAP,
    graticule_deg: float = 30.0,
    columns: int = 800,
) -> ScalarMappable:
    """Draw one full NESTED map into the axes.

    Args:
        axes: its frame and ticks are removed; the ellipse is 4 wide and 2 high.
        sphere_map: any finite values, or NaN for pixels that stay background.
        title: above the ellipse.
        central_longitude_deg: longitude in the middle.
        limits: values of the colormap's ends; by default the smallest and largest of the map.
        logarithmic: whether equal ratios of values are equal steps of colour; limits must be above 0.
        colormap: a name that matplotlib knows, or a colormap; perceptually uniform ones read best.
        graticule_deg: distance of meridians and parallels; 0 draws none.
        columns: width of the drawn image; each point shows the pixel under it, without interpolation.

    Returns:
        What a colorbar needs.

    Raises:
        InputError: the length is not that of a full map.
    """
    values = np.asarray(sphere_map, np.float64)
    nside = nside_of(values.shape[-1])
    vectors, inside = inverse_mollweide(columns, math.radians(central_longitude_deg))
    pixels = np.asarray(vectors_to_pixels(nside, jnp.asarray(vectors[inside]), "nested"))
    picture = np.full(inside.shape, np.nan)
    picture[inside] = values[pixels]
    low, high = limits if limits is not None else _limits(values)
    image = axes.imshow(
        picture,
        extent=(-2, 2, -1, 1),
        origin="lower",
        cmap=colormap,
        norm=LogNorm(low, high) if logarithmic else Normalize(low, high),
        interpolation="antialiased",
        interpolation_stage="rgba",
    )
    edge = Ellipse((0, 0), 4, 2, facecolor="none", edgecolor=FOREGROUND, linewidth=0.8, zorder=3)
    axes.add_patch(edge)
    image.set_clip_path(edge)
    if graticule_deg > 0:
        _draw_graticule(axes, graticule_deg)
    axes.set_xlim(-2.04, 2.04)
    axes.set_ylim(-1.04, 1.04)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, color=FOREGROUND, fontsize=10, pad=4)
    return image


def mollweide_grid(
    maps: Float[ArrayLike, "map pixel"],
    titles: Sequence[str] = (),
    *,
    columns: int = 4,
    title: str = "",
    shared_limits: bool = True,
    central_longitude_deg: float = 0.0,
    colormap: str | Colormap = DEFAULT_COLORMAP,
    colorbar_label: str = "",
) -> Figure:
    """A gallery of NESTED maps on a dark ground.

    Args:
        maps: at least one.
        titles: one per map, or none.
        columns: maps in a row.
        title: above all.
        shared_limits: one colour scale for all maps, drawn as a colorbar below; else each map has its own.
        central_longitude_deg: longitude in the middle of each map.
        colormap: as in `mollweide`.
        colorbar_label: what the values are, with unit.

    Raises:
        InputError: no maps, another number of titles than maps, or a wrong length.
    """
    values = np.asarray(maps, np.float64)
    if len(values) == 0:
        raise InputError("a gallery needs at least one map, got none")
    if titles and len(titles) != len(values):
        raise InputError(f"{len(values)} maps need as many titles (or none), got {len(titles)}")
    columns = max(1, min(columns, len(values)))
    rows = -(-len(values) // columns)
    bar = 0.68 if shared_limits else 0.0
    head = 0.38 if title else 0.0
    size = (3.0 * columns, 1.75 * rows + bar + head + 0.15)
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.02,
        right=0.98,
        bottom=(bar + 0.05) / size[1],
        top=1 - (head + 0.2) / size[1],
        wspace=0.04,
        hspace=0.18,
    )
    limits = _limits(values) if shared_limits else None
    drawn = None
    for i, one in enumerate(values):
        drawn = mollweide(
            figure.add_subplot(grid[i // columns, i % columns]),
            one,
            title=titles[i] if titles else "",
            central_longitude_deg=central_longitude_deg,
            limits=limits,
            colormap=colormap,
            columns=480,
        )
    if shared_limits and drawn is not None:
        colorbar_on_dark(figure, (0.3, 0.48 / size[1], 0.4, 0.09 / size[1]), drawn, colorbar_label)
    if title:
        figure.suptitle(title, color=FOREGROUND, fontsize=13, y=1 - 0.12 / size[1], va="top")
    return figure


def colorbar_on_dark(
    figure: Figure, place: tuple[float, float, float, float], drawn: ScalarMappable, label: str = ""
) -> Axes:
    """A flat colorbar at (left, bottom, width, height) of the figure, with what its values are below it."""
    axes = figure.add_axes(place)
    colorbar = figure.colorbar(drawn, cax=axes, orientation="horizontal", label=label)
    colorbar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    axes.tick_params(which="both", colors=FOREGROUND, labelsize=8, length=2)
    axes.xaxis.label.set_color(FOREGROUND)
    axes.xaxis.label.set_fontsize(8)
    return axes


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    # A constant map would divide by zero in the colour scale.
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def inverse_mollweide(columns: int, central_longitude: float) -> tuple[np.ndarray, Bool[np.ndarray, "row column"]]:
    """Unit vectors (row, column, 3) under the points of a picture, and which points lie on the ellipse.

    Points just outside are counted in, so that the smooth edge drawn over them has no gaps.
    """
    across = (np.arange(columns) + 0.5) * (4 / columns) - 2
    up = (np.arange(columns // 2) + 0.5) * (4 / columns) - 1
    x, y = np.meshgrid(across, up)
    inside = x**2 / 4 + y**2 < (1 + 6 / columns) ** 2
    auxiliary = np.arcsin(np.clip(y, -1, 1))
    latitude = np.arcsin(np.clip((2 * auxiliary + np.sin(2 * auxiliary)) / np.pi, -1, 1))
    longitude = central_longitude + np.clip(np.pi * x / (2 * np.maximum(np.cos(auxiliary), 1e-9)), -np.pi, np.pi)
    vectors = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    )
    return vectors, inside


def forward_mollweide(
    latitude: Float[np.ndarray, "*point"], longitude: Float[np.ndarray, "*point"]
) -> tuple[Float[np.ndarray, "*point"], Float[np.ndarray, "*point"]]:
    """Places (x in [-2, 2], y in [-1, 1]) of latitudes and of longitudes from the centre, in radians.

    The auxiliary angle t solves 2 t + sin 2 t = pi sin(latitude) (Snyder, "Map Projections: A Working Manual", 1987).
    """
    target = np.pi * np.abs(np.sin(latitude))
    # Halving instead of Newton steps, which converge badly at the poles, where the slope vanishes.
    low, high = np.zeros_like(target), np.full_like(target, np.pi / 2)
    for _ in range(52):
        middle = (low + high) / 2
        below = 2 * middle + np.sin(2 * middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    auxiliary = np.copysign((low + high) / 2, latitude)
    return 2 / np.pi * longitude * np.cos(auxiliary), np.sin(auxiliary)


def _draw_graticule(axes: Axes, spacing_deg: float) -> None:
    def line(x, y):
        axes.plot(x, y, color=GRATICULE, linewidth=0.45, alpha=0.28, zorder=2)

    along = np.radians(np.linspace(-90, 90, 181))
    meridians = np.arange(spacing_deg, 180, spacing_deg)
    for degrees in np.concatenate([-meridians[::-1], [0.0], meridians]):
        line(*forward_mollweide(along, np.full_like(along, math.radians(degrees))))
    parallels = np.arange(spacing_deg, 90, spacing_deg)
    ends = np.array([-math.pi, math.pi])
    for degrees in np.concatenate([-parallels[::-1], [0.0], parallels]):
        line(*forward_mollweide(np.full(2, math.radians(degrees)), ends))
