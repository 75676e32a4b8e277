"""Scaled losses: exact where nothing overflows, small derivatives kept in float16, nothing learnt from overflows."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.training.loss_scales import GROWTH_INTERVAL, LossScale, adjusted, init_loss_scale
from jaxgeo.training.supervised import SupervisedConfig, init_supervised, supervised_step

STEP = jax.jit(supervised_step, static_argnames=("loss", "config"))


def of(**changes):
    sgd = {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.125, "warmup_steps": 0}
    return SupervisedConfig(**{"steps": 9, "batch_size": 4, "loss_scaling": True} | sgd | changes)


def loss(params, key, batch, dtype=jnp.float32, size=1.0):
    """Least squares of a line; its sum is in float32, what it is made of is not."""
    x, y = (part.astype(dtype) for part in batch)
    rest = (x @ params["slope"].astype(dtype) - y) * jnp.asarray(size, dtype)
    return jnp.sum(rest.astype(jnp.float32) ** 2), jnp.asarray(len(y), jnp.float32)


def problem(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {"slope": jax.random.normal(keys[0], (3,))}, (
        jax.random.normal(keys[1], (4, 3)), jax.random.normal(keys[2], (4,))
    )  # fmt: skip


@pytest.mark.parametrize("parts", [1, 2])
def test_a_power_of_two_changes_no_bit_where_nothing_overflows(parts):
    params, batch = problem(0)
    states = []
    for scaling in (False, True):
        config = of(loss_scaling=scaling, micro_batches=parts, average_decay=0.5, clip_norm=1.0)
        state = init_supervised(jax.random.key(1), params, config)
        for _ in range(3):
            state, value = STEP(state, loss, batch, config)
        states.append((state.params, state.average, state.opt_state, value))
        assert (state.loss_scale is not None) == scaling
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, other)


def test_derivatives_that_vanish_in_float16_come_back():
    params, batch = {"slope": jnp.zeros(3)}, problem(1)[1]
    small = functools.partial(loss, dtype=jnp.float16, size=2.0**-13)
    exact = np.asarray(jax.grad(lambda p: loss(p, None, batch, size=2.0**-13)[0])(params)["slope"], np.float64) / 4
    moved = {}
    for scaling in (False, True):
        config = of(loss_scaling=scaling)
        state, _ = STEP(init_supervised(jax.random.key(1), params, config), small, batch, config)
        moved[scaling] = -np.asarray(state.params["slope"], np.float64) / (0.125 * 1.9)
    # float16: 2^-11 of the largest term at each of a few operations.
    np.testing.assert_allclose(moved[True], exact, rtol=0, atol=4e-3 * np.abs(exact).max())
    np.testing.assert_array_equal(moved[False], 0)


def test_nothing_is_learnt_from_an_overflow_and_the_average_counts_updates_alone():
    params, batch = problem(2)
    config = of(average_decay=0.8)
    large = functools.partial(loss, dtype=jnp.float16, size=2.0**3)
    state = before = init_supervised(jax.random.key(1), params, config)
    with jax.debug_nans(False):
        state, value = STEP(state, large, batch, config)
    assert np.isfinite(value)
    assert (int(state.loss_scale.left_out), float(state.loss_scale.factor), int(state.step)) == (1, 2.0**15, 1)
    for one, other in zip(*(jax.tree.leaves(each[:3]) for each in (before, state)), strict=True):
        np.testing.assert_array_equal(one, other)
    while int(state.loss_scale.left_out) == int(state.step):
        with jax.debug_nans(False):
            state, _ = STEP(state, large, batch, config)
    # One update: the average is the parameters.
    np.testing.assert_allclose(state.average["slope"], state.params["slope"], rtol=1e-6)
    assert not np.array_equal(state.params["slope"], params["slope"])


@given(finite=st.lists(st.booleans(), min_size=1, max_size=30), served=st.integers(0, GROWTH_INTERVAL - 1))
def test_the_factor_is_halved_by_each_overflow_and_doubled_after_many_finite_updates(finite, served):
    first = init_loss_scale()
    scale = LossScale(first.factor, jnp.asarray(served, jnp.int32), first.left_out)
    power, count = 16, served
    for each in finite:
        scale = adjusted(scale, jnp.asarray(each))
        count = count + 1 if each else 0
        power = max(power + (count == GROWTH_INTERVAL) - (not each), -24)
        count = 0 if count == GROWTH_INTERVAL else count
        assert (math.log2(scale.factor), int(scale.finite_updates)) == (power, count)
    assert int(scale.left_out) == finite.count(False)
