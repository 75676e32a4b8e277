import functools

import chex
import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from e3nn_jax.legacy import FunctionalFullyConnectedTensorProduct
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.layers import tensor_product as tp
from jaxgeo.layers import tensor_product_steps as steps

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

IRREPS1, IRREPS2, IRREPS_OUT = "3x0e + 2x1o", "2x0o + 3x1o + 1x2e", "2x0e + 1x1e + 3x1o + 1x2e"


def _features(seed, dtype, *irreps, batch=(2,)):
    keys = jax.random.split(jax.random.key(seed), len(irreps))
    return [jax.random.normal(k, (*batch, e3nn_jax.Irreps(i).dim), dtype) for k, i in zip(keys, irreps, strict=True)]


def _weights(seed, plan, dtype, rank=3):
    keys = jax.random.split(jax.random.key(seed + 1), len(plan.paths))
    return tuple(jax.random.normal(k, p.channels[:rank], dtype) for k, p in zip(keys, plan.paths, strict=True))


def _e3nn(weights, x1, x2, irreps1, irreps2, irreps_out):
    product = FunctionalFullyConnectedTensorProduct(*(e3nn_jax.Irreps(i) for i in (irreps1, irreps2, irreps_out)))

    def one(a, b):
        a, b = e3nn_jax.IrrepsArray(irreps1, a), e3nn_jax.IrrepsArray(irreps2, b)
        return product.left_right(list(weights), a, b).array

    return jax.vmap(one)(x1, x2)


@pytest.mark.parametrize(
    "sizes", [(IRREPS1, IRREPS2, IRREPS_OUT), ("9x0e + 1x2e", "1x1o + 9x2e", "9x1o + 1x2e + 1x3o")]
)
def test_equal_weights_give_the_outputs_of_e3nn(sizes):
    with jax.enable_x64(True):
        plan = tp.plan_tensor_product(*sizes, dtype=jnp.float64)
        x1, x2 = _features(0, jnp.float64, *sizes[:2])
        weights = _weights(0, plan, jnp.float64)
        expected = jax.jit(lambda w, a, b: _e3nn(w, a, b, *sizes))(weights, x1, x2)
        found = jax.jit(tp.fully_connected_tensor_product)(plan, weights, x1, x2)
        np.testing.assert_allclose(found, expected, atol=1e-13)  # sums of a few hundred terms of unit size


@pytest.mark.parametrize("irreps", [(IRREPS1, IRREPS2, IRREPS_OUT), ("1x0e + 3x1o", "1x0e + 3x1o", "1x0e + 2x1o")])
def test_whatever_paths_do_together_the_outputs_and_gradients_are_the_same(monkeypatch, irreps):
    with jax.enable_x64(True):
        plan = tp.plan_tensor_product(*irreps, dtype=jnp.float64)
        arguments = _weights(0, plan, jnp.float64), *_features(0, jnp.float64, *irreps[:2])
        results = []
        # As they are; weights stay by path; paths have products of their own; groups of one path, and of two.
        changes = {}, {"MOST_JOINED": 0}, {"OWN_PRODUCTS": 0}, {"MOST_PRODUCTS": 1}, {"MOST_PATHS": 2}
        for change in changes:
            # A function of its own each time: programs are cached by function.
            def product(*args):
                y = tp.fully_connected_tensor_product(plan, *args)
                return jnp.sum(y**2), y

            with monkeypatch.context() as patch:
                for name, value in change.items():
                    patch.setattr(steps, name, value)
                results.append(jax.jit(jax.value_and_grad(product, (0, 1, 2), has_aux=True))(*arguments))
        # Sums of a few hundred terms of unit size, and their squares, relative to the largest of each.
        jax.tree.map(
            lambda a, *others: [np.testing.assert_allclose(b, a, atol=1e-13 * max(1, np.abs(a).max())) for b in others],
            *results,
        )


