"""Spherical harmonic transforms: against sums of harmonics, against ducc0, and as linear maps with an adjoint."""

import functools

import ducc0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import latlon
from jaxgeo.harmonics import layout, s2, s2_fourier, s2_maps

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

# Correctness needs no optimised code, and most of the time here is the compiler's.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
analysis, synthesis = compiled(s2.analysis), compiled(s2.synthesis)

GRIDS = {
    "soft": latlon.soft_grid,
    "driscoll_healy": latlon.driscoll_healy_grid,
    "gauss_legendre": latlon.gauss_legendre_grid,
    "even_longitudes": lambda b: latlon.gauss_legendre_grid(b, 2 * b + 2),
}


def random_coefficients(plan: s2.S2Transform, batch: tuple[int, ...] = (), channels: int = 2, seed: int = 0):
    """White coefficients with zeros where none stands or the grid holds none."""
    shape = (*batch, *plan.coefficient_shape, channels)
    mask = layout.native_mask(plan.bandlimit, spin=plan.spin, real=plan.real)
    mask &= layout.native_degrees(plan.bandlimit, real=plan.real) < plan.num_degrees
    order = layout.orders(plan.bandlimit, real=plan.real)[:, None, None]
    mask &= np.abs(order) < plan.num_orders
    kept = np.stack([mask, mask & ((order != 0) | (not plan.real))])[..., None]
    values = np.random.default_rng(seed).normal(size=shape) * kept.reshape((1,) * len(batch) + kept.shape)
    return jnp.asarray(values, plan.dtype)


def random_signal(plan: s2.S2Transform, batch: tuple[int, ...] = (), channels: int = 2, seed: int = 1):
    shape = (*batch, *plan.grid_shape, channels)
    parts = np.random.default_rng(seed).normal(size=(2, *shape))
    return jnp.asarray(parts[0], plan.dtype) if plan.real else jnp.asarray(parts[0] + 1j * parts[1], jnp.complex128)


def harmonics(grid: latlon.LatLonGrid, bandlimit: int) -> np.ndarray:
    """Y_lm (degree, order, lat, lon), by scipy."""
    degree = np.arange(bandlimit)[:, None, None, None]
    order = np.arange(1 - bandlimit, bandlimit)[None, :, None, None]
    theta, phi = grid.colatitudes[:, None], grid.longitudes[None]
    values = scipy.special.sph_harm_y(degree, np.clip(order, -degree, degree), theta, phi)
    return np.where(np.abs(order) <= degree, values, 0)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize(
    ("name", "size", "bandlimit"), [("soft", 4, 4), ("driscoll_healy", 5, 4), ("gauss_legendre", 5, 7)]
)
def test_synthesis_is_the_sum_of_harmonics(name, size, bandlimit, real):
    grid = GRIDS[name](size)
    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(grid, bandlimit, real=real, dtype=jnp.float64)
        coefficients = random_coefficients(plan)
        signal = synthesis(plan, coefficients)
        dense = s2.to_dense(plan, coefficients)
        expected = np.einsum("lmtp,lmc->tpc", harmonics(grid, bandlimit), dense)
        # A few hundred terms of order 1.
        np.testing.assert_allclose(signal, expected, atol=1e-13)
        np.testing.assert_array_equal(s2.from_dense(plan, dense), coefficients)


KINDS = [(name, 0, True) for name in GRIDS] + [
    ("driscoll_healy", 0, False),
    ("driscoll_healy", 2, False),
    ("gauss_legendre", 1, False),
    ("soft", -3, False),
]


