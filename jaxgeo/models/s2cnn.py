"""The common trunk of spherical CNNs: a convolution from the sphere to SO(3), then convolutions on SO(3).

Between two layers a signal is sampled, normalised, acted on and analysed; all else happens to coefficients. All tables
stand in one plan that depends on the configuration alone and is passed as an argument.

References:
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130.
    Gerken, Carlsson, Linander, Ohlsson, Petersson, Persson, "Equivariance versus Augmentation for Spherical Images",
    arXiv:2202.03990.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.grids.latlon import GridName, check_bandlimit, latlon_grid
from jaxgeo.harmonics.s2 import S2Transform, analysis, plan_s2_transform
from jaxgeo.harmonics.so3 import Latitudes
from jaxgeo.harmonics.so3_layout import Packed
from jaxgeo.layers import kernel_points, so3_nonlinearity
from jaxgeo.layers.so3_convolution import (
    ConvolutionPlan,
    S2Convolution,
    SO3Convolution,
    SO3Shortcut,
    plan_s2_convolution,
    plan_so3_convolution,
    plan_so3_shortcut,
)
from jaxgeo.layers.so3_nonlinearity import NonlinearityPlan, plan_so3_nonlinearity
from jaxgeo.layers.spherical_norm import ChannelDropout, SphericalBatchNorm
from jaxgeo.models.plan_layout import Layout, check_layout, layout_of
from jaxgeo.modes import Mode

KernelKind = Literal["near_identity", "equatorial", "full"]


@dataclasses.dataclass(frozen=True)
class KernelGrid:
    """Points where kernels have their learned values.

    - "near_identity": rings around the pole, or rotations near the identity; local.
    - "equatorial": rings around the equator, or rotations that take the pole there; `EQUATORIAL` has the sizes of the
      original program.
    - "full": the SOFT grid of the kernel's bandlimit b, 2b x 2b points on the sphere and 2b x 2b x 2b on SO(3); not
      local. The numbers of points and the angles below have no effect. Tables grow with b^5.

    Raises:
        ConfigError: an unknown kind, numbers of points that are no whole numbers from 1, or a twist that is not finite.
    """

    num_alpha: int = 8
    num_beta: int = 3
    num_gamma: int = 8
    max_gamma: float = 2 * math.pi  # radians; kernels on SO(3) are twisted by -max_gamma to max_gamma
    kind: KernelKind = "near_identity"

    def __post_init__(self) -> None:
        check_fields(self, num_alpha=1, num_beta=1, num_gamma=1)

    def s2_points(self, max_beta: float, bandlimit: int = 1) -> Float[np.ndarray, "point 2"]:
        """On the sphere.

        Args:
            max_beta: extent in colatitude, in units of pi; from the pole or to both sides of the equator.
            bandlimit: of the kernel; for the full grid.
        """
        if self.kind == "full":
            return kernel_points.s2_full_points(bandlimit)
        near = self.kind == "near_identity"
        make_points = kernel_points.s2_near_identity_points if near else kernel_points.s2_equatorial_points
        return make_points(max_beta * math.pi, num_alpha=self.num_alpha, num_beta=self.num_beta)

    def so3_points(self, max_beta: float, bandlimit: int = 1) -> Float[np.ndarray, "point 3"]:
        """On SO(3); arguments as of `s2_points`."""
        if self.kind == "full":
            return kernel_points.so3_full_points(bandlimit)
        near = self.kind == "near_identity"
        make_points = kernel_points.so3_near_identity_points if near else kernel_points.so3_equatorial_points
        return make_points(
            max_beta * math.pi,
            max_gamma=self.max_gamma,
            num_alpha=self.num_alpha,
            num_beta=self.num_beta,
            num_gamma=self.num_gamma,
        )


EQUATORIAL = KernelGrid(num_alpha=32, num_beta=1, num_gamma=2, max_gamma=math.pi / 8, kind="equatorial")
"""The equatorial grid with the sizes of the original program; with a `kernel_max_beta` of 0 its ring is the equator."""


@dataclasses.dataclass(frozen=True)
class S2CNNConfig:
    """Trunk of a spherical CNN: one convolution from the sphere, and one on SO(3) for each further entry of `features`.

    Raises:
        ConfigError: lengths that do not match, sizes that are no whole numbers from 1, unknown words, kernels
            larger than the sphere, or options that exclude each other.
    """

    channels: int = 1
    input_bandlimit: int = 50
    input_grid: GridName = "soft"
    features: tuple[int, ...] = (11, 12, 13, 14, 13, 12, 11)
    bandlimits: tuple[int, ...] = (42, 35, 27, 20, 27, 35, 42)  # of the grids after each convolution
    kernel_max_beta: tuple[float, ...] = (0.1238, 0.1474, 0.1768, 0.2292, 0.3095, 0.2292, 0.1768)  # units of pi
    azimuthal_limit: int | None = None  # N: signals on SO(3) keep orders |n| < N; None: all that the bandlimit has
    kernel_grid: KernelGrid | None = KernelGrid()  # None: the spectra themselves are learned
    shortcuts: bool = False  # residual connections around the convolutions on SO(3)
    batch_norm: bool = False
    dropout_rate: float = 0.0  # of whole channels, after each nonlinearity; rng `dropout`
    oversampling: float = 1.0  # of the grids on which the nonlinearity acts
    latitudes: Latitudes = "soft"  # of these grids; gauss_legendre has half as many
    mode: Mode = "correct"  # faithful: the published program, aliases included
    upstream_backward: bool = False  # the published program's derivatives, which are not those of its forward pass

    def __post_init__(self) -> None:
        check_fields(
            self, features=1, bandlimits=1, channels=1, input_bandlimit=1, kernel_max_beta=(0, 1), oversampling=1
        )
        counts = len(self.features), len(self.bandlimits), len(self.kernel_max_beta)
        if not self.features or counts != (counts[0], counts[0], self.num_kernels):
            raise ConfigError(
                f"features, bandlimits and kernel_max_beta describe the same layers, {self.num_kernels} kernels for "
                f"{counts[0]} features, got lengths {counts}"
            )
        if self.upstream_backward and self.mode != "faithful":
            raise ConfigError("upstream_backward are derivatives of the published program; they need mode='faithful'")
        if self.azimuthal_limit is not None:
            check_bandlimit(self.azimuthal_limit, "the azimuthal limit")
            if self.mode == "faithful":
                raise ConfigError("the published program has no azimuthal limit; use mode='correct'")
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(f"the dropout rate lies in [0, 1), got {self.dropout_rate}")

    @property
    def num_kernels(self) -> int:
        """Number of convolutions with a kernel on points."""
        return len(self.features)

    @property
    def layout(self) -> Layout:
        """What the tables depend on."""
        return layout_of(
            self,
            "input_bandlimit",
            "input_grid",
            "bandlimits",
            "kernel_max_beta",
            "azimuthal_limit",
            "kernel_grid",
            "shortcuts",
            "oversampling",
            "latitudes",
            "mode",
            "upstream_backward",
        )


class TrunkPlan(eqx.Module):
    """All tables of a trunk; build it with `plan_trunk`."""

    layout: Layout = eqx.field(static=True)  # of the configuration that it was made for
    input: S2Transform
    convolutions: tuple[ConvolutionPlan, ...]
    shortcuts: tuple[ConvolutionPlan, ...]  # empty without shortcuts
    nonlinearities: tuple[NonlinearityPlan, ...]


def plan_trunk(config: S2CNNConfig, last_bandlimit: int, dtype: DTypeLike = jnp.float32) -> TrunkPlan:
    """Tables of the trunk, each distinct one built once.

    Args:
        config: of the network.
        last_bandlimit: of the coefficients that leave the last nonlinearity.
        dtype: of all tables, signals and parameters.

    Raises:
        ConfigError: impossible sizes or dtype.
    """
    mode, grids = config.mode, config.bandlimits
    faithful = mode == "faithful"
    orders, kernels = config.azimuthal_limit, config.kernel_grid
    options: dict[str, Any] = {"mode": mode, "orders": orders, "dtype": dtype}
    first = min(config.input_bandlimit, grids[0])
    points = None if kernels is None else kernels.s2_points(config.kernel_max_beta[0], first)
    convolutions = [plan_s2_convolution(points, config.input_bandlimit, grids[0], **options)]
    shortcuts = []
    for i in range(1, len(grids)):
        bandlimit = grids[i] if faithful else min(grids[i - 1], grids[i])
        points = None if kernels is None else kernels.so3_points(config.kernel_max_beta[i], bandlimit)
        convolutions.append(plan_so3_convolution(points, grids[i - 1], grids[i], **options))
        if config.shortcuts:
            shortcuts.append(plan_so3_shortcut(grids[i - 1], grids[i], **options))
    known: dict[tuple, NonlinearityPlan] = {}
    nonlinearities = []
    leaving = [*(plan.bandlimit for plan in convolutions[1:]), last_bandlimit]
    for grid, plan, bandlimit in zip(grids, convolutions, leaving, strict=True):
        key = (plan.bandlimit, bandlimit, grid)
        if key not in known:
            known[key] = plan_so3_nonlinearity(
                plan.bandlimit,
                bandlimit,
                grid_bandlimit=grid,
                oversampling=config.oversampling,
                aliased=faithful,
                upstream_backward=config.upstream_backward,
                latitudes=config.latitudes,
                orders=orders,
                dtype=dtype,
            )
        nonlinearities.append(known[key])
    grid = latlon_grid(config.input_grid, config.input_bandlimit)
    return TrunkPlan(
        layout=config.layout,
        input=plan_s2_transform(grid, convolutions[0].bandlimit, dtype=dtype),
        convolutions=tuple(convolutions),
        shortcuts=tuple(shortcuts),
        nonlinearities=tuple(nonlinearities),
    )


class S2CNNTrunk(nn.Module):
    """Signal on the sphere to coefficients on SO(3), after the last nonlinearity.

    Submodules `input_layer`, `hidden_layers_i`, `skip_layers_i`, `norm_i`.
    """

    config: S2CNNConfig

    @nn.compact
    def __call__(
        self, plan: TrunkPlan, images: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch coefficient feature"]:
        """Packed coefficients of the bandlimit that the plan was built for.

        Args:
            plan: from `plan_trunk`.
            images: signals on the input's grid.
            train: use (and update) the batch's statistics and drop channels.

        Raises:
            InputError: images of another shape than the configuration's, or a plan of another network.
        """
        config = self.config
        check_layout(config.layout, plan.layout)
        if images.shape[-1] != config.channels:
            raise InputError(f"the network takes {config.channels} channels, got images of shape {images.shape}")
        coefficients = analysis(plan.input, images)
        signal = None
        for i, (convolution, nonlinearity) in enumerate(zip(plan.convolutions, plan.nonlinearities, strict=True)):
            features = config.features[i]
            skipped = None
            if i == 0:
                spectrum = S2Convolution(features, name="input_layer")(convolution, coefficients)
            else:
                spectrum = SO3Convolution(features, name=f"hidden_layers_{i - 1}")(convolution, coefficients)
                if config.shortcuts:
                    if features == config.features[i - 1] and config.bandlimits[i] == config.bandlimits[i - 1]:
                        # The signal itself, as it was before its analysis cut it to the band.
                        skipped = signal
                    else:
                        name = f"skip_layers_{i - 1}"
                        spectrum += SO3Shortcut(features, name=name)(plan.shortcuts[i - 1], coefficients)
            if not config.shortcuts:
                coefficients = self._pointwise(i, nonlinearity, spectrum, train=train)
                continue
            # Shortcuts add samples, whose norm is of samples too.
            signal = so3_nonlinearity.samples(nonlinearity, spectrum)
            if skipped is not None:
                signal += skipped
            if config.batch_norm:
                norm = SphericalBatchNorm("so3", name=f"norm_{i}")
                signal = norm(signal, nonlinearity.to_samples.weights, use_running_average=not train)
            signal = jax.nn.relu(signal)
            if config.dropout_rate > 0:
                signal = ChannelDropout("so3", config.dropout_rate)(signal, deterministic=not train)
            coefficients = so3_nonlinearity.coefficients(nonlinearity, signal)
        return coefficients

    def _pointwise(self, i: int, nonlinearity: NonlinearityPlan, spectrum: Packed, *, train: bool) -> Array:
        """Norm, nonlinearity and dropout; only the nonlinearity needs samples."""
        config = self.config
        if config.batch_norm:
            norm = SphericalBatchNorm("so3_spectrum", name=f"norm_{i}")
            spectrum = norm(spectrum, nonlinearity.to_samples.dimensions, use_running_average=not train)
        coefficients = so3_nonlinearity.pointwise(nonlinearity, jax.nn.relu, spectrum)
        if config.dropout_rate > 0:
            coefficients = ChannelDropout("so3_spectrum", config.dropout_rate)(coefficients, deterministic=not train)
        return coefficients


def precompute_kernels(
    model: nn.Module, variables: Mapping[str, Any], plan: eqx.Module, images: Float[Array, "*batch lat lon channel"]
) -> dict[str, Any]:
    """Variables with the collection `spectra`: the kernels' spectra, which prediction then does not compute again.

    They belong to the parameters they were computed from: compute them anew after each update.

    Args:
        model: a spherical CNN of this package, called with (plan, images).
        variables: its variables.
        plan: its plan.
        images: any images of the right shape; only their shape counts.
    """
    variables = {name: value for name, value in variables.items() if name != "spectra"}

    @jax.jit
    def spectra(variables: Mapping[str, Any], plan: eqx.Module, images: Array) -> Any:
        # The compiler drops everything that the spectra do not depend on.
        return model.apply(variables, plan, images, mutable=["spectra"])[1]["spectra"]

    return {**variables, "spectra": spectra(variables, plan, images)}
