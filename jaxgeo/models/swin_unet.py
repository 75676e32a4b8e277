"""The U-shaped network of window attention that HEAL-SWIN and its flat baseline share.

The names of modules and parameters follow the published program's, so that weights go over by name.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313.
    Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", arXiv:2105.05537.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_one_of, check_real, check_whole, check_whole_tuple
from jaxgeo.layers.parts import in_parts
from jaxgeo.layers.swin_blocks import (
    MERGED,
    BlockConfig,
    NormPlacement,
    PatchExpansion,
    PatchMerging,
    SwinBlock,
)
from jaxgeo.layers.token_layers import Dense, LayerNorm, dropout
from jaxgeo.layers.window_attention import Attention, Chunk, windows_at_a_time
from jaxgeo.layers.window_plan import WindowPlan
from jaxgeo.models.plan_layout import Layout, check_layout
from jaxgeo.modes import Mode

ComputeDtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinUNetConfig(abc.ABC):
    """What the networks on the sphere and on pictures share; defaults of the published runs.

    Abstract: what a token, a window and a shift are, each network says itself.

    Raises:
        ConfigError: an unknown choice, a size below 1, a rate outside [0, 1), lengths that do not match, or heads that
            do not divide their stage's channels.
    """

    num_classes: int = 10
    """classes, or 1 for depth and 2 for depth with its logarithmic variance"""
    channels: int = 3
    embed_dim: int = 96
    """channels of the first stage; each further stage has twice as many"""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """blocks of each stage; every second one is shifted"""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    attention: Attention = "cosine"
    norm_placement: NormPlacement = "post"
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    """factor of dot attention's logits; None: 1 / sqrt(channels of a head)"""
    absolute_position: bool = False
    """a learned vector for each token, added after the embedding"""
    patch_norm: bool = False
    """normalise the embedded patches"""
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    stochastic_depth_rate: float = 0.1
    """rate of the encoder's last block; it grows linearly from 0, and a decoder's stage has its encoder stage's"""
    mode: Mode = "correct"
    """`faithful`: quirks of the published program, with which its outputs are met"""
    compute_dtype: ComputeDtype | None = None
    """of activations and products; None: that of inputs and parameters; softmax and norms stay in float32"""
    remat: bool = False
    """blocks are computed anew for derivatives, for less memory"""
    attention_chunk: Chunk = "auto"
    """queries whose logits exist at a time; None: all of a block; `auto`: what is fast (`window_attention.attend`)"""

    def __post_init__(self) -> None:
        choices = {"attention": Attention, "norm_placement": NormPlacement, "mode": Mode}
        for name, kind in choices.items():
            check_one_of(name, getattr(self, name), kind)
        check_one_of("compute_dtype", self.compute_dtype, (None, *get_args(ComputeDtype)))
        for name in ("num_classes", "channels", "embed_dim"):
            check_whole(name, getattr(self, name))
        for name in ("depths", "num_heads"):
            check_whole_tuple(name, getattr(self, name))
        if self.attention_chunk not in (None, "auto"):
            check_whole("attention_chunk", self.attention_chunk)
        self._check_sizes()

    def _check_sizes(self) -> None:
        if len(self.depths) < 2 or len(self.depths) != len(self.num_heads):
            raise ConfigError(
                f"a U-shaped network has at least two stages, and a number of heads for each, got depths {self.depths} "
                f"and num_heads {self.num_heads}"
            )
        for width, heads in zip(self.features, self.num_heads, strict=True):
            if width % heads:
                raise ConfigError(f"{heads} heads cannot share {width} channels equally, in num_heads {self.num_heads}")
        for name in ("dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"):
            check_real(name, getattr(self, name))
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is a probability below 1, got {getattr(self, name)}")
        check_real("mlp_ratio", self.mlp_ratio)
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ConfigError(f"mlp_ratio must leave a hidden channel, got {self.mlp_ratio}")
        if self.qk_scale is not None:
            check_real("qk_scale", self.qk_scale)
            if not self.qk_scale:
                raise ConfigError("qk_scale must not be 0; None takes the default")

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return tuple(self.embed_dim << stage for stage in range(len(self.depths)))

    @property
    def stochastic_depth_rates(self) -> tuple[tuple[float, ...], ...]:
        """Rates of stochastic depth of all blocks, by stage."""
        total, before, rates = sum(self.depths), 0, []
        for depth in self.depths:
            steps = range(before, before + depth)
            rates.append(tuple(self.stochastic_depth_rate * step / max(total - 1, 1) for step in steps))
            before += depth
        return tuple(rates)

    @property
    @abc.abstractmethod
    def patch_pixels(self) -> int:
        """Pixels of a token."""

    @property
    @abc.abstractmethod
    def bias_rows(self) -> int:
        """Rows of the tables of position biases."""

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """Names and values of all that the plan of windows and shifts depends on."""

    @property
    def dtype(self) -> Any:
        """Of activations; None where inputs decide."""
        return None if self.compute_dtype is None else jnp.dtype(self.compute_dtype)

    @property
    def block(self) -> BlockConfig:
        """What the blocks need to know."""
        return BlockConfig(
            attention=self.attention,
            norm_placement=self.norm_placement,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            mode=self.mode,
            chunk=self.attention_chunk,
            dtype=self.dtype,
        )


