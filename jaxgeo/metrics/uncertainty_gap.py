r"""How far a method's stated uncertainty is from the reference's, input by input.

Over a set of inputs without labels: the mean of $|H - H_{ref}|$ and of $|MI - MI_{ref}|$ in nats, H the entropy of the
mean prediction and MI = H - the mean entropy of the draws. Neither sign nor chance cancels in a mean of distances:
finitely many draws on either side leave a gap even between equal distributions, which `uncertainty_floor` shows.

References:
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.metrics.checks import check_groups, check_log_probs, check_same_images
from jaxgeo.metrics.information import entropy
from jaxgeo.metrics.noise_floor import half_splits
from jaxgeo.metrics.predictive import Predictive, group_log_means, leave_one_out, summarize
from jaxgeo.metrics.standard_error import FEWEST_FOR_INFORMATION, Measure, image_standard_error, jackknife_error


class UncertaintyGap(NamedTuple):
    """Mean distances of uncertainties, in nats."""

    entropy: Measure
    mutual_information: Measure

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Both measures by name, as plain floats."""
        return {"entropy": self.entropy.to_dict(), "mutual_information": self.mutual_information.to_dict()}


def uncertainty_gap(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
    groups: int | None = None,
    reference_groups: int | None = None,
) -> UncertaintyGap:
    """Mean distances of entropies and of mutual informations.

    The Monte Carlo error is the jackknife's, of the draws of both sides in quadrature; a side of one group adds none.
    Near the floor, where many distances are about zero, it is too small, by up to two times in tests.

    Args:
        log_probs: of the method, in nats.
        reference_log_probs: of the reference, on the same inputs; of HMC, chain after chain.
        groups: equal groups of the method's draws that belong together; None for independent draws.
        reference_groups: the same of the reference: its chains.

    Raises:
        InputError: bad log-probabilities, different inputs, unequal groups.
    """
    check_log_probs(log_probs)
    check_log_probs(reference_log_probs, name="reference_log_probs")
    check_same_images(log_probs, reference_log_probs)
    counts = check_groups(log_probs.shape[0], groups), check_groups(reference_log_probs.shape[0], reference_groups)
    return _measured(_gap, (log_probs, reference_log_probs), counts)


