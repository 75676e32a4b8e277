"""Classes of all pixels as pictures: maps of the sphere, and fisheye pictures with prediction, label and error."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxgeo.plotting.sphere import BACKGROUND, FOREGROUND, mollweide

UNKNOWN = 255
# Blue first: class 0 of the Earth is its ocean. The rest after Okabe and Ito, then darker and lighter ones of them.
CLASS_COLORS = (
    "#274b7a", "#009e73", "#e69f00", "#8fce6a", "#cc79a7", "#e8eef2", "#d55e00", "#56b4e9", "#f0e442", "#7a4f2a",
    "#999999", "#004d40", "#6a3d9a", "#b15928", "#fb9a99", "#1b1b1b",
)  # fmt: skip


def class_map_figure(
    probabilities: Float[np.ndarray, "pixel class"],
    class_names: Sequence[str],
    labels: Integer[np.ndarray, " pixel"] | None = None,
    *,
    colors: Sequence[str] = CLASS_COLORS,
) -> Figure:
    """The likeliest class and its entropy on a NESTED map; with labels those too, and where the two differ.

    Args:
        probabilities: of each class.
        class_names: of the legend.
        labels: 255 stays background.
        colors: of the classes, in turn.
    """
    decided = probabilities.argmax(-1)
    safe = np.clip(probabilities, 1e-12, 1)
    entropy = -(safe * np.log(safe)).sum(-1)
    panels = 2 if labels is None else 4
    figure = Figure(figsize=(6.2 * 2, 3.3 * panels / 2 + 0.7), facecolor=BACKGROUND)
    grid = figure.add_gridspec(panels // 2, 2, left=0.02, right=0.98, bottom=0.16 if panels == 2 else 0.09, top=0.93)
    palette = _palette(len(class_names), colors)
    limits = (-0.5, len(class_names) - 0.5)
    mollweide(
        figure.add_subplot(grid[0]), decided.astype(float), title="predicted class", limits=limits, colormap=palette
    )
    mollweide(figure.add_subplot(grid[1]), entropy, title="entropy of the prediction, nats")
    if labels is not None:
        shown = np.where(labels == UNKNOWN, np.nan, labels.astype(float))
        wrong = np.where(labels == UNKNOWN, np.nan, (decided != labels).astype(float))
        mollweide(figure.add_subplot(grid[2]), shown, title="label", limits=limits, colormap=palette)
        error = ListedColormap(["#1d2530", "#ff5a4f"])
        mollweide(figure.add_subplot(grid[3]), wrong, title="where they differ", limits=(0.0, 1.0), colormap=error)
    _legend(figure, class_names, colors)
    return figure


def fisheye_figure(
    image: Num[np.ndarray, "row col 3"],
    predictions: dict[str, Integer[np.ndarray, "row col"]],
    labels: Integer[np.ndarray, "row col"],
    class_names: Sequence[str],
    *,
    colors: Sequence[str | tuple[int, int, int]] = CLASS_COLORS,
) -> Figure:
    """A fisheye picture, its labels, and for each prediction its classes and where they differ from the labels.

    Args:
        image: 8-bit colours.
        predictions: by title; 255 where nothing is predicted.
        labels: 255 where unknown.
        class_names: of the legend.
        colors: of the classes: names, or triples up to 255.
    """
    columns = 1 + len(predictions)
    figure = Figure(figsize=(4.2 * columns, 7.4), facecolor=BACKGROUND)
    grid = figure.add_gridspec(2, columns, left=0.01, right=0.99, bottom=0.13, top=0.94, wspace=0.03, hspace=0.12)
    hexadecimal = [one if isinstance(one, str) else "#{:02x}{:02x}{:02x}".format(*one) for one in colors]
    palette = _palette(len(class_names), hexadecimal)

    def classes(axes: Axes, values: np.ndarray, title: str) -> None:
        shown = np.where(values == UNKNOWN, np.nan, values.astype(float))
        axes.imshow(shown, cmap=palette, vmin=-0.5, vmax=len(class_names) - 0.5, interpolation="nearest")
        _bare(axes, title)

    picture = figure.add_subplot(grid[0, 0])
    picture.imshow(image)
    _bare(picture, "picture")
    classes(figure.add_subplot(grid[1, 0]), labels, "labels")
    for column, (title, values) in enumerate(predictions.items(), 1):
        classes(figure.add_subplot(grid[0, column]), values, title)
        wrong = np.where((labels == UNKNOWN) | (values == UNKNOWN), np.nan, (values != labels).astype(float))
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(wrong, cmap=ListedColormap(["#1d2530", "#ff5a4f"]), vmin=0, vmax=1, interpolation="nearest")
        _bare(axes, "where they differ")
    _legend(figure, class_names, hexadecimal)
    return figure


def _palette(count: int, colors: Sequence[str]) -> ListedColormap:
    return ListedColormap([colors[index % len(colors)] for index in range(count)])


def _bare(axes: Axes, title: str) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, color=FOREGROUND, fontsize=10, pad=4)


def _legend(figure: Figure, class_names: Sequence[str], colors: Sequence[str]) -> None:
    patches = [Patch(color=colors[i % len(colors)], label=name) for i, name in enumerate(class_names)]
    figure.legend(
        handles=patches,
        loc="lower center",
        ncols=min(8, len(patches)),
        frameon=False,
        labelcolor=FOREGROUND,
        fontsize=9,
    )
