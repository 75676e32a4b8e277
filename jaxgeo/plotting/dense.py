"""Classes of all pixels as pictures: maps of the sphere, and fisheye pictures with prediction, label and error."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxgeo.plotting.sphere import BACKGROUND, FOREGROUND, colorbar_on_dark, mollweide

UNKNOWN = 255
# Blue first: class 0 of the Earth is its ocean. The rest after Okabe and Ito, then darker and lighter ones of them.
CLASS_COLORS = (
    "#274b7a", "#009e73", "#e69f00", "#8fce6a", "#cc79a7", "#e8eef2", "#d55e00", "#56b4e9", "#f0e442", "#7a4f2a",
    "#999999", "#004d40", "#6a3d9a", "#b15928", "#fb9a99", "#1b1b1b",
)  # fmt: skip
ERROR_COLORS = ("#1d2530", "#ff5a4f")  # right, wrong
Color = str | tuple[int, int, int]


def class_map_figure(
    probabilities: Float[np.ndarray, "pixel class"],
    class_names: Sequence[str],
    labels: Integer[np.ndarray, " pixel"] | None = None,
    *,
    doubts: Mapping[str, Float[np.ndarray, " pixel"]] | None = None,
    colors: Sequence[Color] = CLASS_COLORS,
) -> Figure:
    """The likeliest class on a NESTED map beside how sure it is; with labels those too, and where the two differ.

    Args:
        probabilities: of each class; NaN where nothing is predicted, which stays background.
        class_names: of the legend.
        labels: 255 stays background.
        doubts: maps in nats by title, each on a scale of its own from 0; by default the probabilities' entropy.
        colors: of the classes, in turn: names, or triples up to 255.
    """
    decided = likeliest(probabilities)
    known = decided != UNKNOWN
    if doubts is None:
        safe = np.clip(probabilities, 1e-12, 1)
        doubts = {"entropy of the prediction": -(safe * np.log(safe)).sum(-1)}
    rows = -(-(1 + len(doubts) + (0 if labels is None else 2)) // 2)
    # Inches: a map is 3 high, below it is room for a colorbar where there is one, below all for the legend.
    row, width = 3.6, 12.4
    height = rows * row + _legend_height(width, class_names) - (0.0 if labels is None else 0.35)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)

    def place(number: int) -> tuple[float, float, float, float]:
        down, across = divmod(number, 2)
        return 0.01 + 0.5 * across, (height - (down + 1) * row + 0.45) / height, 0.48, (row - 0.75) / height

    names = hexadecimal(colors)
    palette, limits = _palette(len(class_names), names), (-0.5, len(class_names) - 0.5)
    shown = np.where(known, decided.astype(float), np.nan)
    mollweide(figure.add_axes(place(0)), shown, title="predicted class", limits=limits, colormap=palette)
    drawn = []
    for number, (title, values) in enumerate(doubts.items(), 1):
        most = float(np.nanmax(values, initial=0.0))
        axes = figure.add_axes(place(number))
        drawn.append((number, mollweide(axes, values, title=title, limits=(0.0, most if most > 0 else 1.0))))
    if labels is not None:
        number = 1 + len(doubts)
        shown = np.where(labels == UNKNOWN, np.nan, labels.astype(float))
        wrong = np.where((labels == UNKNOWN) | ~known, np.nan, (decided != labels).astype(float))
        mollweide(figure.add_axes(place(number)), shown, title="label", limits=limits, colormap=palette)
        axes = figure.add_axes(place(number + 1))
        mollweide(axes, wrong, title="where they differ", limits=(0.0, 1.0), colormap=ListedColormap(ERROR_COLORS))
    for number, values in drawn:
        left, bottom, across, _ = place(number)
        bar = left + 0.3 * across, bottom - 0.06 / height, 0.4 * across, 0.07 / height
        colorbar_on_dark(figure, bar, values, "nats")
    _legend(figure, class_names, names)
    return figure


def fisheye_figure(
    image: Num[np.ndarray, "row column 3"],
    predictions: dict[str, Integer[np.ndarray, "row column"]],
    labels: Integer[np.ndarray, "row column"],
    class_names: Sequence[str],
    *,
    colors: Sequence[Color] = CLASS_COLORS,
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
    # Inches: a picture is 4.1 wide, above each is room for its title, below all for the legend.
    width, picture_height = 4.2 * columns, 4.1 * labels.shape[0] / labels.shape[1]
    legend = _legend_height(width, class_names)
    height = 2 * picture_height + 0.9 + legend
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    grid = figure.add_gridspec(
        2,
        columns,
        left=0.01,
        right=0.99,
        bottom=(legend + 0.1) / height,
        top=1 - 0.35 / height,
        wspace=0.03,
        hspace=0.35 / picture_height,
    )
    names = hexadecimal(colors)
    palette = _palette(len(class_names), names)

    def classes(axes: Axes, values: np.ndarray, title: str) -> None:
        shown = np.where(values == UNKNOWN, np.nan, values.astype(float))
        axes.imshow(shown, cmap=palette, vmin=-0.5, vmax=len(class_names) - 0.5, interpolation="nearest")
        bare(axes, title)

    picture = figure.add_subplot(grid[0, 0])
    picture.imshow(image)
    bare(picture, "picture")
    classes(figure.add_subplot(grid[1, 0]), labels, "labels")
    for column, (title, values) in enumerate(predictions.items(), 1):
        classes(figure.add_subplot(grid[0, column]), values, title)
        wrong = np.where((labels == UNKNOWN) | (values == UNKNOWN), np.nan, (values != labels).astype(float))
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(wrong, cmap=ListedColormap(ERROR_COLORS), vmin=0, vmax=1, interpolation="nearest")
        bare(axes, "where they differ")
    _legend(figure, class_names, names)
    return figure


def likeliest(probabilities: Float[np.ndarray, "*pixel class"]) -> Integer[np.ndarray, "*pixel"]:
    """The class of the largest probability; 255 where they are not known (NaN)."""
    known = np.asarray(np.isfinite(probabilities).all(-1))
    return np.where(known, np.nan_to_num(probabilities).argmax(-1), UNKNOWN)


def _palette(count: int, colors: Sequence[str]) -> ListedColormap:
    return ListedColormap([colors[index % len(colors)] for index in range(count)])


def hexadecimal(colors: Sequence[Color]) -> list[str]:
    """Colours as names that matplotlib knows."""
    return [one if isinstance(one, str) else "#{:02x}{:02x}{:02x}".format(*one) for one in colors]


def bare(axes: Axes, title: str) -> None:
    """Axes of a picture on the dark ground: a title, and no frame."""
    axes.set_facecolor(BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, color=FOREGROUND, fontsize=10, pad=4)


def _legend_columns(width: float, class_names: Sequence[str]) -> int:
    """As many as the longest name leaves room for."""
    longest = max(len(name) for name in class_names)
    return max(1, min(len(class_names), int((width - 0.2) / (0.65 + 0.085 * longest))))


def _legend_height(width: float, class_names: Sequence[str]) -> float:
    return 0.2 + 0.2 * -(-len(class_names) // _legend_columns(width, class_names))


def _legend(figure: Figure, class_names: Sequence[str], colors: Sequence[str]) -> None:
    patches = [Patch(color=colors[i % len(colors)], label=name) for i, name in enumerate(class_names)]
    figure.legend(
        handles=patches,
        loc="lower center",
        ncols=_legend_columns(figure.get_figwidth(), class_names),
        frameon=False,
        labelcolor=FOREGROUND,
        fontsize=9,
    )
