"""Transforms of HEALPix maps against healpy, ducc0, plain sums over pixels, and the rules of linear algebra."""

import functools

import ducc0
import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix import reorder
from jaxgeo.harmonics import healpix_steps, healpix_tables, layout
from jaxgeo.harmonics.healpix import (
    from_dense,
    healpix_analysis,
    healpix_least_squares,
    healpix_residual,
    healpix_synthesis,
    plan_healpix_transform,
    to_dense,
)
from jaxgeo.harmonics.wigner import wigner_d_columns

# Sums of up to 1e4 terms of order one in float64, in another order than the peer's.
EXACT = 1e-12


def random_maps(plan, *batch, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    shape = (*batch, 12 * plan.nside**2, channels)
    maps = rng.standard_normal(shape)
    return jnp.asarray(maps if plan.real else maps + 1j * rng.standard_normal(shape))


def random_native(plan, *batch, channels=1, seed=1):
    values = np.random.default_rng(seed).standard_normal((*batch, *plan.coefficient_shape, channels))
    mask = layout.native_mask(plan.bandlimit, spin=plan.spin, real=plan.real)
    both = np.stack(
        [mask, mask & ((layout.orders(plan.bandlimit, real=plan.real) != 0) | (not plan.real))[:, None, None]]
    )
    return jnp.asarray(values * both[..., None])


def harmonics(plan):
    """Conjugate harmonics at the pixels, (order, degree, pixel), from the Wigner function."""
    theta, phi = healpy.pix2ang(plan.nside, np.arange(12 * plan.nside**2), nest=plan.order == "nested")
    m = np.arange(1 - plan.bandlimit, plan.bandlimit)
    columns = wigner_d_columns(plan.bandlimit, m, np.full_like(m, -plan.spin), theta)
    norm = (-1) ** plan.spin * np.sqrt((2 * np.arange(plan.bandlimit) + 1) / (4 * np.pi))
    return columns * norm[:, None] * np.exp(-1j * m[:, None, None] * phi)


# Orders beyond the shortest rings' length fold back; nside 1 and 2 have no or one ring in a cap.
@pytest.mark.parametrize(("nside", "bandlimit"), [(1, 3), (2, 4), (8, 24), (16, 31), (64, 97)])
def test_analysis_and_synthesis_equal_healpy(nside, bandlimit):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(nside, bandlimit, dtype=jnp.float64)
        maps = random_maps(plan)
        pixels = np.asarray(maps[:, 0])
        for iterations in (0, 3):
            expected = healpy.map2alm(pixels, lmax=bandlimit - 1, iter=iterations, pol=False)
            found = layout.native_to_healpy(healpix_analysis(plan, maps, iterations))[:, 0]
            np.testing.assert_allclose(found, expected, atol=EXACT)
        coefficients = layout.healpy_to_native(jnp.asarray(expected)[:, None])
        expected = healpy.alm2map(expected, nside, lmax=bandlimit - 1, pol=False)
        np.testing.assert_allclose(healpix_synthesis(plan, coefficients)[:, 0], expected, atol=EXACT)


@pytest.mark.parametrize(("nside", "bandlimit", "spin"), [(4, 7, 1), (16, 32, 2), (8, 17, 3)])
def test_spin_fields_equal_healpy_and_ducc0(nside, bandlimit, spin):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(nside, bandlimit, spin=spin, dtype=jnp.float64)
        maps = random_maps(plan)
        pair = [np.ascontiguousarray(maps[:, 0].real), np.ascontiguousarray(maps[:, 0].imag)]
        degree, order = layout.healpy_indices(bandlimit)
        electric, magnetic = healpy.map2alm_spin(pair, spin, lmax=bandlimit - 1)
        native = healpix_analysis(plan, maps, 0)
        found = to_dense(plan, native)[degree, bandlimit - 1 + order, 0]
        np.testing.assert_allclose(found, -(electric + 1j * magnetic), atol=EXACT)
        geometry = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
        expected = ducc0.sht.synthesis(
            alm=np.stack([electric, magnetic]), lmax=bandlimit - 1, spin=spin, nthreads=1, **geometry
        )
        expected = np.asarray(healpy.alm2map_spin([electric, magnetic], nside, spin, bandlimit - 1)), expected
        found = healpix_synthesis(plan, native)[:, 0]
        for peer in expected:
            np.testing.assert_allclose(np.stack([found.real, found.imag]), peer, atol=EXACT)


@pytest.mark.parametrize(("nside", "bandlimit", "spin"), [(32, 61, 2), (64, 70, 3)])
def test_refined_spin_fields_equal_the_same_refinement_by_ducc0(nside, bandlimit, spin):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(nside, bandlimit, spin=spin, dtype=jnp.float64)
        maps = random_maps(plan)
        geometry = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
        sizes = {"lmax": bandlimit - 1, "spin": spin, "nthreads": 1, **geometry}
        pair = np.stack([maps[:, 0].real, maps[:, 0].imag])
        fields = np.zeros((2, len(layout.healpy_indices(bandlimit)[0])), complex)
        for _ in range(4):
            remainder = pair - ducc0.sht.synthesis(alm=fields, **sizes)
            fields = fields + ducc0.sht.adjoint_synthesis(map=remainder, **sizes) * (4 * np.pi / (12 * nside**2))
        degree, order = layout.healpy_indices(bandlimit)
        found = to_dense(plan, healpix_analysis(plan, maps, 3))[degree, bandlimit - 1 + order, 0]
        np.testing.assert_allclose(found, -(fields[0] + 1j * fields[1]), atol=EXACT)


@pytest.mark.parametrize(("spin", "bandlimit", "order"), [(0, 9, "ring"), (-2, 8, "nested")])
def test_complex_fields_equal_the_plain_sum_over_pixels(spin, bandlimit, order):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(4, bandlimit, spin=spin, real=False, order=order, dtype=jnp.float64)
        maps = random_maps(plan, 2, channels=3)
        conjugate = harmonics(plan)
        native = healpix_analysis(plan, maps, 0)
        dense = to_dense(plan, native)
        expected = np.einsum("mlp,bpc->blmc", conjugate, maps) * (4 * np.pi / 192)
        np.testing.assert_allclose(dense, expected, atol=EXACT)
        np.testing.assert_allclose(from_dense(plan, dense), native, atol=EXACT)
        expected = np.einsum("mlp,blmc->bpc", conjugate.conj(), dense)
        np.testing.assert_allclose(healpix_synthesis(plan, native), expected, atol=EXACT)


TRANSFORMS = {
    "quadrature": functools.partial(healpix_analysis, iterations=0),
    "refined": healpix_analysis,
    "to a tolerance": functools.partial(healpix_analysis, iterations=60, tolerance=1e-14),
    "least squares": functools.partial(healpix_least_squares, tolerance=1e-14),
}


@pytest.mark.parametrize(
    ("name", "spin", "real", "bandlimit"),
    [
        ("quadrature", 0, True, 9),
        ("refined", 2, False, 8),
        ("to a tolerance", 0, True, 7),
        ("least squares", 1, False, 5),
        ("least squares", 0, True, 9),
    ],
)
def test_reverse_mode_is_the_adjoint(name, spin, real, bandlimit):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(4, bandlimit, spin=spin, real=real, dtype=jnp.float64)
        maps, weights = random_maps(plan, channels=2), random_native(plan, channels=2)
        out, pull = jax.vjp(functools.partial(TRANSFORMS[name], plan), maps)
        (gradient,) = pull(weights)
        left, right = jnp.sum(out * weights), jnp.sum(gradient * maps).real
        size = jnp.linalg.norm(out.ravel()) * jnp.linalg.norm(weights.ravel())
        # A solver stops where its residual is 1e-14, and forward and transposed solve stop at different places.
        np.testing.assert_allclose(left, right, atol=(EXACT if name != "to a tolerance" else 1e-11) * size)
        _, tangent = jax.jvp(functools.partial(TRANSFORMS[name], plan), (maps,), (maps,))
        np.testing.assert_allclose(tangent, out, atol=1e-12)


@pytest.mark.parametrize(("spin", "real"), [(0, True), (1, False)])
def test_reverse_mode_of_synthesis_is_the_adjoint_and_ignores_empty_places(spin, real):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(4, 7, spin=spin, real=real, dtype=jnp.float64)
        everywhere = jnp.asarray(np.random.default_rng(3).standard_normal((*plan.coefficient_shape, 1)))
        inside = random_native(plan) != 0
        out, pull = jax.vjp(functools.partial(healpix_synthesis, plan), everywhere)
        maps = random_maps(plan)
        (gradient,) = pull(maps)
        np.testing.assert_allclose(jnp.sum(out * maps).real, jnp.sum(gradient * everywhere), rtol=EXACT)
        np.testing.assert_allclose(jnp.where(inside, 0, gradient), 0, atol=EXACT)
        np.testing.assert_allclose(healpix_synthesis(plan, jnp.where(inside, everywhere, 0)), out, atol=EXACT)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=2)
