"""Recurrent cells in fixed point."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.layers.fixed_point import FixedPoint, quantize

Carry = Any  # a cell's state: an array, or a tuple of arrays


class RoundedCell(nn.RNNCellBase):
    """Any cell of linen with its state and its output rounded after each step.

    The products of a gated cell make numbers of more bits in each step; rounded once a step they stay as wide as they
    were, so that a scan over any number of steps is exact. The cell's own functions have to be rounded as well, for
    example `nn.GRUCell(8, gate_fn=lambda x: lookup(x, SIGMOID, sums, gates), activation_fn=...)` by
    `jaxgeo.layers.table_activation`, and its parameters before they are applied.

    Attributes:
        cell: any.
        format: of its state and output.
    """

    cell: nn.RNNCellBase
    format: FixedPoint

    def __call__(
        self, carry: Carry, inputs: Float[Array, "*batch feature"]
    ) -> tuple[Carry, Float[Array, "*batch unit"]]:
        """The state after this step, and the output."""
        carry, outputs = self.cell(carry, inputs)
        return jax.tree.map(lambda leaf: quantize(leaf, self.format), carry), quantize(outputs, self.format)

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKeyArray, input_shape: tuple[int, ...]) -> Carry:
        """The state that the cell itself starts from."""
        return self.cell.initialize_carry(rng, input_shape)

    @property
    def num_feature_axes(self) -> int:
        """Of an input: those of the cell."""
        return self.cell.num_feature_axes
