"""Every family keeps the one contract: a draw is a params tree that the network takes, and no density is made up."""

import importlib
import pkgutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo.posteriors
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.posteriors import base
from jaxgeo.posteriors.deep_ensemble import deep_ensemble
from jaxgeo.posteriors.drop_connect import drop_connect
from jaxgeo.posteriors.hmc import HmcConfig, hmc_posterior, plan_hmc
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.langevin import LangevinConfig, langevin
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, last_layer_laplace
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.mc_dropout import mc_dropout
from jaxgeo.posteriors.mean_field import mean_field
from jaxgeo.posteriors.microcanonical import MicrocanonicalConfig, microcanonical
from jaxgeo.posteriors.non_parametric_dropout import non_parametric_dropout
from jaxgeo.posteriors.swag import SwagConfig, swag


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def init_member(key):
    return dict(kernel=jax.random.normal(key, (6, 3)), bias=jnp.zeros(3))


LIKE = init_member(jax.random.key(0))
X, Y = jax.random.normal(jax.random.key(5), (10, 6)), jnp.arange(10) % 3


def hmc():
    config = HmcConfig(num_chains=2, num_warmup=2, num_draws=3, warmup_leapfrogs=2, max_leapfrogs=4)
    return hmc_posterior(plan_hmc(LogJoint(affine), LIKE, config), X, Y)


SNAPSHOTS = SwagConfig(num_snapshots=3, rank=2, steps_between=2, batch_size=5)
TURNS = MicrocanonicalConfig(num_chains=2, num_tuning=6, num_draws=3, thinning=2, chains_at_once=1)
STEPS = LangevinConfig(num_chains=2, num_cycles=2, steps_per_cycle=4, draws_per_cycle=2, steps_between=1, batch_size=5)
FAMILIES = {
    "deep_ensemble": lambda: deep_ensemble(init_member, 4),
    "mc_dropout": lambda: mc_dropout(init_member, RowDropout(rate=0.25), num_members=4),
    "drop_connect": lambda: drop_connect(init_member, WeightDropout(rate=0.25), num_members=4),
    "non_parametric_dropout": lambda: non_parametric_dropout(init_member, num_members=4),
    "hmc_posterior": hmc,
    "mean_field": lambda: mean_field(init_member, num_members=4),
    "swag": lambda: swag(init_member, LogJoint(affine), X, Y, SNAPSHOTS, num_members=2),
    "langevin": lambda: langevin(init_member, LogJoint(affine), X, Y, STEPS),
    "microcanonical": lambda: microcanonical(init_member, LogJoint(affine), X, Y, TURNS),
    "full_laplace": lambda: full_laplace(LogJoint(affine), LIKE, X, Y),
    "last_layer_laplace": lambda: last_layer_laplace(LogJoint(affine), LIKE, X, Y, "kernel"),
    "diagonal_laplace": lambda: diagonal_laplace(LogJoint(affine), LIKE, X, Y),
    "kronecker_laplace": lambda: kronecker_laplace(LogJoint(affine), LIKE, X, Y),
}
WITH_DENSITY = (
    *("mean_field", "swag"),
    *("full_laplace", "last_layer_laplace", "diagonal_laplace", "kronecker_laplace"),
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    posterior = FAMILIES[request.param]()
    return posterior, posterior.init(jax.random.key(0))


def test_no_family_is_left_out():
    found = set()
    for module in pkgutil.iter_modules(jaxgeo.posteriors.__path__):
        loaded = importlib.import_module(f"jaxgeo.posteriors.{module.name}")
        if module.name != "base":
            found |= {
                name
                for name, value in vars(loaded).items()
                if getattr(value, "__module__", None) == loaded.__name__
                and getattr(value, "__annotations__", {}).get("return") is base.Posterior
            }
    assert found == set(FAMILIES)


def test_a_draw_is_a_params_tree_that_the_network_takes(family):
    posterior, state = family
    drawn = posterior.sample(jax.random.key(1), state)
    assert jax.tree.structure(drawn) == jax.tree.structure(LIKE)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), LIKE
    )
    assert np.isfinite(affine(drawn, X)).all()


def test_sampling_is_pure_and_can_be_compiled_and_mapped(family):
    posterior, state = family
    drawn = posterior.sample(jax.random.key(1), state)
    chex.assert_trees_all_equal(drawn, posterior.sample(jax.random.key(1), state))
    compiled = jax.jit(posterior.sample)(jax.random.key(1), state)
    # A Gaussian draw is a sum, which a compiler fuses and rounds otherwise: float32, weights of size 1.
    chex.assert_trees_all_close(drawn, compiled, rtol=1e-5, atol=1e-6)
    stacked = base.sample_many(posterior, jax.random.key(2), state, 5)
    assert base.num_stacked(stacked) == 5
    assert len(np.unique(np.asarray(stacked["kernel"]).reshape(5, -1), axis=0)) > 1


def test_a_density_is_finite_at_a_draw_or_refused_with_the_reason(family, request):
    posterior, state = family
    drawn = posterior.sample(jax.random.key(1), state)
    if request.node.callspec.params["family"] in WITH_DENSITY:
        density = jax.jit(posterior.log_prob)(state, drawn)
        assert density.shape == ()
        assert jnp.isfinite(density)
    else:
        with pytest.raises(base.NoDensityError, match=r"has no density: (it|its) "):
            posterior.log_prob(state, drawn)
