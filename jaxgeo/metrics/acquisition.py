"""Which images to label next: what an image of the pool would teach, and the choice of the best k.

Acquisition functions give one number for each image, the larger the more worth a label. Entropy and least confidence
look at the mean predictive, BALD at what its draws disagree on. The calibrated one asks first where the stated
probabilities are wrong, as far as labelled images near in probability can tell, and only then how unsure they are.

Few draws rank a pool by chance. `standard_error.jackknife_draws(bald, log_probs, groups)`, and so with the others, has
the Monte Carlo error of each image's number, by which the lead of one image over another is to be judged.

References:
    Settles, "Active Learning Literature Survey", University of Wisconsin-Madison (2009), for entropy and least
    confidence.
    Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", arXiv:1112.5745, for BALD.
    Bui, Maifeld-Carucci and Liu, "Calibrated Uncertainty Sampling for Active Learning", arXiv:2510.03162, for the
    calibration error before the uncertainty, in lexicographic order.
    Popordanoska et al., "A Consistent and Differentiable Lp Canonical Calibration Error Estimator", arXiv:2210.07810,
    for the Dirichlet kernel.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxgeo.errors import ConfigError, InputError, check_whole
from jaxgeo.metrics.checks import check_predictions, is_concrete, widened
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy


def entropy_acquisition(log_probs: Float[Array, "draw *pool class"]) -> Float[Array, "*pool"]:
    """Entropy of the mean predictive, in nats: total uncertainty, also that which no label would lower."""
    return predictive_entropy(log_probs)


def bald(log_probs: Float[Array, "draw *pool class"]) -> Float[Array, "*pool"]:
    """Mutual information of label and parameters, in nats: 0 where all draws agree, however unsure each is."""
    return mutual_information(log_probs)


def least_confidence(log_probs: Float[Array, "draw *pool class"]) -> Float[Array, "*pool"]:
    """One minus the probability of the mean predictive's top class."""
    return -jnp.expm1(jnp.max(mean_log_probs(log_probs), axis=-1))


def estimated_calibration_error(
    pool_log_probs: Float[Array, "draw *pool class"],
    labelled_log_probs: Float[Array, "labelled_draw *labelled labelled_class"],
    labels: Integer[Array, "*labels"],
    bandwidth: float = 0.05,
    labelled_weights: Float[Array, "*weights"] | None = None,
) -> Float[Array, "*pool"]:
    r"""Distance between the stated probabilities and those that labelled images near in probability had.

    $\sum_c |p_c(x) - \hat P(y = c \mid p(x))|$ with the kernel regression
    $\hat P = \sum_i w_i k(p(x), p_i) e_{y_i} / \sum_i w_i k(p(x), p_i)$ and the Dirichlet kernel of arXiv:2210.07810,
    $k(p, q) \propto \prod_c p_c^{q_c / h} / B(1 + q / h)$, in log space. In [0, 2]. However far
    all labelled images are, the nearest ones answer.

    Args:
        pool_log_probs: images without labels, in nats.
        labelled_log_probs: images with labels that the model was not trained on, by the same network's draws.
        labels: class of each of the latter.
        bandwidth: h of the kernel, in units of probability; smaller is sharper.
        labelled_weights: of the labelled images, at least 0 and some above: density ratios of pool over labelled,
            where both are drawn from different distributions (importance weights against covariate shift); by default
            1.

    Raises:
        ConfigError: the bandwidth is not above 0.
        InputError: labels that are not one class index per labelled image, other classes of the two sets, or weights
            that are not one of at least 0 per labelled image and one above.
    """
    check_predictions(labelled_log_probs, labels)
    if not bandwidth > 0:
        raise ConfigError(f"the bandwidth of a kernel lies above 0, got {bandwidth}")
    pool, classes = pool_log_probs.shape[1:-1], pool_log_probs.shape[-1]
    if classes != labelled_log_probs.shape[-1]:
        raise InputError(
            f"pool and labelled images need the same classes, got {classes} and {labelled_log_probs.shape[-1]}"
        )
    # All axes of images in one, as every labelled one is near or far from every one of the pool.
    log_p = mean_log_probs(pool_log_probs).reshape(-1, classes)
    log_q, labels = mean_log_probs(labelled_log_probs).reshape(-1, classes), labels.ravel()
    concentration = jnp.exp(log_q) / bandwidth
    log_normaliser = jnp.sum(jax.lax.lgamma(1 + concentration), axis=-1)
    log_normaliser = log_normaliser - jax.lax.lgamma(1 + jnp.sum(concentration, axis=-1))
    # 0 log 0 = 0: minus infinity would make the product NaN where the labelled image excludes the class too.
    possible = jnp.maximum(log_p, -1e30)
    log_kernel = jnp.matmul(possible, concentration.T, precision="highest") - log_normaliser[None]
    if labelled_weights is not None:
        _check_weights(labelled_weights, labelled_log_probs.shape[1:-1])
        log_kernel = log_kernel + jnp.log(labelled_weights).ravel()[None]
    one_hot = jax.nn.one_hot(widened(labels), log_p.shape[-1], dtype=log_p.dtype)
    seen = jnp.matmul(jax.nn.softmax(log_kernel, axis=-1), one_hot, precision="highest")
    return jnp.sum(jnp.abs(jnp.exp(log_p) - seen), axis=-1).reshape(pool)


