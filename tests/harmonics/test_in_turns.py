"""Work in turns: whatever the number of entries, the same as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.harmonics.turns import in_turns


def joint(x, y):
    """(entry, 2) and (3, entry, 1) are not alike, but have entries on their axis -2; so has the result."""
    return (x[None] * y).astype(jnp.int32)


@given(count=st.integers(0, 9), most=st.integers(1, 10))
def test_turns_of_any_size_give_what_one_gives(count, most):
    x, y = jnp.arange(2.0 * count).reshape(count, 2), jnp.arange(3.0 * count).reshape(3, count, 1)
    found = in_turns(joint, (x, y), most, -2)
    np.testing.assert_array_equal(found, joint(x, y))
    assert found.dtype == np.int32


def test_a_turn_sees_as_many_entries_as_it_may():
    seen = []

    def function(x):
        seen.append(x.shape)
        return x + 1

    in_turns(function, (jnp.zeros((7, 2)),), 3, 0)
    assert set(seen) == {(3, 2)}
    in_turns(function, (jnp.zeros((8, 2)),), 5, 0)
    assert set(seen) == {(3, 2), (4, 2)}


def test_derivatives_go_through_the_turns():
    x = jnp.arange(5.0)
    np.testing.assert_allclose(jax.grad(lambda x: in_turns(jnp.sin, (x,), 2, 0).sum())(x), jnp.cos(x), rtol=1e-6)
