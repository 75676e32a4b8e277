r"""Real spherical harmonics and the unitary matrices that change to them.

The real harmonics of degree l are orthonormal, ordered r = -l..l, and without the Condon-Shortley sign, so that l = 1
is a positive multiple of (y, z, x):

$S_m = (-1)^m \sqrt 2\, \mathrm{Re}\, Y_m$, $S_0 = Y_0$, $S_{-m} = (-1)^m \sqrt 2\, \mathrm{Im}\, Y_m$ for m > 0.

Two conventions share them. "plain" is the above. "e3nn" multiplies the vectors of degree l by a power of i when they
are coupled, which makes all Clebsch-Gordan coefficients real (`clebsch_gordan.real_clebsch_gordan`); its functions are
the same ones read in other axes, the polar axis being called y: (x, y, z) of e3nn are (y, z, x) here (`E3NN_AXES`).
"""

import functools
import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Complex

from jaxgeo.errors import InputError, check_whole

Convention = Literal["plain", "e3nn"]

# vector_e3nn = E3NN_AXES @ vector; R becomes E3NN_AXES @ R @ E3NN_AXES.T there, with the same real Wigner matrices.
E3NN_AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


@functools.lru_cache(maxsize=1024)
def real_from_complex(degree: int) -> Complex[np.ndarray, "real order"]:
    r"""The unitary Q with $S_r = \sum_m Q_{rm} Y_m$, complex128, rows and columns from -l to l; kept and read-only.

    Coefficients of $f = \sum f_m Y_m = \sum g_r S_r$ change by the conjugate, $g = \bar Q f$; real f has real g.
    Wigner matrices, which act on coefficients, become the real orthogonal $\bar Q D Q^T$ (`wigner.wigner_D_real`).

    Raises:
        InputError: a negative degree.
    """
    check_degree(degree)
    q = np.zeros((2 * degree + 1, 2 * degree + 1), complex)
    q[degree, degree] = 1
    for m in range(1, degree + 1):
        sign = (-1) ** m
        q[degree + m, degree + m], q[degree + m, degree - m] = sign * math.sqrt(0.5), math.sqrt(0.5)
        q[degree - m, degree + m], q[degree - m, degree - m] = -1j * sign * math.sqrt(0.5), 1j * math.sqrt(0.5)
    q.flags.writeable = False
    return q


def check_degree(degree: Any) -> None:
    """Raise InputError unless the degree is a whole number from 0."""
    check_whole("a degree", degree, 0, error=InputError)
