"""One small network for each layer and variant that a user may ask the hls4ml route for, exact or not.

A case is a plain function of activations that a quantizer has already rounded. `fpga_bridge.capabilities.table` asks
the bridge what becomes of it; the tests compile each that is taken and hold it against JAX.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.quantised_predictive import PredictivePrecision, predictive, probabilities
from jaxgeo.layers.recurrent import RoundedCell
from jaxgeo.layers.table_activation import GELU, RSQRT, lookup

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
RESULT = FixedPoint(9, 4, rounding="RND_CONV", overflow="SAT_SYM")
UNSIGNED = FixedPoint(6, 3, False, "RND", "SAT")
RARE = FixedPoint(5, 2, True, "RND_ZERO", "SAT_ZERO")
BELIEFS = PredictivePrecision.uniform(6, num_classes=3)
SIGNAL, IMAGE = (8, 4), (4, 8, 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer in one variant.

    Attributes:
        layer: its name, as users of linen and Keras say it.
        variant: what is special about this one.
        apply: of activations `(batch, *shape)`, quantized to `INPUT`.
        shape: of one sample.
        rewriting: how hls4ml, which has no such layer or a wrong one, gets it; empty where layer meets layer.
    """

    layer: str
    variant: str
    apply: Callable[[Any], Any]
    shape: tuple[int, ...] = SIGNAL
    rewriting: str = ""


def _kernel(*shape: int) -> np.ndarray:
    """Weights that are eighths, within (-2, 2)."""
    return (np.random.default_rng(shape).integers(-15, 16, shape) / 8).astype(np.float32)


def _rounded(x: Any) -> Any:
    return quantize(x, RESULT)


def _conv(x: Any, shape: Sequence[int], strides: Sequence[int], padding: Any = "VALID", **more: Any) -> Any:
    axes = "DHW"[5 - len(shape) :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    kernel = jnp.asarray(_kernel(*shape))
    return _rounded(jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **more))


def _dense(x: Any, units: int) -> Any:
    return _rounded(x @ jnp.asarray(_kernel(x.shape[-1], units)))


def _pool(x: Any, window: tuple[int, ...], strides: tuple[int, ...], padding: str = "VALID") -> Any:
    sizes = ((1, *window, 1), (1, *strides, 1))
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, *sizes, padding)


def _mean_pool(x: Any, window: tuple[int, ...], strides: tuple[int, ...], padding: str = "VALID") -> Any:
    return _rounded(_window_sum(x, window, strides, padding) / float(np.prod(window)))


def _window_sum(x: Any, window: tuple[int, ...], strides: tuple[int, ...], padding: str = "VALID") -> Any:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, *window, 1), (1, *strides, 1), padding)


def _relu(x: Any) -> Any:
    return jnp.maximum(x, 0.0)


def _prelu(x: Any, slopes: np.ndarray) -> Any:
    return jnp.where(x > 0, x, jnp.asarray(slopes).reshape((1,) * (x.ndim - slopes.ndim) + slopes.shape) * x)


def _thresholded(x: Any, threshold: float) -> Any:
    return jnp.where(x > threshold, x, 0.0)


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


def _vector(x: Any) -> Any:
    return jnp.max(x, axis=1)


def _layer_norm(x: Any) -> Any:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + 1e-6)


def _table_norm(x: Any) -> Any:
    centred = _rounded(x - jnp.mean(x, axis=-1, keepdims=True))
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return _rounded(centred * lookup(variance, RSQRT, UNSIGNED, UNSIGNED))


def _beliefs(x: Any) -> Any:
    logits = jnp.stack([_dense(_vector(x), 3), _vector(x)[:, :3]])
    return jnp.concatenate(predictive(logits, BELIEFS), axis=-1)


def _attention(x: Any) -> Any:
    scores = jnp.einsum("bqc,bkc->bqk", _dense(x, 4), _dense(x, 4))
    return jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores), x)


def _table_attention(x: Any) -> Any:
    scores = quantize(jnp.einsum("bqc,bkc->bqk", x[:, :3], x[:, :3]), INPUT)
    return _rounded(jnp.einsum("bqk,bkc->bqc", probabilities(scores, BELIEFS), x[:, :3]))


def _head_products(x: Any) -> Any:
    """Of the pixels of two rows, each a head."""
    return jnp.einsum("brpc,brqc->brpq", x[:, :2, :5], x[:, 2:, :5])


