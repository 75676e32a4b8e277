"""What the trace refuses says what is true, and what it names as the remedy is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from unchecked import without_type_checks

from fpga_bridge.circuits import symbolic
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ConfigError, ExportError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

FORMAT = FixedPoint(8, 3)


def values(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def drop(x, key):
    return nn.Dropout(0.5, deterministic=False).apply({}, quantize(x, FORMAT), rngs={"dropout": key})


RANDOM = {
    "a key in the code": (lambda p, x: drop(x, jax.random.key(0)), {}),
    "a key in the parameters": (lambda p, x: drop(x, p["key"]), {"key": jax.random.key(0)}),
    "an old key in the parameters": (lambda p, x: drop(x, p["key"]), {"key": jax.random.PRNGKey(0)}),
}


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
@pytest.mark.parametrize("case", RANDOM)
def test_random_bits_are_refused_by_name_and_line(case, read):
    apply, params = RANDOM[case]
    with pytest.raises(ExportError, match=r"random bits at .*test_trace_remedies.py:\d+ .*deterministic=True"):
        read(apply, params, (3,))


def test_a_key_that_nothing_reads_is_no_random_bit():
    graph = trace(lambda p, x: x @ p["kernel"], {"kernel": values(3, 2), "key": jax.random.key(0)}, (3,))
    assert [node.kind for node in graph] == ["input", "dense"]


def test_what_is_sorted_is_sorted_by_maxima_and_minima_of_pairs():
    def network(p, x):
        a, b = x[:, :1], x[:, 1:]
        return jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)], axis=-1)

    x = values(5, 2)
    np.testing.assert_array_equal(apply_graph(trace(network, {}, (2,)), jnp.asarray(x)), np.sort(x, axis=-1))
    with pytest.raises(ExportError, match=r"sort at .* export what it sorts, and sort afterwards; or use jnp.maximum"):
        trace(lambda p, x: jnp.sort(x, axis=-1), {}, (2,))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_no_register_holds_are_refused_by_name(number):
    params = {"params": {"head": {"kernel": np.asarray([[1.0, number], [0.5, 2.0]], np.float32)}}}
    with pytest.raises(InputError, match=r"^head/kernel of the parameters holds 1 NaN or infinite values of 4"):
        trace(lambda p, x: x @ p["params"]["head"]["kernel"], params, (2,))


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
def test_samples_of_another_shape_than_the_networks_are_refused_with_it(read):
    layer = nn.Dense(3)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4)))
    for apply, given in ((layer.apply, params), (lambda p, x: x @ p, values(4, 3))):
        with pytest.raises(InputError, match=r"float32 samples of shape \(5,\) .*give the shape of one sample"):
            read(apply, given, (5,))
    with pytest.raises(InputError, match=r"front \([^()]*\); .* module\.apply of Flax takes {'params': \.\.\.}"):
        read(layer.apply, params["params"], (4,))
    with without_type_checks(), pytest.raises(ConfigError, match=r"input_shape must be a tuple of whole .*, got 4"):
        read(layer.apply, params, 4)


def test_slopes_in_two_factors_are_refused_with_the_form_that_is_taken():
    def network(slope):
        def apply(p, x):
            y = 2.5 * quantize(x, FORMAT) + 1.0
            return jnp.where(y > 0, y, slope(p["a"], y))

        return apply

    kernel = {"a": values(1, 3)}
    with pytest.raises(ExportError, match=r"PReLU jnp.where\(x > 0, x, slope \* x\)"):
        trace(network(lambda a, y: a * y * 0.5), kernel, (3,))
    graph = trace(network(lambda a, y: a * 0.5 * y), kernel, (3,))
    assert [node.kind for node in graph] == ["input", "quantize", "affine", "prelu"]


EXACT = {
    "a weight on the left of places": (lambda p, x: jnp.einsum("bsc,sd->bdc", x, p), (5, 4), (5, 3)),
    "a weight on the left of channels": (lambda p, x: jnp.einsum("bsc,cd->bds", x, p), (3, 4), (5, 3)),
    "a weight of heads on the left": (lambda p, x: jnp.einsum("bsc,hcd->bhsd", x, p), (2, 3, 4), (5, 3)),
    "a matrix times a signal": (lambda p, x: p @ x, (4, 5), (5, 3)),
    "edges of a signal": (lambda p, x: jnp.pad(x, ((0, 0), (1, 2), (0, 0)), mode="edge") @ p, (3, 4), (5, 3)),
    "edges of an image": (
        lambda p, x: jnp.pad(x, ((0, 0), (2, 1), (0, 1), (0, 0)), mode="edge") @ p,
        (3, 4),
        (5, 4, 3),
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_transposes_and_copies_make_exact_is_taken(case):
    apply, kernel, shape = EXACT[case]
    with jax.numpy_rank_promotion("allow"):
        graph, x = trace(apply, values(*kernel), shape), jnp.asarray(values(6, *shape))
        # Few products of float32, in another order than XLA's.
        np.testing.assert_allclose(apply_graph(graph, x), apply(values(*kernel), x), rtol=1e-5, atol=1e-6)


def test_a_weight_on_the_left_whose_axes_stay_before_the_batch_is_refused_truly():
    with pytest.raises(ExportError, match="a weight on the left puts its own axes before the batch"):
        trace(lambda p, x: jax.nn.relu(jnp.tensordot(p, x, ((1,), (2,)))).swapaxes(0, 1), values(3, 3), (5, 3))


def test_samples_of_the_batch_are_no_places():
    with pytest.raises(ExportError, match=r"rev at .* chooses samples of the batch"):
        trace(lambda p, x: x[::-1], {}, (5, 3))


@pytest.mark.parametrize(("function", "remedy"), [(jax.nn.softmax, "EXP and RECIPROCAL"), (jax.nn.gelu, "GELU")])
def test_circuits_name_the_tables_of_a_function(function, remedy):
    with pytest.raises(ExportError, match=rf"lookup of jaxgeo\.layers\.table_activation.*{remedy}"):
        symbolic.unroll(lambda p, x: function(quantize(x, FORMAT)), {}, (3,))


COUNTING = {
    "a factor": lambda p, x: x * x.shape[0],
    "a choice": lambda p, x: x * (1.0 if x.shape[0] == 1 else 2.0),
    "a choice of parameters": lambda p, x: x @ p["kernel" if x.shape[0] % 2 else "other"],
    "a choice of results": lambda p, x: (x + 1.0, x + 2.0)[x.shape[0] % 2],
    "a constant": lambda p, x: x + np.full((1, 4), x.shape[0], np.float32),
    "a filled constant": lambda p, x: x * jnp.full((1, 4), x.shape[0]),
    "a counted constant": lambda p, x: x * (1 + jnp.arange(x.shape[0]).sum()),
    "a slice": lambda p, x: x[:, x.shape[0] - 1 :],
    "one more step": lambda p, x: x if x.shape[0] == 1 else x + 1.0,
    "within a call": lambda p, x: jax.checkpoint(lambda y: y * x.shape[0])(x),
}


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
@pytest.mark.parametrize("case", COUNTING)
def test_what_counts_its_samples_is_refused(case, read):
    apply, params = COUNTING[case], {"kernel": 0.5 * np.eye(4), "other": np.eye(4)}
    with pytest.raises(ExportError, match="hardware sees one"):
        read(lambda p, x: apply(p, quantize(quantize(x, FORMAT) @ p["kernel"], FORMAT)), params, (4,))


MIXING = {
    "a sum": (lambda x: x + x.sum(0)[None], "reduce_sum at .*"),
    "a mean": (lambda x: x - x.mean(0)[None], "reduce_sum at .*"),
    "a maximum": (lambda x: x - x.max(0)[None], "reduce_max at .*"),
    "products": (lambda x: x @ x.T @ x, "dot_general at .*"),
    "a factor": (lambda x: x * x.shape[0], "mul at .*"),
    "the order": (lambda x: x[::-1], "the output at an unknown line"),
    "a place": (lambda x: x + jnp.arange(x.shape[0], dtype=jnp.int32)[:, None], "the output at an unknown line"),
}


@pytest.mark.parametrize("case", MIXING)
def test_circuits_refuse_what_makes_a_sample_another_beside_others(case):
    function, operation = MIXING[case]
    line = r"test_trace_remedies\.py:\d+" if operation.endswith("*") else ""
    with pytest.raises(ExportError, match=f"^{operation}{line} cannot be exported: it is another one for a batch of 1"):
        symbolic.unroll(lambda _, x: function(quantize(x, FORMAT)), None, (4,))


FROM_THE_THIRD = {
    "a choice": (
        lambda x: x * (2.0 if x.shape[0] >= 3 else 1.0),
        r"the number of samples at .*py:\d+ .*'samples' >= '3'",
    ),
    "the order": (lambda x: jnp.roll(x, 2, axis=0), r"slice at .*py:\d+ "),
    "the order of seven": (lambda x: jnp.roll(x, 6, axis=0), r"slice at .*py:\d+ "),
    "a factor": (lambda x: x * jnp.maximum(x.shape[0] - 2, 1), r"the number of samples at .*py:\d+ "),
    "a place": (lambda x: jnp.where((jnp.arange(x.shape[0]) < 2)[:, None], x, 0.0), r"iota at .*py:\d+ "),
    "within a call": (lambda x: jax.checkpoint(lambda y: y * max(x.shape[0], 2))(x), "the number of samples at .*"),
    "a choice by len": (lambda x: x * (2.0 if len(x) >= 3 else 1.0), "(mul|affine) .*"),
}


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
@pytest.mark.parametrize("case", FROM_THE_THIRD)
def test_what_differs_from_the_third_sample_on_is_refused(case, read):
    function, message = FROM_THE_THIRD[case]
    one, two = (np.arange(4.0 * count, dtype=np.float32).reshape(count, 4) for count in (1, 2))
    np.testing.assert_array_equal(function(jnp.asarray(two))[:1], function(jnp.asarray(one)))
    with pytest.raises(ExportError, match=message + ".*hardware sees one"):
        read(lambda _, x: quantize(function(quantize(x, FORMAT)), FORMAT), {}, (4,))


def test_shapes_and_indices_of_samples_are_no_count():
    def network(p, x):
        y = x.reshape(len(x), 2, 2) @ p["kernel"]
        return y.reshape(x.shape[0], -1) + jnp.zeros((x.shape[0], 4))

    kernel = values(2, 2)
    x = values(5, 4)
    graph = trace(network, {"kernel": kernel}, (4,))
    expected = (x.reshape(-1, 2) @ kernel).reshape(-1, 4)
    np.testing.assert_allclose(apply_graph(graph, jnp.asarray(x)), expected, rtol=1e-6)  # a sum of two in float32


def test_a_module_that_trains_on_and_windows_beyond_the_border_are_refused_for_what_they_are():
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)

    module = Normalized()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4)))
    assert [node.kind for node in trace(module.apply, variables, (4,))] == ["input", "dense"]
    with pytest.raises(InputError, match=r"changes its variables, as in training .*update_stats=False"):
        trace(lambda p, x: module.apply(p, x, train=True), variables, (4,))
    for counted in (True, False):
        with pytest.raises(ExportError, match=r"fewer numbers there, .*; use padding='VALID', behind jnp.pad"):
            trace(lambda _, x, n=counted: nn.avg_pool(x, (2,), (1,), "SAME", count_include_pad=n), {}, (4, 2))
