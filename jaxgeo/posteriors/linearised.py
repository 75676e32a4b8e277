r"""Predictions of a network that is linearised around a mode: the generalised linear model of a Laplace approximation.

A Gaussian around $\theta^*$ that comes from the Gauss-Newton matrix is the posterior of the model
$f(x, \theta^*) + J(x) (\theta - \theta^*)$, not of the network; to predict with that model is what it is good for
(Immer et al.). Its predictions are Gaussian before the link, with mean $f(x, \theta^*)$ and covariance
$J(x) \Lambda^{-1} J(x)^T$.

Two ways: `linearise` makes a network function that takes every draw of any posterior, and goes wherever a network
function goes; `output_gaussian` has the mean and the covariance in closed form, from which `sample_outputs` draws
logits and `probit_log_probs` has probabilities of classes without drawing.

References:
    MacKay, "The Evidence Framework Applied to Classification Networks", Neural Computation 4 (1992), equation (11).
    Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local linearization", arXiv:2008.08400.
    Daxberger et al., "Laplace Redux - Effortless Bayesian Deep Learning", arXiv:2106.14806.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.affine_layers import trace_layers
from jaxgeo.posteriors.base import Apply
from jaxgeo.posteriors.kronecker import KroneckerState, eigenvalues, joined
from jaxgeo.posteriors.laplace import DiagonalState, FullState, varying


class OutputGaussian(NamedTuple):
    """Gaussian predictions before the link, each example by itself; noise of a likelihood is not in it."""

    mean: Float[Array, "example output"]
    covariance: Float[Array, "example output output"]


def linearise(apply: Apply, mode: Any) -> Apply:
    """The network's tangent at a mode, `linear(params, inputs)`: affine in the parameters, and equal at the mode."""

    def linear(params: Any, inputs: Any) -> Array:
        change = jax.tree.map(jnp.subtract, params, mode)
        value, slope = jax.jvp(lambda theta: apply(theta, inputs), (mode,), (change,))
        return value + slope

    return linear


def output_gaussian(
    apply: Apply,
    state: DiagonalState | FullState | KroneckerState,
    inputs: Any,
    modules: tuple[str, ...] | None = None,
    batch_size: int = 64,
) -> OutputGaussian:
    """Mean and covariance of the linearised predictions of a Laplace approximation.

    Args:
        apply: the network.
        state: of `full_laplace`, `last_layer_laplace`, `diagonal_laplace` or `kronecker_laplace`.
        inputs: example axis first.
        modules: those that were given to `full_laplace`; `("output",)` for `last_layer_laplace`.
        batch_size: examples at once; each takes outputs times weights numbers.

    Raises:
        ConfigError: `modules` for a state of another kind, or not those of the state.
    """
    if modules is not None and not isinstance(state, FullState):
        raise ConfigError(f"modules say what varies in a FullState, got {list(modules)} for a {type(state).__name__}")
    varies = tuple(varying(state.mode, modules))
    if isinstance(state, FullState):
        size = sum(leaf.size for leaf, v in zip(jax.tree.leaves(state.mode), varies, strict=True) if v)
        if size != state.prior_scale.size:
            raise ConfigError(
                f"{size} weights vary in modules {modules and list(modules)}, but the state has a Gaussian of "
                f"{state.prior_scale.size}; give the modules that full_laplace was given"
            )
    return _output_gaussian(state, inputs, apply, varies, batch_size)


# A program of its own, so that further inputs of the same shape, and states of other data, are not compiled again.
@functools.partial(jax.jit, static_argnames=("apply", "varies", "batch_size"))
def _output_gaussian(
    state: DiagonalState | FullState | KroneckerState,
    inputs: Any,
    apply: Apply,
    varies: tuple[bool, ...],
    batch_size: int,
) -> OutputGaussian:
    leaves, treedef = jax.tree.flatten(state.mode)
    network = trace_layers(apply, state.mode, _first(inputs)) if isinstance(state, KroneckerState) else None

    def roots(jacobian: list[Array]) -> Float[Array, "output noise"]:
        """A square root of the covariance, from the Jacobian (output, *leaf) of each leaf."""
        flat = [j.reshape(j.shape[0], -1) for j in jacobian]
        if isinstance(state, DiagonalState):
            scale = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.scale)])
            return jnp.concatenate(flat, axis=1) * scale[None]
        if isinstance(state, FullState):
            chosen = jnp.concatenate([j for j, v in zip(flat, varies, strict=True) if v], axis=1)
            scaled = chosen * state.prior_scale[None]
            return jax.scipy.linalg.solve_triangular(state.cholesky, scaled.T, lower=True).T
        assert network is not None
        parts = []
        for layer, factor in zip(network.layers, state.layers, strict=True):
            stacked = jax.vmap(lambda *j, layer=layer: joined(layer, list(j)))(*jacobian)
            scaled = stacked * factor.prior_scale[None, :, None]
            white = jnp.einsum("ia,cio,ob->cab", factor.input_vectors, scaled, factor.output_vectors)
            parts.append((white / jnp.sqrt(eigenvalues(factor))[None]).reshape(white.shape[0], -1))
        scales = treedef.flatten_up_to(state.others)
        parts += [j * scale.reshape(1, -1) for j, scale in zip(flat, scales, strict=True) if scale is not None]
        return jnp.concatenate(parts, axis=1)

    def of_example(x: Any) -> OutputGaussian:
        def predict(leaves: list[Array]) -> Array:
            return apply(treedef.unflatten(leaves), jax.tree.map(lambda leaf: leaf[None], x)).reshape(-1)

        root = roots(jax.jacrev(predict)(leaves))
        return OutputGaussian(predict(leaves), root @ root.T)

    return jax.lax.map(of_example, inputs, batch_size=batch_size)


def _first(inputs: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], inputs)


def sample_outputs(key: PRNGKeyArray, gaussian: OutputGaussian, num: int) -> Float[Array, "draw example output"]:
    """Draws of the predictions, each example by itself: enough for whatever is a mean over examples."""
    values, vectors = jnp.linalg.eigh(gaussian.covariance)
    # Of rank below the number of outputs where few weights vary; what is below zero is rounding.
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :]
    noise = jax.random.normal(key, (num, *gaussian.mean.shape), gaussian.mean.dtype)
    return gaussian.mean[None] + jnp.einsum("eij,dej->dei", root, noise)


def probit_log_probs(gaussian: OutputGaussian) -> Float[Array, "example output"]:
    r"""MacKay's approximation to the log-probabilities of a softmax of Gaussian logits.

    $softmax(m_c / \sqrt{1 + \pi v_c / 8})$ with the variances $v_c$ on the covariance's diagonal; correlations are
    neglected, which `sample_outputs` does not.
    """
    variance = jnp.diagonal(gaussian.covariance, axis1=-2, axis2=-1)
    return jax.nn.log_softmax(gaussian.mean / jnp.sqrt(1.0 + (math.pi / 8) * variance))
