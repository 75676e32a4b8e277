"""Rows of the transform benchmark for HEALPix maps: against healpy, ducc0 and, where it ends in time, s2fft.

    python -m benchmarks.transforms_healpix             # two cores; --cores 1 for one

nside is half the bandlimit. healpy and ducc0 compute in float64 and take one map at a time. Directions: "forward" is
analysis with the three refinements that healpy makes by default, "forward0" plain quadrature, "inverse" synthesis,
"gradient" that of half the sum of squares of "forward0", value included. `compile_s` is the first call's tracing and
compiling; the bar of the first call holds for it and `plan_s`, the building of the tables, together. `max_error` is
each direction's own: relative to healpy's result, or of the gradient how far it is from the transpose of "forward0".
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import timing
from benchmarks.timing import Row, Settings

ONE_MAP_BAR = 0.5  # healpy's time over ours at one map: at most twice as slow
MANY_MAPS_BAR = 1.0  # at 32 maps
FIRST_CALL_BAR = 3.0  # seconds at bandlimit 128
GRADIENT_BAR = 2.5  # times the forward transform
DIRECTIONS = ("forward", "forward0", "inverse", "gradient")
S2FFT_BANDLIMIT = 32  # beyond it its tables take minutes


def rows(settings: Settings) -> list[Row]:
    """All rows, for the settings' bandlimits (even ones), channels, dtypes and directions."""
    import jax

    result = []
    for bandlimit in settings.bandlimits:
        for dtype in settings.dtypes:
            with jax.enable_x64(dtype == "float64"):
                for channels in settings.channels:
                    result += size_rows(settings, bandlimit, channels, dtype)
    return result


def size_rows(settings: Settings, bandlimit: int, channels: int, dtype: str) -> list[Row]:
    """All directions at one size."""
    import time

    import healpy
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgeo.harmonics import healpix, layout

    nside = bandlimit // 2
    start = time.perf_counter()
    plan = jax.block_until_ready(healpix.plan_healpix_transform(nside, bandlimit, dtype=np.dtype(dtype)))
    plan_s = time.perf_counter() - start
    maps = np.random.default_rng(0).standard_normal((12 * nside**2, channels))
    lmax = bandlimit - 1
    packed = [healpy.map2alm(np.ascontiguousarray(one), lmax=lmax, iter=0, pol=False) for one in maps.T]
    coefficients = layout.healpy_to_native(jnp.asarray(np.stack(packed, -1), np.result_type(np.complex64, dtype)))
    values = jnp.asarray(maps, dtype)

    def gradient(plan: Any, values: Any) -> Any:
        return jax.value_and_grad(lambda f: (healpix.healpix_analysis(plan, f, 0) ** 2).sum() / 2)(values)

    calls = {
        "forward": (lambda plan, f: healpix.healpix_analysis(plan, f, 3), (plan, values)),
        "forward0": (lambda plan, f: healpix.healpix_analysis(plan, f, 0), (plan, values)),
        "inverse": (healpix.healpix_synthesis, (plan, coefficients)),
        "gradient": (gradient, (plan, values)),
    }
    peers = peer_calls(settings, nside, bandlimit, maps, packed) if settings.peers else {}
    programs = {direction: timing.compiled(function, *given) for direction, (function, given) in calls.items()}
    plain = programs["forward0"][0]

    results = {direction: programs[direction][0](*given) for direction, (_, given) in calls.items()}
    errors = errors_of(results, maps, packed, nside)
    square = np.linalg.norm(np.asarray(results["forward0"], np.float64)) ** 2
    errors["gradient"] = abs(np.vdot(np.asarray(results["gradient"][1], np.float64), values) - square) / square
    result = []
    for direction in DIRECTIONS:
        arguments = calls[direction][1]
        program, compile_s = programs[direction]
        candidates = {"ours": timing.blocking(program, *arguments)}
        candidates |= {name: call for (name, towards), call in peers.items() if towards == direction}
        if direction == "gradient":
            candidates["forward0"] = timing.blocking(plain, plan, values)
        times = timing.alternate(candidates, settings.repeats, settings.seconds)
        row: Row = {
            "part": "healpix",
            "grid": "healpix",
            "bandlimit": bandlimit,
            "channels": channels,
            "dtype": dtype,
            "cores": settings.cores,
            "direction": direction,
            "ours_ms": timing.median_ms(times),
            "plan_s": plan_s,
            "compile_s": compile_s,
            "max_error": errors[direction],
            "peers": {},
            "bars": {},
        }
        for name in candidates.keys() - {"ours", "forward0"}:
            row["peers"][name] = {"ms": timing.median_ms(times, name), "ratio": timing.ratio(times, name)}
        if "healpy" in row["peers"]:
            needed, name = (ONE_MAP_BAR, "one_map") if channels == 1 else (MANY_MAPS_BAR, "many_maps")
            row["bars"][f"healpix_healpy_{name}"] = timing.bar(row["peers"]["healpy"]["ratio"], needed)
        if direction == "gradient":
            slower = 1 / timing.ratio(times, "forward0")
            row["bars"]["healpix_gradient"] = timing.bar(slower, GRADIENT_BAR, at_most=True)
        elif bandlimit == 128:
            row["bars"]["healpix_first_call"] = timing.bar(plan_s + compile_s, FIRST_CALL_BAR, at_most=True)
        result.append(row)
    return result


