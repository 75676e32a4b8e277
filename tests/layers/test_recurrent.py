"""A rounded cell is the cell itself with its state and output rounded after each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.recurrent import RoundedCell

STATE = FixedPoint(7, 2, True, "RND", "SAT")


@pytest.mark.parametrize(
    "cell", [nn.GRUCell(3), nn.LSTMCell(3), nn.SimpleCell(3)], ids=lambda cell: type(cell).__name__
)
def test_a_scan_of_it_is_the_loop_written_out(cell):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)), jnp.float32)
    outputs, variables = nn.RNN(RoundedCell(cell, STATE)).init_with_output(jax.random.key(0), x)
    own = {"params": variables["params"]["cell"]["cell"]}
    state = cell.initialize_carry(jax.random.key(0), (4, 2))
    for step in range(5):
        state, output = cell.apply(own, state, x[:, step])
        state = jax.tree.map(lambda leaf: quantize(leaf, STATE), state)
        # Rounded to 1/32, where sums in another order may fall to the other side of a tie: none does here.
        np.testing.assert_array_equal(outputs[:, step], quantize(output, STATE))
    assert len(np.unique(outputs)) > 10
