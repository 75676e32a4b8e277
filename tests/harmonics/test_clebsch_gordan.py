import itertools

import e3nn_jax
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from sympy.physics.wigner import clebsch_gordan as sympy_clebsch_gordan
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics import wigner
from jaxgeo.harmonics.clebsch_gordan import (
    clebsch_gordan,
    coupling_table,
    exact_clebsch_gordan,
    real_clebsch_gordan,
    selection,
)

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 1.

ULP = 2.0**-52


@pytest.mark.parametrize("l1", range(9))
def test_all_coefficients_to_degree_eight_are_those_of_sympy(l1):
    for l2 in range(l1 + 1):
        table, other = coupling_table(l1, l2), coupling_table(l2, l1)
        # The rest follows by two symmetries, to the last bit or nearly.
        signs = (-1.0) ** (l1 + l2 - np.array(selection(l1, l2)))
        np.testing.assert_array_equal(other, table.swapaxes(0, 1) * signs)
        np.testing.assert_allclose(table[::-1, ::-1], table * signs, atol=10 * ULP)
        for m1 in range(-l1, l1 + 1):
            for m2 in range(max(-l2, -m1), l2 + 1):
                for l3 in range(max(abs(l1 - l2), m1 + m2), l1 + l2 + 1):
                    # SymPy's radicals are exact; rounding them once is all the error there is.
                    expected = float(sympy_clebsch_gordan(l1, l2, l3, m1, m2, m1 + m2))
                    assert abs(exact_clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2) - expected) <= ULP * abs(expected)
                    # A recursion of up to 17 steps.
                    assert abs(table[m1 + l1, m2 + l2, l3 - abs(l1 - l2)] - expected) <= 10 * ULP


def test_all_coefficients_to_degree_eight_are_those_of_integer_arithmetic():
    for l1, l2, l3 in itertools.product(range(9), range(9), range(17)):
        table = clebsch_gordan(l1, l2, l3)
        expected = np.zeros_like(table)
        for m1, m2 in itertools.product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
            if abs(m1 + m2) <= l3:
                expected[m1 + l1, m2 + l2, m1 + m2 + l3] = exact_clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
        np.testing.assert_allclose(table, expected, atol=10 * ULP)


@given(degrees=st.tuples(st.integers(0, 32), st.integers(0, 32)), data=st.data(), large=st.booleans())
def test_the_recursion_agrees_with_integer_arithmetic_to_degree_128(degrees, data, large):
    l1, l2 = (4 * degree for degree in degrees) if large else degrees
    m1, m2 = data.draw(st.integers(-l1, l1)), data.draw(st.integers(-l2, l2))
    table = coupling_table(l1, l2)[m1 + l1, m2 + l2]
    exact = [exact_clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2) for l3 in selection(l1, l2)]
    np.testing.assert_allclose(table, exact, atol=1e-14)  # float64, sums over up to 257 steps
    # Where coefficients are tiny they are still right to many digits: the recursion never subtracts there.
    seen = np.abs(exact) > 1e-200
    np.testing.assert_allclose(table[seen], np.asarray(exact)[seen], rtol=1e-11, atol=1e-16)