def test_gradients_are_those_of_e3nn():
    with jax.enable_x64(True):
        plan = tp.plan_tensor_product(IRREPS1, IRREPS2, IRREPS_OUT, dtype=jnp.float64)
        x1, x2 = _features(1, jnp.float64, IRREPS1, IRREPS2)
        weights = _weights(1, plan, jnp.float64)
        (cotangent,) = _features(2, jnp.float64, IRREPS_OUT)

        def gradient(product):
            return jax.jit(jax.grad(lambda w, a, b: jnp.sum(product(w, a, b) * cotangent), (0, 1, 2)))(weights, x1, x2)

        found = gradient(lambda *args: tp.fully_connected_tensor_product(plan, *args))
        expected = gradient(lambda *args: _e3nn(*args, IRREPS1, IRREPS2, IRREPS_OUT))
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-12)


def _by_definition(plan, weights, x1, x2):
    """One sum over everything for every path, from the features' own chunks."""
    a, b = (e3nn_jax.IrrepsArray(i, x).chunks for i, x in ((plan.irreps_in1, x1), (plan.irreps_in2, x2)))
    outputs = [0.0] * len(plan.irreps_out)
    for p, c, w in zip(plan.paths, plan.couplings, weights, strict=True):
        outputs[p.out] += jnp.einsum("uvw,ijk,bui,bvj->bwk", w, c, a[p.in1], b[p.in2])
    return jnp.concatenate([y.reshape(len(x1), y.shape[1] * y.shape[2]) for y in outputs], axis=-1)


@pytest.mark.parametrize(
    ("irreps", "batch"),
    [
        (("1x0e + 1x1o", "1x1o", "1x0e + 1x1o"), 0),
        (("3x0e + 2x1o", "5x0e + 1x1o", "7x1o + 1x0e"), 3),
        (("1x0e + 17x1o", "2x1o + 1x2e", "18x0e"), 1),
    ],
)
def test_products_and_derivatives_both_ways_are_those_of_the_definition(irreps, batch):
    with jax.enable_x64(True):
        plan = tp.plan_tensor_product(*irreps, dtype=jnp.float64)
        values = _weights(1, plan, jnp.float64), *_features(1, jnp.float64, *irreps[:2], batch=(batch,))
        tangents = _weights(2, plan, jnp.float64), *_features(2, jnp.float64, *irreps[:2], batch=(batch,))

        @jax.jit
        def found(values, tangents):
            # The tangent of a gradient: both ways, and the second order.
            def gradient(product):
                return jax.grad(lambda *v: jnp.sum(product(plan, *v) ** 3), (0, 1, 2))

            both = tp.fully_connected_tensor_product, _by_definition
            return [(p(plan, *values), jax.jvp(gradient(p), values, tangents)) for p in both]

        results = found(values, tangents)
        # Cubes of sums of a few hundred terms of unit size: relative to the largest of each.
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12 * max(1, np.abs(y).max(initial=0))),
            *results,
        )


@pytest.mark.parametrize(
    "path", [("product", (8, 8, 8), (3, 3, 1)), ("left", (8, 8, 8), (1, 3, 3)), ("right", (8, 8, 8), (5, 1, 5))]
)
def test_the_contraction_order_is_the_one_of_fewest_operations_that_are_worth_products_of_their_own(path):
    order, channels, sizes = path
    assert tp.contraction_order(channels, sizes, 10_000) == order
    # Both of the last two save 8 * 8 * (8 * 3 + 3 - 8 - 3) = 1024 and twice as many multiplications per example.
    saved = {"product": 0, "left": 1024, "right": 2048}[order]
    enough = steps.OWN_PRODUCTS // max(saved, 1)
    assert tp.contraction_order(channels, sizes, enough) == "product"
    assert tp.contraction_order(channels, sizes, enough + 1) == (order if saved else "product")


def _run(kind, dtype):
    """A product as a function of two features, its plan, and the sizes of both inputs."""
    if kind == "fully_connected":
        plan = tp.plan_tensor_product(IRREPS1, IRREPS2, IRREPS_OUT, dtype=dtype)
        weights = _weights(3, plan, dtype)
        return plan, jax.jit(lambda a, b: tp.fully_connected_tensor_product(plan, weights, a, b))
    if kind == "full":
        plan = tp.plan_full_tensor_product(IRREPS1, IRREPS2, dtype=dtype)
        return plan, jax.jit(lambda a, b: tp.full_tensor_product(plan, a, b))
    plan = tp.plan_channelwise_tensor_product(IRREPS1, IRREPS2, dtype=dtype)
    weights = _weights(3, plan, dtype, rank=2)
    return plan, jax.jit(lambda a, b: tp.channelwise_tensor_product(plan, weights, a, b))


