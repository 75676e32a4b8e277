"""How near to the reference any method can be seen to be: the reference held against itself.

One half of the reference's draws is compared with the other half as if it were a method. Halves are made of whole
chains (or blocks): splitting the draws of one chain at random would share its autocorrelation between both halves
and make the floor too low. The floor is on the careful side: each half has half the draws, so its error is larger
than that of the full reference (up to two times for total variation between halves).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxgeo.errors import InputError
from jaxgeo.metrics.agreement import same_top_class, variation_distance
from jaxgeo.metrics.checks import check_groups, check_log_probs, check_same_images
from jaxgeo.metrics.information import kl_divergence
from jaxgeo.metrics.predictive import group_log_means, leave_one_out, mean_log_probs
from jaxgeo.metrics.standard_error import Measure, image_standard_error, jackknife_error

Distance = Literal["total_variation", "disagreement"]


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """Half against half, averaged over splits.

    `standard_error` of each is the standard deviation over splits, not divided by their number because splits
    share their draws; None where only one split exists.
    """

    agreement: Measure
    total_variation: Measure
    divergence: Measure  # nats, the mean of both directions; infinite where a half excludes what the other allows
    num_splits: int

    def distance(self, distance: Distance) -> Measure:
        """The floor as a distance: total variation, or 1 - agreement."""
        if distance == "total_variation":
            return self.total_variation
        return dataclasses.replace(self.agreement, value=1 - self.agreement.value)

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """The three measures by name, as plain floats."""
        return {
            "agreement": self.agreement.to_dict(),
            "total_variation": self.total_variation.to_dict(),
            "divergence_from_reference": self.divergence.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class ClosenessVerdict:
    """Whether one method is nearer to the reference than another, and the numbers that say so.

    `difference` is the other's distance minus the method's own: positive where the method is nearer.
    """

    outcome: Literal["closer", "farther", "indistinguishable"]
    distance: Distance
    difference: Measure
    floor: Measure
    needed: float

    @property
    def closer(self) -> bool:
        """The one statement that may be printed as a claim."""
        return self.outcome == "closer"

    @property
    def sentence(self) -> str:
        """The verdict with its reason, for a report."""
        name = self.distance.replace("_", " ")
        numbers = f"its {name} is {abs(self.difference.value):.4f} {'lower' if self.difference.value > 0 else 'higher'}"
        if self.outcome == "indistinguishable":
            return f"Not distinguishable: {numbers}, and a claim would need more than {self.needed:.4f}."
        return f"{self.outcome.capitalize()}: {numbers}, more than the {self.needed:.4f} that a claim needs."

    def to_dict(self) -> dict[str, str | float | dict[str, float | None]]:
        """All fields as plain values."""
        return dataclasses.asdict(self)


def half_splits(groups: int, max_splits: int = 64, key: PRNGKeyArray | None = None) -> Bool[np.ndarray, "split group"]:
    """True where a group belongs to the first half: every split in two, or `max_splits` random ones if more.

    An odd number of groups puts one more into the second half.

    Raises:
        InputError: fewer than two groups; or too many splits to list them all, and no key to draw some.
    """
    check_groups(groups, None, at_least=2)
    half = groups // 2
    # Two equal halves have no order: keep the split that has group 0 in the first half.
    count = math.comb(groups, half) // (1 if groups % 2 else 2)
    if count <= max_splits:
        chosen = [c for c in itertools.combinations(range(groups), half) if groups % 2 or c[0] == 0]
        return np.array([np.isin(np.arange(groups), c) for c in chosen])
    if key is None:
        raise InputError(
            f"{groups} groups can be halved in {count} ways, more than {max_splits}; pass a key to draw splits at "
            f"random, or fewer groups (one per chain)"
        )
    ranks = jax.vmap(lambda k: jax.random.permutation(k, groups))(jax.random.split(key, max_splits))
    return np.asarray(ranks) < half


@jax.jit
def _halves_apart(
    log_means: Float[Array, "group *batch class"], splits: Bool[Array, "split group"]
) -> tuple[Float[Array, "split *batch"], Float[Array, "split *batch"], Float[Array, "split *batch"]]:
    def compare(first: Bool[Array, " group"]):
        def half(members: Bool[Array, " group"]) -> Float[Array, "*batch class"]:
            mask = members.reshape(-1, *(1,) * (log_means.ndim - 1))
            return jax.nn.logsumexp(jnp.where(mask, log_means, -jnp.inf), axis=0) - jnp.log(jnp.sum(members))

        one, other = half(first), half(~first)
        # Neither half is the reference more than the other.
        divergence = (kl_divergence(one, other) + kl_divergence(other, one)) / 2
        return same_top_class(one, other), variation_distance(one, other), divergence

    return jax.lax.map(compare, splits)


def noise_floor(
    reference_log_probs: Float[Array, "draw *batch class"],
    groups: int | None = None,
    *,
    max_splits: int = 64,
    key: PRNGKeyArray | None = None,
) -> NoiseFloor:
    """Agreement, total variation and divergence of the reference's one half against its other half.

    Args:
        reference_log_probs: the reference's draws, chain after chain.
        groups: number of chains (or equal blocks) that stay whole; None lets each draw go its own way, right
            only for independent draws.
        max_splits: all splits are used if there are no more than this, else so many random ones.
        key: for random splits; needed only then.

    Raises:
        InputError: bad log-probabilities, fewer than two groups, unequal groups, or a missing key.
    """
    return noise_floor_of_blocks([reference_log_probs], groups, max_splits=max_splits, key=key)


def noise_floor_of_blocks(
    blocks: Iterable[Float[Array, "draw *_block class"]],
    groups: int | None = None,
    *,
    max_splits: int = 64,
    key: PRNGKeyArray | None = None,
) -> NoiseFloor:
    """As `noise_floor`, of images that never are in memory at once: the same draws' predictions, block after block.

    Args:
        blocks: of images, each (draw, *block, class), made one at a time; sums over them are kept in float64.
        groups: see `noise_floor`; likewise the others.
        max_splits: likewise.
        key: likewise.

    Raises:
        InputError: what `noise_floor` refuses, no block, or blocks of other draws or classes.
    """
    total, splits, drawn = None, np.zeros((0, 0), bool), (0, 0)
    for block in blocks:
        check_log_probs(block, name="reference_log_probs")
        count = check_groups(block.shape[0], groups, at_least=2)
        if total is None:
            splits, drawn = half_splits(count, max_splits, key), (block.shape[0], block.shape[-1])
        elif drawn != (block.shape[0], block.shape[-1]):
            raise InputError(
                f"blocks are of the same draws and classes, got {drawn[0]} draws of {drawn[1]} classes and "
                f"{block.shape[0]} of {block.shape[-1]}"
            )
        found = _sums(*_halves_apart(group_log_means(block, count), jnp.asarray(splits)))
        total = found if total is None else _added(total, found)
        # The block would otherwise be kept alive while the next one is made.
        del block
    if total is None:
        raise InputError("a floor needs at least one block of images, got none")
    return NoiseFloor(*_measured(total), num_splits=len(splits))


class _Sums(NamedTuple):
    """Of some images: agreement, total variation and divergence, in float64."""

    num_images: int
    sums: Float[np.ndarray, "3 split"]
    squares: Float[np.ndarray, " 3"]  # of the means over the splits, about their mean over images


def _sums(*values: Float[Array, "split *block"]) -> _Sums:
    each = np.stack([np.asarray(value, np.float64).reshape(value.shape[0], -1) for value in values])
    per_image = each.mean(axis=1)
    with np.errstate(invalid="ignore"):  # infinity minus infinity, where halves exclude each other
        squares = np.square(per_image - per_image.mean(axis=-1, keepdims=True)).sum(axis=-1)
    return _Sums(each.shape[-1], each.sum(axis=-1), squares)


def _added(one: _Sums, other: _Sums) -> _Sums:
    n, m = one.num_images, other.num_images
    with np.errstate(invalid="ignore"):
        shift = other.sums.mean(axis=-1) / m - one.sums.mean(axis=-1) / n
        squares = one.squares + other.squares + np.square(shift) * (n * m / (n + m))
    return _Sums(n + m, one.sums + other.sums, squares)


def _measured(total: _Sums) -> list[Measure]:
    n, splits = total.num_images, total.sums.shape[1]
    measures = []
    for sums, squares in zip(total.sums, total.squares, strict=True):
        finite = bool(np.isfinite(sums).all())
        deviation = float((sums / n).std(ddof=1)) if finite and splits > 1 else math.inf
        image_error = math.sqrt(squares / (n - 1) / n) if finite and n > 1 else math.inf
        measures.append(
            Measure(float(sums.mean()) / n, deviation if splits > 1 else None, image_error if n > 1 else None)
        )
    return measures


@functools.partial(jax.jit, static_argnames=("distance", "groups"))
def _paired_difference(
    draws: tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]],
    distance: Distance,
    groups: tuple[int, int, int],
):
    """Other's minus own distance: value, variance of the draws of all three sets, error of the images."""

    def difference(log_means: tuple[Array, ...]) -> Float[Array, "*batch"]:
        own, other, reference = log_means
        if distance == "total_variation":
            return variation_distance(other, reference) - variation_distance(own, reference)
        return same_top_class(own, reference) - same_top_class(other, reference)

    means = tuple(mean_log_probs(x) for x in draws)
    per_image = difference(means)
    variance = jnp.zeros((), per_image.dtype)
    for i, (x, count) in enumerate(zip(draws, groups, strict=True)):
        if count > 1:
            axes = tuple(0 if j == i else None for j in range(3))
            varied = tuple(leave_one_out(x, count).log_mean if j == i else means[j] for j in range(3))
            left_out = jax.vmap(lambda *m: jnp.mean(difference(m)), in_axes=axes)(*varied)
            variance = variance + jnp.square(jackknife_error(left_out))
    image_error = image_standard_error(per_image) if per_image.size > 1 else jnp.zeros(())
    return jnp.mean(per_image), variance, image_error


