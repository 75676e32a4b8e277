"""Formats from data, and the way between fixed formats and bits in arrays: the same numbers to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.learned_precision import VariableBits
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.training.layer_precision import choose_formats, layer_sums, to_collection, to_formats

SIZE = 10
FLOAT = SvhnCnnConfig(size=SIZE, channels=1, filters=(3, 4), units=(5,), num_classes=3, norm="folded")
VARIABLE = dataclasses.replace(FLOAT, precision=VariableBits())
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(20, SIZE, SIZE, 1)), jnp.float32)
SHAPES = jax.eval_shape(SvhnCnn(FLOAT).init, jax.random.key(0), IMAGES)["params"]
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape) * 0.4, jnp.float32), SHAPES)
APPLY = jax.jit(SvhnCnn(VARIABLE).apply)


@pytest.fixture(scope="module")
def sums():
    return layer_sums(FLOAT, PARAMS, IMAGES)


def test_sums_are_those_of_the_network(sums):
    assert list(sums) == ["conv_0", "conv_1", "dense_0", "head"]
    expected = jax.jit(SvhnCnn(FLOAT).apply)({"params": PARAMS}, IMAGES)
    np.testing.assert_allclose(sums["head"], expected, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("weights", [(6, 4, 8, 5), (1, 2, 1, 3)])
def test_fixed_formats_bits_in_arrays_and_a_circuits_types_agree(sums, weights):
    hidden = (5, 4, 6)
    chosen = choose_formats(FLOAT, PARAMS, IMAGES, weights, hidden, sums=sums)
    assert [layer.result.width for layer in chosen.layers] == [*hidden, 12]
    assert [layer.weight.width for layer in chosen.layers] == [max(bits, 2) for bits in weights]
    binary = [name for name, bits in zip(FLOAT.names, weights, strict=True) if bits == 1]
    collection = to_collection(chosen, FLOAT.names, binary)
    expected = APPLY({"params": PARAMS, "precision": collection}, IMAGES)
    precision, rounded = to_formats(VARIABLE, PARAMS, collection)
    assert precision == chosen
    fixed = SvhnCnn(dataclasses.replace(FLOAT, precision=precision))
    np.testing.assert_array_equal(jax.jit(fixed.apply)({"params": rounded}, IMAGES), expected)
    types = plan_types(trace(fixed.apply, {"params": rounded}, (SIZE, SIZE, 1)))
    assert all(entry.exact for entry in types.values())


def test_bits_of_channels_get_the_format_that_holds_all_their_grids():
    collection = to_collection(choose_formats(FLOAT, PARAMS, IMAGES, 6, 5), FLOAT.names)
    entry = {"bits": jnp.asarray([[[[0.0, 1.0, 7.0]]]]), "integer": jnp.asarray([[[[9.0, 2.0, 0.0]]]])}
    collection["conv_0"] = {**collection["conv_0"], "kernel_bits": entry}
    precision, rounded = to_formats(VARIABLE, PARAMS, collection)
    # Steps 2^-7 of the third channel, two integer bits of the second; the first is dropped.
    assert precision.layers[0].weight == FixedPoint(9, 2, True, "RND", "SAT")
    kernel = np.asarray(rounded["conv_0"]["kernel"])
    assert not kernel[..., 0].any()
    assert set(np.abs(kernel[..., 1]).ravel()) == {1.0}


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"4 kernels and 3 hidden results need .* got \(6, 6\)"):
        choose_formats(FLOAT, PARAMS, IMAGES, (6, 6), 5)
    chosen = choose_formats(FLOAT, PARAMS, IMAGES, 6, 5)
    other = dataclasses.replace(chosen, input=FixedPoint(8, 1))
    with pytest.raises(ConfigError, match="variable bits round to nearest and saturate"):
        to_collection(other, FLOAT.names)
    with pytest.raises(ConfigError, match="only a network with VariableBits"):
        to_formats(FLOAT, PARAMS, {})
    collection = to_collection(chosen, FLOAT.names)
    collection["dense_0_result"] = {"bits": jnp.asarray(0.0), "integer": jnp.asarray(0.0)}
    with pytest.raises(InputError, match="dense_0_result has 0 bits, so that nothing comes through"):
        to_formats(VARIABLE, PARAMS, collection)
