"""Scores of predictions that never are in memory at once: blocks of images in, sums that add up, numbers at the end.

`block_sums` looks at one block `(draw, *block, class)` on the device and keeps sums in float64 on the host; `add` joins
the sums of two sets of images; `measures` turns a total into the values that the functions of the whole arrays give
(up to rounding, but for calibration errors of equal mass), with the error of the images and, where groups of draws are
named, their Monte Carlo error. Memory is that of one block and a few times its size at most, whatever the number of
images; each new shape of a block compiles anew, so all but the last should be equally large.

Calibration errors and the reliability curve have every image in one bin (`calibration`, mode `correct`). Those of equal
width are exact. Bins of equal mass would need all confidences at once; they are put together at the end from 6145 fine
ones, 256 for each halving of 1 - confidence, down to 2^-24. So confidences whose distances to 1 differ by less than
0.27 % share a bin, as equal ones do anyway, and where no two do, the value is exact too. Else it is another binning of
the same images, and each of the n images that is in another bin for it may move the value by up to 2 / n: few images
show it most.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxgeo.errors import InputError
from jaxgeo.metrics.agreement import same_top_class, variation_distance
from jaxgeo.metrics.calibration import ReliabilityCurve, bin_edges, bin_indices, check_bins, top_class
from jaxgeo.metrics.checks import (
    NORMALISATION_TOLERANCE,
    check_groups,
    check_label_shape,
    check_labels,
    check_log_probs,
    check_same_images,
    check_shape,
)
from jaxgeo.metrics.information import entropy, kl_divergence
from jaxgeo.metrics.predictive import Predictive, leave_one_out, mean_log_probs, summarize
from jaxgeo.metrics.scores import is_correct, squared_error, surprisal
from jaxgeo.metrics.standard_error import FEWEST_FOR_INFORMATION, Measure
from jaxgeo.metrics.uncertainty import mutual_information

NAMES = ("accuracy", "negative_log_likelihood", "brier", "predictive_entropy", "expected_entropy", "mutual_information")
REFERENCE_NAMES = ("agreement", "total_variation", "divergence_from_reference")
CALIBRATION = "calibration_error_equal_width"
EQUAL_MASS = "calibration_error_equal_mass"

_PER_OCTAVE, _OCTAVES = 256, 24  # beyond 2^-24 float32 has no numbers below 1
_NUM_FINE = _PER_OCTAVE * _OCTAVES + 1


class ScoreSums(NamedTuple):
    """What is kept of some images, in float64; the leading axis holds all draws, then (with groups) those without each.

    Sums of squares are about the mean of these images, so that they keep their digits.
    """

    num_images: int
    num_draws: int
    num_classes: int
    names: tuple[str, ...]
    sums: Float[np.ndarray, "version metric"]
    squares: Float[np.ndarray, " metric"]  # of all draws, about their mean
    gaps: Float[np.ndarray, "version bin"]  # sum of correct - confidence
    gap_squares: Float[np.ndarray, " bin"]  # of (correct - confidence), of all draws
    counts: Integer[np.ndarray, " bin"]  # images, of all draws
    confidences: Float[np.ndarray, " bin"]  # their sum, of all draws
    fine_gaps: Float[np.ndarray, "version fine_bin"]  # as `gaps`, by the distance of the confidence to 1
    fine_counts: Integer[np.ndarray, "version fine_bin"]
    reference_sums: Float[np.ndarray, "reference_group distance"]  # of all draws, without each group of the reference's


def block_sums(
    log_probs: Float[Array, "draw *block class"],
    labels: Integer[Array, "*labelled"],
    reference_log_probs: Float[Array, "reference_draw *reference_block reference_class"] | None = None,
    *,
    groups: int = 1,
    reference_groups: int = 1,
    num_bins: int = 15,
    tolerance: float | None = NORMALISATION_TOLERANCE,
) -> ScoreSums:
    """The sums of one block of images.

    Args:
        log_probs: log-softmax outputs in nats, one slice per draw; batch axes are joined.
        labels: class of each image.
        reference_log_probs: another predictive of the same images, such as Hamiltonian Monte Carlo's.
        groups: equal groups of consecutive draws for the Monte Carlo error; 1 leaves it out, which takes a third of
            the time and memory.
        reference_groups: the same of the reference's draws, such as chains; its error joins that of the distances.
        num_bins: bins of the calibration errors.
        tolerance: allowed deviation of a row's total probability from 1; None leaves out all checks of values, which
            take float64 copies of the block.

    Raises:
        InputError: NaN, rows that are not normalised, no draws or images, labels out of range, shapes that do not
            match, unequal groups.
        ConfigError: fewer than one bin.
    """
    check_bins(num_bins)
    check_shape(log_probs)
    check_label_shape(labels, log_probs.shape[1:-1])
    groups = check_groups(log_probs.shape[0], groups)
    if tolerance is not None:
        check_log_probs(log_probs, tolerance=tolerance)
        check_labels(labels, log_probs)
    if reference_log_probs is not None:
        check_shape(reference_log_probs, "reference_log_probs")
        if tolerance is not None:
            check_log_probs(reference_log_probs, tolerance=tolerance, name="reference_log_probs")
        check_same_images(log_probs, reference_log_probs)
        reference_groups = check_groups(reference_log_probs.shape[0], reference_groups)
        reference_log_probs = _joined(reference_log_probs)
    log_probs, labels = _joined(log_probs), labels.ravel()
    names = NAMES if reference_log_probs is None else NAMES + REFERENCE_NAMES
    found, turned = jax.device_get(_rows(log_probs, labels, reference_log_probs, groups, reference_groups, num_bins))
    rows, gap, confidence, index, fine = found
    rows, gap = rows.astype(np.float64), gap.astype(np.float64)
    sums = rows.sum(-1)
    count = rows.shape[-1]
    with np.errstate(invalid="ignore"):  # a label that was thought impossible: infinity minus infinity
        squares = np.square(rows[0] - sums[0][:, None] / count).sum(-1)
    gaps = [np.bincount(i, g, num_bins) for i, g in zip(index, gap, strict=True)]
    return ScoreSums(
        count,
        log_probs.shape[0],
        log_probs.shape[-1],
        names,
        sums,
        squares,
        np.stack(gaps),
        np.bincount(index[0], np.square(gap[0]), num_bins),
        np.bincount(index[0], minlength=num_bins),
        np.bincount(index[0], confidence[0].astype(np.float64), num_bins),
        np.stack([np.bincount(i, g, _NUM_FINE) for i, g in zip(fine, gap, strict=True)]),
        np.stack([np.bincount(i, minlength=_NUM_FINE) for i in fine]),
        turned.astype(np.float64).sum(-1),
    )


def add(first: ScoreSums, second: ScoreSums) -> ScoreSums:
    """The sums of both sets of images together.

    Raises:
        InputError: they are of other draws or classes, or have other metrics, groups or bins.
    """
    drawn, other_drawn = ((sums.num_draws, sums.num_classes) for sums in (first, second))
    if drawn != other_drawn:
        raise InputError(
            f"sums add up only of the same draws, got {drawn[0]} draws of {drawn[1]} classes and {other_drawn[0]} of "
            f"{other_drawn[1]}"
        )
    one, other = (
        (len(sums.names), sums.gaps.shape[0] - 1, len(sums.reference_sums), sums.gaps.shape[1])
        for sums in (first, second)
    )
    if one != other:
        raise InputError(
            f"sums add up only with the same metrics, groups and bins, got {one[0]} metrics, {one[1]} groups of draws "
            f"and {one[2]} of the reference left out and {one[3]} bins, and {', '.join(map(str, other))}"
        )
    n, m = first.num_images, second.num_images
    with np.errstate(invalid="ignore"):
        shift = second.sums[0] / m - first.sums[0] / n
        squares = first.squares + second.squares + np.square(shift) * (n * m / (n + m))
    return ScoreSums(
        n + m,
        *drawn,
        first.names,
        first.sums + second.sums,
        squares,
        first.gaps + second.gaps,
        first.gap_squares + second.gap_squares,
        first.counts + second.counts,
        first.confidences + second.confidences,
        first.fine_gaps + second.fine_gaps,
        first.fine_counts + second.fine_counts,
        first.reference_sums + second.reference_sums,
    )


def measures(total: ScoreSums) -> dict[str, Measure]:
    """Values by the names of `scorecard.Scorecard`, with their errors.

    The error of a calibration error's images takes each bin's sign and edges as certain; near 0 it is on the careful
    side. Bins of equal mass are as many as those of equal width.
    """
    n = total.num_images
    values = dict(zip(total.names, (total.sums / n).T, strict=True))
    values[CALIBRATION] = np.abs(total.gaps).sum(-1) / n
    values[EQUAL_MASS] = np.array(
        [
            np.abs(_equal_mass(gaps, counts, total.counts.size)).sum() / n
            for gaps, counts in zip(total.fine_gaps, total.fine_counts, strict=True)
        ]
    )
    spreads = dict(zip(total.names, total.squares, strict=True))
    # The variance of sign_b (correct - confidence) over images, about its mean, which is the calibration error.
    for name in (CALIBRATION, EQUAL_MASS):
        spreads[name] = total.gap_squares.sum() - n * values[name][0] ** 2
    of_reference: dict[str, float | None] = dict(
        zip(REFERENCE_NAMES, map(_jackknife, (total.reference_sums / n).T), strict=True)
    )
    errors = {name: (_jackknife(value[1:]), of_reference.get(name)) for name, value in values.items()}
    if total.num_draws < FEWEST_FOR_INFORMATION:
        errors["mutual_information"] = None, None
    return {
        name: Measure(float(value[0]), _quadrature(errors[name]), _image_error(float(spreads[name]), n))
        for name, value in values.items()
    }


def reliability(total: ScoreSums) -> ReliabilityCurve:
    """The curve of all draws and images in bins of equal width, as `calibration.reliability_curve` has it, in float32.

    `calibration.accuracy_errors` gives its error.
    """
    divisor = np.maximum(total.counts, 1)
    columns = total.confidences / divisor, (total.gaps[0] + total.confidences) / divisor
    edges = np.linspace(0, 1, total.counts.size + 1)
    confidence, accuracy, edges = (jnp.asarray(column, jnp.float32) for column in (*columns, edges))
    return ReliabilityCurve(edges, jnp.asarray(total.counts, jnp.int32), confidence, accuracy)


def score_blocks(
    blocks: Iterable[tuple[Array, ...]],
    *,
    groups: int = 1,
    reference_groups: int = 1,
    num_bins: int = 15,
    tolerance: float | None = NORMALISATION_TOLERANCE,
) -> dict[str, Measure]:
    """Measures of all blocks of an iterable, which makes one at a time.

    Args:
        blocks: (log_probs, labels) or (log_probs, labels, reference_log_probs), as for `block_sums`.
        groups: see `block_sums`.
        reference_groups: likewise.
        num_bins: likewise.
        tolerance: likewise.

    Raises:
        InputError: no block, or what `block_sums` and `add` refuse.
    """
    total = None
    for block in blocks:
        sums = block_sums(
            *block, groups=groups, reference_groups=reference_groups, num_bins=num_bins, tolerance=tolerance
        )
        total = sums if total is None else add(total, sums)
        # The block would otherwise be kept alive while the next one is made.
        del block
    if total is None:
        raise InputError("scores need at least one block of images, got none")
    return measures(total)


def _joined(log_probs: Float[Array, "draw *block class"]) -> Float[Array, "draw image class"]:
    return log_probs.reshape(log_probs.shape[0], -1, log_probs.shape[-1])


@functools.partial(jax.jit, static_argnames=("groups", "reference_groups", "num_bins"))
def _rows(
    log_probs: Float[Array, "draw block class"],
    labels: Integer[Array, " block"],
    reference_log_probs: Float[Array, "reference_draw block class"] | None,
    groups: int,
    reference_groups: int,
    num_bins: int,
):
    """Per version of the draws: (metric, block) values; correct - confidence, confidence, both bins of each image.

    And per version of the reference's draws the distances (distance, block) of all draws.
    """
    reference = None if reference_log_probs is None else mean_log_probs(reference_log_probs)
    edges = bin_edges(jnp.zeros((1,), log_probs.dtype), num_bins, "equal_width")

    def version(predictive: Predictive, information: Float[Array, " block"] | None):
        log_p = predictive.log_mean
        total = entropy(log_p)
        rows = [
            is_correct(log_p, labels),
            surprisal(log_p, labels),
            squared_error(log_p, labels),
            total,
            predictive.expected_entropy,
            total - predictive.expected_entropy if information is None else information,
        ]
        if reference is not None:
            rows += _distances(log_p, reference)
        confidence, correct = top_class(log_p, labels)
        return jnp.stack(rows), correct - confidence, confidence, bin_indices(confidence, edges), _fine_bins(confidence)

    # Stable where all draws agree, which the difference of two entropies is not.
    everything = version(summarize(log_probs), mutual_information(log_probs))
    everything = jax.tree.map(lambda x: x[None], everything)
    if groups > 1:
        left_out = jax.lax.map(lambda p: version(p, None), leave_one_out(log_probs, groups))
        everything = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), everything, left_out)
    turned = jnp.zeros((0, len(REFERENCE_NAMES), labels.size), log_probs.dtype)
    if reference_log_probs is not None and reference_groups > 1:
        log_p, without = mean_log_probs(log_probs), leave_one_out(reference_log_probs, reference_groups).log_mean
        turned = jax.lax.map(lambda other: jnp.stack(_distances(log_p, other)), without)
    return everything, turned


def _distances(
    log_p: Float[Array, "block class"], reference: Float[Array, "block class"]
) -> list[Float[Array, " block"]]:
    """In the order of `REFERENCE_NAMES`."""
    return [
        same_top_class(log_p, reference), variation_distance(log_p, reference), kl_divergence(reference, log_p)
    ]  # fmt: skip


def _fine_bins(confidence: Float[Array, " image"]) -> Int[Array, " image"]:
    # Rounding may put a confidence an ulp above 1.
    octaves = -jnp.log2(jnp.clip(1 - confidence, 2.0**-_OCTAVES, 1))
    return jnp.clip(jnp.floor(_PER_OCTAVE * octaves).astype(int), 0, _NUM_FINE - 1)


def _equal_mass(
    gaps: Float[np.ndarray, " fine_bin"], counts: Integer[np.ndarray, " fine_bin"], num_bins: int
) -> Float[np.ndarray, " bin"]:
    """Sums over bins of (up to the images of a fine one) equally many images; edges as in `calibration.bin_edges`."""
    upto = np.cumsum(counts)
    last_of_bin = np.maximum(np.ceil(np.arange(1, num_bins) * upto[-1] / num_bins).astype(int) - 1, 0)
    edges = np.searchsorted(upto, last_of_bin, side="right")  # the fine bin of each bin's last image
    return np.bincount(np.searchsorted(edges, np.arange(gaps.size), side="left"), gaps, num_bins)


def _jackknife(left_out: Float[np.ndarray, " group"]) -> float | None:
    groups = len(left_out)
    if groups < 2:
        return None
    if not np.isfinite(left_out).all():
        return math.inf
    return float(np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean()).sum()))


def _quadrature(errors: tuple[float | None, ...]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) if known else None


def _image_error(squares: float, num_images: int) -> float | None:
    if num_images < 2:
        return None
    if not math.isfinite(squares):
        return math.inf
    # Rounding may put the difference of two equal sums below 0.
    return math.sqrt(max(squares, 0.0) / (num_images - 1) / num_images)