def test_least_squares_inverts_synthesis_up_to_three_nside(seed):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(4, 11, dtype=jnp.float64)
        coefficients = random_native(plan, 2, channels=2, seed=seed)
        found = healpix_least_squares(plan, healpix_synthesis(plan, coefficients), 1e-13, 200)
        np.testing.assert_allclose(found, coefficients, atol=1e-10)  # tolerance times the matrix's condition


def test_least_squares_is_the_pseudo_inverse_where_coefficients_outnumber_pixels():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(1, 5, real=False, dtype=jnp.float64)
        maps = random_maps(plan)
        matrix = harmonics(plan).conj().reshape(-1, 12).T  # 12 pixels, 45 places, 25 of them coefficients
        expected = np.linalg.pinv(matrix, rcond=1e-10) @ np.asarray(maps)
        found = to_dense(plan, healpix_least_squares(plan, maps, 1e-13, 200))
        np.testing.assert_allclose(found.transpose(1, 0, 2).reshape(-1, 1), expected, atol=1e-10)


def test_a_stated_error_is_reached_and_ends_the_refinement():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(8, 12, dtype=jnp.float64)
        coefficients = random_native(plan)
        maps = healpix_synthesis(plan, coefficients)
        errors = [
            float(jnp.linalg.norm((healpix_analysis(plan, maps, 50, tolerance) - coefficients).ravel()))
            / float(jnp.linalg.norm(coefficients.ravel()))
            for tolerance in (1e-3, 1e-6, 1e-12)
        ]
        # What remains after a correction is smaller than the correction, since the iteration contracts by more than 2.
        assert np.all(np.array(errors) < [1e-3, 1e-6, 1e-12])
        assert errors[0] > 1e-9  # it has not gone on to the end


