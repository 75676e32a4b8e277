"""Parts of networks of window attention: normalisation, multilayer perceptron, blocks, merging and expansion of tokens.

Every four consecutive tokens are those of one coarser token, as HEALPix pixels in NESTED order are; a picture's tokens
are put into such an order once (`jaxgeo.models.swin`). So merging and expanding are reshapes.

References:
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030.
    Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", arXiv:2105.05537.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import InputError, check_fields
from jaxgeo.layers.parts import in_parts
from jaxgeo.layers.token_layers import Dense, LayerNorm, dropout, gelu, stochastic_depth
from jaxgeo.layers.window_attention import Attention, Chunk, WindowAttention, windows_at_a_time
from jaxgeo.layers.window_plan import WindowPlan
from jaxgeo.modes import Mode

NormPlacement = Literal["pre", "post"]
MERGED = 4


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What all blocks of a network share."""

    attention: Attention = "cosine"
    norm_placement: NormPlacement = "post"
    """`pre`: x + f(norm(x)), the first version; `post`: x + norm(f(x)), the second"""
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    mode: Mode = "correct"
    chunk: Chunk = "auto"
    dtype: Any = None

    def __post_init__(self) -> None:
        rate = 0, 1
        check_fields(self, mlp_ratio=0, dropout_rate=rate, attention_dropout_rate=rate, chunk=1)


class Mlp(nn.Module):
    """Two affine maps with a GELU between them: parameters `fc1` and `fc2`."""

    ratio: float = 4.0
    """of hidden channels to those that come, rounded down"""
    dropout_rate: float = 0.0
    dtype: Any = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """As many channels as came."""
        drop = self._dropout(), self._dropout()
        hidden = Dense(int(x.shape[-1] * self.ratio), dtype=self.dtype, name="fc1")(x)
        return drop[1](Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden, lambda hidden: drop[0](gelu(hidden))))

    def _dropout(self) -> Callable[[Array], Array]:
        if self.deterministic or not self.dropout_rate:
            return lambda x: x
        return functools.partial(dropout, self.make_rng("dropout"), self.dropout_rate)


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each added to what came.

    On CPUs a few windows at a time go through the whole block, so that what arises on the way stays in a processor's
    cache; it is made anew for derivatives, so that memory holds the tokens between blocks and little else.

    Parameters: `norm1`, `attn`, `norm2`, `mlp`. Rngs where not deterministic: `dropout`, `stochastic_depth`.
    """

    config: BlockConfig
    num_heads: int
    bias_rows: int = 0
    stochastic_depth_rate: float = 0.0
    """probability that an addition is left out for a whole example"""
    deterministic: bool = True

    def setup(self) -> None:
        """The parts, by the names of the published program's."""
        config = self.config
        self.norm1, self.norm2 = LayerNorm(), LayerNorm()
        self.attn = WindowAttention(
            self.num_heads,
            config.attention,
            self.bias_rows,
            config.qkv_bias,
            config.qk_scale,
            config.attention_dropout_rate,
            config.dropout_rate,
            config.mode,
            config.chunk,
            config.dtype,
            self.deterministic,
        )
        self.mlp = Mlp(config.mlp_ratio, config.dropout_rate, config.dtype, self.deterministic)

    def __call__(
        self, plan: WindowPlan, x: Float[Array, "*batch token channel"]
    ) -> Float[Array, "*batch token channel"]:
        """The tokens in the order in which they came.

        Raises:
            ConfigError: the heads do not divide the channels.
            InputError: another number of tokens than the plan's.
        """
        *batch, tokens, channels = x.shape
        if tokens != plan.num_tokens:
            raise InputError(f"the plan is for {plan.num_tokens} tokens, got {tokens}")
        kept = self._kept(tuple(batch)), self._kept(tuple(batch))
        together = windows_at_a_time(self.config.chunk, plan, self.num_heads)
        steps = tokens // (together * plan.window_size)
        order = plan.into if plan.symmetric and steps > 1 else None
        # All but attention is done token by token, and so in the order of the windows as well.
        windowed = x if plan.into is None or order is not None else plan.into(x)
        onto = None if plan.symmetric else x if plan.back is None else plan.back.reversed()(x)
        if steps == 1:
            mixed = self._mix(plan.in_order(), windowed, onto, kept)
        else:

            def by_step(x: Array) -> Array:
                return x.reshape(-1, tokens // steps, channels)

            def some_windows(block: SwinBlock, part: tuple, plan: WindowPlan) -> Array:
                windowed, onto, kept, place = part
                return block._mix(plan.part(place, together), windowed, onto, kept)

            repeated = jax.tree.map(lambda each: jnp.repeat(each.reshape(-1, 1, 1), steps, axis=0), kept)
            places = jnp.tile(jnp.arange(steps), by_step(x).shape[0] // steps)
            parts = by_step(windowed), None if onto is None else by_step(onto), repeated, places
            mixed = in_parts(self, some_windows, parts, plan.in_order(), order).reshape(x.shape)
        return mixed if plan.back is None or order is not None else plan.back(mixed)

    def _mix(
        self, plan: WindowPlan, windowed: Array, onto: Array | None, kept: tuple[Array | None, Array | None]
    ) -> Array:
        """Attention of `windowed` added to `onto` (or itself), and then the perceptron of the sum to the sum."""
        pre = self.config.norm_placement == "pre"

        def added(onto: Array, x: Array, norm: nn.Module, branch: Callable, kept: Array | None) -> Array:
            x = branch(norm(x)) if pre else norm(branch(x))
            return onto + (x if kept is None else x * kept.astype(x.dtype))

        x = added(windowed if onto is None else onto, windowed, self.norm1, functools.partial(self.attn, plan), kept[0])
        return added(x, x, self.norm2, self.mlp, kept[1])

    def _kept(self, batch: tuple[int, ...]) -> Array | None:
        if self.deterministic or not self.stochastic_depth_rate:
            return None
        return stochastic_depth(self.make_rng("stochastic_depth"), self.stochastic_depth_rate, (*batch, 1, 1))


class PatchMerging(nn.Module):
    """Four consecutive tokens become one of twice the channels: parameters `norm` and `reduction`, without bias."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch token channel"]) -> Float[Array, "*batch coarse wide"]:
        """A quarter of the tokens.

        Raises:
            InputError: the tokens are no multiple of four.
        """
        *batch, tokens, channels = x.shape
        if tokens % MERGED:
            raise InputError(f"{tokens} tokens cannot be merged by four")
        merged = x.reshape(*batch, tokens // MERGED, MERGED * channels)
        return Dense(2 * channels, False, self.dtype, name="reduction")(LayerNorm(name="norm")(merged))


class PatchExpansion(nn.Module):
    """A token becomes several consecutive ones: parameters `expand`, without bias, and `norm`."""

    factor: int
    """tokens that come of one"""
    channels: int
    """of each of them"""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch token channel"]) -> Float[Array, "*batch fine {self.channels}"]:
        """`factor` times as many tokens."""
        x = Dense(self.factor * self.channels, False, self.dtype, name="expand")(x)
        return LayerNorm(name="norm")(x.reshape(*x.shape[:-2], x.shape[-2] * self.factor, self.channels))
