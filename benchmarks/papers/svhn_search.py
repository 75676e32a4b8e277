"""Bits of each layer, and filters too, chosen greedily under a budget, for `benchmarks.papers.svhn_compression`.

A candidate has filters or units of each hidden layer and bits of each kernel and of each hidden result. Its filters are
the strongest of the pruned network, trained on under masks at 8 bits, so that one program trains all of them; its
formats are calibrated; its score is the accuracy on training images that the calibration does not see, its cost one of
`benchmarks.papers.prices`. What is chosen becomes a network without the other filters and is trained like the uniform
ones.
"""

import dataclasses
import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.papers.prices import PRICES
from benchmarks.papers.svhn_training import CALIBRATION_IMAGES, accuracy, tune, zero_masks
from jaxgeo import files
from jaxgeo.training.bit_cost import network_words
from jaxgeo.training.filter_reduction import filter_masks, reduce_filters
from jaxgeo.training.layer_precision import layer_sums
from jaxgeo.training.precision_search import Candidate, greedy_search
from jaxgeo.training.pruning import apply_masks

SEARCH_IMAGES = 500
CHOICES = (2, 4, 6, 8)


class Candidates:
    """The networks of a search by what was chosen; `study` is the run, `pruned` the network that filters go from."""

    def __init__(self, study: Any, pruned: Any) -> None:
        self.study, self.config, self.problem = study, study.config, study.problem
        self.pruned = jax.tree.map(jnp.asarray, pruned)
        self.network = dataclasses.replace(self.config.network, norm="folded")
        self.images = jnp.asarray(self.problem.images[:CALIBRATION_IMAGES])
        self.trained = functools.cache(self._trained)
        self.by_width = functools.cache(self._by_width)
        self.layer_cost = functools.cache(self._layer_cost)

    @property
    def ladders(self) -> list[tuple[int, ...]]:
        """What each place of a candidate may be: filters, bits of kernels, bits of hidden results."""
        counts, shares = self.network.feature_counts.values(), self.config.filter_shares
        filters = [tuple(sorted({max(1, round(count * share)) for share in shares})) for count in counts]
        return filters + [CHOICES] * (2 * len(self.network.names) - 1)

    def split(self, candidate: Candidate) -> tuple[Candidate, Candidate, Candidate]:
        """Filters, bits of kernels, bits of results."""
        hidden = len(self.network.names) - 1
        return candidate[:hidden], candidate[hidden : 2 * hidden + 1], candidate[2 * hidden + 1 :]

    def counts(self, filters: Candidate) -> dict[str, int]:
        """Filters and units by layer."""
        return dict(zip(self.network.names[:-1], filters, strict=True))

    def _trained(self, filters: Candidate) -> tuple[Any, Any]:
        """Parameters with only so many filters, in the shapes of the whole network, and the masks of their zeros."""
        masks, counts = zero_masks(self.pruned), self.counts(filters)
        if counts == self.network.feature_counts:
            return self.pruned, masks
        fewer = filter_masks(self.network, {"params": self.pruned}, counts)
        masks = jax.tree.map(lambda zero, filter: zero & jnp.asarray(filter), masks, fewer)
        start = apply_masks(self.pruned, masks)

        def make(key: Array) -> Any:
            eight = self.study.formats(start, max(CHOICES), max(CHOICES))
            epochs = self.config.filter_epochs
            return tune(self.config, self.problem, key, start, eight, masks, epochs=epochs).params

        kept = self.study.kept(f"filters_{'_'.join(map(str, filters))}", make)
        return jax.tree.map(jnp.asarray, kept), masks

    def _by_width(self, filters: Candidate) -> dict[int, Any]:
        params, _ = self.trained(filters)
        sums = layer_sums(self.network, params, self.images)
        return {width: self.study.formats(params, width, width, sums) for width in CHOICES}

    def collection(self, candidate: Candidate) -> Any:
        """Formats of a candidate."""
        filters, kernels, results = self.split(candidate)
        by_width, names = self.by_width(filters), self.network.names
        chosen = dict(by_width[max(CHOICES)])
        chosen |= {name: by_width[width][name] for name, width in zip(names, kernels, strict=True)}
        hidden = zip(names[:-1], results, strict=True)
        return chosen | {f"{name}_result": by_width[width][f"{name}_result"] for name, width in hidden}

    def cost(self, candidate: Candidate) -> float:
        """By the price of the run, layer by layer."""
        filters, kernels, results = self.split(candidate)
        # The input has 8 bits throughout.
        sources = (max(CHOICES), *results)
        return float(
            sum(self.layer_cost(filters, *at) for at in zip(range(len(kernels)), kernels, sources, strict=True))
        )

    def _layer_cost(self, filters: Candidate, index: int, kernel: int, source: int) -> float:
        layer, by_width, params = self.network.matrix_layers[index], self.by_width(filters), self.trained(filters)[0]
        read = "input_bits" if layer.source == "input" else f"{layer.source}_result"
        precision = {layer.name: by_width[kernel][layer.name], read: by_width[source][read]}
        return PRICES[self.config.budget_of](network_words((layer,), params, precision)[0])

    def score(self, candidate: Candidate) -> float:
        """Accuracy on training images, those of the calibration left out."""
        part = slice(CALIBRATION_IMAGES, CALIBRATION_IMAGES + SEARCH_IMAGES)
        params, _ = self.trained(self.split(candidate)[0])
        variables = {"params": params, "precision": self.collection(candidate)}
        return accuracy(self.config.variable, variables, self.problem.images[part], self.problem.labels[part])


