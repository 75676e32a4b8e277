"""How near one predictive is to a reference predictive, usually that of Hamiltonian Monte Carlo.

Per image, of two predictive distributions `(*batch, class)`; and averaged over images, of two sets of draws,
whose numbers may differ. Sets of other images or classes are an InputError, as are, outside of `jax.jit`, draws that
are no log-probabilities.

References:
    Izmailov et al., "What Are Bayesian Neural Network Posteriors Really Like?", arXiv:2104.14421, for agreement
    and total variation as measures of fidelity to HMC.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.metrics.checks import check_same_images, check_shape
from jaxgeo.metrics.information import at_least_float32, kl_divergence
from jaxgeo.metrics.predictive import mean_log_probs


@jax.jit
def same_top_class(log_p: Float[Array, "*batch class"], log_q: Float[Array, "*batch class"]) -> Float[Array, "*batch"]:
    """1 where both have the same most probable class (the first of several), else 0."""
    log_p = at_least_float32(log_p)
    return (jnp.argmax(log_p, axis=-1) == jnp.argmax(log_q, axis=-1)).astype(log_p.dtype)


@jax.jit
def variation_distance(
    log_p: Float[Array, "*batch class"], log_q: Float[Array, "*batch class"]
) -> Float[Array, "*batch"]:
    """Total variation distance `sum |p - q| / 2`: a metric on distributions, in [0, 1]."""
    p, q = jnp.exp(at_least_float32(log_p)), jnp.exp(at_least_float32(log_q))
    return jnp.sum(jnp.abs(p - q), axis=-1) / 2


def agreement(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
) -> Float[Array, ""]:
    """Share of images on which both mean predictives have the same top class; 1 is best."""
    return jnp.mean(same_top_class(*_predictives(log_probs, reference_log_probs)))


def total_variation(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
) -> Float[Array, ""]:
    """Total variation distance of the mean predictives, averaged over images; 0 is best."""
    return jnp.mean(variation_distance(*_predictives(log_probs, reference_log_probs)))


def divergence_from_reference(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
) -> Float[Array, ""]:
    """KL(reference || method) of the mean predictives in nats, averaged over images; 0 is best.

    Infinite as soon as the method excludes a class that the reference allows.
    """
    own, reference = _predictives(log_probs, reference_log_probs)
    return jnp.mean(kl_divergence(reference, own))


def _predictives(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
) -> tuple[Float[Array, "*batch class"], Float[Array, "*batch class"]]:
    check_shape(log_probs)
    check_shape(reference_log_probs, "reference_log_probs")
    check_same_images(log_probs, reference_log_probs)
    return mean_log_probs(log_probs), mean_log_probs(reference_log_probs, "reference_log_probs")