def _moving_mean(x: Any) -> Any:
    return jax.lax.scan(lambda state, row: ((state + row) * 0.5,) * 2, x[:, 0], jnp.swapaxes(x, 0, 1))[0]


def _gate(x: Any) -> Any:
    return quantize(jax.nn.sigmoid(quantize(x, INPUT)), INPUT)


def _squash(x: Any) -> Any:
    return quantize(jnp.tanh(quantize(x, INPUT)), INPUT)


def _states(cell: nn.RNNCellBase, x: Any) -> Any:
    """After each of three places."""
    x, model = x[:, :3], nn.RNN(cell)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return model.apply(jax.tree.map(lambda leaf: jnp.asarray(_kernel(*leaf.shape)), shapes), x)


def _last_state(cell: nn.RNNCellBase, x: Any) -> Any:
    return _states(RoundedCell(cell, INPUT), x)[:, -1]


def _resize(x: Any, method: str) -> Any:
    return jax.image.resize(x, (x.shape[0], 8, 16, 2), method)


_BLOCKS = "a kernel over all channels, zero between the groups"
_ZEROS = "zeros between the taps of the kernel"
_WORDS = "a table of the results of all words"
_ONES = "a dense layer of ones and zeros"
_BY_TABLES = "tables, sums by dense layers of ones, and products"
_HALVES = "the larger of two halves, again and again"
PAIRS = "products of pixels, one for each pair of rows, and a dense layer of ones"
_STEPS = "layers of each step"
_TAP = "a convolution with one tap"
_PADDED = "zeros around an input that is never negative, and a pooling without padding"
_ORDERED = "a dense layer of ones and zeros between transposes"
_POWER = "the mean of 2^k numbers, zeros among them, times 2^k"
_INSERTED = "a convolution of the input with zeros between its pixels"
CASES = (
    Case("dense", "vector", lambda x: _dense(_vector(x), 3)),
    Case("dense", "each place of a signal", lambda x: _dense(x, 3)),
    Case("dense", "each place of an image", lambda x: _dense(x, 3), IMAGE),
    Case("dense", "with a bias", lambda x: _rounded(x @ jnp.asarray(_kernel(4, 3)) + jnp.asarray(_kernel(1, 1, 3)))),
    Case("convolution, 1-D", "valid", lambda x: _conv(x, (3, 4, 3), (1,))),
    Case("convolution, 1-D", "same, even window", lambda x: _conv(x, (4, 4, 3), (1,), "SAME")),
    Case("convolution, 1-D", "same, strided", lambda x: _conv(x, (3, 4, 3), (2,), "SAME")),
    Case("convolution, 1-D", "strides beyond the window", lambda x: _conv(x, (2, 4, 3), (3,))),
    Case("convolution, 1-D", "pointwise, strided", lambda x: _conv(x, (1, 4, 3), (2,))),
    Case("convolution, 1-D", "dilated", lambda x: _conv(x, (2, 4, 3), (1,), "SAME", rhs_dilation=(2,)), SIGNAL, _ZEROS),
    Case("convolution, 1-D", "grouped", lambda x: _conv(x, (3, 2, 4), (1,), feature_group_count=2), SIGNAL, _BLOCKS),
    Case("convolution, 1-D", "transposed", lambda x: _conv(x, (3, 4, 3), (1,), ((1, 2),), lhs_dilation=(2,)), SIGNAL,
         _INSERTED),
    Case("convolution, 1-D", "of patches", lambda x: _dense(x.reshape(x.shape[0], 4, 8), 3), SIGNAL,
         "a convolution whose window is its stride"),
    Case("convolution, 2-D", "valid, strided", lambda x: _conv(x, (2, 3, 2, 3), (2, 1)), IMAGE),
    Case("convolution, 2-D", "same", lambda x: _conv(x, (3, 2, 2, 3), (1, 1), "SAME"), IMAGE),
    Case("convolution, 2-D", "same, strided", lambda x: _conv(x, (3, 2, 2, 3), (2, 3), "SAME"), IMAGE),
    Case("convolution, 2-D", "of one row, rows strided", lambda x: _conv(x, (1, 2, 2, 3), (2, 1)), IMAGE),
    Case("convolution, 2-D", "of one column, columns strided", lambda x: _conv(x, (2, 1, 2, 3), (1, 2)), IMAGE),
    Case("convolution, 2-D", "pointwise", lambda x: _conv(x, (1, 1, 2, 3), (1, 1)), IMAGE),
    Case("convolution, 2-D", "pointwise, strided", lambda x: _conv(x, (1, 1, 2, 3), (2, 2)), IMAGE),
    Case("convolution, 2-D", "window of the whole image", lambda x: _conv(x, (*IMAGE, 3), (1, 1)), IMAGE),
    Case("convolution, 2-D", "dilated", lambda x: _conv(x, (2, 2, 2, 3), (1, 1), "SAME", rhs_dilation=(1, 2)), IMAGE,
         _ZEROS),
    Case("convolution, 2-D", "depthwise", lambda x: _conv(x, (2, 2, 1, 4), (1, 1), feature_group_count=2), IMAGE,
         _BLOCKS),
    Case("convolution, 2-D", "transposed", lambda x: _conv(x, (2, 3, 2, 3), (1, 1), ((1, 1),) * 2, lhs_dilation=(2, 1)),
         IMAGE, _INSERTED),
    Case("convolution, 3-D", "valid", lambda x: _conv(x[..., None], (2, 2, 2, 1, 3), (1, 1, 1)), IMAGE),
    Case("batch norm, scale and offset", "vector", lambda x: _rounded(_vector(x) * 0.75 + 1.5)),
    Case("batch norm, scale and offset", "signal", lambda x: _rounded(x * jnp.asarray(_kernel(4))[None, None] - 1.5)),
    Case("batch norm, scale and offset", "image", lambda x: _rounded(x * 0.75 + 1.5), IMAGE),
    Case("batch norm, scale and offset", "1 and 0, rounded", lambda x: quantize(x * jnp.ones((1, 1, 4)), RARE)),
    Case("relu", "vector", lambda x: _relu(_vector(x))),
    Case("relu", "signal", _relu),
    Case("relu", "image", _relu, IMAGE),
    Case("relu", "behind flatten", lambda x: _relu(_flat(x))),
    Case("leaky relu", "dyadic slope", lambda x: jnp.where(x > 0, x, 0.25 * x), IMAGE),
    Case("leaky relu", "vector", lambda x: jax.nn.leaky_relu(_vector(x), 0.5)),
    Case("PReLU", "slopes of a signal", lambda x: _prelu(x, _kernel(4))),
    Case("PReLU", "slopes of an image", lambda x: _prelu(x, _kernel(2)), IMAGE),
    Case("PReLU", "slopes of a vector", lambda x: _prelu(_vector(x), _kernel(4))),
    Case("PReLU", "slopes of each place", lambda x: _prelu(x, _kernel(8, 4))),
    Case("thresholded relu", "signal", lambda x: _thresholded(x, 0.75)),
    Case("thresholded relu", "image, unsigned", lambda x: _thresholded(quantize(x, UNSIGNED), 1.5), IMAGE),
    Case("thresholded relu", "vector", lambda x: _thresholded(_vector(x), 2.0)),
    Case("thresholded relu", "keeps the threshold", lambda x: jnp.where(x >= 0.75, x, 0.0)),
    Case("thresholded relu", "below zero", lambda x: _thresholded(x, -0.75)),
    Case("thresholded relu", "below zero, quantized", lambda x: _rounded(_thresholded(x, -0.75)), SIGNAL, _WORDS),
    Case("quantizer", "signal", lambda x: quantize(x, UNSIGNED)),
    Case("quantizer", "image, rarer modes", lambda x: quantize(x, RARE), IMAGE),
    Case("quantizer", "behind flatten", lambda x: quantize(_flat(x), UNSIGNED)),
    Case("max pooling, 1-D", "valid", lambda x: _pool(x, (2,), (2,))),
    Case("max pooling, 1-D", "overlapping", lambda x: _pool(x, (3,), (2,))),
    Case("max pooling, 1-D", "with gaps", lambda x: _pool(x, (2,), (3,))),
    Case("max pooling, 1-D", "same", lambda x: _pool(x, (3,), (2,), "SAME")),
    Case("max pooling, 1-D", "same, behind relu", lambda x: _pool(_relu(x), (3,), (2,), "SAME"), SIGNAL, _PADDED),
    Case("max pooling, 2-D", "valid", lambda x: _pool(x, (2, 2), (2, 2)), IMAGE),
    Case("max pooling, 2-D", "overlapping", lambda x: _pool(x, (3, 2), (1, 2)), IMAGE),
    Case("max pooling, 2-D", "same", lambda x: _pool(x, (3, 3), (2, 2), "SAME"), IMAGE),
    Case("max pooling, 2-D", "same, unsigned", lambda x: _pool(quantize(x, UNSIGNED), (3, 3), (2, 2), "SAME"), IMAGE,
         _PADDED),
    Case("max pooling, 2-D", "same, side by side", lambda x: _pool(_relu(x), (3, 3), (3, 3), "SAME"), IMAGE, _PADDED),
    Case("average pooling, 1-D", "valid, power of two", lambda x: _mean_pool(x, (2,), (2,))),
    Case("average pooling, 1-D", "three numbers", lambda x: _mean_pool(x, (3,), (1,))),
    Case("average pooling, 2-D", "valid, power of two", lambda x: _mean_pool(x, (2, 2), (2, 2)), IMAGE),
    Case("average pooling, 2-D", "overlapping", lambda x: _mean_pool(x, (2, 2), (1, 1)), IMAGE),
    Case("average pooling, 2-D", "same", lambda x: _mean_pool(x, (2, 2), (1, 1), "SAME"), IMAGE),
    Case("global max pooling", "signal", _vector),
    Case("global max pooling", "image", lambda x: jnp.max(x, axis=(1, 2)), IMAGE),
    Case("global average pooling", "signal", lambda x: _rounded(jnp.mean(x, axis=1))),
    Case("global average pooling", "image", lambda x: _rounded(jnp.mean(x, axis=(1, 2))), IMAGE),
    Case("upsampling", "nearest, 1-D", lambda x: jnp.repeat(x, 3, axis=1)),
    Case("upsampling", "nearest, 2-D", lambda x: _resize(x, "nearest"), IMAGE),
    Case("upsampling", "nearest, unsigned", lambda x: jnp.repeat(quantize(x, UNSIGNED), 2, axis=1)),
    Case("upsampling", "bilinear", lambda x: _resize(x, "bilinear"), IMAGE),
    Case("upsampling", "cubic", lambda x: _resize(x, "cubic"), IMAGE),
    Case("zero padding", "1-D", lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0)))),
    Case("zero padding", "2-D", lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))), IMAGE),
    Case("zero padding", "of channels", lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 1)))),
    Case("padding", "by edge values", lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0)), mode="edge"), SIGNAL,
         "slices, joined"),
    Case("add", "signal", lambda x: _rounded(x + _relu(x))),
    Case("add", "image, of two types", lambda x: x + quantize(x, UNSIGNED), IMAGE),
    Case("add", "of itself", lambda x: _rounded(x + x)),
    Case("subtract", "signal", lambda x: _rounded(x - _relu(x)), SIGNAL, "the sum with -1 times the second"),
    Case("multiply", "vectors", lambda x: _vector(x) * _dense(_vector(x), 4)),
    Case("multiply", "signal", lambda x: x * _dense(x, 4)),
    Case("multiply", "image, of two types", lambda x: quantize(x, UNSIGNED) * _dense(x, 2), IMAGE),
    Case("multiply", "of itself", lambda x: _dense(x, 4) ** 2),
    Case("multiply", "each channel by a gate", lambda x: x * jnp.max(x, axis=(1, 2), keepdims=True), IMAGE,
         "copies of the gate at all pixels"),
    Case("multiply", "each pixel by a gate", lambda x: x * _dense(x, 1), IMAGE, "copies of the gate by a dense layer"),
    Case("maximum", "signal", lambda x: jnp.maximum(x, _dense(x, 4))),
    Case("maximum", "image, of two types", lambda x: jnp.maximum(_dense(x, 2), quantize(x, UNSIGNED)), IMAGE),
    Case("maximum", "with a constant", lambda x: jnp.maximum(x, 0.5)),
    Case("maximum", "with a constant, quantized", lambda x: _rounded(jnp.maximum(x, 0.5)), SIGNAL, _WORDS),
    Case("minimum", "signal", lambda x: jnp.minimum(x, _dense(x, 4))),
    Case("minimum", "image, of two types", lambda x: jnp.minimum(quantize(x, UNSIGNED), x), IMAGE),
    Case("maximum", "over channels", lambda x: jnp.max(x, axis=-1, keepdims=True), SIGNAL, _HALVES),
    Case("maximum", "over channels of an image", lambda x: x - jnp.max(x, axis=-1)[..., None], IMAGE, _HALVES),
    Case("sum", "over channels", lambda x: _rounded(jnp.sum(x, axis=-1, keepdims=True)), SIGNAL, _ONES),
    Case("sum", "over places", lambda x: _rounded(jnp.sum(x[:, 1:], axis=1)), SIGNAL, _POWER),
    Case("sum", "over all pixels", lambda x: _rounded(jnp.sum(x, axis=(1, 2))), IMAGE, _POWER),
    Case("sum", "over windows", lambda x: _rounded(_window_sum(x, (2, 3), (2, 2))), IMAGE, "a convolution of ones"),
    Case("average", "of two activations", lambda x: (x + _dense(x, 4)) * 0.5, SIGNAL, "half of the sum"),
    Case("concatenate", "vectors", lambda x: jnp.concatenate([_vector(x), _dense(_vector(x), 3)], -1)),
    Case("concatenate", "channels of a signal", lambda x: jnp.concatenate([x, quantize(x, UNSIGNED)], -1)),
    Case("concatenate", "channels of an image", lambda x: jnp.concatenate([x, _dense(x, 3)], -1), IMAGE),
    Case("concatenate", "places of a signal", lambda x: jnp.concatenate([x, _relu(x)], 1)),
    Case("concatenate", "rows of an image", lambda x: jnp.concatenate([x, _relu(x)], 1), IMAGE),
    Case("concatenate", "columns of an image", lambda x: jnp.concatenate([x, _relu(x)], 2), IMAGE),
    Case("concatenate", "three at once", lambda x: jnp.concatenate([x, _relu(x), _dense(x, 3)], -1), SIGNAL,
         "two at a time"),
    Case("concatenate", "four axes", lambda x: jnp.concatenate([x.reshape(-1, 2, 4, 2, 2)] * 2, -1)),
    Case("concatenate", "behind flatten", lambda x: jnp.concatenate([_flat(x), _vector(x)], -1)),
    Case("flatten", "signal to dense", lambda x: _dense(_flat(x), 3)),
    Case("flatten", "image to dense", lambda x: _dense(_flat(x), 3), IMAGE),
    Case("flatten", "as the output", lambda x: _flat(_relu(x))),
    Case("reshape", "signal to image", lambda x: _relu(x.reshape(x.shape[0], 4, 2, 4))),
    Case("reshape", "image to signal", lambda x: _relu(x.reshape(x.shape[0], 16, 4)), IMAGE),
    Case("transpose", "signal", lambda x: jnp.swapaxes(x, 1, 2)),
    Case("transpose", "image", lambda x: jnp.transpose(x, (0, 3, 1, 2)), IMAGE),
    Case("transpose", "image, rows and columns", lambda x: jnp.swapaxes(x, 1, 2), IMAGE),
    Case("transpose", "image, rows last", lambda x: jnp.transpose(x, (0, 2, 3, 1)), IMAGE),
    Case("softmax", "vector, last layer", lambda x: jax.nn.softmax(_vector(x))),
    Case("softmax", "each place of a signal", jax.nn.softmax),
    Case("softmax", "each place of an image", jax.nn.softmax, IMAGE),
    Case("softmax", "inside the network", lambda x: _relu(jax.nn.softmax(_vector(x)))),
    Case("softmax", "by tables, inside the network", lambda x: probabilities(_vector(x), BELIEFS), SIGNAL, _BY_TABLES),
    Case("ensemble", "entropy of two members", _beliefs, SIGNAL, _BY_TABLES),
    Case("log-softmax", "last layer", lambda x: jax.nn.log_softmax(_vector(x))),
    Case("layer norm", "channels", _layer_norm),
    Case("layer norm", "by a table of 1/sqrt(x)", _table_norm, SIGNAL, _BY_TABLES),
    Case("attention", "softmax of floats", _attention),
    Case("attention", "softmax by tables", _table_attention, SIGNAL, _BY_TABLES),
    Case("matmul", "two activations", lambda x: _rounded(jnp.einsum("bpc,bqc->bpq", x, x)), SIGNAL, PAIRS),
    Case("matmul", "two heads", lambda x: _rounded(_head_products(x)), IMAGE, PAIRS),
    Case("sigmoid", "float", jax.nn.sigmoid),
    Case("tanh", "float", jnp.tanh),
    Case("GELU", "float", lambda x: jax.nn.gelu(x, approximate=False)),
    Case("SiLU", "float", jax.nn.silu),
    Case("sigmoid", "quantized", lambda x: _rounded(jax.nn.sigmoid(x)), SIGNAL, _WORDS),
    Case("tanh", "quantized", lambda x: _rounded(jnp.tanh(x)), SIGNAL, _WORDS),
    Case("GELU", "quantized", lambda x: _rounded(jax.nn.gelu(x, approximate=False)), SIGNAL, _WORDS),
    Case("GELU", "by tanh, quantized", lambda x: _rounded(jax.nn.gelu(x)), SIGNAL, _WORDS),
    Case("SiLU", "quantized", lambda x: _rounded(jax.nn.silu(x)), SIGNAL, _WORDS),
    Case("SiLU", "quantized, image, unsigned", lambda x: _rounded(jax.nn.silu(quantize(x, UNSIGNED))), IMAGE, _WORDS),
    Case("ELU", "quantized", lambda x: _rounded(jax.nn.elu(x)), SIGNAL, _WORDS),
    Case("softplus", "quantized", lambda x: _rounded(jax.nn.softplus(x)), SIGNAL, _WORDS),
    Case("hard swish", "quantized", lambda x: _rounded(jax.nn.hard_swish(x)), SIGNAL, _WORDS),
    Case("absolute value", "quantized", lambda x: _rounded(jnp.abs(x)), SIGNAL, _WORDS),
    Case("square", "quantized", lambda x: _rounded(x * x), SIGNAL, _WORDS),
    Case("GELU", "a table over quantized numbers", lambda x: lookup(x, GELU, INPUT, RESULT)),
    Case("GELU", "a table over 16 bits", lambda x: lookup(x, GELU, FixedPoint(16, 3), RESULT)),
    Case("tanh", "quantized to 20 bits", lambda x: _rounded(jnp.tanh(quantize(x, FixedPoint(20, 3))))),
    Case("gather", "of channels", lambda x: x[..., np.array([2, 0, 0, 3, 1])], SIGNAL, _ONES),
    Case("gather", "a permutation of places", lambda x: x[:, np.array([3, 0, 1, 2, 7, 4, 6, 5])], SIGNAL, _ORDERED),
    Case("gather", "of columns", lambda x: x[:, :, np.array([5, 5, 0])], IMAGE, _ORDERED),
    Case("roll", "places", lambda x: jnp.roll(x, 1, axis=1), SIGNAL, "two slices, joined"),
    Case("roll", "channels", lambda x: jnp.roll(x, 1, axis=-1), SIGNAL, "two slices, joined"),
    Case("roll", "columns", lambda x: jnp.roll(x, 3, axis=2), IMAGE, "two slices, joined"),
    Case("reversal", "places", lambda x: x[:, ::-1], SIGNAL, _ORDERED),
    Case("reversal", "channels of an image", lambda x: x[..., ::-1], IMAGE, _ONES),
    Case("slice", "every other place", lambda x: x[:, ::2], SIGNAL, _TAP),
    Case("slice", "middle places", lambda x: x[:, 2:6], SIGNAL, _TAP),
    Case("slice", "channels", lambda x: x[..., 1:3], SIGNAL, _ONES),
    Case("slice", "of a vector", lambda x: _vector(x)[:, 1::2], SIGNAL, _ONES),
    Case("slice", "a window, strided", lambda x: x[:, 1:, 1:7:2], IMAGE, _TAP),
    Case("slice", "one channel of an image", lambda x: x[..., 1:], IMAGE, _ONES),
    Case("dropout", "with a fixed key", lambda x: nn.Dropout(0.5).apply({}, x, False, rng=jax.random.key(0))),
    Case("sort", "channels", lambda x: jnp.sort(x, axis=-1)),
    Case("recurrence", "scan over places", _moving_mean, SIGNAL, _STEPS),
    Case("recurrence", "scan over five places", lambda x: _moving_mean(x[:, 1:6]), SIGNAL, _STEPS),
    Case("SimpleRNN", "last state", lambda x: _last_state(nn.SimpleCell(2, activation_fn=_squash), x), SIGNAL, _STEPS),
    Case("LSTM", "last state", lambda x: _last_state(nn.LSTMCell(2, _gate, _squash), x), SIGNAL, _STEPS),
    Case("GRU", "last state", lambda x: _last_state(nn.GRUCell(2, _gate, _squash), x), SIGNAL, _STEPS),
    Case("GRU", "all states", lambda x: _states(RoundedCell(nn.GRUCell(2, _gate, _squash), INPUT), x), SIGNAL, _STEPS),
    Case("GRU", "float", lambda x: _states(nn.GRUCell(2), x)),
)  # fmt: skip
