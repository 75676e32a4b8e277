r"""Wigner functions $d^l_{mn}(\beta)$ and $D^l_{mn}(\alpha, \beta, \gamma)$ in float64 NumPy, for tables and tests.

Textbook quantum mechanics: $d^l_{mn}(\beta) = \langle l m | e^{-i \beta J_y} | l n \rangle$ and
$D^l_{mn} = e^{-i m \alpha} d^l_{mn}(\beta) e^{-i n \gamma}$ for the rotation $R_z(\alpha) R_y(\beta) R_z(\gamma)$.
Rows are m, columns n, both from -l to l. `conventions` names the conventions of others.

With $a = |m-n|$, $b = |m+n|$ and $k = l - \max(|m|, |n|)$, up to a sign

$d^l_{mn} = \sqrt{\tfrac{k! (k+a+b)!}{(k+a)! (k+b)!}} \sin^a\tfrac\beta2 \cos^b\tfrac\beta2 P_k^{(a,b)}(\cos\beta)$

and the three-term recursion of the Jacobi polynomials raises l. Upwards it is safe: where the functions do not
oscillate they grow with l. Three things keep its digits: the southern hemisphere is mirrored to the north (a and b
change places); the recursion runs over differences of neighbouring degrees, in $\sin^2(\beta/2)$ (near the pole
$\cos\beta$ has lost what the high degrees need); and the start, which may be 1e-1000, carries an exponent of its own.

References:
    Varshalovich, Moskalev and Khersonskii, "Quantum Theory of Angular Momentum" (1988), sections 4.3 and 4.8.
    DLMF, section 18.9 (recursion of the Jacobi polynomials).
"""

import collections
import math
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Complex, Float, Int

from jaxgeo.errors import InputError, check_whole
from jaxgeo.grids import rotations
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics.real_basis import check_degree, real_from_complex

Array = np.ndarray

_START_EXPONENT = -500  # of values whose true exponent is smaller still
_STEPS_BETWEEN_RESCALINGS = 16  # each step multiplies by less than 2 bandlimit


def wigner_d_columns(
    bandlimit: int, m: Int[Array, " pair"], n: Int[Array, " _"], beta: Float[Array, " beta"]
) -> Float[Array, "pair degree beta"]:
    """Small d of pairs of orders at all degrees below the bandlimit; 0 where the degree is below an order.

    Absolute error below 1e-13 up to degree 512, and relative to the neighbouring degrees where the functions are tiny.

    Args:
        bandlimit: degrees 0 ... bandlimit - 1.
        m: row orders, as `n` in any number and order of pairs.
        n: column orders.
        beta: any angles, in radians.

    Raises:
        InputError: m and n are not of one length or no integers, or beta is not finite.
        ConfigError: the bandlimit is no positive whole number.
    """
    check_bandlimit(bandlimit)
    columns = np.zeros((len(m), bandlimit, len(beta)))
    for degree, which, values in iterate_degrees(bandlimit, m, n, beta):
        columns[which, degree] = values
    return columns


