"""The greedy choice of bits and filters for the SVHN network: within the budget, and really a smaller network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import svhn_compression as study
from benchmarks.papers.prices import PRICES
from benchmarks.papers.svhn_compression import QUICK
from benchmarks.papers.svhn_search import CHOICES, Candidates, chosen_bits
from benchmarks.papers.svhn_training import Problem
from jaxgeo import files
from jaxgeo.errors import ConfigError
from jaxgeo.models.svhn_cnn import SvhnCnn
from jaxgeo.training.bit_cost import network_cost, network_words

CONFIG = dataclasses.replace(
    QUICK, filters=(1, 2, 1), units=(1, 4), filter_shares=(0.5, 1.0), budget=0.4, images=260, batch_size=100
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(260, 30, 30, 1)).astype(np.float32)
    labels = (images[:, 10:20, 10:20].mean((1, 2, 3)) * 1000).astype(np.int32) % 10
    monkeypatch.setattr(study, "hardware_costs", lambda *_: {"lut": 1})
    shapes = jax.eval_shape(SvhnCnn(dataclasses.replace(CONFIG.network, norm="folded")).init, jax.random.key(0),
                            jnp.zeros((1, 30, 30, 1)))["params"]  # fmt: skip
    pruned = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return study.Study(tmp_path, CONFIG, Problem(images, labels, images[:50], labels[:50])), pruned


def test_filters_and_bits_are_chosen_within_the_budget(run):
    one, pruned = run
    candidates = Candidates(one, pruned)
    assert candidates.ladders[:5] == [(1,), (1, 2), (1,), (1,), (2, 4)]
    assert candidates.ladders[5:] == [CHOICES] * 11
    (row,) = chosen_bits(one, pruned)
    scored = {tuple(candidate) for candidate, _ in files.read_json(one.folder / "search.json")}
    bits, filters = row["bits"].removesuffix(" filters").split(" with ")
    counts, widths = (tuple(map(int, text.split("/"))) for text in (filters, bits))
    assert (*counts, *widths) in scored
    whole = candidates.cost((*candidates.network.feature_counts.values(), *(8,) * 11))
    assert candidates.cost((*counts, *widths)) <= 0.4 * whole
    everything = network_cost(
        candidates.network.matrix_layers, candidates.trained(counts)[0], candidates.collection((*counts, *widths))
    )
    assert candidates.cost((*counts, *widths)) == sum(layer.bit_operations for layer in everything)
    kept = files.load_tree(one.folder / "greedy_at_0.4_of_0.5_1.safetensors")["params"]
    assert tuple(kept[name]["kernel"].shape[-1] for name in candidates.network.names[:-1]) == counts
    assert chosen_bits(one, pruned) == [row]

    # The same candidate at other prices, and its least that each of them knows.
    for name, price in PRICES.items():
        one.config = dataclasses.replace(CONFIG, budget_of=name)
        priced = Candidates(one, pruned)
        words = network_words(
            priced.network.matrix_layers, priced.trained(counts)[0], priced.collection((*counts, *widths))
        )
        assert priced.cost((*counts, *widths)) == pytest.approx(sum(map(price, words)))
        # Fewer bits round more weights to zero, and there are no fewer digits in more bits.
        assert priced.cost((*counts, *(2,) * 11)) <= priced.cost((*counts, *(8,) * 11))


@pytest.mark.parametrize(
    "fields", [{"filter_shares": ()}, {"filter_shares": (0.0, 1.0)}, {"filter_epochs": 0}, {"images": 200}]
)
def test_impossible_choices_of_filters_are_refused(fields):
    with pytest.raises(ConfigError):
        dataclasses.replace(QUICK, **fields)
