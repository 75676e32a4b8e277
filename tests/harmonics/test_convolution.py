"""Spectral products of convolutions against the integrals that define them, and their equivariance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.harmonics import convolution, layout
from jaxgeo.harmonics.so3_layout import join_degrees, packed_to_matrices, split_degrees
from jaxgeo.harmonics.wigner import euler_angles, wigner_D_of_rotations, wigner_D_real

L = 5
# One compiled program each, instead of one for each operation on each degree.
convolve_sphere = jax.jit(convolution.convolve_sphere, static_argnames="orders")
convolve_rotations = jax.jit(convolution.convolve_rotations, static_argnames=("bandlimit", "orders"))
convolve_to_sphere = jax.jit(convolution.convolve_to_sphere, static_argnames=("bandlimit", "orders", "mode"))
sum_orders = jax.jit(convolution.sum_orders, static_argnames=("bandlimit", "orders", "mode"))
EXACT = 1e-12  # float64 relative L2, sums of a few hundred terms


def relative(got, expected):
    return np.linalg.norm(np.asarray(got) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def random(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def packed_size(bandlimit=L):
    return bandlimit * (4 * bandlimit**2 - 1) // 3


def turned(spectrum, degree_sizes, turn):
    """Left action of a rotation on a sphere spectrum (sizes 2l+1) or a packed one (sizes (2l+1)^2)."""
    start, parts = 0, []
    for l, size in enumerate(degree_sizes):
        block = np.asarray(spectrum[..., start : start + size, :], np.float64)
        matrix = wigner_D_real(l, *euler_angles(turn))
        block = block.reshape(*block.shape[:-2], 2 * l + 1, -1)
        parts.append((matrix @ block).reshape(*spectrum.shape[:-2], size, spectrum.shape[-1]))
        start += size
    return jnp.asarray(np.concatenate(parts, -2), spectrum.dtype)


SPHERE = [2 * l + 1 for l in range(L)]
ROTATIONS = [(2 * l + 1) ** 2 for l in range(L)]


def value_on_rotations(spectrum, turns):
    matrices = np.asarray(packed_to_matrices(spectrum, L))[..., 0]
    total = 0
    for l in range(L):
        block = slice(L - 1 - l, L + l)
        functions = wigner_D_of_rotations(l, turns).conj()
        total = total + (2 * l + 1) * np.einsum("mn,...mn->...", matrices[l, block, block], functions)
    return np.real(total)


def test_a_sphere_spectrum_is_the_first_column_of_the_lifted_signal():
    with jax.enable_x64(True):
        spectrum = random(0, L**2, 1)
        native = convolution.sphere_coefficients(spectrum)
        assert relative(convolution.sphere_spectrum(native), spectrum) < EXACT
        # The lifted signal R -> f(R e_z) has the matrix column n = 0 and nothing else.
        lifted = join_degrees(
            [jnp.zeros((2 * l + 1, 2 * l + 1, 1)).at[:, l].set(spectrum[l**2 : (l + 1) ** 2]) for l in range(L)]
        )
        dense = np.asarray(packed_to_matrices(lifted, L))[:, :, L - 1, 0]
        flm = np.asarray(layout.native_to_dense(native))[..., 0]
        factor = np.sqrt(4 * np.pi * (2 * np.arange(L) + 1))[:, None]
        assert relative(factor * dense, flm) < EXACT


def test_convolution_on_the_sphere_is_the_inner_product_with_the_turned_kernel():
    with jax.enable_x64(True):
        signal, kernel = random(1, L**2, 2), random(2, L**2, 2, 1)
        spectrum = convolve_sphere(signal, kernel)
        turns = np.asarray(rotations.haar_rotations(jax.random.key(3), (4,)))
        # Parseval on the sphere with probability measure: sum of (2l + 1) x conj(x').
        dimension = np.repeat(2 * np.arange(L) + 1, SPHERE)[:, None]
        expected = [
            np.sum(dimension * np.asarray(signal) * np.asarray(turned(kernel[..., 0], SPHERE, turn))) for turn in turns
        ]
        assert relative(value_on_rotations(spectrum, turns), expected) < EXACT


def test_convolution_on_rotations_is_the_inner_product_with_the_turned_kernel():
    with jax.enable_x64(True):
        signal, kernel = random(4, packed_size(), 2), random(5, packed_size(), 2, 1)
        spectrum = convolve_rotations(signal, kernel, L)
        turns = np.asarray(rotations.haar_rotations(jax.random.key(6), (4,)))
        dimension = np.repeat(2 * np.arange(L) + 1, ROTATIONS)[:, None]
        expected = [
            np.sum(dimension * np.asarray(signal) * np.asarray(turned(kernel[..., 0], ROTATIONS, turn)))
            for turn in turns
        ]
        assert relative(value_on_rotations(spectrum, turns), expected) < EXACT


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
@pytest.mark.parametrize("kind", ["sphere", "rotations", "to_sphere"])
def test_products_commute_with_rotations(kind, dtype, tolerance):
    with jax.enable_x64(True):
        turn = np.asarray(rotations.haar_rotations(jax.random.key(7)))
        sizes_in, sizes_out = ROTATIONS, ROTATIONS
        if kind == "sphere":
            sizes_in = SPHERE
            kernel = random(8, L**2, 3, 2, dtype=dtype)
            apply = functools.partial(convolve_sphere, kernel=kernel)
        else:
            kernel = random(8, packed_size(), 3, 2, dtype=dtype)
            apply = functools.partial(convolve_rotations, kernel=kernel, bandlimit=L)
        if kind == "to_sphere":
            sizes_out = SPHERE
            apply = functools.partial(convolve_to_sphere, kernel=kernel, bandlimit=L)
        signal = random(9, 2, sum(sizes_in), 3, dtype=dtype)
        assert apply(signal).dtype == dtype
        assert relative(apply(turned(signal, sizes_in, turn)), turned(apply(signal), sizes_out, turn)) < tolerance


@pytest.mark.parametrize("orders", [None, 3])
@pytest.mark.parametrize("mode", ["correct", "faithful"])
def test_summing_orders_of_the_kernel_or_of_the_product_is_the_same(mode, orders):
    with jax.enable_x64(True):
        count = sum(convolution.kernel_sizes(L, orders))
        kernel = random(10, count, 2, 3)
        signal = join_degrees([random(l, 2, 2 * l + 1, 2 * min(l, (orders or L) - 1) + 1, 2) for l in range(L)])
        together = convolve_to_sphere(signal, kernel, L, orders=orders, mode=mode)
        product = convolve_rotations(signal, kernel, L, orders=orders)
        assert relative(together, sum_orders(product, L, orders=orders, mode=mode)) < EXACT


def test_modes_sum_complex_orders_with_factors_one_and_i():
    with jax.enable_x64(True):
        spectrum = random(11, packed_size(), 1)
        matrices = np.asarray(packed_to_matrices(spectrum, L))[..., 0]
        n = np.arange(1 - L, L)
        for mode, odd in (("correct", 1j), ("faithful", 0.0)):
            summed = matrices @ np.where(n % 2 == 0, 1.0, odd)
            native = convolution.sphere_coefficients(sum_orders(spectrum, L, mode=mode))
            flm = np.asarray(layout.native_to_dense(native))[..., 0]
            assert relative(np.sqrt(4 * np.pi * (2 * np.arange(L) + 1))[:, None] * summed, flm) < EXACT


def test_an_azimuthal_limit_leaves_out_orders():
    with jax.enable_x64(True):
        limit = 2
        signal, kernel = random(12, L**2, 2), random(13, L**2, 2, 3)
        k = [min(l, limit - 1) for l in range(L)]
        short = jnp.concatenate([kernel[l * l + l - k[l] : l * l + l + k[l] + 1] for l in range(L)])
        full = split_degrees(convolve_sphere(signal, kernel), L)
        limited = split_degrees(convolve_sphere(signal, short, orders=limit), L, limit)
        for l in range(L):
            np.testing.assert_allclose(limited[l], full[l][:, l - k[l] : l + k[l] + 1], atol=1e-13)


def test_gradients_of_the_product_are_the_products_of_each_other():
    with jax.enable_x64(True):
        signal, kernel = random(14, 2, packed_size(), 2), random(15, packed_size(), 2, 3)
        cotangent = random(16, 2, packed_size(), 3)
        product, transpose = jax.vjp(lambda x, y: convolve_rotations(x, y, L), signal, kernel)
        by_signal, by_kernel = transpose(cotangent)
        total = jnp.vdot(cotangent, product)  # the product is linear in either factor
        np.testing.assert_allclose([jnp.vdot(signal, by_signal), jnp.vdot(kernel, by_kernel)], total, rtol=1e-12)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="input channels"):
        convolution.convolve_sphere(jnp.zeros((9, 2)), jnp.zeros((9, 3, 1)))
    with pytest.raises(InputError, match="coefficients"):
        convolution.convolve_sphere(jnp.zeros((9, 2)), jnp.zeros((8, 2, 1)))
    with pytest.raises(InputError, match="coefficients"):
        convolution.convolve_sphere(jnp.zeros((8, 2)), jnp.zeros((4, 2, 1)))
    with pytest.raises(InputError, match="coefficients"):
        convolution.convolve_rotations(jnp.zeros((9, 2)), jnp.zeros((9, 2, 1)), 3)
    with pytest.raises(InputError, match="L\\^2"):
        convolution.sphere_coefficients(jnp.zeros((8, 2)))


def test_an_unknown_mode_is_refused_and_not_taken_for_correct():
    spectrum, kernel = jnp.zeros((1, 1)), jnp.zeros((1, 1, 1))
    with pytest.raises(ConfigError, match="one of correct, faithful, got 'Faithful'"):
        unchecked(convolution.sum_orders)(spectrum, 1, mode="Faithful")
    with pytest.raises(ConfigError, match="one of correct, faithful, got 'exact'"):
        unchecked(convolution.convolve_to_sphere)(spectrum, kernel, 1, mode="exact")
