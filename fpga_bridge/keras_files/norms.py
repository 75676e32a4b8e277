"""Batch normalisation at inference from its stored parameters: one scale and offset for each channel."""

import fractions
from collections.abc import Mapping

import numpy as np

from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_quantizers import quantize_weight
from jaxgeo.errors import CorruptFileError


def statistics(layer: Layer, width: int, before: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of a batch normalisation (and of what the same layer stores before), each in its quantised value."""
    shapes = dict(before)
    for key, name in (("scale", "gamma"), ("center", "beta")):
        if layer.config.get(key, True):
            shapes[name] = (width,)
    arrays = layer.arrays({**shapes, "moving_mean": (width,), "moving_variance": (width,)})
    for name, place in (("gamma", "gamma"), ("beta", "beta"), ("mean", "moving_mean"), ("variance", "moving_variance")):
        quantizer = layer.quantizer(name)
        if quantizer is not None and place in arrays:
            arrays[place] = quantize_weight(quantizer, arrays[place]).value
    if (arrays["moving_variance"] + layer.config.get("epsilon", 1e-3) <= 0).any():
        raise CorruptFileError(f"{layer.where}: a moving variance is not positive; train or save the model again")
    arrays.setdefault("gamma", np.ones(width, np.float32))
    arrays.setdefault("beta", np.zeros(width, np.float32))
    return arrays


def folded(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Scale and offset of a batch normalisation in float32, and whether each had to be rounded for that."""
    gamma, beta, mean, variance = (
        arrays[name].astype(np.float64) for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    epsilon = float(layer.config.get("epsilon", 1e-3))
    scale = (gamma / np.sqrt(variance + epsilon)).astype(np.float32)
    offset = (beta - mean * scale).astype(np.float32)
    exact = fractions.Fraction
    scale_is_exact = all(
        exact(float(s)) ** 2 * (exact(float(v)) + exact(epsilon)) == exact(float(g)) ** 2
        for s, v, g in zip(scale, variance, gamma, strict=True)
    )
    offset_is_exact = scale_is_exact and all(
        exact(float(b)) - exact(float(m)) * exact(float(s)) == exact(float(o))
        for b, m, s, o in zip(beta, mean, scale, offset, strict=True)
    )
    return scale, offset, not scale_is_exact, not offset_is_exact
