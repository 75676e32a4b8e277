"""Supervised steps: accumulation changes nothing, averages are averages, and a step is a pure function of its state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.training.supervised import (
    SupervisedConfig,
    decayed,
    init_supervised,
    learning_rate_schedule,
    supervised_step,
)

step = jax.jit(supervised_step, static_argnames=("loss", "config"))


def loss(params, key, batch):
    """Weighted least squares of a line; some weights are zero."""
    x, y, weights = batch
    return jnp.sum(weights * (x @ params["slope"] + params["offset"] - y) ** 2), jnp.sum(weights)


def problem(seed, examples):
    keys = jax.random.split(jax.random.key(seed), 4)
    batch = (
        jax.random.normal(keys[0], (examples, 3)),
        jax.random.normal(keys[1], (examples,)),
        jax.random.bernoulli(keys[2], 0.6, (examples,)).astype(jnp.float32),
    )
    return {"slope": jax.random.normal(keys[3], (3,)), "offset": jnp.zeros(())}, batch


def run(config, params, batches):
    state = init_supervised(jax.random.key(3), params, config)
    losses = []
    for batch in batches:
        state, value = step(state, loss, batch, config)
        losses.append(float(value))
    return state, losses


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31 - 1), parts=st.sampled_from([2, 3, 6]))
def test_a_batch_in_parts_has_the_gradient_of_the_whole_where_weights_are_unequal(seed, parts):
    params, batch = problem(seed, 6)
    whole = SupervisedConfig(steps=9, batch_size=6, optimizer="sgd", learning_rate=0.1, warmup_steps=0)
    cut = SupervisedConfig(
        steps=9, batch_size=6, micro_batches=parts, optimizer="sgd", learning_rate=0.1, warmup_steps=0
    )
    (a, loss_a), (b, loss_b) = run(whole, params, [batch] * 2), run(cut, params, [batch] * 2)
    for one, other in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    np.testing.assert_allclose(loss_a, loss_b, rtol=1e-5, atol=1e-6)


def test_one_plain_step_is_the_gradient_by_hand():
    params, batch = problem(1, 4)
    config = SupervisedConfig(
        steps=5, batch_size=4, optimizer="sgd", learning_rate=0.1, schedule="constant", warmup_steps=0
    )
    state, (value,) = run(config, params, [batch])
    x, y, weights = (np.asarray(part, np.float64) for part in batch)
    rest = x @ np.asarray(params["slope"], np.float64) - y
    assert value == pytest.approx((weights * rest**2).sum() / weights.sum(), rel=1e-6)
    slope = 2 * (weights * rest) @ x / weights.sum()
    expected = np.asarray(params["slope"]) - 0.1 * 1.9 * slope  # Nesterov: the first update is g + 0.9 g
    np.testing.assert_allclose(state.params["slope"], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_without_weight_changes_nothing():
    params, (x, y, weights) = problem(2, 4)
    config = SupervisedConfig(steps=5, batch_size=4, optimizer="sgd", warmup_steps=0)
    state, (value,) = run(config, params, [(x, y, 0 * weights)])
    assert value == 0
    np.testing.assert_array_equal(state.params["slope"], params["slope"])


def test_the_average_is_the_weighted_mean_of_all_parameters_so_far():
    params, batch = problem(3, 4)
    config = SupervisedConfig(steps=9, batch_size=4, warmup_steps=0, average_decay=0.8)
    state, seen = init_supervised(jax.random.key(0), params, config), []
    for _ in range(5):
        state, _ = step(state, loss, batch, config)
        seen.append(np.asarray(state.params["slope"], np.float64))
    weights = 0.8 ** np.arange(5)[::-1]
    expected = np.tensordot(weights / weights.sum(), np.stack(seen), 1)
    np.testing.assert_allclose(state.judged["slope"], expected, rtol=1e-5, atol=1e-6)  # float32
    without, _ = run(SupervisedConfig(steps=9, batch_size=4, warmup_steps=0), params, [batch])
    assert without.average is None
    assert without.judged is without.params


def test_clipping_bounds_the_step_and_decay_leaves_vectors_alone():
    params, batch = problem(4, 4)
    config = SupervisedConfig(
        steps=5, batch_size=4, optimizer="sgd", learning_rate=1.0, schedule="constant", warmup_steps=0, clip_norm=1e-3
    )
    state, _ = run(config, params, [batch])
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, params))
    assert float(moved) == pytest.approx(1.9e-3, rel=1e-3)  # Nesterov momentum: 1.9 times the clipped gradient
    assert decayed({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}) == {"kernel": True, "bias": False}


def test_the_rate_rises_to_its_peak_and_ends_near_nothing():
    config = SupervisedConfig(steps=100, warmup_steps=10, learning_rate=0.5)
    rates = np.array([float(learning_rate_schedule(config)(step)) for step in range(101)])
    assert rates[0] == pytest.approx(0.5 / 11)
    assert rates.argmax() == 10
    assert rates.max() == pytest.approx(0.5)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"batch_size": 4, "micro_batches": 3}, "must divide batch_size"),
        ({"optimizer": "lamb"}, "optimizer must be"),
        ({"schedule": "step"}, "schedule must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number, got"),
        ({"average_decay": None}, "average_decay must be a finite number, got None"),
        ({"steps": 10, "warmup_steps": 10}, r"warmup_steps must lie in 0 ... 9"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number of at least 0"),
        ({"average_decay": 1.0}, r"average_decay must lie in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_named(changes, said):
    config = object.__new__(SupervisedConfig)
    config.__dict__.update({field.name: field.default for field in dataclasses.fields(SupervisedConfig)} | changes)
    with pytest.raises(ConfigError, match=said):  # as callers have it, without this test run's checks of types
        config.__post_init__()


def test_a_batch_of_another_size_is_refused():
    params, batch = problem(5, 3)
    config = SupervisedConfig(steps=5, batch_size=4, warmup_steps=0)
    with pytest.raises(InputError, match="4 examples"):
        run(config, params, [batch])
