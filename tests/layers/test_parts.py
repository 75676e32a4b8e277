"""Work in parts against the same work at once: results, derivatives, ensembles and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.layers.parts import in_parts
from jaxgeo.layers.window_plan import plan_permutation


class Scored(nn.Module):
    """Rows times a matrix, plus what depends on their place in a part and on the part."""

    width: int
    dtype: type = jnp.float32

    def setup(self):
        self.dense = nn.Dense(self.width)

    def __call__(self, x, numbers, order=None):
        def some(module, part, scale):
            rows, number = part
            place = jnp.arange(len(rows), dtype=rows.dtype)[:, None]
            return (module.dense(jnp.tanh(rows)) * scale + place * number).astype(module.dtype)

        return in_parts(self, some, (x, numbers), jnp.float32(2.0), order)


def at_once(params, x, numbers, order, width):
    """The same by gathers and one product."""
    examples, size = x.shape[0] * x.shape[1] // len(order), len(order)
    rows = x.reshape(examples, size, -1)[:, order].reshape(x.shape)
    kernel, bias = (params["params"]["dense"][name] for name in ("kernel", "bias"))
    place = jnp.arange(x.shape[1], dtype=x.dtype)[None, :, None]
    y = (jnp.tanh(rows) @ kernel + bias[None, None]) * 2.0 + place * numbers[:, None, None]
    return y.reshape(examples, size, width)[:, np.argsort(order)].reshape(*x.shape[:2], width)


@given(
    seed=st.integers(0, 2**31),
    examples=st.integers(1, 3),
    of_example=st.integers(1, 4),
    rows=st.integers(1, 5),
    width=st.sampled_from([3, 4]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@settings(max_examples=6, deadline=None)
def test_parts_in_any_order_are_the_whole(seed, examples, of_example, rows, width, dtype):
    draw = np.random.default_rng(seed)
    order = draw.permutation(of_example * rows)
    x = jnp.asarray(draw.normal(size=(examples * of_example, rows, 4)), jnp.float32)
    numbers = jnp.asarray(draw.normal(size=len(x)), jnp.float32)
    plan = plan_permutation(order)
    module = Scored(width, dtype)
    params = jax.jit(module.init)(jax.random.key(seed), x, numbers, plan)

    # float32, or the eight bits of bfloat16, of sums of a few numbers near 1
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 1e-2, "atol": 1e-2}
    found = jax.jit(module.apply)(params, x, numbers, plan)
    expected = at_once(params, x, numbers, order, width)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float32), expected, **close)
    if dtype == jnp.float32:
        weights = jnp.asarray(draw.normal(size=expected.shape), jnp.float32)
        found, expected = (
            jax.jit(jax.grad(lambda p, x, f=f: jnp.sum(weights * f(p, x)), argnums=(0, 1)))(params, x)
            for f in (
                lambda p, x: module.apply(p, x, numbers, plan),
                lambda p, x: at_once(p, x, numbers, order, width),
            )
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("width", [4, 3])
def test_an_ensemble_in_parts_is_its_members(width):
    draw = np.random.default_rng(0)
    x, numbers = jnp.asarray(draw.normal(size=(4, 6, 4)), jnp.float32), jnp.arange(4.0)
    plan, module = plan_permutation(draw.permutation(12)), Scored(width)
    params = jax.vmap(jax.jit(lambda key: module.init(key, x, numbers, plan)))(jax.random.split(jax.random.key(0), 3))
    apply = jax.jit(lambda params: module.apply(params, x, numbers, plan))
    together = jax.vmap(apply)(params)
    for i in range(3):
        member = apply(jax.tree.map(lambda leaf, i=i: leaf[i], params))
        np.testing.assert_allclose(together[i], member, rtol=1e-6, atol=1e-6)  # products of other shapes


@pytest.mark.parametrize("reordered", [False, True])
def test_results_take_the_place_of_what_they_are_made_of(reordered):
    parts, rows, channels = 64, 128, 32
    order = plan_permutation(np.random.default_rng(0).permutation(parts * rows)) if reordered else None
    module = Scored(channels)
    x, numbers = jnp.zeros((parts, rows, channels)), jnp.zeros(parts)
    params = module.init(jax.random.key(0), x, numbers, order)
    call = jax.jit(lambda params, x: module.apply(params, x, numbers, order)).lower(params, x).compile()
    # Beside input and result there are a few arrays of two parts of the sixty-four.
    assert 0 < call.memory_analysis().temp_size_in_bytes < x.nbytes / 4
