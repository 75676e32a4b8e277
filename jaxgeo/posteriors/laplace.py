r"""Laplace's approximation: the Gaussian whose precision is the curvature of the log joint at its maximum.

Around a maximum $\theta^*$ of the log joint, $q = N(\theta^*, \Lambda^{-1})$ with

$$\Lambda = \sum_n J_n^T H_n J_n + S^{-2}, \qquad
J_n = \frac{\partial f(x_n)}{\partial \theta}, \quad
H_n = -\frac{\partial^2 \log p(y_n \mid f)}{\partial f^2},$$

the generalised Gauss-Newton matrix plus the prior's precision, $S$ being its standard deviations. $H_n$ is
$diag(p) - p p^T$ for categorical and $I / \sigma^2$ for Gaussian likelihoods, and is differentiated here, so that any
log-likelihood that is concave in the predictions is served. With a network linear in its weights and Gaussian noise
the log joint is a quadratic and `full_laplace` the posterior itself.

Forms of $\Lambda$: here all of it, for the weights of some modules (usually the last layer; memory is the square of
their number), or its diagonal; in `jaxgeo.posteriors.kronecker` a Kronecker product for each affine layer. All are kept
as factors of $S \Lambda S$, whose eigenvalues are at least 1; the prior is added exactly, whatever its scales.

Draws are parameters of the network itself, not of its linearisation at the mode: where the Gaussian is wide, draws of
all layers leave the region in which the network is nearly linear and predict worse than the mode (Immer et al.); those
of the last layer alone do not, the predictions being linear in them. `jaxgeo.posteriors.linearised` predicts with the
linearised network, from draws or in closed form.

References:
    MacKay, "A Practical Bayesian Framework for Backpropagation Networks", Neural Computation 4 (1992).
    Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local linearization", arXiv:2008.08400.
    Daxberger et al., "Laplace Redux - Effortless Bayesian Deep Learning", arXiv:2106.14806.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import path_names
from jaxgeo.posteriors.base import Posterior
from jaxgeo.posteriors.curvature import derivatives, sum_over_examples
from jaxgeo.posteriors.log_joint import LogJoint


class DiagonalState(NamedTuple):
    """Independent Gaussians, one for each weight."""

    mode: Any
    scale: Any  # a tree of standard deviations


class FullState(NamedTuple):
    """One Gaussian of the weights that vary."""

    mode: Any
    cholesky: Float[Array, "weight weight"]  # of S Lambda S, lower
    prior_scale: Float[Array, " weight"]  # the diagonal of S


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
        InputError: what `LogJoint.check_data` refuses.
    """
    log_joint.check_data(mode, inputs, targets)
    varies = varying(mode, modules)
    join = _joiner(varies)

    def init(key: PRNGKeyArray) -> FullState:
        del key
        theta, unravel = ravel_pytree(_chosen(mode, varies))
        scale = ravel_pytree(_full_scales(log_joint, mode, varies))[0]

        def curvature(x: Array, y: Array) -> Array:
            jacobian, hessian = derivatives(log_joint, lambda t: join(mode, unravel(t)), theta, x, y)
            return jacobian.T @ hessian @ jacobian

        precision = sum_over_examples(curvature, inputs, targets) * scale[:, None] * scale[None]
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
        InputError: what `LogJoint.check_data` refuses.
    """
    log_joint.check_data(mode, inputs, targets)

    def init(key: PRNGKeyArray) -> DiagonalState:
        del key
        theta, unravel = ravel_pytree(mode)

        def curvature(x: Array, y: Array) -> Array:
            jacobian, hessian = derivatives(log_joint, unravel, theta, x, y)
            return jnp.sum(jacobian * (hessian @ jacobian), axis=0)

        diagonal = unravel(sum_over_examples(curvature, inputs, targets))
        scale = jax.tree.map(lambda h, s: s / jnp.sqrt(1.0 + s**2 * h), diagonal, log_joint.prior.scales(mode))
        return DiagonalState(mode, scale)

    def sample(key: PRNGKeyArray, state: DiagonalState) -> Any:
        mean, unravel = ravel_pytree(state.mode)
        return unravel(mean + ravel_pytree(state.scale)[0] * jax.random.normal(key, mean.shape, mean.dtype))

    def log_prob(state: DiagonalState, params: Any) -> Float[Array, ""]:
        w, mean, scale = (ravel_pytree(tree)[0] for tree in (params, state.mode, state.scale))
        return jnp.sum(jax.scipy.stats.norm.logpdf(w, mean, scale))

    return Posterior(init, sample, log_prob)


def varying(params: Any, modules: tuple[str, ...] | None) -> list[bool]:
    """Whether each leaf varies: is below one of the modules; all leaves for None.

    Raises:
        ConfigError: a name that occurs nowhere in the tree, or no name.
    """
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
