"""The spin-weighted spherical CNN: classification of signals on the sphere, with oriented filters but no SO(3) grid.

References:
    Esteves, Makadia, Daniilidis, "Spin-Weighted Spherical CNNs", arXiv:2006.10731; the defaults are those of its
    program for digits on the sphere (the first author's later one, in JAX), but for the pooling: degrees are cut off
    here instead of averaging neighbouring samples, and invariants come from coefficients.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.grids.latlon import GridName, check_grid_name, latlon_grid
from jaxgeo.harmonics.s2 import S2Transform, analysis, plan_s2_transform
from jaxgeo.layers.spin_weighted_convolution import (
    SpinConvolution,
    SpinConvolutionPlan,
    check_spins,
    from_scalars,
    plan_spin_convolution,
)
from jaxgeo.layers.spin_weighted_nonlinearity import (
    SpinNonlinearity,
    SpinNonlinearityPlan,
    plan_spin_nonlinearity,
)
from jaxgeo.layers.spin_weighted_norm import SpinBatchNorm, invariants
from jaxgeo.models.plan_layout import Layout, check_layout, layout_of


@dataclasses.dataclass(frozen=True)
class SpinWeightedNetworkConfig:
    """Blocks of convolution, batch norm and nonlinearity; then invariants and an affine layer.

    Raises:
        ConfigError: lengths that do not match, sizes below 1, spins without degrees, an unknown grid.
    """

    num_classes: int = 10
    channels: int = 1
    input_bandlimit: int = 32
    input_grid: GridName = "soft"
    spins: tuple[int, ...] = (0, 1)  # of every layer; the input has spin 0
    features: tuple[int, ...] = (16, 16, 20, 24, 28, 32)  # channels of each spin
    bandlimits: tuple[int, ...] = (32, 32, 16, 16, 8, 8)
    anchors: tuple[int, ...] | None = (6, 6, 4, 4, 3, 3)  # degrees where spectra are learned; None: everywhere
    batch_norm: bool = True
    negative_slope: float = 0.01  # of the nonlinearity at spin 0
    grid: GridName = "gauss_legendre"  # on which nonlinearities act
    oversampling: float = 1.0  # of this grid

    def __post_init__(self) -> None:
        check_fields(
            self, num_classes=1, channels=1, input_bandlimit=1, features=1, bandlimits=1, anchors=1, oversampling=1
        )
        counts = [len(self.features), len(self.bandlimits)] + ([] if self.anchors is None else [len(self.anchors)])
        if not self.features or len(set(counts)) > 1:
            raise ConfigError(f"features, bandlimits and anchors describe the same layers, got lengths {counts}")
        check_spins(min(self.bandlimits), self.spins)
        check_grid_name(self.input_grid)
        check_grid_name(self.grid)

    @property
    def layout(self) -> Layout:
        """What the tables depend on."""
        names = ("input_bandlimit", "input_grid", "spins", "bandlimits", "anchors", "grid", "oversampling")
        return layout_of(self, *names)


class SpinWeightedNetworkPlan(eqx.Module):
    """All tables of a network; build it with `plan_spin_weighted_network`."""

    layout: Layout = eqx.field(static=True)  # of the configuration that it was made for
    input: S2Transform
    convolutions: tuple[SpinConvolutionPlan, ...]
    nonlinearities: tuple[SpinNonlinearityPlan, ...]


def plan_spin_weighted_network(
    config: SpinWeightedNetworkConfig, *, dtype: DTypeLike = jnp.float32
) -> SpinWeightedNetworkPlan:
    """Tables of the network, each distinct one built once.

    Raises:
        ConfigError: impossible anchors, oversampling or dtype.
    """
    anchors = config.anchors or (None,) * len(config.features)
    convolutions = tuple(
        plan_spin_convolution(bandlimit, config.spins if i else (0,), config.spins, anchors=rows, dtype=dtype)
        for i, (bandlimit, rows) in enumerate(zip(config.bandlimits, anchors, strict=True))
    )
    known: dict[tuple[int, int], SpinNonlinearityPlan] = {}
    sizes = list(zip(config.bandlimits, (*config.bandlimits[1:], config.bandlimits[-1]), strict=True))
    for size in sizes:
        if size not in known:
            known[size] = plan_spin_nonlinearity(
                size[0], config.spins, size[1], oversampling=config.oversampling, grid=config.grid, dtype=dtype
            )
    grid = latlon_grid(config.input_grid, config.input_bandlimit)
    return SpinWeightedNetworkPlan(
        layout=config.layout,
        input=plan_s2_transform(grid, config.bandlimits[0], dtype=dtype),
        convolutions=convolutions,
        nonlinearities=tuple(known[size] for size in sizes),
    )


class SpinWeightedNetwork(nn.Module):
    """Logits of real signals, invariant under rotations up to the nonlinearities' aliases.

    Submodules `convolution_i`, `norm_i`, `nonlinearity_i` and `out_layer`.
    """

    config: SpinWeightedNetworkConfig

    @nn.compact
    def __call__(
        self, plan: SpinWeightedNetworkPlan, images: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits.

        Args:
            plan: from `plan_spin_weighted_network`.
            images: signals on the input's grid, of the plan's dtype.
            train: use (and update) the batch's statistics.

        Raises:
            InputError: images of another shape or dtype, or a plan of another network.
        """
        config = self.config
        check_layout(config.layout, plan.layout)
        if images.shape[-1] != config.channels:
            raise InputError(f"the network takes {config.channels} channels, got images of shape {images.shape}")
        x = from_scalars(analysis(plan.input, images))
        for i, (convolution, nonlinearity) in enumerate(zip(plan.convolutions, plan.nonlinearities, strict=True)):
            x = SpinConvolution(config.features[i], name=f"convolution_{i}")(convolution, x)
            if config.batch_norm:
                x = SpinBatchNorm(config.spins, name=f"norm_{i}")(x, use_running_average=not train)
            x = SpinNonlinearity(config.negative_slope, name=f"nonlinearity_{i}")(nonlinearity, x)
        pooled = invariants(x, config.spins)
        pooled = pooled.reshape(*pooled.shape[:-2], math.prod(pooled.shape[-2:]))
        head = nn.Dense(
            config.num_classes, name="out_layer", param_dtype=images.dtype, precision=jax.lax.Precision.HIGHEST
        )
        return head(pooled)
