"""From a trained residual network to one in fixed point: fold its batch norms, and choose formats from data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.models.batch_norm_resnet import (
    BatchNormResNet,
    BatchNormResNetConfig,
    Convolution,
    ResidualBlock,
    ResNetPrecision,
)
from jaxgeo.training.quantisation import calibrate

LOGIT_BITS = 12
_SPARE_BITS = 2  # that a bias has more than the result


def choose_resnet_precision(
    config: BatchNormResNetConfig,
    params: Mapping[str, Any],
    images: Float[Array, "image row column channel"],
    weight_bits: int | Mapping[str, int],
    result_bits: int | Mapping[str, int],
    *,
    input_bits: int = 8,
) -> ResNetPrecision:
    """Formats of a folded network, calibrated on sample images layer by layer.

    What is rectified is unsigned, so that saturation is the rectifier: the stem, the first convolution of a block, and
    its sum, which has the bits of its second convolution. A bias has two bits more than the result and never a finer
    step than two bits behind the weights'. The logits have 12 bits or those of their own entry where that is more.

    Args:
        config: of the network; its own precision is ignored.
        params: folded, without the leading `params`.
        images: representative ones, some hundred of the training set.
        weight_bits: of each kernel, by `config.names` and `head`, or one number for all.
        result_bits: of each result likewise; that of the mean over the pixels is the last sum's.
        input_bits: of the pixels.

    Raises:
        ConfigError: the network has norms, bits of other layers, or fewer than 2 of one.
        InputError: values that are not finite.
    """
    if config.norm != "folded":
        raise ConfigError("formats are of a network without norms; fold them first by fold_norms")
    layers = (*config.names, "head")
    weights, results = _by_name(layers, weight_bits), _by_name(layers, result_bits)
    network = BatchNormResNet(dataclasses.replace(config, precision=None))
    # Compiled as one: layer by layer each would be compiled on its own, which takes longer than the network.
    _, state = jax.jit(
        lambda params, images: network.apply(
            {"params": params},
            images,
            capture_intermediates=lambda module, _: isinstance(module, Convolution | ResidualBlock | Dense),
            mutable=["intermediates"],
        )
    )(params, images)
    captured: Any = jax.device_get(state["intermediates"])
    sums = {
        block: calibrate(captured[block]["__call__"][0], results[f"{block}/layer_1"], signed=False)
        for block in config.blocks
    }
    convolutions = []
    for name in config.names:
        rectified = name == "stem" or name.endswith("/layer_0")
        output = _leaf(captured, name)["__call__"][0]
        result = calibrate(output, results[name], signed=not rectified)
        convolutions.append(_formats(_leaf(params, name)["conv"], weights[name], result))
    last = config.blocks[-1]
    mean = calibrate(captured[last]["__call__"][0].mean(axis=(1, 2)), results[f"{last}/layer_1"], signed=False)
    logits = calibrate(captured["head"]["__call__"][0], max(results["head"], LOGIT_BITS))
    entry = calibrate(images, input_bits, signed=bool(jnp.min(images) < 0))
    head = _formats(params["head"], weights["head"], logits)
    return ResNetPrecision(entry, tuple(convolutions), tuple(sums.values()), mean, head)


def _formats(layer: Mapping[str, Any], bits: int, result: Any) -> LinearPrecision:
    weight = calibrate(layer["kernel"], bits)
    bias = calibrate(layer["bias"], result.width + _SPARE_BITS, max_fraction=weight.fraction + _SPARE_BITS)
    return LinearPrecision(weight, bias, result)


def _by_name(layers: tuple[str, ...], bits: int | Mapping[str, int]) -> Mapping[str, int]:
    named = dict.fromkeys(layers, bits) if isinstance(bits, int) else bits
    if set(named) != set(layers):
        strange = sorted(set(named) ^ set(layers))
        raise ConfigError(f"bits are needed of {', '.join(layers)}, and the ones given differ in {', '.join(strange)}")
    if min(named.values()) < 2:
        raise ConfigError(
            f"weights and results need at least 2 bits each, a sign and a digit, got {min(named.values())}"
        )
    return named


def _leaf(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree[part]
    return tree
