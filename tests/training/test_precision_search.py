"""Searches under a budget: monotone costs, pure in their arguments, resumable."""

import itertools
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.training.precision_search import greedy_search, random_search

CHOICES = ((2, 4, 8), (4, 8, 2), (2, 4, 8))


def score(candidate):
    """Places matter differently: the first hardly, the last a lot."""
    return -sum(weight * 2.0**-bits for weight, bits in zip((0.1, 1.0, 4.0), candidate, strict=True))


def cost(candidate):
    return float(sum(candidate))


@given(budget=st.integers(6, 24))
def test_a_lazy_search_takes_the_same_steps_where_losses_do_not_depend_on_each_other(budget):
    whole, lazy = (greedy_search(score, cost, CHOICES, float(budget), lazy=lazy) for lazy in (False, True))
    assert (lazy.best, lazy.score, lazy.cost) == (whole.best, whole.score, whole.cost)
    assert set(lazy.scores) <= set(whole.scores)


def test_a_lazy_search_measures_anew_what_seems_best_before_it_takes_it():
    losses = {(4, 4): 0.0, (2, 4): 1.0, (4, 2): 2.0, (2, 2): 9.0}
    asked = []

    def scored(candidate):
        asked.append(candidate)
        return -losses[candidate]

    found = greedy_search(scored, cost, ((2, 4), (2, 4)), 6.0, lazy=True)
    assert found.best == (2, 4)
    assert greedy_search(scored, cost, ((2, 4), (2, 4)), 4.0, lazy=True).score == -9.0
    assert asked[-1] == (2, 2)


@given(budget=st.integers(6, 24))
def test_a_greedy_search_ends_within_the_budget_and_one_step_dearer_would_not(budget):
    found = greedy_search(score, cost, CHOICES, float(budget))
    assert found.cost == cost(found.best) <= budget
    assert found.score == score(found.best) == found.scores[found.best]
    best = max(score(c) for c in itertools.product((2, 4, 8), repeat=3) if cost(c) <= budget)
    # Where all costs are alike and losses convex in bits, greedy descent loses at most one place's next step.
    assert found.score >= 4 * best


def test_a_greedy_search_takes_bits_first_from_where_they_matter_least():
    assert greedy_search(score, cost, CHOICES, 20.0).best == (4, 8, 8)
    assert greedy_search(score, cost, CHOICES, 24.0).best == (8, 8, 8)
    assert greedy_search(score, cost, CHOICES, 6.0).best == (2, 2, 2)


def test_what_is_known_is_not_scored_again_and_a_broken_off_search_goes_on():
    kept = {}

    def stopping(candidate):
        if len(kept) == 5:
            raise KeyboardInterrupt
        return score(candidate)

    with pytest.raises(KeyboardInterrupt):
        greedy_search(stopping, cost, CHOICES, 8.0, keep=kept.__setitem__)
    assert len(kept) == 5
    seen = []

    def counting(candidate):
        seen.append(candidate)
        return score(candidate)

    whole = greedy_search(score, cost, CHOICES, 8.0)
    resumed = greedy_search(counting, cost, CHOICES, 8.0, known=kept)
    assert resumed == whole
    assert not set(seen) & set(kept)
    assert set(seen) | set(kept) == set(whole.scores)


def test_a_random_search_is_a_function_of_its_key_and_more_trials_begin_with_the_same():
    key = jax.random.key(3)
    few, more = (random_search(key, score, cost, CHOICES, 14.0, trials) for trials in (4, 12))
    assert random_search(key, score, cost, CHOICES, 14.0, 4) == few
    assert set(few.scores) <= set(more.scores)
    assert more.score == max(more.scores.values()) >= few.score
    assert all(cost(candidate) <= 14 for candidate in more.scores)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: greedy_search(score, cost, CHOICES, 5.0), ConfigError, r"cheapest candidate \(2, 2, 2\) costs 6"),
        (lambda: greedy_search(score, cost, ((2,), ()), 5.0), ConfigError, "at least one choice"),
        (lambda: greedy_search(lambda c: math.nan, cost, CHOICES, 10.0), InputError, r"\(8, 8, 8\) has the score nan"),
        (lambda: random_search(jax.random.key(0), score, cost, CHOICES, 9.0, 0), ConfigError, "at least 1 trial"),
        (lambda: random_search(jax.random.key(0), score, cost, CHOICES, 5.0, 1), ConfigError, "only 0 of 1000"),
    ],
)
def test_a_search_for_nothing_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
