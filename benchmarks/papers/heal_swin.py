"""HEAL-SWIN beside a flat SWIN of as many parameters, and beside a forest of single pixels (arXiv:2307.07313).

    python -m benchmarks.papers.heal_swin --out runs/heal_swin [--parts scenes earth] [--seeds 3] [--scale 1]
    python -m benchmarks.papers.heal_swin --out runs/heal_swin_full --size full [--seeds 3]

--size reduced (two cores, half an hour) has the parts scenes and earth; --size full has the one part woodscape: the
published networks, settings and 1000 epochs (`jaxgeo.dense_prediction.presets`), from the folder woodscape in
JAXGEO_DATA. That is meant for four GPUs with 2 pictures of a batch on each: all devices of the machine share each
batch, and the runs go one after the other.

woodscape: segmentation by the published HEAL-SWIN and by its flat twin of as many parameters. scenes: segmentation of
synthetic fisheye streets by a HEAL-SWIN on the sphere and by a flat SWIN on the pictures. In both,
each is judged on the sphere and in the plane. earth: climate classes of regions that were held out, from colour and
relief, by a HEAL-SWIN and by two of scikit-learn's random forests on single pixels, in the same folds: one forest is
told the latitude, the other is not. The bar is that every seed gains so many points over the forest of the network's
own inputs. By --position table, the default, those are colour and relief, and the bar is over the forest without the
latitude. The table is an option of the published network: a learned vector for each token, from which it can know where
on the sphere a pixel lies, as a forest of single pixels cannot. By --position none the network is without it. By
--position latitude it is told the latitude, and the bar is over the forest that is told it too.

Every network is a run of `jaxgeo.dense_prediction` in a folder of its own: what is finished is not done again. Runs go
side by side, one on each core. At the end report.md, report.json and pictures lie in the folder, and the last line
printed is one JSON object. JAXGEO_DATA holds the Earth.
"""

import argparse
import dataclasses
import math
import os
import resource
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.papers.command import perform, run_folder
from benchmarks.side_by_side import Job, run_jobs
from jaxgeo import files, interrupts
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.dense_prediction.fitting import fit, predictor
from jaxgeo.dense_prediction.networks import model_config
from jaxgeo.dense_prediction.predicting import classify
from jaxgeo.dense_prediction.presets import earth_config, paper_config, paper_flat_config, scenes_config
from jaxgeo.dense_prediction.problems import Problem, make_problem
from jaxgeo.dense_prediction.scoring import decisions
from jaxgeo.grids.cameras import FisheyeCamera
from jaxgeo.grids.healpix import nside_of
from jaxgeo.grids.resample import healpix_to_fisheye
from jaxgeo.grids.stencils import take_nearest
from jaxgeo.metrics import segmentation
from jaxgeo.models.heal_swin import latitude_channel
from jaxgeo.progress import Callback

PARTS = ("scenes", "earth", "woodscape")
SIZES = {"reduced": ("scenes", "earth"), "full": ("woodscape",)}
FOREST_BAR = 5.0  # points of mIoU above the forest of the same inputs
FORESTS = {False: "forest", True: "forest_with_latitude"}  # by whether it is told the latitude
POSITIONS = ("table", "latitude", "none")  # what tells the network where on the Earth a pixel lies
FOLDS, TREES = 3, 60
STEPS = {"scenes": 130, "earth": 400}  # what two cores do in half an hour
SHOWN = 1  # test picture, or the only one
KINDS = {"heal_swin": "HEAL-SWIN on the sphere", "swin": "flat SWIN on the pictures"}


