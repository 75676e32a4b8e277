"""Depths of all pixels as pictures: on the sphere and on the picture they come from, with the truth and their ratio."""

import numpy as np
from jaxtyping import Float, Num
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from jaxgeo.plotting.dense import bare
from jaxgeo.plotting.sphere import BACKGROUND, colorbar_on_dark, mollweide

DEPTH_COLORMAP, RATIO_COLORMAP = "viridis_r", "RdBu"
RATIO_LIMITS = (0.5, 2.0)
_TITLES = ("predicted depth", "true depth", "predicted / true")
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_TICKS = 8
_ENDS = (0.5, 99.5)  # percent of the true depths: a few far points would take the colours of all others


def depth_map_figure(prediction: Float[np.ndarray, " pixel"], truth: Float[np.ndarray, " pixel"]) -> Figure:
    """Predicted and true depths on NESTED maps, and their ratio: red where too near, blue where too far.

    Args:
        prediction: metres; what is not finite or not above 0 stays background.
        truth: likewise; the ends of its scale, logarithmic, are those of both.
    """
    prediction, truth, limits = _prepared(prediction, truth)
    figure = Figure(figsize=(14.4, 3.4), facecolor=BACKGROUND)
    drawn = []
    for column, (values, title) in enumerate(zip((prediction, truth, prediction / truth), _TITLES, strict=True)):
        drawn.append(
            mollweide(
                figure.add_axes((0.005 + column / 3, 0.2, 0.323, 0.7)),
                values,
                title=title,
                limits=RATIO_LIMITS if column == 2 else limits,
                logarithmic=True,
                colormap=RATIO_COLORMAP if column == 2 else DEPTH_COLORMAP,
            )
        )
    _bars(figure, drawn[0], drawn[2], ((0.2, 0.15, 0.267, 0.022), (0.767, 0.15, 0.133, 0.022)))
    return figure


def depth_picture_figure(
    image: Num[np.ndarray, "row column 3"],
    prediction: Float[np.ndarray, "row column"],
    truth: Float[np.ndarray, "row column"],
) -> Figure:
    """The same on the pixels of a picture, beside the picture.

    Args:
        image: 8-bit colours.
        prediction: metres; what is not finite or not above 0 stays background.
        truth: likewise.
    """
    prediction, truth, limits = _prepared(prediction, truth)
    rows, columns = truth.shape
    width = 10.0
    height = 2 * (0.48 * width * rows / columns + 0.32) + 0.6
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    grid = figure.add_gridspec(2, 2, left=0.01, right=0.99, bottom=0.62 / height, top=1 - 0.3 / height, wspace=0.03,
                               hspace=0.32 / (0.48 * width * rows / columns))  # fmt: skip
    axes = figure.add_subplot(grid[0, 0])
    axes.imshow(image)
    bare(axes, "picture")
    drawn = []
    for place, values, title in zip(
        (grid[1, 0], grid[0, 1], grid[1, 1]), (prediction, truth, prediction / truth), _TITLES, strict=True
    ):
        ratio = title == _TITLES[2]
        axes = figure.add_subplot(place)
        norm = LogNorm(*(RATIO_LIMITS if ratio else limits))
        colormap = RATIO_COLORMAP if ratio else DEPTH_COLORMAP
        drawn.append(axes.imshow(values, cmap=colormap, norm=norm, interpolation="nearest"))
        bare(axes, title)
    bottom, thick = 0.42 / height, 0.08 / height
    _bars(figure, drawn[0], drawn[2], ((0.1, bottom, 0.3, thick), (0.6, bottom, 0.3, thick)))
    return figure


def _prepared(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Both with NaN where there is no depth, and the limits of the scale."""
    prediction, truth = (
        np.where(np.isfinite(depths) & (depths > 0), depths, np.nan).astype(np.float64)
        for depths in (prediction, truth)
    )
    known = truth[np.isfinite(truth)]
    if not known.size:
        return prediction, truth, (1.0, 100.0)
    low, high = (float(end) for end in np.percentile(known, _ENDS))
    return prediction, truth, (low, high) if high > low else (low / 2, high * 2)


def _bars(
    figure: Figure, depths: ScalarMappable, ratios: ScalarMappable, places: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    for drawn, place, label in zip((depths, ratios), places, ("metres", "too near    predicted / true    too far"),
                                   strict=True):  # fmt: skip
        axes = colorbar_on_dark(figure, (place[0], place[1], place[2], place[3]), drawn, label)
        low, high = axes.get_xlim()
        # 1, 2, 5 of each decade, of which many have room for the first only.
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        axes.set_xticks(ticks if len(ticks) <= _MOST_TICKS else [tick for tick in ticks if f"{tick:e}"[0] == "1"])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([], minor=True)