def uncertainty_gap_difference(
    log_probs: Float[Array, "draw *batch class"],
    other_log_probs: Float[Array, "other_draw *other_batch other_class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
    groups: int | None = None,
    other_groups: int | None = None,
    reference_groups: int | None = None,
) -> UncertaintyGap:
    """How much nearer to the reference a method is than another: the other's mean distances less the method's own.

    Positive where the method is nearer. Both are held against the same draws of the reference on the same inputs, so
    the errors are those of the difference: what the reference's noise, or a choice of inputs, does to both distances
    alike cancels, and what it does to them in opposite senses adds up. Errors of the two distances by themselves know
    neither.

    Args:
        log_probs: of the method, in nats.
        other_log_probs: of what it is compared with, on the same inputs.
        reference_log_probs: of the reference, on the same inputs; of HMC, chain after chain.
        groups: equal groups of the method's draws that belong together; None for independent draws.
        other_groups: the same of the other method.
        reference_groups: the same of the reference: its chains.

    Raises:
        InputError: bad log-probabilities, different inputs, unequal groups.
    """
    check_log_probs(reference_log_probs, name="reference_log_probs")
    for name, values in (("log_probs", log_probs), ("other_log_probs", other_log_probs)):
        check_log_probs(values, name=name)
        check_same_images(values, reference_log_probs)
    sets = (log_probs, other_log_probs, reference_log_probs)
    counts = (
        check_groups(draws.shape[0], count)
        for draws, count in zip(sets, (groups, other_groups, reference_groups), strict=True)
    )
    return _measured(_difference, sets, tuple(counts))


def uncertainty_floor(
    reference_log_probs: Float[Array, "draw *batch class"],
    groups: int | None = None,
    *,
    max_splits: int = 64,
    key: PRNGKeyArray | None = None,
) -> UncertaintyGap:
    """The gap between one half of the reference's chains and the other, averaged over splits; see `noise_floor`.

    The Monte Carlo error of each is the standard deviation over splits, None where there is only one.

    Raises:
        InputError: bad log-probabilities, fewer than two groups, unequal groups, or a missing key.
    """
    check_log_probs(reference_log_probs, name="reference_log_probs")
    groups = check_groups(reference_log_probs.shape[0], groups, at_least=2)
    splits = half_splits(groups, max_splits, key)
    entropies = entropy(reference_log_probs).reshape(groups, -1, *reference_log_probs.shape[1:-1]).mean(axis=1)
    gaps = np.asarray(
        _halves(group_log_means(reference_log_probs, groups), entropies, jnp.asarray(splits)), np.float64
    ).reshape(len(splits), 2, -1)

    def measure(index: int) -> Measure:
        per_split, per_image = gaps[:, index].mean(axis=-1), gaps[:, index].mean(axis=0)
        deviation = float(per_split.std(ddof=1)) if len(splits) > 1 else None
        image_error = float(per_image.std(ddof=1) / np.sqrt(per_image.size)) if per_image.size > 1 else None
        return Measure(float(per_split.mean()), deviation, image_error)

    return UncertaintyGap(measure(0), measure(1))


def _gap(own: Array, reference: Array) -> Array:
    return jnp.abs(own - reference)


def _difference(own: Array, other: Array, reference: Array) -> Array:
    return jnp.abs(other - reference) - jnp.abs(own - reference)


@functools.partial(jax.jit, static_argnames=("distance", "groups"))
def _estimate(
    distance: Callable[..., Array], sets: tuple[Float[Array, "..."], ...], groups: tuple[int, ...]
) -> tuple[Float[Array, " 2"], Float[Array, " 2"], Float[Array, " 2"]]:
    """Means of the distances over inputs, their variances by the draws of all sets, their errors by the inputs."""
    whole = [_uncertainties(summarize(draws)) for draws in sets]
    each = distance(*whole).reshape(2, -1)
    variance = jnp.zeros((2,), each.dtype)
    for place, (draws, count) in enumerate(zip(sets, groups, strict=True)):
        if count > 1:
            left_out = _uncertainties(leave_one_out(draws, count))
            varied = distance(*(left_out if i == place else fixed[:, None] for i, fixed in enumerate(whole)))
            means = jnp.mean(varied.reshape(2, count, -1), axis=-1)
            variance = variance + jnp.square(jax.vmap(jackknife_error)(means))
    errors = jax.vmap(image_standard_error)(each) if each.shape[1] > 1 else jnp.zeros((2,), each.dtype)
    return jnp.mean(each, axis=-1), variance, errors


def _measured(
    distance: Callable[..., Array], sets: tuple[Float[Array, "..."], ...], groups: tuple[int, ...]
) -> UncertaintyGap:
    values, variances, errors = jax.device_get(_estimate(distance, sets, groups))

    def measure(index: int, fewest_draws: int) -> Measure:
        known = any(count > 1 and len(draws) >= fewest_draws for draws, count in zip(sets, groups, strict=True))
        return Measure(
            float(values[index]),
            float(np.sqrt(variances[index])) if known else None,
            float(errors[index]) if sets[0][0, ..., 0].size > 1 else None,
        )

    return UncertaintyGap(measure(0, 2), measure(1, FEWEST_FOR_INFORMATION))


def _uncertainties(predictive: Predictive) -> Float[Array, "2 *batch"]:
    """Entropy of the mean, and mutual information."""
    whole = entropy(predictive.log_mean)
    return jnp.stack([whole, whole - predictive.expected_entropy])


@jax.jit
def _halves(
    log_means: Float[Array, "group *batch class"], entropies: Float[Array, "group *batch"], splits: Array
) -> Float[Array, "split 2 *batch"]:
    def gap(first: Array) -> Float[Array, "2 *batch"]:
        def half(members: Array) -> Float[Array, "2 *batch"]:
            count = jnp.sum(members)
            mask = members.reshape(-1, *(1,) * (log_means.ndim - 1))
            log_mean = jax.nn.logsumexp(jnp.where(mask, log_means, -jnp.inf), axis=0) - jnp.log(count)
            expected = jnp.sum(jnp.where(mask[..., 0], entropies, 0), axis=0) / count
            return _uncertainties(Predictive(log_mean, expected))

        return jnp.abs(half(first) - half(~first))

    return jax.lax.map(gap, splits)