def test_iterations_that_do_not_suffice_are_no_answer():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(4, 12, dtype=jnp.float64)
        maps = healpix_synthesis(plan, random_native(plan))
        with pytest.raises(InputError, match=r"3 iterations leave .* more than the tolerance 1e-10 allows"):
            healpix_analysis(plan, maps, 3, 1e-10)
        with pytest.raises(InputError, match="2 iterations leave"):
            healpix_least_squares(plan, random_maps(plan), 1e-12, 2)
        assert healpix_residual(plan, maps, healpix_analysis(plan, maps, 3)).item() > 1e-4
        assert healpix_residual(plan, maps, healpix_analysis(plan, maps, 60, 1e-10)).item() < 1e-10


@pytest.mark.parametrize(("spin", "real"), [(0, True), (2, False)])
def test_compiled_iterations_that_do_not_suffice_are_not_numbers(spin, real):
    with jax.enable_x64(True), jax.debug_nans(False):
        plan = plan_healpix_transform(4, 8, spin=spin, real=real, dtype=jnp.float64)
        # The second map is nothing, which quadrature finds at once.
        maps = jnp.concatenate([random_maps(plan, 2), jnp.zeros((2, 192, 1), plan.dtype)], -1)
        maps = maps if real else maps.astype(complex)
        for solve in (
            functools.partial(healpix_analysis, iterations=2, tolerance=1e-10),
            functools.partial(healpix_least_squares, max_iterations=2, tolerance=1e-10),
        ):
            found = jax.jit(solve)(plan, maps)
            assert jnp.isnan(found[..., 0]).all()
            np.testing.assert_allclose(healpix_synthesis(plan, found[..., 1:]), maps[..., 1:], atol=EXACT)
            gradient = jax.jit(jax.grad(lambda maps, solve=solve: jnp.sum(solve(plan, maps)).real))(maps)
            assert jnp.isnan(gradient[..., 0]).all()
            assert jnp.isfinite(gradient[..., 1]).all()


