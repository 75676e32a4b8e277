"""Dropout drawn on the parameter tree: a mask removes rows of kernels, so that a draw is an ordinary tree.

Dropping row i of a layer's kernel equals dropping unit i of that layer's input, for all inputs of that draw at once.
Where coarse pixels share a kernel (`jaxgeo.layers.patch`), row i is one channel of one pixel within the patch, and it
is dropped from every patch of the sphere together. The network itself knows nothing of it: `vmap`, HMC and export take
the drawn tree like any other.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RowDropout:
    """Which rows are dropped, how often, and whether the survivors are scaled up.

    A row is the slice of a `kernel` (..., in, out) that one input unit meets: for the layers here (kernels
    (in, out)) one row of the matrix. Biases are never dropped.
    """

    rate: float = 0.1
    """probability that a row is removed"""
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
        """Factor on a row that is kept."""
        return 1.0 / (1.0 - self.rate) if self.inverted else 1.0


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a key path of `jax.tree_util`."""
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)


def dropped_rows(params: Any, dropout: RowDropout) -> Any:
    """A tree like `params`: the number of rows of each leaf that are dropped at random, zero where none are.

    Raises:
        ConfigError: a name in `fixed` occurs nowhere in the tree, or no kernel is left to drop from.
    """
    seen = {name for path, _ in jax.tree_util.tree_leaves_with_path(params) for name in path_names(path)}
    unknown = sorted(set(dropout.fixed) - seen)
    if unknown:
        raise ConfigError(f"dropout.fixed names {unknown}, which the parameters do not have; they have {sorted(seen)}")

    def rows(path: tuple[Any, ...], leaf: Any) -> int:
        names = path_names(path)
        is_dropped = names[-1:] == ("kernel",) and leaf.ndim >= 2 and not set(names) & set(dropout.fixed)
        return math.prod(leaf.shape[:-1]) if is_dropped else 0

    counts = jax.tree_util.tree_map_with_path(rows, params)
    if not any(jax.tree.leaves(counts)):
        raise ConfigError(
            f"dropout finds no leaf named kernel outside of {list(dropout.fixed)}; it has nothing to drop"
        )
    return counts


def draw_masks(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """A tree that broadcasts against `params`: 0 or the survivors' scale for each row, 1 for all other leaves."""
    leaves, treedef = jax.tree.flatten(params)
    counts = treedef.flatten_up_to(dropped_rows(params, dropout))
    keys = jax.random.split(key, len(leaves))

    def mask(key: PRNGKeyArray, leaf: Any, count: int) -> Any:
        if not count:
            return jnp.ones((1,) * leaf.ndim, leaf.dtype)
        kept = jax.random.bernoulli(key, 1.0 - dropout.rate, (*leaf.shape[:-1], 1))
        return jnp.where(kept, dropout.survivor_scale, 0.0).astype(leaf.dtype)

    return treedef.unflatten([mask(*args) for args in zip(keys, leaves, counts, strict=True)])


def drop_rows(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """One draw: `params` with rows removed at random and the others scaled; same structure, shapes and dtypes."""
    return jax.tree.map(jnp.multiply, params, draw_masks(key, params, dropout))
