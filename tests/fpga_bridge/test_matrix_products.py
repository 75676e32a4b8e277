"""Products of matrices of activations as layers: JAX, the emulation and wires say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import interpreted

from fpga_bridge.circuits import symbolic
from fpga_bridge.circuits.unroll import unroll
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

INPUT = FixedPoint(6, 3, True, "RND", "SAT")
PRODUCTS = {
    "rows by rows": (lambda x: jnp.einsum("bpc,bqc->bpq", x, 2 * x), (5, 3)),
    "columns by columns": (lambda x: jnp.einsum("bpc,bpd->bcd", x, x[..., 1:]), (4, 3)),
    "rows of pixels": (lambda x: jnp.einsum("brpc,brqc->brpq", x, x), (2, 3, 2)),
    "heads behind places": (lambda x: jnp.einsum("bphc,bqhc->bhpq", x, x[:, 1:]), (3, 2, 2)),
    "one after the other": (lambda x: jnp.einsum("bpq,bqc->bpc", jnp.einsum("bpc,bqc->bpq", x, x), x), (3, 2)),
    "places by one of them": (lambda x: jnp.einsum("bpc,bc->bp", x, x[:, 0]), (4, 3)),
    "a vector by itself": (lambda x: jnp.einsum("bc,bc->b", x, x)[:, None], (5,)),
    "all pairs": (lambda x: jnp.einsum("bc,bd->bcd", x, x), (4,)),
    "two sums at once": (lambda x: jnp.einsum("bpc,bpcd->bd", x, jnp.stack([x, -0.5 * x], axis=-1)), (3, 2)),
    "mapped": (jax.vmap(lambda x: x @ x.T), (4, 2)),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_of_activations_are_exact_layers_and_the_same_on_wires(case):
    function, shape = PRODUCTS[case]

    def network(_, x):
        return function(quantize(x, INPUT))

    with jax.numpy_rank_promotion("allow"):
        graph = trace(network, {}, shape)
        by_function = symbolic.unroll(network, {}, shape)
    assert all(types.exact for types in plan_types(graph).values())
    x = 2.0 * np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
    expected = np.asarray(network({}, jnp.asarray(x)))
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), expected)
    wide = DesignTypes(default=FixedPoint(40, 20))  # more than any sum needs
    np.testing.assert_array_equal(emulate(plan_emulation(graph, wide), x), expected)
    by_layers = unroll(graph, None)
    np.testing.assert_array_equal(interpreted(by_layers, x), expected)
    np.testing.assert_array_equal(interpreted(by_function, x), expected)


REFUSED = {
    "too many": (lambda x: jnp.einsum("bpc,bqc->bpq", x, x), (64, 5), "multiplies 20480 pairs of activations.*windows"),
    "a number": (lambda x: jnp.einsum("bc,bc->b", x, x), (5,), "one number of a sample.*keep an axis"),
    "of samples": (lambda x: x + jnp.einsum("ac,bc->ab", x, x) @ x, (5,), "one sample by those of another.*jax.vmap"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_products_that_hardware_cannot_hold_are_refused_by_line_and_remedy(case):
    function, shape, message = REFUSED[case]
    with pytest.raises(ExportError, match=rf"test_matrix_products.py:\d+ .*({message})"):
        trace(lambda _, x: function(quantize(x, INPUT)), {}, shape)
