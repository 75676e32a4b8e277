"""Linear regression with Gaussian noise and prior: the posterior that every Gaussian family is measured against."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.flatten_util import ravel_pytree

from jaxgeo.posteriors.log_joint import GaussianLikelihood, GaussianPrior, LogJoint

NOISE, PRIOR = 0.5, GaussianPrior(1.5, bias_scale=0.7)


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


JOINT = LogJoint(affine, PRIOR, GaussianLikelihood(NOISE))
LIKE = dict(kernel=jnp.zeros((3, 2)), bias=jnp.zeros(2))


def regression(orthogonal=False):
    """Inputs (12, 3) and targets (12, 2); with orthogonal columns that sum to zero where asked."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 3))
    if orthogonal:
        x = 2.0 * np.linalg.qr(np.concatenate([np.ones((12, 1)), x], axis=1))[0][:, 1:]
    y = x @ rng.normal(size=(3, 2)) + 0.3 + NOISE * rng.normal(size=(12, 2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def gaussian_posterior(features, targets, kernel_scale, bias_scale, noise=NOISE):
    """Mean and covariance in float64 of (bias, kernel row by row), the order of `ravel_pytree`."""
    features, targets = np.asarray(features, float), np.asarray(targets, float)
    (number, width), outputs = features.shape, targets.shape[1]
    design = np.kron(np.concatenate([np.ones((number, 1)), features], axis=1), np.eye(outputs))
    scales = np.repeat([bias_scale] + [kernel_scale] * width, outputs)
    covariance = np.linalg.inv(design.T @ design / noise**2 + np.diag(scales**-2.0))
    return covariance @ design.T @ targets.ravel() / noise**2, covariance


def exact_posterior(x, y):
    return gaussian_posterior(x, y, PRIOR.leaf_scale((3, 2)), PRIOR.leaf_scale((2,)))


def to_tree(vector):
    return ravel_pytree(LIKE)[1](jnp.asarray(vector, jnp.float32))


def to_rows(trees):
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(trees), float)


def gaussian_log_density(at, mean, covariance):
    """SciPy's, whose annotation of `cov` knows numbers only."""
    return scipy.stats.multivariate_normal(mean, covariance).logpdf(at)  # pyright: ignore[reportArgumentType]


def whitened(draws, mean, covariance):
    """Draws in the coordinates in which the Gaussian is standard."""
    return np.linalg.solve(np.linalg.cholesky(covariance), (to_rows(draws) - mean).T).T


def assert_standard_normal(white, bias=0.0):
    """Mean 0 and covariance 1, within 5 standard errors for each entry, plus a relative `bias` of the covariance."""
    number, dim = white.shape
    np.testing.assert_allclose(white.mean(0), 0.0, atol=5 / np.sqrt(number))
    np.testing.assert_allclose(np.cov(white.T), np.eye(dim), atol=5 * np.sqrt(2 / number) + bias)
