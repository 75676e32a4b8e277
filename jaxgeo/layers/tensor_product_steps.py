"""Steps of fully connected tensor products: channels multiplied or mixed, with derivatives of the same few operations.

Axes are b (batch), i, j, k (components of the first input, the second and the output), u, v, w (their channels).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Multiplications in whose time a CPU begins and ends the matrix products that a path has for itself.
OWN_PRODUCTS = 2**19
# Weights of a path, at most, for its product to be one with that of other paths.
MOST_JOINED = 65536
# Products of two channels, at most, that paths have together where theirs are one: they then stay in a core's cache.
MOST_PRODUCTS = 2**17
# And paths: XLA writes longer concatenations by a pass of their own.
MOST_PATHS = 8


class Product(NamedTuple):
    """A path whose weights meet the product of both inputs: places of its irreps, and its constants and weights."""

    in1: int
    in2: int
    out: int
    coupling: Float[Array, "i j k"]
    weight: Float[Array, "u v w"]

    @property
    def shared(self) -> tuple[int, int]:
        """What paths have in common that can be one product: output, and channels of the second input."""
        return self.out, self.weight.shape[1]


# GPUs round the factors of a product in any but the highest precision, which breaks equivariance.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def mixed_products(
    paths: Sequence[Product], left: Sequence[Float[Array, "b _ _"]], right: Sequence[Float[Array, "b _ _"]]
) -> Iterator[tuple[int, Float[Array, "b k w"]]]:
    """Terms of the outputs, each with the place of its output.

    Args:
        paths: what is multiplied and mixed.
        left: irreps of the first input, (b, u, i).
        right: irreps of the second input, (b, v, j).
    """
    # Gradients turn the weights around where the second input is coupled, which takes long for large ones.
    sides = [int(p.coupling.shape[0] < p.coupling.shape[1] and p.weight.size <= MOST_JOINED) for p in paths]
    plain, coupled = _turned(paths, sides, (left, right))
    for members in _groups(paths, left[0].shape[0]):
        pairs = [
            (plain[0][paths[n].in1], coupled[n]) if sides[n] else (coupled[n], plain[1][paths[n].in2]) for n in members
        ]
        weights = tuple(paths[n].weight for n in members)
        yield paths[members[0]].out, products_first(*zip(*pairs, strict=True), weights)


def _groups(paths: Sequence[Product], batch: int) -> list[list[int]]:
    """Places of the paths that share a product: of one output, with equally many channels of the second input."""
    groups: list[list[int]] = []
    shared, room = None, 0
    # Paths of large weights come last among those that could share, and stay alone.
    for n in sorted(range(len(paths)), key=lambda n: (*paths[n].shared, paths[n].weight.size)):
        path = paths[n]
        taken = batch * path.coupling.shape[2] * path.weight.shape[0] * path.weight.shape[1]
        alone = taken > room or path.weight.size > MOST_JOINED
        if alone or path.shared != shared or len(groups[-1]) == MOST_PATHS:
            groups.append([])
            shared, room = path.shared, MOST_PRODUCTS
        groups[-1].append(n)
        room -= taken
    return groups


def _turned(
    paths: Sequence[Product], sides: Sequence[int], inputs: tuple[Sequence[Array], Sequence[Array]]
) -> tuple[list[list[Array]], list[Array]]:
    """Both inputs' irreps as they are, (i, 1, b, u), and for each path the one on its side coupled, (j, k, b, u)."""
    places = [(p.in1, p.in2)[side] for p, side in zip(paths, sides, strict=True)]
    tables = [[[jnp.asarray(np.eye(x.shape[2], dtype=x.dtype)[:, None])] for x in side] for side in inputs]
    for path, side, place in zip(paths, sides, places, strict=True):
        # (j, k, i) or (i, k, j): last what is summed over.
        tables[side][place].append(jnp.transpose(path.coupling, ((1, 2, 0), (0, 2, 1))[side]))
    turned = [[_turn(x, t) for x, t in zip(*both, strict=True)] for both in zip(inputs, tables, strict=True)]
    plain = [[next(parts) for parts in side] for side in turned]
    return plain, [next(turned[side][place]) for side, place in zip(sides, places, strict=True)]


def _turn(x: Array, tables: list[Array]) -> Iterator[Array]:
    """(b, u, i) by tables (j, k, i), all in one product: (j, k, b, u) each.

    An identity among them is no waste: a transposition would be fused into every sum that reads it, whose innermost
    loop then strides through memory.
    """
    table = jnp.concatenate([t.reshape(math.prod(t.shape[:2]), t.shape[2]) for t in tables])
    turned = einsum("ri,bui->rbu", table, x)
    cuts = itertools.accumulate(math.prod(t.shape[:2]) for t in tables[:-1])
    parts = zip(tables, jnp.split(turned, list(cuts)), strict=True)
    return (part.reshape(*t.shape[:2], *part.shape[1:]) for t, part in parts)


