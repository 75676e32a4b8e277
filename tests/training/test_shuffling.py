"""Orders are permutations, every one as likely as another, and equal keys give equal ones."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.training.shuffling import shuffled


@settings(max_examples=15)
@given(number=st.sampled_from([1, 2, 3, 8, 9, 257, 2000]), seed=st.integers(0, 2**31 - 1))
def test_every_number_occurs_once(number, seed):
    np.testing.assert_array_equal(np.sort(shuffled(jax.random.key(seed), number)), np.arange(number))


def test_all_orders_of_four_are_equally_likely():
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 4))(jax.random.split(jax.random.key(0), 24_000)))
    counts = [np.all(orders == order, axis=1).sum() for order in itertools.permutations(range(4))]
    assert sum(counts) == 24_000
    assert scipy.stats.chisquare(counts).pvalue > 1e-3  # one fixed draw


def test_places_of_a_long_order_are_uniform_and_neighbours_independent():
    order = np.asarray(shuffled(jax.random.key(1), 200_000))
    table = np.histogram2d(np.arange(200_000), order, bins=10)[0]
    assert scipy.stats.chisquare(table.ravel(), ddof=18).pvalue > 1e-3  # rows and columns have fixed sums
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(200_000)


def test_keys_decide():
    one, other = (shuffled(jax.random.key(seed), 50) for seed in (0, 1))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, shuffled(jax.random.key(0), 50))


@pytest.mark.parametrize("number", [0, 2**24 + 1])
def test_numbers_that_do_not_fit_are_refused(number):
    with pytest.raises(ConfigError, match=f"got {number}"):
        shuffled(jax.random.key(0), number)
