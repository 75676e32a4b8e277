"""What the cells of the study say together: means and spreads over seeds, the verdict, a page and a figure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.papers.augmentation_grid import NETWORKS, Grid
from jaxgeo.plotting import style

TITLES = {"s2cnn": "S2CNN", "cnn_small": "CNN, small", "cnn_medium": "CNN, medium", "cnn_large": "CNN, large"}
LOSS_BAR = 2.0  # points of mIoU that the S2CNN may lose
SHARE_BAR = 0.5  # of its mIoU that a CNN must lose

# Published figures in the order of NETWORKS, percent; arXiv:2202.03990.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "segmentation, one digit, trained and tested unrotated": {"mIoU": (79.8, 82.5, 82.0, 87.0)},
    "segmentation, one digit, trained unrotated, tested rotated": {"mIoU": (79.0, 13.5, 13.5, 15.5)},
    "segmentation, four digits, CNNs augmented, tested rotated": {"mIoU": (78.4, 55.0, 62.5, 61.5)},
    "segmentation, FashionMNIST, CNNs augmented, tested rotated": {"mIoU": (73.9, 35.3, 47.4, 47.9)},
    "classification, one digit, CNNs augmented, tested rotated": {"accuracy": (98.6, 95.6, 96.6, 97.1)},
}

Row = Mapping[str, Any]


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Cells that differ by their seed alone as one row: each score's mean, least and largest."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("task", "data", "network", "num_train", "augmented"))
        groups.setdefault(key, []).append(row)
    found = []
    for key, members in sorted(groups.items()):
        entry: dict[str, Any] = dict(zip(("task", "data", "network", "num_train", "augmented"), key, strict=True))
        entry |= {"seeds": len(members), "parameters": members[0]["parameters"]}
        entry["seconds"] = statistics.fmean(row["seconds"] for row in members)
        steps = [row["seconds_per_step"] for row in members if "seconds_per_step" in row]
        entry["seconds_per_step"] = statistics.median(steps) if steps else None
        for pose in ("unrotated", "rotated"):
            entry[pose] = {
                score: {
                    "mean": statistics.fmean(row[pose][score] for row in members),
                    "min": min(row[pose][score] for row in members),
                    "max": max(row[pose][score] for row in members),
                }
                for score in members[0][pose]
            }
        found.append(entry)
    return found


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """The bar: trained unrotated, the S2CNN loses less than two points of mIoU on rotated images, CNNs more than half.

    Taken on one digit at the largest unrotated training set, as means over seeds, weighted by pixels and by areas, and
    beside it whether each seed alone would do. CNNs with fewer parameters than the S2CNN do not count.
    """
    mine = [row for row in rows if (row["task"], row["data"], row["augmented"]) == ("segmentation", "one_digit", False)]
    s2cnn = [row for row in mine if row["network"] == "s2cnn"]
    if not s2cnn:
        return {"met": False, "reason": "no S2CNN was trained"}
    largest = max(row["num_train"] for row in s2cnn)
    s2cnn = [row for row in s2cnn if row["num_train"] == largest]
    least = s2cnn[0]["parameters"]
    planar = [
        row for row in mine
        if row["network"] != "s2cnn" and row["num_train"] == largest and row["parameters"] >= least
    ]  # fmt: skip
    names = sorted({row["network"] for row in planar})
    result: dict[str, Any] = {"num_train": largest, "seeds": len(s2cnn), "cnns": len(names)}
    for weights in ("pixel", "area"):
        score = f"{weights}_miou"
        losses = [row["unrotated"][score] - row["rotated"][score] for row in s2cnn]
        shares = [
            statistics.fmean(row["rotated"][score] for row in rows)
            / max(statistics.fmean(row["unrotated"][score] for row in rows), 1e-9)
            for rows in ([r for r in planar if r["network"] == network] for network in names)
        ]
        alone = [row["rotated"][score] / max(row["unrotated"][score], 1e-9) for row in planar]
        result[weights] = {
            "s2cnn_points_lost": {"mean": statistics.fmean(losses), "worst_seed": max(losses), "bar": LOSS_BAR},
            "cnn_share_kept": {"largest": max(shares, default=None), "worst_seed": max(alone, default=None),
                               "bar": SHARE_BAR},
            "met": statistics.fmean(losses) < LOSS_BAR and bool(shares) and max(shares) < SHARE_BAR,
            "met_by_every_seed": max(losses) < LOSS_BAR and bool(alone) and max(alone) < SHARE_BAR,
        }  # fmt: skip
    result["met"] = result["pixel"]["met"] and result["area"]["met"] and result["seeds"] >= 3
    return result


def markdown(grid: Grid, summary: Sequence[Row], judged: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """The report as a page of tables."""
    lines = [f"# Equivariance versus augmentation, {grid.name} grid", "", _verdict_line(judged), ""]
    lines += ["Means over seeds, percent; in brackets least and largest. mIoU over digits, without background.", ""]
    for task, score in (("segmentation", "miou"), ("classification", "accuracy")):
        mine = [row for row in summary if row["task"] == task]
        if not mine:
            continue
        keys = [f"pixel_{score}", f"area_{score}"] if task == "segmentation" else [score]
        heads = [f"{pose} {key.replace('_', ' ')}" for key in keys for pose in ("unrotated", "rotated")]
        lines += [f"## {task.capitalize()}", ""]
        lines += ["| data | network | parameters | images | trained | " + " | ".join(heads) + " | s / step |"]
        lines += ["|" + " --- |" * (6 + len(heads))]
        for row in sorted(
            mine, key=lambda r: (r["data"], NETWORKS.index(r["network"]), r["augmented"], r["num_train"])
        ):
            cells = [_spread(row[pose][key]) for key in keys for pose in ("unrotated", "rotated")]
            trained = "rotated" if row["augmented"] else "unrotated"
            step = "" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.3f}"
            lines.append(
                f"| {grid.data[row['data']].title} | {TITLES[row['network']]} | {row['parameters']:,} | "
                f"{row['num_train']:,} | {trained} | " + " | ".join(cells) + f" | {step} |"
            )
        lines.append("")
    lines += ["## Prediction of one image", "", "| network | parameters | milliseconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | {v['parameters']:,} | {v['milliseconds']:.2f} |" for name, v in speed.items()]
    lines += ["", "## Published, to stand beside", "", "Bandlimit 50, up to 240,000 images.", ""]
    lines += ["| what | " + " | ".join(TITLES[n] for n in NETWORKS) + " |", "|" + " --- |" * (1 + len(NETWORKS))]
    for what, scores in PUBLISHED.items():
        for name, values in scores.items():
            lines.append(f"| {what}, {name} | " + " | ".join(f"{v:.1f}" for v in values) + " |")
    return "\n".join([*lines, ""])


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1f} ({value['min']:.1f}-{value['max']:.1f})"


def _verdict_line(judged: Mapping[str, Any]) -> str:
    if "pixel" not in judged:
        return f"No verdict: {judged['reason']}."
    parts = []
    for weights in ("pixel", "area"):
        entry = judged[weights]
        kept = entry["cnn_share_kept"]["largest"]
        parts.append(
            f"{weights}-weighted: the S2CNN loses {entry['s2cnn_points_lost']['mean']:.2f} points on rotated images "
            f"(worst seed {entry['s2cnn_points_lost']['worst_seed']:.2f}), CNNs keep at most "
            f"{'nothing' if kept is None else f'{100 * kept:.0f} %'} of theirs"
        )
    return f"Bar {'met' if judged['met'] else 'NOT met'} with {judged['seeds']} seeds; {'; '.join(parts)}."


def figure(grid: Grid, summary: Sequence[Row]) -> Figure:
    """Curves over the number of images on rotated tests, and the fall from unrotated to rotated tests."""
    drawn = style.new_figure(12.5, 8.2)
    style.add_title(drawn, f"Equivariance versus augmentation, {grid.name} grid ({grid.seeds} seeds: mean and range)")
    axes = drawn.subplots(2, 2)
    _curves(axes[0, 0], summary, "segmentation", "area_miou", "mIoU on rotated tests, one digit [%]")
    _fall(axes[0, 1], summary)
    _others(axes[1, 0], grid, summary)
    _curves(axes[1, 1], summary, "classification", "accuracy", "accuracy on rotated tests, one digit [%]")
    return drawn


def _curves(ax: Axes, summary: Sequence[Row], task: str, score: str, label: str) -> None:
    for index, network in enumerate(NETWORKS):
        for augmented in (False, True):
            mine = sorted(
                (r for r in summary if (r["task"], r["data"], r["network"], r["augmented"])
                 == (task, "one_digit", network, augmented)),
                key=lambda r: r["num_train"],
            )  # fmt: skip
            if not mine:
                continue
            sizes = [row["num_train"] for row in mine]
            values = [row["rotated"][score] for row in mine]
            trained = "trained rotated" if augmented else "trained unrotated"
            ax.fill_between(
                sizes,
                [v["min"] for v in values],
                [v["max"] for v in values],
                color=style.color(index),
                alpha=0.15,
                lw=0,
            )
            ax.plot(
                sizes, [v["mean"] for v in values], color=style.color(index), marker=style.marker(index), markersize=5,
                linestyle="-" if augmented or network == "s2cnn" else ":", label=f"{TITLES[network]}, {trained}",
            )  # fmt: skip
    style.style_axes(ax, title=task.capitalize(), x="training images", y=label)
    if ax.lines:
        ax.set_xscale("log", base=2)
        ticks = sorted({r["num_train"] for r in summary if r["task"] == task and r["data"] == "one_digit"})
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set_ylim(0, 100)
        style.add_legend(ax, "best", 2)


def _fall(ax: Axes, summary: Sequence[Row]) -> None:
    """Bars of unrotated and rotated tests of networks trained unrotated on most images."""
    published = PUBLISHED["segmentation, one digit, trained and tested unrotated"]["mIoU"]
    fallen = PUBLISHED["segmentation, one digit, trained unrotated, tested rotated"]["mIoU"]
    mine = [r for r in summary if (r["task"], r["data"], r["augmented"]) == ("segmentation", "one_digit", False)]
    largest = max((row["num_train"] for row in mine), default=0)
    for index, network in enumerate(NETWORKS):
        row = next((r for r in mine if r["network"] == network and r["num_train"] == largest), None)
        for shift, pose, strength in ((-0.2, "unrotated", 1.0), (0.2, "rotated", 0.45)):
            if row is not None:
                _bar(ax, index + shift, row[pose]["area_miou"], style.tint(style.color(index), strength), 0.38)
        ax.plot(
            [index - 0.2, index + 0.2], [published[index], fallen[index]], ls="", marker="_", ms=22, color=style.INK,
            label="published, bandlimit 50" if index == 0 else None,
        )  # fmt: skip
    ax.set_xticks(range(len(NETWORKS)), [TITLES[n] for n in NETWORKS])
    style.style_axes(ax, title="Trained unrotated, tested unrotated (dark), rotated (pale)",
                     y="mIoU, area-weighted [%]")  # fmt: skip
    ax.set_ylim(0, 100)
    style.add_legend(ax, "upper right")


def _others(ax: Axes, grid: Grid, summary: Sequence[Row]) -> None:
    """Rotated tests on the other data sets: S2CNN unrotated, CNNs at most augmentation."""
    names = [name for name in grid.data if name != "one_digit"]
    published = {
        "four_digits": PUBLISHED["segmentation, four digits, CNNs augmented, tested rotated"]["mIoU"],
        "fashion": PUBLISHED["segmentation, FashionMNIST, CNNs augmented, tested rotated"]["mIoU"],
    }
    for place, name in enumerate(names):
        for index, network in enumerate(NETWORKS):
            mine = [
                r for r in summary if (r["task"], r["data"], r["network"]) == ("segmentation", name, network)
                and r["augmented"] == (network != "s2cnn")
            ]  # fmt: skip
            x = place * 5 + index
            if mine:
                row = max(mine, key=lambda r: r["num_train"])
                label = TITLES[network] + (", unrotated" if network == "s2cnn" else ", augmented")
                _bar(ax, x, row["rotated"]["area_miou"], style.color(index), 0.8, label if place == 0 else None)
            ax.plot([x], [published[name][index]], ls="", marker="_", ms=26, color=style.INK)
    ax.set_xticks([place * 5 + 1.5 for place in range(len(names))], [grid.data[name].title for name in names])
    style.style_axes(ax, title="Tested rotated (marks: published, bandlimit 50)", y="mIoU, area-weighted [%]")
    ax.set_ylim(0, 100)
    if ax.patches:
        style.add_legend(ax, "upper right", 2)


def _bar(ax: Axes, x: float, value: Mapping[str, float], color: Any, width: float, label: str | None = None) -> None:
    spread = [[value["mean"] - value["min"]], [value["max"] - value["mean"]]]
    ax.bar([x], [value["mean"]], width, yerr=spread, color=color, label=label, ecolor=style.INK, capsize=3)
