"""Rows of the transform benchmark for S2: ours beside s2fft, torch-harmonics, ducc0 and a floor, on the same grids.

Ours holds channels last, as its users do; the peers' arrays have the channel first, which is their layout. s2fft's
precomputed transform goes through `jax.vmap` or takes channels one by one, the quicker of which counts; its kernel is
built in float64 NumPy and rounded (built in 32-bit JAX it never returns for Gauss-Legendre nodes), and its "dh"
sampling has the rings of the SOFT grid with 2 L - 1 longitudes. torch-harmonics' "equiangular" has as many rings, poles
included. Both stand beside the Driscoll-Healy grid too, for its size; that grid is measured in the first dtype alone.
ducc0 takes one map at a time: with two cores the quicker of two threads per map and two maps at once counts.

The floor is a Fourier transform alone, the quicker of a fast one with longitudes last and of products with tables on
folded meridians, plus the Legendre products alone, folded and without the empty triangle, in the quicker of two layouts
(real and imaginary part apart, or side by side). A gradient is one forward
transform and one transpose; its floor is that of forward and inverse together.
"""

import concurrent.futures
import functools
import importlib
import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

from benchmarks import timing
from benchmarks.timing import Row, Settings

GEOMETRY = {"gl": "GL", "soft": "F1", "dh": "DH"}
TORCH_GRID = {"gl": "legendre-gauss", "soft": "equiangular", "dh": "equiangular"}
S2FFT_SAMPLING = {"gl": "gl", "soft": "dh", "dh": "dh"}
MANY_CHANNELS = 32
ROUND_TRIP = {"float32": 1e-6, "float64": 1e-12}
LARGEST_PLAN_S = {128: 2.0}
Calls = dict[str, Callable[[], Any]]


def rows(settings: Settings) -> list[Row]:
    """All rows: grids, bandlimits, channels, dtypes and directions of the settings."""
    import jax

    result = []
    for grid in settings.grids:
        for bandlimit in settings.bandlimits:
            for dtype in settings.dtypes:
                for channels in settings.channels:
                    with jax.enable_x64(dtype == "float64"):
                        case = Case(settings, grid, bandlimit, channels, dtype)
                        result += [case.row(direction) for direction in settings.directions]
    return result


