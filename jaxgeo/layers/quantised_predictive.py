r"""What an ensemble believes, in fixed point, by tables: mean probabilities, their entropy, the members' disagreement.

Logits of M members become probabilities by tables of exp and 1/x (one logit: by a table of the sigmoid), are averaged
over the members, and a table of $-p \ln p$ makes entropies of them. Everything is exact on the grid of its format, so a
circuit that holds the same tables gives the same uncertainty bit for bit.

References:
    Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    arXiv:1612.01474; Houlsby et al., arXiv:1112.5745 (the mutual information).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.rounded_mean import rounded_mean
from jaxgeo.layers.table_activation import ENTROPY, EXP, RECIPROCAL, SIGMOID, lookup


@dataclasses.dataclass(frozen=True)
class PredictivePrecision:
    """Formats of a predictive distribution.

    Raises:
        ConfigError: exponentials, their sum or probabilities that cannot be 1.
    """

    logits: FixedPoint
    """also of what is left of them when their maximum is taken off: input of the table of exp"""
    exponential: FixedPoint
    total: FixedPoint
    """sum of exponentials, at least 1; input of the table of 1/x"""
    reciprocal: FixedPoint
    probability: FixedPoint
    """of a member and of their mean; input of the table of -p ln p"""
    entropy: FixedPoint
    """in nats: of one class, of a member, of the mean, and their difference; signed, as the last may round below 0"""

    def __post_init__(self) -> None:
        """Refuse formats in which certainty has no word."""
        for name in ("exponential", "total", "reciprocal", "probability"):
            format = getattr(self, name)
            if format.max < 1:
                raise ConfigError(
                    f"{name} has to hold 1, but {format} ends at {format.max:g}; ap_ufixed<{format.width},1> would do"
                )

    @classmethod
    def uniform(cls, bits: int = 8, num_classes: int = 2, logit_integer: int = 4) -> "PredictivePrecision":
        """So many bits for every number; logits between -2^(logit_integer - 1) and as much above.

        Raises:
            ConfigError: fewer than 4 bits, or no class.
        """
        if bits < 4 or num_classes < 1:
            raise ConfigError(f"a distribution needs at least 4 bits and a class, got {bits} and {num_classes}")

        def unsigned(integer: int) -> FixedPoint:
            return FixedPoint(bits, integer, False, "RND", "SAT")

        most = max((num_classes - 1).bit_length(), 1)
        # No entropy exceeds the logarithm of the number of classes.
        entropy_bits = 1 + max(math.frexp(math.log(max(num_classes, 2)))[1], 0)
        return cls(
            logits=FixedPoint(bits, logit_integer, True, "RND", "SAT"),
            exponential=unsigned(1),
            total=unsigned(most + 1),
            reciprocal=unsigned(1),
            probability=unsigned(1),
            entropy=FixedPoint(bits, entropy_bits, True, "RND", "SAT"),
        )


class QuantisedPredictive(NamedTuple):
    """Of one ensemble; entropies in nats, each with an axis of one for joining."""

    probabilities: Float[Array, "*batch class"]
    entropy: Float[Array, "*batch 1"]
    """of the mean distribution: total uncertainty"""
    mutual_information: Float[Array, "*batch 1"]
    """that, less the members' mean entropy: epistemic uncertainty"""


def probabilities(logits: Float[Array, "*shape logit"], precision: PredictivePrecision) -> Float[Array, "*shape class"]:
    """Softmax over the last axis by tables; one logit gives two classes, by a table of the sigmoid."""
    logits = quantize(logits, precision.logits)
    if logits.shape[-1] == 1:
        second = lookup(logits, SIGMOID, precision.logits, precision.probability)
        return jnp.concatenate([1.0 - second, second], axis=-1)
    below = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = lookup(below, EXP, precision.logits, precision.exponential)
    part = lookup(jnp.sum(weights, axis=-1, keepdims=True), RECIPROCAL, precision.total, precision.reciprocal)
    return quantize(weights * part, precision.probability)


def predictive(logits: Float[Array, "member *batch class"], precision: PredictivePrecision) -> QuantisedPredictive:
    """Mean probabilities, their entropy and the mutual information of members' logits.

    Raises:
        ConfigError: no member, or too many for the bits, see `jaxgeo.layers.rounded_mean`.
    """
    each = probabilities(logits, precision)
    mean = rounded_mean(each, precision.probability)
    total = _entropy(mean, precision)
    own = rounded_mean(_entropy(each, precision), precision.entropy)
    return QuantisedPredictive(mean, total, quantize(total - own, precision.entropy))


def _entropy(p: Float[Array, "*shape class"], precision: PredictivePrecision) -> Float[Array, "*shape 1"]:
    terms = lookup(p, ENTROPY, precision.probability, precision.entropy)
    return quantize(jnp.sum(terms, axis=-1, keepdims=True), precision.entropy)


def ensemble_predictive(
    apply: Callable[[Any, Array], Array], precision: PredictivePrecision
) -> Callable[[PyTree, Float[Array, "*batch feature"]], QuantisedPredictive]:
    """A pure function of stacked parameters and inputs: all members on the shared input, and what they believe.

    Args:
        apply: one member's logits (batch, class) of its parameters and inputs.
        precision: of the distribution.
    """

    def together(stacked: PyTree, x: Array) -> QuantisedPredictive:
        return predictive(jax.vmap(apply, in_axes=(0, None))(stacked, x), precision)

    return together
