"""Window attention: sums written out, what masks hide, locality, chunks, dropout, permutations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.token_layers import Dense, dropout
from jaxgeo.layers.window_attention import AttentionKind, PositionBias, WindowAttention, attend
from jaxgeo.layers.window_plan import plan_permutation, plan_windows

WINDOWS, SIZE, HEADS, WIDTH = 6, 4, 2, 3
TOKENS, CHANNELS = WINDOWS * SIZE, HEADS * WIDTH


def written_out(qkv, scale, table, index, pattern, labels, kind):
    """Attention token by token, in float64."""
    mixed = np.zeros((*qkv.shape[:2], *qkv.shape[3:]))
    places = len(labels)
    for w, i, h in np.ndindex(*qkv.shape[:2], qkv.shape[3]):
        query, keys, values = qkv[w, i, 0, h], qkv[w, :, 1, h], qkv[w, :, 2, h]
        if kind.cosine:
            query, keys = query / np.linalg.norm(query), keys / np.linalg.norm(keys, axis=-1, keepdims=True)
        logits = scale[h] * keys @ query + table[index[pattern[w % places], i], h]
        apart = labels[w % places] != labels[w % places, i]
        weights = np.exp(logits - logits.max()) if kind.mode == "correct" else np.exp(logits - 100.0 * apart)
        weights = np.where(apart, 0.0, weights) if kind.mode == "correct" else weights
        mixed[w, i, h] = weights @ values / weights.sum()
    return mixed


def ingredients(seed, windows=WINDOWS, places=WINDOWS // 2, size=SIZE):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(windows, size, 3, HEADS, WIDTH)),
        rng.uniform(0.5, 5.0, HEADS),
        rng.normal(size=(9, HEADS)),
        rng.integers(0, 9, (2, size, size)),
        rng.integers(0, 2, places),
        rng.integers(0, 2, (places, size)),
    )


def attended(qkv, scale, table, index, *others, **more):
    return attend(qkv, scale, PositionBias(table, index), *others, **more)


# Of a few kinds and chunks; each call of one that is not compiled would compile its loop over chunks anew.
mixed = jax.jit(lambda arrays, kind, chunk: attended(*arrays, None, kind, chunk), static_argnums=(1, 2))


@given(seed=st.integers(0, 2**31 - 1), cosine=st.booleans(), mode=st.sampled_from(["correct", "faithful"]))
@settings(max_examples=8)
def test_attention_is_the_sum_written_out(seed, cosine, mode):
    arrays, kind = ingredients(seed), AttentionKind(cosine, mode)
    with jax.enable_x64(True):
        # Windows of two examples: places repeat. A chunk of one window, of a part of one, and of all.
        for chunk in (None, SIZE, SIZE // 2):
            found = mixed(tuple(map(jnp.asarray, arrays)), kind, chunk)
            np.testing.assert_allclose(found, written_out(*arrays, kind), atol=1e-13)  # float64, sums of 4 numbers


@functools.partial(jax.jit, static_argnums=(2, 3))
def with_derivatives(arrays, key, chunk, rate):
    arrays, (index, pattern, labels) = arrays[:3], arrays[3:]

    def loss(arrays):
        mixed = attended(*arrays, index, pattern, labels, key, AttentionKind(True, "correct", rate), chunk)
        return jnp.sum(jnp.sin(mixed)), mixed

    return jax.value_and_grad(loss, has_aux=True)(arrays)


@pytest.mark.parametrize("chunk", [16, 48, 8, 5, 1, "auto"])
def test_chunks_of_windows_and_of_queries_change_nothing(chunk):
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, ingredients(0, windows=6, places=3, size=16)))
        expected, found = (with_derivatives(arrays, None, each, 0.0) for each in (None, chunk))
        # The same sums, in float64; derivatives by scale and bias add up in another order.
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-12)


def test_dropped_probabilities_leave_the_mean_as_it_is_in_chunks_too():
    arrays = tuple(
        jnp.asarray(array, jnp.int32 if array.dtype.kind == "i" else jnp.float32) for array in ingredients(1)
    )
    expected = attended(*arrays, None, AttentionKind(True), None)
    for chunk in (None, 4, 2):
        draw = functools.partial(attended, *arrays, kind=AttentionKind(True, "correct", 0.25), chunk=chunk)
        draws = jax.jit(jax.vmap(lambda key: draw(key=key)))(jax.random.split(jax.random.key(0), 4000))  # noqa: B023
        assert np.ptp(draws[:, 0, 0, 0, 0]) > 0.1
        error = draws.std(0) / 4000**0.5
        # 144 means, each within 5 standard errors (and float32 rounding, where all of a token's keys are masked).
        assert (np.abs(draws.mean(0) - expected) < 5 * error + 1e-5).all()


def sizes_in(jaxpr):
    for equation in jaxpr.eqns:
        yield from ((variable.aval.size, variable.aval.shape) for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from sizes_in(inner)


@pytest.mark.parametrize("patterns", [1, 2])
def test_in_chunks_nothing_as_large_as_a_window_by_a_window_exists_nor_for_derivatives(patterns):
    size, rows = 256, 9
    index = np.random.default_rng(0).integers(0, rows, (patterns, size, size))
    plan = plan_windows(2 * size, size, labels=np.arange(2 * size) % 2, bias_index=index[[0, -1]])
    assert (plan.pattern is None) == (patterns == 1)
    layer, whole = (WindowAttention(4, "cosine", bias_rows=rows, chunk=chunk) for chunk in (8, None))
    x = jax.ShapeDtypeStruct((2 * size, 16), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), plan, x)
    gradient = jax.grad(lambda variables, plan, x: layer.apply(variables, plan, x).sum())
    largest = max(sizes_in(jax.make_jaxpr(gradient)(variables, plan, x).jaxpr))
    # Logits of 8 queries in four heads are an eighth of the square, and so are queries, keys and values.
    assert largest[0] < size**2 / 2, largest
    assert max(sizes_in(jax.make_jaxpr(whole.apply)(variables, plan, x).jaxpr))[0] >= 4 * size**2


def plan_of(labels=None, **more):
    return plan_windows(TOKENS, SIZE, labels=labels, **more)


def layer_and_variables(plan, **options):
    """The layer with numbers of NumPy: its initialisation takes longer to compile than itself."""
    layer, x = WindowAttention(HEADS, **options), jax.ShapeDtypeStruct((TOKENS, CHANNELS), jnp.float32)
    rng, shapes = np.random.default_rng(1), jax.eval_shape(layer.init, jax.random.key(0), plan, x)
    return layer, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("attention", ["dot", "cosine"])
@pytest.mark.parametrize("chunk", [None, 4, 2])
def test_masked_tokens_have_no_influence_to_the_last_bit(attention, chunk):
    labels = np.tile([0, 0, 1, 1], WINDOWS)
    plan = plan_of(labels)
    layer, variables = layer_and_variables(plan, attention=attention, chunk=chunk)
    if attention == "cosine":
        variables["params"]["logit_scale"] = jnp.full(HEADS, 9.0)  # clamped to a factor of 100
    x = 100.0 * jax.random.normal(jax.random.key(2), (TOKENS, CHANNELS))
    changed = jnp.where((labels == 1)[:, None], -x, x)
    apply = jax.jit(layer.apply)
    before, after = (apply(variables, plan, each) for each in (x, changed))
    np.testing.assert_array_equal(before[labels == 0], after[labels == 0])
    assert (before[labels == 1] != after[labels == 1]).any()
    # The derivative is 0 exactly too.
    pulled = jax.jit(jax.grad(lambda x: layer.apply(variables, plan, x)[labels == 0].sum()))(x)
    np.testing.assert_array_equal(pulled[labels == 1], 0.0)


@pytest.mark.parametrize("mode", ["correct", "faithful"])
@pytest.mark.parametrize("cosine", [False, True])
def test_labels_that_no_float32_tells_apart_hide_each_other(mode, cosine):
    qkv, scale, table, index, pattern, labels = ingredients(3)
    kind = AttentionKind(cosine, mode)
    small, *large = (
        mixed((*map(jnp.asarray, (qkv, scale, table, index, pattern)), chosen), kind, None)
        for chosen in (labels, labels + 2**31 - 2, labels + 2**25, -labels * 2**30, labels.astype(np.int8))
    )
    for each in large:
        np.testing.assert_array_equal(small, each)


def test_published_masks_are_seen_through_by_large_logits():
    labels = np.tile([0, 0, 1, 1], WINDOWS)
    plan = plan_of(labels)
    layer, variables = layer_and_variables(plan, attention="cosine", mode="faithful")
    variables["params"]["logit_scale"] = jnp.full(HEADS, 9.0)
    x = jax.random.normal(jax.random.key(2), (TOKENS, CHANNELS))
    before, after = (layer.apply(variables, plan, each)[labels == 0] for each in (x, jnp.where(labels[:, None], -x, x)))
    assert jnp.abs(before - after).max() > 1e-3


@given(seed=st.integers(0, 2**31 - 1), window=st.integers(0, WINDOWS - 1))
@settings(max_examples=5)
def test_windows_do_not_mix(seed, window):
    plan = plan_of()
    layer, variables = layer_and_variables(plan, attention="cosine")
    x = jax.random.normal(jax.random.key(seed), (2, TOKENS, CHANNELS))
    inside = np.arange(TOKENS) // SIZE == window
    before, after = (layer.apply(variables, plan, each) for each in (x, x.at[0, inside].add(1.0)))
    np.testing.assert_array_equal(before[0, ~inside], after[0, ~inside])
    np.testing.assert_array_equal(before[1], after[1])
    assert (before[0, inside] != after[0, inside]).all()


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=5)
def test_without_biases_it_commutes_with_permutations_inside_and_of_windows(seed):
    rng = np.random.default_rng(seed)
    plan = plan_of()
    layer, variables = layer_and_variables(plan)
    order = np.arange(TOKENS).reshape(WINDOWS, SIZE)[rng.permutation(WINDOWS)]
    order = rng.permuted(order, axis=1).reshape(-1)
    x = jax.random.normal(jax.random.key(seed), (TOKENS, CHANNELS))
    moved = layer.apply(variables, plan, x[order])
    np.testing.assert_allclose(moved, layer.apply(variables, plan, x)[order], atol=1e-5)  # float32, sums of 4


def test_a_bias_of_its_own_for_each_window_is_taken_by_pattern():
    index = np.arange(WINDOWS * SIZE * SIZE).reshape(WINDOWS, SIZE, SIZE) % 7
    plan = plan_of(bias_index=index)
    assert plan.pattern is not None
    np.testing.assert_array_equal(np.asarray(plan.bias_index)[np.asarray(plan.pattern)], index)
    layer, variables = layer_and_variables(plan, bias_rows=7)
    x = jax.random.normal(jax.random.key(0), (TOKENS, CHANNELS))
    together = layer.apply(variables, plan, x)
    for window in range(WINDOWS):
        own = plan_windows(SIZE, SIZE, bias_index=index[window])
        assert own.pattern is None
        inside = slice(window * SIZE, (window + 1) * SIZE)
        np.testing.assert_allclose(together[inside], layer.apply(variables, own, x[inside]), atol=1e-5)  # float32


def test_the_derivative_at_tokens_of_length_zero_is_finite():
    plan = plan_of()
    layer, variables = layer_and_variables(plan, attention="cosine", qkv_bias=False)
    gradient = jax.jit(jax.grad(lambda x: layer.apply(variables, plan, x).sum()))(jnp.zeros((TOKENS, CHANNELS)))
    assert jnp.isfinite(gradient).all()


def test_the_logit_scale_stops_at_one_hundred():
    plan = plan_of()
    layer, variables = layer_and_variables(plan, attention="cosine")
    x = jax.random.normal(jax.random.key(0), (TOKENS, CHANNELS))

    @jax.jit
    def at(value):
        params = {**variables["params"], "logit_scale": jnp.full(HEADS, value)}
        return layer.apply({"params": params}, plan, x)

    np.testing.assert_array_equal(at(np.float32(np.log(100.0))), at(20.0))
    assert (at(4.5) != at(20.0)).any()
    assert jax.jit(jax.grad(lambda value: at(value).sum()))(20.0) == 0.0
    start = layer.init(jax.random.key(0), plan, x)["params"]["logit_scale"]
    np.testing.assert_allclose(start, np.log(10.0), rtol=1e-6)  # float32


def test_in_bfloat16_the_softmax_stays_in_float32():
    plan = plan_of()
    layer, variables = layer_and_variables(plan, attention="cosine")
    half = WindowAttention(HEADS, attention="cosine", dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (TOKENS, CHANNELS))
    found, expected = half.apply(variables, plan, x), layer.apply(variables, plan, x)
    assert found.dtype == jnp.bfloat16
    error = jnp.abs(found - expected).max() / jnp.abs(expected).max()
    assert 0 < error < 0.1  # 8 bits of mantissa, three products
    text = str(jax.make_jaxpr(half.apply)(variables, plan, x))
    assert "exp" in text
    assert all(":f32[" in line for line in text.splitlines() if "= exp " in line)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_permutations_are_gathers_both_ways(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)
    permutation = plan_permutation(order)
    if permutation is None:  # once in 2e18
        return
    x, y = jnp.asarray(rng.normal(size=(2, 3, 20, 2)), jnp.float32)
    np.testing.assert_array_equal(permutation(x), x[:, order])
    np.testing.assert_array_equal(permutation.reversed()(permutation(x)), x)
    pulled = jax.vjp(permutation, x)[1](y)[0]
    np.testing.assert_array_equal(pulled[:, order], y)
    assert "scatter" not in str(jax.make_jaxpr(jax.vjp(permutation, x)[1])(y))


def test_the_identity_and_masks_that_hide_nothing_cost_nothing():
    assert plan_permutation(np.arange(5)) is None
    plan = plan_windows(TOKENS, SIZE, source=np.arange(TOKENS), labels=np.repeat(np.arange(WINDOWS), SIZE))
    assert plan.into is None
    assert plan.back is None
    assert plan.labels is None


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate):
    draw = dropout(jax.random.key(0), rate, jnp.ones((1001, 101)))
    number = draw.size
    kept = float((draw != 0).mean())
    assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate) / number) ** 0.5 + 2**-16  # 5 standard errors and the grid
    np.testing.assert_allclose(np.unique(draw), [0.0, 1 / (1 - rate)], rtol=2e-4)  # rate rounded to 2^-16
    assert (dropout(jax.random.key(1), rate, jnp.ones((1001, 101))) != draw).any()


def test_dense_is_an_affine_map_of_the_last_axis():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5))
    variables = Dense(4).init(jax.random.key(1), x)
    variables["params"]["bias"] = jnp.arange(4.0)
    kernel = variables["params"]["kernel"]
    expected = np.einsum("abi,io->abo", x, kernel) + np.arange(4.0)
    np.testing.assert_allclose(Dense(4).apply(variables, x), expected, atol=1e-6)  # float32, sums of 5
    assert set(Dense(4, False).init(jax.random.key(1), x)["params"]) == {"kernel"}
    assert Dense(4, dtype=jnp.bfloat16).apply(variables, x).dtype == jnp.bfloat16


def test_impossible_plans_and_inputs_are_refused():
    with pytest.raises(ConfigError, match="24 tokens cannot be cut into windows of 5"):
        plan_windows(24, 5)
    with pytest.raises(ConfigError, match="names each once"):
        plan_permutation([0, 0, 2])
    with pytest.raises(InputError, match="plan is for 24 tokens, got 20"):
        WindowAttention(HEADS).init(jax.random.key(0), plan_of(), jnp.ones((20, CHANNELS)))
    with pytest.raises(ConfigError, match="4 heads cannot share 6 channels"):
        WindowAttention(4).init(jax.random.key(0), plan_of(), jnp.ones((TOKENS, CHANNELS)))
