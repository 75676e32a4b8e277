r"""What a fixed-point network costs: effective bit operations, and multiplications too wide for lookup tables.

Effective bit operations (EBOPs) are the sum over multiplications of the bits of one operand times those of the other.
Signs do not count. A constant weight counts from its highest to its lowest bit that is set, so a zero costs nothing
and a power of two one bit. A layer whose pixels stream through one circuit has one multiplication for each weight; a
fully unrolled one has as many as it has pixels.

`soft_bit_operations` is the form with a gradient in the bits, for a loss: there a weight counts from its highest bit
to the last bit of its format, an upper bound of the former.

References:
    Sun et al., arXiv:2405.00645, section 3.3 (EBOPs and their part in the loss).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgeo.errors import InputError
from jaxgeo.layers.learned_precision import MAX_BITS, MatrixLayer, fake_quantize

DSP_BITS = 10
"""multiplications with an operand of fewer bits than this are taken to be made of lookup tables"""


class LayerCost(NamedTuple):
    """One layer's multiplications, exactly."""

    name: str
    multiplications: int  # by weights that are not zero
    bit_operations: int
    wide: int  # with both operands of DSP_BITS or more, and no power of two


class LayerWords(NamedTuple):
    """One layer as integers: what a circuit of it is made of.

    Attributes:
        layer: which.
        words: its kernel in steps of the format, outputs last.
        weight_bits: of its format, the sign included.
        source_bits: of what it multiplies, the sign included.
        source_magnitude: the same without a sign.
    """

    layer: MatrixLayer
    words: Int[np.ndarray, "*window in out"]
    weight_bits: int
    source_bits: int
    source_magnitude: int


Price: TypeAlias = Callable[[LayerWords], float]
"""What a layer costs, by what is scarce: `bit_operations` here, cells of an FPGA where a model of one is at hand."""


