"""Equivariance versus augmentation on spherical images: S2CNN against CNNs of three sizes (arXiv:2202.03990).

    python -m benchmarks.papers.equivariance_vs_augmentation --out runs/augmentation
    python -m benchmarks.papers.equivariance_vs_augmentation --out runs/augmentation-full --full --workers 1

Segmentation and classification of digits and garments on the sphere: trained unrotated and tested rotated, and with
training sets that double by further rotations. The default is a reduced grid (bandlimit 12, three seeds); --full is the
published one, for a GPU. Images come from JAXGEO_DATA (MNIST and FashionMNIST as IDX files); without it from
scikit-learn's bundled digits, and there are no garments.

Every cell is a file in the run's folder, written whole: a run that was killed goes on where it was. At the end
report.json, report.md and figure.png lie there, and the last line printed is one JSON object of figures and verdict.
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

from benchmarks.papers.augmentation_grid import NETWORKS, Cell, Grid, full_grid, reduced_grid
from jaxgeo import files
from jaxgeo.data.digits import available_sources
from jaxgeo.errors import JaxgeoError, RunFolderError


def cell_path(out: Path, cell: Cell) -> Path:
    """Where a cell's row lies once it is finished."""
    return out / "cells" / f"{cell.name}.json"


@contextlib.contextmanager
def claimed(out: Path, cell: Cell) -> Iterator[bool]:
    """Whether this process alone may work on the cell; the kernel gives the claim up when the process ends."""
    files.make_folder(out / "claims")
    with open(out / "claims" / cell.name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def work(out: Path, grid: Grid, cells: Sequence[Cell]) -> None:
    """Run every cell that is neither finished nor claimed by another process."""
    from benchmarks.papers import augmentation_training

    files.make_folder(out / "cells")
    for cell in cells:
        path = cell_path(out, cell)
        with claimed(out, cell) as mine:
            if not mine or path.exists():
                continue
            said = time.monotonic()

            def progress(done: int, total: int, loss: float, cell: Cell = cell) -> None:
                nonlocal said
                if time.monotonic() - said > 15:
                    said = time.monotonic()
                    say(f"    {cell.name}: step {done}/{total}, loss {loss:.3f}")

            row = augmentation_training.run_cell(grid, cell, progress)
            files.write_json_atomically(path, row)
            score = "area_miou" if cell.task == "segmentation" else "accuracy"
            finished = sum(cell_path(out, c).exists() for c in cells)
            say(
                f"  [{finished}/{len(cells)}] {cell.name}: {score} unrotated {row['unrotated'][score]:.1f}, rotated "
                f"{row['rotated'][score]:.1f}, {row['seconds']:.0f} s"
            )


def order_of_work(grid: Grid, cells: Sequence[Cell]) -> list[Cell]:
    """The dearest first, so that workers end together; equal networks one after another, so that they compile once."""

    def key(cell: Cell) -> tuple:
        return cell.network != "s2cnn", cell.task, -NETWORKS.index(cell.network), cell.data, cell.num_train, cell.seed

    return sorted(cells, key=key)


def run_workers(out: Path, arguments: Sequence[str], workers: int) -> None:
    """The same command in processes of its own, each with one thread.

    Raises:
        RunFolderError: a worker failed.
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
    if any(codes):
        raise RunFolderError(f"a worker ended with status {max(codes, key=abs)}; run the same command again to go on")


def describe(grid: Grid) -> dict[str, Any]:
    """What a run's numbers depend on, as JSON; a folder goes on only with the same."""
    return {
        "name": grid.name,
        "num_test": grid.num_test,
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
    from jaxgeo.plotting import style

    rows = [files.read_json(cell_path(out, cell)) for cell in grid.cells if cell_path(out, cell).exists()]
    summary, judged = report.summarise(rows), report.verdict(rows)
    figures: dict[str, Any] = {
        "study": "equivariance versus augmentation",
        "grid": grid.name,
        "sources": sorted({data.source for data in grid.data.values()}),
        "cells": len(rows),
        "cells_in_all": len(grid.cells),
        "seconds_in_cells": sum(row["seconds"] for row in rows),
        "verdict": judged,
        "latency": speed,
        "published": report.PUBLISHED,
        "summary": summary,
    }
    files.write_json_atomically(out / "report.json", figures)
    files.write_bytes_atomically(out / "report.md", report.markdown(grid, summary, judged, speed).encode())
    files.write_bytes_atomically(out / "figure.png", style.figure_to_bytes(report.figure(grid, summary)))
    return figures


def measure(grid: Grid) -> dict[str, Any]:
    """Latency of the segmenters of one digit, with all threads."""
    from benchmarks.papers import augmentation_training

    segmenters = {network: grid.networks.get(("segmentation", network)) for network in NETWORKS}
    return augmentation_training.latencies({name: config for name, config in segmenters.items() if config is not None})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.equivariance_vs_augmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"), help="the run's folder; goes on there")
    parser.add_argument("--full", action="store_true", help="the published grid, for a GPU")
    parser.add_argument("--seeds", type=int, default=3, help="of each cell")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread; 1: this one")
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--report", action="store_true", help="train nothing: report on the cells that are there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def grid_of(args: argparse.Namespace) -> Grid:
    sources = available_sources()
    digits = "mnist" if "mnist" in sources else "sklearn"
    return (full_grid if args.full else reduced_grid)(digits, "fashion_mnist" in sources, args.seeds)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    grid = grid_of(args)
    cells = [cell for cell in order_of_work(grid, grid.cells) if args.only in cell.name]
    try:
        if args.worker:
            work(args.out, grid, cells)
            return 0
        prepare(args.out, grid)
        start = time.monotonic()
        left = [cell for cell in cells if not cell_path(args.out, cell).exists()]
        if left and not args.report:
            say(f"{len(left)} of {len(cells)} cells to train, {args.workers} processes; all lies in {args.out}")
            if args.workers > 1:
                run_workers(args.out, list(argv if argv is not None else sys.argv[1:]), args.workers)
            else:
                work(args.out, grid, cells)
        figures = conclude(args.out, grid, measure(grid)) | {"minutes": (time.monotonic() - start) / 60}
    except JaxgeoError as error:
        say(f"error: {error}")
        return 1
    print((args.out / "report.md").read_text())
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
