"""What a search over bits and filters of an ENet asks for each candidate: its logits and its bit operations.

Formats are arrays here (`jaxgeo.layers.learned_precision.fake_quantize`), and filters that are taken out are zeros
(`jaxgeo.training.filter_reduction.filter_masks`), so that one compiled program serves all candidates.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.learned_precision import fake_quantize
from jaxgeo.models.enet import Block, Bottleneck, ENet, ENetConfig, ENetPrecision
from jaxgeo.training.bit_cost import LayerCost, LayerWords, layer_cost
from jaxgeo.training.enet_precision import PICTURE


def format_arrays(config: ENetConfig, precision: ENetPrecision) -> dict[str, Any]:
    """Bits and integer bits of each format, float32 (2,): of a convolution's `weight`, `bias`, `result`, and of a sum.

    Args:
        config: gives the names.
        precision: formats that round to nearest and saturate, as `choose_enet_precision` makes them.
    """

    def entry(format: FixedPoint) -> np.ndarray:
        return np.array([format.width, format.integer], np.float32)

    result: dict[str, Any] = {name: entry(f) for name, f in zip(config.bottlenecks, precision.sums, strict=True)}
    for name, layer in zip(config.names, precision.convolutions, strict=True):
        result[name] = {"weight": entry(layer.weight), "bias": entry(layer.bias), "result": entry(layer.result)}
    return result


def apply_with_formats(
    config: ENetConfig,
    params: Mapping[str, Any],
    images: Float[Array, "image row column channel"],
    formats: Mapping[str, Any],
) -> Float[Array, "image row column class"]:
    """Logits of the folded network in fixed point, those of `ENet` with the same formats in its config.

    Args:
        config: of the network; its own precision is ignored.
        params: folded, in floating point.
        images: bytes over 256; others are rounded to that.
        formats: from `format_arrays`, with signs as `choose_enet_precision` gives them.
    """

    def round_array(path: Any, leaf: Array) -> Array:
        keys = [key.key for key in path]
        own = formats["/".join(keys[:-2])]["weight" if keys[-1] == "kernel" else "bias"]
        return fake_quantize(leaf, own[0], own[1])

    def round_result(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y, module = call(*args, **kwargs), context.module
        if isinstance(module, Block):
            own = formats[module.layer]["result"]
            return fake_quantize(y, own[0], own[1], not module.rectified)
        if isinstance(module, Bottleneck):
            own = formats[module.layer]
            return fake_quantize(y, own[0], own[1], False)
        return y

    rounded = jax.tree_util.tree_map_with_path(round_array, jax.tree.map(jnp.asarray, params))
    with nn.intercept_methods(round_result):
        network = ENet(dataclasses.replace(config, precision=None))
        return network.apply({"params": rounded}, quantize(images, PICTURE))  # pyright: ignore[reportReturnType]


def enet_costs(config: ENetConfig, params: Mapping[str, Any], precision: ENetPrecision) -> list[LayerCost]:
    """Effective bit operations of each convolution, one multiplication for each weight, as where pixels stream.

    Weights that are rounded to zero, those of filters that are taken out among them, cost nothing. Arguments are those
    of `enet_words`.
    """
    return [layer_cost(*one) for one in enet_words(config, params, precision)]


def enet_words(config: ENetConfig, params: Mapping[str, Any], precision: ENetPrecision) -> list[LayerWords]:
    """Each convolution as integers.

    Args:
        config: of the folded network.
        params: its parameters, in floating point.
        precision: its formats.
    """
    sources = {"input": precision.input, **dict(zip(config.bottlenecks, precision.sums, strict=True))}
    layers = dict(zip(config.names, precision.convolutions, strict=True))
    sources |= {name: layer.result for name, layer in layers.items()}
    found = []
    for layer in config.matrix_layers:
        own: Any = params
        for part in layer.name.split("/"):
            own = own[part]
        weight, source = layers[layer.name].weight, sources[layer.source]
        words = np.floor(np.asarray(own["conv"]["kernel"], np.float64) / weight.step + 0.5)
        words = np.clip(words, weight.min_word, weight.max_word).astype(np.int64)
        found.append(LayerWords(layer, words, weight.width, source.width, source.width - source.signed))
    return found
