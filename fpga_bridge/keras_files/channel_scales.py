"""Weights of QKeras whose scale is no power of two: words on the grid of their quantiser, and a scale for each channel.

A layer holds the words, which are exact, and a scale and offset behind it multiply each channel, as hls4ml takes such
layers apart ("ApplyAlpha"). The scale is a float of the file, which gets a format as a batch normalisation does.

References:
    Coelho et al., arXiv:2006.10159 (QKeras); the conventions are those of its program, version 0.9.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from fpga_bridge.keras_files.automatic_scales import (
    binary_words,
    is_power_of_two,
    rounded_words,
    spread_words,
    ternary_words,
)
from fpga_bridge.keras_files.qkeras_quantizers import Quantizer, bits_format, quantize_weight
from fpga_bridge.typed_graph.graph import Weight
from jaxgeo.layers.fixed_point import FixedPoint

_KINDS = ("quantized_bits", "binary", "ternary")


class ChannelScaled(NamedTuple):
    """A weight as `kernel * scale`."""

    kernel: Weight
    scale: Weight  # (channel,)


def channel_scaled(quantizer: Quantizer | None, x: Float32[np.ndarray, "*window channel"]) -> ChannelScaled | None:
    """The two parts of a stored array, or None where it is one constant, see `quantize_weight`.

    Args:
        quantizer: of weights.
        x: as stored, channels last.

    Raises:
        ExportError: for scales that are none of the channels', or none of the quantiser; says what would work.
    """
    if quantizer is None or quantizer.kind not in _KINDS:
        return None
    alpha = quantizer["alpha"]
    if alpha == "auto":
        return _automatic(quantizer, x)
    if alpha is None or isinstance(alpha, str) or (np.isscalar(alpha) and is_power_of_two(float(alpha))):  # pyright: ignore
        return None
    return ChannelScaled(quantize_weight(quantizer.replaced(alpha=1), x), Weight(_by_channel(quantizer, alpha, x)))


def _automatic(quantizer: Quantizer, x: np.ndarray) -> ChannelScaled:
    axis = quantizer.parameters.get("scale_axis")
    if axis not in (None, x.ndim - 1) or x.ndim == 1:
        raise quantizer.refuse("has scales along other axes than the channels", "leave scale_axis at its default")
    if quantizer.kind == "binary":
        found = binary_words(x, bool(quantizer["use_01"]), powers=False)
    elif quantizer.kind == "ternary":
        if quantizer["threshold"] is not None:
            raise quantizer.refuse("has a threshold beside its automatic scale", "leave the threshold at its default")
        found = ternary_words(x, quantizer["number_of_unrolls"], powers=False)
    else:
        return _bits(quantizer, x)
    return ChannelScaled(Weight(found.words, FixedPoint(2, 2)), Weight(found.scale.reshape(-1), rounded=True))


def _bits(quantizer: Quantizer, x: np.ndarray) -> ChannelScaled:
    """`quantized_bits`: its words in its own format, symmetric as all automatic scales have it."""
    largest = 2 ** (quantizer["bits"] - 1) - 1
    if largest < 1:
        raise quantizer.refuse("of one bit has no automatic scale", "use 2 bits or more, or binary")
    format = bits_format(quantizer.replaced(symmetric=1, keep_negative=True))
    step = np.float32(format.step)
    if (frozen := quantizer["post_training_scale"]) is None:
        words, scale = spread_words(x, largest)
        scale = Weight(scale.reshape(-1) / step, rounded=True)
    else:
        # The scale of QKeras is of numbers in its format, which without a sign has a step of half the size.
        steps = _by_channel(quantizer, frozen, x) * (step if quantizer["keep_negative"] else step / 2)
        words, scale = rounded_words(x, steps, largest), Weight(steps / step)
    return ChannelScaled(Weight(words * step, format), scale)


def _by_channel(quantizer: Quantizer, alpha: Any, x: np.ndarray) -> np.ndarray:
    """The scales (channel,) that a number or an array of them gives."""
    try:
        scales = np.broadcast_to(np.asarray(alpha, np.float32), x.shape).reshape(-1, x.shape[-1])
    except (TypeError, ValueError):
        scales = None
    if scales is None or not np.isfinite(scales).all() or not (scales == scales[:1]).all():
        raise quantizer.refuse(
            f"has the scales {alpha!r}, which are none of {x.shape[-1]} channels", "give a number, or one a channel"
        )
    return np.array(scales[0])
