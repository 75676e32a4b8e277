"""Non-parametric dropout drawn on the parameter tree: of two networks, each unit comes from one or the other.

A pair of networks is the tree `{"first": params, "second": params}`. A draw takes each unit, that is everything by
which one module makes one of its outputs, from the first or from the second with probability 1/2, and is an ordinary
parameter tree. No unit is ever absent and nothing is scaled.

A unit is an index of the last axis: the column of a kernel (..., in, out) together with its bias, or the scale, the
bias and the threshold of one channel of a normalisation. Leaves of one module (one path up to the last name) whose
last axes have the same length share the coins; different modules have different coins. Every leaf is covered, whatever
its name: the matrices of all degrees of a Clebsch-Gordan layer choose a channel together, and the positions of a window
attention choose with their head.

The published programs mix the outputs of two layers, unit by unit, with a mask that all examples of a batch share. For
an affine layer that is this draw. For a convolution they draw the coin anew at every pixel, which no single tree of
parameters can express; here a channel has one coin for the whole plane.

References:
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123,
    and the programs at https://github.com/oleksandr-balabanov/stochastic-ensembles.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import check_fixed, path_names


@dataclasses.dataclass(frozen=True)
class UnitChoice:
    """Which modules have only one copy."""

    fixed: tuple[str, ...] = ()
    """names of modules that are always the first network's (often the output layer); the second's are then unused"""


BOTH_COPIES = UnitChoice()
"""every unit is chosen"""


def init_pair(init_member: Callable[[PRNGKeyArray], Any]) -> Callable[[PRNGKeyArray], dict[str, Any]]:
    """From the initial parameters of one network to those of a pair, each from a key of its own."""

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        first, second = jax.random.split(key)
        return {"first": init_member(first), "second": init_member(second)}

    return init


def check_pair(pair: Any) -> tuple[Any, Any]:
    """The two networks of a pair.

    Raises:
        ConfigError: no mapping of `first` and `second`, or two trees that differ in structure or shapes.
    """
    if not isinstance(pair, dict) or set(pair) != {"first", "second"}:
        got = sorted(pair) if isinstance(pair, dict) else type(pair).__name__
        raise ConfigError(
            f"a pair of networks is a tree {{'first': params, 'second': params}}, got {got}; see init_pair"
        )
    first, second = pair["first"], pair["second"]
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (first, second)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"the two networks of a pair must have the same shapes, got {shapes[0]} and {shapes[1]}")
    return first, second


def units(params: Any, choice: UnitChoice = BOTH_COPIES) -> dict[tuple[str, ...], int]:
    """How many units, and so coins, each group of leaves has.

    Returns:
        the length of the last axis by (path of the module, that length), 1 for the group of a module's scalars;
        modules in `fixed` are left out.

    Raises:
        ConfigError: a name in `fixed` occurs nowhere in the tree, or nothing is left to choose.
    """
    check_fixed(params, choice.fixed)
    paths = jax.tree_util.tree_leaves_with_path(params)
    groups = {group: _length(leaf) for path, leaf in paths if (group := unit_group(path, leaf, choice)) is not None}
    if not groups:
        raise ConfigError(f"every module is in fixed {list(choice.fixed)}; there is no unit to choose")
    return groups


def unit_group(path: tuple[Any, ...], leaf: Any, choice: UnitChoice) -> tuple[str, ...] | None:
    """Name of the coins of the leaf at a key path of `jax.tree_util`, None where it is always the first network's."""
    names = path_names(path)
    return None if set(names) & set(choice.fixed) else (*names[:-1], str(_length(leaf)))


def _length(leaf: Any) -> int:
    return leaf.shape[-1] if leaf.ndim else 1


def choose(key: PRNGKeyArray, pair: Any, choice: UnitChoice = BOTH_COPIES) -> Any:
    """One draw: a tree with the structure, shapes and dtypes of either network, each unit from one of the two.

    Raises:
        ConfigError: not a pair (`check_pair`), or impossible `fixed` (`units`).
    """
    first, second = check_pair(pair)
    groups = units(first, choice)
    keys = jax.random.split(key, len(groups))
    coins = {
        group: jax.random.bernoulli(k, 0.5, (length,))
        for k, (group, length) in zip(keys, sorted(groups.items()), strict=True)
    }

    def pick(path: tuple[Any, ...], one: Any, other: Any) -> Any:
        group = unit_group(path, one, choice)
        if group is None:
            return one
        coin = coins[group]
        return jnp.where(coin.reshape((1,) * (one.ndim - 1) + (-1,) if one.ndim else ()), one, other)

    return jax.tree_util.tree_map_with_path(pick, first, second)