@pytest.mark.parametrize("kind", ["fully_connected", "full", "channelwise"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
def test_products_are_equivariant_under_rotations_and_mirrors(kind, dtype, tolerance):
    with jax.enable_x64(True):
        plan, product = _run(kind, jnp.dtype(dtype))
        # Haar rotations in float64, with the inversion for every other one.
        turns = np.asarray(rotations.haar_rotations(jax.random.key(0), (6,))) * np.resize([1.0, -1.0], 6)[:, None, None]
        x1, x2 = _features(4, jnp.float64, IRREPS1, IRREPS2)

        @functools.partial(jax.jit, static_argnums=0)
        def turn(irreps, rotation, x):
            return e3nn_jax.IrrepsArray(irreps, x).transform_by_matrix(rotation).array

        plain = np.asarray(product(x1.astype(dtype), x2.astype(dtype)), float)
        for rotation in turns:
            a, b = turn(plan.irreps_in1, rotation, x1), turn(plan.irreps_in2, rotation, x2)
            expected = np.asarray(turn(plan.irreps_out, rotation, jnp.asarray(plain)))
            error = np.linalg.norm(np.asarray(product(a.astype(dtype), b.astype(dtype))) - expected)
            assert error / np.linalg.norm(plain) <= tolerance


def test_the_full_product_is_that_of_e3nn_before_grouping():
    with jax.enable_x64(True):
        plan, product = _run("full", jnp.float64)
        x1, x2 = _features(5, jnp.float64, IRREPS1, IRREPS2)
        a, b = e3nn_jax.IrrepsArray(IRREPS1, x1), e3nn_jax.IrrepsArray(IRREPS2, x2)
        expected = e3nn_jax.tensor_product(a, b, regroup_output=False)
        assert plan.irreps_out == expected.irreps
        np.testing.assert_allclose(product(x1, x2), expected.array, atol=1e-13)


def test_the_channelwise_product_is_its_definition():
    with jax.enable_x64(True):
        plan, product = _run("channelwise", jnp.float64)
        x1, x2 = _features(6, jnp.float64, IRREPS1, IRREPS2)
        weights = _weights(3, plan, jnp.float64, rank=2)
        a, b = (e3nn_jax.IrrepsArray(i, x).chunks for i, x in ((IRREPS1, x1), (IRREPS2, x2)))
        expected = [
            jnp.einsum("uv,ijk,bui,bvj->buk", w, c, a[p.in1], b[p.in2]).reshape(2, -1)
            for p, c, w in zip(plan.paths, plan.couplings, weights, strict=True)
        ]
        np.testing.assert_allclose(product(x1, x2), jnp.concatenate(expected, -1), atol=1e-13)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31 - 1))
def test_outputs_have_unit_variance(seed):
    plan = tp.plan_tensor_product("8x0e + 8x1o", "8x0e + 8x1o", "6x0e + 6x1o + 6x2e")
    x1, x2 = _features(seed, jnp.float32, plan.irreps_in1, plan.irreps_in2, batch=(200,))
    y = jax.jit(tp.fully_connected_tensor_product)(plan, _weights(seed, plan, jnp.float32), x1, x2)
    assert 0.6 < float(jnp.var(y)) < 1.6  # over one draw of the weights of 18 output channels


def test_leading_axes_broadcast_and_may_be_missing():
    plan = tp.plan_tensor_product("2x1o", "2x1o", "2x0e + 1x2e")
    weights = _weights(0, plan, jnp.float32)
    x1, x2 = _features(0, jnp.float32, "2x1o", "2x1o", batch=(3, 4))
    product = jax.jit(tp.fully_connected_tensor_product)
    found = product(plan, weights, x1, x2[0, 0][None, None])
    one = product(plan, weights, x1[1, 2], x2[0, 0])
    assert found.shape == (3, 4, 7)
    np.testing.assert_allclose(found[1, 2], one, rtol=1e-5, atol=1e-6)  # float32


