"""Equivariance versus augmentation on spherical images: S2CNN against CNNs of three sizes (arXiv:2202.03990).

    python -m benchmarks.papers.equivariance_vs_augmentation --out runs/augmentation
    python -m benchmarks.papers.equivariance_vs_augmentation --out runs/full --grid full --workers 1
    python -m benchmarks.papers.equivariance_vs_augmentation --out runs/tiny --grid tiny --source sklearn

Segmentation and classification of digits and garments on the sphere: trained unrotated and tested rotated, and with
training sets that double by further rotations. `reduced` (bandlimit 12, three seeds) is for two cores in less than an
hour; `full` is the published study, for a GPU; `tiny` runs through every stage in a minute and learns nothing.
JAXGEO_DATA holds MNIST and FashionMNIST as IDX files in mnist/ and fashion-mnist/.

Every finished cell is a file in the run's folder: a run that was stopped or killed goes on with the same command, and a
cell that was in the middle is trained again from its beginning to the same numbers. At the end report.json, report.md
and figure.png lie there, and the last line printed is one JSON object of figures and verdict. --tune trains the
candidate learning rates instead, one digit each, and scores them on held-out training images.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.papers.augmentation_grid import GRIDS, NETWORKS, Cell, Grid, Trial
from benchmarks.papers.command import perform, run_folder
from jaxgeo import files, interrupts
from jaxgeo.data.digits import DATA_VARIABLE, available_sources
from jaxgeo.errors import ConfigError, JaxgeoError, RunFolderError

Job = Cell | Trial
_SAID = 1  # status of a process that said why it failed, or was interrupted


def job_path(out: Path, job: Job) -> Path:
    """Where a cell's or trial's row lies once it is finished."""
    return out / ("cells" if isinstance(job, Cell) else "trials") / f"{job.name}.json"


@contextlib.contextmanager
def claimed(out: Path, group: str) -> Iterator[bool]:
    """Whether this process alone may work on the group; the kernel gives the claim up when the process ends.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    path = files.make_folder(out / "claims") / group
    try:
        lock = open(path, "w")  # noqa: SIM115 - closed below; what is done inside must not be taken for its failure
    except OSError as error:
        raise files.run_folder_error(error, path) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def work(out: Path, grid: Grid, jobs: Sequence[Job]) -> None:
    """Do every job that is neither finished nor in a group that another process has claimed."""
    from benchmarks.papers import augmentation_training

    for folder in ("cells", "trials"):
        files.make_folder(out / folder)
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(group_of(grid, job), []).append(job)
    for group, members in groups.items():
        if all(job_path(out, job).exists() for job in members):
            continue
        with claimed(out, group) as mine:
            for job in members if mine else ():
                if job_path(out, job).exists():
                    continue
                said = time.monotonic()

                def progress(done: int, total: int, loss: float, job: Job = job) -> None:
                    nonlocal said
                    if time.monotonic() - said > 15:
                        said = time.monotonic()
                        say(f"    {job.name}: step {done}/{total}, loss {loss:.3f}")

                if isinstance(job, Cell):
                    row = augmentation_training.run_cell(grid, job, progress)
                else:
                    row = augmentation_training.run_trial(grid, job, progress)
                files.write_json_atomically(job_path(out, job), row)
                finished = sum(job_path(out, one).exists() for one in jobs)
                say(f"  [{finished}/{len(jobs)}] {job.name}: {_in_short(row)}, {row['cpu_seconds']:.0f} s of processor")


def _in_short(row: dict[str, Any]) -> str:
    score = "area_miou" if row["task"] == "segmentation" else "accuracy"
    poses = [pose for pose in ("unrotated", "rotated", "held_out") if pose in row]
    return f"{score} " + ", ".join(f"{pose.replace('_', ' ')} {row[pose][score]:.1f}" for pose in poses)


