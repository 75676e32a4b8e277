r"""Laplace's approximation: the Gaussian whose precision is the curvature of the log joint at its maximum.

Around a maximum $\theta^*$ of the log joint, $q = N(\theta^*, \Lambda^{-1})$ with

$$\Lambda = \sum_n J_n^T H_n J_n + S^{-2}, \qquad
J_n = \frac{\partial f(x_n)}{\partial \theta}, \quad
H_n = -\frac{\partial^2 \log p(y_n \mid f)}{\partial f^2},$$

the generalised Gauss-Newton matrix plus the prior's precision, $S$ being its standard deviations. $H_n$ is
$diag(p) - p p^T$ for categorical and $I / \sigma^2$ for Gaussian likelihoods, and is differentiated here, so that any
log-likelihood that is concave in the predictions is served. With a network linear in its weights and Gaussian noise
the log joint is a quadratic and `full_laplace` the posterior itself.

Three forms of $\Lambda$: all of it, for the weights of some modules (usually the last layer; memory is the square of
their number); its diagonal; or, for each affine layer by itself, $A \otimes G$ plus the prior, where with
$\tilde a$ = (input, 1) and the Jacobian $g_n$ with respect to the layer's output

$$A = \sum_n \tilde a_n \tilde a_n^T, \qquad G = \frac1N \sum_n g_n^T H_n g_n .$$

The last is right where $g_n^T H_n g_n$ is the same for all n, so for linear regression. All are kept as factors of
$S \Lambda S$, whose eigenvalues are at least 1; the prior is added exactly, whatever its scales.

Draws are parameters of the network itself, not of its linearisation at the mode: where the Gaussian is wide, draws of
all layers leave the region in which the network is nearly linear and predict worse than the mode (Immer et al.); those
of the last layer alone do not, the predictions being linear in them.

References:
    MacKay, "A Practical Bayesian Framework for Backpropagation Networks", Neural Computation 4 (1992).
    Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored ...", arXiv:1503.05671.
    Ritter, Botev and Barber, "A Scalable Laplace Approximation for Neural Networks", ICLR 2018.
    Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local linearization", arXiv:2008.08400.
    Daxberger et al., "Laplace Redux - Effortless Bayesian Deep Learning", arXiv:2106.14806.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.dropout import path_names
from jaxgeo.posteriors.base import Posterior
from jaxgeo.posteriors.log_joint import LogJoint

_RANK_ONE = 1e-3
"""Largest relative difference between a layer's Jacobian and an outer product, well above float32 rounding."""


class DiagonalState(NamedTuple):
    """Independent Gaussians, one for each weight."""

    mode: Any
    scale: Any  # a tree of standard deviations


class FullState(NamedTuple):
    """One Gaussian of the weights that vary."""

    mode: Any
    cholesky: Float[Array, "weight weight"]  # of S Lambda S, lower
    prior_scale: Float[Array, " weight"]  # the diagonal of S


class KroneckerFactor(NamedTuple):
    """The Gaussian of one affine layer: S Lambda S = (U_a diag(a) U_a^T) x (U_g diag(g) U_g^T) + 1."""

    input_values: Float[Array, " in"]
    input_vectors: Float[Array, "in in"]
    output_values: Float[Array, " out"]
    output_vectors: Float[Array, "out out"]
    prior_scale: Float[Array, " in"]  # the last is the bias's


class KroneckerState(NamedTuple):
    """One Gaussian for each affine layer, the other weights independent."""

    mode: Any
    layers: tuple[KroneckerFactor, ...]  # in the order of the kernels in the tree
    scales: tuple[Array, ...]  # standard deviations of all other leaves, in the order of the tree


