"""The multilayer perceptron: affine maps with an activation between them.

With its defaults the network of the toy of Balabanov, Mehlig and Linander, "Bayesian posterior approximation with
stochastic ensembles", arXiv:2212.08123: 2-10-10-2, 162 parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.table_activation import SILU, TANH, lookup

Activation = Literal["relu", "tanh", "swish"]
_FUNCTIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "tanh": jax.nn.tanh, "swish": jax.nn.swish}
_TABLES = {"tanh": TANH, "swish": SILU}


@dataclasses.dataclass(frozen=True)
class MlpPrecision:
    """Fixed-point formats: of the input, and of each affine map in order, the output's last.

    `tanh` and `swish` become tables from the format of the map's result to the same format.
    """

    input: FixedPoint
    layers: tuple[LinearPrecision, ...]


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Sizes and activation."""

    channels: int = 2
    """of an input"""
    features: tuple[int, ...] = (10, 10)
    """units of each hidden layer"""
    num_classes: int = 2
    activation: Activation = "relu"
    """tanh and swish are smooth: Hamiltonian dynamics then conserves the energy to second order of the step"""
    precision: MlpPrecision | None = None
    """None: floating point"""

    def __post_init__(self) -> None:
        """Refuse sizes below one, unknown activations, and formats for another number of layers."""
        check_fields(self, channels=1, num_classes=1, features=1)
        if self.precision is not None and len(self.precision.layers) != len(self.features) + 1:
            raise ConfigError(
                f"{len(self.features) + 1} affine maps need as many precisions, got {len(self.precision.layers)}"
            )


class Mlp(nn.Module):
    """Parameters: `hidden_0`, `hidden_1`, ... and `output`, each with `kernel` (in, out) and `bias` (out,)."""

    config: MlpConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch class"]:
        """Logits."""
        config = self.config
        if config.precision is None:
            formats = (None,) * (len(config.features) + 1)
        else:
            x, formats = quantize(x, config.precision.input), config.precision.layers
        for index, features in enumerate(config.features):
            x = self._activated(Dense(features, formats[index], name=f"hidden_{index}")(x), formats[index])
        return Dense(config.num_classes, formats[-1], name="output")(x)

    def _activated(self, x: Array, precision: LinearPrecision | None) -> Array:
        name = self.config.activation
        if precision is None or name not in _TABLES:
            return _FUNCTIONS[name](x)
        return lookup(x, _TABLES[name], precision.result, precision.result)