@pytest.mark.parametrize(("name", "spin", "real"), KINDS)
def test_analysis_inverts_synthesis_and_both_have_coded_transposes(name, spin, real):
    @compiled
    def everything(plan, coefficients, signal, direction):
        field, pull_synthesis = jax.vjp(lambda c: s2.synthesis(plan, c), coefficients)
        spectrum, pull_analysis = jax.vjp(lambda x: s2.analysis(plan, x), signal)
        _, tangent = jax.jvp(lambda c: s2.synthesis(plan, c), (direction,), (coefficients,))
        mapped = jax.vmap(lambda x: s2.analysis(plan, x), in_axes=-1, out_axes=-1)(signal[..., None])[..., 0]
        again = s2.analysis(plan, field)
        return field, pull_synthesis(signal)[0], spectrum, pull_analysis(direction)[0], tangent, mapped, again

    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(GRIDS[name](7), 6, spin=spin, real=real, dtype=jnp.float64)
        coefficients, signal = random_coefficients(plan, (3,)), random_signal(plan, (3,))
        direction = np.random.default_rng(5).normal(size=coefficients.shape)
        results = everything(plan, coefficients, signal, jnp.asarray(direction))
        field, pulled_signal, spectrum, pulled_direction, tangent, mapped, again = map(np.asarray, results)
        coefficients, signal = np.asarray(coefficients), np.asarray(signal)
    np.testing.assert_allclose(again, coefficients, atol=1e-13)
    # <A x, y> = <x, A* y>: sums of a thousand terms of order 1 and 10.
    np.testing.assert_allclose((spectrum * direction).sum(), (signal * pulled_direction).sum().real, atol=1e-12)
    np.testing.assert_allclose((field * signal).sum().real, (coefficients * pulled_signal).sum(), atol=1e-11)
    np.testing.assert_allclose(tangent, field, atol=1e-13)  # a linear map is its own derivative
    np.testing.assert_allclose(mapped, spectrum, atol=1e-13)


@pytest.mark.parametrize(("name", "spin", "real"), KINDS)
def test_many_channels_are_transformed_as_few_ones_are(name, spin, real):
    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(GRIDS[name](5), 4, spin=spin, real=real, dtype=jnp.float64)
        coefficients = random_coefficients(plan, (2,), channels=s2_maps.FEW_CHANNELS)
        signal = synthesis(plan, coefficients)
        np.testing.assert_allclose(signal[..., :1], synthesis(plan, coefficients[..., :1]), atol=1e-13)
        np.testing.assert_allclose(analysis(plan, signal), coefficients, atol=1e-13)


@pytest.mark.parametrize(("name", "size"), [*((name, 1) for name in GRIDS), ("soft", 2)])
def test_the_smallest_bandlimits_work(name, size):
    plan = s2.plan_s2_transform(GRIDS[name](size))
    coefficients = random_coefficients(plan)
    np.testing.assert_allclose(analysis(plan, synthesis(plan, coefficients)), coefficients, atol=1e-6)  # float32


def test_a_constant_has_one_coefficient():
    plan = s2.plan_s2_transform(latlon.soft_grid(6))
    dense = s2.to_dense(plan, analysis(plan, jnp.ones((12, 12, 1))))
    expected = np.zeros((6, 11, 1))
    expected[0, 5] = np.sqrt(4 * np.pi)
    np.testing.assert_allclose(dense, expected, atol=1e-6)  # float32 rounding of a number of 3.5


def test_long_parallels_go_through_the_fast_fourier_transform(monkeypatch):
    grid = latlon.gauss_legendre_grid(7, 16)
    with jax.enable_x64(True):
        short = s2.plan_s2_transform(grid, dtype=jnp.float64)
        monkeypatch.setattr(s2_fourier, "LONGEST_PRODUCT", 8)
        plan = s2.plan_s2_transform(grid, dtype=jnp.float64)
        assert not plan.fourier
        coefficients, signal = random_coefficients(plan), random_signal(plan)

        def everything(plan, coefficients, signal):
            field, pull_synthesis = jax.vjp(lambda c: s2.synthesis(plan, c), coefficients)
            spectrum, pull_analysis = jax.vjp(lambda x: s2.analysis(plan, x), signal)
            return field, spectrum, pull_synthesis(signal)[0], pull_analysis(coefficients)[0]

        results = compiled(everything)(plan, coefficients, signal)
        monkeypatch.undo()
        expected = compiled(everything)(short, coefficients, signal)
        for actual, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, atol=1e-12)  # sums of a hundred terms of order 1


