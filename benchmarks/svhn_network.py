"""The SVHN network of arXiv:2101.05108 as hls4ml's tutorial builds it, as a graph with random weights.

Three 3 x 3 convolutions of 16, 16 and 24 filters with batch norm, relu and 2 x 2 pooling; then 42, 64 and 10 units.
The trained weights are not published with the reports, so estimates that need them take these.
"""

import numpy as np

from fpga_bridge.typed_graph import graph as ir
from jaxgeo.layers.fixed_point import FixedPoint


def svhn_graph(pruned: float = 0.5, weight: FixedPoint | None = None, seed: int = 0) -> ir.Graph:
    """The network with normal weights, a share of them zero and the rest rounded to a format.

    Args:
        pruned: share of the weights of every layer but the last that is zero (the reports show more DSPs in the last
            layer than half of its weights could use).
        weight: format of the weights; None leaves them as they are.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)

    def kernel(*shape: int, pruned: float = pruned) -> ir.Weight:
        fan_in = np.prod(shape[:-1])
        value = rng.normal(size=shape) / np.sqrt(fan_in)
        value[np.abs(value) < np.quantile(np.abs(value), pruned)] = 0.0
        if weight is not None:
            step = 2.0**-weight.fraction
            largest = 2.0 ** (weight.integer - weight.signed) - step
            value = np.clip(np.round(value / step) * step, -largest - step, largest)
        return ir.Weight(value.astype(np.float32), weight)

    def norm(name: str, source: str, shape: tuple[int, ...]) -> ir.Affine:
        scale, offset = rng.uniform(0.5, 2.0, shape[-1]), rng.normal(size=shape[-1])
        weights = (ir.Weight(value.astype(np.float32)) for value in (scale, offset))
        return ir.Affine(name=name, inputs=(source,), shape=shape, scale=next(weights), offset=next(weights))

    nodes: list[ir.Node] = [ir.Input(name="image", inputs=(), shape=(32, 32, 3))]
    at, shape = "image", (32, 32, 3)
    for i, filters in enumerate((16, 16, 24), 1):
        window = kernel(3, 3, shape[2], filters)
        shape = (shape[0] - 2, shape[1] - 2, filters)
        nodes += [
            ir.Conv(name=f"conv{i}", inputs=(at,), shape=shape, kernel=window, strides=(1, 1), padding="valid"),
            norm(f"norm{i}", f"conv{i}", shape),
            ir.Relu(name=f"relu{i}", inputs=(f"norm{i}",), shape=shape),
        ]
        shape, at = (shape[0] // 2, shape[1] // 2, filters), f"pool{i}"
        two = (2, 2)
        nodes.append(
            ir.Pool(name=at, inputs=(f"relu{i}",), shape=shape, reduce="max", window=two, strides=two, padding="valid")
        )
    nodes.append(ir.Reshape(name="flatten", inputs=(at,), shape=(96,)))
    at, units_in = "flatten", 96
    for i, units in enumerate((42, 64), 1):
        nodes += [
            ir.Dense(name=f"dense{i}", inputs=(at,), shape=(units,), kernel=kernel(units_in, units)),
            norm(f"dense_norm{i}", f"dense{i}", (units,)),
            ir.Relu(name=f"dense_relu{i}", inputs=(f"dense_norm{i}",), shape=(units,)),
        ]
        at, units_in = f"dense_relu{i}", units
    nodes.append(ir.Dense(name="dense3", inputs=(at,), shape=(10,), kernel=kernel(units_in, 10, pruned=0.0)))
    nodes.append(ir.Softmax(name="softmax", inputs=("dense3",), shape=(10,)))
    return ir.Graph(tuple(nodes), "softmax")
