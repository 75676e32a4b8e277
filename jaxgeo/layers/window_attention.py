r"""Multi-head self-attention inside windows of consecutive tokens, with shifts, masks and relative position biases.

Windows are runs of consecutive tokens, see `jaxgeo.layers.window_plan`.

References:
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030.
    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv:2111.09883 (cosine attention).
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.token_layers import Dense, dropout
from jaxgeo.layers.window_plan import WindowPlan
from jaxgeo.modes import Mode

Attention = Literal["dot", "cosine"]
Chunk: TypeAlias = int | Literal["auto"] | None
"""Queries whose logits exist at a time, see `attend`."""

# The published clamp is the logarithm of 100 in float32, in networks of every precision.
MAX_LOG_SCALE = float(np.float32(math.log(100.0)))
PUBLISHED_MASK = -100.0
_CACHED = 1 << 19  # logits of one chunk, which fit into caches


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window.

    Parameters: `qkv` and `proj` (dense), `logit_scale` (head,) of cosine attention, and
    `relative_position_bias_table` (row, head) where the configuration has position biases. Softmax, norms and biases
    are at least in float32.
    """

    num_heads: int
    attention: Attention = "dot"
    bias_rows: int = 0
    """rows of the table of position biases; 0: none"""
    qkv_bias: bool = True
    qk_scale: float | None = None
    """of dot attention; None: 1 / sqrt(channels of a head)"""
    attention_dropout_rate: float = 0.0
    dropout_rate: float = 0.0
    mode: Mode = "correct"
    """`correct`: no bit of a token's result depends on the finite tokens masked for it; `faithful` adds -100 to the
    logits of masked pairs, as published, which large logits see through"""
    chunk: Chunk = "auto"
    dtype: Any = None
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, plan: WindowPlan, x: Float[Array, "*batch token channel"]
    ) -> Float[Array, "*batch token channel"]:
        """Attended tokens in the order of the windows, in which the input has to be.

        Raises:
            ConfigError: the heads do not divide the channels.
            InputError: another number of tokens than the plan's.
        """
        tokens, channels = x.shape[-2:]
        if tokens != plan.num_tokens:
            raise InputError(f"the plan is for {plan.num_tokens} tokens, got {tokens}")
        if channels % self.num_heads:
            raise ConfigError(f"{self.num_heads} heads cannot share {channels} channels equally")
        size, width = plan.window_size, channels // self.num_heads
        qkv = Dense(3 * channels, self.qkv_bias, self.dtype, name="qkv")(x)
        if self.attention == "cosine":
            log_scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), (self.num_heads,))
            scale = jnp.exp(jnp.where(log_scale <= MAX_LOG_SCALE, log_scale, MAX_LOG_SCALE))
        else:
            scale = jnp.full((self.num_heads,), self.qk_scale or width**-0.5)
        key = None if self.deterministic or not self.attention_dropout_rate else self.make_rng("dropout")
        mixed = attend(
            qkv.reshape(-1, size, 3, self.num_heads, width),
            scale,
            self._bias(plan),
            plan.pattern,
            None if plan.labels is None else plan.labels.reshape(-1, size),
            key,
            AttentionKind(self.attention == "cosine", self.mode, self.attention_dropout_rate),
            self.chunk,
        )
        mixed = Dense(channels, dtype=self.dtype, name="proj")(mixed.reshape(x.shape))
        if self.deterministic or not self.dropout_rate:
            return mixed
        return dropout(self.make_rng("dropout"), self.dropout_rate, mixed)

    def _bias(self, plan: WindowPlan) -> "PositionBias | None":
        if not self.bias_rows:
            return None
        table = self.param(
            "relative_position_bias_table", nn.initializers.zeros, (self.bias_rows, self.num_heads), jnp.float32
        )
        if plan.bias_index is None:  # published networks keep tables that they never look up
            return None
        return PositionBias(table, plan.bias_index)


class PositionBias(NamedTuple):
    """What is added to the logit of a pair of tokens: the number of its row in a table."""

    table: Float[Array, "row head"]
    rows: Int[Array, "pattern query key"]

    def of_queries(
        self, pattern: Int[Array, ""], first: Int[Array, ""], number: int
    ) -> Float[Array, "1 head query key"]:
        """The biases of some consecutive queries; those of all exist only where all are asked for."""
        start = (pattern.astype(jnp.int32), first.astype(jnp.int32), jnp.int32(0))
        return _looked_up(self.table, jax.lax.dynamic_slice(self.rows, start, (1, number, self.rows.shape[2])))


def _looked_up(
    table: Float[Array, "row head"], rows: Int[Array, "pattern query key"]
) -> Float[Array, "pattern head query key"]:
    return jnp.moveaxis(table[rows], -1, 1)


@dataclasses.dataclass(frozen=True)
class AttentionKind:
    """How logits are made and masked."""

    cosine: bool = False
    mode: Mode = "correct"
    dropout_rate: float = 0.0


def attend(
    qkv: Float[Array, "window token 3 head width"],
    scale: Float[Array, " head"],
    bias: PositionBias | None = None,
    pattern: Int[Array, " place"] | None = None,
    labels: Int[Array, "place token"] | None = None,
    key: PRNGKeyArray | None = None,
    kind: AttentionKind = AttentionKind(),
    chunk: Chunk = None,
) -> Float[Array, "window token head width"]:
    """softmax(scale q k^T + bias) v in each window and head, without pairs of unequal labels.

    In mode `correct` a masked pair has probability 0 exactly, whatever its logit: no bit of a query's result depends on
    the finite keys and values that it may not see. They must be finite, as 0 times infinity or NaN is NaN: to set them
    to 0 would hide a NaN from the queries that do see it, so gaps in the data have to be filled before.

    With a chunk, so many queries at a time, of a few windows or of a part of one. Then logits, biases and probabilities
    exist of one chunk only, and are made anew for derivatives: memory beside the plan's is linear in the tokens of a
    window, and what exists stays in a processor's cache, which on CPUs is faster in spite of the additional work.
    Accelerators would wait.

    Args:
        qkv: queries, keys and values; the windows of several examples one after the other.
        scale: of the logits.
        bias: added to the logits; of each pattern there is one for all pairs of a window.
        pattern: which bias a window of an example has; None: the first.
        labels: of the tokens of an example.
        key: of the dropout of probabilities; None: no dropout.
        kind: how logits are made and masked.
        chunk: queries at a time, at most (windows or queries are divided evenly), or None; `auto`: None but on CPUs.
    """
    windows, size, heads = qkv.shape[0], qkv.shape[1], qkv.shape[3]
    places = min((len(each) for each in (labels, pattern) if each is not None), default=windows)
    chunk = _queries(chunk, size, heads)
    together = _windows(chunk, places, size)
    steps, blocks = windows // together, 1 if chunk is None else size // _largest_divisor(size, chunk)

    whole = None if bias is None or blocks > 1 else _looked_up(*bias)

    def some_windows(each: tuple) -> Array:
        qkv, pattern, labels, key = each

        def own(block: Array) -> Array | None:
            if whole is not None:
                return whole[:1] if pattern is None else whole[pattern]
            if bias is None:
                return None
            rows = size // blocks  # of the only window: several blocks are parts of one
            return bias.of_queries(jnp.int32(0) if pattern is None else pattern[0], block * rows, rows)

        return _attend_blocks(qkv, scale, own, labels, key, kind, blocks)

    def by_step(x: Array) -> Array:
        return jnp.tile(x.reshape(-1, together, *x.shape[1:]), (steps * together // places, *(1,) * x.ndim))

    each = (
        qkv.reshape(steps, together, *qkv.shape[1:]),
        None if pattern is None else by_step(pattern),
        None if labels is None else by_step(labels),
        None if key is None else jax.random.split(key, steps),
    )
    if steps == 1:
        mixed = some_windows(jax.tree.map(lambda x: x[0], each))
    elif chunk is None:
        # One batch of examples: with a loop over them, accelerators would wait.
        mixed = jax.vmap(some_windows)(each)
    else:
        mixed = jax.lax.map(jax.checkpoint(some_windows, prevent_cse=False), each)
    return mixed.reshape(windows, size, *qkv.shape[3:])


def windows_at_a_time(chunk: Chunk, plan: WindowPlan, heads: int) -> int:
    """How many windows with at most `chunk` queries divide those of an example evenly; at least one."""
    return _windows(_queries(chunk, plan.window_size, heads), plan.num_tokens // plan.window_size, plan.window_size)


def _queries(chunk: Chunk, size: int, heads: int) -> int | None:
    if chunk != "auto":
        return chunk
    return max(_CACHED // (size * heads), 1) if jax.default_backend() == "cpu" else None


def _windows(chunk: int | None, places: int, size: int) -> int:
    return places if chunk is None else _largest_divisor(places, chunk // size)


def _attend_blocks(
    qkv: Float[Array, "window token 3 head width"],
    scale: Float[Array, " head"],
    bias: Callable[[Array], Array | None],
    labels: Int[Array, "window token"] | None,
    key: PRNGKeyArray | None,
    kind: AttentionKind,
    blocks: int,
) -> Float[Array, "window token head width"]:
    """Attention of windows, their queries in blocks, of which each has its biases."""
    q, k, v = jnp.transpose(qkv, (2, 0, 3, 1, 4))
    q = _scaled(_normalized(q) if kind.cosine else q, scale)
    k = _normalized(k) if kind.cosine else k
    if blocks == 1:
        return jnp.swapaxes(_attend_queries(q, k, v, bias(jnp.int32(0)), labels, labels, key, kind), 1, 2)

    def by_block(x: Array | None, axis: int) -> Array | None:
        if x is None:
            return None
        shape = (*x.shape[:axis], blocks, x.shape[axis] // blocks, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(each: tuple) -> Array:
        q, block, query_labels, key = each
        return _attend_queries(q, k, v, bias(block), query_labels, labels, key, kind)

    keys = None if key is None else jax.random.split(key, blocks)
    mixed = jax.lax.map(one, (by_block(q, 2), jnp.arange(blocks), by_block(labels, 1), keys))
    return jnp.transpose(mixed, (1, 0, 3, 2, 4)).reshape(*qkv.shape[:2], *qkv.shape[3:])


def _attend_queries(
    q: Float[Array, "window head query width"],
    k: Float[Array, "window head key width"],
    v: Float[Array, "window head key width"],
    bias: Float[Array, "_ head query key"] | None,
    query_labels: Int[Array, "window query"] | None,
    key_labels: Int[Array, "window key"] | None,
    key: PRNGKeyArray | None,
    kind: AttentionKind,
) -> Float[Array, "window head query width"]:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("whqd,whkd->whqk", q, k, preferred_element_type=wide)
    if bias is not None:
        logits = logits + bias.astype(wide)
    if query_labels is not None and key_labels is not None:
        logits = _masked(logits, query_labels[:, None, :, None], key_labels[:, None, None, :], kind)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # Divided after the product, where there are fewer numbers.
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if key is not None:
        weights = dropout(key, kind.dropout_rate, weights)
    mixed = jnp.einsum("whqk,whkd->whqd", weights.astype(v.dtype), v, preferred_element_type=wide)
    return (mixed / total).astype(v.dtype)


def _masked(
    logits: Float[Array, "window head query key"],
    query_labels: Int[Array, "window 1 query 1"],
    key_labels: Int[Array, "window 1 1 key"],
    kind: AttentionKind,
) -> Float[Array, "window head query key"]:
    wide = logits.dtype
    if kind.mode == "correct" and not kind.cosine:
        # Products of finite queries and keys may overflow to NaN, which only a choice hides.
        # Finite, so that no infinities are subtracted; a token attends to itself, so exp() of the rest is 0.
        return jnp.where(query_labels != key_labels, jnp.finfo(wide).min, logits)
    # Arithmetic instead of comparisons, which XLA's CPU products take into their own loop over the logits.
    halves = zip(_halves(query_labels, wide), _halves(key_labels, wide), strict=True)
    hidden = jnp.minimum(sum(jnp.abs(query - key) for query, key in halves), 1)
    if kind.mode == "faithful":
        return logits + PUBLISHED_MASK * hidden
    return jnp.minimum(logits, jnp.finfo(wide).max * (1 - 2 * hidden))


def _halves(labels: Int[Array, "*shape"], dtype: DTypeLike) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The upper and the lower bits of labels: floats of 32 bits tell both apart, but not all integers."""
    labels = labels.astype(jnp.int32)
    return (labels >> 16).astype(dtype), (labels & 0xFFFF).astype(dtype)


def _scaled(q: Float[Array, "window head query width"], scale: Float[Array, " head"]) -> Array:
    return (q * scale[None, :, None, None]).astype(q.dtype)


def _normalized(x: Float[Array, "*vector width"]) -> Float[Array, "*vector width"]:
    """Vectors by their lengths, but none by less than 1e-12; the derivative at zero is finite."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


def _largest_divisor(number: int, bound: int) -> int:
    return max(divisor for divisor in range(1, max(1, min(number, bound)) + 1) if number % divisor == 0)
