"""From a trained ENet to one in fixed point: fold its norms, choose formats from data, and bits from sensitivities."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.enet import Block, Bottleneck, ENet, ENetConfig, ENetPrecision
from jaxgeo.training.quantisation import calibrate

# Bytes of a picture, divided by 256: what a camera delivers, exactly.
PICTURE = FixedPoint(8, 0, False, "RND", "SAT")

PUBLISHED_FILE = "autoq_q4_q8_2022_04_12.h5"
# Bits of the weights of (project, convolve, expand), and of the results of (project, convolve, sum).
_PUBLISHED_BITS = {
    "encoder_0_0": ((8, 8, 4), (4, 8, 4)),
    "encoder_0_1": ((4, 8, 4), (8, 8, 8)),
    "encoder_0_2": ((8, 8, 4), (8, 8, 4)),
    "encoder_1_0": ((8, 8, 4), (4, 8, 8)),
    "encoder_1_1": ((8, 8, 4), (8, 4, 8)),
    "encoder_1_2": ((8, 8, 4), (8, 4, 4)),
    "encoder_1_3": ((8, 4, 4), (8, 8, 8)),
    "encoder_1_4": ((4, 4, 4), (8, 4, 8)),
    "encoder_1_5": ((4, 4, 8), (8, 8, 8)),
    "decoder_0_0": ((4, 4, 8), (8, 4, 8)),
    "decoder_0_1": ((4, 8, 8), (4, 8, 8)),
    "decoder_0_2": ((8, 8, 8), (8, 4, 8)),
    "decoder_1_0": ((4, 8, 8), (8, 4, 4)),
    "decoder_1_1": ((4, 8, 4), (8, 4, 4)),
}
_PUBLISHED_INITIAL, _PUBLISHED_HEAD = (8, 4), (8, 8)  # weights and result; that of the head is not rounded in the file


@dataclasses.dataclass(frozen=True)
class ENetBits:
    """Bits of weights and of results, by the name of a convolution (`ENetConfig.names`); biases are as results.

    Raises:
        ConfigError: other than at least 2 bits; other names in the one than in the other.
    """

    weights: Mapping[str, int]
    results: Mapping[str, int]

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, weights=2, results=2)  # a sign and a digit
        if set(self.weights) != set(self.results):
            strange = sorted(set(self.weights) ^ set(self.results))
            raise ConfigError(f"bits of weights and of results are of the same convolutions, but differ in {strange}")
        if not self.weights:
            raise ConfigError("bits are of one convolution at least, got none")


def uniform_bits(config: ENetConfig, weights: int, results: int | None = None) -> ENetBits:
    """The same bits everywhere; the logits get 8 at least, as the published designs keep the last layer finer.

    Raises:
        ConfigError: fewer than 2 bits.
    """
    results = weights if results is None else results
    by_name = dict.fromkeys(config.names, results)
    return ENetBits(dict.fromkeys(config.names, weights), by_name | {"head": max(results, 8)})


def published_bits(config: ENetConfig) -> ENetBits:
    """The heterogeneous bits of the published network of 4 and 8 bits, which AutoQKeras chose, layer by layer.

    That network has five stages of bottlenecks: the first and second of its encoder begin by halving the picture, the
    third stays at the size of the second, and so is its continuation here (`encoder=(3, 6), decoder=(3, 2)` has a
    counterpart of each bottleneck); with fewer bottlenecks those that a stage begins with count. The convolutions in
    its skips, of 4 and 8 bits, and its numbers of filters have no counterpart here. The logits, which its file leaves
    in floating point, get 8 bits.

    Raises:
        ConfigError: bottlenecks that it does not have, or transposed convolutions, which it does not have either.

    References:
        `models_h5_autoq_trained/autoq_q4_q8_2022_04_12.h5` of github.com/nicologhielmetti/enet-script, read by
        `fpga_bridge.keras_files`; Ghielmetti et al., arXiv:2205.07690.
    """
    strange = [name for name in config.bottlenecks if name not in _PUBLISHED_BITS]
    if strange or config.upsampling != "nearest":
        raise ConfigError(
            f"the published bits are of encoders up to (3, 6) and decoders up to (3, 2) with upsampling 'nearest', got "
            f"{config.encoder}, {config.decoder} and {config.upsampling!r}"
        )
    weights, results = {"initial": _PUBLISHED_INITIAL[0]}, {"initial": _PUBLISHED_INITIAL[1]}
    for name in config.bottlenecks:
        for part, weight, result in zip(("project", "convolve", "expand"), *_PUBLISHED_BITS[name], strict=True):
            weights[f"{name}/{part}"], results[f"{name}/{part}"] = weight, result
    return ENetBits(weights | {"head": _PUBLISHED_HEAD[0]}, results | {"head": _PUBLISHED_HEAD[1]})


def choose_enet_precision(
    config: ENetConfig, params: Mapping[str, Any], images: Float[Array, "image row column channel"], bits: ENetBits
) -> ENetPrecision:
    """Formats of a folded network, calibrated on sample pictures layer by layer.

    Rectified results are unsigned, so that saturation is the rectifier. A bias has two bits more than the result and
    never a finer step than the products. The sum of a bottleneck has the bits of the convolution that ends it.

    Args:
        config: of the network; its own precision is ignored.
        params: folded, without the leading `params`.
        images: representative pictures from 0 to below 1.
        bits: of each convolution.

    Raises:
        ConfigError: the network has norms, or bits for other convolutions.
        InputError: values that are not finite.
    """
    return format_chooser(config, params, images)(bits)


def format_chooser(
    config: ENetConfig, params: Mapping[str, Any], images: Float[Array, "image row column channel"]
) -> Callable[[ENetBits], ENetPrecision]:
    """`choose_enet_precision` for many bits: the network runs once, and no format is looked for twice.

    Raises:
        ConfigError: the network has norms; by what is returned, bits for other convolutions than its own.
        InputError: values that are not finite.
    """
    if config.norm != "folded":
        raise ConfigError("formats are of a network without norms; fold them first by fold_norms")
    captured = jax.device_get(_captured(dataclasses.replace(config, precision=None), params, images))

    @functools.cache
    def total(name: str, width: int) -> FixedPoint:
        return calibrate(captured[name]["__call__"][0], width, signed=False)

    @functools.cache
    def result(name: str, width: int) -> FixedPoint:
        rectified = name != "head" and not name.endswith("/expand")
        return calibrate(_leaf(captured, name)["__call__"][0], width, signed=not rectified)

    @functools.cache
    def arrays(name: str, width: int, result_width: int) -> tuple[FixedPoint, FixedPoint]:
        own = _leaf(params, name)["conv"]
        weight = calibrate(own["kernel"], width)
        # Products have at least the fraction of a weight; the few bits of a bias behind it would be of no use.
        return weight, calibrate(own["bias"], result_width + 2, max_fraction=weight.fraction + 2)

    def choose(bits: ENetBits) -> ENetPrecision:
        if set(bits.weights) != set(config.names):
            raise ConfigError(
                f"bits are needed of the convolutions {', '.join(config.names)}, got {', '.join(sorted(bits.weights))}"
            )
        sums = (total(name, bits.results[f"{name}/expand"]) for name in config.bottlenecks)
        pairs = ((name, bits.weights[name], bits.results[name]) for name in config.names)
        convolutions = (LinearPrecision(*arrays(*pair), result(pair[0], pair[2])) for pair in pairs)
        return ENetPrecision(PICTURE, tuple(convolutions), tuple(sums))

    return choose


@functools.partial(jax.jit, static_argnums=0)
def _captured(config: ENetConfig, params: Any, images: Array) -> Any:
    """What blocks and bottlenecks put out; compiled as one, which is faster than layer by layer."""
    _, state = ENet(config).apply(
        {"params": params},
        images,
        capture_intermediates=lambda module, _: isinstance(module, Block | Bottleneck),
        mutable=["intermediates"],
    )
    return state["intermediates"]


def _leaf(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree[part]
    return tree


def sensitivities(
    config: ENetConfig, params: Mapping[str, Any], loss: Callable[[Any], float], *, low: int = 4
) -> dict[str, float]:
    """By how much the loss rises where the weights of one convolution alone are rounded to few bits.

    The network stays in floating point otherwise, so that one compiled program serves all of them.

    Args:
        config: of the folded network.
        params: its parameters.
        loss: of parameters on data of the caller's choice, lower is better.
        low: bits of the rounded kernel.
    """
    base = loss(params)
    rises = {}
    for name in config.names:
        kernel = jnp.asarray(_leaf(params, name)["conv"]["kernel"])
        rounded = quantize(kernel, calibrate(kernel, low))
        path = (*name.split("/"), "conv", "kernel")
        rises[name] = loss(_replaced(params, path, rounded)) - base
    return rises


def _replaced(tree: Mapping[str, Any], path: tuple[str, ...], leaf: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _replaced(tree[first], tuple(rest), leaf) if rest else leaf}


def heterogeneous_bits(
    config: ENetConfig,
    rises: Mapping[str, float],
    sizes: Mapping[str, int],
    *,
    high: int = 8,
    low: int = 4,
    share: float,
) -> ENetBits:
    """Low bits for the convolutions that cost the least loss per weight, high bits for the others.

    Takes convolutions in the order of their rise per weight until `share` of all weights has few bits: the greedy
    solution of the knapsack of keeping the loss low at a given memory.

    Args:
        config: of the network.
        rises: from `sensitivities`.
        sizes: weights of each convolution.
        high: bits of the sensitive ones.
        low: bits of the others.
        share: of the weights that get low bits at least, from 0 to 1.

    Raises:
        ConfigError: a share outside of 0 to 1, or other names.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of weights with few bits lies between 0 and 1, got {share}")
    if set(rises) != set(config.names) or set(sizes) != set(config.names):
        raise ConfigError(f"sensitivities and sizes are needed of the convolutions {', '.join(config.names)}")
    bits = dict.fromkeys(config.names, high)
    total, taken = sum(sizes.values()), 0
    for name in sorted(config.names, key=lambda name: (rises[name] / sizes[name], name)):
        if taken >= share * total:
            break
        bits[name], taken = low, taken + sizes[name]
    return ENetBits(bits, bits | {"head": max(bits["head"], 8)})


def kernel_sizes(config: ENetConfig, params: Mapping[str, Any]) -> dict[str, int]:
    """Numbers in each kernel."""
    return {name: int(np.size(_leaf(params, name)["conv"]["kernel"])) for name in config.names}