def test_a_larger_bandlimit_is_filled_with_zeros_and_a_smaller_one_cuts_off():
    grid = latlon.soft_grid(6)
    with jax.enable_x64(True):
        plans = {l: s2.plan_s2_transform(grid, l, dtype=jnp.float64) for l in (4, 6, 9)}
        signal = random_signal(plans[6])
        spectra = {l: analysis(plan, signal) for l, plan in plans.items()}
        for l in (4, 9):
            # The sums are the same, in another order.
            np.testing.assert_allclose(spectra[l], layout.change_bandlimit(spectra[6], l), atol=1e-14)
        coefficients = jax.random.normal(jax.random.key(3), spectra[9].shape, jnp.float64)
        held = layout.change_bandlimit(coefficients, 6)
        np.testing.assert_allclose(synthesis(plans[9], coefficients), synthesis(plans[6], held), atol=1e-12)


def test_the_aliased_form_sums_all_degrees_at_the_orders_that_the_grid_holds():
    grid, bandlimit = latlon.soft_grid(4), 6
    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(grid, bandlimit, dtype=jnp.float64, aliased=True)
        coefficients = random_coefficients(plan)
        dense = s2.to_dense(plan, coefficients)
        expected = np.einsum("lmtp,lmc->tpc", harmonics(grid, bandlimit), dense)
        np.testing.assert_allclose(synthesis(plan, coefficients), expected, atol=1e-13)
        signal = random_signal(plan)
        area = latlon.pixel_areas(grid)
        quadrature = np.einsum("lmtp,tp,tpc->lmc", harmonics(grid, bandlimit).conj(), area, signal)
        held = np.abs(np.arange(1 - bandlimit, bandlimit)) < 4
        actual = s2.to_dense(plan, analysis(plan, signal))
        np.testing.assert_allclose(actual, quadrature * held[None, :, None], atol=1e-13)


def test_a_second_call_traces_nothing(monkeypatch):
    plan = s2.plan_s2_transform(latlon.soft_grid(5), 4)
    traced = []
    for name in ("_rings", "_write"):
        original = getattr(s2_maps, name)
        monkeypatch.setattr(s2_maps, name, lambda *a, f=original: traced.append(1) or f(*a))

    @jax.jit
    @functools.partial(jax.grad, argnums=1)
    def slope(plan, coefficients):
        return jnp.sum(s2.analysis(plan, s2.synthesis(plan, coefficients)) ** 2)

    def run(seed):
        coefficients = random_coefficients(plan, seed=seed)
        signal = s2.synthesis(plan, coefficients)
        s2.analysis(plan, signal)
        jax.vjp(lambda x: s2.analysis(plan, x), signal)[1](coefficients)
        return slope(plan, coefficients)

    run(0)
    assert (first := len(traced)) > 0
    run(1)
    assert len(traced) == first
    # A plan of the same sizes is the same program: only the tables' numbers differ.
    plan = s2.plan_s2_transform(latlon.soft_grid(5), 4)
    run(2)
    assert len(traced) == first


@pytest.mark.parametrize("spin", [0, 2])
@pytest.mark.parametrize("name", ["soft", "driscoll_healy", "gauss_legendre"])
def test_float32_round_trip_stays_below_a_millionth_of_the_largest_coefficient(name, spin):
    plan, bound = s2.plan_s2_transform(GRIDS[name](128), spin=spin, real=spin == 0), 1e-6
    coefficients = random_coefficients(plan, channels=1)
    again = jax.jit(lambda p, c: s2.analysis(p, s2.synthesis(p, c)))(plan, coefficients)
    assert float(jnp.linalg.norm(again - coefficients) / jnp.linalg.norm(coefficients)) < bound
    assert float(jnp.abs(again - coefficients).max() / jnp.abs(coefficients).max()) < bound


@pytest.mark.parametrize("name", ["soft", "driscoll_healy", "gauss_legendre"])
def test_float64_round_trip_holds_at_bandlimit_512(name):
    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(GRIDS[name](512), dtype=jnp.float64)
        coefficients = random_coefficients(plan, channels=1)
        again = jax.jit(lambda p, c: s2.analysis(p, s2.synthesis(p, c)))(plan, coefficients)
        assert float(jnp.abs(again - coefficients).max()) < 1e-12  # coefficients up to 5


