"""What the cells of the study say together: means and spreads over seeds, the verdict, and a page."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.papers.augmentation_grid import NETWORKS, Grid

TITLES = {"s2cnn": "S2CNN", "cnn_small": "CNN, small", "cnn_medium": "CNN, medium", "cnn_large": "CNN, large"}
LOSS_BAR = 2.0  # points of mIoU that the S2CNN may lose
SHARE_BAR = 0.5  # of its mIoU that a CNN may keep
LEARNED_BAR = 40.0  # mIoU over digits on unrotated images; calling everything background, or one digit, has 0 to 1
SEEDS_BAR = 3

_CELL = ("task", "data", "network", "num_train", "augmented", "seed")


class Published(NamedTuple):
    """One comparison of arXiv:2202.03990: percent, in the order of `NETWORKS`."""

    what: str
    task: str
    data: str
    cnns_augmented: bool
    pose: str  # of the tests
    score: str  # ours that stands beside
    values: tuple[float, float, float, float]


_SEGMENTED = "segmentation, one digit, all trained unrotated, tested"
_AUGMENTED = "CNNs augmented, tested rotated"
PUBLISHED = (
    Published(f"{_SEGMENTED} unrotated", "segmentation", "one_digit", False, "unrotated", "pixel_miou",
              (79.8, 82.5, 82.0, 87.0)),
    Published(f"{_SEGMENTED} rotated", "segmentation", "one_digit", False, "rotated", "pixel_miou",
              (79.0, 13.5, 13.5, 15.5)),
    Published(f"segmentation, four digits, {_AUGMENTED}", "segmentation", "four_digits", True, "rotated", "pixel_miou",
              (78.4, 55.0, 62.5, 61.5)),
    Published(f"segmentation, FashionMNIST, {_AUGMENTED}", "segmentation", "fashion", True, "rotated", "pixel_miou",
              (73.9, 35.3, 47.4, 47.9)),
    Published(f"classification, one digit, {_AUGMENTED}", "classification", "one_digit", True, "rotated", "accuracy",
              (98.6, 95.6, 96.6, 97.1)),
)  # fmt: skip

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
        entry |= {"seeds": len(members)} | {name: members[0][name] for name in ("parameters", "steps")}
        entry |= {name: statistics.fmean(row[name] for row in members) for name in ("seconds", "cpu_seconds")}
        steps = [row["cpu_seconds_per_step"] for row in members if "cpu_seconds_per_step" in row]
        entry["cpu_seconds_per_step"] = statistics.median(steps) if steps else None
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


def verdict(grid: Grid, rows: Sequence[Row]) -> dict[str, Any]:
    """The bar: trained unrotated, the S2CNN loses less than two points of mIoU on rotated images, CNNs more than half.

    Taken of `grid.judged_cells` as means over seeds, weighted by pixels and by areas; beside it whether each seed alone
    would do. CNNs with fewer parameters than the S2CNN do not count. The bar is met only if no cell is missing, there
    are three seeds of each network, a CNN counts, and every network that counts has learned: on unrotated images its
    mean over seeds reaches `LEARNED_BAR` (a network that calls all background has 0).
    """
    found = {tuple(row[name] for name in _CELL): row for row in rows}
    wanted = [(cell, found.get(tuple(getattr(cell, name) for name in _CELL))) for cell in grid.judged_cells]
    missing = [cell.name for cell, row in wanted if row is None]
    result: dict[str, Any] = {
        "met": False,
        "num_train": wanted[0][0].num_train if wanted else None,
        "cells": len(wanted) - len(missing),
        "cells_in_all": len(wanted),
        "missing": missing,
    }
    members: dict[str, list[Row]] = {}
    for cell, row in wanted:
        if row is not None:
            members.setdefault(cell.network, []).append(row)
    seeds = {network: len(rows) for network, rows in members.items()}
    least = members["s2cnn"][0]["parameters"] if "s2cnn" in members else math.inf
    planar = {n: members[n] for n in NETWORKS if n != "s2cnn" and n in members and members[n][0]["parameters"] >= least}
    result |= {"seeds": min(seeds.values(), default=0), "cnns": list(planar)}
    if missing or not planar or result["seeds"] < SEEDS_BAR:
        if missing or not wanted:
            why = f"{len(missing)} of its {len(wanted)} cells are missing"
        elif not planar:
            why = "no CNN has as many parameters as the S2CNN"
        else:
            why = f"it needs {SEEDS_BAR} seeds of each network and there are {result['seeds']}"
        return result | {"judged": False, "reason": why}
    counted = {"s2cnn": members["s2cnn"], **planar}
    for weights in ("pixel", "area"):
        result[weights] = _judge(counted, f"{weights}_miou")
    met = result["pixel"]["met"] and result["area"]["met"]
    every = result["pixel"]["met_by_every_seed"] and result["area"]["met_by_every_seed"]
    return result | {"judged": True, "met": met, "met_by_every_seed": every}


def _judge(members: Mapping[str, Sequence[Row]], score: str) -> dict[str, Any]:
    """One weighting: what each network has, loses and keeps, and whether that meets the bar."""
    networks: dict[str, dict[str, Any]] = {}
    for network, rows in members.items():
        before, after = ([row[pose][score] for row in rows] for pose in ("unrotated", "rotated"))
        mean_before, mean_after = statistics.fmean(before), statistics.fmean(after)
        pairs = list(zip(before, after, strict=True))
        entry: dict[str, Any] = {
            "parameters": rows[0]["parameters"],
            "unrotated": mean_before,
            "rotated": mean_after,
            "points_lost": mean_before - mean_after,
            "points_lost_worst_seed": max(a - b for a, b in pairs),
            "share_kept": mean_after / max(mean_before, 1e-9),
            "share_kept_worst_seed": max(b / max(a, 1e-9) for a, b in pairs),
            "learned": mean_before >= LEARNED_BAR,
        }
        alone, every = (
            (entry["points_lost"] < LOSS_BAR, entry["points_lost_worst_seed"] < LOSS_BAR)
            if network == "s2cnn"
            else (entry["share_kept"] < SHARE_BAR, entry["share_kept_worst_seed"] < SHARE_BAR)
        )
        entry["met"] = alone and entry["learned"]
        entry["met_by_every_seed"] = every and min(before) >= LEARNED_BAR
        networks[network] = entry
    return {
        "networks": networks,
        "bars": {"s2cnn_points_lost": LOSS_BAR, "cnn_share_kept": SHARE_BAR, "unrotated_at_least": LEARNED_BAR},
        "met": all(entry["met"] for entry in networks.values()),
        "met_by_every_seed": all(entry["met_by_every_seed"] for entry in networks.values()),
    }


def settings(grid: Grid) -> list[dict[str, Any]]:
    """How each network is built and trained, one row each."""
    rows = []
    for (task, network), training in grid.training.items():
        config = grid.networks[task, network]
        rows.append(
            {
                "task": task,
                "network": network,
                "features": list(config.features),
                "bandlimits": list(getattr(config, "bandlimits", ())),
                "batch_norm": config.batch_norm,
                "passes": training.passes,
                "batch_size": training.batch_size,
                "learning_rate": training.learning_rate,
                "optimiser": "Adam, 5 % warm-up, cosine to a hundredth",
                "loss": "cross-entropy" + (", pixels weighted by area" if task == "segmentation" else ""),
            }
        )
    return rows


def tried(trials: Iterable[Row]) -> list[dict[str, Any]]:
    """Scores of the candidate learning rates on held-out training images."""
    return [
        {name: row[name] for name in ("task", "network", "learning_rate", "steps", "final_loss")}
        | {"held_out": row["held_out"]["area_miou" if row["task"] == "segmentation" else "accuracy"]}
        for row in trials
    ]


def beside_published(grid: Grid, summary: Sequence[Row]) -> list[dict[str, Any]]:
    """Each published comparison with ours: networks in the order of `NETWORKS`, None where a cell is missing."""
    rows = []
    for entry in PUBLISHED:
        ours = []
        for network in NETWORKS:
            mine = [
                row for row in summary
                if (row["task"], row["data"], row["network"]) == (entry.task, entry.data, network)
                and row["augmented"] == (entry.cnns_augmented and network != "s2cnn")
            ]  # fmt: skip
            most = max(mine, key=lambda row: row["num_train"], default=None)
            ours.append(None if most is None else most[entry.pose][entry.score])
        rows.append({"what": entry.what, "score": entry.score, "ours": ours, "published": list(entry.values)})
    return rows


def markdown(grid: Grid, figures: Mapping[str, Any]) -> str:
    """The report as a page of tables, from what `conclude` collects."""
    lines = [f"# Equivariance versus augmentation, {grid.name} grid", "", *verdict_lines(figures["verdict"]), ""]
    lines += [f"{figures['cells']} of {figures['cells_in_all']} cells, "
              f"{figures['processor_minutes_in_cells']:.0f} minutes of processor time.", ""]  # fmt: skip
    lines += ["Means over seeds, percent; in brackets least and largest. mIoU over digits, without background.", ""]
    for task, score in (("segmentation", "miou"), ("classification", "accuracy")):
        mine = [row for row in figures["summary"] if row["task"] == task]
        if not mine:
            continue
        keys = [f"pixel_{score}", f"area_{score}"] if task == "segmentation" else [score]
        heads = [f"{pose} {_words(key)}" for key in keys for pose in ("unrotated", "rotated")]
        rows = [
            [grid.data[row["data"]].title, TITLES[row["network"]], f"{row['parameters']:,}", f"{row['num_train']:,}",
             "rotated" if row["augmented"] else "unrotated", f"{row['steps']:,}", str(row["seeds"]),
             *(_spread(row[pose][key]) for key in keys for pose in ("unrotated", "rotated")),
             f"{row['cpu_seconds']:.0f}"]
            for row in sorted(mine, key=lambda r: (list(grid.data).index(r["data"]), NETWORKS.index(r["network"]),
                                                   r["augmented"], r["num_train"]))
        ]  # fmt: skip
        heads = ["data", "network", "parameters", "images", "trained", "steps", "seeds", *heads, "processor s"]
        lines += [f"## {task.capitalize()}", "", *_table(heads, rows)]
    lines += ["## Beside the published figures", "", grid.caveat, "", "Ours / published, percent.", ""]
    lines += _table(
        ["what", "score", *TITLES.values()],
        [
            [row["what"], _words(row["score"]), *(f"{_mean(ours)} / {published:.1f}"
             for ours, published in zip(row["ours"], row["published"], strict=True))]
            for row in figures["beside_published"]
        ],
    )  # fmt: skip
    lines += ["## Prediction of one image", ""]
    lines += _table(
        ["task", "network", "parameters", "milliseconds"],
        [[task, TITLES[network], f"{entry['parameters']:,}", f"{entry['milliseconds']:.2f}"]
         for task, entries in figures["latency"].items() for network, entry in entries.items()],
    )  # fmt: skip
    names = ("features", "bandlimits", "batch_norm", "passes", "batch_size", "learning_rate", "loss", "optimiser")
    lines += ["## Settings", ""]
    lines += ["All networks pass over their images as often, with the same loss and schedule.", ""]
    lines += _table(
        ["task", "network", *(name.replace("_", " ") for name in names)],
        [[row["task"], TITLES[row["network"]], *(_plain(row[name]) for name in names)] for row in figures["settings"]],
    )
    if figures["learning_rates_tried"]:
        lines += ["## Learning rates tried", "", "Area-weighted mIoU or accuracy on held-out training images.", ""]
        lines += _table(
            ["task", "network", "learning rate", "held out"],
            [[row["task"], TITLES[row["network"]], f"{row['learning_rate']:g}", f"{row['held_out']:.1f}"]
             for row in sorted(figures["learning_rates_tried"],
                               key=lambda r: (r["task"], NETWORKS.index(r["network"]), r["learning_rate"]))],
        )  # fmt: skip
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _words(score: str) -> str:
    return {"pixel_miou": "mIoU", "area_miou": "mIoU by area"}.get(score, score)


def _mean(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.1f}"


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1f} ({value['min']:.1f}-{value['max']:.1f})"


def verdict_lines(judged: Mapping[str, Any]) -> list[str]:
    if not judged["judged"]:
        return [f"**Not judged**: {judged['reason']}."]
    lines = [
        f"**Bar {'met' if judged['met'] else 'NOT met'}** by means over {judged['seeds']} seeds, "
        f"{'met' if judged['met_by_every_seed'] else 'NOT met'} by every seed alone "
        f"({judged['num_train']:,} training images).",
        "",
    ]
    for weights in ("pixel", "area"):
        mine = dict(judged[weights]["networks"])
        s2cnn = mine.pop("s2cnn")
        fallen = "; ".join(
            f"{TITLES[name]} keeps {100 * entry['share_kept']:.0f} % of {entry['unrotated']:.1f} "
            f"(worst seed {100 * entry['share_kept_worst_seed']:.0f} %)"
            for name, entry in mine.items()
        )
        lines.append(
            f"- weighted by {weights}: trained unrotated, the S2CNN loses {s2cnn['points_lost']:.2f} points of "
            f"{s2cnn['unrotated']:.1f} on rotated images (worst seed {s2cnn['points_lost_worst_seed']:.2f}); {fallen}."
        )
    return lines