def iterate_degrees(
    bandlimit: int, m: Int[Array, " pair"], n: Int[Array, " _"], beta: Float[Array, " beta"]
) -> Iterator[tuple[int, Int[Array, " active"], Float[Array, "active beta"]]]:
    """As `wigner_d_columns` degree by degree: (degree, numbers of the pairs with both orders within it, their values).

    Holds a few arrays (pair, beta) instead of the whole table.

    Raises:
        ConfigError: the bandlimit is no positive whole number.
        InputError: orders that are no whole numbers or not equally many, or angles that are not finite.
    """
    check_bandlimit(bandlimit)
    m, n, beta = np.asarray(m), np.asarray(n), np.asarray(beta, np.float64)
    if not (np.issubdtype(m.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise InputError(f"orders are whole numbers, got arrays of {m.dtype} and {n.dtype}")
    m, n = m.astype(np.int64), n.astype(np.int64)
    if m.shape != n.shape:
        raise InputError(f"m and n are pairs of orders and need one length, got {m.shape} and {n.shape}")
    _check_finite(beta)
    first = np.maximum(np.abs(m), np.abs(n))
    pairs = np.argsort(first, kind="stable")
    pairs = pairs[first[pairs] < bandlimit]
    first, m, n = first[pairs], m[pairs], n[pairs]
    a, b = np.abs(m - n), np.abs(m + n)
    odd = (m - n) % 2 == 1
    # No other angle is needed: sums with a rounded pi would be off by its error, and more after many turns. The float
    # nearest to pi is taken for the pole.
    sine, cosine = np.sin(beta / 2), np.where(np.abs(beta) == np.pi, 0.0, np.cos(beta / 2))
    signs = np.where((odd & (m > n))[:, None] != (odd[:, None] & (sine * cosine < 0)[None]), -1.0, 1.0)
    sine, cosine = np.abs(sine), np.abs(cosine)
    south = np.flatnonzero(sine > cosine)
    north = np.flatnonzero(sine <= cosine)
    halves = [
        (north, 1.0, _Recursion(first, a, b, sine[north])),
        (south, -1.0, _Recursion(first, b, a, cosine[south])),
    ]
    halves = [half for half in halves if len(half[0])]
    for degree in range(bandlimit):
        active = int(np.searchsorted(first, degree, side="right"))
        values = np.empty((active, len(beta)))
        for where, parity, recursion in halves:
            half = recursion.advance(active)
            if parity < 0:
                half = half * np.where((degree - first[:active]) % 2, -1.0, 1.0)[:, None]
            values[:, where] = half
        values *= signs[:active]
        yield degree, pairs[:active], values


class _Recursion:
    """Normalised Jacobi functions of all pairs that have begun, one degree after the other; angles in [0, pi / 2].

    A value is d * 2^exponent. q = d / (d's factor at angle 0) obeys a recursion whose coefficients sum to one at
    angle 0; `step` is the difference of two neighbouring q, in units of the newer d.
    """

    def __init__(self, first: Array, a: Array, b: Array, sine: Array):
        self.a, self.b = a.astype(float), b.astype(float)
        self.first = first
        self.sine = sine  # of half the angle
        self.haversine = sine**2  # (1 - cos) / 2
        self.values = np.zeros((len(first), len(sine)))
        self.steps = np.zeros((len(first), len(sine)))
        self.exponents = np.zeros((len(first), len(sine)), np.int64)
        self.degree, self.active = -1, 0
        self.scaled = False

    def advance(self, active: int) -> Array:
        """Values at the next degree, at which the first `active` pairs have begun."""
        self.degree += 1
        self._raise()
        self._begin(slice(self.active, active))
        self.active = active
        if self.scaled and self.degree % _STEPS_BETWEEN_RESCALINGS == 0:
            self._rescale()
        values = self.values[:active]
        return np.ldexp(values, self.exponents[:active]) if self.scaled else values

    def _raise(self) -> None:
        begun = slice(0, self.active)
        a, b = self.a[begun], self.b[begun]
        k = self.degree - 1.0 - self.first[begun]
        t = 2 * k + a + b
        down = (k + a + 1) * (k + a + b + 1)
        keep = k * (k + b) * (t + 2) / (down * np.maximum(t, 1))
        bend = (t + 1) * (t + 2) / down
        grow = np.sqrt(down / ((k + 1) * (k + b + 1)))
        values, steps = self.values[begun], self.steps[begun]
        steps *= keep[:, None]
        steps -= bend[:, None] * self.haversine[None] * values
        values += steps
        steps *= grow[:, None]
        values *= grow[:, None]

    def _begin(self, new: slice) -> None:
        """sqrt(binomial(a + b, a)) sin^a(angle / 2) cos^b(angle / 2) as mantissa and exponent."""
        if new.start == new.stop:
            return
        a, b = self.a[new], self.b[new]
        root, root_exponent = _sqrt_binomials(a.astype(int), b.astype(int))
        sine, sine_exponent = np.frexp(self.sine)
        # A mantissa below 1/sqrt(2) would bring its a-th power to the smallest floats.
        low = sine < np.sqrt(0.5)
        sine, sine_exponent = np.where(low, 2 * sine, sine), sine_exponent - low
        value = root[:, None] * sine[None] ** a[:, None] * np.exp(b[:, None] / 2 * np.log1p(-self.haversine)[None])
        exponent = root_exponent[:, None] + np.where(value > 0, a[:, None].astype(int) * sine_exponent[None], 0)
        value, more = np.frexp(value)
        exponent = exponent + more
        kept = np.maximum(exponent, _START_EXPONENT)
        self.values[new] = np.ldexp(value, kept)
        self.exponents[new] = exponent - kept
        self.scaled = self.scaled or bool((exponent < kept).any())

    def _rescale(self) -> None:
        begun = slice(0, self.active)
        grown = (np.abs(self.values[begun]) > 1) & (self.exponents[begun] < 0)
        shift = np.where(grown, np.minimum(-self.exponents[begun], -_START_EXPONENT), 0)
        self.values[begun] = np.ldexp(self.values[begun], -shift)
        self.steps[begun] = np.ldexp(self.steps[begun], -shift)
        self.exponents[begun] += shift
        self.scaled = bool((self.exponents[begun] < 0).any())


def _sqrt_binomials(a: Array, b: Array) -> tuple[Array, Array]:
    """sqrt(binomial(a + b, a)) as mantissa and exponent, from exact integers."""
    mantissa, exponent = np.empty(len(a)), np.empty(len(a), np.int64)
    known: dict[tuple[int, int], tuple[float, int]] = {}
    for i, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        key = (x, y) if x < y else (y, x)
        if key not in known:
            number = math.comb(x + y, key[0])
            excess = max(number.bit_length() - 1000, 0) // 2 * 2
            known[key] = math.sqrt(number >> excess), excess // 2
        mantissa[i], exponent[i] = known[key]
    return mantissa, exponent


def wigner_d(degree: int, beta: Float[Array, "*beta"] | float) -> Float[Array, "*beta m n"]:
    """The whole matrix d^l(beta) of one degree, rows and columns -l ... l.

    Raises:
        InputError: the degree is negative or no whole number, or beta is not finite.
    """
    check_degree(degree)
    # Only the last is kept: all matrices together would take degree / 3 times its memory.
    return collections.deque(iterate_matrices(degree + 1, beta), maxlen=1).pop()


def iterate_matrices(bandlimit: int, beta: Float[Array, "*beta"] | float) -> Iterator[Float[Array, "*beta m n"]]:
    """The matrices d^l(beta) for l = 0 ... bandlimit - 1, one after the other.

    Raises:
        InputError: beta is not finite.
        ConfigError: the bandlimit is no positive whole number.
    """
    check_bandlimit(bandlimit)
    beta = np.asarray(beta, np.float64)
    orders = np.arange(1 - bandlimit, bandlimit)
    rows, columns = np.meshgrid(orders, orders, indexing="ij")
    wedge = rows >= np.abs(columns)  # the other three quarters are its mirror images
    m, n = rows[wedge], columns[wedge]
    for degree, which, values in iterate_degrees(bandlimit, m, n, beta.ravel()):
        row, column = m[which] + degree, n[which] + degree
        signed = np.where((row - column) % 2, -values.T, values.T)
        matrix = np.empty((beta.size, 2 * degree + 1, 2 * degree + 1))
        matrix[:, row, column] = values.T
        matrix[:, column, row] = signed
        matrix[:, 2 * degree - row, 2 * degree - column] = signed
        matrix[:, 2 * degree - column, 2 * degree - row] = values.T
        yield matrix.reshape(*beta.shape, 2 * degree + 1, 2 * degree + 1)


def wigner_d_derivative(degree: int, beta: Float[Array, "*beta"] | float) -> Float[Array, "*beta m n"]:
    """Derivative of `wigner_d` by beta: -i J_y d, with J_y a difference of ladder operators.

    Raises:
        InputError: the degree is negative or no whole number, or beta is not finite.
    """
    matrix = wigner_d(degree, beta)
    m = np.arange(-degree, degree)
    ladder = np.sqrt((degree - m) * (degree + m + 1.0)) / 2  # <m+1| J_+ |m> / 2
    derivative = np.zeros_like(matrix)
    derivative[..., 1:, :] -= ladder[:, None] * matrix[..., :-1, :]
    derivative[..., :-1, :] += ladder[:, None] * matrix[..., 1:, :]
    return derivative


def wigner_D(
    degree: int,
    alpha: Float[Array, "*batch"] | float,
    beta: Float[Array, "*batch"] | float,
    gamma: Float[Array, "*batch"] | float,
) -> Complex[Array, "*batch m n"]:
    """D^l of R_z(alpha) R_y(beta) R_z(gamma): (R f)_lm = sum_n D^l_mn f_ln, for angles that broadcast.

    Raises:
        InputError: the degree is negative or no whole number, or an angle is not finite.
    """
    check_degree(degree)
    alpha, beta, gamma = _common_angles(alpha, beta, gamma)
    return _with_phases(wigner_d(degree, beta), alpha, gamma)


def wigner_D_derivatives(
    degree: int,
    alpha: Float[Array, "*batch"] | float,
    beta: Float[Array, "*batch"] | float,
    gamma: Float[Array, "*batch"] | float,
) -> Complex[Array, "angle *batch m n"]:
    r"""Derivatives of `wigner_D` by its three angles, one after the other along the first axis.

    $-i m D^l_{mn}$, $e^{-i m \alpha} d'^l_{mn}(\beta) e^{-i n \gamma}$ and $-i n D^l_{mn}$.

    Raises:
        InputError: the degree is negative or no whole number, or an angle is not finite.
    """
    check_degree(degree)
    alpha, beta, gamma = _common_angles(alpha, beta, gamma)
    matrix = _with_phases(wigner_d(degree, beta), alpha, gamma)
    tilted = _with_phases(wigner_d_derivative(degree, beta), alpha, gamma)
    orders = np.arange(-degree, degree + 1)
    return np.stack([-1j * orders[:, None] * matrix, tilted, -1j * orders * matrix])


def wigner_D_of_rotations(degree: int, matrices: Float[Array, "*batch 3 3"]) -> Complex[Array, "*batch m n"]:
    """D^l of rotation matrices."""
    return wigner_D(degree, *euler_angles(matrices))


def wigner_D_real(
    degree: int,
    alpha: Float[Array, "*batch"] | float,
    beta: Float[Array, "*batch"] | float,
    gamma: Float[Array, "*batch"] | float,
) -> Float[Array, "*batch m n"]:
    """D^l in the real basis of `real_from_complex`: acts on real coefficients, and Y(R x) = D(R) Y(x)."""
    change = real_from_complex(degree)
    # f = sum c_m Y_m with real Y' = U Y has coefficients c' = conj(U) c.
    return np.real(change.conj() @ wigner_D(degree, alpha, beta, gamma) @ change.T)


def wigner_D_real_derivatives(
    degree: int,
    alpha: Float[Array, "*batch"] | float,
    beta: Float[Array, "*batch"] | float,
    gamma: Float[Array, "*batch"] | float,
) -> Float[Array, "angle *batch m n"]:
    """Derivatives of `wigner_D_real` by its three angles, one after the other along the first axis."""
    change = real_from_complex(degree)
    return np.real(change.conj() @ wigner_D_derivatives(degree, alpha, beta, gamma) @ change.T)


def spherical_harmonics(
    degree: int,
    colatitude: Float[Array, "*point"] | float,
    longitude: Float[Array, "*point"] | float,
    *,
    spin: int = 0,
) -> Complex[Array, "*point order"]:
    r"""All orders -l ... l of ${}_sY_{lm} = (-1)^s \sqrt{(2l+1)/4\pi}\, d^l_{m,-s}(\theta) e^{im\phi}$ at points.

    Orthonormal, Condon-Shortley phase. Zero where |spin| exceeds the degree.

    Raises:
        InputError: degree or spin are no whole numbers, the degree is negative, or an angle is not finite.
    """
    check_degree(degree)
    check_whole("the spin", spin, None, error=InputError)
    theta, phi = np.broadcast_arrays(np.asarray(colatitude, np.float64), np.asarray(longitude, np.float64))
    _check_finite(theta, phi)
    orders = np.arange(-degree, degree + 1)
    table = wigner_d_columns(degree + 1, orders, np.full_like(orders, -spin), theta.ravel())[:, degree]
    scale = (-1) ** spin * np.sqrt((2 * degree + 1) / (4 * np.pi))
    return scale * table.T.reshape(*theta.shape, len(orders)) * np.exp(1j * orders * phi[..., None])


def _common_angles(*angles: Array | float) -> tuple[Array, ...]:
    common = np.broadcast_arrays(*(np.asarray(angle, np.float64) for angle in angles))
    _check_finite(*common)
    return tuple(common)


def _with_phases(small: Array, alpha: Array, gamma: Array) -> Array:
    """exp(-i m alpha) d_mn exp(-i n gamma)."""
    degree = (small.shape[-1] - 1) // 2
    orders = np.arange(-degree, degree + 1)
    left = np.exp(-1j * orders * alpha[..., None])
    right = np.exp(-1j * orders * gamma[..., None])
    return left[..., :, None] * small * right[..., None, :]


def _check_finite(*angles: Array) -> None:
    if count := sum(int(np.count_nonzero(~np.isfinite(angle))) for angle in angles):
        raise InputError(f"angles must be finite, got {count} that are not")


def euler_angles(
    matrices: Float[Array, "*batch 3 3"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`grids.rotations.to_euler_zyz` of float64 NumPy matrices, in float64 whatever JAX's default float is."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        alpha, beta, gamma = rotations.to_euler_zyz(jax.numpy.asarray(np.asarray(matrices, np.float64)))
        return np.asarray(alpha), np.asarray(beta), np.asarray(gamma)
