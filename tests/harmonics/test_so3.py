"""The SO(3) transform against its definition, with its theorems: exact quadrature, adjoints, rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.harmonics import so3
from jaxgeo.harmonics.so3_layout import change_so3_bandlimit, num_coefficients, packed_indices, packed_sizes
from jaxgeo.harmonics.so3_tables import cut_orders
from jaxgeo.harmonics.so3_waves import plan_so3_waves
from jaxgeo.harmonics.wigner import wigner_D, wigner_D_of_rotations, wigner_D_real

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

EXACT = 1e-12  # float64 relative L2: rounding of sums of a few thousand terms


def relative(got, expected):
    return np.linalg.norm(np.asarray(got) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def random(seed, shape, dtype=np.float64):
    values = np.random.default_rng(seed).normal(size=(2, *shape))
    return jnp.asarray(values[0] + 1j * values[1] if np.issubdtype(dtype, np.complexfloating) else values[0], dtype)


def random_spectrum(seed, plan, batch=(), channels=1):
    dtype = plan.dtype if plan.real else np.result_type(plan.dtype, np.complex64)
    return random(seed, (*batch, plan.num_coefficients, channels), dtype)


def angles(plan, latitudes="soft"):
    num_beta, num_alpha, num_gamma = plan.grid_shape
    assert latitudes == "soft"
    beta = (np.arange(num_beta) + 0.5) * np.pi / num_beta
    return np.meshgrid(
        beta, 2 * np.pi / num_alpha * np.arange(num_alpha), 2 * np.pi / num_gamma * np.arange(num_gamma), indexing="ij"
    )


@pytest.mark.parametrize(("orders", "real"), [(None, True), (2, False)])
def test_synthesis_is_the_sum_over_conjugate_wigner_functions(orders, real):
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(4, grid_bandlimit=5, orders=orders, real=real, dtype=np.float64)
        spectrum = random_spectrum(0, plan)
        matrices = np.asarray(so3.to_matrices(plan, spectrum))[..., 0]
        beta, alpha, gamma = angles(plan)
        expected = 0
        for l in range(4):
            k = min(l, plan.orders - 1)
            inner = matrices[l, 3 - l : 4 + l, plan.orders - 1 - k : plan.orders + k]
            functions = wigner_D(l, alpha, beta, gamma)[..., l - k : l + k + 1]
            expected = expected + (2 * l + 1) * np.einsum("mn,...mn->...", inner, functions.conj())
        signal = so3.so3_synthesis(plan, spectrum)[..., 0]
        assert signal.dtype == (np.float64 if real else np.complex128)
        assert relative(signal, expected) < EXACT


def test_packed_coefficients_are_integrals_with_real_wigner_matrices():
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(3, dtype=np.float64)
        beta, alpha, gamma = angles(plan)
        signal = wigner_D_real(2, alpha, beta, gamma)[..., 1, 3]
        degree, row, column = packed_indices(3, 3)
        expected = np.where((degree == 2) & (row == -1) & (column == 1), 1 / 5, 0.0)  # Schur: 1 / (2l + 1)
        np.testing.assert_allclose(so3.so3_analysis(plan, jnp.asarray(signal)[..., None])[:, 0], expected, atol=1e-14)


@pytest.mark.parametrize(
    "sizes",
    [
        {"bandlimit": 1},
        {"bandlimit": 7},
        {"bandlimit": 12, "grid_bandlimit": 13, "latitudes": "gauss_legendre"},
        {"bandlimit": 9, "orders": 1},
        {"bandlimit": 9, "orders": 5, "grid_orders": 7, "grid_bandlimit": 11},
        {"bandlimit": 6, "real": False, "orders": 4},
    ],
)
def test_analysis_undoes_synthesis(sizes):
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(**sizes, dtype=np.float64)
        spectrum = random_spectrum(1, plan, (2,), 3)
        signal = so3.so3_synthesis(plan, spectrum)
        assert signal.shape == (2, *plan.grid_shape, 3)
        assert relative(so3.so3_analysis(plan, signal), spectrum) < EXACT


@pytest.mark.parametrize("size", [5, 6])  # the middle sample of a half counts once where the size is odd
def test_one_channel_and_its_adjoint_go_their_own_way_to_the_same_result(size):
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(size, dtype=np.float64)
        spectrum = random_spectrum(11, plan, channels=2)
        signal = random(12, (*plan.grid_shape, 2))
        for transform, x, y in ((so3.so3_analysis, signal, spectrum), (so3.so3_synthesis, spectrum, signal)):
            image, transpose = jax.vjp(lambda x, transform=transform: transform(plan, x), x)
            one, transpose_one = jax.vjp(lambda x, transform=transform: transform(plan, x), x[..., :1])
            assert relative(one, image[..., :1]) < EXACT
            assert relative(transpose_one(y[..., :1])[0], transpose(y)[0][..., :1]) < EXACT


def test_many_columns_in_several_turns_are_transformed_like_each_by_itself(monkeypatch):
    monkeypatch.setattr(so3, "_MOST_BYTES", 1)
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(5, grid_bandlimit=6, dtype=np.float64)
        spectrum = random_spectrum(13, plan, (3,), 3)  # nine columns, by four at most: three turns
        signal = random(14, (3, *plan.grid_shape, 3))
        for transform, x, y in ((so3.so3_analysis, signal, spectrum), (so3.so3_synthesis, spectrum, signal)):
            image, transpose = jax.vjp(lambda x, transform=transform: transform(plan, x), x)
            each = [transform(plan, x[i, ..., k : k + 1]) for i in range(3) for k in range(3)]
            assert (
                relative(image, jnp.moveaxis(jnp.concatenate(each, -1).reshape(*each[0].shape[:-1], 3, 3), -2, 0))
                < EXACT
            )
            assert abs(jnp.vdot(image, y) / jnp.vdot(x, transpose(y)[0]) - 1) < EXACT


def test_round_trip_at_bandlimit_64_in_float64():
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(64, dtype=np.float64)
        spectrum = random_spectrum(2, plan)
        assert relative(so3.so3_analysis(plan, so3.so3_synthesis(plan, spectrum)), spectrum) < EXACT


@pytest.mark.parametrize(
    ("bandlimit", "latitudes"), [(32, "soft"), (32, "gauss_legendre"), (48, "soft"), (48, "gauss_legendre")]
)
def test_round_trip_in_float32(bandlimit, latitudes):
    plan = so3.plan_so3_transform(bandlimit, latitudes=latitudes)
    spectrum = random_spectrum(3, plan)
    # Rounding of float32 grows like the root of the number of terms; s2fft is at 1e-4 here.
    assert relative(so3.so3_analysis(plan, so3.so3_synthesis(plan, spectrum)), spectrum) < 1e-6


@pytest.mark.parametrize(
    "sizes",
    [
        {"bandlimit": 6},
        {"bandlimit": 6, "grid_bandlimit": 4, "aliased": True},
        {"bandlimit": 5, "grid_bandlimit": 4, "orders": 3},
        {"bandlimit": 4, "orders": 2, "real": False},
    ],
)
def test_reverse_mode_is_the_adjoint(sizes):
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(**sizes, dtype=np.float64)
        spectrum = random_spectrum(4, plan, (2,), 3)
        signal = random(5, (2, *plan.grid_shape, 3), spectrum.dtype)
        for transform, x, y in ((so3.so3_analysis, signal, spectrum), (so3.so3_synthesis, spectrum, signal)):
            image, transpose = jax.vjp(lambda x, transform=transform: transform(plan, x), x)
            left, right = jnp.sum(image * y), jnp.sum(x * transpose(y)[0])
            assert abs(left - right) < EXACT * jnp.linalg.norm(image) * jnp.linalg.norm(y)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31 - 1))
def test_matrices_and_packed_coefficients_convert_both_ways(seed):
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(5, orders=3, dtype=np.float64)
        spectrum = random_spectrum(seed, plan, (2,), 2)
        matrices = np.asarray(so3.to_matrices(plan, spectrum))
        assert matrices.shape == (2, 5, 9, 5, 2)
        assert relative(so3.from_matrices(plan, jnp.asarray(matrices)), spectrum) < EXACT
        m, n = np.meshgrid(np.arange(-4, 5), np.arange(-2, 3), indexing="ij")
        mirrored = ((-1.0) ** (m - n))[..., None] * matrices[..., ::-1, ::-1, :].conj()
        assert relative(mirrored, matrices) < EXACT  # F_{-m,-n} = (-1)^(m-n) conj(F_mn) of a real signal


def test_rotation_from_the_left_multiplies_by_wigner_matrices():
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(5, dtype=np.float64)
        spectrum = random_spectrum(6, plan)
        turn = np.asarray(rotations.haar_rotations(jax.random.key(7)))
        matrices = np.array(so3.to_matrices(plan, spectrum))[..., 0]
        for l in range(5):
            block = slice(4 - l, 5 + l)
            matrices[l, block, block] = wigner_D_of_rotations(l, turn) @ matrices[l, block, block]
        turned = so3.so3_synthesis(plan, so3.from_matrices(plan, jnp.asarray(matrices)[..., None]))[..., 0]
        # (Q f)(R) = f(Q^-1 R), the original summed at the turned points of the grid.
        beta, alpha, gamma = angles(plan)
        points = np.asarray(rotations.from_euler_zyz(*(jnp.asarray(a) for a in (alpha, beta, gamma))))
        original = np.array(so3.to_matrices(plan, spectrum))[..., 0]
        expected = 0
        for l in range(5):
            block = slice(4 - l, 5 + l)
            functions = wigner_D_of_rotations(l, turn.T @ points)
            expected = expected + (2 * l + 1) * np.einsum("mn,...mn->...", original[l, block, block], functions.conj())
        assert relative(turned, np.real(expected)) < EXACT


def test_a_coarse_grid_truncates_and_fills_with_zeros():
    with jax.enable_x64(True):
        small = so3.plan_so3_transform(4, dtype=np.float64)
        large = so3.plan_so3_transform(6, grid_bandlimit=4, dtype=np.float64)
        signal = random(8, (*small.grid_shape, 1))
        spectrum = so3.so3_analysis(small, signal)
        padded = change_so3_bandlimit(spectrum, 4, 6)
        assert relative(so3.so3_analysis(large, signal), padded) < EXACT
        np.testing.assert_array_equal(change_so3_bandlimit(padded, 6, 4), spectrum)
        np.testing.assert_allclose(
            so3.so3_synthesis(large, random_spectrum(9, large)),
            so3.so3_synthesis(small, change_so3_bandlimit(random_spectrum(9, large), 6, 4)),
            atol=1e-12,
        )


def test_the_aliased_form_keeps_the_orders_of_the_grid_only():
    with jax.enable_x64(True):
        signal = random(10, (8, 8, 8, 1))
        aliased = so3.plan_so3_transform(6, grid_bandlimit=4, aliased=True, dtype=np.float64)
        padded = so3.plan_so3_transform(6, grid_bandlimit=4, dtype=np.float64)
        degree, row, column = packed_indices(6, 6)
        spectrum, expected = so3.so3_analysis(aliased, signal), so3.so3_analysis(padded, signal)
        low, lost = degree < 4, np.maximum(np.abs(row), np.abs(column)) >= 4
        np.testing.assert_allclose(spectrum[low], expected[low], atol=1e-14)
        np.testing.assert_array_equal(spectrum[lost], 0)
        assert np.linalg.norm(spectrum[~low & ~lost]) > 0.1 * np.linalg.norm(spectrum)


def test_the_integral_is_the_coefficient_of_degree_zero_and_one_for_one():
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(5, dtype=np.float64)
        signal = random(11, (2, *plan.grid_shape, 3))
        integral = so3.so3_integral(plan, signal)
        np.testing.assert_allclose(integral, so3.so3_analysis(plan, signal)[:, 0], atol=1e-14)
        np.testing.assert_allclose(so3.so3_integral(plan, jnp.ones((*plan.grid_shape, 1))), 1, atol=1e-14)


def test_batches_come_from_leading_axes_or_vmap():
    plan = so3.plan_so3_transform(4)
    spectra = random(12, (2, 3, plan.num_coefficients, 2), np.float32)
    together = so3.so3_synthesis(plan, spectra)
    mapped = jax.vmap(jax.vmap(lambda x: so3.so3_synthesis(plan, x)))(spectra)
    np.testing.assert_allclose(together, mapped, rtol=1e-5, atol=1e-4)  # float32 sums of 84 terms, of size 40


@given(num_m=st.integers(1, 70), num_n=st.integers(1, 70))
def test_pieces_and_their_images_tile_all_orders_once(num_m, num_n):
    num_n = min(num_m, num_n)
    counts = np.zeros((num_m + num_m % 2, num_n + num_n % 2), int)
    for piece in cut_orders(num_m, num_n):
        m, n = piece.orders()
        counts[np.ix_(m, n)] += 1
        if piece.images == 2:
            counts[np.ix_(n, m)] += 1
    np.testing.assert_array_equal(counts, 1)


def test_equal_plans_share_one_compiled_program():
    traces = []

    @jax.jit
    def round_trip(plan, signal):
        traces.append(signal.shape)
        return so3.so3_synthesis(plan, so3.so3_analysis(plan, signal))

    first, second = so3.plan_so3_transform(3), so3.plan_so3_transform(3)
    signal = random(14, (*first.grid_shape, 1), np.float32)
    results = [round_trip(plan, signal) for plan in (first, second, first)]
    assert len(traces) == 1
    np.testing.assert_array_equal(results[0], results[1])
    so3.so3_analysis(first, signal)
    with jax.no_tracing():  # without jit around it, the second call finds its program too
        so3.so3_analysis(second, signal)


def test_number_of_coefficients_is_a_sum_of_squares():
    assert num_coefficients(6) == 6 * (4 * 36 - 1) // 3
    assert num_coefficients(6, 1) == 36
    sizes = [(bandlimit, orders) for bandlimit in range(1, 12) for orders in range(1, bandlimit + 1)]
    for size in sizes:
        alike = {other for other in sizes if num_coefficients(*other) == num_coefficients(*size)}
        assert alike == set(packed_sizes(num_coefficients(*size))) & set(sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"bandlimit": 0}, "at least 1"),
        ({"bandlimit": 3, "orders": 4}, "N <= bandlimit"),
        ({"bandlimit": 3, "orders": 0}, "azimuthal limit"),
        ({"bandlimit": 3, "grid_orders": -1}, "number of orders"),
        ({"bandlimit": 3, "grid_bandlimit": 0}, "at least 1"),
        ({"bandlimit": 3, "dtype": np.float16}, "float32 or float64"),
        ({"bandlimit": 3, "dtype": np.float64}, "enable_x64"),
    ],
)
def test_impossible_plans_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        so3.plan_so3_transform(**sizes)


def test_rings_that_do_not_mirror_are_refused():
    with pytest.raises(ConfigError, match="mirror"):
        plan_so3_waves(np.array([0.3, 0.4]), 3)
    with pytest.raises(ConfigError, match="num_m <= num_degrees"):
        plan_so3_waves(np.array([0.3, np.pi - 0.3]), 3, num_m=4)


def test_kept_indices_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        packed_indices(3, 3)[0][0] = 1


def test_arrays_that_do_not_fit_the_plan_are_refused():
    plan = so3.plan_so3_transform(3)
    with pytest.raises(InputError, match="alpha"):
        so3.so3_analysis(plan, jnp.zeros((6, 6, 5, 1)))
    with pytest.raises(InputError, match="35 coefficients"):
        so3.so3_synthesis(plan, jnp.zeros((34, 1)))
    with pytest.raises(InputError, match="dtype"):
        so3.so3_synthesis(plan, jnp.zeros((35, 1), np.complex64))
    with pytest.raises(InputError, match="gamma"):
        so3.so3_integral(plan, jnp.zeros((6, 6, 5, 1)))
    with pytest.raises(InputError, match=r"\(degree, m, n\) = \(3, 5, 5\)"):
        so3.from_matrices(plan, jnp.zeros((3, 5, 4, 1), np.complex64))
