"""Laplace's approximation: the posterior itself where it is Gaussian, the Hessian where the network is linear."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from linear_gaussian import (
    JOINT,
    PRIOR,
    affine,
    assert_standard_normal,
    exact_posterior,
    gaussian_log_density,
    gaussian_posterior,
    regression,
    to_rows,
    to_tree,
    whitened,
)

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.base import sample_many
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, last_layer_laplace
from jaxgeo.posteriors.log_joint import GaussianLikelihood, LogJoint

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("build", "orthogonal"), [(full_laplace, False), (kronecker_laplace, False), (diagonal_laplace, True)]
)
def test_linear_regression_has_its_posterior(build, orthogonal):
    x, y = regression(orthogonal)
    mean, covariance = exact_posterior(x, y)
    posterior = build(JOINT, to_tree(mean), x, y)
    state = posterior.init(KEY)

    @jax.jit
    def draw(key, state):
        draws = sample_many(posterior, key, state, 4000)
        return draws, jax.vmap(posterior.log_prob, (None, 0))(state, draws)

    draws, log_probs = draw(jax.random.key(1), state)
    assert_standard_normal(whitened(draws, mean, covariance))
    expected = gaussian_log_density(to_rows(draws), mean, covariance)
    # float32: squares of up to 40 in coordinates that cancel by up to sqrt(940 / 27), the spread of the precisions
    np.testing.assert_allclose(log_probs, expected, atol=2e-3)


def test_the_curvature_of_a_linear_classifier_is_the_hessian_of_the_log_joint():
    x = jax.random.normal(jax.random.key(5), (10, 3))
    joint, labels, mode = LogJoint(affine, PRIOR), jnp.arange(10) % 2, to_tree(np.linspace(-1.0, 1.0, 8))
    theta, unravel = ravel_pytree(mode)
    expected = -np.asarray(jax.jit(jax.hessian(lambda t: joint.log_joint(unravel(t), x, labels)))(theta))
    full = full_laplace(joint, mode, x, labels).init(KEY)
    root = np.asarray(full.cholesky) / np.asarray(full.prior_scale)[:, None]
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-4)  # float32, entries up to 10
    diagonal = ravel_pytree(diagonal_laplace(joint, mode, x, labels).init(KEY).scale)[0]
    np.testing.assert_allclose(diagonal**-2.0, np.diag(expected), rtol=1e-5)  # float32


def network(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]) * params["gain"][None]
    return hidden @ params["output"]["kernel"] + params["output"]["bias"][None]


def network_params():
    rng = np.random.default_rng(7)
    tree = dict(
        gain=1.0 + 0.1 * rng.normal(size=4),
        hidden=dict(kernel=0.5 * rng.normal(size=(3, 4)), bias=0.1 * np.ones(4)),
        output=dict(kernel=rng.normal(size=(4, 2)), bias=np.zeros(2)),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def test_the_last_layer_is_bayesian_linear_regression_on_its_features():
    x, y = regression()
    params, joint = network_params(), LogJoint(network, PRIOR, GaussianLikelihood(0.5))
    features = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]) * params["gain"][None]
    mean, covariance = gaussian_posterior(features, y, PRIOR.leaf_scale((4, 2)), PRIOR.leaf_scale((2,)))
    unravel = ravel_pytree(params["output"])[1]
    mode = params | {"output": unravel(jnp.asarray(mean, jnp.float32))}
    posterior = last_layer_laplace(joint, mode, x, y)
    state = posterior.init(KEY)
    drawn = posterior.sample(jax.random.key(3), state)
    chex.assert_trees_all_equal(drawn["hidden"], mode["hidden"])
    density, row = jax.jit(posterior.log_prob), np.asarray(ravel_pytree(drawn["output"])[0], float)
    expected = gaussian_log_density(row, mean, covariance)
    np.testing.assert_allclose(density(state, drawn), expected, atol=1e-3)  # float32, as above
    assert density(state, drawn | {"gain": drawn["gain"] + 1.0}) == -np.inf


def test_what_does_not_fit_is_refused():
    x, y = regression()
    params = to_tree(np.linspace(-1.0, 1.0, 8))

    with pytest.raises(ConfigError, match=r"modules must name what varies, got \['head'\]"):
        full_laplace(JOINT, params, x, y, ("head",))
    for build in (full_laplace, diagonal_laplace, kronecker_laplace):
        with pytest.raises(InputError, match=r"inputs \(12, 3\) and targets \(11, 2\)"):
            build(JOINT, params, x, y[:-1])
