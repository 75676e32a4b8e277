"""Layouts of coefficients are permutations of one another, with the symmetry of real signals."""

import healpy
import jax.numpy as jnp
import numpy as np
import pytest
from random_signals import native_coefficients

from jaxgeo.errors import InputError
from jaxgeo.harmonics import layout


def random_native(bandlimit, real, seed=0, batch=()):
    return native_coefficients(seed, bandlimit, batch=batch, channels=3, real=real, dtype=jnp.float32)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("bandlimit", [1, 4, 7])  # few: each size is compiled anew
def test_dense_and_native_are_inverse_to_each_other(real, bandlimit):
    native = random_native(bandlimit, real, batch=(2,))
    dense = layout.native_to_dense(native, real=real)
    np.testing.assert_array_equal(layout.dense_to_native(dense, real=real), native)


def test_dense_holds_degree_and_order_at_their_own_places():
    bandlimit = 5
    native = jnp.zeros((*layout.native_shape(bandlimit), 1)).at[:, 3, 1, 2, 0].set(jnp.array([2.0, 7.0]))
    assert layout.native_degrees(bandlimit)[3, 1, 2] == 4  # (l - m) mod 2 = 1 and l // 2 = 2
    dense = layout.native_to_dense(native)[..., 0]
    expected = np.zeros((bandlimit, 2 * bandlimit - 1), complex)
    expected[4, bandlimit - 1 + 3] = 2 + 7j
    expected[4, bandlimit - 1 - 3] = -(2 - 7j)  # (-1)^m conj
    np.testing.assert_array_equal(dense, expected)


def test_places_without_a_coefficient_and_the_imaginary_part_at_order_zero_are_not_looked_at():
    native = random_native(6, True)
    everywhere = native + (native == 0)
    np.testing.assert_array_equal(layout.native_to_dense(everywhere), layout.native_to_dense(native))
    np.testing.assert_array_equal(layout.native_to_healpy(everywhere), layout.native_to_healpy(native))


@pytest.mark.parametrize("bandlimit", [1, 2, 5])
def test_healpy_order_is_healpys(bandlimit):
    degree, order = healpy.Alm.getlm(bandlimit - 1)
    np.testing.assert_array_equal(layout.healpy_indices(bandlimit), (degree, order))
    native = random_native(bandlimit, True)
    packed = layout.native_to_healpy(native)
    dense = layout.native_to_dense(native)
    np.testing.assert_array_equal(packed, dense[degree, order + bandlimit - 1])
    np.testing.assert_array_equal(layout.healpy_to_native(packed), native)


@pytest.mark.parametrize("bandlimit", [1, 4])
def test_l_major_order_counts_orders_within_degrees(bandlimit):
    dense = layout.native_to_dense(random_native(bandlimit, False), real=False)
    packed = layout.dense_to_l_major(dense)
    expected = [dense[l, m + bandlimit - 1] for l in range(bandlimit) for m in range(-l, l + 1)]
    np.testing.assert_array_equal(packed, jnp.stack(expected))
    np.testing.assert_array_equal(layout.l_major_to_dense(packed), dense)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize(("old", "new"), [(5, 8), (8, 5), (4, 4), (1, 3)])
def test_another_bandlimit_keeps_the_degrees_that_both_have(real, old, new):
    native = random_native(old, real, batch=(2,))
    changed = layout.change_bandlimit(native, new, real=real)
    dense = layout.change_dense_bandlimit(layout.native_to_dense(native, real=real), new)
    np.testing.assert_array_equal(layout.native_to_dense(changed, real=real), dense)
    mask = layout.native_mask(new, real=real)[..., None]
    np.testing.assert_array_equal(np.asarray(changed) * mask, changed)  # nothing is left where no coefficient stands


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layout.native_to_dense(jnp.zeros((2, 5, 2, 2, 1))), "real signal have axes"),
        (lambda: layout.native_to_dense(jnp.zeros((2, 4, 2, 2, 1)), real=False), "complex signal have axes"),
        (lambda: layout.dense_to_native(jnp.zeros((4, 5, 1), jnp.complex64)), "L degrees and 2 L - 1 orders"),
        (lambda: layout.healpy_to_native(jnp.zeros((5, 1), jnp.complex64)), r"L \(L \+ 1\) / 2"),
        (lambda: layout.l_major_to_dense(jnp.zeros((5, 1), jnp.complex64)), r"L\^2"),
        (lambda: layout.change_bandlimit(jnp.zeros((2, 4, 2, 2, 1)), 0), "at least 1"),
        (lambda: layout.change_dense_bandlimit(jnp.zeros((4, 7, 1), jnp.complex64), 0), "at least 1"),
    ],
)
def test_wrong_axes_are_refused_with_the_sizes_that_would_fit(call, message):
    with pytest.raises(InputError, match=message):
        call()