class Case:
    """One grid, bandlimit, number of channels and dtype: programs and arrays of all candidates."""

    def __init__(self, settings: Settings, grid: str, bandlimit: int, channels: int, dtype: str) -> None:
        import jax
        import jax.numpy as jnp
        import numpy as np

        from jaxgeo.grids import latlon
        from jaxgeo.harmonics import layout, s2

        self.settings, self.grid, self.bandlimit, self.channels, self.dtype = settings, grid, bandlimit, channels, dtype
        builders = {"gl": latlon.gauss_legendre_grid, "soft": latlon.soft_grid, "dh": latlon.driscoll_healy_grid}
        start = time.perf_counter()
        self.lattice = builders[grid](bandlimit)
        self.plan = jax.block_until_ready(s2.plan_s2_transform(self.lattice, dtype=jnp.dtype(dtype)))
        self.plan_s = time.perf_counter() - start
        rng = np.random.default_rng(0)
        mask = layout.native_mask(bandlimit)
        mask = np.stack([mask, mask & (np.arange(bandlimit) > 0)[:, None, None]])[..., None]
        self.coefficients = jnp.asarray(rng.normal(size=(*self.plan.coefficient_shape, channels)) * mask, dtype)
        self.leaves, structure = jax.tree.flatten(self.plan)

        def of_tables(function: Callable[..., Any]) -> Callable[..., Any]:
            return jax.jit(lambda leaves, x: function(jax.tree.unflatten(structure, leaves), x))

        def gradient(plan: Any, signal: Any) -> Any:
            return jax.grad(lambda x: (s2.analysis(plan, x) ** 2).sum() / 2)(signal)

        functions = {"forward": s2.analysis, "inverse": s2.synthesis, "gradient": gradient}
        self.programs = {name: of_tables(function) for name, function in functions.items()}
        start = time.perf_counter()
        self.signal = jax.block_until_ready(self.programs["inverse"](self.leaves, self.coefficients))
        self.first_call_s = {"inverse": time.perf_counter() - start}
        for name in ("forward", "gradient"):
            start = time.perf_counter()
            again = jax.block_until_ready(self.programs[name](self.leaves, self.signal))
            self.first_call_s[name] = time.perf_counter() - start
            if name == "forward":
                self.error = float(jnp.abs(again - self.coefficients).max() / jnp.abs(self.coefficients).max())
        self.arguments = {"forward": self.signal, "inverse": self.coefficients, "gradient": self.signal}
        self.first = np.ascontiguousarray(np.moveaxis(np.asarray(self.signal), -1, 0))  # channels first, for peers
        self.floors = floor_calls(self.plan, self.signal)

    def row(self, direction: str) -> Row:
        """Time all candidates in alternating rounds."""
        candidates: Calls = {"ours": self.call(direction)}
        if direction == "gradient":
            candidates["forward"] = self.call("forward")
        parts = ("forward", "inverse") if direction == "gradient" else (direction,)
        for part in parts:
            candidates |= {f"floor {part} {name}": call for name, call in self.floors[part].items()}
        if self.settings.peers:
            candidates |= self.peers(direction)
        times = timing.alternate(candidates, self.settings.repeats, self.settings.seconds)
        floor = sum(
            min(timing.median_ms(times, key) for key in times if key.startswith(f"floor {part} fourier"))
            + min(timing.median_ms(times, f"floor {part} {way}") for way in ("apart", "beside"))
            for part in parts
        )
        ours = timing.median_ms(times)
        row: Row = {
            "part": "s2",
            "grid": self.grid,
            "bandlimit": self.bandlimit,
            "channels": self.channels,
            "dtype": self.dtype,
            "cores": self.settings.cores,
            "direction": direction,
            "ours_ms": ours,
            "compile_s": self.first_call_s[direction],
            "plan_s": self.plan_s,
            "max_error": self.error,
            "floor_ms": floor,
            "floor_fraction": floor / ours,
            "peers": {},
            "bars": {"floor": timing.bar(floor / ours, 0.5)},
        }
        if direction == "forward":
            row["bars"]["round trip"] = timing.bar(self.error, ROUND_TRIP[self.dtype], at_most=True)
            if self.bandlimit in LARGEST_PLAN_S:
                row["bars"]["plan"] = timing.bar(self.plan_s, LARGEST_PLAN_S[self.bandlimit], at_most=True)
        if direction == "gradient":
            row["bars"]["gradient / forward"] = timing.bar(1 / timing.ratio(times, "forward"), 2.5, at_most=True)
        for name in ("s2fft", "torch-harmonics", "ducc0"):
            found = [key for key in times if key.split(",")[0] == name]
            if not found:
                continue
            best = min(found, key=lambda key: timing.median_ms(times, key))
            value = timing.ratio(times, best)
            row["peers"][name] = {"ms": timing.median_ms(times, best), "ratio": value, "way": best}
            many = self.channels >= MANY_CHANNELS
            needed = {"s2fft": 5.0 if many else 1.0, "torch-harmonics": 1.3, "ducc0": 1.0}[name]
            label = f"{name}, {'many channels' if many else 'few channels'}" if name == "s2fft" else name
            row["bars"][label] = timing.bar(value, needed)
        return row

    def call(self, direction: str) -> Callable[[], Any]:
        """Ours; the tables are arguments."""
        return timing.blocking(self.programs[direction], self.leaves, self.arguments[direction])

    def peers(self, direction: str) -> Calls:
        """Candidates by name; what follows a comma tells ways of one peer apart."""
        calls = {"s2fft": self.s2fft_calls, "torch_harmonics": self.torch_calls, "ducc0": self.ducc_calls}
        return {key: call for name in calls if timing.installed(name) for key, call in calls[name](direction).items()}

    def s2fft_calls(self, direction: str) -> Calls:
        """The precomputed transform under `vmap`; its gradient is that of the sum of squares, by autodiff."""
        import jax
        import jax.numpy as jnp
        from s2fft.precompute_transforms import spherical

        sampling, length = S2FFT_SAMPLING[self.grid], self.bandlimit
        kernel = jnp.asarray(s2fft_kernel(length, sampling, direction != "inverse"), self.dtype)

        def forward(kernel: Any, f: Any) -> Any:
            return spherical.forward_transform_jax(f, kernel, length, sampling, True, 0, None)

        def inverse(kernel: Any, flm: Any) -> Any:
            return spherical.inverse_transform_jax(flm, kernel, length, sampling, True, 0, None)

        def gradient(kernel: Any, signals: Any) -> Any:
            def loss(signals: Any) -> Any:
                return (jnp.abs(jax.vmap(functools.partial(forward, kernel))(signals)) ** 2).sum() / 2

            return jax.grad(loss)(signals)

        signals = jnp.asarray(self.first[..., : 2 * length - 1])
        flm = jnp.zeros((self.channels, length, 2 * length - 1), jnp.result_type(self.dtype, jnp.complex64)) + 1
        program, one, argument = {
            "forward": (jax.vmap(forward, (None, 0)), forward, signals),
            "inverse": (jax.vmap(inverse, (None, 0)), inverse, flm),
            "gradient": (gradient, lambda kernel, signal: gradient(kernel, signal[None]), signals),
        }[direction]
        calls = {"s2fft": timing.blocking(jax.jit(program), kernel, argument)}
        if self.channels > 1:
            single, channels = jax.jit(one), list(argument)
            calls["s2fft, one by one"] = lambda: jax.block_until_ready([single(kernel, each) for each in channels])
        return calls

    def torch_calls(self, direction: str) -> Calls:
        """RealSHT and InverseRealSHT, tables in the dtype of the signal."""
        import torch

        sht = torch_sht()
        torch.set_num_threads(self.settings.cores)
        sizes = {"lmax": self.bandlimit, "mmax": self.bandlimit, "grid": TORCH_GRID[self.grid]}
        dtype = getattr(torch, self.dtype)
        forward = sht.RealSHT(*self.lattice.shape, **sizes).to(dtype)
        signals = torch.from_numpy(self.first)
        if direction == "gradient":
            signals.requires_grad_()

            def gradient() -> Any:
                spectrum = torch.view_as_real(forward(signals))
                return torch.autograd.grad((spectrum**2).sum() / 2, signals)

            return {"torch-harmonics": gradient}
        with torch.no_grad():
            spectrum = forward(signals)
        inverse = sht.InverseRealSHT(*self.lattice.shape, **sizes).to(dtype)

        def call() -> Any:
            with torch.no_grad():
                return forward(signals) if direction == "forward" else inverse(spectrum)

        return {"torch-harmonics": call}

    def ducc_calls(self, direction: str) -> Calls:
        """Quadrature is the adjoint of synthesis with the weights as ring factors: quicker than `analysis_2d`."""
        import ducc0
        import numpy as np

        sht = ducc0.sht.experimental
        weights = np.asarray(self.lattice.weights) * 2 * np.pi / self.lattice.num_longitudes
        where = {"spin": 0, "lmax": self.bandlimit - 1, "geometry": GEOMETRY[self.grid]}
        size = {"ntheta": self.lattice.shape[0], "nphi": self.lattice.shape[1]}

        def forward(channel: int, threads: int) -> Any:
            signal = self.first[channel : channel + 1]
            return sht.adjoint_synthesis_2d(map=signal, ringfactor=weights, nthreads=threads, **where)

        packed = [forward(channel, 1) for channel in range(self.channels)]

        def inverse(channel: int, threads: int) -> Any:
            return sht.synthesis_2d(alm=packed[channel], nthreads=threads, **size, **where)

        def gradient(channel: int, threads: int) -> Any:
            spectrum = forward(channel, threads)
            return sht.synthesis_2d(alm=spectrum, ringfactor=weights, nthreads=threads, **size, **where)

        one = {"forward": forward, "inverse": inverse, "gradient": gradient}[direction]
        cores = self.settings.cores
        calls: Calls = {"ducc0": lambda: [one(channel, cores) for channel in range(self.channels)]}
        if cores > 1 and self.channels > 1:
            pool = concurrent.futures.ThreadPoolExecutor(cores)
            calls["ducc0, maps at once"] = lambda: list(pool.map(lambda c: one(c, 1), range(self.channels)))
        return calls