def scaled(config: DenseConfig, steps: float, seed: int) -> DenseConfig:
    """The same run with another seed and so many steps, and without pictures of its examples."""
    steps = max(4, round(steps))
    training = dataclasses.replace(config.training, steps=steps, warmup_steps=max(1, steps // 10))
    return dataclasses.replace(config, training=training, fit=dataclasses.replace(config.fit, seed=seed, figures=0))


def scenes_run(kind: str, scale: float, seed: int) -> DenseConfig:
    base = scaled(scenes_config(), STEPS["scenes"] * scale, seed)
    return dataclasses.replace(base, network=dataclasses.replace(base.network, kind=kind))


def full_run(kind: str, scale: float, seed: int) -> DenseConfig:
    """A published network and its training, of which the scale shortens the epochs."""
    base = paper_config() if kind == "heal_swin" else paper_flat_config()
    epochs = max(1, round((base.fit.epochs or 1) * scale))
    return dataclasses.replace(base, fit=dataclasses.replace(base.fit, epochs=epochs, seed=seed, figures=0))


RUNS = {"scenes": scenes_run, "woodscape": full_run}


def earth_run(scale: float, seed: int, fold: int, position: str) -> DenseConfig:
    base = scaled(earth_config(), STEPS["earth"] * scale, seed)
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, folds=FOLDS, fold=fold, seed=seed),
        network=dataclasses.replace(
            base.network, latitude=position == "latitude", absolute_position=position == "table"
        ),
    )


def earth_label(seed: int, fold: int, position: str) -> str:
    """Of a run, and its folder's name."""
    return f"earth-{position}-{seed}-{fold}"


class Finished(NamedTuple):
    """What a run gives: figures, and of the first seed what a picture is drawn of."""

    figures: dict[str, Any]
    shown: dict[str, Any]


def pictures_job(out: Path, part: str, kind: str, scale: float, seed: int, progress: Callback) -> Finished:
    """One network on pictures: its row of the table; and a picture with its labels and decisions."""
    config = RUNS[part](kind, scale, seed)
    problem = make_problem(config)
    fitted = fit(out / f"{part}-{kind}-{seed}", config, progress, problem)
    row = {"kind": kind, "seed": seed, "parameters": fitted.scores["parameters"]} | fitted.scores["spaces"]
    if seed or problem.pictures is None:
        return Finished(row, {})
    predict = predictor(model_config(config, problem), fitted.params)
    number = min(SHOWN, len(problem.test) - 1)
    decided = decisions(problem, predict(problem.test[number].inputs))
    picture = problem.pictures.picture(number)
    shown = {
        "image": picture.image,
        "labels": np.asarray(picture.labels),
        "decided": decided if decided.ndim == 2 else in_the_picture(config, picture.camera, decided),
        "class_names": problem.class_names,
        "colors": problem.class_colors,
    }
    return Finished(row, shown)