def chosen_bits(study: Any, pruned: Any) -> list[dict[str, Any]]:
    """The row of the network that is chosen for the pruned one, trained like the uniform ones."""
    candidates, config, problem = Candidates(study, pruned), study.config, study.problem
    path = study.folder / "search.json"
    known = {tuple(c): s for c, s in files.read_json(path)} if path.exists() else {}
    scores = dict(known)

    def keep(candidate: Candidate, value: float) -> None:
        scores[candidate] = value
        files.write_json_atomically(path, [[list(c), s] for c, s in scores.items()])

    ladders, whole = candidates.ladders, max(config.filter_shares) == min(config.filter_shares) == 1
    hidden = len(config.network.feature_counts)
    everything = (*config.network.feature_counts.values(), *map(max, ladders[hidden:]))
    budget = config.budget * candidates.cost(everything)
    found = greedy_search(candidates.score, candidates.cost, ladders, budget, known=known, keep=keep, lazy=not whole)
    filters, *widths = candidates.split(found.best)
    counts, (params, _) = candidates.counts(filters), candidates.trained(filters)
    smaller, variables = reduce_filters(candidates.network, {"params": params}, counts)
    collection = dict(candidates.collection(found.best))
    for name, count in counts.items():
        # Bits of a kernel are alike in all channels, so it does not matter which of them go; others are of the layer.
        collection[name] = jax.tree.map(
            lambda leaf, count=count: leaf[..., :count] if jnp.ndim(leaf) else leaf, collection[name]
        )
    config = dataclasses.replace(config, filters=smaller.filters, units=smaller.units)

    def chosen(key: Array) -> Any:
        start, masks = variables["params"], zero_masks(variables["params"])
        state = tune(config, problem, key, start, collection, masks, epochs=config.tune_epochs)
        return {"params": state.params, "precision": state.bits}

    ending = "" if whole else "_of_" + "_".join(f"{share:g}" for share in config.filter_shares)
    by = "" if config.budget_of == "ebops" else f" by {config.budget_of}"
    made = study.kept(f"greedy_at_{config.budget:g}{ending}{by.replace(' ', '_')}", chosen)
    bits = "/".join(str(width) for part in widths for width in part)
    if not whole:
        bits = f"{bits} with {'/'.join(map(str, filters))} filters"
    rows = [study.row("greedy pruned", f"{bits}{by}", made["params"], made["precision"], config)]
    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows
