r"""Sums of products as hls4ml's dense and convolution kernels accumulate them, in the fastest way that keeps all bits.

The C++ assigns each product to the accumulator's type (which cuts bits below its step and treats overflow) and adds it
to the accumulator (which treats overflow again), one by one, the bias first. Three ways lead to the same bits:

- `dot`: nothing is cut, and nothing overflows or overflow wraps, so the order does not matter: one matrix product of
  floats whose sums stay within their significand.
- `high`: an accumulator of at most 16 bits that cuts `s` bits and wraps. With the weight split into
  $w = w_h 2^s + w_l$, $-2^{s-1} \le w_l < 2^{s-1}$, it adds $\lfloor x w 2^{-s} \rfloor = x w_h + \lfloor x (w_l
  2^{16-s}) 2^{-16} \rfloor$: the second term is the upper half of a product of 16-bit words, one instruction of a
  vector unit.
- `loop`: product by product in the order of the C++, in the narrowest integers that hold the result.

Arrays are (input, position) and (output, position), positions last and contiguous: one weight meets many numbers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.emulation.words import (
    Format,
    Wide,
    Words,
    as_carrier,
    assign,
    carrier,
    convert,
    limit,
    multiply,
    places,
    positive,
    round_away,
    wrap,
)

_WRAP = 0  # position in OVERFLOWS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one layer multiplies; all of it static."""

    way: Literal["dot", "high", "loop"]
    rows: tuple[int, ...]  # inputs whose weights are not all zero, in the order of the additions
    kind: Any  # carrier of the accumulator
    product_kind: Any  # carrier of a product (loop), or the dtype of the floats (dot)
    products_overflow: bool
    overflows: bool  # some partial sum may
    high_rows: tuple[int, ...] = ()  # positions in `rows` whose weights have an upper part (high)


def signed_bits(low: int, high: int) -> int:
    """Bits of a signed word that holds everything from low to high."""
    return 1 + max(high.bit_length() if high > 0 else 0, (-low - 1).bit_length() if low < 0 else 0)


def format_bits(format: Any) -> int:
    """Bits of a signed word that holds every word of a `FixedPoint`."""
    return format.width + (not format.signed)


def order_of_additions(fan_in: int, reuse_factor: int) -> np.ndarray:
    """Inputs in the order in which a Resource kernel adds their products; a reuse factor of 1 is the natural order."""
    return np.arange(fan_in).reshape(-1, reuse_factor).T.ravel()


def plan_product(
    kernels: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    *,
    intervals: Sequence[tuple[int, int]],
    fractions: Sequence[tuple[int, int, int]],
    accums: Sequence[Any],
    reuse_factor: int,
) -> Recipe:
    """The recipe that is right for all members of an ensemble.

    Args:
        kernels: words `(input, output)` of each member, int64.
        biases: words `(output,)` of each member.
        intervals: smallest and largest word of the input, for each member.
        fractions: bits after the point of input, weight and bias, for each member.
        accums: accumulator types (`FixedPoint`) of the members.
        reuse_factor: of a Resource kernel, else 1.
    """
    used = np.any([(kernel != 0).any(1) for kernel in kernels], axis=0)
    order = order_of_additions(len(used), reuse_factor)
    rows = tuple(int(row) for row in order if used[row])
    facts = [_facts(*member) for member in zip(kernels, biases, intervals, fractions, accums, strict=True)]
    same = all(member == (fractions[0], accums[0]) for member in zip(fractions, accums, strict=True))
    accum = accums[0]
    cut = fractions[0][0] + fractions[0][1] - accum.fraction
    overflows = any(fact.bound > fact.room for fact in facts)
    products_overflow = any(fact.product > fact.room for fact in facts)
    bound = max(fact.bound for fact in facts)
    accum_bits = max(format_bits(each) for each in accums)
    wraps = all(each.overflow == "WRAP" for each in accums)
    free = same and (wraps or not overflows)  # the order of additions does not matter
    bits = min(accum_bits, signed_bits(-bound, bound)) if not overflows else accum_bits + (not wraps or not same)
    total = max(fact.total for fact in facts)
    if free and cut <= 0 and total < 2**53:
        return Recipe("dot", rows, carrier(bits), jnp.float32 if total < 2**24 else jnp.float64, False, overflows)
    x_bits = max(signed_bits(*interval) for interval in intervals)
    if free and 0 < cut < 16 and accum.rounding == "TRN" and max(bits, x_bits) <= 16:
        high = np.any([(split_weights(k[list(rows)], cut)[0] != 0).any(1) for k in kernels], axis=0)
        uppers = tuple(int(row) for row in np.flatnonzero(high))
        return Recipe("high", rows, jnp.int16, jnp.int16, False, overflows, uppers)
    product_bits = max(fact.product_bits for fact in facts)
    if free and overflows and accum.rounding in ("TRN", "RND"):
        # Modulo 2^(cut + width) is enough: what lies above reaches no bit of the accumulator.
        product_bits = min(product_bits, max(cut, 0) + accum.width)
    if not same:
        bits = product_bits = max(bits, product_bits)
    return Recipe("loop", rows, carrier(bits), carrier(product_bits), products_overflow, overflows)


