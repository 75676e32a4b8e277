"""Non-parametric dropout on the parameter tree: which weights share a coin, and how the coins fall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.layers.unit_choice import UnitChoice, choose, init_pair, units


def init_member(key):
    a, b = jax.random.split(key)
    return dict(
        hidden=dict(kernel=jax.random.normal(a, (2, 3, 4)), bias=jnp.ones(4)),
        norm=dict(scale=jnp.ones(4), threshold=jnp.zeros(4), epsilon=jnp.zeros(())),
        output=dict(kernel=jax.random.normal(b, (4, 3)), bias=jnp.zeros(3)),
    )


PAIR = dict(
    first=jax.tree.map(jnp.ones_like, init_member(jax.random.key(0))),
    second=jax.tree.map(jnp.zeros_like, init_member(jax.random.key(0))),
)
DRAWS = jax.jit(jax.vmap(lambda key: choose(key, PAIR)))(jax.random.split(jax.random.key(1), 2000))


def test_a_pair_starts_as_two_networks():
    pair = init_pair(init_member)(jax.random.key(3))
    assert jax.tree.structure(pair["first"]) == jax.tree.structure(init_member(jax.random.key(0)))
    assert not np.any(pair["first"]["hidden"]["kernel"] == pair["second"]["hidden"]["kernel"])


@given(seed=st.integers(0, 2**31 - 1))
def test_a_draw_is_an_ordinary_tree_whose_columns_come_whole_from_one_copy(seed):
    drawn = choose(jax.random.key(seed), PAIR)
    assert jax.tree.structure(drawn) == jax.tree.structure(PAIR["first"])
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (drawn, PAIR["first"])]
    assert shapes[0] == shapes[1]
    for module in ("hidden", "output"):
        kernel, bias = np.asarray(drawn[module]["kernel"]), np.asarray(drawn[module]["bias"])
        np.testing.assert_array_equal(kernel, np.broadcast_to(bias, kernel.shape))
    np.testing.assert_array_equal(drawn["norm"]["scale"], drawn["norm"]["threshold"])


def test_each_unit_is_the_first_copy_half_of_the_time_and_units_are_independent():
    coins = np.concatenate(
        [np.asarray(DRAWS[m][n]) for m, n in (("hidden", "bias"), ("norm", "scale"), ("output", "bias"))], axis=1
    )
    coins = np.concatenate([coins, np.asarray(DRAWS["norm"]["epsilon"])[:, None]], axis=1)
    # 2000 coins: standard errors 0.011 of a mean and 0.022 of a correlation, 5 of them for 12 and 66 of those.
    np.testing.assert_allclose(coins.mean(0), 0.5, atol=0.056)
    np.testing.assert_allclose(np.corrcoef(coins.T), np.eye(12), atol=0.112)


def test_units_are_counted_once_by_module_and_fixed_modules_are_the_first_copy():
    assert units(PAIR["first"]) == {("hidden", "4"): 4, ("norm", "1"): 1, ("norm", "4"): 4, ("output", "3"): 3}
    drawn = choose(jax.random.key(5), PAIR, UnitChoice(fixed=("output", "norm")))
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves([drawn["output"], drawn["norm"]]))
    assert set(units(PAIR["first"], UnitChoice(fixed=("output", "norm")))) == {("hidden", "4")}


@pytest.mark.parametrize(
    ("pair", "choice", "message"),
    [
        (PAIR["first"], UnitChoice(), "a pair of networks is a tree .* got .'hidden', 'norm', 'output'."),
        (dict(first=jnp.ones(2), second=jnp.ones(3)), UnitChoice(), "must have the same shapes"),
        (PAIR, UnitChoice(fixed=("head",)), r"fixed names \['head'\]"),
        (PAIR, UnitChoice(fixed=("hidden", "norm", "output")), "no unit to choose"),
    ],
)
def test_what_is_no_pair_and_an_impossible_choice_are_refused(pair, choice, message):
    with pytest.raises(ConfigError, match=message):
        choose(jax.random.key(0), pair, choice)
