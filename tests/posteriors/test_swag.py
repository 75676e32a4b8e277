"""SWAG: the moments of given snapshots, the Gaussian they make, and where gradient descent goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import (
    JOINT,
    LIKE,
    assert_standard_normal,
    exact_posterior,
    gaussian_log_density,
    regression,
    to_rows,
    to_tree,
    whitened,
)

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.swag import SwagConfig, add_snapshot, draw_swag, log_density, no_snapshots, swag


def moments_of(rows, rank):
    snapshots = jax.vmap(to_tree)(jnp.asarray(rows, jnp.float32))
    return jax.lax.scan(lambda state, tree: (add_snapshot(state, tree), None), no_snapshots(LIKE, rank), snapshots)[0]


def dense_covariance(rows, rank):
    """Algorithm 1 of the paper, in float64."""
    running = np.cumsum(rows, axis=0) / np.arange(1, len(rows) + 1)[:, None]
    last = (rows - running)[-rank:]
    return np.diag(rows.var(0)) / 2 + last.T @ last / (2 * (len(last) - 1))


@pytest.mark.parametrize("number", [3, 11])  # fewer than and more than are kept
def test_moments_and_density_are_those_of_the_dense_gaussian(number):
    rows = np.random.default_rng(0).normal(size=(number, 8)) + 5.0
    state = moments_of(rows, 4)
    np.testing.assert_allclose(to_rows(jax.tree.map(lambda leaf: leaf[None], state.mean))[0], rows.mean(0), rtol=1e-6)
    at = rows[0] + 0.3
    expected = gaussian_log_density(at, rows.mean(0), dense_covariance(rows, 4))
    np.testing.assert_allclose(jax.jit(log_density)(state, to_tree(at)), expected, rtol=1e-4)  # float32


def test_draws_have_the_mean_and_the_covariance_of_the_dense_gaussian():
    rows = np.random.default_rng(1).normal(size=(11, 8))
    state = moments_of(rows, 4)
    draws = jax.jit(jax.vmap(draw_swag, (0, None)))(jax.random.split(jax.random.key(0), 4000), state)
    assert_standard_normal(whitened(draws, rows.mean(0), dense_covariance(rows, 4)))


def test_snapshots_that_are_posterior_draws_give_half_its_covariance_and_half_its_diagonal():
    mean, covariance = exact_posterior(*regression())
    rows = np.random.default_rng(2).multivariate_normal(mean, covariance, size=800)
    state = moments_of(rows, 800)
    expected = (covariance + np.diag(np.diag(covariance))) / 2
    roots = to_rows(state.deviations) / np.sqrt(2 * 799)
    variance = to_rows(jax.tree.map(lambda leaf: leaf[None], state.squares))[0] / 800
    inverse = np.linalg.inv(np.linalg.cholesky(expected))
    white = inverse @ (np.diag(variance) / 2 + roots.T @ roots) @ inverse.T
    # 5 standard errors of a covariance of 800, and the running means' log(800) / 800 on half of it
    np.testing.assert_allclose(white, np.eye(8), atol=5 * np.sqrt(2 / 800) + 0.005)


def test_full_batches_lead_every_member_to_the_maximum_of_the_log_joint():
    x, y = regression()
    mean, _ = exact_posterior(x, y)
    config = SwagConfig(num_snapshots=4, rank=2, steps_between=300, learning_rate=0.02, batch_size=12)
    posterior = swag(
        lambda key: jax.tree.map(lambda leaf: leaf + jax.random.normal(key), LIKE), JOINT, x, y, config, num_members=2
    )
    state = posterior.init(jax.random.key(0))
    np.testing.assert_array_equal(state.number, [4, 4])
    # The first snapshot is still on its way, by exp(-300 * 0.02 * smallest curvature / (1 - 0.9)) of the distance.
    np.testing.assert_allclose(to_rows(state.mean), np.stack([mean, mean]), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rank=1), "rank must lie between 2 and num_snapshots, got rank 1"),
        (dict(num_snapshots=5), "got rank 20 and 5 snapshots"),
        (dict(steps_between=0), "steps_between must be a whole number of at least 1"),
        (dict(learning_rate=0.0), "learning_rate must be a finite number above"),
        (dict(momentum=1.0), "momentum must lie in"),
    ],
)
def test_settings_without_a_covariance_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        SwagConfig(**changes)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="between 1 and the 12 training examples, got 32"):
        swag(lambda key: LIKE, JOINT, *regression(), SwagConfig())


@pytest.mark.parametrize("trained", [False, True])
def test_members_that_leave_the_finite_numbers_are_refused(trained):
    config = SwagConfig(num_snapshots=2, rank=2, steps_between=60, learning_rate=1e6, batch_size=12)
    diverge = (lambda key, members: jax.tree.map(lambda leaf: leaf / 0.0, members)) if trained else None
    posterior = swag(lambda key: jax.tree.map(jnp.ones_like, LIKE), JOINT, *regression(), config, train=diverge)
    said = "trained members" if trained else r"the snapshots \(take a learning rate below 1000000.0"
    with jax.debug_nans(False), pytest.raises(InputError, match=said):
        posterior.init(jax.random.key(0))
