"""The search over bits and filters of the ENet: keeps its budget, gives the network it scored, and goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import enet_training as training
from benchmarks.papers.enet_search import BITS, Candidates, SearchSettings, search_network
from jaxgeo.data.driving import SegmentationSet
from jaxgeo.errors import ConfigError
from jaxgeo.models.enet import ENet, ENetConfig, init_enet
from jaxgeo.training.enet_precision import format_chooser
from jaxgeo.training.enet_search import enet_costs

CONFIG = ENetConfig(rows=16, columns=16, filters=4, encoder=(1,), decoder=(1,), norm="folded")
SETTINGS = training.Settings(batch=2, crop=(16, 16))
SEARCH = SearchSettings(budget=0.3, shares=(0.5, 1.0), steps=2, images=2)


def candidates(folder, search=SEARCH):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    labels = generator.integers(0, 4, (6, 16, 16)).astype(np.uint8)
    data = SegmentationSet(tuple(map(str, range(6))), images, labels)
    params = init_enet(jax.random.key(0), CONFIG)["params"]
    return Candidates(folder, CONFIG, params, data, SETTINGS, search)


def test_bits_and_filters_are_chosen_within_the_budget_and_a_search_goes_on_from_its_folder(tmp_path):
    first = candidates(tmp_path)
    assert first.ladders[:3] == [(2, 4), (1, 2), (1, 2)]
    assert set(first.ladders[3:]) == {BITS}
    config, params, bits, row = search_network(first)
    assert row["cost"] <= 0.3 * row["of"]
    assert config.feature_counts == row["counts"]
    assert config.filters == row["counts"]["filters"]
    assert set(bits.weights.values()) | set(bits.results.values()) <= set(BITS)
    # The smaller network with these formats is the one that was scored: same cost, same logits.
    whole = first.trained(tuple(row["counts"].values()))
    precision = format_chooser(CONFIG, whole, first.images)(bits)
    small, large = (
        jax.jit(ENet(dataclasses.replace(one, precision=precision)).apply)({"params": values}, first.images)
        for one, values in ((config, params), (CONFIG, jax.tree.map(jnp.asarray, whole)))
    )
    np.testing.assert_array_equal(small, large)
    assert sum(cost.bit_operations for cost in enet_costs(config, params, precision)) == row["cost"]

    again = candidates(tmp_path)

    def never(candidate):
        raise AssertionError(f"{candidate} was scored before")

    again.score = never
    assert search_network(again)[3] == row
    with pytest.raises(ConfigError, match="go on with that, or begin another"):
        search_network(candidates(tmp_path, dataclasses.replace(SEARCH, steps=3)))


@pytest.mark.parametrize("fields", [{"budget": 0.0}, {"shares": (0.5, 1.5)}, {"shares": ()}, {"images": 0}])
def test_impossible_searches_are_refused(fields):
    with pytest.raises(ConfigError):
        SearchSettings(**fields)
