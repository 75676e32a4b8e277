"""The log joint against sums of scipy.stats, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.log_joint import GaussianLikelihood, GaussianPrior, LogJoint, categorical, pure_apply


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def random_problem(seed, inputs=3, outputs=4, examples=12):
    rng = np.random.default_rng(seed)
    params = dict(kernel=rng.normal(size=(inputs, outputs)), bias=rng.normal(size=outputs))
    data = rng.normal(size=(examples, inputs)), rng.integers(0, outputs, examples)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params), jnp.asarray(data[0], jnp.float32), data[1]


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), fan_in=st.booleans())
def test_log_joint_is_the_sum_of_scipy_log_densities(seed, scale, fan_in):
    params, x, labels = random_problem(seed)
    joint = LogJoint(affine, GaussianPrior(scale, fan_in=fan_in, bias_scale=0.5 if fan_in else None))
    kernel, bias = np.asarray(params["kernel"], float), np.asarray(params["bias"], float)
    probabilities = scipy.special.softmax(np.asarray(x, float) @ kernel + bias, axis=1)
    likelihood = sum(
        scipy.stats.multinomial.logpmf(np.eye(4)[k], 1, p) for k, p in zip(labels, probabilities, strict=True)
    )
    prior = (
        scipy.stats.norm.logpdf(kernel, scale=scale / np.sqrt(3) if fan_in else scale).sum()
        + scipy.stats.norm.logpdf(bias, scale=0.5 if fan_in else scale).sum()
    )
    targets = jnp.asarray(labels)
    # float32 sums of a few dozen terms, each good to 1e-6 of its size
    np.testing.assert_allclose(joint.log_likelihood(params, x, targets), likelihood, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(joint.log_prior(params), prior, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(joint.log_joint(params, x, targets), likelihood + prior, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_likelihoods_in_parts_have_the_same_sum_and_derivatives(parts):
    params, x, labels = random_problem(4)
    joint, targets = LogJoint(affine), jnp.asarray(labels)
    whole = jax.value_and_grad(joint.log_joint)(params, x, targets)
    summed = jax.value_and_grad(lambda p: joint.log_joint_in_batches(parts, p, x, targets))(params)
    # float32 sums of a few dozen terms in another order
    chex.assert_trees_all_close(whole, summed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [0, 5])
def test_examples_that_do_not_fall_into_equal_parts_are_refused(parts):
    params, x, labels = random_problem(4)
    with pytest.raises(ConfigError, match=f"12 examples do not fall into {parts} equal parts"):
        LogJoint(affine).log_joint_in_batches(parts, params, x, jnp.asarray(labels))


def test_gaussian_likelihood_is_scipys():
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(2, 5, 3)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(targets, predictions, 0.7).sum(1)
    got = GaussianLikelihood(0.7)(jnp.asarray(predictions), jnp.asarray(targets))
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # float32


@given(seed=st.integers(0, 10**6))
def test_batches_of_a_partition_average_to_the_full_objective(seed):
    params, x, labels = random_problem(seed)
    joint = LogJoint(affine)
    loss, key, y = joint.objective(12), jax.random.key(0), jnp.asarray(labels)
    parts = [loss(params, key, x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    full = -joint.log_joint(params, x, y) / 12
    np.testing.assert_allclose(np.mean(parts), full, rtol=1e-5)  # float32
    np.testing.assert_allclose(loss(params, key, x, y), full, rtol=1e-5)


def test_prior_draws_have_the_prior_scales():
    prior = GaussianPrior(2.0, bias_scale=0.25)
    like = dict(kernel=jnp.zeros((16, 4000)), bias=jnp.zeros(4000), gain=jnp.zeros(()))
    drawn = prior.sample(jax.random.key(0), like)
    assert prior.scales(like) == dict(kernel=0.5, bias=0.25, gain=0.25)
    # The standard error of a standard deviation of 4000 draws is 1.1 %.
    np.testing.assert_allclose(drawn["bias"].std(), 0.25, rtol=0.05)
    np.testing.assert_allclose(drawn["kernel"].std(), 0.5, rtol=0.02)
    assert GaussianPrior(2.0).leaf_scale((7,)) == 2.0
    assert GaussianPrior(2.0, fan_in=False).leaf_scale((7, 3)) == 2.0


def test_categorical_takes_any_batch_shape():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    labels = jnp.asarray([[0, 1, 2], [3, 4, 0]])
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(categorical(logits, labels), expected, rtol=1e-6, atol=1e-6)  # float32, another order


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = False):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(x))


def test_running_statistics_are_refused():
    with pytest.raises(ConfigError, match="keeps batch_stats, but a log joint is a function of the parameters alone"):
        pure_apply(Normalised(), jnp.zeros((1, 3)))


def test_a_network_that_needs_a_key_is_refused_and_its_deterministic_form_is_not():
    with pytest.raises(ConfigError, match="needs a random key to predict"):
        pure_apply(Noisy(), jnp.zeros((1, 3)))
    apply = pure_apply(Noisy(), jnp.zeros((1, 3)), deterministic=True)
    params = Noisy().init(jax.random.key(0), jnp.zeros((1, 3)), deterministic=True)["params"]
    x = jnp.ones((1, 3))
    # Flax adds the bias to the matrix product in the same order: only a rounding may differ.
    np.testing.assert_allclose(apply(params, x), affine(params["Dense_0"], x), rtol=1e-6)


@pytest.mark.parametrize(
    ("apply", "change"),
    [
        (pure_apply(nn.Dense(4), jnp.zeros((1, 3))), lambda params: {"params": params}),
        (pure_apply(nn.Dense(4), jnp.zeros((1, 3))), lambda params: params | {"kernel": params["kernel"].T}),
        (nn.Dense(4).apply, lambda params: params),
    ],
)
def test_parameters_that_the_network_does_not_find_are_refused_with_the_tree_that_it_takes(apply, change):
    params, x, labels = random_problem(0)
    LogJoint(pure_apply(nn.Dense(4), x[:1])).check_data(params, x, labels)
    with pytest.raises(ConfigError, match=r"does not find its parameters .* takes the tree module\.init"):
        LogJoint(apply).check_data(change(params), x, labels)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_scales_are_refused(scale):
    for build in (GaussianPrior, GaussianLikelihood, lambda s: GaussianPrior(1.0, bias_scale=s)):
        with pytest.raises(ConfigError, match=r"must be a finite number( above 0| or None)?, got"):
            build(scale)


def test_a_scale_that_would_not_be_looked_at_is_refused():
    with pytest.raises(ConfigError, match="has the scale 1, got bias_scale 2 too"):
        GaussianPrior(1.0, fan_in=False, bias_scale=2.0)


def test_an_objective_without_examples_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        LogJoint(affine).objective(0)
