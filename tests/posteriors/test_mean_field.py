"""Mean-field inference: its divergence, its density, and the optimum where the posterior is Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from linear_gaussian import JOINT, LIKE, NOISE, PRIOR, exact_posterior, regression, to_rows, to_tree
from numpyro.infer import TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.base import sample_many
from jaxgeo.posteriors.mean_field import draws_of_members, init_gaussian, kl_divergence, mean_field, objective


def random_member(seed):
    rng = np.random.default_rng(seed)
    return {"mean": to_tree(rng.normal(size=8)), "log_scale": to_tree(rng.normal(size=8) - 1.0)}


def test_kl_is_the_monte_carlo_divergence_and_zero_at_the_prior():
    member, rng = random_member(0), np.random.default_rng(1)
    mean, log_scale = (np.asarray(ravel_pytree(member[name])[0], float) for name in ("mean", "log_scale"))
    prior = np.repeat([PRIOR.leaf_scale((2,)), PRIOR.leaf_scale((3, 2))], [2, 6])
    w = mean + np.exp(log_scale) * rng.normal(size=(20_000, 8))
    log_q = scipy.stats.norm.logpdf(w, mean, np.exp(log_scale)).sum(1)
    terms = log_q - scipy.stats.norm.logpdf(w, 0.0, prior).sum(1)
    assert abs(kl_divergence(member, PRIOR) - terms.mean()) < 3 * terms.std() / np.sqrt(len(w))
    at_prior = {"mean": LIKE, "log_scale": to_tree(np.log(prior))}
    np.testing.assert_allclose(kl_divergence(at_prior, PRIOR), 0.0, atol=1e-6)  # float32


def test_the_density_is_that_of_the_mixture_and_draws_follow_it():
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), random_member(0), random_member(5))
    posterior = mean_field(lambda key: LIKE, num_members=2)

    @jax.jit
    def draw(key, members):
        draws = sample_many(posterior, key, members, 4000)
        return draws, jax.vmap(posterior.log_prob, (None, 0))(members, draws)

    draws, log_probs = draw(jax.random.key(0), members)
    rows, means, scales = to_rows(draws), to_rows(members["mean"]), np.exp(to_rows(members["log_scale"]))
    each = scipy.stats.norm.logpdf(rows[:, None], means[None], scales[None]).sum(-1)
    expected = np.logaddexp.reduce(each, axis=1) - np.log(2)
    np.testing.assert_allclose(log_probs, expected, atol=1e-3)  # float32 sums of up to some 100
    variance = (scales**2 + means**2).mean(0) - means.mean(0) ** 2
    # 5 standard errors of a mean; a variance has, with the kurtosis of two apart, at most sqrt(3 / 4000) of its own.
    np.testing.assert_allclose((rows.mean(0) - means.mean(0)) / np.sqrt(variance / 4000), 0.0, atol=5.0)
    np.testing.assert_allclose(rows.var(0) / variance, 1.0, atol=5 * np.sqrt(3 / 4000))


def test_on_a_gaussian_posterior_the_bound_is_stationary_at_its_mean_and_its_precisions_diagonal():
    x, y = regression()
    mean, covariance = exact_posterior(x, y)
    best = {"mean": to_tree(mean), "log_scale": to_tree(-0.5 * np.log(np.diag(np.linalg.inv(covariance))))}
    gradient = jax.jit(jax.vmap(jax.grad(objective(JOINT, 12)), in_axes=(None, 0, None, None)))
    keys = jax.random.split(jax.random.key(0), 4000)

    def standard_errors_from_zero(member):
        found = np.concatenate([to_rows(tree) for tree in gradient(member, keys, x, y).values()], axis=1)
        return found.mean(0) / (found.std(0) / np.sqrt(len(keys)))

    assert np.abs(standard_errors_from_zero(best)).max() < 4  # the largest of 16
    # A standard deviation too large by a tenth, as the margins' would be, is seen.
    wide = best | {"log_scale": jax.tree.map(lambda leaf: leaf + 0.1, best["log_scale"])}
    assert np.abs(standard_errors_from_zero(wide))[:8].max() > 8


def test_the_bound_is_that_of_numpyros_automatic_guide():
    x, y = regression()
    mean, covariance = exact_posterior(x, y)
    # Near the best one, where the bound is some tens of nats and its draws vary little.
    near = {"mean": mean + 0.02, "log_scale": -0.5 * np.log(np.diag(np.linalg.inv(covariance))) + 0.05}
    member, draws = {name: to_tree(leaf) for name, leaf in near.items()}, 4000

    def model():
        kernel = numpyro.sample("kernel", dist.Normal(0.0, PRIOR.leaf_scale((3, 2))).expand((3, 2)).to_event(2))
        bias = numpyro.sample("bias", dist.Normal(0.0, PRIOR.leaf_scale((2,))).expand((2,)).to_event(1))
        numpyro.sample("y", dist.Normal(x @ kernel + bias[None], NOISE).to_event(2), obs=y)

    guide = AutoNormal(model)
    with numpyro.handlers.seed(rng_seed=0):
        guide()
    params = {f"{name}_auto_loc": leaf for name, leaf in member["mean"].items()}
    params |= {f"{name}_auto_scale": jnp.exp(leaf) for name, leaf in member["log_scale"].items()}
    theirs = TraceMeanField_ELBO(num_particles=draws).loss(jax.random.key(1), params, model, guide)
    keys = jax.random.split(jax.random.key(2), draws)
    ours = 12 * np.asarray(jax.vmap(objective(JOINT, 12), in_axes=(None, 0, None, None))(member, keys, x, y), float)
    # Means of equally many draws of the same distribution: five standard errors of their difference.
    assert abs(ours.mean() - theirs) < 5 * np.sqrt(2 / draws) * ours.std()
    # Tight enough to see a wrong divergence: a missing normaliser of one weight alone is 0.9 nats.
    assert 5 * np.sqrt(2 / draws) * ours.std() < 0.5


def test_a_family_starts_around_a_network_and_members_are_drawn_in_turn():
    member = init_gaussian(lambda key: to_tree(np.arange(8.0)), 0.01)(jax.random.key(0))
    np.testing.assert_array_equal(member["mean"]["bias"], [0.0, 1.0])
    np.testing.assert_allclose(np.exp(member["log_scale"]["kernel"]), 0.01, rtol=1e-5)  # float32
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 100.0]), member["mean"])
    narrow = {"mean": members, "log_scale": jax.tree.map(lambda leaf: jnp.full_like(leaf, -20.0), members)}
    drawn = jax.jit(draws_of_members, static_argnums=2)(jax.random.key(1), narrow, 3)
    np.testing.assert_allclose(drawn["bias"], np.repeat([[0.0, 1.0], [100.0, 101.0]], 3, axis=0), atol=1e-5)
    with pytest.raises(ConfigError, match="initial scale of a mean-field family"):
        init_gaussian(lambda key: LIKE, 0.0)
