"""The step from the curvature: eigenvalues of known matrices, and the variance that the recursions then have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from linear_gaussian import JOINT, affine, exact_posterior, regression, to_tree

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.langevin import LangevinConfig
from jaxgeo.posteriors.langevin_step import Stiffness, choose_step, stiffness


def test_stiffness_of_linear_regression_is_the_largest_eigenvalue_of_its_matrices():
    x, y = regression()
    mean, covariance = exact_posterior(x, y)
    found = stiffness(jax.random.key(0), JOINT, to_tree(mean), x, y, 4)
    np.testing.assert_allclose(found.curvature, 1 / np.linalg.eigvalsh(covariance)[0], rtol=1e-4)  # float32
    # Gradients of the log-likelihoods: residual over variance, times (1, x).
    design = np.concatenate([np.ones((12, 1)), np.asarray(x, float)], axis=1)
    residual = np.asarray(y, float) - design @ mean.reshape(4, 2)
    gradients = np.einsum("np,no->npo", design, residual).reshape(12, 8) / 0.5**2
    noise = 12**2 / 4 * np.cov(gradients.T, ddof=0)
    assert stiffness(jax.random.key(0), JOINT, to_tree(mean), x, y, 12, 1).gradient_noise == 0  # every row once
    np.testing.assert_allclose(found.gradient_noise, np.linalg.eigvalsh(noise)[-1], rtol=1e-3)  # 60 iterations


def test_an_example_of_two_predictions_is_one_draw_of_its_batch():
    x, y = regression()
    mean, _ = exact_posterior(x, y)
    pairs = dataclasses.replace(JOINT, apply=lambda p, x: affine(p, x.reshape(-1, 3)).reshape(*x.shape[:-1], 2))
    found = stiffness(jax.random.key(0), pairs, to_tree(mean), x.reshape(6, 2, 3), y.reshape(6, 2, 2), 3)
    design = np.concatenate([np.ones((12, 1)), np.asarray(x, float)], axis=1)
    residual = np.asarray(y, float) - design @ mean.reshape(4, 2)
    gradients = np.einsum("np,no->npo", design, residual).reshape(6, 2, 8).sum(1) / 0.5**2
    noise = 6**2 / 3 * np.cov(gradients.T, ddof=0)
    np.testing.assert_allclose(found.gradient_noise, np.linalg.eigvalsh(noise)[-1], rtol=1e-3)  # 60 iterations


def stationary_variance(curvature, noise, step, alpha):
    """Of the linear recursion at a constant step, by SciPy's discrete Lyapunov equation."""
    root = np.sqrt(step)
    if alpha is None:
        forward, injected = np.array([[1 - step * curvature / 2]]), np.array([[step + step**2 / 4 * noise]])
        return scipy.linalg.solve_discrete_lyapunov(forward, injected)[0, 0]
    # (theta, r): the new momentum also moves theta.
    forward = np.array([[1 - step * curvature, root * (1 - alpha)], [-root * curvature, 1 - alpha]])
    kick = np.array([[root], [1.0]])
    return scipy.linalg.solve_discrete_lyapunov(forward, (2 * alpha + step * noise) * kick @ kick.T)[0, 0]


@pytest.mark.parametrize("friction", [None, 0.1, 1.0])
@pytest.mark.parametrize("found", [Stiffness(300.0, 0.0), Stiffness(300.0, 5000.0)])
def test_the_first_draw_is_spread_too_widely_by_the_share_that_is_allowed(friction, found):
    # One draw of all steps of the cycle: its first step is the one that counts.
    config = LangevinConfig(steps_per_cycle=100, draws_per_cycle=1, steps_between=100, friction=friction)
    step = choose_step(found, config, 0.25)
    variance = stationary_variance(found.curvature, found.gradient_noise, step, friction)
    np.testing.assert_allclose(variance * found.curvature, 1.25, rtol=1e-6)  # the cosine is a float32
    later = dataclasses.replace(config, steps_between=50)  # half of the step is left then
    np.testing.assert_allclose(choose_step(found, later, 0.25), 2 * step, rtol=1e-6)
    # However much is allowed, and however late: half of where the recursion diverges.
    last = choose_step(found, dataclasses.replace(config, steps_between=1), 1e6)
    # There 1 / (1 - epsilon lambda k) is 2.
    np.testing.assert_allclose(
        stationary_variance(found.curvature, 0.0, last, friction) * found.curvature, 2.0, rtol=1e-6
    )


def test_what_does_not_fit_is_refused():
    x, y = regression()
    mode, config = to_tree(np.zeros(8)), LangevinConfig()
    with pytest.raises(ConfigError, match="between 1 and the 12 training examples, got 13"):
        stiffness(jax.random.key(0), JOINT, mode, x, y, 13)
    with pytest.raises(ConfigError, match="number of power iterations must be a whole number of at least 1, got 0"):
        stiffness(jax.random.key(0), JOINT, mode, x, y, 4, 0)
    with pytest.raises(ConfigError, match=r"may be too large must be a finite number above 0, got 0\.0"):
        choose_step(Stiffness(1.0, 1.0), config, 0.0)
    with jax.debug_nans(False), pytest.raises(InputError, match="must be finite, got nan"):
        stiffness(jax.random.key(0), JOINT, mode, x.at[0, 0].set(jnp.nan), y, 4)
