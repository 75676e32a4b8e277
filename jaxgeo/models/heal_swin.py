"""HEAL-SWIN: a U-shaped network of window attention on HEALPix maps in NESTED order, and its encoder as a classifier.

References:
    Carlsson, Gerken, Linander, Spiess, Ohlsson, Petersson, Persson, "HEAL-SWIN: A Vision Transformer On The Sphere",
    arXiv:2307.07313.
"""

import dataclasses
import math
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxgeo.errors import ConfigError, InputError, check_fields, check_whole
from jaxgeo.grids.healpix import check_nside
from jaxgeo.grids.healpix_windows import nested_places
from jaxgeo.grids.window_shifts import ShiftKind, plan_shift
from jaxgeo.layers.position_bias import face_bias_index, num_face_biases, num_window_biases, window_bias_index
from jaxgeo.layers.token_layers import Dense
from jaxgeo.layers.window_plan import WindowPlan, plan_windows
from jaxgeo.models.plan_layout import Layout, layout_of
from jaxgeo.models.swin_unet import Decoder, Encoder, StagePlan, SwinUNetConfig, check_stages

_DROPPED_PIXELS = 64**2

PositionBias: TypeAlias = Literal["none", "window", "face"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealSwinConfig(SwinUNetConfig):
    """Defaults: the published network for maps of nside 256 on the faces 0 to 7, 41 million parameters.

    In mode `correct` a window is no larger than a face and shifted as long as it has parts; `faithful` takes windows
    over several faces (without position bias also of other sizes), shifts of any length, and where there are no more
    tokens than a window has, one window of all tokens, unshifted.

    Raises:
        ConfigError: see `SwinUNetConfig`; or an impossible nside, patch, window or shift, or more stages than the nside
            can be halved.
    """

    nside: int = 256
    base_pixels: tuple[int, ...] = tuple(range(8))
    """faces of the map, in the order of its pixels"""
    patch_size: int = 4
    """pixels of a token, a power of four"""
    window_size: int = 64
    """tokens of a window, a power of four but in mode `faithful`"""
    shift: ShiftKind = "spiral"
    shift_size: int = 4
    """see `plan_shift`; 0: no block is shifted, nor by less in mode `faithful`; `grid` and `seamless` move by half a
    window whatever is said here"""
    position_bias: PositionBias = "window"
    """`window`: by offset in the window; `face`: by face, and offset in its lattice, which is not published"""
    latitude: bool = False
    """join `latitude_channel` to the channels of each pixel, which is not published: what is learnt at one longitude
    then holds at others, where a table of absolute positions has learnt nothing"""
    pixel_width: int = 0
    """hidden width of a perceptron from each pixel's own channels to logits that are added to the decoder's; 0: none,
    as published. What a pixel alone tells need then not pass through the few numbers of its token"""
    context_dropout_rate: float = 0.0
    """with a perceptron: probability with which training drops the decoder's logits in a sub-square of 64 x 64 pixels
    (or a face), so that neither part leans on the other"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, pixel_width=0, base_pixels=(0, 11))
        check_nside(self.nside)
        check_whole("shift_size", self.shift_size, None if self.mode == "faithful" else 0)
        if not 0 <= self.context_dropout_rate < 1:
            raise ConfigError(f"context_dropout_rate must lie in 0 ... 1, without 1, got {self.context_dropout_rate}")
        if self.context_dropout_rate and not self.pixel_width:
            raise ConfigError("context_dropout_rate needs pixel_width: without a pixel's own logits nothing is left")
        any_window = self.mode == "faithful" and self.position_bias == "none" and self.shift in ("spiral", "nest_roll")
        for name, any_size in (("patch_size", False), ("window_size", any_window)):
            value = getattr(self, name)
            check_whole(name, value, 1 if any_size else 4)
            if not any_size and (value & (value - 1) or not value.bit_length() % 2):
                raise ConfigError(f"{name} must be a power of four, so that it is a square of pixels, got {value}")
        faces = self.base_pixels
        if not faces or len(set(faces)) < len(faces):
            raise ConfigError(f"base_pixels are one to twelve different faces, 0 to 11, got {faces}")
        if self.nsides[-1] == 0:
            raise ConfigError(
                f"patches of {self.patch_size} and {len(self.depths)} stages need nside "
                f"{math.isqrt(self.patch_size) << (len(self.depths) - 1)} or more, got {self.nside}"
            )
        if self.position_bias != "none" and self.mode == "faithful":
            for nside in self.nsides:
                if len(faces) * nside**2 < self.window_size:
                    raise ConfigError(
                        f"the published program has no position bias where a stage has fewer tokens, here "
                        f"{len(faces) * nside**2}, than the window of {self.window_size}; take mode 'correct', "
                        f"a smaller window or position_bias 'none'"
                    )

    @property
    def nsides(self) -> tuple[int, ...]:
        """Of the tokens of all stages."""
        return tuple(self.nside // math.isqrt(self.patch_size) >> stage for stage in range(len(self.depths)))

    @property
    def num_pixels(self) -> int:
        """Of a map."""
        return len(self.base_pixels) * self.nside**2

    @property
    def patch_pixels(self) -> int:
        """Pixels of a token."""
        return self.patch_size

    @property
    def bias_rows(self) -> int:
        """Rows of the tables of position biases."""
        if self.position_bias == "face":
            return num_face_biases(self.window_size, len(self.base_pixels))
        return num_window_biases(self.window_size) if self.position_bias == "window" else 0

    @property
    def layout(self) -> Layout:
        """What `plan_heal_swin` depends on; without the size of a shift that has none of its own."""
        settings = layout_of(self, "nside", "base_pixels", "patch_size", "window_size", "position_bias", "mode")
        shift = self.shift if self.shift_size > 0 else "none"
        size = self.shift_size if shift in ("spiral", "nest_roll") else 0
        return *settings, ("shift", shift), ("shift_size", size), ("shifted_stages", self.shifted_stages)

    @property
    def shifted_stages(self) -> tuple[bool, ...]:
        """Whether each stage has a shifted block: its second."""
        return tuple(self.shift_size > 0 and depth > 1 for depth in self.depths)


def latitude_channel(nside: int, base_pixels: tuple[int, ...] = tuple(range(12))) -> Float32[np.ndarray, " pixel"]:
    """|sin latitude| of the pixels of some faces, NESTED, brought to mean 0 and variance 1 over the sphere.

    Equal areas lie between equal heights, so it is uniform on [0, 1] before. Pixels that a symmetry of the grid
    exchanges have the same value.

    References:
        Gorski et al., "HEALPix", ApJ 622 (2005), arXiv:astro-ph/0409513, section 5.1: heights of the rings.
    """
    x, y = nested_places(nside)
    row = np.asarray(base_pixels)[:, None] // 4
    from_equator = np.abs(x[None] + y[None] + 1 - row * nside).reshape(-1)  # rings
    from_pole = 2 * nside - from_equator
    height = np.where(from_equator <= nside, from_equator / (1.5 * nside), 1 - (from_pole / nside) ** 2 / 3)
    return ((height - 0.5) * math.sqrt(12)).astype(np.float32)


class HealSwinPlan(eqx.Module):
    """Windows and shifts of all stages."""

    stages: tuple[StagePlan, ...]
    layout: Layout = eqx.field(static=True)
    """that it was made for"""


def plan_heal_swin(config: HealSwinConfig) -> HealSwinPlan:
    """The windows and shifts of a network.

    Raises:
        ConfigError: a shift that the faces or windows do not allow, see `plan_shift`.
    """
    stages = zip(config.nsides, config.shifted_stages, strict=True)
    return HealSwinPlan(tuple(_plan_stage(config, nside, shifted) for nside, shifted in stages), config.layout)


def _plan_stage(config: HealSwinConfig, nside: int, shifted: bool) -> StagePlan:
    tokens = len(config.base_pixels) * nside**2
    window, shift_size = config.window_size, config.shift_size
    if config.mode == "faithful":
        if tokens <= window:
            window, shift_size = tokens, 0
    elif window > nside**2:
        # A smaller square, moved by as much of it.
        part = nside**2 / window
        window = nside**2
        shift_size = round(shift_size * (part if config.shift == "nest_roll" else math.sqrt(part))) or 1
        shift_size *= window > 1
    straight = _plan_block(config, nside, window, None, None)
    # A shift that no block takes need not be possible.
    if shift_size <= 0 or not shifted:
        return StagePlan(straight, straight)
    plan = plan_shift(config.shift, nside, window, shift_size, config.base_pixels, config.mode)
    return StagePlan(straight, _plan_block(config, nside, window, np.asarray(plan.source), np.asarray(plan.labels)))


def _plan_block(
    config: HealSwinConfig, nside: int, window: int, source: np.ndarray | None, labels: np.ndarray | None
) -> WindowPlan:
    tokens = len(config.base_pixels) * nside**2
    index = None
    if config.position_bias == "window":
        # A window of several faces or of parts of one has no square: its tokens are placed as in a square.
        index = window_bias_index(window, config.window_size)
    elif config.position_bias == "face":
        order = np.arange(tokens) if source is None else source
        index = face_bias_index(nside, config.base_pixels, order, window, config.window_size)
    return plan_windows(tokens, window, source=source, labels=labels, bias_index=index)


class HealSwin(nn.Module):
    """Logits (or depths) for each pixel of a map."""

    config: HealSwinConfig

    @nn.compact
    def __call__(
        self, plan: HealSwinPlan, x: Float[Array, "*batch pixel channel"], *, train: bool = False
    ) -> Float[Array, "*batch pixel class"]:
        """Logits in natural units: float32, or float64 where inputs of float64 meet no `compute_dtype`.

        Args:
            plan: from `plan_heal_swin` with the same config.
            x: maps in NESTED order, the configured faces one after the other.
            train: with dropout and stochastic depth, which take the rngs `dropout` and `stochastic_depth`; dropped
                context takes the latter too.

        Raises:
            InputError: not a map of the configured faces, nside and channels, or a plan of another network.
        """
        config = self.config
        channels = _known(config, x)
        x, skipped = _encode(config, plan, channels, train)
        logits = Decoder(config, not train, name="decoder")(plan.stages, x, skipped)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if not config.pixel_width:
            return logits
        if config.context_dropout_rate and train:
            logits = self._without_some(logits)
        # Beside the published network: few channels, which cost nothing in float32, and the quick form of the GELU.
        hidden = channels
        for layer in ("pixel_0", "pixel_1"):
            hidden = nn.gelu(Dense(config.pixel_width, name=layer)(hidden))
        return logits + Dense(config.num_classes, name="pixel_output")(hidden).astype(logits.dtype)

    def _without_some(self, logits: Array) -> Array:
        """Zeros in some sub-squares; not scaled, as the sum of two opinions has no expectation to keep."""
        square = min(_DROPPED_PIXELS, self.config.nside**2)
        parts = logits.reshape(*logits.shape[:-2], logits.shape[-2] // square, square, logits.shape[-1])
        kept = jax.random.bernoulli(
            self.make_rng("stochastic_depth"), 1 - self.config.context_dropout_rate, (*parts.shape[:-2], 1, 1)
        )
        return jnp.where(kept, parts, jnp.zeros_like(parts)).reshape(logits.shape)


class HealSwinClassifier(nn.Module):
    """Logits of a whole map: the encoder, the mean over its tokens, one affine map `head`."""

    config: HealSwinConfig

    @nn.compact
    def __call__(
        self, plan: HealSwinPlan, x: Float[Array, "*batch pixel channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits in natural units; arguments and errors as of `HealSwin`."""
        x, _ = _encode(self.config, plan, _known(self.config, x), train)
        mean = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=-2)
        return Dense(self.config.num_classes, name="head")(mean)


def _known(config: HealSwinConfig, x: Array) -> Array:
    """The channels, with the latitude where it is to be known."""
    if x.ndim < 2 or x.shape[-2:] != (config.num_pixels, config.channels):
        raise InputError(
            f"nside {config.nside} on {len(config.base_pixels)} faces needs maps of shape "
            f"(..., {config.num_pixels}, {config.channels}), got {x.shape}"
        )
    if not config.latitude:
        return x
    channel = jnp.asarray(latitude_channel(config.nside, config.base_pixels), x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(channel[:, None], (*x.shape[:-1], 1))], axis=-1)


def _encode(config: HealSwinConfig, plan: HealSwinPlan, x: Array, train: bool) -> tuple[Array, tuple[Array, ...]]:
    """To be called inside of a compact module."""
    tokens = config.num_pixels // config.patch_size
    check_stages(config, plan.stages, plan.layout, tokens)
    patches = x.reshape(*x.shape[:-2], tokens, x.shape[-2] // tokens * x.shape[-1])
    return Encoder(config, not train, name="encoder")(plan.stages, patches)