def pictures_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of both networks in both spaces, over seeds."""
    summary: dict[str, Any] = {}
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        for space in (key for key in mine[0] if isinstance(mine[0][key], dict)):
            for score in ("pixel_miou", "area_miou", "pixel_miou_without_void"):
                if score in mine[0][space]:  # drawn streets have no void
                    summary[f"{kind} {space} {score}"] = spread([row[space][score] for row in mine])
    return {"rows": list(rows), "summary": summary}


def earth_job(out: Path, scale: float, seed: int, fold: int, position: str, progress: Callback) -> Finished:
    """Confusion matrices on the regions of one fold, of the network and of the forests; and its map of the Earth."""
    config = earth_run(scale, seed, fold, position)
    problem = make_problem(config)
    model = model_config(config, problem)
    fitted = fit(out / earth_label(seed, fold, position), config, progress, problem)
    test = problem.test[0]
    held = test.weights > 0
    decided = {"heal_swin": decisions(problem, predictor(model, fitted.params)(test.inputs))[held]}
    decided |= {name: forest(problem, seed, told) for told, name in FORESTS.items()}
    num_classes = len(problem.class_names)
    figures = {name: counts(classes, test.targets[held], num_classes) for name, classes in decided.items()}
    if seed or fold:
        return Finished(figures, {})
    shown = {
        "probabilities": classify(model, fitted.params, test.inputs),
        "labels": problem.train[0].targets,
        "class_names": problem.class_names,
    }
    return Finished(figures, shown)


def earth_summary(by_seed: Sequence[Sequence[dict[str, np.ndarray]]], position: str) -> dict[str, Any]:
    """mIoU over all held-out regions, by seed, from the confusion matrices of its folds."""
    rows = []
    for seed, folds in enumerate(by_seed):
        sums = {name: segmentation.accumulate([fold[name] for fold in folds]) for name in folds[0]}
        rows.append({"seed": seed} | {name: 100 * segmentation.mean_iou(total) for name, total in sums.items()})
    return {"rows": rows} | judged(rows, position)


def study(
    out: Path, parts: Sequence[str], seeds: int, scale: float, position: str, workers: int, progress: Any
) -> dict[str, Any]:
    """All runs of the parts, side by side, and what they sum up to."""
    jobs: dict[str, Job] = {}
    pairs = [(kind, seed) for seed in range(seeds) for kind in KINDS]
    for part in RUNS.keys() & set(parts):
        jobs |= {f"{part}-{kind}-{s}": partial(pictures_job, out, part, kind, scale, s) for kind, s in pairs}
    folds = [[earth_label(seed, fold, position) for fold in range(FOLDS)] for seed in range(seeds)]
    if "earth" in parts:
        jobs |= {
            label: partial(earth_job, out, scale, seed, fold, position)
            for seed, labels in enumerate(folds)
            for fold, label in enumerate(labels)
        }
    results: dict[str, Finished] = run_jobs(jobs, workers, progress)
    found: dict[str, Any] = {}
    for part in RUNS.keys() & set(parts):
        found[part] = pictures_summary([results[f"{part}-{kind}-{seed}"].figures for kind, seed in pairs])
        draw_pictures(out / f"{part}.png", {kind: results[f"{part}-{kind}-0"].shown for kind in KINDS})
    if "earth" in parts:
        found["earth"] = earth_summary([[results[label].figures for label in labels] for labels in folds], position)
        draw_earth(out / "earth.png", results[folds[0][0]].shown)
    return found


def forest(problem: Problem, seed: int, latitude: bool) -> np.ndarray:
    """Classes of the held-out pixels, each by itself, from what the network is given and perhaps the latitude."""
    from sklearn.ensemble import RandomForestClassifier

    train, test = problem.train[0], problem.test[0]
    inputs = train.inputs
    if latitude:
        nside = nside_of(len(inputs))
        inputs = np.concatenate([inputs, latitude_channel(nside)[:, None]], axis=1)
    known, held = train.weights > 0, test.weights > 0  # one map, of which other parts count
    trees = RandomForestClassifier(TREES, min_samples_leaf=5, n_jobs=len(os.sched_getaffinity(0)), random_state=seed)
    trees.fit(inputs[known], train.targets[known])
    return trees.predict(inputs[held])


def judged(rows: Sequence[dict[str, float]], position: str) -> dict[str, Any]:
    """Spread over seeds, gains over both forests, and whether the bar is met.

    Args:
        rows: mIoU in percent of the network and of both forests, by seed.
        position: one of POSITIONS. The bar is over the forest of the same inputs, by every seed.
    """
    gains = {name: [row["heal_swin"] - row[name] for row in rows] for name in FORESTS.values()}
    summary = {name: spread([row[name] for row in rows]) for name in ("heal_swin", *gains)}
    summary |= {f"gain over {name}": spread(values) for name, values in gains.items()}
    over = FORESTS[position == "latitude"]
    same = gains[over]
    bar = {
        "over": over,
        "position": position,
        "needed": FOREST_BAR,
        "least": min(same),
        "mean": statistics.fmean(same),
        "met": min(same) >= FOREST_BAR,
    }
    return {"summary": summary, "bar": bar}


def counts(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix (prediction, label) on the host."""
    places = predictions.astype(np.int64) * num_classes + labels
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def processor_seconds() -> float:
    """Of this process and of the ended ones that it began."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def draw_pictures(path: Path, shown: dict[str, dict[str, Any]]) -> None:
    """A street by both networks of the first seed."""
    from jaxgeo.plotting import style
    from jaxgeo.plotting.dense import fisheye_figure

    one = shown["heal_swin"]
    # The published flat network sees resized pictures.
    decided = {title: at_size(shown[kind]["decided"], one["labels"].shape) for kind, title in KINDS.items()}
    figure = fisheye_figure(one["image"], decided, one["labels"], one["class_names"], colors=one["colors"])
    files.write_bytes_atomically(path, style.figure_to_bytes(figure, dpi=110.0))


def at_size(classes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture of classes in so many rows and columns: each pixel has the class in which its centre lies."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, classes.shape, strict=True))
    return classes[np.ix_(rows, columns)]


def draw_earth(path: Path, shown: dict[str, Any]) -> None:
    """The Earth by the network of the first fold."""
    from jaxgeo.plotting import style
    from jaxgeo.plotting.dense import class_map_figure

    figure = class_map_figure(shown["probabilities"], shown["class_names"], shown["labels"])
    files.write_bytes_atomically(path, style.figure_to_bytes(figure, dpi=110.0))


def in_the_picture(config: DenseConfig, camera: FisheyeCamera, decided: np.ndarray) -> np.ndarray:
    """Decisions on the sphere in the pixels of a camera, 255 where the sphere's faces end."""
    import jax.numpy as jnp

    stencil = healpix_to_fisheye(camera, config.data.nside, config.data.used_base_pixels)
    return np.asarray(take_nearest(stencil, jnp.asarray(decided), 255))


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"# HEAL-SWIN, {found['size']}",
        "",
        f"{found['minutes']:.0f} minutes, {found['processor_minutes']:.0f} of processor time, scale {found['scale']}",
        "",
    ]
    for part in PARTS:
        if part in found:
            lines += [f"## {part}", "", "| what | mean | least | most |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {name} | {value['mean']:.2f} | {value['min']:.2f} | {value['max']:.2f} |"
                for name, value in found[part]["summary"].items()
            ]
            lines.append("")
        if "bar" in found.get(part, {}):
            bar = found[part]["bar"]
            lines += [
                f"Bar: by every seed {bar['needed']:.0f} points of mIoU above {bar['over']}, which has the same inputs "
                f"as the HEAL-SWIN (position: {bar['position']}). Least {bar['least']:+.2f}, mean {bar['mean']:+.2f}: "
                f"{'met' if bar['met'] else 'not met'}.",
                "",
            ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.heal_swin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/heal_swin"), help="folder of all runs; goes on there")
    parser.add_argument("--size", choices=SIZES, default="reduced", help="full: the published one, for GPUs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="of the size; by default all of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help=f"of the numbers of steps, {STEPS}, or of epochs")
    parser.add_argument(
        "--position",
        choices=POSITIONS,
        default=POSITIONS[0],
        help="earth: what tells the HEAL-SWIN where its pixels lie; the bar is over the forest of the same inputs",
    )
    parser.add_argument(
        "--workers", type=int, help="runs side by side, each on its share of the cores: by default 2, or 1 of size full"
    )
    args = parser.parse_args(argv)
    parts = args.parts or list(SIZES[args.size])
    if set(parts) - set(SIZES[args.size]):
        parser.error(f"--size {args.size} has the parts {', '.join(SIZES[args.size])}, got {', '.join(parts)}")
    args.workers = (2 if args.size == "reduced" else 1) if args.workers is None else args.workers
    if args.seeds < 1 or not 0 < args.scale < math.inf or args.workers < 1:
        parser.error(
            f"--seeds, --scale and --workers are finite and above 0, got {args.seeds}, {args.scale} and {args.workers}"
        )
    start = time.monotonic()
    found: dict[str, Any] = {
        "study": "heal_swin",
        "size": args.size,
        "seeds": args.seeds,
        "scale": args.scale,
        "position": args.position,
    }

    def work() -> dict[str, Any]:
        with run_folder(args.out) as progress:
            report = found | study(args.out, parts, args.seeds, args.scale, args.position, args.workers, progress)
            report |= {"minutes": (time.monotonic() - start) / 60, "processor_minutes": processor_seconds() / 60}
            files.write_json_atomically(args.out / "report.json", report)
            files.write_bytes_atomically(args.out / "report.md", markdown(report).encode())
        print(markdown(report))
        return report | {part: {key: value for key, value in report[part].items() if key != "rows"} for part in parts}

    return perform(args.out, work)


if __name__ == "__main__":
    interrupts.leave(main())