class StagePlan(eqx.Module):
    """Windows of one stage: of its even blocks and of its odd ones."""

    straight: WindowPlan
    shifted: WindowPlan


def check_stages(config: SwinUNetConfig, stages: tuple[StagePlan, ...], layout: Layout, num_tokens: int) -> None:
    """Refuse plans of another network.

    Args:
        config: of the network.
        stages: of the plan.
        layout: that the plan was made for. Two shifts, or windows of two sizes, may cut equally many tokens.
        num_tokens: of the network's first stage.

    Raises:
        InputError: another number of stages or of tokens, or another layout: which windows, shift and the like.
    """
    needed = [num_tokens // MERGED**stage for stage in range(len(config.depths))]
    found = [stage.straight.num_tokens for stage in stages]
    if found != needed:
        raise InputError(f"the configured network has stages of {needed} tokens, got a plan for {found}")
    check_layout(config.layout, layout)


class Stage(nn.Module):
    """The blocks of one stage and the step to the next: `downsample`, which follows them, or `upsample`, which is left
    to the decoder, or none."""

    config: SwinUNetConfig
    stage: int
    step: Literal["downsample", "upsample"] | None
    deterministic: bool

    def setup(self) -> None:
        """The parts, by the names of the published program's."""
        config, i = self.config, self.stage
        block = nn.remat(SwinBlock) if config.remat else SwinBlock
        self.blocks = [
            block(config.block, config.num_heads[i], config.bias_rows, rate, self.deterministic)
            for rate in config.stochastic_depth_rates[i]
        ]
        if self.step == "downsample":
            self.downsample = PatchMerging(config.dtype)
        elif self.step == "upsample":
            self.upsample = PatchExpansion(MERGED, config.features[i] // 2, config.dtype)

    def __call__(self, plan: StagePlan, x: Float[Array, "*batch token channel"]) -> Float[Array, "*batch next width"]:
        """Features of the stage's tokens, or of the next stage's after `downsample`."""
        for i, block in enumerate(self.blocks):
            x = block(plan.shifted if i % 2 else plan.straight, x)
        if self.step != "downsample":
            return x
        return _by_parts(self.downsample, lambda step, x: step(x), self.config, self.stage, plan, x)


def _by_parts(
    module: nn.Module,
    function: Callable[..., Array],
    config: SwinUNetConfig,
    stage: int,
    plan: StagePlan,
    *tokens: Float[Array, "*batch _token _channel"],
) -> Float[Array, "*batch next channel"]:
    """`function(module, *tokens)`, for as many of the stage's tokens as its blocks take at a time: what comes of four
    consecutive ones, or of the coarser token in their place, depends on them alone."""
    size = plan.straight.window_size
    rows = size * windows_at_a_time(config.attention_chunk, plan.straight, config.num_heads[stage])
    *batch, number, _ = tokens[0].shape
    # Where a window is no multiple of four, a few may not be either, and merging takes four tokens.
    if rows == number or rows % MERGED:
        return function(module, *tokens)
    parts = tuple(each.reshape(-1, rows * each.shape[-2] // number, each.shape[-1]) for each in tokens)
    result = in_parts(module, lambda module, parts, _: function(module, *parts), parts)
    return result.reshape(*batch, number // rows * result.shape[1], result.shape[2])


class PatchEmbedding(nn.Module):
    """Pixels of a patch, side by side, to a token: parameters `proj`, and `norm` where configured."""

    config: SwinUNetConfig

    @nn.compact
    def __call__(self, patches: Float[Array, "*batch token pixels"]) -> Float[Array, "*batch token channel"]:
        """Tokens."""
        config = self.config
        # Of the size that the published program's convolutions start from.
        start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        x = Dense(config.embed_dim, dtype=config.dtype, kernel_init=start, name="proj")(patches)
        return LayerNorm(name="norm")(x) if config.patch_norm else x


class Encoder(nn.Module):
    """Patches to features of the coarsest tokens, and what each stage began with."""

    config: SwinUNetConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, stages: tuple[StagePlan, ...], patches: Float[Array, "*batch token pixels"]
    ) -> tuple[Float[Array, "*batch coarse channel"], tuple[Array, ...]]:
        """(normalised features of the last stage, inputs of all stages)."""
        config = self.config
        x = PatchEmbedding(config, name="patch_embed")(patches)
        if config.absolute_position:
            start = nn.initializers.truncated_normal(0.02)
            table = self.param("absolute_pos_embed", start, x.shape[-2:], jnp.float32)
            x = x + table.reshape((1,) * (x.ndim - 2) + table.shape).astype(x.dtype)
        if config.dropout_rate and not self.deterministic:
            x = dropout(self.make_rng("dropout"), config.dropout_rate, x)
        skipped = []
        for i, plan in enumerate(stages):
            skipped.append(x)
            step = "downsample" if i + 1 < len(stages) else None
            x = Stage(config, i, step, self.deterministic, name=f"layers_{i}")(plan, x)
        return LayerNorm(name="norm")(x), tuple(skipped)


class Decoder(nn.Module):
    """Features of the coarsest tokens to logits of pixels, with the features that the encoder's stages began with."""

    config: SwinUNetConfig
    deterministic: bool

    def setup(self) -> None:
        """The parts, by the names of the published program's."""
        config, last = self.config, len(self.config.depths) - 1
        self.layers_up_0 = PatchExpansion(MERGED, config.features[last] // 2, config.dtype)
        for j in range(1, last + 1):
            step = "upsample" if j < last else None
            setattr(self, f"layers_up_{j}", Stage(config, last - j, step, self.deterministic))
            setattr(self, f"concat_back_dim_{j}", Dense(config.features[last - j], dtype=config.dtype))
        self.norm_up = LayerNorm()
        self.up = PatchExpansion(config.patch_pixels, config.embed_dim, config.dtype)
        self.output = Dense(config.num_classes, False, config.dtype)

    def __call__(
        self,
        stages: tuple[StagePlan, ...],
        x: Float[Array, "*batch coarse channel"],
        skipped: tuple[Array, ...],
    ) -> Float[Array, "*batch pixel class"]:
        """Logits of the pixels of each token, tokens in order."""
        for j in range(1, len(stages)):
            i = len(stages) - 1 - j
            joined = functools.partial(Decoder._joined, step=j)
            x = _by_parts(self, joined, self.config, i, stages[i], skipped[i], x)
            x = getattr(self, f"layers_up_{j}")(stages[i], x)
        return _by_parts(self, Decoder._pixels, self.config, 0, stages[0], x)

    def _joined(self, skipped: Array, x: Array, step: int) -> Float[Array, "*batch token channel"]:
        """Coarse tokens, expanded, with those that the encoder's stage began with. Theirs is the shape of the result,
        which takes their place."""
        x = self.layers_up_0(x) if step == 1 else getattr(self, f"layers_up_{step - 1}").upsample(x)
        return getattr(self, f"concat_back_dim_{step}")(jnp.concatenate([x, skipped], -1))

    def _pixels(self, x: Float[Array, "*batch token channel"]) -> Float[Array, "*batch pixel class"]:
        return self.output(self.up(self.norm_up(x)))
