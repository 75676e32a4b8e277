"""An ensemble under `jax.vmap` becomes one graph: layers of each member from the shared input, joined by their mean."""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge.circuits import circuit, symbolic, unroll
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.batch_norm_resnet import BatchNormResNet, BatchNormResNetConfig, ResNetPrecision
from jaxgeo.models.mlp import Mlp, MlpConfig, MlpPrecision
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig, SvhnPrecision

MEMBERS = 4
INPUT = FixedPoint(6, 2, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
RESULT = FixedPoint(7, 3, True, "RND", "SAT")
LAYER = LinearPrecision(WEIGHT, WEIGHT, RESULT)
MLP = Mlp(MlpConfig(3, (5, 4), 3, "relu", MlpPrecision(INPUT, (LAYER,) * 3)))
RESNET = BatchNormResNetConfig(8, 2, 8, 2, 3, norm="folded")
NETWORKS = {
    "perceptron": (MLP, (3,)),
    "svhn": (
        SvhnCnn(SvhnCnnConfig(10, 2, 3, (2, 3), (4,), norm="folded", precision=SvhnPrecision(INPUT, (LAYER,) * 4))),
        (10, 10, 2),
    ),
    "residual": (
        BatchNormResNet(
            BatchNormResNetConfig(
                8, 2, 8, 2, 3, norm="folded",
                precision=ResNetPrecision(INPUT, (LAYER,) * len(RESNET.names), (RESULT,) * 3, RESULT, LAYER),
            )
        ),
        (8, 8, 2),
    ),
}  # fmt: skip


def values(seed, *shape):
    return np.random.default_rng(seed).normal(scale=0.6, size=shape).astype(np.float32)


def stacked_params(model, shape):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(structure, [values(i, MEMBERS, *leaf.shape) for i, leaf in enumerate(leaves)])


def mean_of(apply):
    return lambda stacked, x: jnp.mean(jax.vmap(apply, (0, None))(stacked, x), axis=0)


@pytest.fixture(scope="module", params=NETWORKS)
def ensemble(request):
    """Graph, function, parameters, and inputs with what JAX makes of them."""
    model, shape = NETWORKS[request.param]
    apply, stacked = mean_of(model.apply), stacked_params(model, shape)
    x = values(99, 64, *shape)
    return trace(apply, stacked, shape), model, stacked, x, np.asarray(jax.jit(apply)(stacked, x))


def test_the_graph_of_an_ensemble_computes_the_mean_in_every_word(ensemble):
    graph, _, _, x, expected = ensemble
    assert len(np.unique(expected)) > 50  # not equal for want of variety
    np.testing.assert_array_equal(jax.jit(lambda x: apply_graph(graph, x))(x), expected)
    assert plan_types(graph)[graph.output].exact


def test_each_member_has_the_layers_of_its_own_trace(ensemble):
    graph, model, stacked, x, _ = ensemble
    members = [jax.tree.map(operator.itemgetter(m), stacked) for m in range(MEMBERS)]
    alone = [trace(model.apply, member, x.shape[1:]) for member in members]
    for number, member in enumerate(alone):
        for node in member:
            if isinstance(node, ir.Dense | ir.Conv):
                own = graph[f"member_{number}_{node.name}"]
                assert isinstance(own, ir.Dense | ir.Conv)
                assert own.bias is not None
                assert node.bias is not None
                np.testing.assert_array_equal(own.kernel.value, node.kernel.value)
                np.testing.assert_array_equal(own.bias.value, node.bias.value)
                assert own.kernel.format == node.kernel.format == WEIGHT
    # Nothing is there but the shared and rounded input, the members' own layers, and their mean.
    assert len(graph.nodes) == MEMBERS * (len(alone[0].nodes) - 2) + 2 + MEMBERS
    kinds, own_kinds = ([node.kind for node in some] for some in (graph, alone[0]))
    assert kinds.count("add") == MEMBERS * own_kinds.count("add") + MEMBERS - 1


def test_the_emulated_design_of_an_ensemble_is_exact(ensemble):
    graph, _, _, x, expected = ensemble
    plan = plan_emulation(graph, DesignTypes(FixedPoint(40, 16), "auto"))
    np.testing.assert_array_equal(emulate(plan, x), expected)


def test_the_circuit_of_an_ensemble_is_exact_as_graph_and_as_function():
    apply, stacked = mean_of(MLP.apply), stacked_params(MLP, (3,))
    x = values(99, 500, 3)
    expected = np.asarray(jax.jit(apply)(stacked, x))
    for unrolled in (unroll.unroll(trace(apply, stacked, (3,)), None), symbolic.unroll(apply, stacked, (3,))):
        da4ml = circuit.import_da4ml()
        logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
        words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64)
        np.testing.assert_array_equal(logic.predict(words, n_threads=1), expected)