@jax.custom_jvp
def products_first(first: tuple[Array, ...], second: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    """Both inputs multiplied channel by channel, for all paths one matrix product with the weights; (b, k, w).

    Args:
        first: per path the first input, (j, k, b, u); where the second one is coupled, k has length 1.
        second: per path the second input, (j, k, b, v); where the first one is coupled, k has length 1.
        weights: per path (u, v, w).
    """
    return _weigh(_pairs(first, second), weights)


@products_first.defjvp
def _products_first_jvp(values: tuple, tangents: tuple) -> tuple[Array, Array]:
    (first, second, weights), (first_dot, second_dot, weights_dot) = values, tangents
    products = _pairs(first, second)
    # The transpose then is a product of the small cotangent with the large `products`, which takes less than half the
    # time of the product the other way round; not so for weights so large that to transpose them takes longer.
    if weights[0].size <= MOST_JOINED:
        by_output = jnp.concatenate([jnp.moveaxis(w, 2, 0).reshape(w.shape[2], -1) for w in weights_dot], axis=1)
        change = einsum("bkp,wp->bkw", products, by_output)
    else:
        change = _weigh(products, weights_dot)
    # Path by path: to split the joined products' cotangent would be one more pass through the largest array.
    for x, y, weight in zip(
        zip(first, first_dot, strict=True), zip(second, second_dot, strict=True), weights, strict=True
    ):
        second_coupled = x[0].shape[1] < y[0].shape[1]
        (coupled, coupled_dot), (plain, plain_dot) = (y, x) if second_coupled else (x, y)
        pairs = matmul(_rows(coupled_dot), jnp.swapaxes(plain[:, 0], 0, 1))
        pairs += matmul(_rows(coupled), jnp.swapaxes(plain_dot[:, 0], 0, 1))
        w = jnp.swapaxes(weight, 0, 1) if second_coupled else weight
        change += _weigh(pairs.reshape(*products.shape[:2], math.prod(w.shape[:2])), (w,))
    return _weigh(products, weights), change


def _rows(coupled: Array) -> Array:
    """(j, k, b, u) as (b, (k u), j)."""
    j, k, b, u = coupled.shape
    return jnp.transpose(coupled, (2, 1, 3, 0)).reshape(b, k * u, j)


def _weigh(products: Array, weights: tuple[Array, ...]) -> Array:
    """(b, k, p) times the weights of all paths, one below the other."""
    b, k, p = products.shape
    joined = jnp.concatenate([w.reshape(-1, w.shape[2]) for w in weights])
    return matmul(products.reshape(b * k, p), joined).reshape(b, k, joined.shape[1])


def _pairs(first: tuple[Array, ...], second: tuple[Array, ...]) -> Array:
    """Products of all channels of all paths, (b, k, p) with p = (path, u, v)."""
    pairs = list(zip(first, second, strict=True))
    if len(pairs) == 1:
        # Pieces of a concatenation are written with v innermost. A single one would be written as the matrix that it
        # is for the product, by a loop over (u v) that XLA does not vectorise on CPUs: many times slower.
        ((x, y),) = pairs
        pairs = [(part, y) for part in jnp.split(x, [x.shape[3] // 2], axis=3) if part.shape[3]]
    products = jnp.concatenate([_pair(x, y) for x, y in pairs], axis=2)
    b, k, u, v = products.shape
    return products.reshape(b, k, u * v)


def _pair(first: Array, second: Array) -> Array:
    """sum_j first[j, k, b, u] second[j, k, b, v] as (b, k, u, v).

    Sums over a few broadcast products compile to one pass that writes nothing but the result, which batched matrix
    products of so small an inner size are several times slower at.
    """
    first, second = jnp.swapaxes(first, 1, 2)[..., None], jnp.swapaxes(second, 1, 2)[..., None, :]
    return functools.reduce(jnp.add, [x * y for x, y in zip(first, second, strict=True)])


def single_first(turned: Array, x: Array, weight: Array) -> Array:
    """The weights meet one input, then the other, coupled one; (b, k, w).

    Args:
        turned: the other input coupled, (b, k, i, v).
        x: the input that the weights meet, (b, u, i).
        weight: (u, v, w).
    """
    b, k, i, v = turned.shape
    u, _, w = weight.shape
    mixed = matmul(jnp.swapaxes(x, 1, 2).reshape(b * i, u), weight.reshape(u, v * w))
    return matmul(turned.reshape(b, k, i * v), mixed.reshape(b, i * v, w))