def accumulator_bound(
    kernel: np.ndarray, bias: np.ndarray, interval: tuple[int, int], fraction: tuple[int, int, int], accum: Any
) -> int | None:
    """Largest magnitude of any partial sum in steps of the accumulator, or None where it may overflow."""
    facts = _facts(kernel, bias, interval, fraction, accum)
    return None if facts.bound > facts.room else facts.bound


@dataclasses.dataclass(frozen=True)
class _Facts:
    product_bits: int
    total: int  # bound of every partial sum of products alone, in steps of the product
    product: int  # bound of a product in steps of the accumulator
    bound: int  # bound of every partial sum, likewise
    room: int  # magnitude that the accumulator holds on both sides


def _facts(kernel: np.ndarray, bias: np.ndarray, interval: tuple[int, int], fraction: Any, accum: Any) -> _Facts:
    reach = max(abs(interval[0]), abs(interval[1]))
    weights = np.abs(kernel).astype(object)
    largest = int(weights.max(initial=0)) * reach
    sums = [int(value) * reach for value in weights.sum(0)]
    cut = fraction[0] + fraction[1] - accum.fraction
    # Each product and the bias may be rounded by a step away from zero.
    scaled = [_in_steps(value, cut) + (len(kernel) if cut > 0 else 0) for value in sums]
    offsets = [_in_steps(abs(int(value)), fraction[2] - accum.fraction) + 1 for value in bias]
    return _Facts(
        product_bits=signed_bits(-largest, largest),
        total=max(sums, default=0),
        product=_in_steps(largest, cut) + 1,
        bound=max((a + b for a, b in zip(scaled, offsets, strict=True)), default=0),
        # A sum that may be negative has no room in an unsigned accumulator.
        room=min(accum.max_word, -accum.min_word) if accum.signed else -1,
    )


def _in_steps(value: int, cut: int) -> int:
    return -(-value >> cut) if cut >= 0 else value << -cut


def split_weights(kernel: Any, cut: int) -> tuple[Any, Any]:
    """`(upper, lower)` with `kernel = upper * 2**cut + lower` and lower words of `cut` bits, signed."""
    upper = (kernel + (1 << (cut - 1))) >> cut
    return upper, kernel - (upper << cut)


def accumulate(
    recipe: Recipe,
    row: Callable[[Any], Any],
    matrix: Callable[[], Any],
    kernel: Any,
    bias: Any,
    *,
    shape: tuple[int, ...],
    fractions: tuple[Any, Any, Any],
    accum: Format,
) -> Words:
    """Words of the accumulator, (output, *shape), in the carrier `recipe.kind`.

    Args:
        recipe: from `plan_product`.
        row: gives the words of the k-th of `recipe.rows` at all positions, `(*shape)`; k may be traced.
        matrix: gives them all, `(row, *shape)`; asked for where the way is `dot`.
        kernel: words (row, output) of the rows of the recipe, int64.
        bias: words (output,), int64.
        shape: of the positions.
        fractions: bits after the point of input, weight and bias.
        accum: type of the accumulator.
    """
    start = as_carrier(bias, Wide if recipe.kind is Wide else jnp.int64)
    start = as_carrier(assign(start, fractions[2], accum, fits=not recipe.overflows), recipe.kind)
    if isinstance(start, Wide):
        start = Wide(_spread(start.high, shape), _spread(start.low, shape))
    else:
        start = _spread(start, shape)
    if not recipe.rows:  # all weights are zero
        return start
    cut = fractions[0] + fractions[1] - accum.fraction
    if recipe.way == "loop":
        return _loop(recipe, row, kernel, start, cut, accum)
    if recipe.way == "dot":
        words = _dot(recipe, matrix, kernel, shape)
        total = start + (words << places(-cut, words))
    else:
        total = _high(recipe, row, kernel, start, cut)
    return wrap(total, accum.width, accum.signed) if recipe.overflows else total


