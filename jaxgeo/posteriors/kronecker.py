r"""Laplace's approximation with a Kronecker-factored curvature for each affine layer, convolutions included.

For a layer that multiplies rows $a_{nr}$ of an example n at places r (pixels, tokens; a dense layer of vectors has one
place), with $\tilde a$ = (a, 1) where it has a bias, and the Jacobian $g_{nr}$ of the predictions in its output there,
the generalised Gauss-Newton matrix is $\sum_n J_n^T H_n J_n$ with $J_n = \sum_r \tilde a_{nr} \otimes g_{nr}$. It is
replaced by $A \otimes G$ plus the prior. Two ways to part the sums (Eschenhagen et al.), R being the number of places:

$$\text{expand}: \quad A = \sum_{nr} \tilde a_{nr} \tilde a_{nr}^T, \quad
G = \frac{1}{N R} \sum_{nr} g_{nr}^T H_n g_{nr};$$

$$\text{reduce}: \quad A = \sum_n \bar a_n \bar a_n^T, \quad
G = \frac1N \sum_n \bar g_n^T H_n \bar g_n, \qquad
\bar a_n = \tfrac1R \sum_r \tilde a_{nr}, \quad \bar g_n = \sum_r g_{nr}.$$

Both are the layer's own block of that matrix where there is one place and $g_n^T H_n g_n$ is the same for all n: for
linear regression, and for any network of one example. With several places `expand` is so where each has predictions of
its own (a linear convolution onto labels of pixels), `reduce` where predictions are means over the places (a linear
convolution and a mean). Blocks between layers are left out.

References:
    Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored ...", arXiv:1503.05671.
    Grosse and Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", arXiv:1602.01407.
    Ritter, Botev and Barber, "A Scalable Laplace Approximation for Neural Networks", ICLR 2018.
    Eschenhagen et al., "Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures",
    arXiv:2311.00636, sections 3.1 and 3.2.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import check_one_of
from jaxgeo.posteriors.affine_layers import AffineLayer, check_layers, layer_rows, trace_layers, zero_offsets
from jaxgeo.posteriors.base import Posterior
from jaxgeo.posteriors.curvature import output_curvature, sum_over_examples
from jaxgeo.posteriors.log_joint import LogJoint

Sharing = Literal["expand", "reduce"]


class KroneckerFactor(NamedTuple):
    """The Gaussian of one affine layer: S Lambda S = (U_a diag(a) U_a^T) x (U_g diag(g) U_g^T) + 1."""

    input_values: Float[Array, " in"]
    input_vectors: Float[Array, "in in"]
    output_values: Float[Array, " out"]
    output_vectors: Float[Array, "out out"]
    prior_scale: Float[Array, " in"]  # the last is the bias's, where there is one


class KroneckerState(NamedTuple):
    """One Gaussian for each affine layer, the other weights independent.

    `others` is the tree with the standard deviations of the weights outside of the layers, and with None in the
    places of the layers' own.
    """

    mode: Any
    layers: tuple[KroneckerFactor, ...]  # in the order of the kernels in the tree
    others: Any


def kronecker_laplace(
    log_joint: LogJoint, mode: Any, inputs: Any, targets: Any, sharing: Sharing = "expand"
) -> Posterior:
    """A Kronecker-factored precision for each affine layer; all other leaves get the diagonal.

    A layer is a leaf `kernel` that multiplies rows or patches, however often, in the function itself, and the `bias`
    beside it, if there is one: `nn.Dense`, `nn.DenseGeneral`, `nn.Conv` and their like.

    Args:
        log_joint: network, prior and likelihood.
        mode: a parameter tree that maximises the log joint (`LogJoint.objective` finds it).
        inputs: all training inputs, example axis first.
        targets: one for each.
        sharing: how the places at which a layer meets an example share their curvature.

    Returns:
        `init` ignores its key.

    Raises:
        ConfigError: no kernel multiplies anything, or one is used otherwise (convolved in groups of channels, in a
            loop, normalised first), or its bias is not simply added; unknown `sharing`.
        InputError: what `LogJoint.check_data` refuses.
    """
    log_joint.check_data(mode, inputs, targets)
    check_one_of("sharing", sharing, Sharing)
    network = trace_layers(log_joint.apply, mode, jax.tree.map(lambda leaf: leaf[0], inputs))
    check_layers(network, log_joint.apply, mode, inputs)
    layers, treedef = network.layers, jax.tree.structure(mode)
    in_layers = {i for layer in layers for i in (layer.kernel, layer.bias) if i is not None}
    others = [i for i in range(treedef.num_leaves) if i not in in_layers]
    prior_scales = jax.tree.leaves(log_joint.prior.scales(mode))

    def init(key: PRNGKeyArray) -> KroneckerState:
        del key
        leaves = jax.tree.leaves(mode)

        def curvature(x: Any, y: Array) -> tuple[list[tuple[Array, Array]], list[Array]]:
            def predict(offsets: list[Array], rest: list[Array]) -> tuple[Array, tuple[Array, list[Array]]]:
                whole = list(leaves)
                for i, leaf in zip(others, rest, strict=True):
                    whole[i] = leaf
                predictions, rows = network.run(whole, offsets, x)
                return predictions.reshape(-1), (predictions, rows)

            here = zero_offsets(network, leaves[0].dtype), [leaves[i] for i in others]
            (by_offset, by_other), (predictions, rows) = jax.jacrev(predict, (0, 1), has_aux=True)(*here)
            hessian = output_curvature(log_joint.likelihood, predictions, y)
            factors = [
                _factors(layer, a, g, hessian, sharing)
                for layer, (a, g) in zip(layers, layer_rows(network, rows, by_offset), strict=True)
            ]
            return factors, [jnp.einsum("c...,cd,d...->...", j, hessian, j) for j in by_other]

        factors, diagonals = sum_over_examples(curvature, inputs, targets)
        states = tuple(
            _eigen(layer, a, g / targets.shape[0], prior_scales) for layer, (a, g) in zip(layers, factors, strict=True)
        )
        scales: list[Array | None] = [None] * treedef.num_leaves
        for i, diagonal in zip(others, diagonals, strict=True):
            scales[i] = prior_scales[i] / jnp.sqrt(1.0 + prior_scales[i] ** 2 * diagonal)
        return KroneckerState(mode, states, treedef.unflatten(scales))

    def sample(key: PRNGKeyArray, state: KroneckerState) -> Any:
        leaves, scales = jax.tree.leaves(state.mode), treedef.flatten_up_to(state.others)
        keys = jax.random.split(key, len(leaves))
        for layer, factor in zip(layers, state.layers, strict=True):
            shape = factor.input_values.shape + factor.output_values.shape
            noise = jax.random.normal(keys[layer.kernel], shape, leaves[layer.kernel].dtype)
            noise = noise / jnp.sqrt(eigenvalues(factor))
            noise = factor.prior_scale[:, None] * (factor.input_vectors @ noise @ factor.output_vectors.T)
            for i, part in ((layer.kernel, noise[: layer.width]), (layer.bias, noise[layer.width :])):
                if i is not None:
                    leaves[i] = leaves[i] + part.reshape(leaves[i].shape)
        for i in others:
            leaves[i] = leaves[i] + scales[i] * jax.random.normal(keys[i], scales[i].shape, scales[i].dtype)
        return treedef.unflatten(leaves)

    def log_prob(state: KroneckerState, params: Any) -> Float[Array, ""]:
        leaves, centres = treedef.flatten_up_to(params), treedef.flatten_up_to(state.mode)
        scales = treedef.flatten_up_to(state.others)
        terms = [jnp.sum(jax.scipy.stats.norm.logpdf(leaves[i], centres[i], scales[i])) for i in others]
        differences = [leaf - centre for leaf, centre in zip(leaves, centres, strict=True)]
        for layer, factor in zip(layers, state.layers, strict=True):
            stacked = joined(layer, differences)
            white = factor.input_vectors.T @ (stacked / factor.prior_scale[:, None]) @ factor.output_vectors
            values = eigenvalues(factor)
            log_det = 0.5 * jnp.sum(jnp.log(values)) - values.shape[1] * jnp.sum(jnp.log(factor.prior_scale))
            terms.append(log_det - 0.5 * jnp.sum(values * white**2) - 0.5 * values.size * math.log(2 * math.pi))
        return jnp.sum(jnp.stack(terms))

    return Posterior(init, sample, log_prob)


def eigenvalues(factor: KroneckerFactor) -> Float[Array, "in out"]:
    """Of S Lambda S."""
    return 1.0 + factor.input_values[:, None] * factor.output_values[None]


def joined(layer: AffineLayer, leaves: list[Array]) -> Float[Array, "in out"]:
    """A layer's kernel as a matrix, and its bias, if it has one, as the last row."""
    kernel = leaves[layer.kernel].reshape(layer.width, -1)
    return kernel if layer.bias is None else jnp.concatenate([kernel, leaves[layer.bias].reshape(1, -1)])