def effective_bits(words: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Bits from the highest to the lowest one that is set in the magnitude of each integer; 0 for 0."""
    magnitude = np.abs(np.asarray(words, np.int64))
    lowest = magnitude & -magnitude
    # frexp of an integer below 2^53 is exact: the exponent is the number of its bits.
    bits = np.frexp(magnitude.astype(np.float64))[1] - np.frexp(lowest.astype(np.float64))[1]
    return np.where(magnitude > 0, bits + 1, 0)


def weight_words(kernel: Any, bits: Any, integer: Any) -> Int[np.ndarray, "*shape"]:
    """Integers that a kernel is rounded to; one signed bit gives the two's words +-1 of half its step."""
    bits, integer = np.round(np.clip(np.asarray(bits, np.float64), 0, MAX_BITS)), np.round(np.asarray(integer))
    kernel = jnp.asarray(kernel, jnp.float32)
    values = np.asarray(fake_quantize(kernel, jnp.asarray(bits, jnp.float32), jnp.asarray(integer, jnp.float32)))
    # One bit is binary, +- half a step.
    fraction = np.where(bits == 1, 2.0, bits) - integer
    return np.asarray(values.astype(np.float64) * 2.0**fraction, np.int64)


def layer_cost(
    layer: MatrixLayer,
    words: Int[np.ndarray, "*window in out"],
    weight_bits: int,
    source_bits: int,
    source_magnitude: int,
    streamed: bool = True,
) -> LayerCost:
    """The cost of one layer, as integers.

    Args:
        layer: which.
        words: its kernel in steps of the format.
        weight_bits: of its format, the sign included.
        source_bits: of what it multiplies, the sign included.
        source_magnitude: the same without a sign.
        streamed: one circuit for all pixels.

    Raises:
        InputError: a kernel of another size than the layer's.
    """
    words = np.asarray(words)
    if words.size != layer.fan_in * layer.features:
        raise InputError(
            f"the kernel of {layer.name} has {layer.fan_in} x {layer.features} weights, got an array {words.shape}"
        )
    uses = 1 if streamed else layer.positions
    bits = effective_bits(words)
    wide = int((bits > 1).sum()) if min(weight_bits, source_bits) >= DSP_BITS else 0
    return LayerCost(
        layer.name, uses * int((bits > 0).sum()), uses * int(bits.sum()) * max(source_magnitude, 0), uses * wide
    )


def bit_operations(layer: LayerWords) -> float:
    """Effective bit operations of a layer whose pixels stream, as a price."""
    return float(layer_cost(*layer).bit_operations)


def network_words(
    layers: Iterable[MatrixLayer],
    params: Mapping[str, Any],
    precision: Mapping[str, Any],
    signed_input: bool = False,
) -> list[LayerWords]:
    """All layers of a network with variable bits.

    Args:
        layers: of the config: names, sources, sizes.
        params: `params[name]["kernel"]`.
        precision: the collection; `precision[name]["kernel_bits"]`, `precision[f"{name}_result"]`, `input_bits`.
        signed_input: whether the input's format has a sign; results of hidden layers have none.
    """
    found = []
    for layer in layers:
        own, source = precision[layer.name]["kernel_bits"], _source(precision, layer)
        words = weight_words(params[layer.name]["kernel"], own["bits"], own["integer"])
        width = int(np.round(np.max(own["bits"])))
        incoming = int(np.round(source["bits"]))
        magnitude = incoming - int(signed_input and layer.source == "input")
        found.append(LayerWords(layer, words, width, incoming, magnitude))
    return found


def network_cost(
    layers: Iterable[MatrixLayer],
    params: Mapping[str, Any],
    precision: Mapping[str, Any],
    signed_input: bool = False,
    streamed: bool = True,
) -> list[LayerCost]:
    """Costs of all layers of a network with variable bits.

    Args:
        layers: as the next three, those of `network_words`.
        params: as there.
        precision: as there.
        signed_input: as there.
        streamed: one circuit for all pixels.
    """
    return [layer_cost(*one, streamed=streamed) for one in network_words(layers, params, precision, signed_input)]


def soft_bit_operations(
    layers: Iterable[MatrixLayer],
    params: Mapping[str, Any],
    precision: Mapping[str, Any],
    signed_input: bool = False,
    streamed: bool = True,
) -> Float[Array, ""]:
    """An upper bound of the network's bit operations with a gradient in its bits (and none in its weights).

    A weight of value v on a grid of f fraction bits counts floor(log2 |v|) + 1 + f bits if it is not rounded to zero.
    Arguments are those of `network_cost`.
    """
    total = jnp.zeros((), jnp.float32)
    for layer in layers:
        own, source = precision[layer.name]["kernel_bits"], _source(precision, layer)
        kernel = jax.lax.stop_gradient(params[layer.name]["kernel"])
        values = jax.lax.stop_gradient(fake_quantize(kernel, own["bits"], own["integer"]))
        highest = jax.lax.stop_gradient(jnp.frexp(values)[1].astype(jnp.float32))
        fraction = _whole(own["bits"]) - jax.lax.stop_gradient(own["integer"])
        fraction = jnp.broadcast_to(fraction, values.shape)
        # The values of one bit stand on half its step.
        binary = jnp.broadcast_to(jnp.round(own["bits"]) == 1, values.shape)
        weights = jnp.where(values != 0, highest + fraction + binary, 0.0)
        incoming = jnp.maximum(_whole(source["bits"]) - float(signed_input and layer.source == "input"), 0.0)
        total = total + (1 if streamed else layer.positions) * jnp.sum(weights) * incoming
    return total


def _source(precision: Mapping[str, Any], layer: MatrixLayer) -> Mapping[str, Any]:
    return precision["input_bits" if layer.source == "input" else f"{layer.source}_result"]


def _whole(bits: Array) -> Array:
    """Rounded bits with the gradient of the number that was rounded."""
    clipped = jnp.clip(bits, 0.0, MAX_BITS)
    return clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
