"""From a network trained in floating point to one in fixed point: choose the formats from data, then fine-tune.

Formats are chosen after training from the values that occur (post-training calibration); fine-tuning then trains the
same parameter tree through the rounding, with the straight-through gradient of `jaxgeo.layers.fixed_point`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_whole
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.patch import PatchConv
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig
from jaxgeo.training.examples import check_labels, check_rows
from jaxgeo.training.losses import mean_cross_entropy

Params = TypeVar("Params")

FLOAT32_EXACT_BITS = 24  # integers of this many bits, and sums of them, are exact in float32
_CANDIDATES = 4  # integer bits tried: from those that hold the largest value downwards


def calibrate(
    values: Float[Array, "..."] | Float[np.ndarray, "..."],
    width: int,
    signed: bool = True,
    max_fraction: int | None = None,
) -> FixedPoint:
    """The format of `width` bits, rounding to nearest and saturating, that loses least on these values.

    Starts from the integer bits that hold the largest magnitude and gives up to three of them to the fraction while the
    sum of squared errors falls: a few saturated outliers often cost less than a coarse step for all.

    Args:
        values: finite, any shape.
        width: bits of a word.
        signed: with a sign; without, negative values count as losses (use it behind a relu).
        max_fraction: no finer step than 2^-max_fraction.

    Raises:
        InputError: no values, or NaN or infinity among them.
    """
    flat = np.asarray(values, np.float64).ravel()
    if flat.size == 0 or not np.isfinite(flat).all():
        raise InputError(
            "formats are calibrated on finite values, at least one; look for NaN or infinity in the network"
        )
    largest = float(np.abs(flat).max())
    # frexp: largest = m 2^e with m in [0.5, 1), so e bits stand left of the point.
    integer = math.frexp(largest)[1] + signed
    # Zeros (fresh biases) say nothing; they get the range +-1, not the finest step, so that training can move them.
    lowest = integer - _CANDIDATES + 1 if largest > 0 else integer
    if max_fraction is not None:
        lowest = max(lowest, width - max_fraction)
        integer = max(integer, lowest)
    formats = [FixedPoint(width, i, signed, "RND", "SAT") for i in range(integer, lowest - 1, -1)]
    errors = [_squared_error(flat, format) for format in formats]
    return formats[int(np.argmin(errors))]


def _squared_error(values: np.ndarray, format: FixedPoint) -> float:
    words = np.clip(np.floor(values / format.step + 0.5), format.min_word, format.max_word)
    return float(np.sum((words * format.step - values) ** 2))


def accumulator_bits(inputs: FixedPoint, weight: FixedPoint, fan_in: int, bias: FixedPoint | None = None) -> int:
    """Bits of magnitude that hold any sum of `fan_in` products and a bias, in units of the finest step.

    Up to 24 the sum is exact in float32 in any order, so JAX, Keras and an accumulator in hardware agree bit for bit.
    """
    fraction = inputs.fraction + weight.fraction
    finest = fraction if bias is None else max(fraction, bias.fraction)
    largest = fan_in * _largest_word(inputs) * _largest_word(weight) << (finest - fraction)
    if bias is not None:
        largest += _largest_word(bias) << (finest - bias.fraction)
    return (largest - 1).bit_length()  # 2^24 itself is still exact


def _largest_word(format: FixedPoint) -> int:
    return max(format.max_word, -format.min_word)


def choose_precision(
    config: HealpixClassifierConfig,
    params: Any,
    inputs: Float[Array, "sample pixel channel"],
    *,
    weight_bits: int = 6,
    activation_bits: int = 8,
    logit_bits: int = 12,
) -> ClassifierPrecision:
    """Formats of a trained classifier, calibrated on sample inputs layer by layer.

    Hidden results stand before a relu and are unsigned: saturation at zero is the relu. Biases have as many bits as
    activations and never a finer step than the products, so that they do not widen the sums.

    Args:
        config: of the network; its own precision is ignored.
        params: the trained tree, without the leading `params`.
        inputs: representative maps, some hundred of the training set.
        weight_bits: of kernels.
        activation_bits: of the input, the hidden results and the biases.
        logit_bits: of the last result.

    Raises:
        ConfigError: where a layer's sums need more than 24 bits, which float32 cannot hold exactly.
        InputError: where values are not finite.
    """
    classifier = HealpixClassifier(dataclasses.replace(config, precision=None))
    captured: Any = classifier.apply(
        {"params": params},
        inputs,
        capture_intermediates=lambda module, _: isinstance(module, PatchConv),
        mutable=["intermediates"],
    )
    logits: Any = classifier.apply({"params": params}, inputs)
    names = [f"conv_{i}" for i in range(len(config.features))]
    hidden = [jax.nn.relu(captured[1]["intermediates"][name]["__call__"][0]) for name in names]
    layers = [params[name]["dense"] for name in names] + [params["head"]]
    incoming = calibrate(inputs, activation_bits, signed=bool(jnp.min(inputs) < 0))
    results = [calibrate(values, activation_bits, signed=False) for values in hidden]
    results.append(calibrate(logits, logit_bits))
    precisions = []
    for name, layer, source, result in zip([*names, "head"], layers, [incoming, *results[:-1]], results, strict=True):
        weight = calibrate(layer["kernel"], weight_bits)
        bias = calibrate(layer["bias"], activation_bits, max_fraction=source.fraction + weight.fraction)
        bits = accumulator_bits(source, weight, layer["kernel"].shape[0], bias)
        if bits > FLOAT32_EXACT_BITS:
            raise ConfigError(
                f"the sums of {name} need {bits} bits with {weight_bits}-bit weights and {activation_bits}-bit "
                f"activations, but float32 is exact to {FLOAT32_EXACT_BITS}; "
                f"take {bits - FLOAT32_EXACT_BITS} bits off one of them"
            )
        precisions.append(LinearPrecision(weight, bias, result))
    return ClassifierPrecision(incoming, tuple(precisions))


def finetune(
    apply: Callable[[Params, Float[Array, "sample ..."]], Float[Array, "sample class"]],
    params: Params,
    inputs: Float[Array, "sample ..."],
    labels: Int[Array, " sample"],
    key: PRNGKeyArray,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
) -> tuple[Params, Float[Array, " epoch"]]:
    """Train on through the rounding: Adam with a cosine schedule on the cross-entropy, as one compiled scan.

    Pure, so members are fine-tuned together by `vmap` over `params` and `key`.

    Args:
        apply: the quantised network, `(params, inputs) -> logits`.
        params: from training in floating point; rounding keeps them as they are and is applied inside.
        inputs: training set, kept on the device.
        labels: classes.
        key: orders the samples.
        epochs: passes over the data, the last incomplete batch of each left out.
        batch_size: samples per step, at most all.
        learning_rate: at the start of the schedule.

    Returns:
        The tuned parameters and the mean loss of each epoch, nats.

    Raises:
        ConfigError: epochs or a batch size that are no whole numbers of at least 1.
        InputError: inputs and labels of different numbers, or labels that are no classes of the network.
    """
    check_whole("the number of epochs of fine-tuning", epochs)
    check_whole("the batch_size of fine-tuning", batch_size)
    check_rows(inputs, labels)
    predictions = jax.eval_shape(apply, params, inputs)
    check_labels(labels, predictions.shape[:-1], predictions.shape[-1])
    size = min(batch_size, len(inputs))
    steps = len(inputs) // size
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, epochs * steps))

    def loss(params: Any, batch: Array) -> Array:
        logits = apply(params, inputs[batch])
        return mean_cross_entropy(logits, labels[batch])

    def step(state: Any, batch: Array) -> Any:
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    def epoch(state: Any, key: PRNGKeyArray) -> Any:
        order = jax.random.permutation(key, len(inputs))[: steps * size].reshape(steps, size)
        state, losses = jax.lax.scan(step, state, order)
        return state, losses.mean()

    (params, _), losses = jax.lax.scan(epoch, (params, optimiser.init(params)), jax.random.split(key, epochs))  # pyright: ignore[reportArgumentType]
    return params, losses
