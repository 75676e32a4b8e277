"""Wigner functions against the stored ones of the original programs."""

import numpy as np
import pytest
from golden_files import golden_files, load, name

from jaxgeo.harmonics import wigner

TOLERANCE = 1e-10  # the files' pass mark, largest absolute deviation


def matrices(rows, degrees):
    """(degree, (row, m, n)) from rows that concatenate the flattened matrices of all degrees."""
    start = 0
    for degree in (int(degree) for degree in degrees):
        stop = start + (2 * degree + 1) ** 2
        yield degree, rows[:, start:stop].reshape(len(rows), 2 * degree + 1, 2 * degree + 1)
        start = stop
    assert start == rows.shape[1]


@pytest.mark.parametrize("path", golden_files("ls", "betas", "d"), ids=name)
def test_small_d_is_that_of_the_original(path):
    arrays = load(path)
    ours = list(wigner.iterate_matrices(int(arrays["ls"].max()) + 1, arrays["betas"]))
    for degree, stored in matrices(arrays["d"], arrays["ls"]):
        np.testing.assert_allclose(ours[degree], stored, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("path", golden_files("ls", "angles_abc", "D_complex"), ids=name)
def test_complex_d_is_the_conjugate_of_the_original(path):
    arrays = load(path)
    for degree, stored in matrices(arrays["D_complex"], arrays["ls"]):
        ours = wigner.wigner_D(degree, *arrays["angles_abc"].T).conj()
        np.testing.assert_allclose(ours, stored, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("path", golden_files("ls", "real_angles_abc", "D_real"), ids=name)
def test_real_d_is_that_of_the_original(path):
    arrays = load(path)
    for degree, stored in matrices(arrays["D_real"], arrays["ls"]):
        ours = wigner.wigner_D_real(degree, *arrays["real_angles_abc"].T)
        np.testing.assert_allclose(ours, stored, rtol=0, atol=TOLERANCE)
