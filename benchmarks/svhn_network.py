"""The SVHN network of arXiv:2101.05108 as hls4ml's tutorial builds it, as a graph with random weights.

Three 3 x 3 convolutions of 16, 16 and 24 filters with batch norm, relu and 2 x 2 pooling; then 42, 64 and 10 units.
The trained weights are not published with the reports, so estimates that need them take these.
"""

import numpy as np

from fpga_bridge import graph as ir
from jaxgeo.layers.fixed_point import FixedPoint


def svhn_graph(pruned: float = 0.5, weight: FixedPoint | None = None, seed: int = 0) -> ir.Graph:
    """The network with normal weights, a share of them zero and the rest rounded to a format.

    Args:
        pruned: share of the weights of every layer that is zero.
        weight: format of the weights; None leaves them as they are.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> ir.Weight:
        fan_in = np.prod(shape[:-1])
        value = rng.normal(size=shape) / np.sqrt(fan_in)
        value[np.abs(value) < np.quantile(np.abs(value), pruned)] = 0.0
        if weight is not None:
            step = 2.0**-weight.fraction
            largest = 2.0 ** (weight.integer - weight.signed) - step
            value = np.clip(np.round(value / step) * step, -largest - step, largest)
        return ir.Weight(value.astype(np.float32), weight)

    nodes: list[ir.Node] = [ir.Input(name="image", inputs=(), shape=(32, 32, 3))]
    at, shape = "image", (32, 32, 3)
    for i, filters in enumerate((16, 16, 24), 1):
        window = kernel(3, 3, shape[2], filters)
        shape = (shape[0] - 2, shape[1] - 2, filters)
        ones = ir.Weight(np.ones(filters, np.float32))
        nodes += [
            ir.Conv(name=f"conv{i}", inputs=(at,), shape=shape, kernel=window, strides=(1, 1), padding="valid"),
            ir.Affine(name=f"norm{i}", inputs=(f"conv{i}",), shape=shape, scale=ones, offset=ones),
            ir.Relu(name=f"relu{i}", inputs=(f"norm{i}",), shape=shape),
        ]
        shape, at = (shape[0] // 2, shape[1] // 2, filters), f"pool{i}"
        two = (2, 2)
        nodes.append(
            ir.Pool(name=at, inputs=(f"relu{i}",), shape=shape, reduce="max", window=two, strides=two, padding="valid")
        )
    nodes.append(ir.Reshape(name="flatten", inputs=(at,), shape=(96,)))
    at, units_in = "flatten", 96
    for i, units in enumerate((42, 64, 10), 1):
        nodes.append(ir.Dense(name=f"dense{i}", inputs=(at,), shape=(units,), kernel=kernel(units_in, units)))
        at, units_in = f"dense{i}", units
        if i < 3:
            nodes.append(ir.Relu(name=f"dense_relu{i}", inputs=(at,), shape=(units,)))
            at = f"dense_relu{i}"
    nodes.append(ir.Softmax(name="softmax", inputs=(at,), shape=(10,)))
    return ir.Graph(tuple(nodes), "softmax")