def _factors(
    layer: AffineLayer,
    a: Float[Array, "row in"],
    g: Float[Array, "output row out"],
    hessian: Float[Array, "output output"],
    sharing: Sharing,
) -> tuple[Array, Array]:
    if layer.bias is not None:
        a = jnp.concatenate([a, jnp.ones((a.shape[0], 1), a.dtype)], axis=1)
    if sharing == "reduce":
        a, g = jnp.mean(a, axis=0, keepdims=True), jnp.sum(g, axis=1, keepdims=True)
    return a.T @ a, jnp.einsum("cro,cd,drp->op", g, hessian, g) / a.shape[0]


def _eigen(layer: AffineLayer, a: Array, g: Array, prior_scales: list[float]) -> KroneckerFactor:
    scale = jnp.full(layer.width, prior_scales[layer.kernel], a.dtype)
    if layer.bias is not None:
        scale = jnp.concatenate([scale, jnp.full(1, prior_scales[layer.bias], a.dtype)])
    input_values, input_vectors = jnp.linalg.eigh(a * scale[:, None] * scale[None])
    output_values, output_vectors = jnp.linalg.eigh(g)
    # Sums of squares: what is below zero is rounding.
    return KroneckerFactor(
        jnp.maximum(input_values, 0.0), input_vectors, jnp.maximum(output_values, 0.0), output_vectors, scale
    )