def closer_than(
    log_probs: Float[Array, "draw *batch class"],
    other_log_probs: Float[Array, "other_draw *other_batch other_class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
    *,
    distance: Distance = "total_variation",
    groups: int | None = None,
    other_groups: int | None = None,
    reference_groups: int | None = None,
    floor: NoiseFloor | None = None,
    threshold: float = 2.0,
    key: PRNGKeyArray | None = None,
) -> ClosenessVerdict:
    """Whether a method is nearer to the reference than another, by more than the reference can be trusted.

    A method is called closer only if the paired difference of the two distances (same images, same reference)
    exceeds the noise floor plus `threshold` standard errors of difference and floor together. The error of the
    difference has the jackknife parts of all three sets of draws and the part of the images. A set of one group
    contributes no Monte Carlo error: the verdict is then on that one network. A floor from a single split (two
    chains), whose error nobody knows, counts as uncertain by its own value.

    Args:
        log_probs: the method.
        other_log_probs: what it is compared with.
        reference_log_probs: Hamiltonian Monte Carlo draws, chain after chain.
        distance: total variation, or disagreement (1 - agreement).
        groups: equal groups of the method's draws that belong together (members); None for independent draws.
        other_groups: the same for the other method.
        reference_groups: number of chains or blocks of the reference.
        floor: the reference's noise floor if it is already at hand.
        threshold: standard errors that the difference must exceed the floor by.
        key: passed to `noise_floor` where it is computed here and needs one.

    Raises:
        InputError: bad log-probabilities, different images, unequal groups.
    """
    for name, values in (("log_probs", log_probs), ("other_log_probs", other_log_probs)):
        check_log_probs(values, name=name)
        check_same_images(values, reference_log_probs)
    floor = floor or noise_floor(reference_log_probs, reference_groups, key=key)
    draws = (log_probs, other_log_probs, reference_log_probs)
    counts = tuple(
        check_groups(x.shape[0], g) for x, g in zip(draws, (groups, other_groups, reference_groups), strict=True)
    )
    value, variance, image_error = _paired_difference(draws, distance, counts)
    difference = Measure(
        float(value),
        float(jnp.sqrt(variance)) if max(counts) > 1 else None,
        float(image_error) if log_probs[0, ..., 0].size > 1 else None,
    )
    return judge_closeness(difference, floor.distance(distance), distance, threshold)


def judge_closeness(
    difference: Measure, floor: Measure, distance: Distance, threshold: float = 2.0
) -> ClosenessVerdict:
    """The verdict on a difference of distances (other's minus own) against a noise floor; see `closer_than`."""
    needed = floor.value + threshold * math.hypot(difference.total_error, floor_error(floor))
    if abs(difference.value) <= needed:
        outcome = "indistinguishable"
    else:
        outcome = "closer" if difference.value > 0 else "farther"
    return ClosenessVerdict(outcome, distance, difference, floor, needed)


def floor_error(floor: Measure) -> float:
    """How uncertain a floor is: its total error, and by its own value too where it comes from a single split."""
    # One split says nothing of how splits differ: then a claim needs more, not less.
    return floor.total_error if floor.standard_error is not None else math.hypot(floor.value, floor.total_error)
