"""Prices of layers: by hand, monotone in bits, and a search that stays within its budget by each of them."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers.prices import PRICES, dsp_slices, lookup_tables
from fpga_bridge.estimates.resources import NARROW_DSP_SHARE
from jaxgeo.layers.learned_precision import MatrixLayer
from jaxgeo.training.bit_cost import LayerWords, bit_operations, network_words
from jaxgeo.training.precision_search import greedy_search

LAYERS = (MatrixLayer("conv", "input", 9, 8, 6), MatrixLayer("head", "conv", 1, 6, 4))
BITS = (2, 4, 6, 8)


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (2, 2, 2, 6), "head": (6, 4)}
    return {name: {"kernel": jnp.asarray(rng.uniform(-1, 1, s), jnp.float32)} for name, s in shapes.items()}


def precision(conv, result, head):
    def entry(bits, integer):
        return {"bits": jnp.asarray(float(bits)), "integer": jnp.asarray(float(integer))}

    kernels = {name: {"kernel_bits": entry(bits, 1)} for name, bits in (("conv", conv), ("head", head))}
    return {**kernels, "input_bits": entry(8, 0), "conv_result": entry(result, 0)}


WEIGHTS = params()


@functools.cache
def integers(bits):
    return network_words(LAYERS, WEIGHTS, precision(*bits))


def cost(name, bits):
    return sum(map(PRICES[name], integers(bits)))


def test_a_layer_by_hand():
    words = np.asarray([[0, 8, 5], [-6, 1, -7]])  # digits 0, 1, 2 and 2 (8 - 2), 1, 2 (1 - 8)
    wide = LayerWords(MatrixLayer("dense", "input", 1, 2, 3), words, 12, 11, 10)
    # Two digits are a sum of shifts, one addition of 11 bits each; five sums as wide as 11 bits times 12 (5 + 7).
    assert (dsp_slices(wide), lookup_tables(wide), bit_operations(wide)) == (0.0, 3 * 11 + 5 * 15, 100.0)
    thrice = wide._replace(words=np.asarray([[0, 8, 21], [-6, 1, -7]]))
    assert (dsp_slices(thrice), lookup_tables(thrice)) == (1.0, 2 * 11 + 5 * 16)  # 21 = 16 + 4 + 1
    narrow = wide._replace(weight_bits=8)
    assert dsp_slices(narrow) == pytest.approx(NARROW_DSP_SHARE * 5)
    for price in PRICES.values():
        assert price(wide._replace(words=0 * words)) == 0


@pytest.mark.parametrize("name", PRICES)
def test_more_bits_of_anything_cost_no_less(name):
    costs = {bits: cost(name, bits) for bits in itertools.product(BITS, repeat=3)}
    for bits, place in itertools.product(costs, range(3)):
        level = BITS.index(bits[place])
        if level + 1 < len(BITS):
            more = costs[(*bits[:place], BITS[level + 1], *bits[place + 1 :])]
            assert costs[bits] <= more * (1 + 1e-12)  # sums of floats
    assert costs[2, 2, 2] < costs[8, 8, 8]


@pytest.mark.parametrize("name", PRICES)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_search_stays_within_its_budget_by_each_price(name, share):
    def score(bits):
        errors = [
            np.square(one.words * 2.0 ** (1 - one.weight_bits) - WEIGHTS[one.layer.name]["kernel"]).mean()
            for one in integers(bits)
        ]
        return -float(sum(errors)) - 4.0 ** -bits[1]

    budget = share * cost(name, (8, 8, 8))
    found = greedy_search(score, lambda bits: cost(name, bits), [BITS] * 3, budget)
    assert found.cost == cost(name, found.best) <= budget
    assert any(cost(name, other) > budget for other in found.scores)  # something had to go