def test_the_residual_is_the_part_of_the_map_that_quadrature_still_sees():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(2, 4, spin=1, dtype=jnp.float64)
        maps, some = random_maps(plan, 2), random_native(plan, 2)
        conjugate = harmonics(plan)
        whole, rest = (
            np.linalg.norm(np.einsum("mlp,bpc->blmc", conjugate, x), axis=(1, 2))
            for x in (maps, maps - healpix_synthesis(plan, some))
        )
        for least_squares in (False, True):
            found = healpix_residual(plan, maps, some, least_squares=least_squares)
            np.testing.assert_allclose(found, rest / whole, rtol=EXACT)


@pytest.mark.parametrize("name", ["analysis", "least squares"])
def test_each_map_stops_by_itself(name):
    with jax.enable_x64(True):
        plan = plan_healpix_transform(2, 4, dtype=jnp.float64)
        solve = {
            "analysis": functools.partial(healpix_analysis, plan, iterations=30, tolerance=1e-3),
            "least squares": functools.partial(healpix_least_squares, plan, tolerance=1e-3),
        }[name]
        # The first is one degree, which a step or two find; the second is not.
        easy = healpix_synthesis(plan, random_native(plan) * (layout.native_degrees(4) == 0)[None, ..., None])
        both = solve(jnp.concatenate([easy + 1e-2 * random_maps(plan, seed=3), random_maps(plan)], -1))
        alone = solve(easy + 1e-2 * random_maps(plan, seed=3))
        # Rounding: one more step would change the third digit after the first.
        np.testing.assert_allclose(both[..., :1], alone, atol=EXACT)


def test_derivatives_of_least_squares_are_the_exact_ones_to_the_tolerance():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(2, 4, dtype=jnp.float64)
        maps, weights, tolerance = random_maps(plan), random_native(plan), 1e-4
        out, pull = jax.vjp(functools.partial(healpix_least_squares, plan, tolerance=tolerance), maps)
        size = jnp.linalg.norm(out.ravel()) * jnp.linalg.norm(weights.ravel())
        exact, exact_pull = jax.vjp(functools.partial(healpix_least_squares, plan, tolerance=1e-14), maps)
        # One tolerance for each solve; the system's condition is 1.3 here.
        np.testing.assert_allclose(jnp.sum(out * weights), jnp.sum(pull(weights)[0] * maps), atol=2.6e-4 * size)
        for found, expected in ((out, exact), (pull(weights)[0], exact_pull(weights)[0])):
            error = jnp.linalg.norm((found - expected).ravel()) / jnp.linalg.norm(expected.ravel())
            assert 1e-12 < error < 1.3 * tolerance


def test_ring_weights_integrate_zonal_degrees_and_come_near_healpys():
    weights = healpix_tables.ring_weights(8)
    ring = np.minimum(np.arange(31), 30 - np.arange(31))
    z = healpy.ringinfo(8, np.arange(1, 32))[2]
    sizes = 4 * np.minimum(np.minimum(np.arange(1, 32), 31 - np.arange(31)), 8)
    for degree in range(0, 31):
        mean = np.sum(sizes * weights[ring] * np.polynomial.legendre.Legendre.basis(degree)(z)) / 768
        np.testing.assert_allclose(mean, degree == 0, atol=1e-13)
    with jax.enable_x64(True):
        plain = plan_healpix_transform(8, 20, dtype=jnp.float64)
        weighted = plan_healpix_transform(8, 20, use_ring_weights=True, dtype=jnp.float64)
        zonal = random_native(plain) * (jnp.arange(20) == 0)[None, :, None, None, None]
        maps = healpix_synthesis(plain, zonal * (layout.native_degrees(20) < 12)[None, ..., None])
        expected = healpix_least_squares(plain, maps, 1e-14)
        found = healpix_analysis(weighted, maps, 0)
        np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-12)  # products of degree below 31


