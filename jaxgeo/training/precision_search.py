"""Search for the bits (or filters) of each layer under a budget of cost, by trained or calibrated score.

A candidate is a tuple of integers, one for each thing that is chosen: bits of a kernel, bits of a result, filters of a
layer. What a candidate is worth and costs are functions of it, so the search is pure: the same arguments give the same
result, and what was scored before (`known`) is not scored again, so a search that broke off goes on from its results.

References:
    Coelho et al., "Automatic heterogeneous quantization of deep neural networks for low-latency inference on the edge
    for particle detectors", arXiv:2006.10159 (AutoQKeras: bits and filters of each layer under a budget).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError

Candidate: TypeAlias = tuple[int, ...]


class SearchResult(NamedTuple):
    """The best candidate within the budget, and all that was scored (which a later search may start from)."""

    best: Candidate
    score: float
    cost: float
    scores: dict[Candidate, float]


Keep: TypeAlias = Callable[[Candidate, float], None]


def greedy_search(
    score: Callable[[Candidate], float],
    cost: Callable[[Candidate], float],
    choices: Sequence[Sequence[int]],
    budget: float,
    *,
    known: Mapping[Candidate, float] | None = None,
    keep: Keep | None = None,
    lazy: bool = False,
) -> SearchResult:
    """From the dearest candidate downwards, one place at a time, until the cost is within the budget.

    Every step lowers the one place to its next smaller choice that loses the least score for the cost that it saves.
    Where `lazy`, what a place lost when it was last measured stands for what it loses now until it is the least, and
    only then is it measured anew: a few scores for a step in place of one for each place. Where losses only rise as
    other places are lowered, the steps are the same.

    Args:
        score: larger is better; finite.
        cost: falls, or stays, when a place is lowered.
        choices: for each place what it may be.
        budget: largest cost that will do.
        known: scores of candidates from an earlier search.
        keep: called with each new candidate and score, to write them down.
        lazy: as above.

    Raises:
        ConfigError: nothing to choose from, or no candidate within the budget.
        InputError: a score that is not finite.
    """
    ladders = _ladders(choices)
    scores = dict(known or {})
    cheapest = tuple(ladder[0] for ladder in ladders)
    if cost(cheapest) > budget:
        raise ConfigError(
            f"the cheapest candidate {cheapest} costs {cost(cheapest):g}, more than the budget of {budget:g}; allow "
            f"more, or offer smaller choices"
        )
    places = [len(ladder) - 1 for ladder in ladders]
    at = _candidate(ladders, places)
    measured: dict[int, tuple[float, int]] = {}  # rate of lowering a place, and at which step it was measured
    for step in itertools.count():
        if cost(at) <= budget:
            break
        base, base_cost = _scored(at, score, scores, keep), cost(at)
        if not lazy:
            measured.clear()
        while True:
            for place, level in enumerate(places):
                if level and place not in measured:
                    other = _candidate(ladders, _lowered(places, place))
                    saved, lost = base_cost - cost(other), base - _scored(other, score, scores, keep)
                    # What gains score is worth taking whatever it saves; then by loss for each unit saved.
                    rate = lost if lost <= 0 else lost / saved if saved > 0 else math.inf
                    measured[place] = rate, step
            best = min(measured, key=lambda place: (measured[place][0], place))
            if measured.pop(best)[1] == step:
                break
        places = _lowered(places, best)
        at = _candidate(ladders, places)
    return SearchResult(at, _scored(at, score, scores, keep), cost(at), scores)


def random_search(
    key: PRNGKeyArray,
    score: Callable[[Candidate], float],
    cost: Callable[[Candidate], float],
    choices: Sequence[Sequence[int]],
    budget: float,
    trials: int,
    *,
    known: Mapping[Candidate, float] | None = None,
    keep: Keep | None = None,
) -> SearchResult:
    """The best of `trials` random candidates within the budget, as AutoQKeras draws them, for comparison.

    Dearer candidates are drawn again, and not scored.

    The candidates are a function of the key alone, so more trials score more and the first ones are the same. Other
    arguments and errors are those of `greedy_search`; of equal scores the cheapest wins.

    Raises:
        ConfigError: also where `trials` is below 1, or 1000 draws for each trial hold too few within the budget.
    """
    ladders = _ladders(choices)
    if trials < 1:
        raise ConfigError(f"a search needs at least 1 trial, got {trials}")
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    scores = dict(known or {})
    found: list[Candidate] = []
    for _ in range(1000 * trials):
        drawn = tuple(int(ladder[rng.integers(len(ladder))]) for ladder in ladders)
        if cost(drawn) <= budget:
            _scored(drawn, score, scores, keep)
            found.append(drawn)
        if len(found) == trials:
            break
    if len(found) < trials:
        raise ConfigError(
            f"only {len(found)} of {1000 * trials} random candidates cost at most {budget:g}; allow more, offer "
            f"smaller choices, or search greedily"
        )
    best = min(found, key=lambda candidate: (-scores[candidate], cost(candidate), candidate))
    return SearchResult(best, scores[best], cost(best), scores)


def _ladders(choices: Sequence[Sequence[int]]) -> list[list[int]]:
    ladders = [sorted(set(options)) for options in choices]
    if not ladders or not all(ladders):
        raise ConfigError(f"each place needs at least one choice, and there must be a place, got {list(choices)}")
    return ladders


def _lowered(places: Sequence[int], place: int) -> list[int]:
    return [level - (index == place) for index, level in enumerate(places)]


def _candidate(ladders: list[list[int]], places: Sequence[int]) -> Candidate:
    return tuple(ladder[place] for ladder, place in zip(ladders, places, strict=True))


def _scored(
    candidate: Candidate, score: Callable[[Candidate], float], scores: dict[Candidate, float], keep: Keep | None
) -> float:
    if candidate not in scores:
        value = score(candidate)
        if not math.isfinite(value):
            raise InputError(f"candidate {candidate} has the score {value}, which cannot be compared")
        scores[candidate] = value
        if keep is not None:
            keep(candidate, value)
    return scores[candidate]
