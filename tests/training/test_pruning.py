"""Pruning: the published schedule, exact zeros that stay, members apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.training.pruning import (
    PruningConfig,
    apply_masks,
    keep_masks,
    magnitude_mask,
    magnitude_masks,
    prune,
    sparsity,
    zero_share,
)

CONFIG = PruningConfig(0.75, 0.25, begin_step=3, updates=4, interval=2, exclude=("head",))


def tree(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 2, 4), "head": (4, 5)}
    return {
        name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.ones(shape[-1])}
        for name, shape in shapes.items()
    }


def test_the_schedule_is_the_published_cubic():
    steps = jnp.arange(16)
    expected = [
        0.0 if t < 3 else 0.75 + (0.25 - 0.75) * (1 - (t - 3) / (4 * 2)) ** 3 if t < 11 else 0.75 for t in range(16)
    ]
    np.testing.assert_allclose(sparsity(CONFIG, steps), expected, rtol=1e-6)  # float32
    assert CONFIG.end_step == 11
    at_once = PruningConfig(0.5, updates=0, begin_step=2)
    np.testing.assert_array_equal(sparsity(at_once, jnp.arange(4)), [0, 0, 0.5, 0.5])


@given(size=st.sampled_from([1, 6, 40]), share=st.integers(0, 40), seed=st.integers(0, 2**31 - 1))
def test_a_mask_takes_exactly_the_share_of_least_magnitude_also_of_equal_weights(size, share, seed):
    # Few different values, so that there are ties.
    weights = jnp.asarray(np.random.default_rng(seed).integers(-3, 4, 40), jnp.float32)[:size]
    mask = np.asarray(magnitude_mask(weights, min(share, size) / size))
    assert (~mask).sum() == min(share, size)
    dropped, kept = np.abs(weights)[~mask], np.abs(weights)[mask]
    assert not dropped.size or not kept.size or dropped.max() <= kept.min()


def test_training_with_pruning_has_the_zeros_of_the_schedule_and_none_comes_back():
    rule = optax.chain(optax.sgd(0.1), prune(CONFIG))
    params, target = tree(), tree(1)

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(lambda a, b: a - b, params, target)
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, dead = rule.init(params), np.zeros((3, 2, 4), bool)
    for number in range(14):
        params, state = step(params, state)
        kernel = np.asarray(params["conv"]["kernel"])
        # Masks are renewed at steps 3, 5, ... 11; the share of a step before holds in between.
        renewed = number - (number - 3) % 2 if number < 11 else 11
        assert (kernel == 0).sum() == round(24 * float(sparsity(CONFIG, jnp.asarray(renewed)))) * (number >= 3)
        assert (kernel[dead] == 0).all()
        dead = kernel == 0
    assert zero_share(params, ("head",)) == 0.75
    assert (np.asarray(params["head"]["kernel"]) != 0).all()
    assert (np.asarray(params["conv"]["bias"]) != 0).all()


def test_members_are_pruned_apart_under_vmap():
    rule = prune(PruningConfig(0.5, updates=0))
    members = [tree(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    zero = jax.tree.map(jnp.zeros_like, stacked)

    @jax.jit
    @jax.vmap
    def step(params, updates):
        updates, state = rule.update(updates, rule.init(params), params)
        return optax.apply_updates(params, updates), state.masks

    found, masks = step(stacked, zero)
    for member, params in enumerate(members):
        expected = magnitude_masks(params, 0.5)
        alone = apply_masks(params, expected)
        for name in params:
            np.testing.assert_array_equal(found[name]["kernel"][member], alone[name]["kernel"])
            np.testing.assert_array_equal(masks[name]["kernel"][member], expected[name]["kernel"])


def test_given_masks_are_held():
    params = tree()
    masks = magnitude_masks(params, 0.5)
    updates, _ = keep_masks(masks).update(params, optax.EmptyState(), params)
    moved = optax.apply_updates(params, updates)
    assert zero_share(moved) == 0.5
    np.testing.assert_array_equal(moved["head"]["bias"], 2 * params["head"]["bias"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PruningConfig(0.2, 0.3), ConfigError, "rises from .*, got 0.3 and 0.2"),
        (lambda: PruningConfig(1.0), ConfigError, r"both in \[0, 1\)"),
        (lambda: PruningConfig(interval=0), ConfigError, "interval must be a whole number of at least 1, got 0"),
        (lambda: prune(CONFIG).init({"head": {"kernel": jnp.ones((2, 2))}}), InputError, "nothing to prune"),
        (lambda: prune(CONFIG).update(tree(), prune(CONFIG).init(tree())), InputError, "it needs them"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_excluded_paths_are_found_at_any_depth():
    nested = {"a": {"head": {"kernel": jnp.ones((2, 2))}}, "b": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones((2, 2))}}
    masks = functools.partial(magnitude_masks, nested, 0.5)(("head",))
    assert masks["a"]["head"]["kernel"].shape == masks["b"]["scale"].shape == ()
    assert int(masks["b"]["kernel"].sum()) == 2
