"""Dropout drawn on the parameter tree: masks remove rows or single weights of kernels; a draw is an ordinary tree.

Dropping row i of a layer's kernel equals dropping unit i of that layer's input, for all inputs of that draw at once.
Where coarse pixels share a kernel (`jaxgeo.layers.patch`), row i is one channel of one pixel within the patch, and it
is dropped from every patch of the sphere together. DropConnect drops the single weights instead. The network itself
knows nothing of either: `vmap`, HMC and export take the drawn tree like any other.

References:
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014).
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _KernelDropout:
    """How often a part of a kernel is dropped, whether the survivors are scaled up, and which kernels are spared."""

    rate: float = 0.1
    """probability that a part (a row, a weight) is removed"""
    inverted: bool = True
    """scale the survivors by 1 / (1 - rate), so that the mean draw is the parameter tree itself"""
    fixed: tuple[str, ...] = ()
    """names of modules on the path to a kernel that is left alone, usually the first layer: its rows are pixels"""

    def __post_init__(self) -> None:
        """Refuse a rate that drops nothing or everything."""
        if not 0.0 < self.rate < 1.0:
            raise ConfigError(f"the dropout rate must lie between 0 and 1, both excluded, got {self.rate}")

    @property
    def survivor_scale(self) -> float:
        """Factor on a part that is kept."""
        return 1.0 / (1.0 - self.rate) if self.inverted else 1.0


@dataclasses.dataclass(frozen=True)
class RowDropout(_KernelDropout):
    """Dropout: whole rows are dropped, together with the input unit that meets them.

    A row is the slice of a `kernel` (..., in, out) that one input unit meets: for the layers here (kernels
    (in, out)) one row of the matrix. Biases are never dropped.
    """


@dataclasses.dataclass(frozen=True)
class WeightDropout(_KernelDropout):
    """DropConnect: every weight of a `kernel` is dropped for itself. Biases are never dropped."""


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a key path of `jax.tree_util`."""
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)


def check_fixed(params: Any, fixed: tuple[str, ...]) -> None:
    """Refuse names of modules to leave alone that occur nowhere in the tree (`ConfigError`)."""
    seen = {name for path, _ in jax.tree_util.tree_leaves_with_path(params) for name in path_names(path)}
    unknown = sorted(set(fixed) - seen)
    if unknown:
        raise ConfigError(f"dropout.fixed names {unknown}, which the parameters do not have; they have {sorted(seen)}")


def _dropped(params: Any, dropout: _KernelDropout, shared_axes: int) -> Any:
    """A tree like `params`: how many coins its leaf takes, one for each slice of the last `shared_axes` axes."""
    check_fixed(params, dropout.fixed)

    def coins(path: tuple[Any, ...], leaf: Any) -> int:
        names = path_names(path)
        is_dropped = names[-1:] == ("kernel",) and leaf.ndim >= 2 and not set(names) & set(dropout.fixed)
        return math.prod(leaf.shape[: leaf.ndim - shared_axes]) if is_dropped else 0

    counts = jax.tree_util.tree_map_with_path(coins, params)
    if not any(jax.tree.leaves(counts)):
        raise ConfigError(
            f"dropout finds no leaf named kernel outside of {list(dropout.fixed)}; it has nothing to drop"
        )
    return counts


def _masks(key: PRNGKeyArray, params: Any, counts: Any, dropout: _KernelDropout, shared_axes: int) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def mask(key: PRNGKeyArray, leaf: Any, count: int) -> Any:
        if not count:
            return jnp.ones((1,) * leaf.ndim, leaf.dtype)
        shape = leaf.shape[: leaf.ndim - shared_axes] + (1,) * shared_axes
        kept = jax.random.bernoulli(key, 1.0 - dropout.rate, shape)
        return jnp.where(kept, dropout.survivor_scale, 0.0).astype(leaf.dtype)

    return treedef.unflatten([mask(*args) for args in zip(keys, leaves, treedef.flatten_up_to(counts), strict=True)])


def dropped_rows(params: Any, dropout: RowDropout) -> Any:
    """A tree like `params`: the number of rows of each leaf that are dropped at random, zero where none are.

    Raises:
        ConfigError: a name in `fixed` occurs nowhere in the tree, or no kernel is left to drop from.
    """
    return _dropped(params, dropout, 1)


def draw_masks(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """A tree that broadcasts against `params`: 0 or the survivors' scale for each row, 1 for all other leaves."""
    return _masks(key, params, dropped_rows(params, dropout), dropout, 1)


def drop_rows(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """One draw: `params` with rows removed at random and the others scaled; same structure, shapes and dtypes."""
    return jax.tree.map(jnp.multiply, params, draw_masks(key, params, dropout))


def dropped_weights(params: Any, dropout: WeightDropout) -> Any:
    """A tree like `params`: the number of weights of each leaf that are dropped at random, zero where none are.

    Raises:
        ConfigError: a name in `fixed` occurs nowhere in the tree, or no kernel is left to drop from.
    """
    return _dropped(params, dropout, 0)


def draw_weight_masks(key: PRNGKeyArray, params: Any, dropout: WeightDropout) -> Any:
    """A tree that broadcasts against `params`: 0 or the survivors' scale for each weight, 1 for all other leaves."""
    return _masks(key, params, dropped_weights(params, dropout), dropout, 0)


def drop_weights(key: PRNGKeyArray, params: Any, dropout: WeightDropout) -> Any:
    """One draw: `params` with weights removed at random and the others scaled; same structure, shapes and dtypes."""
    return jax.tree.map(jnp.multiply, params, draw_weight_masks(key, params, dropout))
