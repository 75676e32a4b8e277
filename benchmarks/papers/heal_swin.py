"""HEAL-SWIN beside a flat SWIN of as many parameters, and beside a forest of single pixels (arXiv:2307.07313).

    python -m benchmarks.papers.heal_swin --out runs/heal_swin [--parts scenes earth] [--seeds 3] [--scale 0.4]
    jaxgeo train heal-swin --preset paper --out runs/paper        # the published size: a GPU, and WoodScape

scenes: segmentation of synthetic fisheye streets by a HEAL-SWIN on the sphere and by a flat SWIN on the pictures,
each judged on the sphere and in the plane. earth: climate classes of regions that were held out, from colour and
relief, by a HEAL-SWIN and by scikit-learn's random forest on single pixels, with the same inputs and the same folds;
and by a second forest that is told the latitude too, which the HEAL-SWIN knows from where its pixels lie.
Every network is a run of `jaxgeo.dense_prediction` in a folder of its own: what is finished is not done again. At the
end report.md, report.json and pictures lie in the folder, and the last line printed is one JSON object. JAXGEO_DATA
holds the Earth.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo import files
from jaxgeo.dense_prediction.config import DenseConfig, earth_config, scenes_config
from jaxgeo.dense_prediction.fitting import fit, predictor
from jaxgeo.dense_prediction.networks import model_config
from jaxgeo.dense_prediction.problems import Problem, make_problem
from jaxgeo.dense_prediction.scoring import decisions
from jaxgeo.errors import JaxgeoError
from jaxgeo.grids.healpix import nside_of
from jaxgeo.metrics import segmentation
from jaxgeo.models.heal_swin import latitude_channel
from jaxgeo.progress import progress_for

PARTS = ("scenes", "earth")
FOREST_BAR = 5.0  # points of mIoU above the forest
FORESTS = ("forest", "forest_with_latitude")
FOLDS, TREES = 3, 60
KINDS = {"heal_swin": "HEAL-SWIN on the sphere", "swin": "flat SWIN on the pictures"}


def scaled(config: DenseConfig, scale: float, seed: int) -> DenseConfig:
    """The same run with other seeds, shorter or longer, and without pictures of its examples."""
    steps = max(4, round(config.training.steps * scale))
    training = dataclasses.replace(config.training, steps=steps, warmup_steps=max(1, steps // 10))
    return dataclasses.replace(config, training=training, fit=dataclasses.replace(config.fit, seed=seed, figures=0))


def scenes_run(kind: str, scale: float, seed: int) -> DenseConfig:
    base = scaled(
        scenes_config(), scale / 2, seed
    )  # a step takes longer than on the Earth, and learns from twice as much
    return dataclasses.replace(base, network=dataclasses.replace(base.network, kind=kind))


def earth_run(scale: float, seed: int, fold: int) -> DenseConfig:
    base = scaled(earth_config(), scale, seed)
    return dataclasses.replace(base, data=dataclasses.replace(base.data, folds=FOLDS, fold=fold, seed=seed))


def scenes(out: Path, seeds: int, scale: float, progress: Any) -> dict[str, Any]:
    """Scores of both networks in both spaces, by seed."""
    rows = []
    for seed in range(seeds):
        for kind in KINDS:
            folder = out / f"scenes-{kind}-{seed}"
            fitted = fit(folder, scenes_run(kind, scale, seed), progress.bar(folder.name, "steps"))
            row = {"kind": kind, "seed": seed, "parameters": fitted.scores["parameters"]}
            rows.append(row | fitted.scores["spaces"])
    summary: dict[str, Any] = {}
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        for space in (key for key in mine[0] if isinstance(mine[0][key], dict)):
            for score in ("pixel_miou", "area_miou"):
                values = [row[space][score] for row in mine]
                summary[f"{kind} {space} {score}"] = spread(values)
    return {"rows": rows, "summary": summary}


def earth(out: Path, seeds: int, scale: float, progress: Any) -> dict[str, Any]:
    """mIoU over all held-out regions, by seed, of the network and of the forests."""
    rows = []
    for seed in range(seeds):
        matrices: dict[str, list[np.ndarray]] = {"heal_swin": [], **{name: [] for name in FORESTS}}
        for fold in range(FOLDS):
            config = earth_run(scale, seed, fold)
            folder = out / f"earth-{seed}-{fold}"
            problem = make_problem(config)
            fitted = fit(folder, config, progress.bar(folder.name, "steps"), problem)
            test = problem.test[0]
            predict = predictor(model_config(config, problem), fitted.params)
            held = test.weights > 0
            decided = {"heal_swin": decisions(problem, predict(test.inputs))[held]}
            decided |= {name: forest(problem, seed, "latitude" in name) for name in FORESTS}
            for name, classes in decided.items():
                matrices[name].append(counts(classes, test.targets[held], len(problem.class_names)))
        sums = {name: segmentation.accumulate(parts) for name, parts in matrices.items()}
        rows.append({"seed": seed} | {name: 100 * segmentation.mean_iou(total) for name, total in sums.items()})
    return {"rows": rows} | judged(rows)


def forest(problem: Problem, seed: int, latitude: bool) -> np.ndarray:
    """Classes of the held-out pixels, each by itself, from what the network is given and perhaps the latitude."""
    from sklearn.ensemble import RandomForestClassifier

    train, test = problem.train[0], problem.test[0]
    inputs = train.inputs
    if latitude:
        nside = nside_of(len(inputs))
        inputs = np.concatenate([inputs, latitude_channel(nside)[:, None]], axis=1)
    known, held = train.weights > 0, test.weights > 0  # one map, of which other parts count
    trees = RandomForestClassifier(TREES, min_samples_leaf=5, n_jobs=-1, random_state=seed)
    trees.fit(inputs[known], train.targets[known])
    return trees.predict(inputs[held])


def judged(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Spread over seeds, gains over both forests, and whether the bar is met: by every seed, over the first forest."""
    gains = {name: [row["heal_swin"] - row[name] for row in rows] for name in FORESTS}
    summary = {name: spread([row[name] for row in rows]) for name in ("heal_swin", *FORESTS)}
    summary |= {f"gain over {name}": spread(values) for name, values in gains.items()}
    least = min(gains["forest"])
    bar = {"needed": FOREST_BAR, "least": least, "mean": statistics.fmean(gains["forest"]), "met": least >= FOREST_BAR}
    return {"summary": summary, "bar": bar}