def test_coefficients_are_orthogonal_to_degree_32():
    worst = 0.0
    for l1 in range(33):
        for l2 in range(l1 + 1):
            table = coupling_table(l1, l2)
            worst = max(worst, np.abs(np.sum(table**2, axis=-1) - 1).max())
            for total in {0, (l1 + l2) // 2, l1 + l2}:
                m1 = np.arange(max(-l1, total - l2), min(l1, total + l2) + 1)
                block = table[m1 + l1, total - m1 + l2, max(total - abs(l1 - l2), 0) :]
                identity = np.eye(len(m1))  # as many states as degrees: the block is square
                worst = max(worst, np.abs(block @ block.T - identity).max(), np.abs(block.T @ block - identity).max())
    assert worst < 2e-14  # products of rows of up to 65 entries, each to 1e-15


def test_degrees_that_do_not_couple_give_zero():
    assert not clebsch_gordan(1, 2, 4).any()
    assert not real_clebsch_gordan(1, 3, 1, "e3nn").any()
    assert exact_clebsch_gordan(1, 0, 1, 0, 3, 0) == exact_clebsch_gordan(1, 1, 1, 1, 1, 2) == 0
    assert exact_clebsch_gordan(2, 1, 2, 1, 2, 1) == 0  # orders that do not add up


@pytest.mark.parametrize("degrees", [(l1, l2, l3) for l1 in range(5) for l2 in range(5) for l3 in range(6)])
def test_real_coefficients_in_the_convention_of_e3nn_are_its_own(degrees):
    found = real_clebsch_gordan(*degrees, "e3nn")
    np.testing.assert_allclose(found, e3nn_jax.clebsch_gordan(*degrees), atol=1e-14)  # theirs is good to 5e-15
    sign = (-1) ** ((degrees[0] + degrees[1] - degrees[2]) // 2)
    plain = real_clebsch_gordan(*degrees)
    np.testing.assert_allclose(found * sign * np.sqrt(2 * degrees[2] + 1), plain, atol=1e-15)


@given(degrees=st.tuples(st.integers(0, 6), st.integers(0, 6)), seed=st.integers(0, 2**31 - 1))
def test_coefficients_intertwine_wigner_matrices(degrees, seed):
    alpha, beta, gamma = np.random.default_rng(seed).uniform(0, np.pi, 3)
    l1, l2 = degrees
    for matrix, couple in ((wigner.wigner_D, clebsch_gordan), (wigner.wigner_D_real, real_clebsch_gordan)):
        d = [matrix(degree, alpha, beta, gamma) for degree in range(l1 + l2 + 1)]
        for l3 in selection(l1, l2):
            c = couple(l1, l2, l3)
            turned = np.einsum("ax,by,xyc->abc", d[l1], d[l2], c, optimize=True)
            np.testing.assert_allclose(turned, c @ d[l3], atol=1e-13)  # sums of 169 terms of size one


def test_the_product_of_two_harmonics_couples_by_them():
    theta, phi = 1.1, 0.7
    l1, l2 = 3, 2

    def harmonics(degree):
        return scipy.special.sph_harm_y(degree, np.arange(-degree, degree + 1), theta, phi)

    product = harmonics(l1)[:, None] * harmonics(l2)
    expected = sum(
        np.sqrt((2 * l1 + 1) * (2 * l2 + 1) / (4 * np.pi * (2 * l3 + 1)))
        * clebsch_gordan(l1, l2, l3)[l1, l2, l3]
        * clebsch_gordan(l1, l2, l3)
        @ harmonics(l3)
        for l3 in selection(l1, l2)
    )
    np.testing.assert_allclose(product, expected, atol=1e-14)


def test_coupling_two_vectors_to_degree_one_is_the_cross_product():
    u, v = np.random.default_rng(0).normal(size=(2, 3))
    # Order (y, z, x) is a cyclic change of (x, y, z), under which the cross product stays itself.
    found = np.einsum("abc,a,b->c", real_clebsch_gordan(1, 1, 1), u, v)
    np.testing.assert_allclose(found, np.cross(u, v) / np.sqrt(2), atol=1e-15)


def test_few_tables_are_kept_and_these_cannot_be_written():
    table = coupling_table(2, 1)
    assert coupling_table(2, 1) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0, 0] = 1
    # A bound on their number is a bound on memory only if it is small: one table of degree 32 has 2 MB.
    coupling_table(1, 1), coupling_table(2, 2)
    assert coupling_table(2, 1) is not table
    # What is made of them is the caller's own.
    clebsch_gordan(2, 1, 2)[:] = 7
    real_clebsch_gordan(2, 1, 2)[:] = 7
    assert np.abs(clebsch_gordan(2, 1, 2)).max() <= 1


@pytest.mark.parametrize("call", [lambda: clebsch_gordan(-1, 0, 1), lambda: exact_clebsch_gordan(0, 0, -2, 0, 0, 0)])
def test_a_negative_degree_is_refused(call):
    with pytest.raises(InputError, match="a degree must be a whole number of at least 0, got -"):
        call()


def test_a_degree_beyond_the_checked_range_is_refused():
    with pytest.raises(InputError, match="checked to degree 128, got 129"):
        coupling_table(129, 1)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ConfigError, match="one of plain, e3nn, got 'scipy'"):
        unchecked(real_clebsch_gordan)(1, 1, 1, "scipy")
