"""The block in fixed point: the float block with wide formats, on its grid with narrow ones, trainable in both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.quantised_window_attention import BlockPrecision, QuantisedSwinBlock, inverse
from jaxgeo.layers.swin_blocks import BlockConfig, SwinBlock
from jaxgeo.layers.window_plan import plan_windows

TOKENS, CHANNELS, HEADS = 8, 8, 2


def plan_of():
    """Two shifted windows of four, the second of two halves that do not see each other, with position biases."""
    index = np.arange(4)[:, None] - np.arange(4)[None] + 3
    labels = [0, 0, 0, 0, 0, 0, 1, 1]
    return plan_windows(TOKENS, 4, source=np.roll(np.arange(TOKENS), 2), labels=labels, bias_index=index)


def both(placement, precision):
    plan = plan_of()
    block = SwinBlock(BlockConfig("dot", placement, 2.0, chunk=None), HEADS, 7)
    fixed = QuantisedSwinBlock(precision, HEADS, 7, 2.0, placement)
    x = jax.random.normal(jax.random.key(0), (6, TOKENS, CHANNELS))
    paths, tree = jax.tree_util.tree_flatten_with_path(jax.eval_shape(block.init, jax.random.key(1), plan, x))
    rng = np.random.default_rng(2)
    leaves = [
        jnp.asarray((path[-1].key == "scale") + 0.3 * rng.normal(size=leaf.shape), jnp.float32) for path, leaf in paths
    ]
    return plan, block, fixed, jax.tree.unflatten(tree, leaves), x


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_wide_formats_give_the_float_block_from_the_same_parameters(placement):
    # Attention averages, so the norm behind it divides by less than the quarter that the default holds.
    precision = dataclasses.replace(BlockPrecision.uniform(16), deviation=FixedPoint(16, 6, False, "RND", "SAT"))
    plan, block, fixed, variables, x = both(placement, precision)
    shapes = jax.eval_shape(fixed.init, jax.random.key(1), plan, x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    with jax.enable_x64(True):  # sums of 16-bit products leave float32
        wide = x.astype(jnp.float64)
        found = jax.jit(lambda v, x: fixed.apply(v, plan, x))(variables, wide)
        expected = jax.jit(lambda v, x: block.apply(v, plan, x))(variables, wide)
    # Steps of 2^-12 in the stream and 2^-14 in weights; some ten roundings, each amplified less than tenfold.
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert np.abs(np.asarray(expected) - np.asarray(x)).max() > 0.5


def test_outputs_lie_on_the_stream_and_masked_tokens_are_not_seen():
    plan, _, fixed, variables, x = both("post", BlockPrecision.uniform(8))
    apply = jax.jit(lambda x: fixed.apply(variables, plan, x))
    y = apply(x)
    np.testing.assert_array_equal(y, quantize(y, fixed.precision.stream))
    # Windowed tokens 6 and 7, of label 1, are tokens 4 and 5; they attend to each other only.
    changed = apply(x.at[:, 4:6].set(1.0))
    np.testing.assert_array_equal(np.delete(changed, [4, 5], axis=1), np.delete(y, [4, 5], axis=1))
    assert (changed[:, 4:6] != y[:, 4:6]).any()


def test_derivatives_reach_every_parameter():
    plan, _, fixed, variables, x = both("pre", BlockPrecision.uniform(8))
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(fixed.apply(v, plan, x) ** 2)))(variables)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert (leaf != 0).any()


@pytest.mark.parametrize("number", [1, 2, 3, 8, 96, 100])
def test_an_inverse_has_eight_significant_bits(number):
    found = inverse(number)
    assert abs(found * number - 1) <= 2.0**-8
    mantissa, _ = np.frexp(found)
    assert mantissa * 2**9 == round(mantissa * 2**9)
    if number & (number - 1) == 0:
        assert found == 1 / number


def test_impossible_precisions_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="at least 4 bits, got 3"):
        BlockPrecision.uniform(3)
    wrong = {**vars(BlockPrecision.uniform(8)), "exponential": FixedPoint(8, 0, False, "RND", "SAT")}
    with pytest.raises(ConfigError, match=r"exponential has to hold 1.*ends at 0\.996.*ap_ufixed<8,1>"):
        BlockPrecision(**wrong)
    plan = plan_of()
    with pytest.raises(InputError, match="the plan is for 8 tokens, got 4"):
        QuantisedSwinBlock(BlockPrecision.uniform(8), 2).init(jax.random.key(0), plan, jnp.zeros((1, 4, 8)))
    with pytest.raises(ConfigError, match="3 heads cannot share 8 channels"):
        QuantisedSwinBlock(BlockPrecision.uniform(8), 3).init(jax.random.key(0), plan, jnp.zeros((1, 8, 8)))
    bare = plan_windows(TOKENS, 4)
    with pytest.raises(InputError, match="learns 7 position biases, of which the plan has none"):
        QuantisedSwinBlock(BlockPrecision.uniform(8), 2, 7).init(jax.random.key(0), bare, jnp.zeros((1, 8, 8)))
