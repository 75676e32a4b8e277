"""Langevin dynamics: the posterior itself where steps are small, the schedule, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import JOINT, LIKE, assert_standard_normal, exact_posterior, regression, whitened

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.langevin import LangevinConfig, cyclical_step, langevin
from jaxgeo.posteriors.minibatch import random_rows


@pytest.mark.parametrize(("step_size", "friction"), [(2e-3, None), (4e-4, 0.1)])
def test_chains_end_in_the_posterior_of_linear_regression(step_size, friction):
    x, y = regression()
    config = LangevinConfig(
        num_chains=1000,
        num_cycles=1,
        steps_per_cycle=600,
        draws_per_cycle=1,
        steps_between=1,
        step_size=step_size,
        friction=friction,
        batch_size=12,
    )
    draws = langevin(lambda key: LIKE, JOINT, x, y, config).init(jax.random.key(0))
    # Independent chains, so the standard errors hold; the steps' own bias is the share epsilon * precision / 4 of
    # the steps at which the stiffest direction was last forgotten.
    assert_standard_normal(whitened(draws, *exact_posterior(x, y)), bias=0.05)


def test_without_noise_a_cycle_descends_and_with_it_the_draws_differ():
    x, y = regression()
    quiet = LangevinConfig(
        num_chains=2, num_cycles=1, steps_per_cycle=400, draws_per_cycle=1, steps_between=1, step_size=4e-3,
        exploration=0.99, batch_size=12,
    )  # fmt: skip
    draws = langevin(lambda key: LIKE, JOINT, x, y, quiet).init(jax.random.key(0))
    white = whitened(draws, *exact_posterior(x, y))
    # The 4 last steps have noise, of a size that the schedule brings near zero: sqrt(4 * 4e-3 * 1e-4) against 0.1.
    assert np.abs(white).max() < 0.2
    assert np.abs(white[0] - white[1]).max() > 0.0


def test_the_step_falls_as_a_cosine_from_the_beginning_of_each_cycle():
    config = LangevinConfig(steps_per_cycle=100, step_size=0.2)
    sizes = jax.vmap(lambda k: cyclical_step(config, k))(jnp.asarray([0, 50, 99]))
    np.testing.assert_allclose(sizes, 0.1 * (np.cos(np.pi * np.array([0.0, 0.5, 0.99])) + 1), atol=1e-7)  # float32


def test_rows_of_a_batch_are_uniform_and_a_full_batch_has_each_once():
    np.testing.assert_array_equal(random_rows(jax.random.key(0), 7, 7), np.arange(7))
    rows = np.asarray(jax.vmap(lambda key: random_rows(key, 7, 3))(jax.random.split(jax.random.key(1), 2000)))
    # 6000 rows: a share of 1/7 has a standard error of 0.0045; 5 of them.
    np.testing.assert_allclose(np.bincount(rows.ravel(), minlength=7) / 6000, 1 / 7, atol=0.0226)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_chains=0), "num_chains must be a whole number of at least 1"),
        (dict(exploration=1.0), "exploration is a share"),
        (dict(exploration=0.96), "5 draws with 10 steps before each take more than the 40 steps with noise"),
        (dict(step_size=-1.0), "step_size must be a finite number"),
        (dict(friction=0.0), r"friction must lie in \(0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        LangevinConfig(**changes)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="between 1 and the 12 training examples, got 32"):
        langevin(lambda key: LIKE, JOINT, *regression(), LangevinConfig())


def test_chains_that_leave_the_finite_numbers_are_refused():
    settings = dict(num_chains=2, num_cycles=1, steps_per_cycle=60, draws_per_cycle=1, steps_between=1, batch_size=12)
    posterior = langevin(lambda key: LIKE, JOINT, *regression(), LangevinConfig(**settings, step_size=1e6))
    with (
        jax.debug_nans(False),
        pytest.raises(InputError, match=r"draws \(take steps below 1000000.0 where chains"),
    ):
        posterior.init(jax.random.key(0))