def floor_calls(plan: Any, signal: Any) -> dict[str, Calls]:
    """Per direction the Fourier transform alone in two ways, and the Legendre products alone in two layouts."""
    import jax
    import jax.numpy as jnp

    rows_first = [table for blocks in plan.blocks for table in blocks]
    rings_first = [table for blocks in plan.turned for table in blocks]
    channels, dtype = signal.shape[-1], signal.dtype
    key = jax.random.key(0)

    def random(*shape: int) -> Any:
        return jax.random.normal(key, shape, dtype)

    last = jnp.moveaxis(signal, 1, -1) + 0
    spectrum = jnp.fft.rfft(last)
    longitudes = plan.grid_shape[1]
    result: dict[str, Calls] = {}

    @jax.jit
    def products(tables: Any, operands: Any) -> Any:
        along = (((3,), (2,)), ((0, 1), (0, 1)))
        return [jax.lax.dot_general(*pair, along) for pair in zip(tables, operands, strict=True)]

    for direction, tables in (("forward", rows_first), ("inverse", rings_first)):
        shapes = [(*table.shape[:2], table.shape[3]) for table in tables]
        apart = [random(*shape, channels) for shape in shapes for _ in range(2)]
        beside = [random(*shape, 2 * channels) for shape in shapes]
        twice = [table for table in tables for _ in range(2)]
        if direction == "forward":
            transform = timing.blocking(jax.jit(jnp.fft.rfft), last)
        else:
            transform = timing.blocking(jax.jit(lambda f: jnp.fft.irfft(f, longitudes)), spectrum)
        result[direction] = {
            "fourier, fast": transform,
            "apart": timing.blocking(products, twice, apart),
            "beside": timing.blocking(products, tables, beside),
        }
        fourier = plan.fourier if direction == "forward" else plan.turned_fourier
        matrices = [table for pair in fourier for table in pair]
        if matrices:
            columns = 2 * len(plan.weights) * channels
            parts = [random(table.shape[1], columns) for table in matrices]
            folded = jax.jit(lambda tables, parts: [a @ b for a, b in zip(tables, parts, strict=True)])
            result[direction]["fourier, folded"] = timing.blocking(folded, matrices, parts)
    return result


@functools.cache
def s2fft_kernel(bandlimit: int, sampling: str, forward: bool) -> Any:
    """The float64 kernel; kept in the folder that the parent process gives, since building one takes seconds."""
    import numpy as np
    from s2fft.precompute_transforms import construct

    folder = os.environ.get("JAXGEO_BENCH_CACHE")
    path = folder and os.path.join(folder, f"{sampling}-{bandlimit}-{forward}.npy")
    if path and os.path.exists(path):
        return np.load(path, allow_pickle=False)
    kernel = construct.spin_spherical_kernel(bandlimit, 0, True, sampling, forward=forward)
    if path:
        np.save(path, kernel)
    return kernel


@functools.cache
def torch_sht() -> Any:
    """torch-harmonics' transform module: alone where its compiled parts do not load beside the installed torch."""
    try:
        return importlib.import_module("torch_harmonics.sht")
    except ImportError:
        spec = importlib.util.find_spec("torch_harmonics")
        if spec is None or spec.submodule_search_locations is None:
            raise
        package = types.ModuleType("torch_harmonics")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["torch_harmonics"] = package
        return importlib.import_module("torch_harmonics.sht")
