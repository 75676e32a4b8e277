"""Spherical transforms beside their peers, on one pinned core and on two.

    python -m benchmarks.transforms [--parts s2 healpix so3] [--bandlimits 32 64] [--channels 1 32] [--out FILE]

Every row times ours, the peers and a floor in alternating rounds of one process: medians, and medians of the ratios
within a round. Compilation is apart; tables are arguments. A ratio is the peer's time over ours. The last line is one
JSON object: all rows, and per bar the worst row, whether every row meets it, and those that do not.

JAX is told to run programs in the calling thread (`jax_cpu_enable_async_dispatch`): handing one over to another thread
takes about 10 us, ours and the JAX peers' alike, which a caller of many small transforms can save in the same way.
"""

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import timing
from benchmarks.timing import Row, Settings
from benchmarks.transforms_so3 import BANDLIMITS, CHANNELS

PARTS = ("s2", "healpix", "so3")
_SPHERE = {"bandlimits": (32, 64, 128), "channels": (1, 32)}
SIZES = {"s2": _SPHERE, "healpix": _SPHERE, "so3": {"bandlimits": BANDLIMITS, "channels": CHANNELS}}


def measure(part: str, settings: Settings) -> list[Row]:
    """Rows of one part, in this process."""
    timing.pin(settings.cores)
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return importlib.import_module(f"benchmarks.transforms_{part}").rows(settings)


def measure_in_child(part: str, settings: Settings, cache: str) -> list[Row]:
    """Rows of one part from a process of its own, so that the threads of all libraries are born on its cores.

    Raises:
        SystemExit: the process failed, and has said why.
    """
    command = [sys.executable, "-m", "benchmarks.transforms", "--child", part, json.dumps(dataclasses.asdict(settings))]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAXGEO_BENCH_CACHE": cache}, check=False
    )
    if done.returncode:
        raise SystemExit(f"the process that measured {part} on {settings.cores} cores ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    for part in dict.fromkeys(row["part"] for row in rows):
        chosen = [row for row in rows if row["part"] == part]
        peers = list(dict.fromkeys(name for row in chosen for name in row.get("peers", {})))
        table = Table(title=f"{part}: milliseconds, and how many times ours a peer takes")
        for name in ("grid", "L", "ch", "dtype", "cores", "direction", "ours", "compile s", "error", "floor", *peers):
            table.add_column(name, justify="right")
        table.add_column("bars missed")
        for row in chosen:
            known = row.get("peers", {})
            table.add_row(
                str(row.get("grid", "")),
                str(row.get("bandlimit", "")),
                str(row.get("channels", "")),
                str(row.get("dtype", "")),
                str(row.get("cores", "")),
                str(row.get("direction", "")),
                _number(row.get("ours_ms"), ".3f"),
                _number(row.get("compile_s"), ".2f"),
                _number(row.get("max_error"), ".1e"),
                _number(row.get("floor_fraction"), ".0%"),
                *(f"{known[name]['ms']:.3f} ({known[name]['ratio']:.2f}x)" if name in known else "" for name in peers),
                ", ".join(name for name, bar in row.get("bars", {}).items() if not bar["met"]),
            )
        Console(width=200).print(table)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transforms", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2][: timing.available_cores()])
    for name in ("bandlimits", "channels"):
        known = "; ".join(f"{part}: {' '.join(map(str, sizes[name]))}" for part, sizes in SIZES.items())
        parser.add_argument(f"--{name}", nargs="+", type=int, help=f"of all chosen parts; by default {known}")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    directions = ("forward", "inverse", "gradient")
    parser.add_argument("--directions", nargs="+", choices=directions, default=list(directions))
    parser.add_argument("--grids", nargs="+", choices=("gl", "soft", "dh"), default=["gl", "soft", "dh"])
    parser.add_argument("--repeats", type=int, default=7, help="rounds of a row, at most (3 at least)")
    parser.add_argument("--seconds", type=float, default=0.25, help="no more rounds of a row begin after this")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--memory-bandlimit", type=int, default=64, help="of the SO(3) transform whose memory is measured; 0 for none"
    )
    parser.add_argument("--out", type=Path, help="write all rows here, as JSON")
    parser.add_argument("--child", nargs=2, metavar=("PART", "SETTINGS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(args.child[1]).items()}
        print(json.dumps(measure(args.child[0], Settings(**fields))))
        return 0
    timing.check_counts(parser, args, "cores", "bandlimits", "channels", "repeats")
    if args.memory_bandlimit < 0:
        parser.error(f"--memory-bandlimit must be at least 0, got {args.memory_bandlimit}")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"--out is a file to be written, but there is no folder {args.out.parent}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        for part in args.parts:
            for cores in args.cores:
                settings = Settings(
                    cores=cores,
                    bandlimits=tuple(args.bandlimits or SIZES[part]["bandlimits"]),
                    channels=tuple(args.channels or SIZES[part]["channels"]),
                    dtypes=tuple(args.dtypes),
                    directions=tuple(args.directions),
                    grids=tuple(args.grids),
                    repeats=args.repeats,
                    seconds=args.seconds,
                    peers=not args.no_peers,
                    options={"so3_memory_bandlimit": args.memory_bandlimit},
                )
                rows += measure_in_child(part, settings, cache)
    print_table(rows)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    bars = timing.worst_bars(rows)
    print(json.dumps({"benchmark": "transforms", "rows": rows, "bars": bars}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
