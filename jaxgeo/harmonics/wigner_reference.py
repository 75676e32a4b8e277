r"""Two slow ways to the small Wigner d that share nothing with `wigner`: for tests and for doubts.

Textbook quantum mechanics, $d^l_{mn}(\beta) = \langle l m | e^{-i \beta J_y} | l n \rangle$, rows and columns -l ... l.
"""

import decimal
import math

import numpy as np
import scipy.linalg
from jaxtyping import Float

from jaxgeo.errors import InputError
from jaxgeo.harmonics.real_basis import check_degree

Array = np.ndarray


def wigner_d_by_eigenvectors(degree: int, beta: Float[Array, "*beta"] | float) -> Float[Array, "*beta m n"]:
    r"""$V e^{-i \beta \Lambda} V^\dagger$ with the eigenvectors of J_y, whose eigenvalues are -l ... l exactly.

    $J_y = e^{-i \pi J_z / 2} J_x e^{i \pi J_z / 2}$ and J_x is real and tridiagonal.
    Good to about 1e-16 times the degree.

    Raises:
        InputError: the degree is negative or no whole number.
    """
    check_degree(degree)
    beta = np.asarray(beta, np.float64)
    orders = np.arange(-degree, degree + 1)
    ladder = np.sqrt((degree - orders[:-1]) * (degree + orders[1:])) / 2
    _, vectors = scipy.linalg.eigh_tridiagonal(np.zeros(2 * degree + 1), ladder)
    turned = np.exp(-0.5j * np.pi * (orders % 4))[:, None] * vectors
    return np.real((turned * np.exp(-1j * beta[..., None] * orders)[..., None, :]) @ turned.conj().T)


def wigner_d_exact(degree: int, m: int, n: int, beta: float) -> float:
    r"""One element, correctly rounded in all but rare ties: Wigner's sum with more digits than its cancellation eats.

    $\sum_k (-1)^{m-n+k} \frac{\sqrt{(l+m)! (l-m)! (l+n)! (l-n)!}}{(l+n-k)! \, k! \, (m-n+k)! \, (l-m-k)!}
    \cos^{2l+n-m-2k}\tfrac\beta2 \sin^{m-n+2k}\tfrac\beta2$

    Raises:
        InputError: an order beyond the degree.

    References:
        Sakurai, "Modern Quantum Mechanics", equation (3.8.33).
    """
    check_degree(degree)
    if max(abs(m), abs(n)) > degree:
        raise InputError(f"the orders of degree {degree} run from -{degree} to {degree}, got ({m}, {n})")
    with decimal.localcontext() as context:
        context.prec = degree + 50  # the terms are at most 2^degree
        context.Emin, context.Emax = decimal.MIN_EMIN, decimal.MAX_EMAX
        cosine, sine = _cosine_and_sine(decimal.Decimal(float(beta)) / 2)
        factorial = math.factorial
        total = decimal.Decimal(0)
        for k in range(max(0, n - m), min(degree + n, degree - m) + 1):
            divisor = factorial(degree + n - k) * factorial(k) * factorial(m - n + k) * factorial(degree - m - k)
            up, down = m - n + 2 * k, 2 * degree + n - m - 2 * k
            sign = -1 if (m - n + k) % 2 else 1
            total += sign * _power(cosine, down) * _power(sine, up) / divisor
        squared = factorial(degree + m) * factorial(degree - m) * factorial(degree + n) * factorial(degree - n)
        return float(total * decimal.Decimal(squared).sqrt())


def _power(base: decimal.Decimal, exponent: int) -> decimal.Decimal:
    return base**exponent if exponent else decimal.Decimal(1)  # 0^0 is not an error here


def _cosine_and_sine(angle: decimal.Decimal) -> tuple[decimal.Decimal, decimal.Decimal]:
    """Taylor series in the precision of the context; the angle is a few turns at most."""
    cosine, sine, term, order = decimal.Decimal(0), decimal.Decimal(0), decimal.Decimal(1), 0
    smallest = decimal.Decimal(10) ** -(decimal.getcontext().prec + 5)
    while order <= abs(angle) or abs(term) > smallest:
        if order % 2:
            sine += term if order % 4 == 1 else -term
        else:
            cosine += term if order % 4 == 0 else -term
        order += 1
        term *= angle / order
    return cosine, sine
