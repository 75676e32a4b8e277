r"""A block of window attention in fixed point: every number has a format, every curve is a table, nothing else rounds.

The parameters are those of `jaxgeo.layers.swin_blocks.SwinBlock` with dot attention, leaf for leaf, so a block that was
trained in floating point is fine-tuned here from the same tree. The softmax is exp of the logits below their maximum, a
sum, and one table of reciprocals after the product with the values; LayerNorm is a mean, a sum of squares and one table
of $x^{-1/2}$; GELU is a table. So the block is sums, products, maxima and tables, which a circuit computes bit for bit.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313.
    Kim et al., "I-BERT: Integer-only BERT Quantization", arXiv:2101.01321 (transformers in integers alone).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.swin_blocks import NormPlacement
from jaxgeo.layers.table_activation import EXP, GELU, RECIPROCAL, RSQRT, lookup
from jaxgeo.layers.window_plan import WindowPlan

_INVERSE_BITS = 8  # significant bits of 1 / channels where these are no power of two


@dataclasses.dataclass(frozen=True)
class BlockPrecision:
    """Formats of one block; float32 is exact as long as products and their sums stay within 24 bits.

    Raises:
        ConfigError: weights of the softmax, or their sum, that cannot be 1, their largest value.
    """

    stream: FixedPoint
    """tokens between the branches, the input and the output included"""
    weight: FixedPoint
    bias: FixedPoint
    centred: FixedPoint
    """of a LayerNorm: tokens less their mean"""
    variance: FixedPoint
    """input of the table of x^(-1/2); at zero the table holds its largest value, in place of an epsilon"""
    deviation: FixedPoint
    """output of that table"""
    norm: FixedPoint
    """result of a LayerNorm, before and after its scale and bias"""
    qkv: FixedPoint
    logits: FixedPoint
    """also of what is left of them when their maximum is taken off: input of the table of exp"""
    exponential: FixedPoint
    """output of that table, at most 1"""
    total: FixedPoint
    """sum of exponentials, at least 1; input of the table of 1/x"""
    reciprocal: FixedPoint
    mixed: FixedPoint
    """values weighted by exponentials, before they are divided by the total"""
    result: FixedPoint
    """of attention, of its projection and of the perceptron"""
    hidden: FixedPoint
    """input of the table of GELU"""
    gelu: FixedPoint

    def __post_init__(self) -> None:
        """Refuse formats in which a softmax cannot work."""
        for name in ("exponential", "total"):
            format = getattr(self, name)
            if format.max < 1:
                raise ConfigError(
                    f"{name} has to hold 1, the weight of the largest logit, but {format} ends at {format.max:g}; "
                    f"ap_ufixed<{format.width},1> would do"
                )

    @classmethod
    def uniform(cls, bits: int = 8, window_size: int = 4) -> "BlockPrecision":
        """So many bits for every activation, with ranges for tokens of unit variance; weights between -2 and 2.

        Raises:
            ConfigError: fewer than 4 bits.
        """
        if bits < 4:
            raise ConfigError(f"a block of attention needs activations of at least 4 bits, got {bits}")

        def signed(integer: int, width: int = bits) -> FixedPoint:
            return FixedPoint(width, integer, True, "RND", "SAT")

        def unsigned(integer: int, width: int = bits) -> FixedPoint:
            return FixedPoint(width, integer, False, "RND", "SAT")

        sum_bits = 1 + max(window_size - 1, 1).bit_length()
        return cls(
            stream=signed(4),
            weight=signed(2),
            bias=signed(2),
            centred=signed(4),
            variance=unsigned(4),
            deviation=unsigned(2),
            norm=signed(3),
            qkv=signed(3),
            logits=signed(4),
            exponential=unsigned(1),
            total=unsigned(sum_bits),
            reciprocal=unsigned(1),
            mixed=signed(sum_bits + 2),
            result=signed(3),
            hidden=signed(4),
            gelu=signed(3),
        )


def inverse(number: int) -> float:
    """1 / number with 8 significant bits, exact for powers of two: what a circuit multiplies by for a mean."""
    exponent = math.ceil(math.log2(number))
    return round(2.0 ** (_INVERSE_BITS + exponent) / number) * 2.0 ** -(_INVERSE_BITS + exponent)


class QuantisedLayerNorm(nn.Module):
    """Over the last axis: parameters `scale` and `bias`, (channel,)."""

    precision: BlockPrecision

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """Normalised, scaled and shifted, in the format `norm`."""
        formats, channels = self.precision, x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32).astype(x.dtype)
        part = jnp.asarray(inverse(channels), x.dtype)
        mean = quantize(jnp.sum(x, axis=-1, keepdims=True) * part, formats.centred)
        centred = quantize(x - mean, formats.centred)
        variance = jnp.sum(centred * centred, axis=-1, keepdims=True) * part
        factor = lookup(variance, RSQRT, formats.variance, formats.deviation)
        normal = quantize(centred * factor, formats.norm)
        each = (None,) * (x.ndim - 1)
        scale, bias = quantize(scale, formats.weight)[each], quantize(bias, formats.bias)[each]
        return quantize(normal * scale + bias, formats.norm)


class QuantisedWindowAttention(nn.Module):
    """Dot attention among the tokens of each window: parameters as of `window_attention.WindowAttention`."""

    precision: BlockPrecision
    num_heads: int
    bias_rows: int = 0
    """rows of the table of position biases; 0: none"""

    @nn.compact
    def __call__(
        self, plan: WindowPlan, x: Float[Array, "*batch token channel"]
    ) -> Float[Array, "*batch token channel"]:
        """Attended tokens in the order of the windows, in which the input has to be.

        Raises:
            ConfigError: the heads do not divide the channels.
            InputError: another number of tokens than the plan's, or a plan without bias where the layer has one.
        """
        tokens, channels = x.shape[-2:]
        if tokens != plan.num_tokens:
            raise InputError(f"the plan is for {plan.num_tokens} tokens, got {tokens}")
        if channels % self.num_heads:
            raise ConfigError(f"{self.num_heads} heads cannot share {channels} channels equally")
        formats, width = self.precision, channels // self.num_heads
        linear = LinearPrecision(formats.weight, formats.bias, formats.qkv)
        qkv = Dense(3 * channels, linear, name="qkv")(x)
        shape = (-1, tokens // plan.window_size, plan.window_size, 3, self.num_heads, width)
        q, k, v = jnp.transpose(qkv.reshape(shape), (3, 0, 1, 4, 2, 5))  # (batch, window, head, token, width)
        # An even power of two is a shift; else the factor is rounded to the bits of a mean's.
        factor = inverse(math.isqrt(width)) if math.isqrt(width) ** 2 == width else round(256 * width**-0.5) / 256
        logits = jnp.einsum("bwhqc,bwhkc->bwhqk", q, k) * jnp.asarray(factor, x.dtype)
        bias = self._bias(plan)
        logits = quantize(logits if bias is None else logits + bias.astype(x.dtype), formats.logits)
        allowed = None
        if plan.labels is not None:
            labels = plan.labels.reshape(-1, plan.window_size)
            allowed = (labels[:, :, None] == labels[:, None, :])[None, :, None]
            allowed = jnp.broadcast_to(allowed, logits.shape)
            # A token attends to itself, so the maximum is that of an allowed pair or of this least logit.
            logits = jnp.where(allowed, logits, jnp.asarray(formats.logits.min, x.dtype))
        below = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        weights = lookup(below, EXP, formats.logits, formats.exponential)
        if allowed is not None:
            weights = jnp.where(allowed, weights, jnp.zeros((), x.dtype))
        part = lookup(jnp.sum(weights, axis=-1, keepdims=True), RECIPROCAL, formats.total, formats.reciprocal)
        mixed = quantize(jnp.einsum("bwhqk,bwhkc->bwhqc", weights, v), formats.mixed)
        mixed = quantize(mixed * part, formats.result)
        mixed = jnp.swapaxes(mixed, 2, 3).reshape(x.shape)
        return Dense(channels, LinearPrecision(formats.weight, formats.bias, formats.result), name="proj")(mixed)

    def _bias(self, plan: WindowPlan) -> Float[Array, "_ window_or_1 head query key"] | None:
        if not self.bias_rows:
            return None
        shape = (self.bias_rows, self.num_heads)
        table = self.param("relative_position_bias_table", nn.initializers.zeros, shape, jnp.float32)
        if plan.bias_index is None:
            raise InputError(f"the layer learns {self.bias_rows} position biases, of which the plan has none")
        biases = jnp.moveaxis(quantize(table, self.precision.logits)[plan.bias_index], -1, 1)
        return (biases if plan.pattern is None else biases[plan.pattern])[None]


class QuantisedMlp(nn.Module):
    """Two affine maps with the table of a GELU between them: parameters `fc1` and `fc2`."""

    precision: BlockPrecision
    ratio: float = 4.0
    """of hidden channels to those that come, rounded down"""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """As many channels as came."""
        formats = self.precision
        first = LinearPrecision(formats.weight, formats.bias, formats.hidden)
        hidden = Dense(int(x.shape[-1] * self.ratio), first, name="fc1")(x)
        hidden = lookup(hidden, GELU, formats.hidden, formats.gelu)
        return Dense(x.shape[-1], LinearPrecision(formats.weight, formats.bias, formats.result), name="fc2")(hidden)


class QuantisedSwinBlock(nn.Module):
    """Window attention and a perceptron, each added to what came, in fixed point.

    Parameters: `norm1`, `attn`, `norm2`, `mlp`, as of `swin_blocks.SwinBlock` with dot attention.
    """

    precision: BlockPrecision
    num_heads: int
    bias_rows: int = 0
    mlp_ratio: float = 4.0
    norm_placement: NormPlacement = "post"
    """`pre`: x + f(norm(x)); `post`: x + norm(f(x))"""

    @nn.compact
    def __call__(
        self, plan: WindowPlan, x: Float[Array, "*batch token channel"]
    ) -> Float[Array, "*batch token channel"]:
        """The tokens in the order in which they came, in the format `stream`.

        Raises:
            ConfigError: the heads do not divide the channels.
            InputError: another number of tokens than the plan's, or a plan without bias where the layer has one.
        """
        if x.shape[-2] != plan.num_tokens:
            raise InputError(f"the plan is for {plan.num_tokens} tokens, got {x.shape[-2]}")
        stream = self.precision.stream
        x = quantize(x, stream)
        windowed = x if plan.into is None else plan.into(x)
        onto = windowed if plan.symmetric else x if plan.back is None else plan.back.reversed()(x)
        attention = QuantisedWindowAttention(self.precision, self.num_heads, self.bias_rows, name="attn")
        norm1 = QuantisedLayerNorm(self.precision, name="norm1")
        norm2 = QuantisedLayerNorm(self.precision, name="norm2")
        perceptron = QuantisedMlp(self.precision, self.mlp_ratio, name="mlp")
        ordered = plan.in_order()
        if self.norm_placement == "pre":
            x = quantize(onto + attention(ordered, norm1(windowed)), stream)
            x = quantize(x + perceptron(norm2(x)), stream)
        else:
            x = quantize(onto + norm1(attention(ordered, windowed)), stream)
            x = quantize(x + norm2(perceptron(x)), stream)
        return x if plan.back is None else plan.back(x)