def full_laplace(
    log_joint: LogJoint, mode: Any, inputs: Any, targets: Any, modules: tuple[str, ...] | None = None
) -> Posterior:
    """The whole precision matrix of the weights of some modules, the other weights staying at the mode.

    Args:
        log_joint: network, prior and likelihood.
        mode: a parameter tree that maximises the log joint (`LogJoint.objective` finds it).
        inputs: all training inputs, example axis first.
        targets: one for each.
        modules: names on the path to the weights that vary, for example `("output",)`; None lets all vary.

    Returns:
        `init` ignores its key. `log_prob` is the density of the weights that vary, and minus infinity for a tree whose
        other weights are not those of the mode.

    Raises:
        ConfigError: a name in `modules` occurs nowhere in the tree.
        InputError: no examples, or inputs and targets of different numbers.
    """
    _check_examples(inputs, targets)
    varies = _varying(mode, modules)
    join = _joiner(varies)

    def init(key: PRNGKeyArray) -> FullState:
        del key
        varying = _chosen(mode, varies)
        theta, unravel = ravel_pytree(varying)
        scale = ravel_pytree(_full_scales(log_joint, mode, varies))[0]

        def curvature(x: Array, y: Array) -> Array:
            jacobian, hessian = _derivatives(log_joint, lambda t: join(mode, unravel(t)), theta, x, y)
            return jacobian.T @ hessian @ jacobian

        precision = _sum_over_examples(curvature, inputs, targets) * scale[:, None] * scale[None]
        return FullState(mode, jnp.linalg.cholesky(precision + jnp.eye(theta.size, dtype=theta.dtype)), scale)

    def sample(key: PRNGKeyArray, state: FullState) -> Any:
        theta, unravel = ravel_pytree(_chosen(state.mode, varies))
        noise = jax.random.normal(key, theta.shape, theta.dtype)
        noise = jax.scipy.linalg.solve_triangular(state.cholesky, noise, lower=True, trans="T")
        return join(state.mode, unravel(theta + state.prior_scale * noise))

    def log_prob(state: FullState, params: Any) -> Float[Array, ""]:
        difference = ravel_pytree(_chosen(params, varies))[0] - ravel_pytree(_chosen(state.mode, varies))[0]
        white = state.cholesky.T @ (difference / state.prior_scale)
        log_det = jnp.sum(jnp.log(jnp.diagonal(state.cholesky))) - jnp.sum(jnp.log(state.prior_scale))
        density = log_det - 0.5 * jnp.sum(white**2) - 0.5 * white.size * math.log(2 * math.pi)
        fixed = zip(jax.tree.leaves(params), jax.tree.leaves(state.mode), varies, strict=True)
        agree = [jnp.all(one == other) for one, other, is_varying in fixed if not is_varying]
        return jnp.where(jnp.all(jnp.stack(agree)), density, -jnp.inf) if agree else density

    return Posterior(init, sample, log_prob)


def last_layer_laplace(log_joint: LogJoint, mode: Any, inputs: Any, targets: Any, module: str = "output") -> Posterior:
    """`full_laplace` of one module, the last layer, whose predictions are linear in its weights."""
    return full_laplace(log_joint, mode, inputs, targets, (module,))


def diagonal_laplace(log_joint: LogJoint, mode: Any, inputs: Any, targets: Any) -> Posterior:
    """The diagonal of the precision alone: independent weights. Arguments as for `full_laplace`.

    Raises:
        InputError: no examples, or inputs and targets of different numbers.
    """
    _check_examples(inputs, targets)

    def init(key: PRNGKeyArray) -> DiagonalState:
        del key
        theta, unravel = ravel_pytree(mode)

        def curvature(x: Array, y: Array) -> Array:
            jacobian, hessian = _derivatives(log_joint, unravel, theta, x, y)
            return jnp.sum(jacobian * (hessian @ jacobian), axis=0)

        diagonal = unravel(_sum_over_examples(curvature, inputs, targets))
        scale = jax.tree.map(lambda h, s: s / jnp.sqrt(1.0 + s**2 * h), diagonal, log_joint.prior.scales(mode))
        return DiagonalState(mode, scale)

    def sample(key: PRNGKeyArray, state: DiagonalState) -> Any:
        mean, unravel = ravel_pytree(state.mode)
        return unravel(mean + ravel_pytree(state.scale)[0] * jax.random.normal(key, mean.shape, mean.dtype))

    def log_prob(state: DiagonalState, params: Any) -> Float[Array, ""]:
        w, mean, scale = (ravel_pytree(tree)[0] for tree in (params, state.mode, state.scale))
        return jnp.sum(jax.scipy.stats.norm.logpdf(w, mean, scale))

    return Posterior(init, sample, log_prob)


