"""What the tests of the bridge share: arrays, a small classifier, outputs of graphs and wires, a Keras that warns."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.circuits import circuit
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig

FORMAT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
LAYER = LinearPrecision(FORMAT, FORMAT, FORMAT)
CONFIG = HealpixClassifierConfig(4, 2, 1, (3,), (4,), ClassifierPrecision(FORMAT, (LAYER, LAYER)))


def values(seed, *shape, scale=1.0):
    """Normal numbers in float32."""
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


def classifier_params():
    """Of the classifier `CONFIG`, drawn."""
    tree = HealpixClassifier(CONFIG).init(jax.random.key(0), jnp.zeros((1, 48, 1)))["params"]
    return jax.tree.map(np.asarray, tree)


def outputs(graph, x, until=None):
    """Of a graph, or of one of its nodes."""
    return np.asarray(jax.jit(lambda x: apply_graph(graph, x, until))(jnp.asarray(x)))


def exact_design(graph):
    """The types of an export, for the emulation."""
    types = plan_types(graph)
    return DesignTypes(
        layers={
            node.name: LayerTypes(
                result=None if node.kind in ("reshape", "transpose") else types[node.name].result,
                weight=None if node.kind == "table" else types[node.name].weight,
                bias=types[node.name].bias,
                accum=types[node.name].accumulator,
            )
            for node in graph
        }
    )


def interpreted(unrolled, x):
    """Outputs of an unrolled network's wires, by da4ml's own interpreter.

    It takes the top bit of an unsigned number as set from one step too low on where a choice reads it; the Verilog does
    not, nor does da4ml's evaluation in Python, which decides where this one differs.
    """
    comb_trace = circuit.import_da4ml().trace.comb_trace
    logic = comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
    words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64)
    return logic.predict(words.reshape(len(x), -1), n_threads=1).reshape(len(x), *unrolled.outputs.shape)


@contextlib.contextmanager
def keras_at_work():
    """Keras converts its variables in a way that NumPy 2 deprecates, and adds biases of lower rank."""
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield
