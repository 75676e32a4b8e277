"""Which tokens make a window, as permutations, labels and numbers of position biases; fixed before anything is learned.

A window is a run of consecutive tokens. What else there is to a partition (a shift, a picture's rectangles) is a
permutation of the tokens before and after, so that attention itself sees only reshapes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics.linear_map import linear_map


class Permutation(eqx.Module):
    """Rows in another order: `permuted[i] = rows[indices[i]]`, and the way back."""

    indices: Int[Array, " token"]
    inverse: Int[Array, " token"]

    def __call__(self, rows: Float[Array, "*batch token channel"]) -> Float[Array, "*batch token channel"]:
        """The rows in the new order; the derivative is a gather too, where that of indexing would be a scatter."""
        return linear_map(_take, _take_back, (self.indices, self.inverse), rows)

    def reversed(self) -> "Permutation":
        """The permutation that undoes this one."""
        return Permutation(self.inverse, self.indices)


def _take(tables: tuple[Array, Array], rows: Array) -> Array:
    return rows.at[..., tables[0], :].get(mode="promise_in_bounds", unique_indices=True)


def _take_back(tables: tuple[Array, Array], rows: Array) -> Array:
    return _take((tables[1], tables[0]), rows)


def plan_permutation(indices: ArrayLike) -> Permutation | None:
    """A permutation checked to be one; None for the identity, which costs nothing that way.

    Raises:
        ConfigError: an index is missing.
    """
    indices = np.asarray(indices)
    inverse = np.argsort(indices, kind="stable")
    counted = np.arange(len(indices))
    if not np.array_equal(indices[inverse], counted):
        raise ConfigError(f"a permutation of {len(indices)} tokens names each once, got {indices}")
    if np.array_equal(indices, counted):
        return None
    return Permutation(jnp.asarray(indices, jnp.int32), jnp.asarray(inverse, jnp.int32))


class WindowPlan(eqx.Module):
    """How the tokens of a block come into windows and back, who attends to whom, and which bias a pair has.

    The three last fields may each be absent: tokens are in windows already, all attend, no bias.
    """

    num_tokens: int = eqx.field(static=True)
    window_size: int = eqx.field(static=True)
    into: Permutation | None = None
    back: Permutation | None = None
    """usually the reverse of `into`"""
    symmetric: bool = eqx.field(static=True, default=True)
    """whether it is"""
    labels: Int[Array, " token"] | None = None
    """in the order of the windows: two tokens attend to each other if their labels agree"""
    bias_index: Int[Array, "pattern query key"] | None = None
    """rows of the bias table, by query and key"""
    pattern: Int[Array, " window"] | None = None
    """which of the patterns a window has; None where there is one for all"""

    def in_order(self) -> "WindowPlan":
        """The plan for tokens that are in the order of the windows."""
        return WindowPlan(
            self.num_tokens, self.window_size, labels=self.labels, bias_index=self.bias_index, pattern=self.pattern
        )

    def part(self, place: Int[Array, ""], windows: int) -> "WindowPlan":
        """The plan for tokens in the order of the windows, of some consecutive windows.

        Args:
            place: `place * windows` is the first of them.
            windows: how many.
        """

        def cut(each: Array | None, size: int) -> Array | None:
            return None if each is None else jax.lax.dynamic_slice_in_dim(each, place * size, size)

        size = windows * self.window_size
        labels, pattern = cut(self.labels, size), cut(self.pattern, windows)
        return WindowPlan(size, self.window_size, labels=labels, bias_index=self.bias_index, pattern=pattern)


def plan_windows(
    num_tokens: int,
    window_size: int,
    *,
    source: ArrayLike | None = None,
    target: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    bias_index: Int[np.ndarray, "window query key"] | Int[np.ndarray, "query key"] | None = None,
) -> WindowPlan:
    """A plan from plain arrays.

    Args:
        num_tokens: tokens of one example.
        window_size: tokens of one window.
        source: `windowed[i] = tokens[source[i]]`; None leaves them in order.
        target: `tokens[i] = windowed[target[i]]`; None undoes `source`.
        labels: of the windowed tokens; masks where they differ inside a window.
        bias_index: rows of the bias table, one for all windows or one per window.

    Raises:
        ConfigError: windows do not divide the tokens, or a list is no permutation.
    """
    if window_size < 1 or num_tokens % window_size:
        raise ConfigError(f"{num_tokens} tokens cannot be cut into windows of {window_size}")
    into = None if source is None else plan_permutation(source)
    back = (into and into.reversed()) if target is None else plan_permutation(target)
    order = np.arange(num_tokens) if source is None else np.asarray(source)
    symmetric = target is None or bool(np.array_equal(order[np.asarray(target)], np.arange(num_tokens)))
    if labels is not None:
        windows = np.asarray(labels).reshape(-1, window_size)
        # A window whose labels all agree is not masked, and often none is.
        labels = None if (windows == windows[:, :1]).all() else jnp.asarray(labels, jnp.int32)
    index, pattern = None, None
    if bias_index is not None:
        patterns, numbers = np.unique(bias_index.reshape(-1, window_size, window_size), axis=0, return_inverse=True)
        index = jnp.asarray(patterns, jnp.int32)
        pattern = jnp.asarray(numbers.reshape(-1), jnp.int32) if len(patterns) > 1 else None
    return WindowPlan(num_tokens, window_size, into, back, symmetric, labels, index, pattern)