GEOMETRY = {"soft": "F1", "driscoll_healy": "DH", "gauss_legendre": "GL"}


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize(("bandlimit", "spin"), [(7, 0), (6, 1), (13, 2), (6, 3)])
def test_synthesis_and_analysis_agree_with_ducc0(name, bandlimit, spin):
    sht = ducc0.sht.experimental
    grid = GRIDS[name](bandlimit)
    rng = np.random.default_rng(bandlimit)
    degree, order = layout.healpy_indices(bandlimit)
    parts = 1 if spin == 0 else 2
    packed = rng.normal(size=(parts, len(degree))) + 1j * rng.normal(size=(parts, len(degree)))
    packed[:, order == 0] = packed[:, order == 0].real
    packed[:, degree < spin] = 0
    where = {"spin": spin, "lmax": bandlimit - 1, "geometry": GEOMETRY[name]}
    field = sht.synthesis_2d(alm=packed, ntheta=grid.shape[0], nphi=grid.shape[1], **where)
    with jax.enable_x64(True):
        plan = s2.plan_s2_transform(grid, spin=spin, real=spin == 0, dtype=jnp.float64)
        if spin == 0:
            coefficients = layout.healpy_to_native(jnp.asarray(packed[0])[:, None])
            signal = jnp.asarray(field[0])[..., None]
        else:
            # Gradient and curl parts E, B of a field Q + i U of spin s: a_lm = -(E_lm + i B_lm), also for m < 0.
            e, b = (layout.native_to_dense(layout.healpy_to_native(jnp.asarray(part)[:, None])) for part in packed)
            coefficients = layout.dense_to_native(-(e + 1j * b), real=False)
            signal = jnp.asarray(field[0] + 1j * field[1])[..., None]
        # 1e-12 of fields up to 1e1.
        np.testing.assert_allclose(synthesis(plan, coefficients), signal, atol=1e-12)
        np.testing.assert_allclose(analysis(plan, signal), coefficients, atol=1e-12)


def test_impossible_plans_say_what_would_work():
    grid = latlon.soft_grid(4)
    with pytest.raises(ConfigError, match="at least 1"):
        s2.plan_s2_transform(grid, 0)
    with pytest.raises(ConfigError, match=r"bandlimit counts degrees .* of at least 1, got 4\.5"):
        unchecked(s2.plan_s2_transform)(grid, 4.5)
    with pytest.raises(ConfigError, match="real=False"):
        s2.plan_s2_transform(grid, spin=1)
    with pytest.raises(ConfigError, match="bandlimit above 4"):
        s2.plan_s2_transform(grid, spin=-4, real=False)
    with pytest.raises(ConfigError, match="enable_x64"):
        s2.plan_s2_transform(grid, dtype=jnp.float64)
    with pytest.raises(ConfigError, match="float32 or float64"):
        s2.plan_s2_transform(grid, dtype=jnp.float16)
    moved = latlon.LatLonGrid(grid.colatitudes, grid.weights, 8, 4, "soft", first_longitude=0.1)
    with pytest.raises(ConfigError, match="begin at 0"):
        s2.plan_s2_transform(moved)
    lopsided = latlon.LatLonGrid(grid.colatitudes[:-1], grid.weights[:-1], 8, 4, "soft")
    with pytest.raises(ConfigError, match="mirror"):
        s2.plan_s2_transform(lopsided)


def test_arrays_that_do_not_fit_the_plan_are_refused():
    plan = s2.plan_s2_transform(latlon.soft_grid(4))
    with pytest.raises(InputError, match=r"\(8, 8\)"):
        s2.analysis(plan, jnp.zeros((8, 7, 1)))
    with pytest.raises(InputError, match="needs float32"):
        s2.analysis(plan, jnp.zeros((8, 8, 1), jnp.complex64))
    with pytest.raises(InputError, match=r"\(2, 4, 2, 2\)"):
        s2.synthesis(plan, jnp.zeros((2, 5, 2, 2, 1)))