def test_nested_maps_batches_and_many_columns_change_nothing():
    ring, nested = (plan_healpix_transform(4, 8, order=order) for order in ("ring", "nested"))
    maps = random_maps(ring, 3, channels=6).astype(jnp.float32)  # 18 columns: more than are taken at a time
    expected = healpix_analysis(ring, maps)
    turned = jnp.moveaxis(reorder(jnp.moveaxis(maps, -1, -2), "ring", "nested"), -1, -2)
    # float32: sums of 192 terms of order one, quadrature and three refinements
    np.testing.assert_allclose(healpix_analysis(nested, turned), expected, atol=1e-6)
    one = healpix_analysis(ring, maps[1, :, 2:3])
    np.testing.assert_allclose(one[..., 0], expected[1, ..., 2], atol=1e-6)
    mapped = jax.vmap(functools.partial(healpix_analysis, ring))(maps)
    np.testing.assert_allclose(mapped, expected, atol=1e-6)
    synthesized = healpix_synthesis(nested, expected)
    back = jnp.moveaxis(reorder(jnp.moveaxis(synthesized, -1, -2), "nested", "ring"), -1, -2)
    np.testing.assert_allclose(back, healpix_synthesis(ring, expected), atol=2e-6)


def test_a_second_call_compiles_nothing(monkeypatch):
    traces = []
    plain = healpix_steps.fold
    monkeypatch.setattr(healpix_steps, "fold", lambda images: traces.append(images.shape) or plain(images))
    healpix_analysis(plan_healpix_transform(2, 5), random_maps(plan_healpix_transform(2, 5)).astype(jnp.float32))
    first = len(traces)
    # An equal plan built anew has the same program.
    plan = plan_healpix_transform(2, 5)
    healpix_analysis(plan, random_maps(plan, seed=1).astype(jnp.float32))
    assert first > 0
    assert len(traces) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nside": 3}, "power of two"),
        ({"nside": 2, "bandlimit": 0}, "at least 1, got 0"),
        ({"nside": 2, "spin": 4}, "spin 4 has no degrees below the bandlimit 4"),
        ({"nside": 2, "spin": 1, "real": True}, "a field of spin 1 is complex"),
        ({"nside": 2, "dtype": jnp.float64}, "enable_x64"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan_healpix_transform(**arguments)


def test_wrong_arrays_and_settings_are_refused():
    plan = plan_healpix_transform(2, 4)
    maps = jnp.zeros((48, 1))
    with pytest.raises(InputError, match=r"nside 2 have axes .* 48 pixels, got \(47, 1\)"):
        healpix_analysis(plan, maps[1:])
    with pytest.raises(InputError, match="complex64 but the plan needs float32"):
        healpix_analysis(plan, maps.astype(jnp.complex64))
    with pytest.raises(InputError, match="1 of 48 pixels hold"):
        healpix_least_squares(plan, maps.at[7].set(healpy.UNSEEN))
    with pytest.raises(InputError, match="native coefficients have axes"):
        healpix_synthesis(plan, jnp.zeros((2, 3, 2, 2, 1)))
    for iterations in (-1, 1.5, True):
        with pytest.raises(ConfigError, match=f"whole number of at least 0, got {iterations}"):
            unchecked(healpix_analysis)(plan, maps, iterations)
    with pytest.raises(ConfigError, match=r"whole number of at least 1, got 2\.5"):
        unchecked(healpix_least_squares)(plan, maps, max_iterations=2.5)
    for tolerance in (np.nan, np.inf, 1.0, -0.1):
        with pytest.raises(ConfigError, match=r"lies in \[0, 1\)"):
            healpix_analysis(plan, maps, 3, tolerance)
    for tolerance in (np.nan, np.inf, 1.0, 0.0):
        with pytest.raises(ConfigError, match=r"lies in \(0, 1\)"):
            healpix_least_squares(plan, maps, tolerance)


@pytest.mark.parametrize(("nside", "order"), [(1, "ring"), (4, "nested")])
def test_every_pixel_is_a_mirror_image_of_one_point(nside, order):
    mirrors = plan_healpix_transform(nside, 2, order=order).mirrors
    np.testing.assert_array_equal(mirrors.gather.reshape(-1)[mirrors.scatter], np.arange(12 * nside**2))


def test_least_squares_of_a_map_with_a_nan_is_nan_and_leaves_other_maps_alone():
    plan = plan_healpix_transform(2, 4)
    maps = np.ones((48, 2), np.float32)
    maps[3, 0] = np.nan
    with jax.debug_nans(False):
        coefficients = np.asarray(healpix_least_squares(plan, jnp.asarray(maps)))
    assert np.isnan(coefficients[..., 0]).any()
    assert np.isfinite(coefficients[..., 1]).all()