def errors_of(results: dict[str, Any], maps: Any, packed: Any, nside: int) -> dict[str, float]:
    """Each direction's distance from healpy's result, relative."""
    import healpy
    import numpy as np

    from jaxgeo.harmonics import layout

    lmax = healpy.Alm.getlmax(len(packed[0]))
    expected = {
        "forward": [healpy.map2alm(np.ascontiguousarray(one), lmax=lmax, pol=False) for one in maps.T],
        "forward0": packed,
        "inverse": [healpy.alm2map(a, nside, lmax=lmax, pol=False) for a in packed],
    }
    errors = {}
    for direction, lists in expected.items():
        found = results[direction] if direction == "inverse" else layout.native_to_healpy(results[direction])
        errors[direction] = float(np.linalg.norm(np.asarray(found).T - lists) / np.linalg.norm(lists))
    return errors


def peer_calls(settings: Settings, nside: int, bandlimit: int, maps: Any, packed: Any) -> dict[tuple[str, str], Any]:
    """Calls that transform all maps, by (peer, direction)."""
    import ducc0
    import healpy
    import numpy as np

    lmax = bandlimit - 1
    single = [np.ascontiguousarray(one) for one in maps.T]
    geometry = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    common = {"lmax": lmax, "spin": 0, "nthreads": settings.cores, **geometry}
    calls = {
        ("healpy", "forward"): lambda: [healpy.map2alm(f, lmax=lmax, iter=3, pol=False) for f in single],
        ("healpy", "forward0"): lambda: [healpy.map2alm(f, lmax=lmax, iter=0, pol=False) for f in single],
        ("healpy", "inverse"): lambda: [healpy.alm2map(a, nside, lmax=lmax, pol=False) for a in packed],
        ("ducc0", "forward0"): lambda: [ducc0.sht.adjoint_synthesis(map=f[None], **common) for f in single],
        ("ducc0", "inverse"): lambda: [ducc0.sht.synthesis(alm=a[None], **common) for a in packed],
    }
    if bandlimit <= S2FFT_BANDLIMIT and timing.installed("s2fft"):
        calls |= s2fft_calls(nside, bandlimit, maps)
    return calls


def s2fft_calls(nside: int, bandlimit: int, maps: Any) -> dict[tuple[str, str], Any]:
    """s2fft's precomputed transform in float64, maps by `jax.vmap`, without refinement."""
    import warnings

    import jax
    import jax.numpy as jnp
    from s2fft.precompute_transforms import construct, spherical

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = construct.spin_spherical_kernel_jax(
            L=bandlimit, spin=0, reality=True, sampling="healpix", nside=nside, forward=True
        )

        def one(f: Any) -> Any:
            return spherical.forward_transform_jax(f, kernel, bandlimit, "healpix", True, 0, nside)

        batch = jnp.asarray(maps.T)
        program = jax.jit(jax.vmap(one)).lower(batch).compile()
    return {("s2fft", "forward0"): timing.blocking(program, batch)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transforms_healpix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--bandlimits", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    arguments = parser.parse_args(argv)
    timing.pin(arguments.cores)
    settings = Settings(
        cores=arguments.cores,
        bandlimits=tuple(arguments.bandlimits),
        channels=tuple(arguments.channels),
        dtypes=tuple(arguments.dtypes),
    )
    found = rows(settings)
    for row in found:
        peers = "  ".join(f"{name} {peer['ms']:.2f} ({peer['ratio']:.2f}x)" for name, peer in row["peers"].items())
        print(
            f"L {row['bandlimit']:4d} channels {row['channels']:3d} {row['dtype']} {row['direction']:9s} "
            f"{row['ours_ms']:9.2f} ms  compile {row['compile_s']:.1f} s  error {row['max_error']:.1e}  {peers}"
        )
    print(json.dumps({"rows": found, "bars": timing.worst_bars(found)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
