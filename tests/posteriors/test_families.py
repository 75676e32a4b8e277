"""Deep ensembles and MC dropout as posteriors: what a draw is, what is minimised, and the divergence."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import RowDropout, drop_rows
from jaxgeo.posteriors import base, deep_ensemble, mc_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.posteriors.stochastic_ensemble import WIDTH

DROPOUT = RowDropout(rate=0.25)


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def init_member(key):
    return dict(kernel=jax.random.normal(key, (6, 3)), bias=jnp.zeros(3))


def data():
    x = jax.random.normal(jax.random.key(5), (10, 6))
    return x, jnp.arange(10) % 3


@pytest.mark.parametrize("build", [deep_ensemble.deep_ensemble, lambda f, m: mc_dropout.mc_dropout(f, DROPOUT, m)])
def test_an_ensemble_without_members_is_refused(build):
    with pytest.raises(ConfigError, match="number of members must be a whole number of at least 1, got 0"):
        build(init_member, 0)


def test_training_is_part_of_init_when_given():
    def train(key, members):
        return jax.tree.map(lambda leaf: leaf + 1.0, members)

    for build in (
        lambda t: deep_ensemble.deep_ensemble(init_member, 3, t),
        lambda t: mc_dropout.mc_dropout(init_member, DROPOUT, 3, t),
    ):
        plain, trained = build(None).init(jax.random.key(0)), build(train).init(jax.random.key(0))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a + 1.0, b), plain, trained)


def test_ensemble_draws_are_members_in_equal_shares():
    posterior = deep_ensemble.deep_ensemble(init_member, 4)
    members = dict(kernel=jnp.arange(4.0), bias=jnp.arange(4.0))
    drawn = base.sample_many(posterior, jax.random.key(0), members, 4000)
    np.testing.assert_array_equal(drawn["kernel"], drawn["bias"])
    # 4000 draws: each share has a standard error of 0.0068; 5 of them.
    np.testing.assert_allclose(np.bincount(drawn["kernel"].astype(int)) / 4000, 0.25, atol=0.035)


def test_the_ensemble_objective_is_the_negative_log_joint_per_example():
    joint, params, (x, y) = LogJoint(affine), init_member(jax.random.key(3)), data()
    loss = deep_ensemble.objective(joint, 10)(params, jax.random.key(0), x, y)
    np.testing.assert_allclose(loss, -joint.log_joint(params, x, y) / 10, rtol=1e-6)  # float32


def monte_carlo_kl(params, dropout, prior, width, draws=40_000):
    """E_q[log q - log p] by drawing from the mixture itself, and its standard error."""
    rng, keep = np.random.default_rng(0), 1 - dropout.rate
    total = np.zeros(draws)
    for name, leaf in params.items():
        scale = prior.leaf_scale(leaf.shape)
        centres = np.asarray(leaf, float).reshape(-1, leaf.shape[-1]) / scale
        for row in centres:  # a bias is a row that is never dropped
            kept = rng.random(draws) < keep if name == "kernel" else np.ones(draws, bool)
            centre = row * (dropout.survivor_scale if name == "kernel" else 1.0)
            w = kept[:, None] * centre + width * rng.normal(size=(draws, len(row)))
            log_kept = scipy.stats.norm.logpdf(w, centre, width).sum(1)
            log_gone = scipy.stats.norm.logpdf(w, 0.0, width).sum(1)
            log_q = (
                np.logaddexp(np.log(keep) + log_kept, np.log(dropout.rate) + log_gone) if name == "kernel" else log_kept
            )
            total += log_q - scipy.stats.norm.logpdf(w).sum(1)
    return total.mean(), total.std() / np.sqrt(draws)


@pytest.mark.parametrize("width", [0.05, WIDTH])
@pytest.mark.parametrize("inverted", [True, False])
def test_kl_is_the_monte_carlo_divergence_where_the_components_are_apart(inverted, width):
    dropout, prior = RowDropout(rate=0.25, inverted=inverted), GaussianPrior(1.5, bias_scale=0.5)
    params = jax.tree.map(lambda leaf: leaf + 0.3, init_member(jax.random.key(1)))
    expected, error = monte_carlo_kl(params, dropout, prior, width)
    # Rows of 3 columns lie more than 8 widths from zero, so what the components share is below 1e-4 nats.
    assert abs(mc_dropout.kl_divergence(params, dropout, prior, width) - expected) < 3 * error


def test_a_deep_ensemble_of_one_is_the_point_of_the_maximum_and_says_that_it_has_no_density():
    posterior = deep_ensemble.deep_ensemble(init_member, 1)
    state = posterior.init(jax.random.key(0))
    draws = base.sample_many(posterior, jax.random.key(1), state, 5)
    for name, leaf in draws.items():
        np.testing.assert_array_equal(leaf, np.repeat(state[name], 5, axis=0))
    with pytest.raises(base.NoDensityError, match="mixture of point masses"):
        posterior.log_prob(state, jax.tree.map(lambda leaf: leaf[0], state))


def test_kl_is_a_lower_bound_within_the_entropy_of_the_coins_where_they_overlap():
    prior = GaussianPrior(1.0)
    params = jax.tree.map(lambda leaf: 0.02 * leaf, init_member(jax.random.key(1)))
    expected, error = monte_carlo_kl(params, DROPOUT, prior, width=0.3)
    coins = 6 * scipy.stats.bernoulli(0.25).entropy()
    formula = float(mc_dropout.kl_divergence(params, DROPOUT, prior, width=0.3))
    assert formula - 5 * error <= expected <= formula + coins + 5 * error


def test_the_width_of_the_components_never_enters_the_gradient():
    params, prior = init_member(jax.random.key(1)), GaussianPrior(1.0)
    wide, narrow = (
        jax.grad(lambda p, w=w: mc_dropout.kl_divergence(p, DROPOUT, prior, w))(params) for w in (0.5, 1e-3)
    )
    chex.assert_trees_all_equal(wide, narrow)
    # d/dm of (1 - p) (m / (1 - p))^2 / (2 s^2) with s^2 = 1/6 for the kernel of 6 inputs
    np.testing.assert_allclose(wide["kernel"], params["kernel"] * 6 / 0.75, rtol=1e-5)  # float32


def test_the_dropout_objective_is_one_masked_batch_plus_the_divergence():
    joint, params, (x, y) = LogJoint(affine), init_member(jax.random.key(3)), data()
    key = jax.random.key(9)
    loss = mc_dropout.objective(joint, DROPOUT, 50)(params, key, x, y)
    masked = -joint.log_likelihood(drop_rows(key, params, DROPOUT), x, y) / 10
    kl = mc_dropout.kl_divergence(params, DROPOUT, joint.prior)
    np.testing.assert_allclose(loss, masked + kl / 50, rtol=1e-5)  # float32
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        mc_dropout.objective(joint, DROPOUT, 0)


def test_members_times_draws_are_stacked_member_slowest():
    members = deep_ensemble.init_members(init_member, jax.random.key(0), 3)
    drawn = mc_dropout.draws_of_members(jax.random.key(1), members, DROPOUT, 7)
    assert base.num_stacked(drawn) == 21
    np.testing.assert_array_equal(drawn["bias"], np.repeat(members["bias"], 7, axis=0))
    rebuilt = np.asarray(drawn["kernel"]).reshape(3, 7, 6, 3)
    expected = np.asarray(members["kernel"])[:, None] / 0.75
    np.testing.assert_allclose(rebuilt, np.where(rebuilt != 0, expected, 0.0), rtol=1e-6)  # float32
    assert len(np.unique(rebuilt[0] != 0, axis=0)) > 1  # masks differ from draw to draw
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        mc_dropout.draws_of_members(jax.random.key(1), members, DROPOUT, 0)


def test_stacks_that_are_none_and_no_draws_are_refused():
    posterior = deep_ensemble.deep_ensemble(init_member, 4)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        base.sample_many(posterior, jax.random.key(0), posterior.init(jax.random.key(0)), 0)
    for stack in ({}, {"a": jnp.zeros(3), "b": jnp.zeros(2)}, {"a": jnp.zeros(())}):
        with pytest.raises(ConfigError, match="one leading axis that all leaves share"):
            base.num_stacked(stack)