def kronecker_laplace(log_joint: LogJoint, mode: Any, inputs: Any, targets: Any) -> Posterior:
    r"""A Kronecker-factored precision for each affine layer. Arguments as for `full_laplace`.

    A layer is a module with a `kernel` (in, out) and a `bias` (out,) that meets each example once; all other leaves
    get the diagonal. The layer's input is not observed but follows from the Jacobians,
    $\partial f / \partial W = a g^T$ and $\partial f / \partial b = g$; an example of which no output depends on the
    layer adds nothing to either factor.

    Raises:
        ConfigError: a kernel of two axes without a bias, no such layer, or a layer that meets an example more than once
            (at every pixel, say), whose Jacobian is no outer product.
        InputError: no examples, or inputs and targets of different numbers.
    """
    _check_examples(inputs, targets)
    layers = _affine_layers(mode)
    in_layers = {index for pair in layers for index in pair}
    others = [index for index in range(len(jax.tree.leaves(mode))) if index not in in_layers]
    treedef = jax.tree.structure(mode)
    prior_scales = jax.tree.leaves(log_joint.prior.scales(mode))

    def derivatives(x: Array, y: Array) -> tuple[list[Array], Array]:
        theta, unravel = ravel_pytree(mode)
        jacobian, hessian = _derivatives(log_joint, unravel, theta, x, y)
        return treedef.flatten_up_to(jax.vmap(unravel)(jacobian)), hessian

    _check_met_once(derivatives, mode, layers, inputs, targets)

    def init(key: PRNGKeyArray) -> KroneckerState:
        del key

        def curvature(x: Array, y: Array) -> tuple[list[tuple[Array, Array]], list[Array]]:
            jacobian, hessian = derivatives(x, y)
            factors = []
            for kernel, bias in layers:
                a, reached = _layer_input(jacobian[kernel], jacobian[bias])
                a = jnp.concatenate([a, jnp.where(reached, 1.0, 0.0)[None].astype(a.dtype)])
                factors.append((jnp.outer(a, a), jacobian[bias].T @ hessian @ jacobian[bias]))
            diagonals = [jnp.einsum("c...,cd,d...->...", jacobian[index], hessian, jacobian[index]) for index in others]
            return factors, diagonals

        factors, diagonals = _sum_over_examples(curvature, inputs, targets)
        number = targets.shape[0]
        states = []
        for (kernel, bias), (a, g) in zip(layers, factors, strict=True):
            scale = jnp.concatenate(
                [jnp.full(a.shape[0] - 1, prior_scales[kernel]), jnp.full(1, prior_scales[bias])]
            ).astype(a.dtype)
            input_values, input_vectors = jnp.linalg.eigh(a * scale[:, None] * scale[None])
            output_values, output_vectors = jnp.linalg.eigh(g / number)
            # Sums of squares: what is below zero is rounding.
            input_values, output_values = jnp.maximum(input_values, 0.0), jnp.maximum(output_values, 0.0)
            states.append(KroneckerFactor(input_values, input_vectors, output_values, output_vectors, scale))
        scales = [
            prior_scales[index] / jnp.sqrt(1.0 + prior_scales[index] ** 2 * diagonal)
            for index, diagonal in zip(others, diagonals, strict=True)
        ]
        return KroneckerState(mode, tuple(states), tuple(scales))

    def sample(key: PRNGKeyArray, state: KroneckerState) -> Any:
        leaves = jax.tree.leaves(state.mode)
        keys = jax.random.split(key, len(leaves))
        for (kernel, bias), factor in zip(layers, state.layers, strict=True):
            shape = factor.input_values.shape + factor.output_values.shape
            noise = jax.random.normal(keys[kernel], shape, leaves[kernel].dtype) / jnp.sqrt(_eigenvalues(factor))
            noise = factor.prior_scale[:, None] * (factor.input_vectors @ noise @ factor.output_vectors.T)
            leaves[kernel], leaves[bias] = leaves[kernel] + noise[:-1], leaves[bias] + noise[-1]
        for index, scale in zip(others, state.scales, strict=True):
            noise = jax.random.normal(keys[index], scale.shape, scale.dtype)
            leaves[index] = leaves[index] + scale * noise
        return treedef.unflatten(leaves)

    def log_prob(state: KroneckerState, params: Any) -> Float[Array, ""]:
        leaves, centres = treedef.flatten_up_to(params), treedef.flatten_up_to(state.mode)
        terms = [
            jnp.sum(jax.scipy.stats.norm.logpdf(leaves[index], centres[index], scale))
            for index, scale in zip(others, state.scales, strict=True)
        ]
        for (kernel, bias), factor in zip(layers, state.layers, strict=True):
            difference = jnp.concatenate(
                [leaves[kernel] - centres[kernel], (leaves[bias] - centres[bias])[None]], axis=0
            )
            white = factor.input_vectors.T @ (difference / factor.prior_scale[:, None]) @ factor.output_vectors
            values = _eigenvalues(factor)
            log_det = 0.5 * jnp.sum(jnp.log(values)) - values.shape[1] * jnp.sum(jnp.log(factor.prior_scale))
            terms.append(log_det - 0.5 * jnp.sum(values * white**2) - 0.5 * values.size * math.log(2 * math.pi))
        return jnp.sum(jnp.stack(terms))

    return Posterior(init, sample, log_prob)