def test_many_examples_a_few_at_a_time_are_each_like_alone():
    with jax.enable_x64(True):
        plan = tp.plan_tensor_product(IRREPS1, IRREPS2, IRREPS_OUT, dtype=jnp.float64)
        product = jax.jit(lambda *args: tp.fully_connected_tensor_product(plan, *args))
        # Three turns, of which the last does one example again.
        weights, (x1, x2) = _weights(0, plan, jnp.float64), _features(0, jnp.float64, IRREPS1, IRREPS2, batch=(5, 7))
        alone = jnp.stack([product(weights, *pair) for pair in zip(x1, x2, strict=True)])
        np.testing.assert_allclose(product(weights, x1, x2), alone, atol=1e-13)
        assert product(weights, x1[:0], x2[:0]).shape == (0, 7, plan.irreps_out.dim)


def test_the_module_takes_and_returns_irreps_arrays():
    x1, x2 = _features(0, jnp.float32, IRREPS1, IRREPS2)
    a, b = e3nn_jax.IrrepsArray(IRREPS1, x1), e3nn_jax.IrrepsArray(IRREPS2, x2)
    module = tp.FullyConnectedTensorProduct(tp.TensorProductConfig(IRREPS_OUT))
    params = jax.jit(module.init)(jax.random.key(0), a, b)
    y = jax.jit(module.apply)(params, a, b)
    assert y.irreps == e3nn_jax.Irreps(IRREPS_OUT)
    plan = tp.plan_tensor_product(IRREPS1, IRREPS2, IRREPS_OUT)
    weights = tuple(params["params"][f"path_{i}"] for i in range(len(plan.paths)))
    expected = jax.jit(tp.fully_connected_tensor_product)(plan, weights, x1, x2)
    np.testing.assert_allclose(y.array, expected, rtol=1e-5, atol=1e-6)  # float32


def test_a_second_call_compiles_nothing():
    plan = tp.plan_tensor_product("2x1o", "2x1o", "2x0e")
    traces = []

    @jax.jit
    def product(*args):
        traces.append(1)
        return tp.fully_connected_tensor_product(*args)

    for seed in (0, 1):
        product(plan, _weights(seed, plan, jnp.float32), *_features(seed, jnp.float32, "2x1o", "2x1o"))
        plan = tp.plan_tensor_product("2x1o", "2x1o", "2x0e")  # an equal plan is the same program
    assert len(traces) == 1


def test_errors_say_what_would_work():
    with pytest.raises(ConfigError, match="leave it out of irreps_out"):
        tp.plan_tensor_product("1x0e", "1x1o", "1x2e")
    with pytest.raises(ConfigError, match="float64 tables"):
        tp.plan_full_tensor_product("1x0e", "1x1o", dtype=jnp.float64)
    with pytest.raises(ConfigError, match=r"16x0e \+ 8x1o, got 'five'"):
        tp.TensorProductConfig("five")
    with pytest.raises(ConfigError, match=r"16x0e \+ 8x1o, got '1q'"):
        tp.plan_full_tensor_product("1x0e", "1q")
    with pytest.raises(ConfigError, match="at least one irrep"):
        tp.plan_tensor_product("1x0e", "1x1o", "0x1o")
    with pytest.raises(ConfigError, match="at least one irrep"):
        tp.plan_channelwise_tensor_product("", "1x1o")
    plan = tp.plan_tensor_product("1x1o", "1x1o", "1x0e")
    with pytest.raises(InputError, match="the second feature has 4 components, 1x1o has 3"):
        tp.fully_connected_tensor_product(plan, (jnp.ones((1, 1, 1)),), jnp.ones(3), jnp.ones(4))
    with pytest.raises(InputError, match="need weights of shapes"):
        tp.fully_connected_tensor_product(plan, (), jnp.ones(3), jnp.ones(3))
    with pytest.raises(InputError, match="the first feature has dtype float16 but the plan needs float32"):
        tp.fully_connected_tensor_product(plan, (jnp.ones((1, 1, 1)),), jnp.ones(3, jnp.float16), jnp.ones(3))
