r"""Did the chains converge? Split R-hat and effective sample size, in weight space and in function space.

Weights of a network have symmetries (units may be permuted), so chains that agree on every prediction may sit at
different weights: the verdict is spoken on the outputs for test inputs, and the weights are reported beside it.

References:
    Gelman et al., "Bayesian Data Analysis", 3rd edition, section 11.4 (split R-hat).
    Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat", arXiv:1903.08008.
    Izmailov et al., "What are Bayesian neural network posteriors really like?", arXiv:2104.14421 (function space).
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import ArrayLike, Float
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from jaxgeo.errors import InputError

RHAT_MOST = 1.05
"""split R-hat that `SHARE_MOST` of the test outputs must not exceed"""
SHARE_MOST = 0.95
RHAT_ALL = 1.2
"""split R-hat that no test output may exceed"""
_AT_ONCE = 4096  # outputs; bounds the memory of the autocorrelations


def _checked(samples: ArrayLike, least: int) -> Float[np.ndarray, "chain draw output"]:
    values = np.asarray(samples, np.float64)
    if values.ndim < 2 or values.shape[0] < 1 or values.shape[1] < least:
        raise InputError(
            f"convergence needs samples of shape (chain, draw, ...) with at least {least} draws in each chain, "
            f"got {values.shape}"
        )
    if not np.all(np.isfinite(values)):
        raise InputError(f"{np.sum(~np.isfinite(values))} of {values.size} samples are NaN or infinite")
    return values.reshape(*values.shape[:2], -1)


def rank_normalise(samples: ArrayLike) -> Float[np.ndarray, "chain draw *output"]:
    """Normal scores of the ranks of each output among all its draws; tames heavy tails. Ties share their mean rank."""
    values = _checked(samples, 1)
    flat = values.reshape(-1, values.shape[-1])
    ranks = scipy.stats.rankdata(flat, axis=0)
    scores = scipy.special.ndtri((ranks - 0.375) / (len(flat) + 0.25))
    return scores.reshape(np.shape(samples))


def split_rhat(samples: ArrayLike) -> Float[np.ndarray, "*output"]:
    """Split R-hat of each output: every chain is cut in two, so that a drift shows even in a single chain.

    An odd draw in the middle is left out. Outputs that never vary get 1 where all halves agree, else infinity.

    Args:
        samples: (chain, draw, *output), at least 4 draws.

    Raises:
        InputError: too few draws, or values that are not finite.
    """
    values = _checked(samples, 4)
    half = values.shape[1] // 2
    halves = np.concatenate([values[:, :half], values[:, -half:]])
    # Rounding leaves a trace of variance in a mean of equal numbers, so constants are told by their range.
    constant, agree = np.all(np.ptp(halves, axis=1) == 0, axis=0), np.ptp(halves, axis=(0, 1)) == 0
    rhat = np.where(constant, np.where(agree, 1.0, np.inf), split_gelman_rubin(values))
    return rhat.reshape(np.shape(samples)[2:])


def bulk_ess(samples: ArrayLike, rank_normalised: bool = True) -> Float[np.ndarray, "*output"]:
    """Effective number of independent draws of each output, over all (split) chains together.

    With `rank_normalised` it is the bulk-ESS of arXiv:1903.08008; outputs that never vary get the number of draws.
    More than the number of draws means that successive draws repel each other, as those of HMC may.

    Raises:
        InputError: fewer than 4 draws, or values that are not finite.
    """
    values = _checked(samples, 4)
    half = values.shape[1] // 2
    halves = np.concatenate([values[:, :half], values[:, -half:]])
    total = halves.shape[0] * half
    result = np.full(values.shape[-1], float(total))
    varying = np.flatnonzero(np.ptp(halves, axis=(0, 1)) > 0)
    for start in range(0, len(varying), _AT_ONCE):
        part = varying[start : start + _AT_ONCE]
        chosen = halves[..., part]
        ess = effective_sample_size(rank_normalise(chosen) if rank_normalised else chosen)
        # Short chains can give a negative sum of autocorrelations; the usual cap is total * log10(total).
        cap = total * np.log10(total)
        result[part] = np.where(ess > 0, np.minimum(ess, cap), cap)
    return result.reshape(np.shape(samples)[2:])


@dataclasses.dataclass(frozen=True)
class SpaceSummary:
    """Convergence of many scalar outputs in a few numbers; `dataclasses.asdict` gives them to a report."""

    outputs: int
    chains: int
    draws: int
    rhat_median: float
    rhat_95: float
    rhat_99: float
    rhat_max: float
    share_within: float
    """share of the outputs with split R-hat of at most `RHAT_MOST`"""
    ess_min: float
    ess_1_percent: float
    ess_median: float


def summarise(samples: ArrayLike) -> SpaceSummary:
    """Split R-hat and bulk-ESS of every output of (chain, draw, *output), summarised."""
    shape = np.shape(samples)
    rhat, ess = split_rhat(samples).ravel(), bulk_ess(samples).ravel()
    # An infinite R-hat (chains stuck at different values) must not turn an interpolated quantile into NaN.
    rhats = np.quantile(rhat, [0.5, 0.95, 0.99], method="higher")
    return SpaceSummary(
        outputs=rhat.size,
        chains=shape[0],
        draws=shape[1],
        rhat_median=float(rhats[0]),
        rhat_95=float(rhats[1]),
        rhat_99=float(rhats[2]),
        rhat_max=float(rhat.max()),
        share_within=float(np.mean(rhat <= RHAT_MOST)),
        ess_min=float(ess.min()),
        ess_1_percent=float(np.quantile(ess, 0.01)),
        ess_median=float(np.median(ess)),
    )


@dataclasses.dataclass(frozen=True)
class ConvergenceVerdict:
    """Whether an HMC run may serve as a reference, in words and in numbers."""

    converged: bool
    message: str
    function: SpaceSummary
    weights: SpaceSummary
    divergences: int
    acceptance: float
    cut_short: int | None = None
    """trajectories after the warm-up that ended at their cap; None where nobody looked"""


def judge_convergence(
    outputs: Float[Any, "chain draw *output"],
    weights: Float[Any, "chain draw *weight"],
    diverging: ArrayLike,
    acceptance: ArrayLike,
    cut_short: ArrayLike | None = None,
) -> ConvergenceVerdict:
    """The verdict on a run.

    Args:
        outputs: one number per test input and class for each draw; log-probabilities are the usual choice.
        weights: positions of the draws.
        diverging: of all transitions after the warm-up.
        acceptance: of the same.
        cut_short: of the same, those that ended at their cap (`jaxgeo.posteriors.hmc.cut_short`).

    Raises:
        InputError: too few draws, or values that are not finite.
    """
    function, divergences = summarise(outputs), int(np.sum(np.asarray(diverging)))
    several = function.chains >= 2
    converged = several and function.share_within >= SHARE_MOST and function.rhat_max <= RHAT_ALL
    found = (
        f"split R-hat in function space is at most {RHAT_MOST} for {100 * function.share_within:.1f} % of "
        f"{function.outputs} test outputs ({100 * SHARE_MOST:.0f} % needed) and at most {function.rhat_max:.3f} for "
        f"all ({RHAT_ALL} is allowed), from {function.chains} chains of {function.draws} draws"
    )
    if converged:
        message = f"Converged: {found}."
    elif not several:
        message = (
            f"Not converged: one chain cannot show that it found what others would find; sample at least 2. "
            f"For the record, {found}."
        )
    else:
        message = f"Not converged: {found}. Draw more, or lengthen the warm-up, before trusting it as a reference."
    if divergences:
        message += (
            f" {divergences} transitions after the warm-up diverged: part of the posterior may be left out; a higher "
            f"target acceptance takes smaller steps."
        )
    cut = None if cut_short is None else int(np.sum(np.asarray(cut_short)))
    if cut:
        message += (
            f" {cut} of {np.size(np.asarray(cut_short))} trajectories after the warm-up were cut short at their cap: "
            f"the chains move less far than planned; allow more leapfrogs, or let a lower target acceptance take "
            f"larger steps."
        )
    return ConvergenceVerdict(
        converged, message, function, summarise(weights), divergences, float(np.mean(np.asarray(acceptance))), cut
    )
