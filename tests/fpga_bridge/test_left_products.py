"""Matrices on the left of places: products like any other, but for the resamplings of jax.image, refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ExportError

MEANS = np.full((4, 8), 0.125, np.float32)  # rows that sum to 1, of no interpolation
PAIRS = np.kron(np.eye(4), np.full((1, 2), 0.5)).astype(np.float32)
SHIFTED = np.roll(np.eye(8, dtype=np.float32), 1, axis=0)


@pytest.mark.parametrize("product", [lambda m, x: m @ x, lambda m, x: jnp.einsum("op,bpc->boc", m, x)])
@pytest.mark.parametrize("matrix", [MEANS, PAIRS, SHIFTED])
def test_a_matrix_whose_rows_sum_to_one_is_a_product_and_no_interpolation(matrix, product):
    with jax.numpy_rank_promotion("allow"):
        graph = trace(lambda _, x: product(matrix, x), {}, (8, 3))
        x = jnp.asarray(np.random.default_rng(0).integers(-64, 64, (5, 8, 3)) / 8, jnp.float32)
        np.testing.assert_array_equal(apply_graph(graph, x), product(matrix, x))
    assert {"transpose", "dense"} <= {node.kind for node in graph}


@pytest.mark.parametrize("size", [5, 16])
@pytest.mark.parametrize("method", ["bilinear", "cubic", "lanczos3"])
def test_a_resampling_is_refused_by_its_name(method, size):
    way = "upsampling" if size > 8 else "downsampling"
    with pytest.raises(ExportError, match=rf"{method} {way} at .*test_left_products.py:\d+ .*nearest"):
        trace(lambda _, x: jax.image.resize(x, (x.shape[0], size, 3), method), {}, (8, 3))
