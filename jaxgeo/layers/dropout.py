"""Dropout drawn on the parameter tree: masks remove rows, channels or single weights; a draw is an ordinary tree.

Dropping row i of a layer's kernel equals dropping unit i of that layer's input, for all inputs of that draw at once.
Where coarse pixels share a kernel (`jaxgeo.layers.patch`), row i is one channel of one pixel within the patch, and it
is dropped from every patch of the sphere together. DropConnect drops the single weights instead. The network itself
knows nothing of either: `vmap`, HMC and export take the drawn tree like any other.

Which leaves are dropped is told by their shape and last name, in this order:

1. A leaf with one of the names in `fixed` on its path stays.
2. A leaf with one of the names in `extra` on its path is dropped, whatever it is.
3. A leaf whose last name has one of the words of `STAYING_WORDS` (biases, scales of norms, thresholds, embeddings,
   positions, tokens; words are what underscores part) stays, whatever its shape.
4. Any other leaf with two or more axes is a matrix or a kernel (..., in, out), and is dropped: `kernel`, the `spectrum`
   of a zonal filter, the `degree_l` of a Clebsch-Gordan layer, the `path_i` of a tensor product.
5. Any other vector or scalar is refused: only who wrote the layer knows whether it is a weight. `fixed` or `extra`
   says it.

A draw is a tree of the same network, so an equivariant network stays equivariant whatever is dropped.

References:
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014).
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280 (whole feature maps).
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import ConfigError, check_one_of

STAYING_WORDS = (
    "bias", "scale", "offset", "shift", "threshold", "embedding", "embed", "position", "positional", "pos", "token",
    "cls",
)  # fmt: skip
"""a leaf with one of these words in its last name is no matrix of weights"""

Unit = Literal["row", "channel"]


@dataclasses.dataclass(frozen=True)
class _KernelDropout:
    """How often a part of a kernel is dropped, whether the survivors are scaled up, and which kernels are spared."""

    rate: float = 0.1
    """probability that a part (a row, a channel, a weight) is removed"""
    inverted: bool = True
    """scale the survivors by 1 / (1 - rate), so that the mean draw is the parameter tree itself"""
    fixed: tuple[str, ...] = ()
    """names of modules or leaves that are left alone, usually the first layer: its rows are pixels"""
    extra: tuple[str, ...] = ()
    """names of modules or leaves that are dropped though the rule would not: the rows of a table of embeddings, say"""

    def __post_init__(self) -> None:
        """Refuse a rate that drops nothing or everything, and names that are to stay and to be dropped."""
        if not 0.0 < self.rate < 1.0:
            raise ConfigError(f"the dropout rate must lie between 0 and 1, both excluded, got {self.rate}")
        both = sorted(set(self.fixed) & set(self.extra))
        if both:
            raise ConfigError(f"dropout has {both} in fixed (left alone) and in extra (dropped); name them in one")

    @property
    def survivor_scale(self) -> float:
        """Factor on a part that is kept."""
        return 1.0 / (1.0 - self.rate) if self.inverted else 1.0

    def coins(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the coins of a dropped leaf, which broadcasts against the leaf's: here one for each weight."""
        return shape


