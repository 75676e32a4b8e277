r"""Pruning: weights of least magnitude become exactly zero by a schedule.

`prune` is an optax transformation, the last of a chain. Up to step $t_0 + n \Delta t$ it recomputes the masks every
$\Delta t$ steps from the magnitudes of the weights, layer by layer, and from then on it keeps them. The share of
zeros rises fast first and slowly at the end, $s_t = s_f + (s_i - s_f)\,(1 - (t - t_0) / (n \Delta t))^3$.

Pruned is what multiplies several inputs, by the rule of dropout (`jaxgeo.layers.dropout`): every array of two axes or
more, whatever its layer calls it (`kernel`, `spectrum`, `degree_3`, `path_0`), but those whose own name says that they
are biases, scales, embeddings or positions. Layers of the caller's choice are excluded by name.

References:
    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    arXiv:1710.01878, equation 1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.dropout import STAYING_WORDS, path_names


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """Schedule and layers.

    Raises:
        ConfigError: shares out of [0, 1), or falling; steps below 0, or an interval below 1.
    """

    final_sparsity: float = 0.5
    """share of zeros in each array of weights at the end"""
    initial_sparsity: float = 0.0
    begin_step: int = 0
    """first step after which weights are zero"""
    updates: int = 100
    """number n of later times at which the masks are recomputed"""
    interval: int = 1
    """steps between them"""
    exclude: tuple[str, ...] = ()
    """layers left alone: names that stand anywhere in the path of an array, such as `head`"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, begin_step=0, updates=0, interval=1)
        if not 0 <= self.initial_sparsity <= self.final_sparsity < 1:
            raise ConfigError(
                f"a schedule rises from initial_sparsity to final_sparsity, both in [0, 1), got "
                f"{self.initial_sparsity} and {self.final_sparsity}"
            )

    @property
    def end_step(self) -> int:
        """Last step at which masks are recomputed."""
        return self.begin_step + self.updates * self.interval


class PruningState(NamedTuple):
    """Steps done, and for each leaf of the parameters which weights live (one True for leaves that are not pruned)."""

    step: Int[Array, ""]
    masks: PyTree


def sparsity(config: PruningConfig, step: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Share of zeros that the schedule asks for at a step; before `begin_step` there are none."""
    span = max(config.updates * config.interval, 1)
    progress = jnp.clip((step - config.begin_step) / span, 0.0, 1.0)
    progress = jnp.where(step >= config.end_step, 1.0, progress)
    rise = (config.initial_sparsity - config.final_sparsity) * (1 - progress) ** 3
    return jnp.where(step < config.begin_step, 0.0, config.final_sparsity + rise)


def magnitude_mask(weights: Float[Array, "*shape"], share: Float[Array, ""] | float) -> Bool[Array, "*shape"]:
    """False for the `share` of the weights that are least in magnitude: exactly round(share x size) of them.

    Of equal magnitudes the first in row-major order go first.
    """
    flat = jnp.abs(weights).ravel()
    # The rank of each weight; a threshold would take all or none of equal weights.
    rank = jnp.argsort(jnp.argsort(flat, stable=True), stable=True)
    return (rank >= jnp.round(share * flat.size)).reshape(weights.shape)


def is_pruned(path: tuple[Any, ...], leaf: Any, exclude: Sequence[str] = ()) -> bool:
    """Whether a leaf of a params tree is an array of weights that is not excluded, by the rule of the module."""
    names = path_names(path)
    words = set(names[-1].split("_")) if names else set()
    return jnp.ndim(leaf) > 1 and not words & set(STAYING_WORDS) and not set(names) & set(exclude)


def magnitude_masks(params: PyTree, share: Float[Array, ""] | float, exclude: Sequence[str] = ()) -> PyTree:
    """`magnitude_mask` of every array of weights, True elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: magnitude_mask(leaf, share) if is_pruned(path, leaf, exclude) else jnp.asarray(True), params
    )


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with exact zeros where masks are False."""
    return jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, jnp.zeros_like(leaf)), params, masks)


def keep_masks(masks: PyTree) -> optax.GradientTransformation:
    """Holds what given masks say at exactly zero; the last transformation of a chain."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return _masked(updates, _needed(params), masks), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def prune(config: PruningConfig) -> optax.GradientTransformation:
    """Magnitude pruning by the schedule; the last transformation of a chain, its `update` needs the parameters.

    A weight that is masked gets the update that makes it exactly zero. As masks are recomputed from what the weights
    will be after the update, and masked ones are zero, none comes back while the share rises. Pure and of static
    shapes: members are pruned apart under `vmap`.

    Raises:
        InputError: nothing to prune (at `init`), or `update` without parameters.
    """

    def init(params: PyTree) -> PruningState:
        masks = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.ones(jnp.shape(leaf) if is_pruned(path, leaf, config.exclude) else (), bool), params
        )
        if not any(jnp.ndim(mask) for mask in jax.tree.leaves(masks)):
            raise InputError(
                f"there is nothing to prune: no array of two axes or more outside of {config.exclude} but biases, "
                f"scales, embeddings and positions"
            )
        return PruningState(jnp.zeros((), jnp.int32), masks)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        params = _needed(params)
        due = (state.step >= config.begin_step) & (state.step <= config.end_step)
        due = due & ((state.step - config.begin_step) % config.interval == 0)
        share = sparsity(config, state.step)

        def renew(masks: PyTree) -> PyTree:
            after = _masked_sum(params, updates, masks)
            fresh = magnitude_masks(after, share, config.exclude)
            return jax.tree.map(lambda mask, new: mask & new, masks, fresh)

        masks = jax.lax.cond(due, renew, lambda masks: masks, state.masks)
        return _masked(updates, params, masks), PruningState(state.step + 1, masks)

    return optax.GradientTransformation(init, update)


def _needed(params: PyTree | None) -> PyTree:
    if params is None:
        raise InputError("pruning makes weights zero, so it needs them: call update(updates, state, params)")
    return params


def _masked(updates: PyTree, params: PyTree, masks: PyTree) -> PyTree:
    # p + (-p) is exactly zero.
    return jax.tree.map(lambda update, leaf, mask: jnp.where(mask, update, -leaf), updates, params, masks)


def _masked_sum(params: PyTree, updates: PyTree, masks: PyTree) -> PyTree:
    return apply_masks(jax.tree.map(lambda leaf, update: leaf + update, params, updates), masks)


def zero_share(params: PyTree, exclude: Sequence[str] = ()) -> float:
    """Share of exact zeros in all arrays of weights that are not excluded."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [np.asarray(leaf) for path, leaf in leaves if is_pruned(path, leaf, exclude)]
    return float(sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels))
