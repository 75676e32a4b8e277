"""Formats of a small convolutional network: chosen from data layer by layer, and between fixed and variable bits.

The network is in the folded form: each layer has a kernel and a bias, hidden results stand before a rectifier and are
unsigned, so that saturation at zero is the rectifier. `quantisation.calibrate` chooses each format.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.learned_precision import VariableBits, fake_quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.svhn_cnn import KernelLayer, SvhnCnn, SvhnCnnConfig, SvhnPrecision
from jaxgeo.training.quantisation import calibrate

BIAS_BITS = 12
LOGIT_BITS = 12


def layer_sums(
    config: SvhnCnnConfig, params: Mapping[str, Any], images: Float[Array, "sample row column channel"]
) -> dict[str, Float[Array, "..."]]:
    """What each layer of the folded network puts out before its rectifier, in floating point, by name."""
    plain = dataclasses.replace(config, precision=None, norm="folded")
    return dict(zip(config.names, _captured(plain, params, images), strict=True))


@functools.partial(jax.jit, static_argnums=0)
def _captured(config: SvhnCnnConfig, params: Any, images: Array) -> list[Array]:
    result: Any = SvhnCnn(config).apply(
        {"params": params}, images, mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, KernelLayer),
    )  # fmt: skip
    return [result[1]["intermediates"][name]["__call__"][0] for name in config.names]


def choose_formats(
    config: SvhnCnnConfig,
    params: Mapping[str, Any],
    images: Float[Array, "sample row column channel"],
    weight_bits: int | Sequence[int],
    activation_bits: int | Sequence[int],
    *,
    input_bits: int = 8,
    sums: Mapping[str, Float[Array, "..."]] | None = None,
) -> SvhnPrecision:
    """Formats of the folded network, calibrated on images.

    Biases have 12 bits or more; the logits have 12 bits or those of the other results where those are more. One bit of
    a weight is binary (see `fake_quantize`): its format here is the two's complement of 2 bits that holds both values.

    Args:
        config: of the network; its own precision and norm are ignored.
        params: of the folded network.
        images: representative ones, some hundred of the training set.
        weight_bits: of each kernel, or one number for all.
        activation_bits: of each hidden result, or one number for all.
        input_bits: of the pixels.
        sums: what `layer_sums` gave for these arguments, where the caller has it already.

    Raises:
        ConfigError: numbers of bits for another number of layers, or below 1.
        InputError: values that are not finite.
    """
    names = config.names
    weights = (weight_bits,) * len(names) if isinstance(weight_bits, int) else tuple(weight_bits)
    hidden = (activation_bits,) * (len(names) - 1) if isinstance(activation_bits, int) else tuple(activation_bits)
    if len(weights) != len(names) or len(hidden) != len(names) - 1 or min((*weights, *hidden, input_bits)) < 1:
        raise ConfigError(
            f"{len(names)} kernels and {len(names) - 1} hidden results need as many numbers of bits, at least 1 each, "
            f"got {weights} and {hidden}, and {input_bits} for the input"
        )
    found = layer_sums(config, params, images) if sums is None else sums
    entry = calibrate(images, input_bits, signed=bool(jnp.min(images) < 0))
    layers = []
    for name, bits, result_bits in zip(names, weights, (*hidden, max(LOGIT_BITS, *hidden)), strict=True):
        last = name == names[-1]
        values = found[name] if last else jax.nn.relu(found[name])
        result = calibrate(values, result_bits, signed=last)
        bias = calibrate(params[name]["bias"], max(BIAS_BITS, bits))
        layers.append(LinearPrecision(_weight_format(params[name]["kernel"], bits), bias, result))
    return SvhnPrecision(entry, tuple(layers))


def _weight_format(kernel: Array, bits: int) -> FixedPoint:
    live = np.asarray(kernel, np.float64)
    live = live[live != 0]
    if bits > 1 or not live.size:
        return calibrate(kernel, max(bits, 2))
    # A sign times s loses least at s = mean |w|; here s is the power of two next to it, the step of a 2-bit word.
    exponent = int(np.round(np.log2(np.mean(np.abs(live)))))
    return FixedPoint(2, 2 + exponent, True, "RND", "SAT")


def to_collection(precision: SvhnPrecision, names: Sequence[str], binary: Sequence[str] = ()) -> dict[str, Any]:
    """The collection `precision` of a network with `VariableBits` that computes with these formats.

    Args:
        precision: rounding to nearest and saturating, as `choose_formats` makes it.
        names: of the layers.
        binary: layers whose weights have one bit; their format here has two.

    Raises:
        ConfigError: a format with other modes, which variable bits do not have.
    """
    collection: dict[str, Any] = {"input_bits": _entry(precision.input)}
    for name, layer in zip(names, precision.layers, strict=True):
        kernel = _entry(layer.weight)
        if name in binary:
            kernel["bits"] = kernel["bits"] - 1.0
        collection[name] = {"kernel_bits": kernel, "bias_bits": _entry(layer.bias)}
        collection[f"{name}_result"] = _entry(layer.result)
    return collection


def _entry(format: FixedPoint) -> dict[str, Array]:
    if (format.rounding, format.overflow) != ("RND", "SAT"):
        raise ConfigError(f"variable bits round to nearest and saturate, which {format} does not; take AP_RND, AP_SAT")
    return {
        "bits": jnp.asarray(format.width, jnp.float32),
        "integer": jnp.asarray(format.integer, jnp.float32),
    }


def to_formats(
    config: SvhnCnnConfig, params: Mapping[str, Any], collection: Mapping[str, Any]
) -> tuple[SvhnPrecision, dict[str, Any]]:
    """Fixed formats, and the parameters on their grids, with which a network computes what variable bits gave it.

    Kernels whose bits differ inside of a layer get the format that holds all of their grids.

    Args:
        config: of the network with `VariableBits`.
        params: its parameters.
        collection: its collection `precision`.

    Raises:
        ConfigError: the network has no variable bits.
        InputError: a result or the input has less than one bit: nothing comes through it.
    """
    bits = config.precision
    if not isinstance(bits, VariableBits):
        raise ConfigError("only a network with VariableBits has variable bits to take formats from")
    layers, rounded = [], {}
    for name in config.names:
        pair = {}
        for leaf in ("kernel", "bias"):
            entry = collection[name][f"{leaf}_bits"]
            pair[leaf] = fake_quantize(jnp.asarray(params[name][leaf]), entry["bits"], entry["integer"])
        rounded[name] = pair
        kernel, bias = (_union(collection[name][f"{leaf}_bits"]) for leaf in ("kernel", "bias"))
        result = _single(f"{name}_result", collection, signed=name == config.names[-1])
        layers.append(LinearPrecision(kernel, bias, result))
    return SvhnPrecision(_single("input_bits", collection, signed=bits.signed_input), tuple(layers)), rounded


def _union(entry: Mapping[str, Array]) -> FixedPoint:
    width, integer = np.round(np.asarray(entry["bits"])), np.round(np.asarray(entry["integer"]))
    # One bit is binary: its two values are words of two.
    width = np.where(width == 1, 2, width)
    live = width > 0
    if not live.any():
        return FixedPoint(2, 1, True, "RND", "SAT")
    fraction, whole = int((width - integer)[live].max()), int(np.broadcast_to(integer, width.shape)[live].max())
    return FixedPoint(max(fraction + whole, 1), whole, True, "RND", "SAT")


def _single(name: str, collection: Mapping[str, Any], signed: bool) -> FixedPoint:
    width, integer = (int(np.round(np.asarray(collection[name][key]))) for key in ("bits", "integer"))
    if width < 1:
        raise InputError(f"{name} has {width} bits, so that nothing comes through; keep at least 1 bit of each result")
    return FixedPoint(width, integer, signed, "RND", "SAT")