def _eigenvalues(factor: KroneckerFactor) -> Float[Array, "in out"]:
    return 1.0 + factor.input_values[:, None] * factor.output_values[None]


def _check_examples(inputs: Any, targets: Any) -> None:
    number = jnp.shape(targets)[0] if jnp.ndim(targets) else 0
    if not number or any(jnp.shape(leaf)[:1] != (number,) for leaf in jax.tree.leaves(inputs)):
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        raise InputError(
            f"a Laplace approximation needs at least one example, and as many targets as inputs along the first axis, "
            f"got inputs {shapes} and targets {jnp.shape(targets)}"
        )


def _derivatives(
    log_joint: LogJoint, to_params: Callable[[Array], Any], theta: Array, x: Any, y: Array
) -> tuple[Float[Array, "output weight"], Float[Array, "output output"]]:
    """Jacobian of one example's predictions, and minus the Hessian of its log-likelihood in them."""

    def predict(theta: Array) -> Array:
        return log_joint.apply(to_params(theta), jax.tree.map(lambda leaf: leaf[None], x))

    predictions = predict(theta)

    def negative_log_likelihood(flat: Array) -> Array:
        return -jnp.sum(log_joint.likelihood(flat.reshape(predictions.shape), y[None]))

    jacobian = jax.jacrev(lambda theta: predict(theta).reshape(-1))(theta)
    return jacobian, jax.hessian(negative_log_likelihood)(predictions.reshape(-1))


