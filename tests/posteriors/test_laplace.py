"""Laplace's approximation: the posterior itself where it is Gaussian, the Hessian where the network is linear."""

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
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, kronecker_laplace, last_layer_laplace
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
    jax.tree.map(np.testing.assert_array_equal, drawn["hidden"], mode["hidden"])
    density, row = jax.jit(posterior.log_prob), np.asarray(ravel_pytree(drawn["output"])[0], float)
    expected = gaussian_log_density(row, mean, covariance)
    np.testing.assert_allclose(density(state, drawn), expected, atol=1e-3)  # float32, as above
    assert density(state, drawn | {"gain": drawn["gain"] + 1.0}) == -np.inf


def test_kronecker_factors_are_those_of_the_activations_and_of_the_gradients():
    x, _ = regression()
    params, joint = network_params(), LogJoint(network, PRIOR)
    labels = jnp.arange(12) % 2
    posterior = kronecker_laplace(joint, params, x, labels)
    state = posterior.init(KEY)

    w, v, gain = (
        np.asarray(p, float) for p in (params["hidden"]["kernel"], params["output"]["kernel"], params["gain"])
    )
    inputs = np.asarray(x, float)
    act = np.tanh(inputs @ w + np.asarray(params["hidden"]["bias"], float))
    logits = (act * gain) @ v + np.asarray(params["output"]["bias"], float)
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    curvature = np.einsum("nc,cd->ncd", p, np.eye(2)) - np.einsum("nc,nd->ncd", p, p)
    by_act = np.einsum("nh,ho->nho", (1 - act**2) * gain, v)  # d logits / d (hidden before tanh)
    ones = np.ones((12, 1))
    for factor, before, gradient, width in zip(
        state.layers, (inputs, act * gain), (by_act, np.eye(2)[None].repeat(12, 0)), (4, 2), strict=True
    ):
        a = np.concatenate([before, ones], axis=1)
        g = np.einsum("nho,nop,nkp->hk", gradient, curvature, gradient) / 12
        scales = [PRIOR.leaf_scale((a.shape[1] - 1, width))] * (a.shape[1] - 1) + [PRIOR.leaf_scale((width,))]
        expected = np.kron(a.T @ a, g) + np.diag(np.repeat(scales, width) ** -2.0)
        root = np.kron(factor.input_vectors, factor.output_vectors)
        values = (1 + np.outer(factor.input_values, factor.output_values)).ravel()
        white = np.repeat(np.asarray(factor.prior_scale), width)[:, None] ** -1.0 * root
        np.testing.assert_allclose((white * values[None]) @ white.T, expected, atol=1e-4)  # float32, entries up to 20
    by_gain = np.einsum("nh,ho->nho", act, v)
    diagonal = np.einsum("nho,nop,nhp->h", by_gain, curvature, by_gain) + PRIOR.leaf_scale((4,)) ** -2.0
    np.testing.assert_allclose(state.scales[0] ** -2.0, diagonal, rtol=1e-5)  # float32


def test_a_layer_that_nothing_depends_on_keeps_its_prior():
    x, y = regression()
    params = network_params()
    params["output"]["kernel"] = jnp.zeros((4, 2))
    state = kronecker_laplace(LogJoint(network, PRIOR, GaussianLikelihood(0.5)), params, x, y).init(KEY)
    hidden = state.layers[0]
    np.testing.assert_array_equal(hidden.input_values, 0.0)
    np.testing.assert_array_equal(hidden.output_values, 0.0)


def test_what_no_factor_describes_is_refused():
    x, y = regression()
    params = to_tree(np.linspace(-1.0, 1.0, 8))

    def shared(params, x):  # the same kernel on an example and on its double
        return affine(params, x) * affine(params, 2 * x)

    with pytest.raises(ConfigError, match="kernel meets an example more than once"):
        kronecker_laplace(LogJoint(shared, PRIOR, GaussianLikelihood(0.5)), params, x, y)
    with pytest.raises(ConfigError, match=r"no bias for \['kernel'\]"):
        kronecker_laplace(JOINT, {"kernel": params["kernel"]}, x, y)
    with pytest.raises(ConfigError, match="got none of them"):
        kronecker_laplace(JOINT, {"bias": params["bias"]}, x, y)
    with pytest.raises(ConfigError, match=r"modules must name what varies, got \['head'\]"):
        full_laplace(JOINT, params, x, y, ("head",))
    for build in (full_laplace, diagonal_laplace, kronecker_laplace):
        with pytest.raises(InputError, match=r"inputs \[\(12, 3\)\] and targets \(11, 2\)"):
            build(JOINT, params, x, y[:-1])
