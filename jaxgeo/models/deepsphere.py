"""Graph-convolutional networks on NESTED HEALPix maps: a classifier, and a dense network for segmentation.

Baselines: invariant to the grid's own rotations and nearly so to others, because no filter knows directions.

References:
    Perraudin, Defferrard, Kacprzak, Sgier, "DeepSphere: Efficient spherical convolutional neural network with HEALPix
    sampling for cosmological applications", arXiv:1810.12186 (classifier).
    Defferrard, Milani, Gusset, Perraudin, "DeepSphere: a graph-based spherical CNN", arXiv:2012.15000 (encoder and
    decoder).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError, check_fields, check_one_of
from jaxgeo.grids.healpix import check_nside
from jaxgeo.layers.graph_convolution import ChebyshevConv, HealpixGraph, Pooling, plan_healpix_graph, pool, unpool

Plans = tuple[HealpixGraph, ...]


@dataclasses.dataclass(frozen=True)
class DeepSphereConfig:
    """Chebyshev convolutions, one per level; after each the pixels are pooled by four.

    Raises:
        ConfigError: an impossible nside, kind of pooling or size, or more levels than the nside can be halved.
    """

    num_classes: int = 10
    nside: int = 32
    channels: int = 1
    features: tuple[int, ...] = (16, 32, 64, 64, 64)
    terms: int = 5
    """Chebyshev polynomials per convolution"""
    pooling: str = "max"
    batch_norm: bool = True
    """before the rectifier; its running statistics are the collection `batch_stats`"""

    def __post_init__(self) -> None:
        check_fields(self, num_classes=1, channels=1, terms=1, features=1)
        check_nside(self.nside)
        if not self.features:
            raise ConfigError("features are channels of each level, at least one level, got none")
        check_one_of("pooling", self.pooling, Pooling)
        if self.nside >> len(self.features) == 0:
            raise ConfigError(
                f"{len(self.features)} levels halve the nside as often, which {self.nside} does not bear; "
                f"nside {1 << len(self.features)} or {self.nside.bit_length() - 1} levels would work"
            )

    @property
    def nsides(self) -> tuple[int, ...]:
        """Of the levels on which convolutions act, finest first."""
        return tuple(self.nside >> level for level in range(len(self.features)))


def plan_deepsphere(config: DeepSphereConfig, *, dtype: DTypeLike = jnp.float32) -> Plans:
    """The graphs of all levels, finest first; the last is the one after the last pooling."""
    return tuple(plan_healpix_graph(nside, dtype=dtype) for nside in (*config.nsides, config.nsides[-1] // 2))


class _Block(nn.Module):
    features: int
    config: DeepSphereConfig

    @nn.compact
    def __call__(self, plan: HealpixGraph, x: Array, train: bool) -> Array:
        # The normalisation has an offset of its own.
        x = ChebyshevConv(self.features, self.config.terms, not self.config.batch_norm, name="conv")(plan, x)
        if self.config.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return jax.nn.relu(x)


class DeepSphereClassifier(nn.Module):
    """Logits of a NESTED map: convolutions and poolings, the mean over the last pixels, one affine map."""

    config: DeepSphereConfig

    @nn.compact
    def __call__(
        self, plans: Plans, x: Float[Array, "*batch pixel channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits, in natural units.

        Args:
            plans: from `plan_deepsphere` with the same config.
            x: maps of the configured nside and channels.
            train: normalise by the batch's statistics and update the running ones.

        Raises:
            InputError: not a map of the configured nside and channels, or plans of other grids.
        """
        config = self.config
        _check_map(config, plans, x)
        for level, features in enumerate(config.features):
            x = pool(_Block(features, config, name=f"block_{level}")(plans[level], x, train), config.pooling)
        return nn.Dense(config.num_classes, name="head")(x.mean(-2))


class DeepSphereSegmenter(nn.Module):
    """Logits for each pixel of a NESTED map: the classifier's levels down, and up again with the features of each
    level."""

    config: DeepSphereConfig

    @nn.compact
    def __call__(
        self, plans: Plans, x: Float[Array, "*batch pixel channel"], *, train: bool = False
    ) -> Float[Array, "*batch pixel class"]:
        """Logits, in natural units; arguments and errors as of `DeepSphereClassifier`."""
        config = self.config
        _check_map(config, plans, x)
        skipped = []
        for level, features in enumerate(config.features):
            x = _Block(features, config, name=f"down_{level}")(plans[level], x, train)
            skipped.append(x)
            x = pool(x, config.pooling)
        x = _Block(config.features[-1], config, name="bottom")(plans[-1], x, train)
        for level, features in reversed(list(enumerate(config.features))):
            x = jnp.concatenate([unpool(x), skipped[level]], -1)
            x = _Block(features, config, name=f"up_{level}")(plans[level], x, train)
        return ChebyshevConv(config.num_classes, config.terms, name="head")(plans[0], x)


def _check_map(config: DeepSphereConfig, plans: Plans, x: Array) -> None:
    needed = [(nside, "nested") for nside in (*config.nsides, config.nsides[-1] // 2)]
    found = [(plan.nside, plan.order) for plan in plans]
    if found != needed:
        raise InputError(f"the configured network needs graphs of {needed}, from `plan_deepsphere`, got {found}")
    if x.shape[-2:] != (12 * config.nside**2, config.channels):
        raise InputError(
            f"nside {config.nside} needs maps of shape (..., {12 * config.nside**2}, {config.channels}), got {x.shape}"
        )
