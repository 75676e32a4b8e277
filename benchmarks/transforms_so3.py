"""Rows of the transform benchmark for SO(3): against s2fft's precomputed Wigner transform, on grids of the same beta.

    python -m benchmarks.transforms_so3             # two cores; --cores 1 for one
    python -m benchmarks.transforms_so3 --memory 64 # peak memory of a process that transforms there and back

The peer holds one signal at a time; more channels go through `jax.vmap` with the channel axis first, or one call after
the other, which is its own documented use. Both are in the table; the bars `so3_s2fft_L` hold against the faster of
the two, the bars `so3_s2fft_one_by_one_L` against its documented use. Its "dh" and "gl" samplings have the 2L and L
rings of ours, 2L-1 longitudes and 2N-1 gammas against our 2L and 2N. Its kernels are built in float64 and cast. The
floor is the transform's dense arithmetic in its own shapes, with no data moved: Fourier products over alpha and gamma,
folded at pi (ours fold at pi / 2 as well: both angles of many channels, alpha of one), and products with the Wigner
tables. The gradient is that of half the sum of squares of the coefficients, value included: its way back needs what the
way there found, as in training.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks import timing
from benchmarks.timing import Row, Settings

BANDLIMITS, CHANNELS = (16, 32), (1, 8)  # where nothing else is asked for: tables grow with the third power
SPEED_BARS = {16: 4.0, 32: 20.0}  # times s2fft, at these bandlimits
MEMORY_BAR = 4.0  # GiB
GRADIENT_BAR = 2.5  # times the forward transform
GRIDS: dict[str, tuple[Any, str]] = {"soft": ("soft", "dh"), "gl": ("gauss_legendre", "gl")}


def rows(settings: Settings) -> list[Row]:
    """All rows; `settings.options` may hold `so3_memory_bandlimit` (0: none)."""
    import jax

    result = []
    for bandlimit in settings.bandlimits:
        for channels in settings.channels:
            for dtype in settings.dtypes:
                with jax.enable_x64(dtype == "float64"):
                    for grid in filter(GRIDS.__contains__, settings.grids):
                        result += grid_rows(settings, grid, bandlimit, channels, dtype)
    memory = settings.options.get("so3_memory_bandlimit", 64)
    return result + ([memory_row(memory)] if memory else [])


def grid_rows(settings: Settings, grid: str, bandlimit: int, channels: int, dtype: str) -> list[Row]:
    """Forward, inverse and gradient at one size."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgeo.harmonics import so3

    latitudes, sampling = GRIDS[grid]
    plan = so3.plan_so3_transform(bandlimit, dtype=np.dtype(dtype), latitudes=latitudes)
    values = np.random.default_rng(0).normal(size=(plan.num_coefficients, channels))
    spectrum = jnp.asarray(values, dtype)
    signal = so3.so3_synthesis(plan, spectrum)

    def gradient(plan: Any, signal: Any) -> Any:
        return jax.value_and_grad(lambda f: (so3.so3_analysis(plan, f) ** 2).sum() / 2)(signal)

    calls = {
        "forward": (so3.so3_analysis, (plan, signal)),
        "inverse": (so3.so3_synthesis, (plan, spectrum)),
        "gradient": (gradient, (plan, signal)),
    }
    peers = peer_calls(bandlimit, channels, dtype, sampling) if settings.peers and timing.installed("s2fft") else {}
    programs = {name: timing.compiled(*_flat(call)) for name, call in calls.items()}
    forward, back = programs["forward"][0], programs["inverse"][0]
    again = back(plan, forward(plan, signal))
    _, slope = programs["gradient"][0](*calls["gradient"][1])
    square = np.linalg.norm(np.asarray(forward(plan, signal), np.float64)) ** 2
    errors = {
        "forward": float(jnp.linalg.norm(forward(plan, signal) - spectrum) / jnp.linalg.norm(spectrum)),
        "inverse": float(jnp.linalg.norm((again - signal).ravel()) / jnp.linalg.norm(signal.ravel())),
        "gradient": abs(np.vdot(np.asarray(slope, np.float64), signal) - square) / square,
    }
    floor = floor_call(plan, channels)
    result = []
    for direction in settings.directions:
        program, compile_s = programs[direction]
        candidates = {"ours": timing.blocking(program, *calls[direction][1])}
        candidates |= {name: call for (name, towards), call in peers.items() if towards == direction}
        if direction != "gradient":
            candidates["floor"] = floor
        else:
            candidates["forward"] = timing.blocking(forward, plan, signal)
        times = timing.alternate(candidates, settings.repeats, settings.seconds)
        row: Row = {
            "part": "so3",
            "grid": grid,
            "bandlimit": bandlimit,
            "channels": channels,
            "dtype": dtype,
            "cores": settings.cores,
            "direction": direction,
            "ours_ms": timing.median_ms(times),
            "compile_s": compile_s,
            "max_error": errors[direction],
            "peers": {},
            "bars": {},
        }
        for name in candidates.keys() - {"ours", "forward", "floor"}:
            row["peers"][name] = {"ms": timing.median_ms(times, name), "ratio": timing.ratio(times, name)}
        if row["peers"] and bandlimit in SPEED_BARS:
            nearest = min(peer["ratio"] for peer in row["peers"].values())
            row["bars"][f"so3_s2fft_{bandlimit}"] = timing.bar(nearest, SPEED_BARS[bandlimit])
            documented = row["peers"].get("s2fft one by one", row["peers"]["s2fft"])["ratio"]
            row["bars"][f"so3_s2fft_one_by_one_{bandlimit}"] = timing.bar(documented, SPEED_BARS[bandlimit])
        if direction != "gradient":
            row["floor_ms"] = timing.median_ms(times, "floor")
            row["floor_fraction"] = timing.ratio(times, "floor")
        if direction == "gradient":
            slower = 1 / timing.ratio(times, "forward")
            row["bars"]["so3_gradient"] = timing.bar(slower, GRADIENT_BAR, at_most=True)
        result.append(row)
    return result