def _spread(values: Any, shape: tuple[int, ...]) -> Any:
    return jnp.broadcast_to(values.reshape(-1, *(1 for _ in shape)), (*values.shape, *shape))


def _dot(recipe: Recipe, matrix: Callable[[], Any], kernel: Any, shape: tuple[int, ...]) -> Words:
    floats = recipe.product_kind
    flat = matrix().astype(floats).reshape(len(recipe.rows), -1)
    sums = jnp.matmul(kernel.astype(floats).T, flat, precision="highest").reshape(-1, *shape)
    integers = jnp.int32 if floats == jnp.float32 else jnp.int64
    return as_carrier(sums.astype(integers), recipe.kind)


def _column(weights: Any, k: Any, shape: tuple[int, ...]) -> Any:
    return weights[k].reshape(-1, *(1 for _ in shape))


def _each(count: int, add: Callable[[Any, Any], Any], start: Any, unroll: int = 8) -> Any:
    """`add(k, total)` for k from 0 on, a few at a time: so many products enter a sum each time that memory gives it."""

    def several(i: Any, total: Any) -> Any:
        for k in range(unroll):
            total = add(i * unroll + k, total)
        return total

    total = jax.lax.fori_loop(0, count // unroll, several, start)
    for k in range(count - count % unroll, count):
        total = add(k, total)
    return total


def _high(recipe: Recipe, row: Callable[[Any], Any], kernel: Any, start: Any, cut: int) -> Any:
    upper, lower = split_weights(kernel, cut)
    lower = (lower << (16 - cut)).astype(jnp.int16)
    shape = start.shape[1:]

    def add(k: Any, total: Any) -> Any:
        x = row(k).astype(jnp.int32)[None]
        return total + ((x * _column(lower, k, shape).astype(jnp.int32)) >> 16).astype(jnp.int16)

    total = _each(len(recipe.rows), add, start)
    if recipe.high_rows:
        positions = jnp.asarray(recipe.high_rows)
        upper = upper.astype(jnp.int16)

        def add_upper(k: Any, total: Any) -> Any:
            place = positions[k]
            return total + row(place).astype(jnp.int16)[None] * _column(upper, place, shape)

        total = _each(len(recipe.high_rows), add_upper, total)
    return total


def _loop(recipe: Recipe, row: Callable[[Any], Any], kernel: Any, start: Words, cut: Any, accum: Format) -> Words:
    shape = start.shape[1:]
    wide = recipe.product_kind is Wide
    weights = kernel if wide else kernel.astype(recipe.product_kind)
    checked = recipe.overflows and (accum.traced or accum.overflow != _WRAP)

    def add(k: Any, total: Words) -> Words:
        x, w = row(k)[None], _column(weights, k, shape)
        product = multiply(x, w) if wide else x.astype(recipe.product_kind) * w
        if checked and recipe.products_overflow:
            product = convert(_wider(product, recipe), accum.fraction + cut, accum)
        else:
            product = as_carrier(round_away(product, positive(cut), accum.rounding), recipe.kind)
            product = product << places(positive(-cut), product)
        total = total + as_carrier(product, recipe.kind)
        return limit(total, 0, accum) if checked else total

    total = jax.lax.fori_loop(0, len(recipe.rows), add, start)
    return wrap(total, accum.width, accum.signed) if recipe.overflows and not checked else total


def _wider(product: Words, recipe: Recipe) -> Words:
    """Limits need a carrier that holds the words of the accumulator as well."""
    sizes = {jnp.int16: 16, jnp.int32: 32, jnp.int64: 64, Wide: 128}
    return as_carrier(product, max(recipe.kind, recipe.product_kind, key=sizes.__getitem__))
