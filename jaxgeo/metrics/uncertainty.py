"""How unsure a set of draws is of each image, split into what the draws share and where they differ; in nats.

All refuse what are no log-probabilities (`checks.check_distributions`; under `jax.jit` by their shape alone).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.metrics.checks import check_distributions
from jaxgeo.metrics.information import entropy, kl_divergence
from jaxgeo.metrics.predictive import mean_log_probs


def predictive_entropy(log_probs: Float[Array, "draw *batch class"]) -> Float[Array, "*batch"]:
    """Total uncertainty: entropy of the mean predictive, between 0 and log(classes)."""
    return entropy(mean_log_probs(log_probs))


def expected_entropy(log_probs: Float[Array, "draw *batch class"]) -> Float[Array, "*batch"]:
    """Uncertainty that each draw sees by itself (aleatoric): the mean of the draws' entropies."""
    check_distributions(log_probs)
    return jnp.mean(entropy(log_probs), axis=0)


def mutual_information(log_probs: Float[Array, "draw *batch class"]) -> Float[Array, "*batch"]:
    r"""Disagreement of the draws (epistemic): information between the label and the parameters.

    $I(y; \theta) = H[\bar p] - \tfrac1M \sum_m H[p_m] = \tfrac1M \sum_m KL(p_m \| \bar p)$, between 0 and
    log(draws). The second form is used: it has no cancellation where the draws nearly agree. With few draws the
    value is biased towards zero (at most log M); `standard_error.jackknife` estimates by how much.

    References:
        Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", arXiv:1112.5745.
    """
    mean = mean_log_probs(log_probs)
    return jnp.mean(kl_divergence(log_probs, jnp.broadcast_to(mean[None], log_probs.shape)), axis=0)
