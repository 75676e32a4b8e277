"""The multilayer perceptron: affine maps with an activation between them.

With its defaults the network of the toy of Balabanov, Mehlig and Linander, "Bayesian posterior approximation with
stochastic ensembles", arXiv:2212.08123: 2-10-10-2, 162 parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.layers.linear import Dense

Activation = Literal["relu", "tanh", "swish"]
_FUNCTIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "tanh": jax.nn.tanh, "swish": jax.nn.swish}


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Widths and activation."""

    features: int = 2
    """inputs"""
    widths: tuple[int, ...] = (10, 10)
    """units of each hidden layer"""
    num_outputs: int = 2
    """logits"""
    activation: Activation = "relu"
    """tanh and swish are smooth: Hamiltonian dynamics then conserves the energy to second order of the step"""

    def __post_init__(self) -> None:
        """Refuse sizes below one and unknown activations."""
        for name, size in (
            ("features", self.features),
            ("num_outputs", self.num_outputs),
            *((f"widths[{index}]", width) for index, width in enumerate(self.widths)),
        ):
            if size < 1:
                raise ConfigError(f"{name} of a perceptron must be at least 1, got {size}")
        if self.activation not in _FUNCTIONS:
            raise ConfigError(f"activation must be one of {get_args(Activation)}, got {self.activation!r}")


class Mlp(nn.Module):
    """Parameters: `hidden_0`, `hidden_1`, ... and `output`, each with `kernel` (in, out) and `bias` (out,)."""

    config: MlpConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch feature"]) -> Float[Array, "*batch output"]:
        """Logits."""
        act = _FUNCTIONS[self.config.activation]
        for index, width in enumerate(self.config.widths):
            x = act(Dense(width, name=f"hidden_{index}")(x))
        return Dense(self.config.num_outputs, name="output")(x)
