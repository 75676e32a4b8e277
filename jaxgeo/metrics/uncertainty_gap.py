r"""How far a method's stated uncertainty is from the reference's, input by input.

Over a set of inputs without labels: the mean of $|H - H_{ref}|$ and of $|MI - MI_{ref}|$ in nats, H the entropy of the
mean prediction and MI = H - the mean entropy of the draws. Neither sign nor chance cancels in a mean of distances:
finitely many draws on either side leave a gap even between equal distributions, which `uncertainty_floor` shows.

References:
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.metrics.checks import check_groups, check_log_probs, check_same_images
from jaxgeo.metrics.information import entropy
from jaxgeo.metrics.noise_floor import half_splits
from jaxgeo.metrics.predictive import Predictive, group_log_means, leave_one_out, summarize
from jaxgeo.metrics.standard_error import Measure, image_standard_error, jackknife_error


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
    own_groups = check_groups(log_probs.shape[0], groups)
    other_groups = check_groups(reference_log_probs.shape[0], reference_groups)
    own, other = _uncertainties(summarize(log_probs)), _uncertainties(summarize(reference_log_probs))
    distances = jnp.abs(own - other)
    variances = []
    for draws, count, fixed in ((log_probs, own_groups, other), (reference_log_probs, other_groups, own)):
        if count > 1:
            left_out = jnp.abs(_uncertainties(leave_one_out(draws, count)) - fixed[:, None])
            means = jnp.mean(left_out.reshape(*left_out.shape[:2], -1), axis=-1)
            variances.append(jnp.square(jax.vmap(jackknife_error)(means)))

    def measure(index: int) -> Measure:
        each = distances[index]
        error = float(jnp.sqrt(sum(variance[index] for variance in variances))) if variances else None
        return Measure(float(jnp.mean(each)), error, float(image_standard_error(each)) if each.size > 1 else None)

    return UncertaintyGap(measure(0), measure(1))


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
