"""Steps of fully connected tensor products: channels multiplied or mixed, with derivatives of the same few operations.

Axes are b (batch), i, j, k (components of the first input, the second and the output), u, v, w (their channels).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Weights of a path, at most, for its product to be one with that of other paths.
MOST_JOINED = 65536

# GPUs round the factors of a product in any but the highest precision, which breaks equivariance.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def components(x: Array) -> Array:
    """(b, u, i) as (i, b, u), by a product with the identity: a transposition would be fused into every sum that reads
    it, whose innermost loop then strides through memory."""
    return einsum("ij,buj->ibu", jnp.eye(x.shape[2], dtype=x.dtype), x)


@jax.custom_jvp
def products_first(turned: tuple[Array, ...], right: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    """Both inputs multiplied channel by channel, for all paths one matrix product with the weights; (b, k, w).

    Args:
        turned: per path the first input coupled, (j, k, b, u).
        right: per path the second input, (j, b, v).
        weights: per path (u, v, w).
    """
    return _weigh(_pairs(turned, right), weights)


@products_first.defjvp
def _products_first_jvp(values: tuple, tangents: tuple) -> tuple[Array, Array]:
    (turned, right, weights), (turned_dot, right_dot, weights_dot) = values, tangents
    products = _pairs(turned, right)
    # The transpose then is a product of the small cotangent with the large `products`, which takes less than half the
    # time of the product the other way round; not so for weights so large that to transpose them takes longer.
    if weights[0].size <= MOST_JOINED:
        by_output = jnp.concatenate([jnp.moveaxis(w, 2, 0).reshape(w.shape[2], -1) for w in weights_dot], axis=1)
        change = einsum("bkp,wp->bkw", products, by_output)
    else:
        change = _weigh(products, weights_dot)
    # Path by path: to split the joined products' cotangent would be one more pass through the largest array.
    for t, y, w, t_dot, y_dot in zip(turned, right, weights, turned_dot, right_dot, strict=True):
        pairs = matmul(_rows(t_dot), jnp.swapaxes(y, 0, 1)) + matmul(_rows(t), jnp.swapaxes(y_dot, 0, 1))
        change += _weigh(pairs.reshape(*products.shape[:2], math.prod(w.shape[:2])), (w,))
    return _weigh(products, weights), change


def _rows(turned: Array) -> Array:
    """(j, k, b, u) as (b, (k u), j)."""
    j, k, b, u = turned.shape
    return jnp.transpose(turned, (2, 1, 3, 0)).reshape(b, k * u, j)


def _weigh(products: Array, weights: tuple[Array, ...]) -> Array:
    """(b, k, p) times the weights of all paths, one below the other."""
    b, k, p = products.shape
    joined = jnp.concatenate([w.reshape(-1, w.shape[2]) for w in weights])
    return matmul(products.reshape(b * k, p), joined).reshape(b, k, joined.shape[1])


def _pairs(turned: tuple[Array, ...], right: tuple[Array, ...]) -> Array:
    """Products of all channels of all paths, (b, k, p) with p = (path, u, v)."""
    pairs = list(zip(turned, right, strict=True))
    if len(pairs) == 1:
        # Pieces of a concatenation are written with v innermost. A single one would be written as the matrix that it
        # is for the product, by a loop over (u v) that XLA does not vectorise on CPUs: many times slower.
        ((t, y),) = pairs
        pairs = [(part, y) for part in jnp.split(t, [t.shape[3] // 2], axis=3) if part.shape[3]]
    products = jnp.concatenate([_pair(t, y) for t, y in pairs], axis=2)
    b, k, u, v = products.shape
    return products.reshape(b, k, u * v)


def _pair(turned: Array, y: Array) -> Array:
    """sum_j turned[j, k, b, u] y[j, b, v] as (b, k, u, v).

    Sums over a few broadcast products compile to one pass that writes nothing but the result, which batched matrix
    products of so small an inner size are several times slower at.
    """
    terms = [jnp.swapaxes(t, 0, 1)[..., None] * c[:, None, None] for t, c in zip(turned, y, strict=True)]
    return functools.reduce(jnp.add, terms)


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
