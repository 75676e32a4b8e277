"""Blocks of window attention: normalisation, GELU, placement of norms, stochastic depth, merging and expanding."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.layers.swin_blocks import BlockConfig, Mlp, PatchExpansion, PatchMerging, SwinBlock
from jaxgeo.layers.token_layers import LayerNorm, gelu, stochastic_depth
from jaxgeo.layers.window_attention import WindowAttention
from jaxgeo.layers.window_plan import plan_windows

TOKENS, CHANNELS = 16, 6


@given(seed=st.integers(0, 2**31 - 1), channels=st.integers(2, 40), offset=st.floats(-100, 100))
@settings(max_examples=10)
def test_layer_norm_is_its_definition(seed, channels, offset):
    rng = np.random.default_rng(seed)
    x, scale, bias = rng.normal(size=(3, channels)) + offset, rng.normal(size=channels), rng.normal(size=channels)
    with jax.enable_x64(True):
        params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
        found = LayerNorm().apply({"params": params}, jnp.asarray(x))
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-9)  # float64; an offset of 100 costs two digits


def test_layer_norm_of_half_precision_is_computed_in_single():
    x = (1000.0 + jax.random.normal(jax.random.key(0), (5, 64))).astype(jnp.bfloat16)
    variables = LayerNorm().init(jax.random.key(0), x)
    found, expected = (LayerNorm().apply(variables, each) for each in (x, x.astype(jnp.float32)))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))


def test_gelu_is_that_of_the_normal_distribution_with_its_derivative():
    x = np.linspace(-10, 10, 1001)
    with jax.enable_x64(True):
        found, slope = gelu(jnp.asarray(x)), jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    np.testing.assert_allclose(found, x * scipy.special.ndtr(x), atol=1e-14)  # float64, numbers up to 10
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, scipy.special.ndtr(x) + x * density, atol=1e-14)


def block_and_variables(**options):
    plan = plan_windows(TOKENS, 4, source=np.roll(np.arange(TOKENS), 2))
    block = SwinBlock(BlockConfig(**options), 2)
    variables = jax.jit(block.init)(jax.random.key(0), plan, jnp.ones((TOKENS, CHANNELS)))
    keys = iter(jax.random.split(jax.random.key(1), 30))
    return plan, block, jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), variables)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_block_is_made_of_its_parts(placement):
    plan, block, variables = block_and_variables(norm_placement=placement, attention="cosine")
    params = variables["params"]
    attention = WindowAttention(2, "cosine")

    def part(module, name, *arguments):
        return module.apply({"params": params[name]}, *arguments)

    def attended(x):
        return jnp.roll(part(attention, "attn", plan, jnp.roll(x, 2, axis=0)), -2, axis=0)

    x = jax.random.normal(jax.random.key(2), (TOKENS, CHANNELS))
    mlp = Mlp(4.0)
    if placement == "pre":
        y = x + attended(part(LayerNorm(), "norm1", x))
        y = y + part(mlp, "mlp", part(LayerNorm(), "norm2", y))
    else:
        y = x + part(LayerNorm(), "norm1", attended(x))
        y = y + part(LayerNorm(), "norm2", part(mlp, "mlp", y))
    np.testing.assert_allclose(block.apply(variables, plan, x), y, atol=1e-5)  # float32, compiled differently


def test_stochastic_depth_leaves_out_at_its_rate_and_keeps_the_mean():
    factors = stochastic_depth(jax.random.key(0), 0.3, (4000, 1))
    np.testing.assert_allclose(np.unique(factors), [0.0, 1 / 0.7], rtol=1e-6)  # float32
    assert abs(float((factors == 0).mean()) - 0.3) < 5 * (0.21 / 4000) ** 0.5  # 5 standard errors


def test_a_block_left_out_twice_is_the_identity_and_one_left_out_never_is_scaled_up():
    plan, _, variables = block_and_variables()
    block = SwinBlock(BlockConfig(), 2, stochastic_depth_rate=0.5, deterministic=False)
    x = jnp.tile(jax.random.normal(jax.random.key(2), (1, TOKENS, CHANNELS)), (64, 1, 1))
    draw = jax.jit(block.apply)(variables, plan, x, rngs={"stochastic_depth": jax.random.key(3)})
    kinds = np.unique(np.asarray(draw).reshape(64, -1), axis=0)
    assert len(kinds) == 4  # attention in or out, perceptron in or out
    assert any((kind == np.asarray(x[0]).reshape(-1)).all() for kind in kinds)


# Chunks of two windows and of half a window; each pair of settings meets once.
@pytest.mark.parametrize(
    ("placement", "undone", "chunk"), [("pre", True, 9), ("pre", False, 2), ("post", True, 2), ("post", False, 9)]
)
def test_a_few_windows_at_a_time_change_nothing(placement, undone, chunk):
    rng = np.random.default_rng(0)
    plan = plan_windows(
        TOKENS,
        4,
        source=rng.permutation(TOKENS),
        target=None if undone else rng.permutation(TOKENS),
        labels=rng.integers(0, 2, TOKENS),
        bias_index=rng.integers(0, 5, (4, 4, 4)),
    )
    assert plan.symmetric == undone
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(3, 2, TOKENS, CHANNELS)))
        rngs = {"stochastic_depth": jax.random.key(0)}
        blocks = [
            SwinBlock(BlockConfig(norm_placement=placement, chunk=each), 2, 5, 0.3, deterministic=False)
            for each in (None, chunk)
        ]
        variables, whole = (jax.jit(each.init)({"params": jax.random.key(1)} | rngs, plan, x) for each in blocks)
        jax.tree.map(np.testing.assert_array_equal, variables, whole)
        keys = iter(jax.random.split(jax.random.key(2), 30))
        variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), variables)

        def loss(block, variables, x):
            return jnp.sum(jnp.sin(block.apply(variables, plan, x, rngs=rngs)))

        expected, found = (jax.jit(jax.value_and_grad(partial(loss, each), (0, 1)))(variables, x) for each in blocks)
        # Without derivatives results take the place of what they are made from.
        whole, placed = (jax.jit(each.apply)(variables, plan, x, rngs=rngs) for each in blocks)
        np.testing.assert_allclose(placed, whole, rtol=0, atol=1e-12)
    # The same sums, in float64; derivatives by parameters add up in another order.
    chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-11)


def test_windows_at_a_time_draw_their_own_masks_and_derivatives_see_the_same():
    plan = plan_windows(TOKENS, 4)
    block = SwinBlock(BlockConfig(dropout_rate=0.5, attention_dropout_rate=0.5, chunk=4), 2, deterministic=False)
    x = jnp.tile(jax.random.normal(jax.random.key(2), (4, CHANNELS)), (TOKENS // 4, 1))
    rngs = {"dropout": jax.random.key(3)}
    variables = jax.jit(block.init)({"params": jax.random.key(0)} | rngs, plan, x)
    windows = jax.jit(block.apply)(variables, plan, x, rngs=rngs).reshape(4, -1)
    assert len(np.unique(np.asarray(windows), axis=0)) == 4
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64)

        @jax.jit
        def along(t):
            return jnp.sum(jnp.sin(block.apply(variables, plan, wide + t * jnp.cos(wide), rngs=rngs)))

        step = 1e-5
        slope = (along(step) - along(-step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(along)(0.0), slope, rtol=1e-6)  # step^2 and 1e-16 / step, with margin


def test_dropout_of_a_block_needs_its_rng_and_changes_with_it():
    plan, _, variables = block_and_variables()
    block = SwinBlock(BlockConfig(dropout_rate=0.5, attention_dropout_rate=0.5), 2, deterministic=False)
    x = jax.random.normal(jax.random.key(2), (TOKENS, CHANNELS))
    apply = jax.jit(block.apply)
    first, again, other = (apply(variables, plan, x, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_merging_takes_four_consecutive_tokens_and_expanding_gives_them_back_in_order():
    x = jax.random.normal(jax.random.key(0), (2, TOKENS, CHANNELS))
    merging = PatchMerging()
    variables = merging.init(jax.random.key(1), x)
    merged = merging.apply(variables, x)
    assert merged.shape == (2, TOKENS // 4, 2 * CHANNELS)
    changed = merging.apply(variables, x.at[0, 4:8].add(jnp.arange(CHANNELS)))
    different = (changed != merged).any(-1)
    np.testing.assert_array_equal(different, [[False, True, False, False], [False] * 4])
    expansion = PatchExpansion(4, 3)
    variables = expansion.init(jax.random.key(1), merged)
    expanded = expansion.apply(variables, merged)
    assert expanded.shape == (2, TOKENS, 3)
    changed = expansion.apply(variables, merged.at[1, 2].add(1.0))
    np.testing.assert_array_equal(np.flatnonzero((changed != expanded)[1].any(-1)), np.arange(8, 12))


def test_tokens_that_cannot_be_merged_are_refused():
    with pytest.raises(InputError, match="6 tokens cannot be merged"):
        PatchMerging().init(jax.random.key(0), jnp.ones((6, 2)))
