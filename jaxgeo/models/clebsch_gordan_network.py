"""The Clebsch-Gordan network: spherical classification wholly in Fourier space, exactly rotation invariant."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Complex, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.harmonics.precision import check_dtype
from jaxgeo.layers.coefficient_product import (
    PAIRS,
    CoefficientProductPlan,
    DegreeMixing,
    Fragments,
    coefficient_product,
    invariants,
    normalize_fragments,
    plan_coefficient_product,
    real_fragments,
)


@dataclasses.dataclass(frozen=True)
class ClebschGordanNetworkConfig:
    """Layers of Clebsch-Gordan product and channel mixing, each of the same bandlimit.

    Raises:
        ConfigError: sizes that are no whole numbers from 1, or unknown pairs.
    """

    num_classes: int = 10
    bandlimit: int = 10
    features: tuple[int, ...] = (12, 12, 12)  # channels of every degree after each layer
    pairs: str = "channelwise"  # "full" couples every channel with every other, as in the paper; its cost is the square
    hidden: int = 64  # of the invariant head

    def __post_init__(self) -> None:
        check_fields(self, num_classes=1, bandlimit=1, hidden=1, features=1)
        if not self.features:
            raise ConfigError("features are channels per layer, at least one layer, got none")
        if self.pairs not in PAIRS:
            raise ConfigError(f'pairs are "channelwise" or "full", got {self.pairs!r}')


def plan_clebsch_gordan_network(
    config: ClebschGordanNetworkConfig, *, dtype: DTypeLike = jnp.float32
) -> CoefficientProductPlan:
    """Tables of the network; all layers share them.

    Raises:
        ConfigError: float64 without `jax.enable_x64(True)`, or another type.
    """
    return plan_coefficient_product(config.bandlimit, config.pairs, dtype=dtype)


class ClebschGordanNetwork(nn.Module):
    """Logits of a real spherical signal, from its coefficients; no grid between layers and no approximation.

    Each layer multiplies two learned mixtures of its input in the sense of Clebsch and Gordan (the only nonlinearity),
    normalises every degree, and mixes channels, the input's among them. The head sees what is invariant in every layer.

    References:
        Kondor, Lin and Trivedi, "Clebsch-Gordan Nets: a Fully Fourier Space Spherical Convolutional Neural Network",
        arXiv:1806.09231; Gerken et al., "Geometric Deep Learning and Equivariant Neural Networks", arXiv:2105.13926.
    """

    config: ClebschGordanNetworkConfig

    @nn.compact
    def __call__(
        self, plan: CoefficientProductPlan, coefficients: Complex[Array, "*batch degree order channel"]
    ) -> Float[Array, "*batch class"]:
        """Logits before the softmax; intermediate fragments are sown as "fragments".

        Args:
            plan: from `plan_clebsch_gordan_network`.
            coefficients: f_lm of real signals, m from -(L-1) to L-1, as `harmonics.s2.to_dense` gives them; of the
                plan's precision.

        Raises:
            InputError: coefficients of another bandlimit or precision, known ones of a signal that is not real, or a
                plan of another configuration.
        """
        config = self.config
        expected = (config.bandlimit, 2 * config.bandlimit - 1)
        if coefficients.shape[-3:-1] != expected:
            raise InputError(
                f"bandlimit {config.bandlimit} needs coefficients (..., {expected[0]}, {expected[1]}, channel), "
                f"got {coefficients.shape}"
            )
        if (plan.bandlimit, plan.pairs) != (config.bandlimit, config.pairs):
            raise InputError(
                f"the network needs the plan of bandlimit {config.bandlimit} and {config.pairs} pairs, got "
                f"{plan.bandlimit} and {plan.pairs}"
            )
        check_dtype("the array of coefficients", coefficients, jax.tree.leaves(plan)[0].dtype, is_complex=True)
        x = normalize_fragments(real_fragments(coefficients))
        seen = [invariants(x)]
        for i, features in enumerate(config.features):
            x = self._layer(plan, x, features, i)
            self.sow("intermediates", "fragments", x)
            seen.append(invariants(x))
        hidden = nn.relu(_dense(config.hidden, "hidden")(jnp.concatenate(seen, axis=-1)))
        return _dense(config.num_classes, "logits")(hidden)

    def _layer(self, plan: CoefficientProductPlan, x: Fragments, features: int, i: int) -> Fragments:
        left = DegreeMixing(features, name=f"left_{i}")(x)
        right = DegreeMixing(features, name=f"right_{i}")(x)
        product = normalize_fragments(coefficient_product(plan, left, right))
        joined = tuple(jnp.concatenate(pair, axis=-1) for pair in zip(product, x, strict=True))
        return normalize_fragments(DegreeMixing(features, name=f"mixing_{i}")(joined))


def _dense(features: int, name: str) -> nn.Dense:
    # Without a dtype Flax computes in the wider of input and parameters, so float64 coefficients stay float64.
    return nn.Dense(features, name=name, precision=jax.lax.Precision.HIGHEST)
