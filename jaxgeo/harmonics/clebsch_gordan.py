r"""Clebsch-Gordan coefficients $\langle l_1 m_1 l_2 m_2 | l_3 m_3 \rangle$ in float64, complex and real.

Phases are those of Condon and Shortley, as in textbooks, SymPy and scipy: real, and positive for $l_3 = l_1 + l_2$.
Tables come from a recursion that is stable in both directions; `exact_clebsch_gordan` is the independent slow way, in
integers. `jaxgeo.harmonics.real_basis` describes the two real bases.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

from jaxgeo.errors import InputError, check_one_of, check_whole
from jaxgeo.harmonics.real_basis import Convention, check_degree, real_from_complex

# The recursion starts at 1 and may grow by 10^100 before the two halves meet; beyond this it has not been checked.
MAX_DEGREE = 128


def selection(l1: int, l2: int) -> range:
    """Degrees that occur in the product of two: |l1 - l2| ... l1 + l2."""
    return range(abs(l1 - l2), l1 + l2 + 1)


# Plans go through all degrees l3 of one pair (l1, l2) after the other. Two tables serve them, one for each order of the
# pair: 4 MB at degree 32, 270 MB at degree 128.
@functools.lru_cache(maxsize=2)
def coupling_table(l1: int, l2: int) -> Float[np.ndarray, "order1 order2 degree3"]:
    r"""All coefficients of two degrees: entry [m1 + l1, m2 + l2, l3 - |l1 - l2|], with m3 = m1 + m2.

    For every (m1, m2) the coefficients over $l_3$ are the eigenvector of $J_{1z}$, a symmetric tridiagonal matrix in
    the coupled basis, to the eigenvalue $m_1$: $a_{l+1} C_{l+1} + b_l C_l + a_l C_{l-1} = m_1 C_l$. The recursion runs
    from both ends, where it grows and therefore loses nothing, to the middle; there the halves are scaled to agree.

    Returns:
        float64, read-only; zero where l3 < abs(m1 + m2). Over l3 each row is a unit vector.

    Raises:
        InputError: a negative degree, or one beyond `MAX_DEGREE`.

    References:
        Schulten and Gordon, J. Math. Phys. 16, 1961 (1975), for the two directions.
    """
    for degree in (l1, l2):
        check_degree(degree)
        if degree > MAX_DEGREE:
            raise InputError(
                f"Clebsch-Gordan tables are checked to degree {MAX_DEGREE}, got {degree}; "
                "exact_clebsch_gordan has no limit"
            )
    if l1 < l2:
        # <l1 m1 l2 m2|l3 m3> = (-1)^(l1 + l2 - l3) <l2 m2 l1 m1|l3 m3>
        signs = (-1.0) ** (l1 + l2 - np.arange(abs(l1 - l2), l1 + l2 + 1))
        table = np.swapaxes(coupling_table(l2, l1), 0, 1) * signs
    else:
        table = _recursion(l1, l2)
    table.flags.writeable = False
    return table


def _recursion(l1: int, l2: int) -> np.ndarray:
    m1 = np.arange(-l1, l1 + 1.0)[:, None]
    total = m1 + np.arange(-l2, l2 + 1.0)  # (order1, order2)
    m1 = np.broadcast_to(m1, total.shape)
    degrees = np.arange(l1 - l2, l1 + l2 + 2.0)  # one beyond the last: its a is zero
    safe = np.maximum(degrees, 1)  # degree 0 occurs with m3 = 0 only, where both coefficients vanish
    squared = degrees[:, None, None] ** 2
    reach = (degrees**2 - (l1 - l2) ** 2) * ((l1 + l2 + 1) ** 2 - degrees**2) / (4 * safe**2 * (4 * safe**2 - 1))
    off = np.sqrt(reach[:, None, None] * np.maximum(squared - total**2, 0))
    diagonal = total * ((safe * (safe + 1) + l1 * (l1 + 1) - l2 * (l2 + 1)) / (2 * safe * (safe + 1)))[:, None, None]
    shifted = m1 - diagonal
    count = 2 * l2 + 1
    first = np.maximum(np.abs(total) - (l1 - l2), 0).astype(int)  # place of the lowest degree that occurs
    up, down = np.zeros((count + 1, *total.shape)), np.zeros((count + 1, *total.shape))
    down[count - 1] = 1
    for i in range(count - 1, 0, -1):
        upper = shifted[i] * down[i] - (off[i + 1] * down[i + 1] if i + 1 < count else 0)
        down[i - 1] = np.divide(upper, off[i], out=np.zeros_like(upper), where=i > first)
    up[0] = first == 0
    for i in range(count - 1):
        lower = shifted[i] * up[i] - (off[i] * up[i - 1] if i else 0)
        up[i + 1] = np.divide(lower, off[i + 1], out=np.zeros_like(lower), where=i >= first)
        up[i + 1][first == i + 1] = 1
    up, down = up[:count], down[:count]
    # In the middle of the band both directions are accurate, and no two neighbours vanish together.
    place = np.arange(count)[:, None, None]
    width = np.maximum(off[:count], off[1 : count + 1])
    distance = np.abs(shifted[:count]) / np.where(width > 0, width, 1)
    distance = np.where((place < first) | ((width == 0) & (first < count - 1)), np.inf, distance)
    middle = np.argmin(distance, axis=0)
    near = np.abs(place - middle) <= 1
    scale = np.sum(near * up * down, axis=0) / np.sum(near * up * up, axis=0)
    table = np.where(place < middle, scale * up, down)
    table /= np.linalg.norm(table, axis=0)
    return np.ascontiguousarray(np.moveaxis(table, 0, -1))


def clebsch_gordan(l1: int, l2: int, l3: int) -> Float[np.ndarray, "order1 order2 order3"]:
    """Coefficients <l1 m1 l2 m2 | l3 m3> as [m1 + l1, m2 + l2, m3 + l3], float64; zero unless m3 = m1 + m2.

    A unitary change of basis: over all l3, columns of unit length, orthogonal to each other. All zero where l3 is not
    between |l1 - l2| and l1 + l2.

    Raises:
        InputError: a negative degree, or l1, l2 beyond `MAX_DEGREE`.
    """
    check_degree(l3)
    table = coupling_table(l1, l2)
    out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    if l3 in selection(l1, l2):
        m1, m2 = np.meshgrid(np.arange(-l1, l1 + 1), np.arange(-l2, l2 + 1), indexing="ij")
        allowed = np.abs(m1 + m2) <= l3
        i, j = m1[allowed] + l1, m2[allowed] + l2
        out[i, j, (m1 + m2)[allowed] + l3] = table[i, j, l3 - abs(l1 - l2)]
    return out


def real_clebsch_gordan(
    l1: int, l2: int, l3: int, convention: Convention = "plain"
) -> Float[np.ndarray, "order1 order2 order3"]:
    r"""Real coefficients that couple real harmonics: [r1, r2, r3] for orders -l..l of `real_basis`, float64.

    They intertwine real Wigner matrices: $\sum_{ab} C_{abc} D^1_{aa'} D^2_{bb'} = \sum_{c'} C_{a'b'c'} D^3_{cc'}$.

    - "plain": unit columns, the complex coefficients in the plain real basis. For odd l1 + l2 + l3 they are purely
      imaginary there, and i times them stands here: (1, 1, 1) is the cross product over the root of two.
    - "e3nn": e3nn's signs and normalisation, equal to `e3nn_jax.clebsch_gordan`: columns of length
      $1/\sqrt{2 l_3 + 1}$, and the sign $(-1)^{\lfloor (l_1 + l_2 - l_3) / 2 \rfloor}$ relative to "plain".

    Raises:
        ConfigError: an unknown convention.
        InputError: a negative degree, or l1, l2 beyond `MAX_DEGREE`.
    """
    check_one_of("the convention of a real basis", convention, Convention)
    q1, q2, q3 = (real_from_complex(degree) for degree in (l1, l2, l3))
    # S_r = sum_m Q[r, m] Y_m: a product of two harmonics brings Q twice, the third its conjugate.
    table = clebsch_gordan(l1, l2, l3).astype(complex)
    table = np.tensordot(q1, table, axes=(1, 0))
    table = np.tensordot(table, q2, axes=(1, 1))  # (r1, m3, r2)
    table = np.tensordot(table, q3.conj(), axes=(1, 1))
    out = -np.imag(table) if (l1 + l2 + l3) % 2 else np.real(table).copy()
    if convention == "e3nn":
        out *= (-1) ** ((l1 + l2 - l3) // 2) / math.sqrt(2 * l3 + 1)
    return out


def exact_clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    r"""One coefficient <l1 m1 l2 m2 | l3 m3> from integers, correctly rounded up to the last place, at any degree.

    Racah's sum in binomial coefficients, an integer,
    $\sum_k (-1)^k \binom{l_1+l_2-l_3}{k} \binom{l_1-l_2+l_3}{l_1-m_1-k} \binom{l_2-l_1+l_3}{l_2+m_2-k}$;
    the square of the coefficient is a ratio of integers, divided and rooted once at the end.

    References:
        Varshalovich, Moskalev and Khersonskii, "Quantum Theory of Angular Momentum" (1988), section 8.2.

    Raises:
        InputError: degrees or orders are no whole numbers, or a degree is negative.
    """
    for degree in (l1, l2, l3):
        check_degree(degree)
    for order in (m1, m2, m3):
        check_whole("an order", order, None, error=InputError)
    if l3 not in selection(l1, l2) or m1 + m2 != m3 or abs(m1) > l1 or abs(m2) > l2 or abs(m3) > l3:
        return 0.0
    a, b, c = l1 + l2 - l3, l1 - l2 + l3, l2 - l1 + l3
    low, high = max(0, l1 - m1 - b, l2 + m2 - c), min(a, l1 - m1, l2 + m2)
    total = sum(
        (-1) ** k * math.comb(a, k) * math.comb(b, l1 - m1 - k) * math.comb(c, l2 + m2 - k)
        for k in range(low, high + 1)
    )
    above = (2 * l3 + 1) * math.comb(2 * l1, a) * math.comb(2 * l2, a) * total**2
    below = math.comb(2 * l1, l1 - m1) * math.comb(2 * l2, l2 - m2) * math.comb(2 * l3, l3 - m3)
    below *= (l1 + l2 + l3 + 1) * math.comb(l1 + l2 + l3, a)
    return math.copysign(math.sqrt(above / below), total)
