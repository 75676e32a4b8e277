"""Dynamic loss scales, without which small derivatives vanish in float16 (Micikevicius et al., arXiv:1710.03740).

A loss is multiplied by a factor before its derivatives are taken, and these are divided by it after. Where one of them
is not finite, the update is left out and the factor halved; after many finite ones it is doubled. All of it are
powers of two, so that nothing is rounded by them. bfloat16 has the exponents of float32 and needs none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

GROWTH_INTERVAL = 2000
"""finite updates in a row after which the factor is doubled, as in PyTorch's GradScaler"""
_FIRST, _LEAST, _MOST = 2.0**16, 2.0**-24, 2.0**100


class LossScale(NamedTuple):
    """The factor, for how long it has served, and how often there was none that could."""

    factor: Float[Array, ""]  # a power of two
    finite_updates: Int[Array, ""]  # in a row, since it changed
    left_out: Int[Array, ""]  # updates


def init_loss_scale() -> LossScale:
    """The factor 2^16."""
    return LossScale(jnp.asarray(_FIRST, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def adjusted(scale: LossScale, finite: Bool[Array, ""]) -> LossScale:
    """The scale of the next update.

    Args:
        scale: of this one.
        finite: whether all of its derivatives were.
    """
    served = jnp.where(finite, scale.finite_updates + 1, 0)
    grows = served == GROWTH_INTERVAL
    factor = scale.factor * jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5).astype(jnp.float32)
    return LossScale(
        jnp.clip(factor, _LEAST, _MOST), jnp.where(grows, 0, served), scale.left_out + jnp.where(finite, 0, 1)
    )


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no leaf holds NaN or an infinite value."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
