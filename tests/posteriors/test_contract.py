"""Every family keeps the one contract: a draw is a params tree that the network takes, and no density is made up."""

import importlib
import pkgutil

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
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.mc_dropout import mc_dropout
from jaxgeo.posteriors.non_parametric_dropout import non_parametric_dropout


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def init_member(key):
    return dict(kernel=jax.random.normal(key, (6, 3)), bias=jnp.zeros(3))


LIKE = init_member(jax.random.key(0))
X, Y = jax.random.normal(jax.random.key(5), (10, 6)), jnp.arange(10) % 3


def hmc():
    config = HmcConfig(num_chains=2, num_warmup=2, num_samples=3, warmup_leapfrogs=2, max_leapfrogs=4)
    return hmc_posterior(plan_hmc(LogJoint(affine), LIKE, config), X, Y)


FAMILIES = {
    "deep_ensemble": lambda: deep_ensemble(init_member, 4),
    "mc_dropout": lambda: mc_dropout(init_member, RowDropout(rate=0.25), num_members=4),
    "drop_connect": lambda: drop_connect(init_member, WeightDropout(rate=0.25), num_members=4),
    "non_parametric_dropout": lambda: non_parametric_dropout(init_member, num_members=4),
    "hmc_posterior": hmc,
}


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
    for again in (posterior.sample(jax.random.key(1), state), jax.jit(posterior.sample)(jax.random.key(1), state)):
        jax.tree.map(np.testing.assert_array_equal, drawn, again)
    stacked = base.sample_many(posterior, jax.random.key(2), state, 5)
    assert base.num_stacked(stacked) == 5
    assert len(np.unique(np.asarray(stacked["kernel"]).reshape(5, -1), axis=0)) > 1


def test_a_density_is_refused_with_the_reason(family):
    posterior, state = family
    with pytest.raises(base.NoDensityError, match=r"has no density: (it|its) "):
        posterior.log_prob(state, posterior.sample(jax.random.key(1), state))
