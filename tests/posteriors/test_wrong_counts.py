"""Counts that count nothing, and trees of another family: what the families say without checks of types."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import RowDropout
from jaxgeo.posteriors import base, mc_dropout, mean_field
from jaxgeo.posteriors.deep_ensemble import deep_ensemble, init_members
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint


@pytest.fixture(autouse=True)
def _as_callers_have_them():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def init_member(key):
    return {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}


JOINT, KEY, DROPOUT = LogJoint(lambda params, x: x @ params["kernel"]), jax.random.key(0), RowDropout(0.1)


@pytest.mark.parametrize("count", [0, -1, 2.0, 1.5, True, float("nan"), "2"])
def test_members_draws_and_examples_are_whole_numbers(count):
    posterior = deep_ensemble(init_member, 2)
    members = init_members(init_member, KEY, 2)
    for what, call in [
        ("members", lambda: deep_ensemble(init_member, count)),
        ("members", lambda: mc_dropout.mc_dropout(init_member, DROPOUT, count)),
        ("members", lambda: init_members(init_member, KEY, count)),
        ("draws", lambda: base.sample_many(posterior, KEY, members, count)),
        ("draws of each member", lambda: mc_dropout.draws_of_members(KEY, members, DROPOUT, count)),
        ("training examples", lambda: JOINT.objective(count)),
        ("training examples", lambda: mc_dropout.objective(JOINT, DROPOUT, count)),
    ]:
        with pytest.raises(ConfigError, match=f"number of {what} must be a whole number of at least 1, got {count!r}"):
            call()


def test_a_network_is_no_mean_field_member():
    with pytest.raises(ConfigError, match=r"'log_scale': params\}, got \['bias', 'kernel'\]; see init_gaussian"):
        mean_field.kl_divergence(init_member(KEY), GaussianPrior())
