"""Predicted cycle counts beside published ones: ENet designs of a csv file, the SVHN network, a full ENet-size frame.

Prints one row for each design, and as the last line one JSON object. A design that has no prediction, because a cell
is NA or cannot be read or because no such design can be, is a row with the reason, counted in `without_prediction`; the
shares are those of the others, and without any count to compare with, `compared` is 0 and the shares are null.
`--cross-validate` fits the constants again without some designs, and predicts these: those of one clock, of one width,
of one pair of both, of one such pair with the same slowest loop, of one reuse factor, or of one number of filters.

Exit status: 0 whatever the figures are; 1 for a file that cannot be read as a table of designs, with one sentence on
stderr and the same as `error` of the JSON; 2 for wrong arguments.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.svhn_network import svhn_graph
from fpga_bridge.estimates import stages
from fpga_bridge.estimates.dataflow import simulate
from fpga_bridge.estimates.enet_latency import EnetDesign, EnetLatency, StageModel, fit, predict, read_designs
from fpga_bridge.estimates.fifo_depths import free_running_depths
from fpga_bridge.estimates.latency import plan_design
from fpga_bridge.estimates.streams import Design, Fifo, Process
from jaxgeo.errors import ConfigError, InputError, JaxgeoError

# Pairs of clock and precision, and whether a design had a reuse factor below 16, that the constants were read off.
SEEN = {(5.0, 8), (5.0, 16), (7.0, 8), (7.0, 16), (10.0, 8), (10.0, 16)}
SEEN_SMALL = {(7.0, 8), (10.0, 8), (10.0, 16)}


def prediction(design: EnetDesign, model: StageModel | None = None) -> EnetLatency | str:
    """The prediction of one row, or why there is none."""
    try:
        return predict(design, model) or "a cell that the prediction needs is NA"
    except ConfigError as error:  # one impossible row is no reason to say nothing of the others
        return str(error)


def errors(designs: Sequence[EnetDesign], model: StageModel | None = None) -> np.ndarray:
    """Relative errors of the designs that have a count and can be predicted."""
    pairs = [(prediction(design, model), design.latency_cycles) for design in designs]
    return np.array([p.cycles / cycles - 1 for p, cycles in pairs if not isinstance(p, str) and cycles is not None])


def bench_enet(path: Path) -> dict[str, Any]:
    """One line for each design; the share within 1 % and the worst error."""
    designs = read_designs(path)
    print("filters  clock  reuse  used  bits     cycles  predicted     error  slowest")
    unpredicted = 0
    for design in designs:
        estimate = prediction(design)
        if isinstance(estimate, str):
            cells = dict(zip(design._fields, design[:5], strict=False))
            print(f"-- no prediction of {cells}: {estimate}")
            unpredicted += 1
            continue
        note = estimate.bottleneck
        if design.cell not in SEEN:
            note += "; clock or precision between or beyond those fitted"
        elif estimate.bottleneck == "pixel loop" and design.cell not in SEEN_SMALL:
            note += "; this clock and precision seen with larger reuse factors only"
        cycles = design.latency_cycles
        error = "NA" if cycles is None else f"{estimate.cycles / cycles - 1:9.4%}"
        clock, width = design.clock_ns, design.width
        print(
            f"{design.filters:7} {clock:6g} {design.reuse_factor:6} {estimate.reuse.used:5} {width:5} "
            f"{'NA' if cycles is None else cycles:>10} {estimate.cycles:10} {error:>9}  {note}"
        )
    found = np.abs(errors(designs))
    return {
        "designs": len(designs),
        "without_prediction": unpredicted,
        "compared": int(found.size),
        "within_1_percent": float(np.mean(found <= 0.01)) if found.size else None,
        "worst_error": float(found.max()) if found.size else None,
        "exact": float(np.mean(found == 0)) if found.size else None,
    }


def cross_validate(path: Path) -> list[dict[str, Any]]:
    """Errors on designs that the fit has not seen."""
    designs = [d for d in read_designs(path) if d.latency_cycles is not None and not isinstance(prediction(d), str)]
    groups: list[tuple[str, Callable[[EnetDesign], Any]]] = [
        ("clock", lambda design: design.clock_ns),
        ("bits", lambda design: design.width),
        ("clock, bits", lambda design: design.cell),
        ("clock, bits, loop", lambda design: (*design.cell, _slowest(design))),
        ("reuse factor", lambda design: design.reuse_factor),
        ("filters", lambda design: design.filters),
    ]
    rows = []
    print(f"\n{'left out':>42} {'designs':>8} {'within 1 %':>11} {'worst':>8}")
    for name, key in groups:
        for value in sorted({key(design) for design in designs}):
            left_out, label = [design for design in designs if key(design) == value], _label(name, value)
            try:
                found = np.abs(errors(left_out, fit([design for design in designs if key(design) != value])))
            except InputError as error:  # the others do not show what a constant is read off
                found, reason = np.zeros(0), str(error)
            else:
                reason = "the constants of the others do not fit into this clock"
            row: dict[str, Any] = {"left_out": label, "compared": int(found.size)}
            if found.size:
                share = float(np.mean(found <= 0.01))
                print(f"{label:>42} {found.size:8} {share:11.1%} {found.max():8.3%}")
                row |= {"within_1_percent": share, "worst_error": float(found.max())}
            else:
                print(f"{label:>42} {0:8} -- {reason}")
            rows.append(row)
    return rows


def _label(name: str, value: Any) -> str:
    return f"{name} {', '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _slowest(design: EnetDesign) -> str:
    estimate = prediction(design)
    return "" if isinstance(estimate, str) else estimate.bottleneck


def bench_svhn(path: Path) -> dict[str, Any]:
    """The 13 modules, the whole and the FIFOs of the SVHN network."""
    report = json.loads(path.read_text())
    design = plan_design(svhn_graph()).design
    run = simulate(design, 3)
    print(f"\n{'module':>10} {'report':>7} {'estimate':>9}")
    worst = 0
    for name, cycles in report["module_latency_cycles"].items():
        print(f"{name:>10} {cycles:7} {design[name].latency:9}")
        worst = max(worst, abs(design[name].latency - cycles))
    published = report["designs"]["16-bit, 50 % pruned"]
    print(f"{'whole':>10} {published['latency_cycles']:7} {run.latency:9}   II {published['ii_cycles']} {run.interval}")
    default = [fifo.depth for fifo in design.fifos]
    free = free_running_depths(design)
    print(f"FIFO depths of the report {report['fifo_depths']}\nby hls4ml's default rule  {default}")
    print(f"that lose no cycle        {list(free)}")
    return {
        "worst_module_error_cycles": worst,
        "latency": run.latency,
        "latency_error": run.latency / published["latency_cycles"] - 1,
        "interval": run.interval,
        "interval_error_cycles": run.interval - published["ii_cycles"],
        "default_depths_agree": default[: len(report["fifo_depths"])] == report["fifo_depths"],
        "words_of_default_fifos": sum(depth or 0 for depth in default),
        "words_of_fifos_that_lose_no_cycle": sum(free),
    }


def enet_frame(rows: int = 152, columns: int = 240, reuse: int = 16) -> Design:
    """An encoder and decoder of ENet's depth on a full frame: three scales, residual blocks, a skip at each scale."""
    processes: list[Process] = []
    fifos: list[Fifo] = []

    def add(process: Process, *sources: tuple[str, int]) -> str:
        processes.append(process)
        fifos.extend(Fifo(at, process.name, port, i) for i, (at, port) in enumerate(sources))
        return process.name

    def conv(name: str, size: tuple[int, int], source: tuple[str, int]) -> str:
        pad = add(stages.padding(f"{name}_pad", size, (1, 1), (1, 1)), source)
        return add(stages.windowed(name, (size[0] + 2, size[1] + 2), (3, 3), busy=(4, 4 + reuse)), (pad, 0))

    def block(name: str, size: tuple[int, int], source: tuple[str, int]) -> str:
        words = size[0] * size[1]
        fork = add(stages.clone(f"{name}_fork", words, 2), source)
        inner = conv(f"{name}_a", size, (fork, 0))
        inner = conv(f"{name}_b", size, (inner, 0))
        return add(stages.pointwise(f"{name}_sum", words, inputs=2), (inner, 0), (fork, 1))

    size = (rows, columns)
    first = stages.pointwise("camera", rows * columns)
    at = add(dataclasses.replace(first, reads=first.reads[:0]))
    skips = []
    for scale in range(3):
        at = block(f"encoder{scale}", size, (at, 0))
        fork = add(stages.clone(f"skip{scale}", size[0] * size[1], 2), (at, 0))
        skips.append((fork, size))
        at = add(stages.windowed(f"pool{scale}", size, (2, 2), (2, 2), kind="pool"), (fork, 0))
        size = (size[0] // 2, size[1] // 2)
    at = block("bottom", size, (at, 0))
    for scale, (fork, larger) in reversed(list(enumerate(skips))):
        at = add(stages.upsampling(f"up{scale}", size), (at, 0))
        size = larger
        at = add(stages.pointwise(f"join{scale}", size[0] * size[1], inputs=2), (at, 0), (fork, 1))
        at = block(f"decoder{scale}", size, (at, 0))
    processes[-1] = dataclasses.replace(processes[-1], writes=processes[-1].writes[:0])
    return Design(tuple(processes), tuple(fifos))


def bench_frame() -> dict[str, Any]:
    """Simulation of a full frame: how long it takes here, and what the FIFOs of the skips need."""
    design = enet_frame()
    steps = sum(process.steps for process in design.processes)
    start = time.perf_counter()
    run = simulate(design, 2)
    seconds = time.perf_counter() - start
    peaks = sorted(((run.peak(i), fifo.name) for i, fifo in enumerate(design.fifos)), reverse=True)[:4]
    bounded = design.with_depths([run.peak(i) for i in range(len(design.fifos))])
    start = time.perf_counter()
    again = simulate(bounded, 2)
    bounded_seconds = time.perf_counter() - start
    print(
        f"\nfull frame: {len(design.processes)} processes, {2 * steps} steps of two frames in {seconds:.1f} s; latency "
        f"{run.latency}, interval {run.interval} cycles; with the peak fillings as depths {again.latency} cycles"
    )
    print("deepest FIFOs:", ", ".join(f"{name} {depth}" for depth, name in peaks))
    return {
        "processes": len(design.processes),
        "steps": 2 * steps,
        "seconds": seconds,
        "bounded_seconds": bounded_seconds,
        "latency": run.latency,
        "interval": run.interval,
        "latency_with_peak_depths": again.latency,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the exit status keeps its paragraph
    )
    data = os.environ.get("JAXGEO_DATA")
    default = Path(data) / "enet_zcu102_designs.csv" if data else None
    parser.add_argument("--designs", type=Path, default=default, help="csv of ENet designs (default: in JAXGEO_DATA)")
    parser.add_argument("--cross-validate", action="store_true", help="also fit without some designs and predict them")
    parser.add_argument(
        "--svhn", type=Path, help="JSON of the SVHN reports (default: svhn_hls_reports.json in JAXGEO_DATA)"
    )
    parser.add_argument("--no-frame", action="store_true", help="leave the simulation of a full frame out")
    args = parser.parse_args(argv)
    try:
        result = bench(args, Path(data) if data else None)
    except JaxgeoError as error:
        print(f"benchmarks.latency: {error}", file=sys.stderr)
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps(result))
    return 0


def bench(args: argparse.Namespace, data: Path | None) -> dict[str, Any]:
    """All parts that the arguments ask for."""
    if args.designs is None:
        raise ConfigError("say where the table of designs is: --designs FILE, or set JAXGEO_DATA to its folder")
    result: dict[str, Any] = {"enet": bench_enet(args.designs)}
    if args.cross_validate:
        result["cross_validation"] = cross_validate(args.designs)
    svhn = args.svhn or (data / "svhn_hls_reports.json" if data else None)
    if svhn is not None and svhn.exists():
        result["svhn"] = bench_svhn(svhn)
    if not args.no_frame:
        result["frame"] = bench_frame()
    return result


if __name__ == "__main__":
    raise SystemExit(main())
