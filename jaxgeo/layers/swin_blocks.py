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

from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import InputError
from jaxgeo.layers.token_layers import Dense, LayerNorm, dropout, gelu, stochastic_depth
from jaxgeo.layers.window_attention import Attention, Chunk, Mode, WindowAttention
from jaxgeo.layers.window_plan import WindowPlan

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
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mode: Mode = "correct"
    chunk: Chunk = "auto"
    dtype: Any = None


class Mlp(nn.Module):
    """Two affine maps with a GELU between them: parameters `fc1` and `fc2`."""

    hidden: int
    dropout: float = 0.0
    dtype: Any = None
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """As many channels as came."""
        drop = self._dropout(), self._dropout()
        hidden = Dense(self.hidden, dtype=self.dtype, name="fc1")(x)
        return drop[1](Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden, lambda hidden: drop[0](gelu(hidden))))

    def _dropout(self) -> Callable[[Array], Array]:
        if self.deterministic or not self.dropout:
            return lambda x: x
        return functools.partial(dropout, self.make_rng("dropout"), self.dropout)


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each added to what came.

    Parameters: `norm1`, `attn`, `norm2`, `mlp`. Rngs where not deterministic: `dropout`, `stochastic_depth`.
    """

    config: BlockConfig
    num_heads: int
    bias_rows: int = 0
    drop_path: float = 0.0
    """probability that an addition is left out for a whole example"""
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, plan: WindowPlan, x: Float[Array, "*batch token channel"]
    ) -> Float[Array, "*batch token channel"]:
        """The tokens in the order in which they came."""
        config = self.config
        attention = WindowAttention(
            self.num_heads,
            config.attention,
            self.bias_rows,
            config.qkv_bias,
            config.qk_scale,
            config.attention_dropout,
            config.dropout,
            config.mode,
            config.chunk,
            config.dtype,
            self.deterministic,
            name="attn",
        )
        norms = LayerNorm(name="norm1"), LayerNorm(name="norm2")
        hidden = int(x.shape[-1] * config.mlp_ratio)
        mlp = Mlp(hidden, config.dropout, config.dtype, self.deterministic, name="mlp")

        def attended(x: Array) -> Array:
            x = attention(plan, x if plan.into is None else plan.into(x))
            return x if plan.back is None else plan.back(x)

        for norm, branch in zip(norms, (attended, mlp), strict=True):
            x = x + self._kept(branch(norm(x)) if config.norm_placement == "pre" else norm(branch(x)))
        return x

    def _kept(self, x: Array) -> Array:
        if self.deterministic or not self.drop_path:
            return x
        return stochastic_depth(self.make_rng("stochastic_depth"), self.drop_path, x)


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