def _check_weights(weights: Float[Array, "*weights"], labelled: tuple[int, ...]) -> None:
    if weights.shape != labelled:
        raise InputError(f"labelled_weights are one per labelled image, shape {labelled}, got {weights.shape}")
    if is_concrete(weights):
        values = np.asarray(weights, np.float64)
        if not (np.isfinite(values) & (values >= 0)).all() or not values.any():
            raise InputError(
                f"labelled_weights are finite, at least 0 and some above, got {np.min(values):g} to {np.max(values):g}"
            )


def calibrated_uncertainty(
    pool_log_probs: Float[Array, "draw *pool class"],
    labelled_log_probs: Float[Array, "labelled_draw *labelled labelled_class"],
    labels: Integer[Array, "*labels"],
    num_levels: int = 10,
    bandwidth: float = 0.05,
    labelled_weights: Float[Array, "*weights"] | None = None,
) -> Float[Array, "*pool"]:
    """Estimated calibration error first, then entropy: a number whose order is the lexicographic one.

    Errors are rounded to levels of equal width in [0, 2], since two real numbers are hardly ever equal and the entropy
    would not be heard; with many levels the order is that of arXiv:2510.03162, by the error alone. The number is the
    level plus the entropy over log(classes), which is below 1 but for rounding.

    Args:
        pool_log_probs: images without labels, in nats.
        labelled_log_probs: images with labels that the model was not trained on.
        labels: class of each of the latter.
        num_levels: of the estimated errors; 1 is the entropy alone. At most 2^12, so that float32 keeps the entropy.
        bandwidth: of the kernel; see `estimated_calibration_error`.
        labelled_weights: likewise.

    Raises:
        ConfigError: impossible levels, or a bandwidth not above 0.
        InputError: as `estimated_calibration_error`.
    """
    check_whole("num_levels", num_levels, None)
    if not 1 <= num_levels <= 2**12:
        raise ConfigError(f"errors have 1 to {2**12} levels, got {num_levels}")
    error = estimated_calibration_error(pool_log_probs, labelled_log_probs, labels, bandwidth, labelled_weights)
    level = jnp.clip(jnp.floor(error * (num_levels / 2)), 0, num_levels - 1)
    # A single class leaves nothing to be unsure of, and log(1) nothing to divide by.
    share = predictive_entropy(pool_log_probs) / jnp.log(max(pool_log_probs.shape[-1], 2))
    # Strictly below 1: the most unsure image of a level stays below the next level.
    return level + jnp.minimum(share, 1 - 2.0**-11)


def choose(scores: Float[Array, " pool"], k: int) -> Int[Array, " chosen"]:
    """Places of the k largest scores, the largest first; equal ones in the order of the pool.

    Args:
        scores: one for each image of the pool.
        k: images to label.

    Raises:
        ConfigError: fewer than one, or more than there are.
        InputError: scores with more axes than that of the pool; one that is NaN, which has no place in an order (under
            `jax.jit` it is the largest).
    """
    if scores.ndim != 1:
        raise InputError(f"scores are one for each image of a pool, shape (pool,), got {scores.shape}; take ravel()")
    check_whole("k", k, None)
    if not 1 <= k <= scores.shape[0]:
        raise ConfigError(f"1 to {scores.shape[0]} images can be chosen from this pool, got {k}")
    if is_concrete(scores) and np.isnan(scores).any():
        raise InputError(
            f"scores are compared and must not be NaN, got {int(np.isnan(scores).sum())} of {scores.shape[0]}, first "
            f"that of image {int(np.isnan(scores).argmax())}; leave those images out of the pool"
        )
    return jax.lax.top_k(scores, k)[1]
