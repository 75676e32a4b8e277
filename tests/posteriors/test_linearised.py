"""The linearised predictive: exact where the network is linear, and the covariance of its own draws elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import JOINT, PRIOR, affine, exact_posterior, regression, to_tree

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.base import sample_many
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, last_layer_laplace
from jaxgeo.posteriors.linearised import (
    OutputGaussian,
    linearise,
    output_gaussian,
    probit_log_probs,
    sample_outputs,
)
from jaxgeo.posteriors.log_joint import LogJoint

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("build", "orthogonal"), [(full_laplace, False), (kronecker_laplace, False), (diagonal_laplace, True)]
)
def test_predictions_of_linear_regression_are_exact(build, orthogonal):
    x, y = regression(orthogonal)
    mean, covariance = exact_posterior(x, y)
    state = build(JOINT, to_tree(mean), x, y).init(KEY)
    new = jax.random.normal(KEY, (5, 3))
    found = output_gaussian(affine, state, new, batch_size=2)
    design = np.stack([np.kron(np.concatenate([[1.0], row]), np.eye(2)) for row in np.asarray(new, float)])
    np.testing.assert_allclose(found.mean, design @ mean, atol=1e-5)  # float32
    expected = np.einsum("eip,pq,ejq->eij", design, covariance, design)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-4 * expected.max())  # float32 solves, as cond. 35


def network(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]) * params["gain"][None]
    return hidden @ params["output"]["kernel"] + params["output"]["bias"][None]


def network_params():
    keys = jax.random.split(jax.random.key(7), 3)
    return dict(
        gain=1.0 + 0.1 * jax.random.normal(keys[0], (4,)),
        hidden=dict(kernel=0.5 * jax.random.normal(keys[1], (3, 4)), bias=0.1 * jnp.ones(4)),
        output=dict(kernel=jax.random.normal(keys[2], (4, 2)), bias=jnp.zeros(2)),
    )


@pytest.mark.parametrize("build", [full_laplace, last_layer_laplace, diagonal_laplace, kronecker_laplace])
def test_draws_of_the_linearised_network_have_the_closed_forms_mean_and_covariance(build):
    x, _ = regression()
    params, few = network_params(), x[:3]
    posterior = build(LogJoint(network, PRIOR), params, x, jnp.arange(12) % 2)
    state = posterior.init(KEY)
    modules = ("output",) if build is last_layer_laplace else None
    found = output_gaussian(network, state, few, modules)
    linear = linearise(network, params)
    draws = jax.jit(lambda key: jax.vmap(linear, (0, None))(sample_many(posterior, key, state, 4000), few))(KEY)
    for i in range(3):
        root = np.linalg.cholesky(np.asarray(found.covariance[i], float))
        white = np.linalg.solve(root, (np.asarray(draws[:, i], float) - np.asarray(found.mean[i], float)).T)
        np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=5 / np.sqrt(4000))  # five standard errors
        np.testing.assert_allclose(np.cov(white), np.eye(2), atol=5 * np.sqrt(2 / 4000))
    if build is last_layer_laplace:  # whose predictions are linear in what varies
        drawn = posterior.sample(KEY, state)
        np.testing.assert_allclose(linear(drawn, few), network(drawn, few), atol=1e-5)  # float32


def test_outputs_are_drawn_with_their_covariance_and_the_probit_is_mackays():
    root = jnp.asarray([[[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]])  # of rank 2
    gaussian = OutputGaussian(jnp.asarray([[0.3, -0.2, 0.1]]), root @ root.swapaxes(1, 2))
    draws = np.asarray(sample_outputs(KEY, gaussian, 4000)[:, 0], float)
    np.testing.assert_allclose(draws.mean(axis=0), gaussian.mean[0], atol=5 * 2 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(draws.T), gaussian.covariance[0], atol=5 * 4 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(draws[:, 0] - 0.3, 2 * (draws[:, 1] + 0.2), atol=1e-4)  # float32
    # Two classes, one of them certain: the mean of a sigmoid under a Gaussian, which the probit has to 2 %.
    for mean, variance in ((0.5, 1.0), (2.0, 4.0), (-1.0, 9.0)):
        pair = OutputGaussian(jnp.asarray([[mean, 0.0]]), jnp.asarray([[[variance, 0.0], [0.0, 0.0]]]))
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        exact = np.sum(weights / (1 + np.exp(-mean - np.sqrt(variance) * nodes))) / np.sqrt(2 * np.pi)
        scaled = mean / np.sqrt(1 + np.pi * variance / 8)
        found = float(jnp.exp(probit_log_probs(pair)[0, 0]))
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-scaled)), rtol=1e-5)  # float32
        np.testing.assert_allclose(found, exact, atol=0.02)


@pytest.mark.parametrize("build", [full_laplace, diagonal_laplace, kronecker_laplace])
def test_a_second_call_traces_nothing(build):
    traced = []

    def apply(params, inputs):
        traced.append(inputs.shape)
        return network(params, inputs)

    x, _ = regression()
    labels = jnp.arange(12) % 2
    one, other = (build(LogJoint(network, PRIOR), network_params(), x, y).init(KEY) for y in (labels, 1 - labels))
    output_gaussian(apply, one, x[:3])
    first = len(traced)
    found = output_gaussian(apply, other, x[3:6])  # other inputs, other states
    assert first > 0
    assert len(traced) == first
    np.testing.assert_allclose(found.mean, network(network_params(), x[3:6]), atol=1e-5)  # float32


def test_modules_that_are_not_the_states_are_refused():
    x, y = regression()
    mode = to_tree(np.zeros(8))
    full, diagonal = (build(JOINT, mode, x, y).init(KEY) for build in (full_laplace, diagonal_laplace))
    with pytest.raises(ConfigError, match=r"6 weights vary in modules \['kernel'\], but the state has a Gaussian of 8"):
        output_gaussian(affine, full, x, ("kernel",))
    with pytest.raises(ConfigError, match=r"got \['kernel'\] for a DiagonalState"):
        output_gaussian(affine, diagonal, x, ("kernel",))
