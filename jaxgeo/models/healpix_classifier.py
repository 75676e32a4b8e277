"""A compact classifier of HEALPix maps, written from layers that hardware can carry."""

import dataclasses
import math

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.grids.healpix import check_nside
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.patch import PatchConv


@dataclasses.dataclass(frozen=True)
class ClassifierPrecision:
    """Fixed-point formats: of the input, and of each layer in order (patch convolutions, then the head)."""

    input: FixedPoint
    layers: tuple[LinearPrecision, ...]


@dataclasses.dataclass(frozen=True)
class HealpixClassifierConfig:
    """Patch convolutions down the NESTED hierarchy, then one affine head on all coarse pixels.

    With the defaults 768 pixels become 48 x 8, then 12 x 16 features, then 10 logits: 2,594 parameters.

    Raises:
        ConfigError: no power of two or four where one is needed, a size below 1, or lengths that do not match.
    """

    num_classes: int = 10
    nside: int = 8
    channels: int = 1
    features: tuple[int, ...] = (8, 16)
    patches: tuple[int, ...] = (16, 4)  # pixels merged by each convolution; powers of four
    precision: ClassifierPrecision | None = None

    def __post_init__(self) -> None:
        check_fields(self, num_classes=1, channels=1, features=1)
        check_nside(self.nside)
        for patch in self.patches:
            # A power of four has its one bit at an even place.
            if patch < 1 or patch & (patch - 1) or not patch.bit_length() % 2:
                raise ConfigError(
                    f"patches must be powers of four, so that each is a coarser HEALPix pixel, got {patch} in "
                    f"{self.patches}; 4 and 16 would work"
                )
        if len(self.features) != len(self.patches):
            raise ConfigError(f"features and patches describe the same layers, got {self.features} and {self.patches}")
        if self.nside**2 % math.prod(self.patches):
            raise ConfigError(
                f"patches {self.patches} merge {math.prod(self.patches)} pixels, more than the {self.nside**2} "
                f"of one base pixel at nside {self.nside}"
            )
        if self.precision is not None and len(self.precision.layers) != len(self.features) + 1:
            raise ConfigError(
                f"{len(self.features) + 1} layers need as many precisions, got {len(self.precision.layers)}"
            )


class HealpixClassifier(nn.Module):
    """Logits of a HEALPix map in NESTED order."""

    config: HealpixClassifierConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch pixel channel"]) -> Float[Array, "*batch class"]:
        """Logits (before the softmax), in natural units.

        Raises:
            InputError: not a map of the configured nside and channels.
        """
        config = self.config
        if x.shape[-2:] != (12 * config.nside**2, config.channels):
            raise InputError(
                f"nside {config.nside} needs maps of shape (..., {12 * config.nside**2}, {config.channels}), "
                f"got {x.shape}"
            )
        precisions = config.precision.layers if config.precision else (None,) * (len(config.features) + 1)
        if config.precision:
            x = quantize(x, config.precision.input)
        for i, (features, patch) in enumerate(zip(config.features, config.patches, strict=True)):
            x = jax.nn.relu(PatchConv(features, patch, precisions[i], name=f"conv_{i}")(x))
        x = x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))
        return Dense(config.num_classes, precisions[-1], name="head")(x)
