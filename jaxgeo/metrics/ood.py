"""Whether a score tells images of another distribution from those of the training's: detection out of distribution.

Scores of images, the larger the less at home the network says it is: an entropy, a mutual information, minus the
largest probability. "Outside" are the images of the other distribution, and they are the positives: a true positive is
one of them that was found. Programs that call the training's distribution positive get the same area under the curve,
and another false positive rate; exchange the two arguments and negate the scores for theirs. Ranks are counted on the
host, in float64, over all batch axes together.

References:
    Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
    arXiv:1610.02136, for the task and the area under the curve.
    Liang et al., "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
    arXiv:1706.02690, for the false positive rate at 95 % true positives.
    Mann and Whitney, "On a Test of Whether one of Two Random Variables is Stochastically Larger than the Other",
    Annals of Mathematical Statistics 18 (1947).
    DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves", Biometrics 44 (1988), for the standard error of the area.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.checks import check_groups, check_log_probs
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.standard_error import Measure, check_resamples, jackknife_error
from jaxgeo.metrics.uncertainty import predictive_entropy

TRUE_POSITIVE_RATE = 0.95

Score = Callable[[Float[Array, "draw image class"]], Float[Array, " image"]]
Scores = Float[Array, "..."] | Float[np.ndarray, "..."]

_BLOCK = 256  # images that are scored at once, so that sets of any size are scored by one program


class Detection(NamedTuple):
    """How well a score finds images from outside; each with the error of the draws and that of the images."""

    auroc: Measure
    false_positive_rate: Measure


def negative_confidence(log_probs: Float[Array, "draw *batch class"]) -> Float[Array, "*batch"]:
    """Minus the largest probability of the mean predictive, in [-1, 0]: the score of Hendrycks and Gimpel."""
    return -jnp.exp(jnp.max(mean_log_probs(log_probs), axis=-1))


def shares_below(
    values: Float[np.ndarray, " image"], others: Float[np.ndarray, " other_image"]
) -> Float[np.ndarray, " image"]:
    """Of each value: the share of the others that lie below it, equal ones counting half; float64."""
    ordered = np.sort(others)
    # Twice the count is an integer, so that equal values count half without rounding.
    twice = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return twice / (2 * len(others))


def auroc(inside: Scores, outside: Scores) -> float:
    """Area under the receiver operating characteristic: P(outside > inside) + P(outside = inside) / 2.

    The Mann-Whitney statistic over all pairs, in n log n work: 1 where every image from outside scores above every one
    from inside, 1/2 where the score tells nothing, and exactly 1/2 where all scores are equal.

    Args:
        inside: scores of images from the training's distribution.
        outside: scores of images from another one.

    Raises:
        InputError: no image, or NaN.
    """
    inside, outside = _checked(inside, outside)
    return float(shares_below(outside, inside).mean())


def auroc_standard_error(inside: Scores, outside: Scores) -> float:
    """The error that finite numbers of both images leave in the area, by DeLong et al.

    0 where all pairs are told apart, as the estimate has no spread there.

    Raises:
        InputError: fewer than two images of a kind, or NaN.
    """
    inside, outside = _checked(inside, outside, at_least=2)
    variances = shares_below(outside, inside).var(ddof=1), shares_below(inside, outside).var(ddof=1)
    return math.sqrt(variances[0] / len(outside) + variances[1] / len(inside))


def false_positive_rate(inside: Scores, outside: Scores, true_positive_rate: float = TRUE_POSITIVE_RATE) -> float:
    """Share of the inside images that are taken for outside ones when at least 95 % of the outside ones are found.

    The threshold is the largest score that so many outside images reach, and what reaches it is called outside: ties
    with the threshold are positives on both sides. 0 is best; a score that tells nothing has 0.95.

    Args:
        inside: scores of images from the training's distribution.
        outside: scores of images from another one.
        true_positive_rate: share of the outside images to be found, above 0 and at most 1.

    Raises:
        ConfigError: an impossible rate.
        InputError: no image, or NaN.
    """
    if not 0 < true_positive_rate <= 1:
        raise ConfigError(f"the share of true positives lies above 0 and at most at 1, got {true_positive_rate}")
    inside, outside = _checked(inside, outside)
    # The product may come out an ulp above a whole number, which would ask for one image more.
    needed = max(1, math.ceil(true_positive_rate * len(outside) - 1e-9))
    return float((inside >= np.sort(outside)[len(outside) - needed]).mean())


def bootstrap_error(
    key: PRNGKeyArray,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    inside: Scores,
    outside: Scores,
    num_resamples: int = 200,
) -> float:
    """Standard error of a statistic of two sets of images, by drawing both with replacement, each from itself.

    Args:
        key: for the resampled images.
        statistic: `auroc`, `false_positive_rate` or the like.
        inside: scores of the one.
        outside: scores of the other.
        num_resamples: at least 2; the error itself has a relative error of about 1 / sqrt(2 num_resamples).

    Raises:
        ConfigError: fewer than two resamples.
        InputError: no image, or NaN.
    """
    check_resamples(num_resamples)
    inside, outside = _checked(inside, outside)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    values = [
        statistic(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(num_resamples)
    ]
    return float(np.std(values, ddof=1))


def _checked(inside: Scores, outside: Scores, at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name, scores in (("inside", inside), ("outside", outside)):
        values = np.asarray(scores, np.float64).ravel()
        if len(values) < at_least:
            raise InputError(f"this needs the scores of at least {at_least} {name} images, got {len(values)}")
        if np.isnan(values).any():
            raise InputError(
                f"the {name} scores must have an order, got {int(np.isnan(values).sum())} NaN of {len(values)}; "
                f"leave out what could not be scored"
            )
        arrays.append(values)
    return arrays[0], arrays[1]


@functools.partial(jax.jit, static_argnums=0)
def _score(score: Score, log_probs: Float[Array, "draw image class"]) -> Float[Array, " image"]:
    return score(log_probs)


def _scores(score: Score, log_probs: Float[np.ndarray, "draw image class"]) -> Float[np.ndarray, " image"]:
    """Of all images, block by block; the last block is filled up with its last image."""
    number = log_probs.shape[1]
    rows = np.minimum(np.arange(-(-number // _BLOCK) * _BLOCK), number - 1).reshape(-1, _BLOCK)
    blocks = [np.asarray(_score(score, jnp.asarray(log_probs[:, block]))) for block in rows]
    if blocks[0].shape != (_BLOCK,):
        raise InputError(
            f"a score gives one number per image, shape ({_BLOCK},) for log-probabilities of shape "
            f"{(*log_probs.shape[:1], _BLOCK, *log_probs.shape[2:])}, got {blocks[0].shape}"
        )
    return np.concatenate(blocks)[:number]


def detect(
    key: PRNGKeyArray,
    log_probs: Float[Array, "draw *batch class"],
    outside_log_probs: Float[Array, "outside_draw *outside_batch outside_class"],
    score: Score = predictive_entropy,
    *,
    groups: int | None = None,
    true_positive_rate: float = TRUE_POSITIVE_RATE,
    num_resamples: int = 200,
) -> Detection:
    """Both measures of one score, with the Monte Carlo error of the draws and the error of the images.

    The draws' errors are jackknives over groups of draws, leaving a group out of both sets at once; None where there
    is one group. The images' error is DeLong's for the area, a bootstrap for the rate; None where a set has one image.

    The score is compiled once for each number of draws (all, and all without a group) and of classes, whatever the
    number of images, and kept by its identity: a lambda written anew for each call is compiled for each.

    Args:
        key: for the bootstrap.
        log_probs: of images from the training's distribution, in nats; batch axes are joined.
        outside_log_probs: of images from another one, by the same draws in the same order.
        score: of each image's log-probabilities by itself, such as `predictive_entropy`, `mutual_information` or
            `negative_confidence`.
        groups: equal groups of consecutive draws that belong together; None for independent draws.
        true_positive_rate: share of the outside images to be found.
        num_resamples: of the bootstrap.

    Raises:
        InputError: bad log-probabilities, other draws or classes, unequal groups, scores that are NaN or not one per
            image.
        ConfigError: an impossible rate.
    """
    for name, values in (("log_probs", log_probs), ("outside_log_probs", outside_log_probs)):
        check_log_probs(values, name=name)
    one, other = log_probs.shape, outside_log_probs.shape
    if (one[0], one[-1]) != (other[0], other[-1]):
        raise InputError(
            f"both sets need the same draws and classes, got {one[0]} draws of {one[-1]} classes inside and {other[0]} "
            f"of {other[-1]} outside"
        )
    groups = check_groups(one[0], groups)
    # On the host, where taking draws out compiles nothing.
    sets = [np.asarray(values).reshape(one[0], -1, one[-1]) for values in (log_probs, outside_log_probs)]

    def measured(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
        return auroc(inside, outside), false_positive_rate(inside, outside, true_positive_rate)

    inside, outside = (_scores(score, values) for values in sets)
    draw_errors = image_errors = None
    if groups > 1:
        members = np.arange(one[0]).reshape(groups, -1)
        left_out = [
            measured(*(_scores(score, values[np.delete(members, g, axis=0).ravel()]) for values in sets))
            for g in range(groups)
        ]
        draw_errors = jackknife_error(jnp.asarray(left_out))
    if min(len(inside), len(outside)) > 1:
        rate_error = bootstrap_error(
            key, lambda i, o: false_positive_rate(i, o, true_positive_rate), inside, outside, num_resamples
        )
        image_errors = auroc_standard_error(inside, outside), rate_error
    return Detection(
        *(
            Measure(
                value,
                None if draw_errors is None else float(draw_errors[i]),
                None if image_errors is None else image_errors[i],
            )
            for i, value in enumerate(measured(inside, outside))
        )
    )
