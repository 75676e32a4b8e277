"""Several predictions of one example, such as its pixels: each counts, in what is minimised and in what is sampled."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import LIKE, NOISE, PRIOR, assert_standard_normal, exact_posterior, regression, whitened

from jaxgeo.errors import InputError
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.models.planar_cnn import CnnSegmenter, CnnSegmenterConfig
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, mean_field, non_parametric_dropout
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc
from jaxgeo.posteriors.langevin import LangevinConfig, langevin
from jaxgeo.posteriors.laplace import full_laplace
from jaxgeo.posteriors.log_joint import GaussianLikelihood, LogJoint, pure_apply
from jaxgeo.posteriors.microcanonical import MicrocanonicalConfig, microcanonical
from jaxgeo.posteriors.swag import SwagConfig, collect_snapshots
from jaxgeo.training.ensemble import TrainingConfig, fit, init_ensemble


def affine(params, x):
    bias = params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.tensordot(x, params["kernel"], axes=1) + bias


def init_member(key):
    return dict(kernel=jax.random.normal(key, (3, 2)), bias=jnp.zeros(2))


CLASSES, NUMBERS = LogJoint(affine, PRIOR), LogJoint(affine, PRIOR, GaussianLikelihood(NOISE))
KEY, DROPOUT, WEIGHTS = jax.random.key(1), RowDropout(rate=0.25), WeightDropout(rate=0.25)
EXAMPLES, PIXELS = 30, 16
X = jax.random.normal(jax.random.key(2), (EXAMPLES, PIXELS, 3))
LABELS = jax.random.randint(jax.random.key(3), (EXAMPLES, PIXELS), 0, 2)


def test_the_objective_is_the_log_joint_per_example_and_batches_average_to_it():
    params, loss = init_member(KEY), CLASSES.objective(EXAMPLES)
    whole = -CLASSES.log_joint(params, X, LABELS)
    # float32 sums of 480 terms of a nat in another order
    np.testing.assert_allclose(EXAMPLES * loss(params, None, X, LABELS), whole, rtol=1e-5)
    parts = [loss(params, None, X[i : i + 10], LABELS[i : i + 10]) for i in (0, 10, 20)]
    np.testing.assert_allclose(EXAMPLES * np.mean(parts), whole, rtol=1e-5)
    np.testing.assert_allclose(
        CLASSES.log_likelihoods_of_examples(params, X, LABELS),
        [CLASSES.log_likelihood(params, x[None], y[None]) for x, y in zip(X, LABELS, strict=True)], rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("likelihood", [CLASSES, NUMBERS])
@pytest.mark.parametrize("family", ["deep_ensemble", "mc_dropout", "drop_connect", "pairs", "mean_field"])
def test_every_family_minimises_the_same_whether_pixels_are_parts_of_examples_or_examples(family, likelihood):
    targets = LABELS if likelihood is CLASSES else jax.random.normal(KEY, (EXAMPLES, PIXELS, 2))
    first, second = init_member(KEY), init_member(jax.random.key(7))
    build, member = {
        "deep_ensemble": (lambda n: deep_ensemble.objective(likelihood, n), first),
        "mc_dropout": (lambda n: mc_dropout.objective(likelihood, DROPOUT, n), first),
        "drop_connect": (lambda n: drop_connect.objective(likelihood, WEIGHTS, n), first),
        "pairs": (lambda n: non_parametric_dropout.objective(likelihood, n), {"first": first, "second": second}),
        "mean_field": (lambda n: mean_field.objective(likelihood, n), mean_field.init_gaussian(lambda _: first)(KEY)),
    }[family]
    rows, flat_targets = X.reshape(-1, 3), targets.reshape(EXAMPLES * PIXELS, *targets.shape[2:])
    together = build(EXAMPLES)(member, KEY, X, targets) * EXAMPLES
    apart = build(EXAMPLES * PIXELS)(member, KEY, rows, flat_targets) * (EXAMPLES * PIXELS)
    np.testing.assert_allclose(together, apart, rtol=1e-5)  # float32 sums of 480 terms


def test_langevin_chains_end_in_the_posterior_of_all_predictions():
    x, y = regression()
    config = LangevinConfig(
        num_chains=1000, num_cycles=1, steps_per_cycle=600, draws_per_cycle=1, steps_between=1, step_size=2e-3,
        batch_size=4,
    )  # fmt: skip
    four_examples = x.reshape(4, 3, 3), y.reshape(4, 3, 2)
    draws = langevin(lambda key: LIKE, NUMBERS, *four_examples, config).init(jax.random.key(0))
    # As in test_langevin: the steps' own bias is the share epsilon * precision / 4.
    assert_standard_normal(whitened(draws, *exact_posterior(x, y)), bias=0.05)


def test_snapshots_of_examples_with_pixels_are_those_of_pixels_at_a_rate_that_much_larger():
    # A step is rate * gradient, and the gradient of the mean over examples is that over pixels times their number.
    x, y, start = X.reshape(-1, 3), LABELS.reshape(-1), init_member(KEY)
    states = [
        collect_snapshots(
            KEY, CLASSES.objective(number), start, *data,
            SwagConfig(num_snapshots=3, rank=2, steps_between=5, batch_size=number, learning_rate=rate),
        )
        for number, rate, data in ((EXAMPLES, 1e-3, (X, LABELS)), (x.shape[0], 1e-3 * PIXELS, (x, y)))
    ]  # fmt: skip
    assert np.abs(states[0].mean["kernel"] - start["kernel"]).max() > 0.01
    # float32, 15 steps
    chex.assert_trees_all_close(states[0].mean, states[1].mean, rtol=1e-4, atol=1e-6)


def test_hamiltonian_microcanonical_and_laplace_do_not_see_how_predictions_are_grouped():
    x, y = regression()
    grouped = x.reshape(4, 3, 3), y.reshape(4, 3, 2)
    hmc = plan_hmc(NUMBERS, LIKE, HmcConfig(num_chains=2, num_warmup=2, num_draws=2, warmup_leapfrogs=4))
    turns = MicrocanonicalConfig(num_chains=2, num_tuning=4, num_draws=2, thinning=2)
    found = []
    for data in (grouped, (x, y)):
        _, trace = hmc.run(hmc.init(KEY, *data), *data)
        draws = microcanonical(init_member, NUMBERS, *data, turns).init(KEY)
        laplace = full_laplace(NUMBERS, LIKE, *data).init(KEY)
        found.append((trace.position, draws, laplace.cholesky))
    # float32: some 100 steps of a stable motion, and sums of 12 terms
    chex.assert_trees_all_close(*found, rtol=1e-3, atol=1e-4)


def test_a_segmenter_trains_in_the_ensemble_engine():
    images = jax.random.normal(KEY, (16, 5, 5, 1))
    labels = (images[..., 0] > 0.3).astype(jnp.int32)
    model = CnnSegmenter(CnnSegmenterConfig((6,), (1,), (1,), True, size=5, num_classes=2))
    joint = LogJoint(pure_apply(model, images[:1]))
    config = TrainingConfig(epochs=60, batch_size=8, learning_rate=0.1)
    state = init_ensemble(jax.random.split(KEY, 2), lambda key: model.init(key, images[:1])["params"], config)
    state, history = fit(state, joint.objective(16), images, labels, config)
    # In nats per example: 25 pixels of log 2 where nothing is learnt.
    assert (history.loss[0] > 10).all()
    hits = np.argmax(jax.vmap(joint.apply, in_axes=(0, None))(state.params, images), axis=-1) == labels[None]
    # A threshold of one number, which six rectified units can draw: 200 of 400 pixels by chance.
    assert hits.mean(axis=(1, 2, 3)).min() > 0.95
    with pytest.raises(InputError, match=r"labels must have the shape \(16, 5, 5\).*got \(16,\)"):
        fit(state._replace(epoch=jnp.asarray(0)), joint.objective(16), images, labels[:, 0, 0], config)


def test_members_of_a_regression_train_to_the_mean_of_its_posterior():
    x, y = regression()
    config = TrainingConfig(epochs=400, batch_size=12, learning_rate=0.2)
    state = init_ensemble(jax.random.split(KEY, 2), init_member, config)
    state, _ = fit(state, NUMBERS.objective(12), x, y, config)
    # The maximum of a Gaussian log joint: whitened, a hundredth of a standard deviation is the optimiser's rest.
    np.testing.assert_allclose(whitened(state.params, *exact_posterior(x, y)), 0.0, atol=0.01)