@dataclasses.dataclass(frozen=True)
class RowDropout(_KernelDropout):
    """Dropout: whole rows or whole channels are dropped, together with the input unit that meets them.

    A row is the slice of a kernel (..., in, out) that one input unit meets at one tap. For a matrix (in, out) that is
    the unit itself. A convolution meets an input channel at every tap, so `unit="row"` drops taps of channels one by
    one: nine coins for each channel of a 3 x 3 kernel. `unit="channel"` tosses one coin for each input channel (the
    next to last axis) and all taps, which drops its feature map as a whole, as Tompson et al. do: the node of a
    convolutional network. For matrices both are the same.

    Of a spin-weighted kernel a channel is dropped at all spins and degrees; of a spectrum at all degrees; of the
    matrices of a Clebsch-Gordan layer, one for each degree, at one degree; of a tensor product it is the second
    factor's. Flax kernels that split a matrix over heads, (in, head, out), are read as (..., in, out) like all others.
    Of a vector in `extra` every entry has its coin.
    """

    unit: Unit = "row"
    """what one coin drops"""

    def __post_init__(self) -> None:
        """Refuse an unknown unit too."""
        super().__post_init__()
        check_one_of("the unit of dropout", self.unit, Unit)

    def coins(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the coins of a dropped leaf, which broadcasts against the leaf's."""
        if len(shape) < 2:
            return shape
        taps = shape[:-2] if self.unit == "row" else (1,) * (len(shape) - 2)
        return (*taps, shape[-2], 1)


@dataclasses.dataclass(frozen=True)
class WeightDropout(_KernelDropout):
    """DropConnect: every weight of a kernel is dropped for itself."""


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a key path of `jax.tree_util`."""
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)


def check_fixed(params: Any, fixed: tuple[str, ...], option: str = "fixed") -> None:
    """Refuse names of modules or leaves that occur nowhere in the tree (`ConfigError`)."""
    seen = {name for path, _ in jax.tree_util.tree_leaves_with_path(params) for name in path_names(path)}
    unknown = sorted(set(fixed) - seen)
    if unknown:
        raise ConfigError(
            f"dropout.{option} names {unknown}, which the parameters do not have; they have {sorted(seen)}"
        )


def _is_dropped(names: tuple[str, ...], leaf: Any, dropout: _KernelDropout) -> bool:
    """The rule at the top of this module, for one leaf and the names on its path."""
    if set(names) & set(dropout.fixed):
        return False
    if set(names) & set(dropout.extra):
        return True
    last = names[-1] if names else ""
    if set(last.split("_")) & set(STAYING_WORDS):
        return False
    if leaf.ndim < 2:
        raise ConfigError(
            f"dropout cannot tell whether {'/'.join(names) or 'the only leaf'} of shape {tuple(leaf.shape)} is a "
            f"weight: it is no matrix, and its name none of a bias, scale or embedding; name {last!r} (or its module) "
            f"in fixed to leave it alone, or in extra to drop its entries"
        )
    return True


def _dropped(params: Any, dropout: _KernelDropout, kind: type[_KernelDropout]) -> Any:
    """A tree like `params`: how many coins its leaf takes."""
    if not isinstance(dropout, kind):
        # It would be drawn all the same, and one family be taken for the other.
        raise ConfigError(
            f"{kind.__name__} is needed here, got {dropout!r}; MC dropout drops rows or channels by RowDropout, "
            f"DropConnect single weights by WeightDropout"
        )
    check_fixed(params, dropout.fixed)
    check_fixed(params, dropout.extra, "extra")

    def coins(path: tuple[Any, ...], leaf: Any) -> int:
        return math.prod(dropout.coins(tuple(leaf.shape))) if _is_dropped(path_names(path), leaf, dropout) else 0

    counts = jax.tree_util.tree_map_with_path(coins, params)
    if not any(jax.tree.leaves(counts)):
        raise ConfigError(f"dropout finds no weights outside of {list(dropout.fixed)}; it has nothing to drop")
    return counts


def _masks(key: PRNGKeyArray, params: Any, dropout: _KernelDropout, kind: type[_KernelDropout]) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    counts = treedef.flatten_up_to(_dropped(params, dropout, kind))
    keys = jax.random.split(key, len(leaves))

    def mask(key: PRNGKeyArray, leaf: Any, count: int) -> Any:
        if not count:
            return jnp.ones((1,) * leaf.ndim, leaf.dtype)
        kept = jax.random.bernoulli(key, 1.0 - dropout.rate, dropout.coins(tuple(leaf.shape)))
        return jnp.where(kept, dropout.survivor_scale, 0.0).astype(leaf.dtype)

    return treedef.unflatten([mask(*args) for args in zip(keys, leaves, counts, strict=True)])


def dropped_rows(params: Any, dropout: RowDropout) -> Any:
    """A tree like `params`: how many rows (or channels) of each leaf are dropped at random, zero where none are.

    Raises:
        ConfigError: dropout of the other kind, a name in `fixed` or `extra` that occurs nowhere in the tree, a leaf
            that is covered by no rule, or nothing is left to drop.
    """
    return _dropped(params, dropout, RowDropout)


def draw_masks(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """A tree that broadcasts against `params`: 0 or the survivors' scale for each row (or channel), 1 elsewhere."""
    return _masks(key, params, dropout, RowDropout)


def drop_rows(key: PRNGKeyArray, params: Any, dropout: RowDropout) -> Any:
    """One draw: `params` with rows (or channels) removed and the others scaled; same structure, shapes and dtypes."""
    return jax.tree.map(jnp.multiply, params, draw_masks(key, params, dropout))


def dropped_weights(params: Any, dropout: WeightDropout) -> Any:
    """A tree like `params`: the number of weights of each leaf that are dropped at random, zero where none are.

    Raises:
        ConfigError: dropout of the other kind, a name in `fixed` or `extra` that occurs nowhere in the tree, a leaf
            that is covered by no rule, or nothing is left to drop.
    """
    return _dropped(params, dropout, WeightDropout)


def draw_weight_masks(key: PRNGKeyArray, params: Any, dropout: WeightDropout) -> Any:
    """A tree that broadcasts against `params`: 0 or the survivors' scale for each weight, 1 for all other leaves."""
    return _masks(key, params, dropout, WeightDropout)


def drop_weights(key: PRNGKeyArray, params: Any, dropout: WeightDropout) -> Any:
    """One draw: `params` with weights removed at random and the others scaled; same structure, shapes and dtypes."""
    return jax.tree.map(jnp.multiply, params, draw_weight_masks(key, params, dropout))
