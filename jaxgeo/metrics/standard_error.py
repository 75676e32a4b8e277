"""Standard errors: from finitely many draws (Monte Carlo), and, apart from that, from finitely many test images.

The delete-one-group jackknife serves any metric of the draws. Draws that are not independent belong in one
group: the masks of one member of an MC-dropout ensemble, the draws of one chain (or of one block much longer than
the autocorrelation time). Groups are equal and consecutive along the draw axis. Of test images a mean has its error in
closed form (`image_standard_error`); another statistic of them, such as a quantile, gets it by `bootstrap_images`.

References:
    Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9 (1981).
    Kuensch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17 (1989).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxgeo.errors import InputError, check_whole
from jaxgeo.metrics.checks import check_groups
from jaxgeo.metrics.information import at_least_float32
from jaxgeo.metrics.predictive import Predictive, leave_one_out, summarize

FEWEST_FOR_INFORMATION = 3
"""Draws for a jackknife of the mutual information: without one of two it is that of a single draw, always 0."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number with its two errors, as Python floats.

    `standard_error` is the Monte Carlo error of the draws, None where there is only one group of draws (for a mutual
    information, only two draws) and so nothing to estimate it from; `image_standard_error` that of the test images,
    None where there is one image.
    """

    value: float
    standard_error: float | None
    image_standard_error: float | None = None

    @property
    def total_error(self) -> float:
        """Both errors in quadrature; an unknown one counts as zero."""
        return float(np.hypot(self.standard_error or 0.0, self.image_standard_error or 0.0))

    def to_dict(self) -> dict[str, float | None]:
        """The three fields by name."""
        return dataclasses.asdict(self)


class Jackknife(NamedTuple):
    """A metric of all draws, its standard error, and its bias (subtract it for an estimate at infinitely many)."""

    value: Float[Array, "*metric"]
    standard_error: Float[Array, "*metric"]
    bias: Float[Array, "*metric"]


@jax.jit
def jackknife_error(left_out: Float[Array, "group *metric"]) -> Float[Array, "*metric"]:
    r"""$\sqrt{\tfrac{G-1}{G} \sum_g (t_g - \bar t)^2}$ of a metric's values without group g; s / sqrt(G) for a mean.

    Infinite where one of the values is: the logarithm of a class that only one group thinks possible.
    """
    left_out, groups = at_least_float32(left_out), left_out.shape[0]
    finite = jnp.all(jnp.isfinite(left_out), axis=0)
    values = jnp.where(finite[None], left_out, 0)
    spread = jnp.sum(jnp.square(values - jnp.mean(values, axis=0, keepdims=True)), axis=0)
    return jnp.where(finite, jnp.sqrt(spread * ((groups - 1) / groups)), jnp.inf)


@jax.jit
def _jackknife(value: Float[Array, "*metric"], left_out: Float[Array, "group *metric"]) -> Jackknife:
    groups = left_out.shape[0]
    mean = jnp.mean(left_out, axis=0)
    finite = jnp.isfinite(mean) & jnp.isfinite(value)
    bias = jnp.where(finite, (groups - 1) * (jnp.where(finite, mean, 0) - jnp.where(finite, value, 0)), jnp.inf)
    return Jackknife(value, jackknife_error(left_out), bias)


def jackknife(
    metric: Callable[[Predictive], Float[Array, "*metric"]],
    log_probs: Float[Array, "draw *batch class"],
    groups: int | None = None,
) -> Jackknife:
    """Value, Monte Carlo standard error and bias of a metric of the averaged draws.

    All leave-one-out predictives come from running sums, so this costs about two passes over the draws. A metric
    that counts (accuracy, agreement) is not smooth in the draws; its error is then an average over images of
    rare jumps, good to its order of magnitude.

    Args:
        metric: any function of the two averages in `Predictive`, e.g. `lambda p: jnp.mean(entropy(p.log_mean))`.
        log_probs: log-probabilities in nats.
        groups: number of equal groups of consecutive draws; None leaves out one draw at a time.

    Raises:
        InputError: fewer than two groups, or draws that do not fall into equal groups.
    """
    return _jackknife(metric(summarize(log_probs)), jax.vmap(metric)(leave_one_out(log_probs, groups)))


def jackknife_draws(
    metric: Callable[[Float[Array, "some_draws *batch class"]], Float[Array, "*metric"]],
    log_probs: Float[Array, "draw *batch class"],
    groups: int | None = None,
) -> Jackknife:
    """As `jackknife`, for a metric of the draws themselves: computed anew without each group, one after another.

    Raises:
        InputError: fewer than two groups, or draws that do not fall into equal groups.
    """
    groups = check_groups(log_probs.shape[0], groups, at_least=2)
    draws = np.arange(log_probs.shape[0]).reshape(groups, -1)
    kept = jnp.asarray(np.stack([np.delete(draws, g, axis=0).ravel() for g in range(groups)]))
    log_probs = jnp.asarray(log_probs)  # a traced index takes no rows out of a NumPy array
    return _jackknife(metric(log_probs), jax.lax.map(lambda index: metric(log_probs[index]), kept))


@jax.jit
def image_standard_error(per_image: Float[Array, "*batch"]) -> Float[Array, ""]:
    """Error of a mean over independent test images, s / sqrt(n): the jackknife over images in closed form.

    Infinite where a value is; needs two images.
    """
    values = at_least_float32(per_image).ravel()
    finite = jnp.all(jnp.isfinite(values))
    values = jnp.where(finite, values, 0)
    return jnp.where(finite, jnp.std(values, ddof=1) / np.sqrt(values.size), jnp.inf)


def check_resamples(num_resamples: int) -> None:
    """Refuses too few resamples for a spread (`ConfigError`)."""
    check_whole("num_resamples", num_resamples, 2)


def bootstrap_images(
    key: PRNGKeyArray,
    statistic: Callable[[PyTree], Float[Array, "*metric"]],
    per_image: PyTree[Float[Array, "image ..."]],
    num_resamples: int = 200,
) -> Float[Array, "*metric"]:
    """Standard error of any statistic of the test images, by drawing the images with replacement.

    Args:
        key: for the resampled images.
        statistic: function of a tree shaped like `per_image`.
        per_image: arrays whose first axis is the image; all are resampled together.
        num_resamples: at least 2; the error itself has a relative error of about 1 / sqrt(2 num_resamples).

    Raises:
        ConfigError: fewer than two resamples.
        InputError: no image.
    """
    check_resamples(num_resamples)
    num_images = jax.tree.leaves(per_image)[0].shape[0]
    if not num_images:
        raise InputError("images are drawn with replacement from at least one, got none")

    def resampled(resample_key: PRNGKeyArray) -> Float[Array, "*metric"]:
        index = jax.random.randint(resample_key, (num_images,), 0, num_images)
        return statistic(jax.tree.map(lambda values: values[index], per_image))

    return jnp.std(jax.lax.map(resampled, jax.random.split(key, num_resamples)), axis=0, ddof=1)