def _sum_over_examples(term: Callable[[Any, Array], Any], inputs: Any, targets: Array) -> Any:
    """One example after another: a Jacobian has as many entries as outputs times weights."""
    like = jax.eval_shape(term, jax.tree.map(lambda leaf: leaf[0], inputs), targets[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    @jax.jit
    def run(inputs: Any, targets: Array) -> Any:
        def add(total: Any, example: tuple[Any, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, term(*example)), None

        return jax.lax.scan(add, zeros, (inputs, targets))[0]

    return run(inputs, targets)


def _varying(params: Any, modules: tuple[str, ...] | None) -> list[bool]:
    paths = [path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if modules is None:
        return [True] * len(paths)
    seen = {name for names in paths for name in names}
    if not modules or not set(modules) <= seen:
        raise ConfigError(f"modules must name what varies, got {list(modules)}; the parameters have {sorted(seen)}")
    return [bool(set(names) & set(modules)) for names in paths]


def _chosen(params: Any, varies: list[bool]) -> list[Array]:
    return [leaf for leaf, is_varying in zip(jax.tree.leaves(params), varies, strict=True) if is_varying]


def _joiner(varies: list[bool]) -> Callable[[Any, list[Array]], Any]:
    def join(params: Any, varying: list[Array]) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        new = iter(varying)
        return treedef.unflatten([next(new) if v else leaf for leaf, v in zip(leaves, varies, strict=True)])

    return join


def _full_scales(log_joint: LogJoint, params: Any, varies: list[bool]) -> list[Array]:
    scales = jax.tree.map(lambda leaf, s: jnp.full(leaf.shape, s, leaf.dtype), params, log_joint.prior.scales(params))
    return _chosen(scales, varies)


def _affine_layers(params: Any) -> list[tuple[int, int]]:
    """Positions of kernel and bias among the leaves, for each module that has both."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    position = {path_names(path): index for index, (path, _) in enumerate(paths)}
    kernels = [path_names(path) for path, leaf in paths if path_names(path)[-1:] == ("kernel",) and leaf.ndim == 2]
    bare = ["/".join(names) for names in kernels if (*names[:-1], "bias") not in position]
    if bare or not kernels:
        raise ConfigError(
            f"Kronecker factors need affine layers, each a kernel (in, out) with a bias beside it, got "
            f"{f'no bias for {bare}' if bare else 'none of them'}; diagonal_laplace takes any tree"
        )
    return [(position[names], position[(*names[:-1], "bias")]) for names in kernels]


def _layer_input(by_kernel: Array, by_bias: Array) -> tuple[Array, Array]:
    """The input a of a layer from d f / d W = a g^T and d f / d b = g, and whether any output depends on the layer."""
    square = jnp.sum(by_bias**2)
    return jnp.einsum("cio,co->i", by_kernel, by_bias) / jnp.where(square > 0, square, 1.0), square > 0


def _check_met_once(
    derivatives: Callable[[Any, Array], tuple[list[Array], Array]],
    params: Any,
    layers: list[tuple[int, int]],
    inputs: Any,
    targets: Array,
) -> None:
    def misfit(x: Any, y: Array) -> list[tuple[Array, Array]]:
        jacobian, _ = derivatives(x, y)
        found = []
        for kernel, bias in layers:
            a, _ = _layer_input(jacobian[kernel], jacobian[bias])
            rest = jacobian[kernel] - a[None, :, None] * jacobian[bias][:, None, :]
            found.append((jnp.max(jnp.abs(rest)), jnp.max(jnp.abs(jacobian[kernel]))))
        return found

    few = slice(0, 4)  # one example may happen not to reach a layer
    found = jax.jit(jax.vmap(misfit))(jax.tree.map(lambda leaf: leaf[few], inputs), targets[few])
    names = [path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for (kernel, _), (rest, whole) in zip(layers, found, strict=True):
        if np.any(np.asarray(rest) > _RANK_ONE * np.asarray(whole)):
            raise ConfigError(
                f"{'/'.join(names[kernel])} meets an example more than once, and its curvature is no Kronecker product "
                f"of one input and one gradient; take diagonal_laplace, or last_layer_laplace of a layer behind it"
            )