def test_convolutions_under_vmap_become_the_same_circuit_as_graph_and_as_function():
    config = SvhnCnnConfig(4, 1, 2, (2,), (2,), norm="folded", precision=SvhnPrecision(INPUT, (LAYER,) * 3))
    model, shape = SvhnCnn(config), (4, 4, 1)
    apply, stacked = mean_of(model.apply), jax.tree.map(lambda leaf: leaf[:2], stacked_params(SvhnCnn(config), shape))
    x = values(99, 100, *shape)
    expected = np.asarray(jax.jit(apply)(stacked, x))
    for unrolled in (unroll.unroll(trace(apply, stacked, shape), None), symbolic.unroll(apply, stacked, shape)):
        da4ml = circuit.import_da4ml()
        logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
        words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64).reshape(len(x), -1)
        np.testing.assert_array_equal(logic.predict(words, n_threads=1), expected)


class Layers(nn.Module):
    """Whatever a function does, as a linen module."""

    function: Callable

    @nn.compact
    def __call__(self, x):
        return self.function(x)


def spatial(x, name="conv", strides=(1, 1), **more):
    return nn.Conv(4, (3, 3), strides, name=name, **more)(x)


def skip(x):
    y = nn.Dense(2)(x)
    return jnp.pad(jnp.concatenate([y, y + x], axis=-1), ((0, 0), (1, 0), (0, 0)))


def choices(x):
    y = nn.Dense(3, name="a")(x)[:, 1:, :2]
    return nn.Dense(2, name="b")(jnp.swapaxes(y, 1, 2).reshape(-1, 8))


def prelu(x):
    return nn.PReLU()(nn.Dense(3)(x))


def by_slopes(x):
    y = nn.Dense(3)(x)
    return jnp.where(y > 0, y, jnp.asarray([0.5, 0.25, -0.5]) * y)


def thresholded(x):
    y = nn.Dense(3)(x)
    return jnp.where(y > 0.5, y, 0)


