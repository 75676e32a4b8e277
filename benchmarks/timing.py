"""What benchmarks share: seconds of a call; of those of transforms settings, alternating rounds and rows.

A row is a dictionary; its keys common to all are `part`, `bandlimit`, `channels`, `dtype`, `cores`, `direction`,
`ours_ms`, `compile_s`, `max_error`, `peers` (name -> {"ms", "ratio"}; a ratio is the peer's time over ours, more is
better for us), `floor_ms`, `floor_fraction` (floor over ours) and `bars` (name -> {"ratio", "bar", "met"}).
"""

import argparse
import dataclasses
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one child process measures. `cores` is how many it is pinned to, which happened before JAX was imported."""

    cores: int = 1
    bandlimits: tuple[int, ...] = (32, 64, 128)
    channels: tuple[int, ...] = (1, 32)
    dtypes: tuple[str, ...] = ("float32", "float64")
    directions: tuple[str, ...] = ("forward", "inverse", "gradient")
    grids: tuple[str, ...] = ("gl", "soft", "dh")
    repeats: int = 7
    seconds: float = 0.5  # of alternating rounds per row, at most
    peers: bool = True
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of single parts


def installed(name: str) -> bool:
    """Whether a peer is there to be timed; the `bench` extra brings them all."""
    # A package that `torch_sht` loaded in part is known already, and has no specification to be found.
    return name in sys.modules or importlib.util.find_spec(name) is not None


def check_counts(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Refuse, as the parser does, counts below 1, and more `cores` than this process has: rows would name them."""
    for name in names:
        value = getattr(args, name)
        for count in value if isinstance(value, list) else [value]:
            if count is not None and count < 1:
                parser.error(f"--{name} must be at least 1, got {count}")
            if name == "cores" and count > available_cores():
                parser.error(f"--cores must be at most {available_cores()}, which this process has, got {count}")


def available_cores() -> int:
    """Processors on which this process may run."""
    return len(os.sched_getaffinity(0))


def pin(cores: int) -> None:
    """Hold this process and all libraries' threads to the first `cores` of its processors, before any import.

    Raises:
        RuntimeError: JAX has been imported, and may have started threads elsewhere.
    """
    if "jax" in sys.modules:
        raise RuntimeError("processors must be chosen before JAX is imported; call pin first, in a process of its own")
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, chosen)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DUCC0_NUM_THREADS"):
        os.environ[name] = str(len(chosen))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds until it is there."""
    import jax

    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - start


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """`jax.jit(function)` compiled for these arguments, and the seconds that tracing and compiling took."""
    import jax

    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def alternate(
    candidates: dict[str, Callable[[], Any]], repeats: int = 7, seconds: float = 0.5, inner_seconds: float = 2e-3
) -> dict[str, list[float]]:
    """Milliseconds per call of each candidate in rounds in which all of them run, one after the other.

    The order is reversed in every second round. Short calls are repeated within a round until `inner_seconds` have
    passed, and the mean counts. A candidate that takes longer than a quarter of `seconds` runs in the first two rounds
    only. Candidates must block until their result is there.

    Args:
        candidates: functions without arguments by name.
        repeats: rounds, at least 3.
        seconds: no more rounds begin after this time.
        inner_seconds: least time of a candidate in a round.
    """
    inner, slow = {}, set()
    for name, call in candidates.items():
        call()
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        inner[name] = max(1, min(1000, round(inner_seconds / max(taken, 1e-7))))
        if taken > seconds / 4:
            slow.add(name)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for turn in range(max(repeats, 3)):
        if turn >= 3 and time.perf_counter() - began > seconds:
            break
        names = [name for name in candidates if turn < 2 or name not in slow]
        for name in names if turn % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            for _ in range(inner[name]):
                candidates[name]()
            times[name].append((time.perf_counter() - start) / inner[name] * 1e3)
    return times


def blocking(program: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call of a JAX function that waits for its result: an array, or a tree of them."""
    import jax

    if isinstance(program(*arguments), jax.Array):
        return lambda: program(*arguments).block_until_ready()  # half the cost of the next, which walks a tree
    return lambda: jax.block_until_ready(program(*arguments))


def ratio(times: dict[str, list[float]], name: str, ours: str = "ours") -> float:
    """Median over common rounds of the time of `name` over ours: above 1 where ours is faster."""
    return statistics.median(b / a for a, b in zip(times[ours], times[name], strict=False))


def median_ms(times: dict[str, list[float]], name: str = "ours") -> float:
    """Median milliseconds of one candidate."""
    return statistics.median(times[name])


def bar(value: float, needed: float, *, at_most: bool = False) -> dict[str, float | bool]:
    """One bar: the ratio that was reached, the one that is needed, and whether it is met."""
    met = value <= needed if at_most else value >= needed
    return {"ratio": value, "bar": needed, "at_most": at_most, "met": met}


def unjudged(needed: float, *, at_most: bool = False) -> dict[str, float | bool | None]:
    """A bar for which nothing was measured: neither met nor missed."""
    return {"ratio": None, "bar": needed, "at_most": at_most, "met": None}


def all_met(bars: Mapping[str, dict[str, Any]]) -> bool | None:
    """False where a bar is missed; None where none is, but one was not judged."""
    verdicts = [entry["met"] for entry in bars.values()]
    return False if False in verdicts else None if None in verdicts else True


def worst_bars(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Per bar its worst row: {"worst", "bar", "met", "rows", "rows_met", "where", "missed"}; `missed` names rows."""
    found: dict[str, list[tuple[Row, dict[str, Any]]]] = {}
    for row in rows:
        for name, value in row.get("bars", {}).items():
            found.setdefault(name, []).append((row, value))
    report = {}
    for name, entries in found.items():
        at_most = entries[0][1]["at_most"]
        row, value = sorted(entries, key=lambda entry: entry[1]["ratio"])[-1 if at_most else 0]
        missed = [entry for entry in entries if not entry[1]["met"]]
        report[name] = {
            "worst": value["ratio"],
            "bar": value["bar"],
            "at_most": at_most,
            "met": all(v["met"] for _, v in entries),
            "rows": len(entries),
            "rows_met": sum(v["met"] for _, v in entries),
            "where": _name(row),
            "missed": [f"{_name(row)}: {value['ratio']:.3g}" for row, value in missed],
        }
    return report


def _name(row: Row) -> str:
    keys = ("part", "grid", "bandlimit", "channels", "dtype", "cores", "direction")
    return " ".join(f"{key}={row[key]}" for key in keys if key in row)
