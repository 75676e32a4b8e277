"""Fixed-point numbers as pure functions: the quantiser that hardware applies, with a straight-through gradient."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError

Rounding = Literal["TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV"]
Overflow = Literal["WRAP", "SAT", "SAT_ZERO", "SAT_SYM"]


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A format `ap_fixed<width, integer, rounding, overflow>`; `integer` counts the sign bit."""

    width: int
    integer: int
    signed: bool = True
    rounding: Rounding = "TRN"
    overflow: Overflow = "WRAP"

    @property
    def fraction(self) -> int:
        """Bits after the binary point."""
        return self.width - self.integer


# A primitive of its own, so that an exporter that reads the jaxpr finds the format and not a cloud of
# multiplications and rounds.
fixed_point_quantize_p = Primitive("fixed_point_quantize")


def quantize(x: Float[Array, "*shape"], format: FixedPoint) -> Float[Array, "*shape"]:
    """The nearest representable values of `x`, as the assignment to an `ap_fixed` gives them."""
    return fixed_point_quantize_p.bind(x, format=format)
