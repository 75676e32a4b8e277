r"""Chebyshev convolution on the graph of neighbouring HEALPix pixels, and pooling on the NESTED hierarchy.

Polynomials of the graph's Laplacian act alike in all directions, so that a layer is equivariant under the grid's own
symmetries exactly; under other rotations approximately, the better the smoother the signal is on the scale of the
pixels.

References:
    Defferrard, Bresson, Vandergheynst, "Convolutional Neural Networks on Graphs with Fast Localized Spectral
    Filtering", arXiv:1606.09375 (Chebyshev filters).
    Perraudin, Defferrard, Kacprzak, Sgier, "DeepSphere: Efficient spherical convolutional neural network with HEALPix
    sampling for cosmological applications", arXiv:1810.12186 (graph, weights).
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh

from jaxgeo.errors import ConfigError, InputError, check_one_of
from jaxgeo.grids.healpix import Order, check_order, pixel_vectors
from jaxgeo.grids.neighbours import neighbours
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, einsum, rounded, table_dtype

Pooling = Literal["max", "mean"]

_MARGIN = 1.01  # on the largest eigenvalue, which is found to a percent


class HealpixGraph(eqx.Module):
    """The Laplacian of the pixels' graph, rescaled to [-1, 1]; build it with `plan_healpix_graph`."""

    neighbours: Int[Array, "8 pixel"]
    weights: Float[Array, "8 pixel"]  # 0 where there is no neighbour
    diagonal: Float[Array, " pixel"]  # of the rescaled Laplacian
    scale: Float[Array, ""]  # rescaled off-diagonal elements are -scale * weights
    nside: int = eqx.field(static=True)
    order: Order = eqx.field(static=True)


def plan_healpix_graph(nside: int, *, order: Order = "nested", dtype: DTypeLike = jnp.float32) -> HealpixGraph:
    r"""The graph that joins each pixel with its (up to eight) neighbours.

    Weights $w_{ij} = e^{-|x_i - x_j|^2 / 2 \sigma^2}$ with chords between centres and $\sigma^2$ the mean of their
    squares over all edges; Laplacian $L = D - W$, rescaled to $2 L / \lambda_{max} - 1$.

    Raises:
        ConfigError: an impossible nside, order or dtype.
    """
    precision = table_dtype(dtype)
    check_order(order)
    others, weights = edge_weights(nside, order)
    degree = weights.sum(1)
    rows = np.repeat(np.arange(len(degree)), 8)
    adjacency = csr_array((weights.ravel(), (rows, others.ravel())), shape=(len(degree), len(degree)))
    start = np.random.default_rng(0).standard_normal(len(degree))
    laplacian = csr_array((degree, (np.arange(len(degree)),) * 2), shape=adjacency.shape) - adjacency
    tolerance: Any = 1e-3  # SciPy's stubs want an integer
    eigenvalues = eigsh(laplacian, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    largest = _MARGIN * eigenvalues[0]
    return HealpixGraph(
        neighbours=rounded(others.T, np.int32),
        weights=rounded(weights.T, precision),
        diagonal=rounded(2 * degree / largest - 1, precision),
        scale=rounded(np.asarray(2 / largest), precision),
        nside=nside,
        order=order,
    )


def edge_weights(nside: int, order: Order) -> tuple[Int[np.ndarray, "pixel 8"], Float[np.ndarray, "pixel 8"]]:
    """Neighbours of each pixel and the weights of the edges to them, in float64.

    Where there is no neighbour stands the pixel itself, with weight 0.
    """
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        pixels = jnp.arange(12 * nside**2)
        others = np.asarray(neighbours(nside, pixels, order))
        centres = np.asarray(pixel_vectors(nside, pixels, order))
    present = others >= 0
    others = np.where(present, others, np.arange(len(others))[:, None])
    squares = ((centres[:, None] - centres[others]) ** 2).sum(-1)
    return others, np.where(present, np.exp(-squares / (2 * squares[present].mean())), 0.0)


def rescaled_laplacian(
    plan: HealpixGraph, x: Float[Array, "*batch pixel channel"]
) -> Float[Array, "*batch pixel channel"]:
    """The rescaled Laplacian times a map; its derivative's transpose is itself, without a scatter.

    Raises:
        InputError: not a map of the plan's nside and dtype.
    """
    check_dtype("the map", x, plan.weights.dtype)
    if x.ndim < 2 or x.shape[-2] != 12 * plan.nside**2:
        raise InputError(
            f"the graph of nside {plan.nside} has {12 * plan.nside**2} pixels, got a map of shape {x.shape}"
        )
    return linear_map(_multiply, _multiply, plan, x)


def _multiply(plan: HealpixGraph, x: Array) -> Array:
    lead = (None,) * (x.ndim - 2)
    weights = plan.scale * plan.weights
    out = plan.diagonal[(*lead, slice(None), None)] * x
    for direction in range(8):
        moved = x.at[..., plan.neighbours[direction], :].get(mode="promise_in_bounds")
        out = out - weights[(*lead, direction, slice(None), None)] * moved
    return out


class ChebyshevConv(nn.Module):
    r"""$y = \sum_{k<K} T_k(\tilde L) x W_k + b$ on a graph of HEALPix pixels.

    Parameters: `kernel` (terms, in, out), normal with variance 2 / (in (terms + 1/2)) as published, and `bias` (out,).
    """

    features: int
    terms: int = 5
    """K: a pixel sees neighbours up to K - 1 steps away"""
    use_bias: bool = True

    @nn.compact
    def __call__(self, plan: HealpixGraph, x: Float[Array, "*batch pixel in"]) -> Float[Array, "*batch pixel out"]:
        """Features of each pixel.

        Raises:
            ConfigError: less than one term.
            InputError: not a map of the plan's nside and dtype.
        """
        if self.terms < 1:
            raise ConfigError(f"a polynomial has at least one term, got terms = {self.terms}")
        scale = np.sqrt(2 / (x.shape[-1] * (self.terms + 0.5)))
        shape = (self.terms, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(scale), shape, jnp.float32).astype(x.dtype)
        previous, current, y = x, x, einsum("...pi,io->...po", x, kernel[0])
        for term in range(1, self.terms):
            following = rescaled_laplacian(plan, current)
            if term > 1:
                following = 2 * following - previous
            previous, current = current, following
            y = y + einsum("...pi,io->...po", current, kernel[term])
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)
            y = y + bias[(None,) * (y.ndim - 1)]
        return y


def pool(x: Float[Array, "*batch pixel channel"], kind: str = "max") -> Float[Array, "*batch coarse channel"]:
    """NESTED maps at half the nside: the largest value or the mean of the four children.

    Raises:
        ConfigError: `kind` is neither "max" nor "mean".
        InputError: the pixels are not four times a number of coarse ones.
    """
    check_one_of("what pools pixels", kind, Pooling)
    if x.shape[-2] % 4:
        raise InputError(f"{x.shape[-2]} pixels are no children of coarser ones, which have four each")
    children = x.reshape(*x.shape[:-2], x.shape[-2] // 4, 4, x.shape[-1])
    if kind == "mean":
        return children.mean(-2)
    # By pairs: the derivative of max() asks which child equals the maximum, and where the compiler makes children anew
    # with another rounding none does, and it is 0 / 0.
    first, second, third, fourth = (children[..., k, :] for k in range(4))
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def unpool(x: Float[Array, "*batch pixel channel"]) -> Float[Array, "*batch fine channel"]:
    """NESTED maps at twice the nside: each child has its parent's value."""
    return jnp.repeat(x, 4, axis=-2)
