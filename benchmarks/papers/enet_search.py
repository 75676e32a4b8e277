"""Bits and filters of an ENet chosen together under a budget, for `benchmarks.papers.enet --budget`.

A candidate has a number of filters between blocks, one inside of each bottleneck, and bits of the weights and of the
results of each convolution. Its filters are the strongest of the trained network, trained on for some steps in floating
point under masks; its formats are calibrated; its score is the loss on training frames that these steps do not see, in
fixed point. Its cost is one of `benchmarks.papers.prices`. The search begins with everything and takes the step that
loses least for what it saves (`jaxgeo.training.precision_search.greedy_search`), until the budget is kept. What was
scored and what was trained lies in the folder.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.papers import enet_training as training
from benchmarks.papers.prices import PRICES, PriceName
from jaxgeo import files
from jaxgeo.config_files import check_same_settings
from jaxgeo.data.driving import SegmentationSet, network_input
from jaxgeo.errors import ConfigError
from jaxgeo.models.enet import ENetConfig
from jaxgeo.training import enet_precision as precision
from jaxgeo.training.dense_losses import weighted_cross_entropy
from jaxgeo.training.enet_search import apply_with_formats, enet_words, format_arrays
from jaxgeo.training.filter_reduction import filter_masks, reduce_filters
from jaxgeo.training.precision_search import greedy_search
from jaxgeo.training.pruning import apply_masks, keep_masks

BITS = (2, 4, 6, 8)


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What may be chosen, and how candidates are judged; a folder goes on with what it was begun with.

    Raises:
        ConfigError: a number out of its range.
    """

    budget: float = 0.2
    """a share of the cost with all filters and 8 bits everywhere"""
    shares: tuple[float, ...] = (0.5, 0.75, 1.0)
    """of the filters of the trained network"""
    steps: int = 30
    """of training for each choice of filters"""
    images: int = 4
    """training frames on which candidates are judged"""
    budget_of: PriceName = "ebops"
    """what a candidate costs: effective bit operations, or DSP slices or LUTs of the products by the bridge's model"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 < self.budget <= 1 or not self.shares or not 0 < min(self.shares) <= max(self.shares) <= 1:
            raise ConfigError(f"budget and shares of filters lie in (0, 1], got {self.budget} and {self.shares}")
        if self.steps < 0 or self.images < 1:
            raise ConfigError(f"a search needs steps of at least 0 and 1 image or more, got {self}")


class Candidates:
    """The networks of a search by what was chosen."""

    def __init__(
        self,
        folder: Path,
        config: ENetConfig,
        params: Any,
        data: SegmentationSet,
        settings: training.Settings,
        search: SearchSettings,
    ) -> None:
        self.folder, self.config, self.settings, self.search = files.make_folder(folder), config, settings, search
        self.params = jax.tree.map(jnp.asarray, params)
        judges = np.linspace(0, len(data.images) - 1, search.images).astype(int)
        others = np.setdiff1d(np.arange(len(data.images)), judges)
        self.data = SegmentationSet(tuple(data.names[k] for k in others), data.images[others], data.labels[others])
        self.images = jnp.asarray(network_input(data.images[judges]))
        labels, weights = (
            jnp.asarray(data.labels[judges].astype(np.int32)),
            jnp.asarray(training.class_weights(data.labels)),
        )
        network, optimiser = training.cropped(config, settings), optax.adam(settings.tune_rate)

        @jax.jit
        def loss(params: Any, formats: Any) -> jax.Array:
            logits = apply_with_formats(config, params, self.images, formats)
            return weighted_cross_entropy(logits, labels, class_weights=weights)

        @jax.jit
        def step(params: Any, moments: Any, masks: Any, x: jax.Array, y: jax.Array) -> Any:
            def value(params: Any) -> jax.Array:
                logits: Any = network.apply({"params": params}, x)
                return weighted_cross_entropy(logits, y, class_weights=weights)

            updates, moments = optimiser.update(jax.grad(value)(params), moments)
            updates, _ = keep_masks(masks).update(updates, optax.EmptyState(), params)
            return optax.apply_updates(params, updates), moments

        self.loss, self.step, self.optimiser = loss, step, optimiser
        # One program may be asked for very many networks; formats of each are found once.
        self.chooser = functools.cache(self._chooser)

    @property
    def ladders(self) -> list[tuple[int, ...]]:
        """What each place of a candidate may be: filters by group, then bits of weights, then of results."""
        counts = self.config.feature_counts.values()
        filters = [tuple(sorted({max(1, round(n * share)) for share in self.search.shares})) for n in counts]
        return filters + [BITS] * (2 * len(self.config.names))

    def split(self, candidate: Sequence[int]) -> tuple[tuple[int, ...], precision.ENetBits]:
        """Numbers of filters, and bits."""
        groups, names = len(self.config.feature_counts), self.config.names
        weights, results = candidate[groups : groups + len(names)], candidate[groups + len(names) :]
        bits = precision.ENetBits(dict(zip(names, weights, strict=True)), dict(zip(names, results, strict=True)))
        return tuple(candidate[:groups]), bits

    def counts(self, filters: Sequence[int]) -> dict[str, int]:
        """Filters by the name of their group."""
        return dict(zip(self.config.feature_counts, filters, strict=True))

    def trained(self, filters: tuple[int, ...]) -> Any:
        """Parameters of the network with only so many filters, in the shapes of the whole one."""
        path = self.folder / f"filters_{'_'.join(map(str, filters))}.safetensors"
        if not path.exists():
            masks = filter_masks(self.config, {"params": self.params}, self.counts(filters))
            params = apply_masks(self.params, masks)
            moments = self.optimiser.init(params)
            for x, y in training.batches(self.data, self.settings, 0, self.search.steps):
                params, moments = self.step(params, moments, masks, x, y)
            files.save_tree(path, jax.tree.map(np.asarray, params))
        return files.load_tree(path)

    def _chooser(self, filters: tuple[int, ...]) -> Any:
        params = self.trained(filters)
        return params, precision.format_chooser(self.config, params, self.images)

    def score(self, candidate: Sequence[int]) -> float:
        """Less the loss in fixed point."""
        filters, bits = self.split(candidate)
        params, choose = self.chooser(filters)
        return -float(self.loss(params, format_arrays(self.config, choose(bits))))

    def cost(self, candidate: Sequence[int]) -> float:
        """By the price of the search."""
        filters, bits = self.split(candidate)
        params, choose = self.chooser(filters)
        return sum(map(PRICES[self.search.budget_of], enet_words(self.config, params, choose(bits))))


def search_network(candidates: Candidates, report: Any = None) -> tuple[ENetConfig, Any, precision.ENetBits, Any]:
    """The chosen network: config without formats, parameters, bits, and a row of what was chosen.

    Args:
        candidates: of the search.
        report: told of each scored candidate.

    Raises:
        ConfigError: no candidate keeps the budget, or the folder was begun with other settings.
    """
    path, asked = candidates.folder / "search.json", candidates.search
    settings = {**dataclasses.asdict(asked), "shares": list(asked.shares)}
    kept: Mapping[str, Any] = files.read_json(path) if path.exists() else {"settings": settings, "scores": []}
    # Scores do not depend on what candidates cost and may cost.
    check_same_settings(path, kept["settings"], settings, ("budget", "budget_of"))
    known = {tuple(candidate): score for candidate, score in kept["scores"]}
    scores = dict(known)

    def keep(candidate: tuple[int, ...], score: float) -> None:
        scores[candidate] = score
        files.write_json_atomically(path, {"settings": settings, "scores": [[list(c), s] for c, s in scores.items()]})
        if report is not None:
            report(len(scores), len(scores), {"loss": -score})

    cost = functools.cache(candidates.cost)
    whole = cost(tuple(map(max, candidates.ladders)))
    found = greedy_search(
        candidates.score, cost, candidates.ladders, asked.budget * whole, known=known, keep=keep, lazy=True
    )
    filters, bits = candidates.split(found.best)
    counts = candidates.counts(filters)
    config, variables = reduce_filters(candidates.config, {"params": candidates.trained(filters)}, counts)
    row = {"counts": counts, "bits": dataclasses.asdict(bits), "cost": found.cost, "of": whole}
    row |= {"scored": len(found.scores), "loss": -found.score}
    return config, variables["params"], bits, row