def group_of(grid: Grid, job: Job) -> str:
    """Jobs that one process does one after another, since they share their images (which are made once)."""
    if isinstance(job, Trial):
        return f"trials-{job.task}-{job.network}"
    if job in grid.judged_cells:
        return f"judged-{job.seed}"
    return f"{job.data}-{'rotated' if job.augmented else 'unrotated'}-{job.seed}"


def order_of_work(grid: Grid, jobs: Sequence[Job]) -> list[Job]:
    """What the verdict needs first; then the groups with most to do; equal networks one after another."""

    def key(job: Job) -> tuple:
        if isinstance(job, Trial):
            return (0,)
        networks = NETWORKS.index(job.network)
        first = job not in grid.judged_cells
        return first, list(grid.data).index(job.data), not job.augmented, job.seed, job.task, networks, -job.num_train

    return sorted(jobs, key=key)


def run_workers(out: Path, arguments: Sequence[str], workers: int) -> None:
    """The same command in processes of its own, each with one thread.

    Raises:
        RunFolderError: a worker ended without saying why.
        SystemExit: a worker said why it failed, or was interrupted.
    """
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    flags = surroundings.get("XLA_FLAGS", "")
    surroundings["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    command = [sys.executable, "-m", "benchmarks.papers.equivariance_vs_augmentation", *arguments, "--worker"]
    started = [subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL) for _ in range(workers)]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
    others = [code for code in codes if code not in (0, _SAID)]
    if others:
        raise RunFolderError(f"a worker ended with status {others[0]}; run the same command again to go on")
    if any(codes):
        raise SystemExit(_SAID)


def describe(grid: Grid) -> dict[str, Any]:
    """What a run's numbers depend on, as JSON; a folder goes on only with the same."""
    return {
        "name": grid.name,
        "num_test": grid.num_test,
        "num_tuning": grid.num_tuning,
        "data": {name: dataclasses.asdict(data) for name, data in grid.data.items()},
        "networks": {" ".join(key): dataclasses.asdict(config) for key, config in grid.networks.items()},
        "training": {" ".join(key): dataclasses.asdict(value) for key, value in grid.training.items()},
    }


def prepare(out: Path, grid: Grid) -> None:
    """Make the folder, or check that what lies there is of the same grid.

    Raises:
        RunFolderError: the folder belongs to other settings.
    """
    files.make_folder(out)
    path, content = out / "grid.json", json.loads(json.dumps(describe(grid)))
    if not path.exists():
        files.write_json_atomically(path, content)
    elif files.read_json(path) != content:
        raise RunFolderError(f"{out} holds cells of other settings; choose another folder, or delete it")


def conclude(out: Path, grid: Grid, speed: dict[str, Any]) -> dict[str, Any]:
    """Report and figure of the cells that are there; returns the figures of the last line."""
    from benchmarks.papers import augmentation_report as report
    from benchmarks.papers.augmentation_figure import figure
    from jaxgeo.plotting import style

    rows, trials = (
        [files.read_json(job_path(out, job)) for job in jobs if job_path(out, job).exists()]
        for jobs in (grid.cells, grid.trials)
    )
    summary, judged = report.summarise(rows), report.verdict(grid, rows)
    figures: dict[str, Any] = {
        "study": "equivariance versus augmentation",
        "grid": grid.name,
        "sources": sorted({data.source for data in grid.data.values()}),
        "cells": len(rows),
        "cells_in_all": len(grid.cells),
        "minutes_in_cells": sum(row["seconds"] for row in rows) / 60,
        "processor_minutes_in_cells": sum(row["cpu_seconds"] for row in rows) / 60,
        "verdict": judged,
        "beside_published": report.beside_published(grid, summary),
        "caveat": grid.caveat,
        "settings": report.settings(grid),
        "learning_rates_tried": report.tried(trials),
        "latency": speed,
        "summary": summary,
    }
    files.write_json_atomically(out / "report.json", figures)
    files.write_bytes_atomically(out / "report.md", report.markdown(grid, figures).encode())
    files.write_bytes_atomically(out / "figure.png", style.figure_to_bytes(figure(grid, summary), dpi=160.0))
    return figures


def measure(grid: Grid) -> dict[str, dict[str, dict[str, float]]]:
    """Latency of the networks of each task."""
    from benchmarks.papers import augmentation_training

    tasks = dict.fromkeys(task for task, _ in grid.networks)
    return {
        task: augmentation_training.latencies({n: config for (t, n), config in grid.networks.items() if t == task})
        for task in tasks
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.equivariance_vs_augmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"), help="the run's folder; goes on there")
    parser.add_argument("--grid", choices=list(GRIDS), default="reduced", help="what to train (default: reduced)")
    parser.add_argument(
        "--source", choices=("mnist", "sklearn"), default="mnist",
        help="of the digits; sklearn needs no files, and there are no garments then",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, help="of each cell (default: the grid's own, 3)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each; 1: this one alone"
    )
    parser.add_argument("--only", default="", metavar="PART", help="cells whose names contain this")
    parser.add_argument("--tune", action="store_true", help="train the candidate learning rates instead of cells")
    parser.add_argument("--report", action="store_true", help="train nothing: report on the cells that are there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name, value in (("--seeds", args.seeds), ("--workers", args.workers)):
        if value is not None and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    return args


def grid_of(args: argparse.Namespace) -> Grid:
    """The grid that was asked for.

    Raises:
        ConfigError: its images are not there.
    """
    missing = {"mnist", "fashion_mnist"} - set(available_sources())
    if args.source == "mnist" and missing:
        raise ConfigError(
            f"the study reads MNIST and FashionMNIST, of which {' and '.join(sorted(missing))} cannot be found: set "
            f"{DATA_VARIABLE} to the folder that holds mnist/ and fashion-mnist/ as IDX files, or take --source sklearn"
        )
    options = {} if args.seeds is None else {"seeds": args.seeds}
    return GRIDS[args.grid](args.source, **options)


def jobs_of(grid: Grid, args: argparse.Namespace) -> list[Job]:
    """What is to be done, in order.

    Raises:
        ConfigError: nothing has such a name.
    """
    jobs = order_of_work(grid, grid.trials if args.tune else grid.cells)
    chosen = [job for job in jobs if args.only in job.name]
    if not chosen:
        tasks, networks = (", ".join(dict.fromkeys(names)) for names in zip(*grid.networks, strict=True))
        raise ConfigError(
            f"no name contains {args.only!r}; names are such as {jobs[0].name}, with the tasks {tasks}, the data sets "
            f"{', '.join(grid.data)}, and the networks {networks}"
        )
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.worker:
        return worker(args)
    start = time.monotonic()

    def whole() -> dict[str, Any]:
        grid = grid_of(args)
        jobs = jobs_of(grid, args)
        # A report on what is there may be written while another process trains.
        with contextlib.nullcontext() if args.report else run_folder(args.out):
            prepare(args.out, grid)
            left = [job for job in jobs if not job_path(args.out, job).exists()]
            if left and not args.report:
                say(f"{len(left)} of {len(jobs)} to train, {args.workers} processes; all lies in {args.out}")
                if args.workers > 1:
                    run_workers(args.out, list(argv if argv is not None else sys.argv[1:]), args.workers)
                else:
                    work(args.out, grid, jobs)
            figures = conclude(args.out, grid, measure(grid)) | {"minutes": (time.monotonic() - start) / 60}
        print((args.out / "report.md").read_text())
        return figures

    return perform(args.out, whole)


def worker(args: argparse.Namespace) -> int:
    """One of the processes of `run_workers`."""
    try:
        grid = grid_of(args)
        work(args.out, grid, jobs_of(grid, args))
    except JaxgeoError as error:
        say(f"error: {error}")
        return _SAID
    except KeyboardInterrupt:  # of the whole group: the process that began this one says it
        return _SAID
    return 0


if __name__ == "__main__":
    interrupts.leave(main())