def counts(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix (prediction, label) on the host."""
    places = predictions.astype(np.int64) * num_classes + labels
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def draw(out: Path, parts: Sequence[str], scale: float) -> None:
    """A street by both networks of the first seed, and the Earth by the network of the first fold."""
    from jaxgeo.plotting import style
    from jaxgeo.plotting.dense import class_map_figure, fisheye_figure

    if "scenes" in parts:
        shown = {}
        for kind, title in KINDS.items():
            config = scenes_run(kind, scale, 0)
            problem = make_problem(config)
            params = fit(out / f"scenes-{kind}-0", config).params
            predict = predictor(model_config(config, problem), params)
            shown[title] = in_the_picture(config, problem, decisions(problem, predict(problem.test[1].inputs)))
        picture, colors = problem.pictures.picture(1), problem.pictures.source.table.colors
        labels = np.asarray(picture.labels)
        figure = fisheye_figure(picture.image, shown, labels, problem.class_names, colors=colors)
        files.write_bytes_atomically(out / "scenes.png", style.figure_to_bytes(figure, dpi=110.0))
    if "earth" in parts:
        config = earth_run(scale, 0, 0)
        problem = make_problem(config)
        from jaxgeo.dense_prediction.predicting import classify

        params = fit(out / "earth-0-0", config).params
        probabilities = classify(model_config(config, problem), params, problem.test[0].inputs)
        labels = np.where(problem.train[0].targets == 255, 255, problem.train[0].targets)
        figure = class_map_figure(probabilities, problem.class_names, labels)
        files.write_bytes_atomically(out / "earth.png", style.figure_to_bytes(figure, dpi=110.0))


def in_the_picture(config: DenseConfig, problem: Any, decided: np.ndarray) -> np.ndarray:
    """Decisions of the second test example in its picture's pixels, 255 where the sphere's faces end."""
    if decided.ndim == 2:
        return decided
    import jax.numpy as jnp

    from jaxgeo.grids.resample import healpix_to_fisheye
    from jaxgeo.grids.stencils import take_nearest

    camera = problem.pictures.picture(1).camera
    stencil = healpix_to_fisheye(camera, config.data.nside, tuple(range(config.data.faces)))
    return np.asarray(take_nearest(stencil, jnp.asarray(decided), 255))


def markdown(found: dict[str, Any]) -> str:
    lines = ["# HEAL-SWIN, reduced", "", f"{found['minutes']:.0f} minutes, scale {found['scale']}", ""]
    for part in PARTS:
        if part in found:
            lines += [f"## {part}", "", "| what | mean | least | most |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {name} | {value['mean']:.2f} | {value['min']:.2f} | {value['max']:.2f} |"
                for name, value in found[part]["summary"].items()
            ]
            lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.heal_swin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/heal_swin"), help="folder of all runs; goes on there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--scale", type=float, default=0.4, help="of the preset's number of steps; scenes take half of it"
    )
    args = parser.parse_args(argv)
    if args.seeds < 1 or not args.scale > 0:
        parser.error(f"--seeds and --scale must be above 0, got {args.seeds} and {args.scale}")
    start = time.monotonic()
    found: dict[str, Any] = {"study": "heal_swin", "seeds": args.seeds, "scale": args.scale}
    try:
        files.make_folder(args.out)
        with progress_for(sys.stderr) as progress:
            for part in args.parts:
                run = scenes if part == "scenes" else earth
                found[part] = run(args.out, args.seeds, args.scale, progress)
        draw(args.out, args.parts, args.scale)
        found["minutes"] = (time.monotonic() - start) / 60
        files.write_json_atomically(args.out / "report.json", found)
        files.write_bytes_atomically(args.out / "report.md", markdown(found).encode())
    except JaxgeoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what is finished lies in {args.out}, and the same command goes on from there", file=sys.stderr)
        return 130
    print(markdown(found))
    rows = {part: {key: value for key, value in found[part].items() if key != "rows"} for part in args.parts}
    print(json.dumps(found | rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
