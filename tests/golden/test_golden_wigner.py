"""Wigner functions against the stored ones of the original programs."""

import numpy as np
import pytest
from golden_files import compare_entries, golden_files, load, name, split

from jaxgeo.harmonics import wigner
from jaxgeo.harmonics.conventions import real_from_complex

TOLERANCE = 1e-10  # the files' pass mark, largest absolute deviation
INPUTS = ("ls", "betas", "angles_abc", "real_angles_abc")


@pytest.mark.parametrize("path", golden_files("wigner"), ids=name)
def test_wigner_functions_are_those_of_the_original(path):
    arrays, _ = load(path)
    given, stored = split(arrays, INPUTS.__contains__)
    degrees = [int(degree) for degree in np.atleast_1d(arrays["ls"])]
    ours = {}
    if "betas" in given:
        ours["d"] = rows(given["betas"], degrees, lambda degree, d: d)
    if "angles_abc" in given:
        ours["D_complex"] = rows(given["angles_abc"], degrees, conjugate_of_textbook)
    if {"angles_abc", "real_angles_abc"} & set(given):
        ours["D_real"] = rows(given.get("real_angles_abc", given.get("angles_abc")), degrees, in_real_basis)
    compare_entries(stored, ours, atol=TOLERANCE)


def rows(angles, degrees, finish):
    """Matrices of all degrees, flat, side by side, for colatitudes or triples of angles."""
    angles = np.asarray(angles, np.float64)
    alpha, beta, gamma = angles.T if angles.ndim == 2 else (0 * angles, angles, 0 * angles)
    found = {}
    for degree, d in enumerate(wigner.iterate_matrices(max(degrees) + 1, beta)):
        if degree in degrees:
            order = np.arange(-degree, degree + 1)
            left, right = (np.exp(-1j * order * angle[:, None]) for angle in (alpha, gamma))
            matrix = left[:, :, None] * d * right[:, None, :] if angles.ndim == 2 else d
            found[degree] = finish(degree, matrix).reshape(len(angles), -1)
    return np.concatenate([found[degree] for degree in degrees], 1)


def conjugate_of_textbook(_, matrix):
    return matrix.conj()


def in_real_basis(degree, matrix):
    change = real_from_complex(degree)
    return np.real(change.conj() @ matrix @ change.T)


@pytest.mark.parametrize("path", golden_files("wigner"), ids=name)
def test_single_degrees_agree_with_the_iteration(path):
    arrays, _ = load(path)
    # The test above makes D from d by definition; here the functions that make it in one call.
    degree = int(np.max(arrays["ls"]))
    for key in {"angles_abc", "real_angles_abc"} & set(arrays):
        angles = np.asarray(arrays[key], np.float64)
        expected = rows(angles, [degree], conjugate_of_textbook).conj()
        found = wigner.wigner_D(degree, *angles.T).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        expected = rows(angles, [degree], in_real_basis)
        found = wigner.wigner_D_real(degree, *angles.T).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
