"""Segmentation of signals on the sphere by a spherical CNN that goes down in bandlimit and up again.

References:
    Gerken, Carlsson, Linander, Ohlsson, Petersson, Persson, "Equivariance versus Augmentation for Spherical Images",
    arXiv:2202.03990; the defaults are its S2CNN with 204k parameters.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import check_whole
from jaxgeo.grids.latlon import latlon_grid
from jaxgeo.harmonics.s2 import S2Transform, plan_s2_transform, synthesis
from jaxgeo.layers.so3_convolution import ConvolutionPlan, SO3ToS2, plan_so3_to_s2
from jaxgeo.models.plan_layout import Layout
from jaxgeo.models.s2cnn import S2CNNConfig, S2CNNTrunk, TrunkPlan, plan_trunk


@dataclasses.dataclass(frozen=True)
class S2CNNSegmenterConfig(S2CNNConfig):
    """A trunk and a convolution back to the sphere; the defaults have 204,073 parameters.

    `kernel_max_beta` has one entry more than `features`, for the last convolution.

    Raises:
        ConfigError: as the trunk's, or no class or output bandlimit.
    """

    kernel_max_beta: tuple[float, ...] = (0.1238, 0.1474, 0.1768, 0.2292, 0.3095, 0.2292, 0.1768, 0.1474)
    num_classes: int = 11
    output_bandlimit: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_classes", "output_bandlimit"):
            check_whole(name, getattr(self, name))

    @property
    def num_kernels(self) -> int:
        """Number of convolutions with a kernel on points."""
        return len(self.features) + 1

    @property
    def layout(self) -> Layout:
        """What the tables depend on."""
        return *super().layout, ("output_bandlimit", self.output_bandlimit)


class S2CNNSegmenterPlan(eqx.Module):
    """All tables of a segmenter; build it with `plan_s2cnn_segmenter`."""

    trunk: TrunkPlan
    projection: ConvolutionPlan
    output: S2Transform


def plan_s2cnn_segmenter(config: S2CNNSegmenterConfig, *, dtype: DTypeLike = jnp.float32) -> S2CNNSegmenterPlan:
    """Tables of the network.

    Raises:
        ConfigError: impossible sizes or dtype.
    """
    last, points = config.bandlimits[-1], None
    if config.kernel_grid is not None:
        bandlimit = config.output_bandlimit if config.mode == "faithful" else min(last, config.output_bandlimit)
        points = config.kernel_grid.so3_points(config.kernel_max_beta[-1], bandlimit)
    options: dict[str, Any] = {"mode": config.mode, "orders": config.azimuthal_limit, "dtype": dtype}
    projection = plan_so3_to_s2(points, last, config.output_bandlimit, **options)
    grid = latlon_grid(config.input_grid, config.output_bandlimit)
    return S2CNNSegmenterPlan(
        trunk=plan_trunk(config, projection.bandlimit, dtype),
        projection=projection,
        output=plan_s2_transform(grid, projection.bandlimit, dtype=dtype),
    )


class S2CNNSegmenter(nn.Module):
    """Logits of each point of the sphere. Submodules `trunk` and `output_layer`."""

    config: S2CNNSegmenterConfig

    @nn.compact
    def __call__(
        self, plan: S2CNNSegmenterPlan, images: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch out_lat out_lon class"]:
        """Logits on the output's grid.

        Args:
            plan: from `plan_s2cnn_segmenter`.
            images: signals on the input's grid, of the plan's dtype.
            train: use the batch's statistics and drop channels, where the configuration has batch norm and dropout.

        Raises:
            InputError: images of another shape or dtype, or a plan of another network.
        """
        coefficients = S2CNNTrunk(self.config, name="trunk")(plan.trunk, images, train=train)
        logits = SO3ToS2(self.config.num_classes, name="output_layer")(plan.projection, coefficients)
        return synthesis(plan.output, logits)
