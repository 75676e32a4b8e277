"""Networks with running statistics as members and chains: a trained network's, held constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgeo.errors import ConfigError
from jaxgeo.models.planar_cnn import CnnClassifier, CnnClassifierConfig
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc
from jaxgeo.posteriors.laplace import full_laplace
from jaxgeo.posteriors.log_joint import LogJoint, pure_apply
from jaxgeo.training.ensemble import TrainingConfig, fit, init_ensemble
from jaxgeo.training.losses import mean_cross_entropy

KEY = jax.random.key(0)
NETWORK = CnnClassifier(CnnClassifierConfig((3,), (3,), (2,), True, size=5, num_classes=2))
IMAGES, LABELS = 3.0 + 2.0 * jax.random.normal(KEY, (24, 5, 5, 1)), jnp.arange(24) % 2


@pytest.fixture(scope="module")
def trained():
    """Variables after some steps in which the statistics move."""
    variables = NETWORK.init(KEY, IMAGES)

    @jax.jit
    def step(variables, _):
        def loss(params):
            logits, changed = NETWORK.apply({**variables, "params": params}, IMAGES, train=True, mutable="batch_stats")
            return mean_cross_entropy(logits, LABELS), changed

        gradients, changed = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda w, g: w - 0.1 * g, variables["params"], gradients)
        return {"params": params, **changed}, None

    return jax.lax.scan(step, variables, length=20)[0]


def test_the_frozen_network_is_the_trained_one_at_prediction(trained):
    apply = pure_apply(NETWORK, IMAGES[:1], frozen={"batch_stats": trained["batch_stats"]})
    assert np.abs(trained["batch_stats"]["norm_0"]["mean"]).max() > 0.1  # not what a new network has
    np.testing.assert_array_equal(apply(trained["params"], IMAGES), NETWORK.apply(trained, IMAGES))
    # A function of each input by itself, which batch statistics are not: float32 sums in another order.
    np.testing.assert_allclose(apply(trained["params"], IMAGES[:1]), apply(trained["params"], IMAGES)[:1], rtol=1e-5)


def test_it_is_trained_as_an_ensemble_and_sampled_by_hmc(trained):
    joint = LogJoint(pure_apply(NETWORK, IMAGES[:1], frozen={"batch_stats": trained["batch_stats"]}))
    config = TrainingConfig(epochs=3, batch_size=24, learning_rate=1e-2)
    state = init_ensemble(jax.random.split(KEY, 2), lambda key: NETWORK.init(key, IMAGES[:1])["params"], config)
    state, history = fit(state, joint.objective(24), IMAGES, LABELS, config)
    assert (history.loss[-1] < history.loss[0]).all()
    sampler = plan_hmc(joint, trained["params"], HmcConfig(num_chains=2, num_warmup=3, num_draws=2))
    _, trace = sampler.run(sampler.init(KEY, IMAGES, LABELS, state.params), IMAGES, LABELS)
    draws = sampler.draws(trace.position)
    # Parameters alone: kernel, bias, scale and bias of the norm, head.
    assert sampler.dim == 27 + 3 + 3 + 3 + 24 + 2
    assert np.isfinite(jax.vmap(jax.vmap(lambda p: joint.apply(p, IMAGES)))(draws)).all()
    assert (trace.position[:, 0] != trace.position[:, 1]).any(axis=-1).all()


def test_statistics_that_are_missing_of_another_network_or_would_move_are_refused(trained):
    with pytest.raises(ConfigError, match=r"CnnClassifier keeps batch_stats.*frozen=\{'batch_stats'"):
        pure_apply(NETWORK, IMAGES[:1])
    other = {"batch_stats": {"norm_0": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}}
    for frozen in (other, {**trained, "moments": {}}):
        with pytest.raises(ConfigError, match="frozen must be the collections of CnnClassifier beside its parameters"):
            pure_apply(NETWORK, IMAGES[:1], frozen=frozen)
    with pytest.raises(ConfigError, match=r"changes its running statistics while it predicts.*train=False"):
        pure_apply(NETWORK, IMAGES[:1], frozen={"batch_stats": trained["batch_stats"]}, train=True)
    with pytest.raises(ConfigError, match="keeps no parameters"):
        pure_apply(nn.LayerNorm(use_scale=False, use_bias=False), jnp.zeros((1, 3)))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x))


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(x))


def test_modules_that_are_no_functions_of_their_parameters_are_refused_also_without_pure_apply():
    x, config = jnp.ones((4, 3)), HmcConfig(num_chains=2, num_warmup=0, num_draws=1)
    noisy, normalised = LogJoint(Noisy().apply), LogJoint(Normalised().apply)
    variables = Noisy().init({"params": KEY, "dropout": KEY}, x)
    for likelihood in (noisy, LogJoint(Noisy().apply, likelihood=lambda logits, labels: logits[:, 0])):
        with pytest.raises(ConfigError, match="the network needs a random key to predict"):
            plan_hmc(likelihood, variables, config).init(KEY, x, LABELS[:4])
    with pytest.raises(ConfigError, match="needs a random key"):
        full_laplace(noisy, variables, x, LABELS[:4])
    variables = Normalised().init(KEY, x)
    with pytest.raises(ConfigError, match=r"got the collections \['batch_stats', 'params'\] of a module"):
        plan_hmc(normalised, variables, config)
    with pytest.raises(ConfigError, match="batch_stats would be taken for weights"):
        full_laplace(normalised, variables, x, LABELS[:4])
    held = LogJoint(lambda params, x: Normalised().apply({**variables, "params": params}, x))
    with pytest.raises(ConfigError, match="the network changes its running statistics"):
        plan_hmc(held, variables["params"], config).init(KEY, x, LABELS[:4])
    alone = LogJoint(lambda params, x: Normalised().apply({"params": params}, x))
    with pytest.raises(ConfigError, match=r"and as frozen=\.\.\. what the module keeps beside it, such as batch_stats"):
        plan_hmc(alone, variables["params"], config).init(KEY, x, LABELS[:4])


def test_the_parameters_of_a_module_may_stand_below_their_collections_name():
    x, module = jnp.ones((4, 3)), nn.Dense(2)
    variables = module.init(KEY, x)
    sampler = plan_hmc(LogJoint(module.apply), variables, HmcConfig(num_chains=2, num_warmup=0, num_draws=1))
    assert sampler.init(KEY, x, LABELS[:4]).position.shape == (2, 8)
