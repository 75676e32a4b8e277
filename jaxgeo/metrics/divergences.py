"""How far apart two posteriors of few dimensions are, from samples: Wasserstein distances and KL divergences.

Samples are `(draw, dim)`, one row for each draw; what is computed on the host, in float64. Distances between samples
of one and the same distribution are not 0 but fall with their number, slowly in many dimensions (as n^(-1/d) for the
assignment): hold a distance beside `distance_floor`, that of two halves of the reference. `with_error` gives any of
them a jackknife error over groups of draws, the assignment by leaving out groups of both samples at once.

References:
    Peyre and Cuturi, "Computational Optimal Transport", arXiv:1803.00567: remark 2.28 (one dimension), section 2.2
    (assignment).
    Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", J. Math. Imaging Vis. 51 (2015).
    Wang, Kulkarni and Verdu, "Divergence Estimation for Multidimensional Densities Via k-Nearest-Neighbor Distances",
    IEEE Trans. Inf. Theory 55 (2009), equation 5.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial.distance
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.spatial import KDTree

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.checks import check_groups
from jaxgeo.metrics.noise_floor import half_splits
from jaxgeo.metrics.standard_error import Measure, jackknife_error

MAX_ASSIGNED = 5000  # draws of each set: a cost matrix of 200 MB, and cubic work

Samples = Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
Values = Float[Array, " _"] | Float[np.ndarray, " _"]
Distance = Callable[[np.ndarray, np.ndarray], float | Measure]


def wasserstein_1d(first: Values, second: Values, order: int = 1) -> float:
    r"""Wasserstein distance of two samples on the line, exactly, whatever their sizes.

    $W_p^p = \int_0^1 |F^{-1}(t) - G^{-1}(t)|^p dt$ of the empirical quantile functions: sorted samples are matched in
    order, and where the sizes differ a draw's mass is split.

    Args:
        first: draws of one number.
        second: draws of the other.
        order: p, at least 1.

    Raises:
        ConfigError: an order below 1.
        InputError: no draws, more axes than one, or values that are not finite.
    """
    _check_order(order)
    for name, values in (("first", first), ("second", second)):
        if np.ndim(values) != 1:
            raise InputError(
                f"the {name} sample on a line has shape (draw,), got {np.shape(values)}; of more dimensions there are "
                f"sliced_wasserstein and assignment_wasserstein"
            )
    one, other = _sample(np.asarray(first)[:, None], "first"), _sample(np.asarray(second)[:, None], "second")
    return float(_line_cost(one, other, order)[0] ** (1 / order))


def sliced_wasserstein(
    key: PRNGKeyArray, first: Samples, second: Samples, order: int = 2, num_projections: int = 128
) -> Measure:
    r"""Sliced Wasserstein distance $(E_u W_p^p(u \cdot x, u \cdot y))^{1/p}$ over random directions u.

    A metric too, at the cost of sorting, and never above the Wasserstein distance itself. `standard_error` is that of
    the directions alone (delta method on the mean cost); for that of the draws see `with_error`.

    Args:
        key: for the directions.
        first: draws of one posterior.
        second: draws of the other, of as many dimensions.
        order: p, at least 1.
        num_projections: directions, at least 2.

    Raises:
        ConfigError: an order below 1, or fewer than two directions.
        InputError: no draws, other dimensions, or values that are not finite.
    """
    _check_order(order)
    if num_projections < 2:
        raise ConfigError(f"a mean over directions with an error needs at least 2, got {num_projections}")
    one, other = _pair(first, second)
    normal = np.asarray(jax.random.normal(key, (one.shape[1], num_projections)), np.float64)
    directions = normal / np.linalg.norm(normal, axis=0, keepdims=True)
    costs = _line_cost(one @ directions, other @ directions, order)
    value = float(costs.mean() ** (1 / order))
    error = costs.std(ddof=1) / math.sqrt(num_projections)
    return Measure(value, float(error / order * value ** (1 - order)) if value > 0 else 0.0)


def assignment_wasserstein(first: Samples, second: Samples, order: int = 2) -> float:
    """Wasserstein distance of two equally large samples under Euclidean distance, by the best one-to-one assignment.

    Exact for the empirical distributions; work is cubic in the number of draws.

    Args:
        first: draws of one posterior, at most 5000.
        second: as many of the other.
        order: p, at least 1.

    Raises:
        ConfigError: an order below 1.
        InputError: unequal or too large samples, no draws, other dimensions, values that are not finite.
    """
    _check_order(order)
    one, other = _pair(first, second)
    if len(one) != len(other) or len(one) > MAX_ASSIGNED:
        raise InputError(
            f"an assignment is between equally many draws, at most {MAX_ASSIGNED}, got {len(one)} and {len(other)}; "
            f"thin them, or take sliced_wasserstein"
        )
    cost = scipy.spatial.distance.cdist(one, other) ** order
    return float(cost[scipy.optimize.linear_sum_assignment(cost)].mean() ** (1 / order))


def gaussian_kl(first: Samples, second: Samples) -> float:
    """KL(first || second) in nats of the Gaussians with the samples' means and covariances (divided by n - 1).

    0 for equal first two moments, whatever the rest: it sees no tails and no modes.

    Args:
        first: more draws than dimensions.
        second: likewise.

    Raises:
        InputError: too few draws or draws in a subspace, other dimensions, values that are not finite.
    """
    one, other = _pair(first, second)
    # In units of the spread of each dimension, which change no divergence: ranks are found by rounding errors.
    units = np.maximum(one.std(axis=0), other.std(axis=0))
    units = np.where(units > 0, units, 1.0)
    one, other = (one - other.mean(axis=0)) / units, (other - other.mean(axis=0)) / units
    factors = []
    for name, sample in (("first", one), ("second", other)):
        dim = sample.shape[1]
        covariance = np.atleast_2d(np.cov(sample, rowvar=False)) if len(sample) > 1 else np.zeros((dim, dim))
        if len(sample) <= dim or np.linalg.matrix_rank(covariance, hermitian=True) < dim:
            raise InputError(
                f"the {name} sample must span its {dim} dimensions for a Gaussian to have a density, got "
                f"{len(sample)} draws of rank {np.linalg.matrix_rank(covariance, hermitian=True)}"
            )
        factors.append(np.linalg.cholesky(covariance))
    ratio = scipy.linalg.solve_triangular(factors[1], factors[0], lower=True)
    shift = scipy.linalg.solve_triangular(factors[1], one.mean(0) - other.mean(0), lower=True)
    log_volumes = np.log(np.diag(factors[1])).sum() - np.log(np.diag(factors[0])).sum()
    return float(((ratio**2).sum() + shift @ shift - one.shape[1]) / 2 + log_volumes)


def nearest_neighbor_kl(first: Samples, second: Samples, k: int = 1) -> Measure:
    r"""KL(first || second) in nats without a model of the densities, from distances to the k-th neighbours.

    $\tfrac dn \sum_i \log(\nu_k(i) / \rho_k(i)) + \log(m / (n - 1))$, with rho the distance of draw i to its k-th
    neighbour among the n of its own sample and nu that among the m of the other. Consistent for independent draws; it
    may come out below 0. `standard_error` is the spread of the summands over sqrt(n), which takes them for
    independent although neighbours share distances.

    Far too small for distant samples, which the error does not say: where no draw of the other is near, nu is the way
    to its outermost draws, and the value grows with the logarithm of that way, while the divergence of Gaussians grows
    with its square. Of 1,000 draws each of N(0, 1) and N(s, 1) in two dimensions it is about 1.0, 3.0 and 10 for s = 1,
    2 and 8, where the divergence is 1, 4 and 64 (a test has these figures). A value above some two nats says that
    samples are far apart, not how far; `gaussian_kl` beside it does, as far as they are Gaussian.

    Args:
        first: different draws.
        second: draws of the other posterior.
        k: neighbours; more lower the variance and raise the bias.

    Raises:
        InputError: fewer than k + 1 draws or k others, draws that coincide, other dimensions, values not finite.
    """
    one, other = _pair(first, second)
    if k < 1 or len(one) <= k or len(other) < k:
        raise InputError(
            f"a {k}-th neighbour needs k of at least 1, more draws than that in the first sample and as many in the "
            f"second, got {len(one)} and {len(other)}"
        )
    # The nearest of its own sample is the draw itself.
    own = _neighbor_distance(one, one, k + 1)
    others = _neighbor_distance(one, other, k)
    if not (own > 0).all() or not (others > 0).all():
        raise InputError(
            f"{int((own == 0).sum())} draws coincide with {k} others of their sample and {int((others == 0).sum())} "
            f"with {k} of the other, so distances have no logarithm; drop repeated draws or take a larger k"
        )
    terms = one.shape[1] * (np.log(others) - np.log(own))
    value = terms.mean() + math.log(len(other) / (len(one) - 1))
    return Measure(float(value), float(terms.std(ddof=1) / math.sqrt(len(terms))))


def with_error(
    distance: Distance,
    first: Samples,
    second: Samples,
    groups: int,
    other_groups: int,
    *,
    at_once: bool = False,
) -> Measure:
    """A distance with the Monte Carlo error of both samples: jackknives over groups of draws, in quadrature.

    Args:
        distance: of two samples, such as `gaussian_kl` or `functools.partial(sliced_wasserstein, key)`; of one that
            has an error of its own only the value is taken.
        first: draws of one posterior.
        second: draws of the other.
        groups: equal groups of consecutive draws of the first that belong together (chains, blocks), at least 2.
        other_groups: likewise of the second.
        at_once: leave out the g-th groups of both samples together, in one jackknife: samples of equal size stay so, as
            `assignment_wasserstein` needs it. Otherwise the distance must take samples of unequal sizes.

    Raises:
        InputError: unequal groups, or fewer than two; other numbers of groups that are left out at once; no draws,
            other dimensions, values that are not finite.
    """
    one, other = _pair(first, second)
    if at_once and groups != other_groups:
        raise InputError(f"groups are left out at once where both samples have as many, got {groups}, {other_groups}")

    def without_each(sample: np.ndarray, count: int) -> list[np.ndarray]:
        check_groups(len(sample), count, at_least=2)
        members = sample.reshape(count, -1, sample.shape[1])
        return [np.delete(members, g, axis=0).reshape(-1, sample.shape[1]) for g in range(count)]

    ones, others = without_each(one, groups), without_each(other, other_groups)
    if at_once:
        runs = [[_value(distance, *pair) for pair in zip(ones, others, strict=True)]]
    else:
        runs = [[_value(distance, rest, other) for rest in ones], [_value(distance, one, rest) for rest in others]]
    value = _value(distance, one, other)
    # Less the value, so that rounding to float32 keeps the digits of the spread.
    errors = [float(jackknife_error(jnp.asarray(np.asarray(left_out) - value))) for left_out in runs]
    return Measure(value, math.hypot(*errors))


def distance_floor(
    distance: Distance,
    reference: Samples,
    groups: int,
    *,
    max_splits: int = 64,
    key: PRNGKeyArray | None = None,
) -> Measure:
    """The noise floor of a distance: that of one half of the reference's draws to the other half, over splits.

    The mean of both directions and of all splits; each half has half the draws, so that the floor is on the careful
    side (`noise_floor`). `standard_error` is the standard deviation over the splits, not divided by their number
    because splits share their draws; None where there is only one.

    Args:
        distance: as for `with_error`.
        reference: draws of one posterior, chain after chain.
        groups: chains (or blocks) that stay whole; an even number where the distance takes samples of equal sizes only.
        max_splits: all splits are used if there are no more than this, else so many random ones.
        key: for random splits; needed only then.

    Raises:
        InputError: fewer than two groups, unequal ones, a missing key, no draws, or values that are not finite.
    """
    sample = _sample(reference, "reference")
    check_groups(len(sample), groups, at_least=2)
    chains = sample.reshape(groups, -1, sample.shape[1])
    values = []
    for half in half_splits(groups, max_splits, key):
        one, other = (chains[part].reshape(-1, sample.shape[1]) for part in (half, ~half))
        values.append((_value(distance, one, other) + _value(distance, other, one)) / 2)
    return Measure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _value(distance: Distance, one: np.ndarray, other: np.ndarray) -> float:
    found = distance(one, other)
    return found.value if isinstance(found, Measure) else float(found)


def _neighbor_distance(points: np.ndarray, others: np.ndarray, k: int) -> np.ndarray:
    # SciPy leaves the last axis out for k = 1.
    return np.reshape(KDTree(others).query(points, k)[0], (len(points), k))[:, -1]


def _line_cost(one: np.ndarray, other: np.ndarray, order: int) -> np.ndarray:
    """The p-th power of the distance of each column."""
    n, m = len(one), len(other)
    one, other = np.sort(one, axis=0), np.sort(other, axis=0)
    # Steps of both quantile functions, in whole units of 1 / (n m), so that equal steps are equal.
    ends = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
    starts = np.concatenate([[0], ends[:-1]])
    gaps = np.abs(one[starts // m] - other[starts // n]) ** order
    return (ends - starts) / (n * m) @ gaps


def _check_order(order: int) -> None:
    if not 1 <= order < math.inf:
        raise ConfigError(f"a Wasserstein distance has a finite order of at least 1, got {order}")


def _sample(values: Samples, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise InputError(
            f"the {name} sample has axes (draw, dim), got shape {array.shape}; one dimension is x[:, None]"
        )
    if not array.size:
        raise InputError(f"the {name} sample needs at least one draw of one dimension, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(
            f"the {name} sample must be finite, got {int((~np.isfinite(array)).sum())} NaN or infinite values of "
            f"{array.size}; a chain that diverged has no distance"
        )
    return array


def _pair(first: Samples, second: Samples) -> tuple[np.ndarray, np.ndarray]:
    one, other = _sample(first, "first"), _sample(second, "second")
    if one.shape[1] != other.shape[1]:
        raise InputError(f"samples need as many dimensions, got {one.shape[1]} and {other.shape[1]}")
    return one, other
