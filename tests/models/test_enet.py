"""The compressed ENet: sizes, folding, formats that agree with the circuit, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.ladder import keras_forward
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import quantize
from jaxgeo.layers.plane_pooling import max_pool
from jaxgeo.models.enet import ENet, ENetConfig, doubled, enet_multiplications, init_enet
from jaxgeo.training import enet_precision as precision
from jaxgeo.training.batch_norm_folding import fold_norms

SMALL = ENetConfig(rows=8, columns=16, filters=4, encoder=(1,), decoder=(1,))


def pictures(config, count=3, seed=0):
    shape = (count, config.rows, config.columns, config.channels)
    # Bytes over 256, as cameras give them.
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape) / 256, jnp.float32)


def trained(config):
    """Variables as of a trained network: statistics of variance near one, scales and offsets of either sign."""
    shapes = jax.eval_shape(ENet(config).init, jax.random.key(0), pictures(config))
    generator = np.random.default_rng(1)

    def draw(path, leaf):
        values = generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        return jnp.asarray(1 + np.abs(values) if path[-1].key in ("scale", "var") else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module", params=["nearest", "transposed"])
def folded(request):
    config = dataclasses.replace(SMALL, upsampling=request.param)
    variables = trained(config)
    return config, variables, *fold_norms(config, variables)


@pytest.mark.parametrize("filters", [4, 8, 16])
def test_published_sizes_give_logits_of_every_pixel(filters):
    config = ENetConfig(filters=filters)
    image = jax.ShapeDtypeStruct((2, 152, 240, 3), jnp.float32)
    variables = jax.eval_shape(ENet(config).init, jax.random.key(0), image)
    assert jax.eval_shape(ENet(config).apply, variables, image).shape == (2, 152, 240, 4)
    inner = filters // 2
    bottleneck = filters * inner + 9 * inner**2 + inner * filters
    kernels = 27 * filters + 6 * bottleneck + 9 * filters * 4
    # Two numbers a norm: one norm at the stem, three in each of six bottlenecks; four biases in the head.
    norms = 2 * (filters + 6 * (2 * inner + filters)) + 4
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == kernels + norms
    pixels = 152 * 240
    expected = pixels * (27 * filters + 36 * filters) + pixels // 16 * 3 * bottleneck + pixels // 64 * 2 * bottleneck
    expected += pixels // 4 * bottleneck
    assert sum(enet_multiplications(config).values()) == expected


def test_halving_undoes_doubling():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 2))
    np.testing.assert_array_equal(max_pool(doubled(x)), x)
    np.testing.assert_array_equal(doubled(x), np.kron(x, np.ones((1, 2, 2, 1), np.float32)))


def test_a_folded_network_is_the_same_function(folded):
    config, variables, folded_config, params = folded
    x = pictures(config, seed=2)
    expected = jax.jit(ENet(config).apply)(variables, x)
    # float32 sums of some ten numbers near one, their weights rounded once more, through fourteen layers.
    batches = jax.jit(ENet(folded_config).apply)({"params": params}, x[None])
    np.testing.assert_allclose(batches[0], expected, atol=1e-4)


def test_the_fixed_point_network_is_the_traced_circuit_to_the_bit(folded):
    _, _, config, params = folded
    x = pictures(config, seed=3)
    bits = precision.uniform_bits(config, 6)
    formats = precision.choose_enet_precision(config, params, x, bits)
    config = dataclasses.replace(config, precision=formats)
    network = ENet(config)
    graph = trace(lambda p, x: network.apply({"params": p}, x), params, x.shape[1:])
    types = plan_types(graph)
    assert types[graph.output].exact
    kinds = [type(node) for node in graph]
    assert kinds.count(ir.Conv) == len(config.names)
    assert kinds.count(ir.Pool) == 2
    assert kinds.count(ir.Upsample if config.upsampling == "nearest" else ir.ZeroInsert) == 2
    assert ir.Relu not in kinds  # unsigned formats are the rectifiers
    expected = np.asarray(jax.jit(network.apply)({"params": params}, x))
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(keras_forward(graph, np.asarray(x))[1], expected)
    head = formats.convolutions[-1].result
    np.testing.assert_array_equal(quantize(jnp.asarray(expected), head), expected)
    for name, layer in zip(config.names, formats.convolutions, strict=True):
        assert (layer.weight.width, layer.result.width) == (6, 8 if name == "head" else 6)
        assert layer.result.signed == (name == "head" or name.endswith("/expand"))


def test_heterogeneous_bits_take_the_cheapest_weights_first():
    config = dataclasses.replace(SMALL, norm="folded")
    sizes = {name: 10 for name in config.names}
    rises = {name: float(k) for k, name in enumerate(config.names)}
    bits = precision.heterogeneous_bits(config, rises, sizes, share=0.5)
    half = -(-len(config.names) // 2)
    assert [bits.weights[name] for name in config.names] == [4] * half + [8] * (len(config.names) - half)
    everything = precision.heterogeneous_bits(config, rises, sizes, share=1.0)
    assert set(everything.weights.values()) == {4}
    assert everything.results["head"] == 8
    with pytest.raises(ConfigError, match="between 0 and 1"):
        precision.heterogeneous_bits(config, rises, sizes, share=1.5)


def test_sensitivity_is_the_rise_of_the_callers_loss_where_one_kernel_is_rounded(folded):
    _, _, config, params = folded
    seen = []

    def distance(changed):
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(changed), strict=True)
        different = [float(np.sum(np.square(np.asarray(a) - np.asarray(b)))) for a, b in pairs]
        seen.append(sum(value > 0 for value in different))
        return sum(different)

    coarse = precision.sensitivities(config, params, distance, low=3)
    fine = precision.sensitivities(config, params, distance, low=6)
    assert seen == 2 * ([0] + [1] * len(config.names))
    assert all(coarse[name] > fine[name] > 0 for name in config.names)
    assert precision.kernel_sizes(config, params)["initial"] == 9 * 3 * 4


def test_the_quick_initial_variables_are_distributed_as_those_of_init():
    config = ENetConfig(rows=8, columns=8, filters=16, encoder=(1,), decoder=(1,))
    quick = init_enet(jax.random.key(0), config)
    shapes = jax.eval_shape(ENet(config).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert jax.tree.map(jnp.shape, quick) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    kernel = np.asarray(quick["params"]["initial"]["conv"]["kernel"])
    # Four standard errors of the standard deviation of 432 draws.
    assert abs(kernel.std() - np.sqrt(2 / 27)) < 4 * np.sqrt(2 / 27) / np.sqrt(2 * 432)
    assert np.abs(kernel).max() <= 2 * np.sqrt(2 / 27) / 0.8796
    norm = quick["params"]["initial"]["conv_norm"]
    assert (norm["scale"] == 1).all()
    assert (norm["bias"] == 0).all()
    assert (quick["batch_stats"]["initial"]["conv_norm"]["var"] == 1).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rows": 150}, "divisible by 8.*144 x 240 would do"),
        ({"rows": 7, "columns": 17}, "divisible by 8, got 7 x 17; 8 x 16 would do"),
        ({"encoder": (2,)}, "as often"),
        ({"filters": 1}, "compressed"),
        ({"momentum": 1.0}, "momentum"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_impossible_configurations_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        ENetConfig(**fields)


def test_a_precision_needs_a_folded_network_and_a_format_for_each_layer(folded):
    _, _, config, params = folded
    bits = precision.uniform_bits(config, 6)
    formats = precision.choose_enet_precision(config, params, pictures(config), bits)
    with pytest.raises(ConfigError, match="norm='folded'"):
        dataclasses.replace(config, norm="batch", precision=formats)
    with pytest.raises(ConfigError, match=r"got .* and 0"):
        dataclasses.replace(config, precision=dataclasses.replace(formats, sums=()))
    with pytest.raises(ConfigError, match="bits are needed"):
        precision.choose_enet_precision(config, params, pictures(config), precision.ENetBits({"a": 4}, {"a": 4}))
    with pytest.raises(ConfigError, match="at least 2"):
        precision.uniform_bits(config, 1)
    with pytest.raises(ConfigError, match="only batch norms"):
        fold_norms(config, {"params": params})


def test_other_pictures_are_refused():
    with pytest.raises(InputError, match=r"\(\.\.\., 8, 16, 3\)"):
        ENet(SMALL).init(jax.random.key(0), jnp.zeros((1, 16, 8, 3)))
