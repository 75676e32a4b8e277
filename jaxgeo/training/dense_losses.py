"""Losses of dense prediction: a class or a depth for every pixel, on the sphere as in the plane.

Every loss is a mean over the pixels that count, `sum(w * loss) / sum(w)`, and 0 with gradient 0 where none does. Of
depths those count whose target is finite: background is infinite, void is NaN. `weights` are the areas of the pixels,
where a grid has not equal ones; a pixel of weight 0 counts nowhere. Where a pixel does not count, neither its target
nor its prediction is looked at: the gradient there is exactly 0, whatever stands there. A prediction that is not finite
and does count makes the loss so too, which is how a diverged training is noticed. Arrays of several shapes are an
`InputError`: (1, pixel) beside (pixel, 1) would be broadcast.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313 (depth in metres or its
    logarithm, l2 with the factor 1/2, Huber in the scaling of smooth l1).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxgeo.errors import ConfigError, InputError, check_one_shape
from jaxgeo.training.losses import mean_cross_entropy


def weighted_cross_entropy(
    logits: Float[Array, "*pixel class"],
    labels: Integer[Array, "*pixel"],
    *,
    class_weights: Float[Array, " class"] | None = None,
    weights: Float[Array, "*pixel"] | None = None,
    ignored: int | None = None,
) -> Float[Array, ""]:
    """Negative log-likelihood in nats, each pixel by the weight of its label: `sum(c[y] w nll) / sum(c[y] w)`.

    A label outside 0 .. classes - 1, such as a void of 255 or -1, counts nowhere, as in the confusion matrix of
    `jaxgeo.metrics.segmentation`.

    Args:
        logits: any finite values where the label counts.
        labels: classes.
        class_weights: of each class, at least 0; by default 1.
        weights: of each pixel (areas), at least 0; by default 1.
        ignored: a class that counts nowhere either.

    Raises:
        InputError: not one weight for each class, or labels or weights of another shape than the logits' pixels.
    """
    classes = logits.shape[-1]
    if class_weights is not None and class_weights.shape != (classes,):
        raise InputError(
            f"class_weights must have one weight for each of the {classes} classes of the logits, shape ({classes},), "
            f"got {class_weights.shape}"
        )
    check_one_shape(logits=logits[..., 0], labels=labels, weights=weights)
    counts = (labels >= 0) & (labels < classes)
    if ignored is not None:
        counts &= labels != ignored
    if weights is not None:
        counts &= weights != 0
    every = jnp.where(counts, jnp.ones(labels.shape, logits.dtype) if weights is None else weights, 0)
    if class_weights is not None:
        # A masked sum, not a gather, as in `losses.cross_entropy`.
        shape = (1,) * labels.ndim + (-1,)
        hit = labels[..., None] == jnp.arange(classes).reshape(shape)
        every *= jnp.sum(jnp.where(hit, class_weights.reshape(shape), 0), axis=-1)
    return mean_cross_entropy(jnp.where(counts[..., None], logits, 0), jnp.where(counts, labels, 0), every)


def l1_loss(
    predictions: Float[Array, "*pixel"], targets: Float[Array, "*pixel"], weights: Float[Array, "*pixel"] | None = None
) -> Float[Array, ""]:
    """Mean of `|prediction - target|`; its gradient at 0 is 0."""
    counts = _counts(predictions, targets, weights)
    error = _error(predictions, targets, counts)
    return _mean(error * jnp.sign(error), counts, weights)  # the derivative of jnp.abs at 0 is 1


def l2_loss(
    predictions: Float[Array, "*pixel"], targets: Float[Array, "*pixel"], weights: Float[Array, "*pixel"] | None = None
) -> Float[Array, ""]:
    """Mean of `(prediction - target)^2 / 2`: half of what the metric `mean_squared_error` says."""
    counts = _counts(predictions, targets, weights)
    return _mean(jnp.square(_error(predictions, targets, counts)) / 2, counts, weights)


def huber_loss(
    predictions: Float[Array, "*pixel"],
    targets: Float[Array, "*pixel"],
    weights: Float[Array, "*pixel"] | None = None,
    *,
    delta: float = 1.0,
) -> Float[Array, ""]:
    """Mean of Huber's loss divided by delta: `e^2 / (2 delta)` where `|e| < delta`, else `|e| - delta / 2`.

    In this scaling (smooth l1) the slope far out is 1 for every delta, and delta -> 0 gives the l1 loss.

    Raises:
        ConfigError: delta is not above 0.
    """
    if not delta > 0:
        raise ConfigError(f"delta is the error at which Huber's loss turns linear, above 0, got {delta}; for 0 take l1")
    counts = _counts(predictions, targets, weights)
    size = jnp.abs(_error(predictions, targets, counts))
    return _mean(jnp.where(size < delta, jnp.square(size) / (2 * delta), size - delta / 2), counts, weights)


def gaussian_loss(
    predictions: Float[Array, "*pixel"],
    log_variances: Float[Array, "*pixel"],
    targets: Float[Array, "*pixel"],
    weights: Float[Array, "*pixel"] | None = None,
) -> Float[Array, ""]:
    r"""Mean negative log-density of a Gaussian of its own variance in every pixel, without the constant.

    $\tfrac12 s + \tfrac12 e^{-s} (\mu - y)^2$ with $s = \log \sigma^2$; $\tfrac12 \log 2 \pi$ is left out.

    References:
        Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?",
        arXiv:1703.04977, equation 8.
    """
    counts = _counts(predictions, targets, weights)
    check_one_shape(predictions=predictions, log_variances=log_variances)
    log_variances = jnp.where(counts, log_variances, 0)
    # The square of a standardised error: exp(-s) overflows float32 at s = -89, and 0 times infinity would follow.
    standardised = _error(predictions, targets, counts) * jnp.exp(-log_variances / 2)
    return _mean((log_variances + jnp.square(standardised)) / 2, counts, weights)


def _counts(
    predictions: Float[Array, "*pixel"], targets: Float[Array, "*pixel"], weights: Float[Array, "*pixel"] | None
) -> Bool[Array, "*pixel"]:
    check_one_shape(predictions=predictions, targets=targets, weights=weights)
    finite = jnp.isfinite(targets)
    return finite if weights is None else finite & (weights != 0)


def _error(
    predictions: Float[Array, "*pixel"], targets: Float[Array, "*pixel"], counts: Bool[Array, "*pixel"]
) -> Float[Array, "*pixel"]:
    # Both are replaced before the difference: a mask behind it would still pass infinity times 0 to the gradient.
    return jnp.where(counts, predictions, 0) - jnp.where(counts, targets, 0)


def _mean(
    losses: Float[Array, "*pixel"], counts: Bool[Array, "*pixel"], weights: Float[Array, "*pixel"] | None
) -> Float[Array, ""]:
    every = jnp.where(counts, jnp.ones_like(losses) if weights is None else weights, 0)
    total = jnp.sum(every)
    return jnp.sum(every * losses) / jnp.where(total == 0, 1, total)
