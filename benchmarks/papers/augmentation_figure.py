"""The figure of the study: scores over images and poses, with their spread over seeds, beside the published ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.papers.augmentation_grid import NETWORKS, Grid
from benchmarks.papers.augmentation_report import PUBLISHED, TITLES, Row
from jaxgeo.plotting import style


def figure(grid: Grid, summary: Sequence[Row]) -> Figure:
    """The fall from unrotated to rotated tests, curves over the number of images, and the other data sets."""
    drawn = style.new_figure(13.5, 8.6)
    seeds = "one seed" if grid.seeds == 1 else f"mean and range of {grid.seeds} seeds"
    style.add_title(drawn, f"Equivariance versus augmentation, {grid.name} grid: {seeds}")
    axes = drawn.subplots(2, 3)
    _fall(axes[0, 0], summary)
    _curves(axes[0, 1], summary, "segmentation", "pixel_miou", "mIoU on rotated tests [%]")
    _curves(axes[0, 2], summary, "classification", "accuracy", "accuracy on rotated tests [%]")
    for ax, task, data, label in (
        (axes[1, 0], "segmentation", "four_digits", "mIoU [%]"),
        (axes[1, 1], "segmentation", "fashion", "mIoU [%]"),
        (axes[1, 2], "classification", "fashion", "accuracy [%]"),
    ):
        _others(ax, grid, summary, task, data, label)
    handles = [
        Line2D([], [], color=style.color(index), marker=style.marker(index), label=TITLES[network])
        for index, network in enumerate(NETWORKS)
    ]
    handles += [
        Line2D([], [], color=style.MUTED, ls=":", label="trained unrotated"),
        Line2D([], [], color=style.MUTED, ls="-", label="trained rotated"),
        Line2D([], [], color=style.INK, ls="", marker="_", ms=16, label="published, bandlimit 50"),
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9.5,
                 labelcolor=style.INK)  # fmt: skip
    return drawn


def _curves(ax: Axes, summary: Sequence[Row], task: str, score: str, label: str) -> None:
    mine = [row for row in summary if (row["task"], row["data"]) == (task, "one_digit")]
    for index, network in enumerate(NETWORKS):
        for augmented in (False, True):
            rows = sorted(
                (r for r in mine if (r["network"], r["augmented"]) == (network, augmented)),
                key=lambda r: r["num_train"],
            )
            if not rows:
                continue
            # A little beside each other, so that equal scores can be told apart.
            sizes = [row["num_train"] * 2 ** (0.05 * (index - 1.5)) for row in rows]
            values = [row["rotated"][score] for row in rows]
            color, means = style.color(index), [v["mean"] for v in values]
            spread = [[v["mean"] - v["min"] for v in values], [v["max"] - v["mean"] for v in values]]
            ax.errorbar(
                sizes, means, yerr=spread, color=color, marker=style.marker(index), markersize=5.5, capsize=3, lw=1.6,
                linestyle="-" if augmented else ":", markerfacecolor=color if augmented else style.PAPER,
            )  # fmt: skip
    style.style_axes(ax, title=f"{task.capitalize()}, one digit", x="training images", y=label)
    ax.set_ylim(0, 100)
    if mine:
        ax.set_xscale("log", base=2)
        ticks = sorted({row["num_train"] for row in mine})
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set_xticks([], minor=True)
    published = next((p for p in PUBLISHED if (p.task, p.data, p.cnns_augmented) == (task, "one_digit", True)), None)
    for index, value in enumerate(published.values if published is not None else ()):
        ax.plot([1.0], [value], transform=ax.get_yaxis_transform(), clip_on=False, ls="", marker="_", ms=16, mew=1.2,
                color=style.color(index), zorder=5)  # fmt: skip


def _fall(ax: Axes, summary: Sequence[Row]) -> None:
    """Bars of unrotated and rotated tests of networks trained unrotated on most images."""
    before, after = PUBLISHED[0].values, PUBLISHED[1].values
    mine = [r for r in summary if (r["task"], r["data"], r["augmented"]) == ("segmentation", "one_digit", False)]
    for index, network in enumerate(NETWORKS):
        rows = [row for row in mine if row["network"] == network]
        row = max(rows, key=lambda row: row["num_train"], default=None)
        for shift, pose, strength, published in ((-0.2, "unrotated", 0.4, before), (0.2, "rotated", 1.0, after)):
            if row is not None:
                _bar(ax, index + shift, row[pose]["pixel_miou"], style.tint(style.color(index), strength), 0.36)
            _mark(ax, index + shift, published[index], 15)
    ax.set_xlim(-0.5, len(NETWORKS) - 0.5)
    ax.set_xticks(range(len(NETWORKS)), [TITLES[n].replace(", ", ",\n") for n in NETWORKS])
    style.style_axes(
        ax, title="Segmentation, one digit, trained unrotated", y="mIoU: tested unrotated (pale), rotated [%]"
    )
    ax.set_ylim(0, 100)


def _others(ax: Axes, grid: Grid, summary: Sequence[Row], task: str, data: str, label: str) -> None:
    """Rotated tests on another data set: S2CNN trained unrotated, CNNs rotated."""
    score = "pixel_miou" if task == "segmentation" else "accuracy"
    values = next((p.values for p in PUBLISHED if (p.task, p.data, p.cnns_augmented) == (task, data, True)), None)
    for index, network in enumerate(NETWORKS):
        mine = [
            r for r in summary if (r["task"], r["data"], r["network"]) == (task, data, network)
            and r["augmented"] == (network != "s2cnn")
        ]  # fmt: skip
        if mine:
            row = max(mine, key=lambda r: r["num_train"])
            _bar(ax, index, row["rotated"][score], style.color(index), 0.62)
        if values is not None:
            _mark(ax, index, values[index], 24)
    names = [TITLES[n].replace(", ", ",\n") + (",\nunrotated" if n == "s2cnn" else ",\nrotated") for n in NETWORKS]
    ax.set_xlim(-0.5, len(NETWORKS) - 0.5)
    ax.set_xticks(range(len(NETWORKS)), names)
    title = f"{grid.data[data].title}: tested rotated" if data in grid.data else "FashionMNIST: not in this grid"
    style.style_axes(ax, title=f"{task.capitalize()}, {title}", y=label)
    ax.set_ylim(0, 100)


def _bar(ax: Axes, x: float, value: Mapping[str, float], color: Any, width: float) -> None:
    spread = [[value["mean"] - value["min"]], [value["max"] - value["mean"]]]
    ax.bar([x], [value["mean"]], width, yerr=spread, color=color, ecolor=style.INK, capsize=3,
           error_kw={"lw": 1.0})  # fmt: skip


def _mark(ax: Axes, x: float, value: float, size: float) -> None:
    # A pale rim, to be seen on bars too.
    for color, mew in ((style.PAPER, 2.8), (style.INK, 1.2)):
        ax.plot([x], [value], ls="", marker="_", ms=size, mew=mew, color=color, zorder=5)
