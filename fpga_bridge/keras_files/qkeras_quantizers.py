r"""Quantisers of QKeras from their configurations: the fixed-point formats that they are, and weights rounded by them.

`quantized_bits(bits, integer, symmetric, keep_negative, alpha)` rounds to nearest, ties to even, saturates, and
multiplies by `alpha` afterwards; its `integer` does not count the sign, that of `ap_fixed` does. With $u$ = bits less
sign its values are $\alpha k\,2^{integer-u}$, $-2^u + symmetric \le k \le 2^u - 1$.

At inference QKeras returns `x + (q - x)` in float32, which may miss q by one rounding; here the value is q itself.

References:
    Coelho et al., "Automatic heterogeneous quantization of deep neural networks for low-latency inference on the edge
    for particle detectors", arXiv:2006.10159 (QKeras); the conventions are those of its program, version 0.9.
"""

import ast
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fpga_bridge.keras_files import automatic_scales
from fpga_bridge.typed_graph.graph import Weight
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint

BY_TABLE = (
    ", or state a format in which functions are looked up, such as ap_fixed<8,3,AP_RND,AP_SAT> (`tables` of "
    "load_keras_graph; --result-format of the command)"
)
_EPSILON = np.float32(1e-7)  # of Keras, below which logarithms are not taken
_SILENT = {  # what changes nothing at inference
    "use_stochastic_rounding": None, "var_name": None, "use_ste": None, "use_variables": None, "scale_axis": None,
    "enable_fast_inference": None, "number_of_unrolls": None,
}  # fmt: skip
# Parameters in the order of QKeras, which its texts such as "quantized_bits(6,0,1)" use, with their defaults.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "quantized_bits": {
        "bits": 8, "integer": 0, "symmetric": 0, "keep_negative": True, "alpha": None,
        "use_stochastic_rounding": False, "scale_axis": None, "qnoise_factor": 1.0, "var_name": None, "use_ste": True,
        "use_variables": False, "elements_per_scale": None, "min_po2_exponent": None, "max_po2_exponent": None,
        "post_training_scale": None,
    },
    "quantized_linear": {
        "bits": 8, "integer": 0, "symmetric": 1, "keep_negative": True, "alpha": None,
        "use_stochastic_rounding": False, "scale_axis": None, "qnoise_factor": 1.0, "var_name": None,
        "use_variables": False,
    },
    "quantized_relu": {
        "bits": 8, "integer": 0, "use_sigmoid": 0, "negative_slope": 0.0, "use_stochastic_rounding": False,
        "relu_upper_bound": None, "is_quantized_clip": True, "qnoise_factor": 1.0, "var_name": None, "use_ste": True,
        "use_variables": False, "enable_fast_inference": False,
    },
    "quantized_tanh": {"bits": 8, "use_stochastic_rounding": False, "symmetric": False, "use_real_tanh": False},
    "quantized_sigmoid": {
        "bits": 8, "symmetric": False, "use_real_sigmoid": False, "use_stochastic_rounding": False,
    },
    "quantized_po2": {
        "bits": 8, "max_value": None, "use_stochastic_rounding": False, "quadratic_approximation": False,
        "log2_rounding": "rnd", "qnoise_factor": 1.0, "var_name": None, "use_ste": True, "use_variables": False,
    },
    "quantized_relu_po2": {
        "bits": 8, "max_value": None, "negative_slope": 0, "use_stochastic_rounding": False,
        "quadratic_approximation": False, "log2_rounding": "rnd", "qnoise_factor": 1.0, "var_name": None,
        "use_ste": True, "use_variables": False,
    },
    "binary": {
        "use_01": False, "alpha": None, "use_stochastic_rounding": False, "scale_axis": None,
        "elements_per_scale": None, "min_po2_exponent": None, "max_po2_exponent": None,
    },
    "ternary": {"alpha": None, "threshold": None, "use_stochastic_rounding": False, "number_of_unrolls": 5},
    "stochastic_binary": {"alpha": None, "temperature": 6.0, "use_real_sigmoid": True},
    "stochastic_ternary": {
        "alpha": None, "threshold": None, "temperature": 8.0, "use_real_sigmoid": True, "number_of_unrolls": 5,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A quantiser of QKeras.

    Attributes:
        kind: its class; what is stochastic in training is at inference `binary` or `ternary`, and called so.
        parameters: all of them.
        where: begins the messages about it.
        stated: the parameters that the file names, which tell the version of QKeras.
    """

    kind: str
    parameters: Mapping[str, Any]
    where: str
    stated: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Any:
        """A parameter."""
        return self.parameters[name]

    def replaced(self, **parameters: Any) -> "Quantizer":
        """With other values of some parameters."""
        return dataclasses.replace(self, parameters={**self.parameters, **parameters})

    def refuse(self, why: str, instead: str) -> ExportError:
        """The error for what hardware cannot take of it."""
        return ExportError(f"{self.where}: {self.kind} {why}; {instead}")


def parse_quantizer(value: Any, where: str) -> Quantizer | None:
    """The quantiser of a configuration value: a serialised object or a text; None for None.

    Args:
        value: as files hold it, `{"class_name": ..., "config": {...}}` or `"quantized_bits(6,0,alpha=1)"`.
        where: layer and file, for messages.

    Raises:
        ExportError: for a class that is not known here.
        ConfigError: for a parameter that the class does not have, or a value that is no constant.
    """
    if value is None:
        return None
    if isinstance(value, str):
        kind, positional, named = _parse_text(value, where)
    elif isinstance(value, Mapping) and isinstance(value.get("class_name"), str):
        kind, positional, named = value["class_name"], [], value.get("config") or {}
    else:
        raise ConfigError(f"{where}: cannot read the quantiser {value!r}; write it as quantized_bits(6,0,alpha=1)")
    known = _PARAMETERS.get(kind)
    if kind == "bernoulli":
        raise ExportError(
            f"{where}: bernoulli draws random numbers at inference too, and a circuit always computes the same; use "
            "binary with use_01"
        )
    if known is None:
        raise ExportError(
            f"{where}: the quantiser {kind} is not known here; use one of {', '.join(_PARAMETERS)}, "
            "quantized_bits being the usual one"
        )
    if kind == "quantized_tanh" and "integer" in named:
        raise ExportError(
            f"{where}: quantized_tanh with the parameter integer comes from a QKeras before 0.9, which rounds to other "
            "values; write the file anew with QKeras 0.9, or use quantized_bits after a rectifier"
        )
    unknown = sorted(named.keys() - known.keys() - _SILENT.keys())
    if unknown or not isinstance(named, Mapping) or len(positional) > len(known):
        raise ConfigError(f"{where}: {kind} has the parameters {', '.join(known)}, got {unknown or positional}")
    parameters = {**known, **dict(zip(known, positional, strict=False)), **named}
    if kind.startswith("stochastic_"):
        kind = kind.removeprefix("stochastic_")
        parameters = _PARAMETERS[kind] | parameters
    result = Quantizer(kind, parameters, where, frozenset(named))
    _check_parameters(result)
    return result


def _check_parameters(quantizer: Quantizer) -> None:
    """Refuse numbers that no quantiser can have."""
    parameters, named = quantizer.parameters, f"{quantizer.where}: {quantizer.kind}"
    bits, unrolls, integer = (parameters.get(key, 1) for key in ("bits", "number_of_unrolls", "integer"))
    if not isinstance(bits, int) or not 1 <= bits <= 64:
        raise ConfigError(f"{named} needs a whole number of bits from 1 to 64, got {bits!r}")
    if quantizer.kind == "ternary" and (not isinstance(unrolls, int) or unrolls < 1):
        raise ConfigError(f"{named} needs a whole number of unrolls of at least 1, got {unrolls!r}")
    if not isinstance(integer, int):
        raise ConfigError(f"{named} needs a whole number of integer bits, got {integer!r}")
    if parameters.get("qnoise_factor", 1.0) != 1.0:
        raise quantizer.refuse(
            f"has qnoise_factor {parameters['qnoise_factor']}, so the network still mixes float values in",
            "train to the end of the schedule, where it is 1, and save again",
        )


def _parse_text(text: str, where: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Class, positional and named constants of `name` or `name(constants)`; nothing is ever called."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and all(k.arg for k in tree.keywords):
            named = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
            return tree.func.id, [ast.literal_eval(argument) for argument in tree.args], named
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: cannot read {text!r} as a quantiser ({error})") from error
    raise ConfigError(f"{where}: cannot read {text!r} as a quantiser; write it as quantized_bits(6,0,alpha=1)")


def constant_scale(quantizer: Quantizer) -> float:
    """The constant scale; None is 1."""
    alpha = quantizer["alpha"]
    if alpha is None:
        return 1.0
    if isinstance(alpha, str) or not np.isscalar(alpha) or not automatic_scales.is_power_of_two(float(alpha)):  # pyright: ignore
        raise quantizer.refuse(
            f"has alpha {alpha!r}, and only a power of two keeps its values on a fixed-point grid",
            "train with alpha=1 (kernels may have other scales)",
        )
    return float(alpha)  # pyright: ignore


def ternary_threshold(quantizer: Quantizer) -> float:
    """The size from which `ternary` does not give zero."""
    threshold = quantizer["threshold"]
    if threshold is None:
        return 0.33
    if not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
        raise quantizer.refuse(f"has the threshold {threshold!r}", "give a positive number, or None for 0.33")
    return float(threshold)


def bits_format(quantizer: Quantizer) -> FixedPoint:
    """The format of `quantized_bits` or `quantized_linear` before its scale.

    Raises:
        ExportError: for the one-bit form, which is a sign and no rounding.
    """
    signed = bool(quantizer["keep_negative"])
    if quantizer["bits"] - signed < 1:
        raise quantizer.refuse(
            "of one bit is a sign, for which fixed point has no format", "use 2 bits, or a ternary network"
        )
    overflow = "SAT_SYM" if signed and quantizer["symmetric"] else "SAT"
    return FixedPoint(quantizer["bits"], quantizer["integer"] + signed, signed, "RND_CONV", overflow)


def activation_format(quantizer: Quantizer) -> FixedPoint:
    """The format to which an activation quantiser rounds and saturates what comes into it.

    `quantized_relu` is an unsigned saturating format: it sends what is negative to zero. `quantized_tanh` is by
    default the hard one, a signed format on [-1, 1). For `quantized_sigmoid` the format applies to x / 2 + 1 / 2.

    Raises:
        ExportError: for a quantiser that is more than a format.
    """
    kind = quantizer.kind
    if kind in ("quantized_bits", "quantized_linear"):
        if constant_scale(quantizer) != 1.0:
            raise quantizer.refuse(
                f"has alpha {quantizer['alpha']} on an activation", "use alpha=1 and more integer bits instead"
            )
        return bits_format(quantizer)
    if kind == "quantized_relu":
        if quantizer["use_sigmoid"]:
            raise quantizer.refuse("has use_sigmoid", "use the plain one")
        if quantizer["negative_slope"]:
            raise quantizer.refuse(
                "has a negative slope, below which it saturates at two different ends",
                "use LeakyReLU followed by quantized_bits",
            )
        top = 2.0 ** quantizer["integer"] * (1 - 2.0 ** -quantizer["bits"])
        bound = quantizer["relu_upper_bound"]
        if not quantizer["is_quantized_clip"] and bound is not None and bound < top:
            raise quantizer.refuse(
                f"has the upper bound {bound} below the end {top} of its format", "use fewer integer bits instead"
            )
        return FixedPoint(quantizer["bits"], quantizer["integer"], False, "RND_CONV", "SAT")
    if kind == "quantized_tanh" and not quantizer["use_real_tanh"] and quantizer["bits"] > 1:
        overflow = "SAT_SYM" if quantizer["symmetric"] else "SAT"
        return FixedPoint(quantizer["bits"], 1, True, "RND_CONV", overflow)
    if kind == "quantized_sigmoid" and not quantizer["use_real_sigmoid"] and not quantizer["symmetric"]:
        return FixedPoint(quantizer["bits"], 0, False, "RND_CONV", "SAT")
    raise quantizer.refuse(
        "as an activation has no exact fixed-point form",
        "use quantized_relu or quantized_bits, or quantized_tanh and quantized_sigmoid in their hard form"
        + (BY_TABLE if hard_form(quantizer)[0] else ""),
    )


def hard_form(quantizer: Quantizer) -> tuple[str, Quantizer]:
    """Of `quantized_tanh` and `quantized_sigmoid` in their real form the function and the hard form, else "" and it."""
    function = quantizer.kind.removeprefix("quantized_")
    if function not in ("tanh", "sigmoid") or not quantizer[f"use_real_{function}"]:
        return "", quantizer
    return function, quantizer.replaced(**{f"use_real_{function}": False})


def quantize_weight(quantizer: Quantizer | None, array: np.ndarray, rounded: bool = False) -> Weight:
    """A stored float array as the network uses it.

    Args:
        quantizer: None leaves the array as it is.
        array: float32, any shape; the last axis has the channels.
        rounded: whether float arithmetic made the array, see `fpga_bridge.typed_graph.graph.Weight`.

    Raises:
        ExportError: where the values would lie on no common fixed-point grid; names the parameter and what to use.
    """
    if quantizer is None:
        return Weight(np.asarray(array, np.float32), None, rounded)
    weight = _quantized(quantizer, np.asarray(array, np.float64))
    if weight.format is None or weight.format.integer <= weight.format.width:
        return weight
    # Large scales: whole numbers, which ap_fixed<2,3> would hold too, but HLS knows no such type.
    return dataclasses.replace(weight, format=dataclasses.replace(weight.format, width=weight.format.integer))


def _quantized(quantizer: Quantizer, x: np.ndarray) -> Weight:
    match quantizer.kind:
        case "quantized_bits" | "binary" | "ternary" if isinstance(quantizer["alpha"], str):
            return _automatic(quantizer, x.astype(np.float32))
        case "quantized_bits" | "quantized_linear":
            return _bits(quantizer, x)
        case "binary":
            sign = np.where(x < 0, -1.0, 1.0)
            return _scaled((sign + 1) / 2 if quantizer["use_01"] else sign, constant_scale(quantizer))
        case "ternary":
            return _scaled(
                np.sign(x) * (np.abs(x) >= np.float32(ternary_threshold(quantizer))), constant_scale(quantizer)
            )
        case "quantized_po2" | "quantized_relu_po2":
            return _power_of_two(quantizer, x)
    raise quantizer.refuse("is no quantiser of weights", "use quantized_bits")


def _scaled(words: np.ndarray, scale: float) -> Weight:
    """Small integers times a power of two."""
    shift = round(math.log2(scale))
    bits = 1 + max(int(np.abs(words).max(initial=1)).bit_length(), 1)
    return Weight((words * scale).astype(np.float32), FixedPoint(bits, bits + shift, True, "RND_CONV", "SAT"))


def _bits(quantizer: Quantizer, x: np.ndarray) -> Weight:
    scale = constant_scale(quantizer)
    if quantizer["bits"] == 1 and quantizer["keep_negative"]:
        return _scaled(np.where(x < 0, -1.0, 1.0), scale)
    format = bits_format(quantizer)
    words = np.clip(np.rint(x * 2.0**format.fraction), format.min_word, format.max_word)
    if quantizer.kind == "quantized_linear" and scale != 1.0:
        raise quantizer.refuse(f"has alpha {quantizer['alpha']}", "use quantized_bits, or alpha=1 and more bits")
    shift = round(math.log2(scale))
    return Weight(
        (words * format.step * scale).astype(np.float32), dataclasses.replace(format, integer=format.integer + shift)
    )


def _automatic(quantizer: Quantizer, x: np.ndarray) -> Weight:
    """alpha="auto_po2": a power of two for each channel, by least squares."""
    kind = quantizer.kind
    advice = "train with alpha=1, or with alpha='auto_po2', whose scales are powers of two"
    if quantizer["alpha"] != "auto_po2":
        raise quantizer.refuse(f"has alpha {quantizer['alpha']!r}, a float for each channel", advice)
    axis = quantizer.parameters.get("scale_axis")
    if quantizer.parameters.get("elements_per_scale") is not None or axis not in (None, x.ndim - 1):
        raise quantizer.refuse("has scales along other axes than the channels", "leave scale_axis at its default")
    limits = quantizer.parameters.get("min_po2_exponent"), quantizer.parameters.get("max_po2_exponent")
    if kind == "binary":
        return _by_channel(*automatic_scales.binary_words(x, bool(quantizer["use_01"]), limits))
    if kind == "ternary":
        if quantizer["threshold"] is not None:
            raise quantizer.refuse("has a threshold beside its automatic scale", "leave the threshold at its default")
        return _by_channel(*automatic_scales.ternary_words(x, quantizer["number_of_unrolls"]))
    bits, whole = quantizer["bits"], 2.0 ** quantizer["integer"]
    largest = 2 ** (bits - 1) - 1
    if largest < 1:
        raise quantizer.refuse("of one bit has no automatic scale", "use 2 bits or more, or binary")
    x, frozen = x / np.float32(whole), quantizer["post_training_scale"]
    if frozen is None:
        # QKeras 0.9.0 does not write post_training_scale, and takes the words of the scale before the last.
        words, scale = automatic_scales.bits_words(
            x, largest, anew="post_training_scale" in quantizer.stated, limits=limits
        )
        return _by_channel(words, scale * np.float32(whole))
    steps = np.asarray(frozen, np.float32)
    if not all(automatic_scales.is_power_of_two(float(value)) for value in steps.ravel()):
        raise quantizer.refuse("has a post_training_scale that is no power of two", advice)
    scale = steps / np.float32(2.0 ** (bits - bool(quantizer["keep_negative"])))
    return _by_channel(automatic_scales.rounded_words(x, scale, largest), scale * np.float32(whole))


def _by_channel(words: np.ndarray, scale: np.ndarray) -> Weight:
    """Small integers times powers of two, in the narrowest format that holds all of them."""
    values, scale = words.astype(np.float64) * scale, np.broadcast_to(scale, words.shape)
    used = scale[words != 0]
    if not used.size:
        return Weight(np.zeros(words.shape, np.float32), FixedPoint(2, 2))
    fraction = -round(math.log2(used.min()))
    bits = 1 + int(np.abs(values).max() * 2.0**fraction).bit_length()
    return Weight(values.astype(np.float32), FixedPoint(bits, bits - fraction))


def _power_of_two(quantizer: Quantizer, x: np.ndarray) -> Weight:
    """`quantized_po2` and its rectified form: signs times powers of two, exponents clipped."""
    rectified = quantizer.kind == "quantized_relu_po2"
    if rectified and quantizer["negative_slope"]:
        raise quantizer.refuse("has a negative slope", "use quantized_po2")
    limit, squares = quantizer["max_value"], quantizer["quadratic_approximation"]
    exponent_bits = quantizer["bits"] - (not rectified) - (limit is None or limit > 1)
    low, high = -(2.0**exponent_bits), 2.0**exponent_bits - 1
    if squares:
        high = 2 * (high // 2)
    size = np.abs(np.maximum(x, 0) if rectified else x).astype(np.float32)
    seen = np.maximum(size, _EPSILON)
    if limit is not None:
        seen = np.minimum(seen, np.float32(limit))
    logarithm = np.log(np.sqrt(seen) if squares else seen) / np.float32(np.log(2.0))
    whole = np.floor(logarithm) if quantizer["log2_rounding"] == "floor" else np.rint(logarithm)
    exponent = np.where(size < _EPSILON, low, (2 if squares else 1) * np.clip(whole, low, high))
    sign = 1.0 if rectified else np.where(x < 0, -1.0, 1.0)
    return Weight((sign * np.exp2(exponent.astype(np.float64))).astype(np.float32))