def peer_calls(bandlimit: int, channels: int, dtype: str, sampling: str) -> dict[tuple[str, str], Any]:
    """s2fft's precomputed transforms of real signals by (name, direction)."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from s2fft.precompute_transforms import construct, wigner
    from s2fft.utils.signal_generator import generate_flmn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for complex128 in 32 bits too
        draws = np.random.default_rng(0)
        spectra = np.stack([generate_flmn(draws, bandlimit, bandlimit, reality=True) for _ in range(channels)])
        sizes = {"L": bandlimit, "N": bandlimit, "sampling": sampling, "reality": True, "nside": None}
        calls, data = {}, jnp.asarray(spectra)
        for direction, transform in (
            ("inverse", wigner.inverse_transform_jax),
            ("forward", wigner.forward_transform_jax),
        ):
            kernel = jnp.asarray(
                construct.wigner_kernel(
                    bandlimit, bandlimit, reality=True, sampling=sampling, forward=direction == "forward"
                ),
                dtype,
            )

            def apply(kernel: Any, data: Any, transform: Any = transform) -> Any:
                one = functools.partial(transform, kernel=kernel, **sizes)
                return one(data[0]) if channels == 1 else jax.vmap(one)(data)

            program, _ = timing.compiled(apply, kernel, data)
            calls["s2fft", direction] = timing.blocking(program, kernel, data)
            if channels > 1:
                calls["s2fft one by one", direction] = one_by_one(
                    lambda kernel, x, transform=transform: transform(x, kernel=kernel, **sizes), kernel, data
                )
            if direction == "inverse":
                samples = jnp.asarray(program(kernel, data))
                data = samples.reshape(channels, *samples.shape[-3:])
        return calls


def one_by_one(transform: Any, kernel: Any, data: Any) -> Any:
    """A call of a transform for each channel, that waits for the last."""
    import jax

    program, _ = timing.compiled(transform, kernel, data[0])
    signals = list(data)
    return lambda: jax.block_until_ready([program(kernel, x) for x in signals])


def floor_call(plan: Any, channels: int) -> Any:
    """The products of one transform on operands that lie as they are needed; a single number comes back."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    num_beta, num_alpha, num_gamma = plan.grid_shape
    num_m, num_n = plan.waves.num_m, plan.waves.num_n
    values = np.random.default_rng(1)

    def draw(*shape: int) -> Any:
        return jnp.asarray(values.normal(size=shape), plan.dtype)

    alpha = draw(num_alpha // 2, num_gamma // 2 * num_beta * channels)
    gamma = draw(num_m, num_gamma // 2, num_beta * channels)
    columns = [
        [draw(*table.shape[:2], num_beta, 4 * channels) for _ in range(piece.images)]
        for piece, table in zip(plan.waves.pieces, plan.waves.wigner, strict=True)
    ]

    def products(plan: Any, alpha: Any, gamma: Any, columns: Any) -> Any:
        pairs = []
        for i in range(4):  # the four combinations of cosines and sines; scaled, lest they be found equal
            waves = jnp.broadcast_to(plan.gamma_waves[i % 2][None], (num_m, num_n, num_gamma // 2))
            pairs += [(plan.alpha_waves[i // 2] * (i + 1), alpha), (waves * (i + 1), gamma)]
        for table, images in zip(plan.waves.wigner, columns, strict=True):
            pairs += [(table, data) for data in images]
        # Of a plain sum, or of one entry, XLA would compute less than the product.
        return sum(jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST).max() for a, b in pairs)

    program, _ = timing.compiled(products, plan, alpha, gamma, columns)
    return timing.blocking(program, plan, alpha, gamma, columns)


def memory_row(bandlimit: int) -> Row:
    """Peak memory of a process of its own that goes there and back in float64, with all its libraries."""
    command = [sys.executable, "-m", "benchmarks.transforms_so3", "--memory", str(bandlimit)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    report["bars"] = {"so3_memory_gib": timing.bar(report["peak_gib"], MEMORY_BAR, at_most=True)}
    return report


def measure_memory(bandlimit: int) -> Row:
    """What `memory_row` runs: a round trip of one channel, its error, and the process's peak."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgeo.harmonics import so3

    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(bandlimit, dtype=np.float64)
        spectrum = jnp.asarray(np.random.default_rng(0).normal(size=(plan.num_coefficients, 1)))
        back = jax.jit(so3.so3_analysis)(plan, jax.jit(so3.so3_synthesis)(plan, spectrum))
        error = float(jnp.linalg.norm(back - spectrum) / jnp.linalg.norm(spectrum))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tables = sum(leaf.nbytes for leaf in jax.tree.leaves(plan)) / 2**20
    return {
        "part": "so3_memory",
        "bandlimit": bandlimit,
        "channels": 1,
        "dtype": "float64",
        "max_error": error,
        "peak_gib": peak,
        "tables_mib": tables,
    }


def _flat(call: tuple[Any, tuple]) -> tuple:
    return call[0], *call[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Print rows, one JSON object each, and last the worst row of each bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transforms_so3",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--memory", type=int, metavar="BANDLIMIT")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--bandlimits", type=int, nargs="*", default=BANDLIMITS)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float64"])
    arguments = parser.parse_args(argv)
    if arguments.memory:
        print(json.dumps(measure_memory(arguments.memory)))
        return 0
    timing.pin(arguments.cores)
    sizes = {"bandlimits": tuple(arguments.bandlimits), "channels": CHANNELS}
    found = rows(Settings(cores=arguments.cores, dtypes=tuple(arguments.dtypes), **sizes))
    for row in found:
        print(json.dumps(row))
    print(json.dumps(timing.worst_bars(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