ONE_MEMBER = {
    "a PReLU": (prelu, (5, 2)),
    "slopes of channels": (by_slopes, (3,)),
    "a threshold": (thresholded, (3,)),
    "chosen channels": (lambda x: nn.Dense(3)(x)[..., jnp.array([2, 0, 1])], (5, 2)),
    "chosen places": (lambda x: nn.Dense(3)(x)[:, jnp.array([2, 0, 1, 1])], (5, 2)),
    "a stack": (lambda x: jnp.stack([nn.Dense(3)(x), nn.Dense(3)(x)], axis=1), (2,)),
    "norms that come first": (lambda x: nn.Dense(2)(nn.BatchNorm(use_running_average=True)(x)), (3,)),
    "convolutions": (lambda x: spatial(nn.relu(spatial(x, "one", (2, 1))), "two", padding="VALID"), (8, 7, 2)),
    "grouped convolutions": (lambda x: spatial(spatial(x, "one"), "two", feature_group_count=2), (5, 5, 2)),
    "a norm of statistics": (lambda x: nn.BatchNorm(use_running_average=True)(spatial(x)), (5, 5, 2)),
    "leaky rectifiers and pools": (lambda x: nn.max_pool(nn.leaky_relu(spatial(x), 0.25), (2, 2), (2, 2)), (6, 6, 2)),
    "means of windows and pixels": (lambda x: jnp.mean(nn.avg_pool(spatial(x), (2, 2), (2, 2)), (1, 2)), (6, 6, 2)),
    "a signal": (lambda x: nn.Conv(3, (3,), name="two")(nn.relu(nn.Conv(4, (2,))(x))), (8, 2)),
    "a skip, joined and padded": (skip, (5, 2)),
    "slices, transposes and reshapes": (choices, (5, 2)),
    "softmax": (lambda x: nn.softmax(nn.Dense(3)(x)), (4,)),
    "a kernel of heads": (lambda x: nn.DenseGeneral((2, 3))(x).reshape(-1, 6), (4,)),
    "members of members": (
        lambda x: nn.Dense(2)(jnp.mean(jax.vmap(lambda k: x @ k)(jnp.asarray(values(5, 2, 4, 3))), axis=0)), (4,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_MEMBER)
def test_what_a_member_may_be_an_ensemble_may_be(case):
    layers, shape = ONE_MEMBER[case]
    model = Layers(layers)
    with jax.numpy_rank_promotion("allow"):
        stacked = stacked_params(model, shape)
        stacked = jax.tree.map(lambda leaf: np.abs(leaf) + 0.1, stacked)  # variances are positive
        apply = mean_of(model.apply)
        graph = trace(apply, stacked, shape)
        x = values(98, 6, *shape)
        # The graph sums in another order than XLA.
        np.testing.assert_allclose(jax.jit(lambda x: apply_graph(graph, x))(x), apply(stacked, x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("out_axes", [1, 2])
def test_members_behind_the_batch_are_all_put_out(out_axes):
    def apply(stacked, x):
        return jax.vmap(MLP.apply, (0, None), out_axes)(stacked, x)

    stacked, x = stacked_params(MLP, (3,)), values(99, 50, 3)
    graph = trace(apply, stacked, (3,))
    np.testing.assert_array_equal(jax.jit(lambda x: apply_graph(graph, x))(x), jax.jit(apply)(stacked, x))


REDUCTIONS = {
    "maximum": lambda y: y.max((0, 1)),
    "minimum": lambda y: y.min((0, 1)),
    "maximum of means": lambda y: y.mean(0).max(0),
    "mean": lambda y: y.mean((0, 1)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_members_of_members_are_joined_by_pairs(name):
    kernel, x = values(3, 2, 3, 3, 4), jnp.asarray(values(4, 20, 3))

    def apply(p, x):
        return REDUCTIONS[name](jax.vmap(jax.vmap(lambda kernel: x @ kernel))(p))

    graph = trace(apply, kernel, (3,))
    assert sum(isinstance(node, ir.Pairwise) for node in graph) == 5
    # The graph sums in another order than XLA.
    np.testing.assert_allclose(apply_graph(graph, x), apply(kernel, x), rtol=1e-5, atol=1e-6)


def test_a_stack_of_networks_is_the_ensemble_that_vmap_makes():
    stacked, x = stacked_params(MLP, (3,)), values(99, 50, 3)

    def apply(stacked, x):
        members = [jax.tree.map(operator.itemgetter(m), stacked) for m in range(MEMBERS)]
        return jnp.mean(jnp.stack([jnp.asarray(MLP.apply(member, x)) for member in members]), axis=0)

    graph = trace(apply, stacked, (3,))
    assert [node.kind for node in graph].count("add") == MEMBERS - 1
    expected = jax.jit(mean_of(MLP.apply))(stacked, x)
    np.testing.assert_array_equal(jax.jit(lambda x: apply_graph(graph, x))(x), expected)
    unrolled = symbolic.unroll(apply, stacked, (3,))
    da4ml = circuit.import_da4ml()
    logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
    words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64)
    np.testing.assert_array_equal(logic.predict(words, n_threads=1), expected)


def test_members_of_one_kernel_and_many_inputs_share_a_head():
    params = {"first": values(0, MEMBERS, 3, 5), "head": values(1, 5, 2)}

    def apply(p, x):
        return jnp.mean(jax.vmap(lambda first: nn.relu(x @ first) @ p["head"])(p["first"]), axis=0)

    graph, x = trace(apply, params, (3,)), jnp.asarray(values(2, 20, 3))
    np.testing.assert_allclose(apply_graph(graph, x), apply(params, x), rtol=1e-5, atol=1e-6)  # sums in another order
    assert [node.name for node in graph if isinstance(node, ir.Dense)][MEMBERS:] == [
        "head",
        "head_1",
        "head_2",
        "head_3",
    ]


def test_what_takes_members_together_otherwise_is_refused_with_what_works():
    stacked = {"kernel": values(0, MEMBERS, 3, 2)}

    def members(p, x):
        return jax.vmap(lambda kernel: x @ kernel)(p["kernel"])

    with pytest.raises(ExportError, match=r"reduce_prod at .*test_members.py:\d+ .*members of jax.vmap.*mean\(0\)"):
        trace(lambda p, x: jnp.prod(members(p, x), axis=0), stacked, (3,))
    for number in (3, MEMBERS):  # three as well: as many as one of the batches has samples
        with pytest.raises(InputError, match=r"first axis is the batch, .*members of jax.vmap .*out_axes=1"):
            trace(lambda p, x, number=number: members({"kernel": p["kernel"][:number]}, x), stacked, (3,))
    with pytest.raises(ExportError, match=r"gather at .*members of jax.vmap"):
        trace(lambda p, x: members(p, x)[jnp.asarray([0, 2, 1])].mean(0), stacked, (3,))
