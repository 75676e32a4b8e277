"""Filters taken out: what is zero changes nothing, folding commutes, and the rest is an ordinary smaller network."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.feature_groups import FeatureGroup, ReducibleConfig
from jaxgeo.layers.learned_precision import VariableBits
from jaxgeo.models.enet import ENet, ENetConfig
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.training.batch_norm_folding import fold_network, fold_norms
from jaxgeo.training.enet_precision import choose_enet_precision, uniform_bits
from jaxgeo.training.filter_reduction import reduce_filters, strengths, strongest, take_features

ENET = ENetConfig(rows=8, columns=16, filters=6, encoder=(2,), decoder=(1,))
FEWER = {"filters": 4, "encoder_0_0": 2, "decoder_0_0": 1}
SVHN = SvhnCnnConfig(size=22, channels=1, filters=(3, 4, 5), units=(6, 7))
NETWORKS = {
    "enet": (ENet, ENET, FEWER),
    "enet transposed": (ENet, dataclasses.replace(ENET, upsampling="transposed"), FEWER),
    "svhn": (SvhnCnn, SVHN, {"conv_0": 2, "conv_2": 3, "dense_0": 5}),
    "svhn affine": (SvhnCnn, dataclasses.replace(SVHN, norm="affine"), {"conv_1": 2, "dense_1": 1}),
}
EVERY = pytest.mark.parametrize("case", NETWORKS)


def shape_of(config):
    return (config.rows, config.columns) if isinstance(config, ENetConfig) else (config.size, config.size)


def images(config, seed=1):
    shape = (3, *shape_of(config), config.channels)
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape) / 256, jnp.float32)


def drawn(model, config, seed=0):
    """Variables as of a trained network; scales and variances are positive."""
    shapes = jax.eval_shape(model(config).init, jax.random.key(0), images(config))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        return jnp.asarray(1 + np.abs(values) if path[-1].key in ("scale", "var") else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def silenced(config, variables, counts, seed=2):
    """The variables with as many features zero as are to go."""
    rng = np.random.default_rng(seed)
    for group in config.feature_groups:
        count = config.feature_counts[group.name]
        alive = np.zeros(count, np.float32)
        alive[rng.permutation(count)[: counts.get(group.name, count)]] = 1

        def mute(path, leaf, layers=group.writers, alive=alive):
            keys = [key.key for key in path]
            layer = "/".join(keys[1:-1]).removesuffix("_norm")
            # A norm without scale, bias and mean is zero, whatever its variance.
            if layer not in layers or keys[-1] == "var":
                return leaf
            return leaf * alive[(None,) * (leaf.ndim - 1)]

        variables = jax.tree_util.tree_map_with_path(mute, variables)
    return variables


@EVERY
def test_a_network_without_filters_that_are_zero_computes_the_same(case):
    model, config, counts = NETWORKS[case]
    assert isinstance(config, ReducibleConfig)
    variables = silenced(config, drawn(model, config), counts)
    smaller, shorter = reduce_filters(config, variables, counts)
    assert smaller.feature_counts == config.feature_counts | counts
    like = jax.eval_shape(model(smaller).init, jax.random.key(0), images(config))
    assert jax.tree.map(jnp.shape, shorter) == jax.tree.map(lambda leaf: leaf.shape, like)
    expected = np.asarray(jax.jit(model(config).apply)(variables, images(config)))
    found = np.asarray(jax.jit(model(smaller).apply)(shorter, images(config)))
    # float32: the same sums without their zeros, added in another order.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_in_fixed_point_it_is_the_same_bit_for_bit(upsampling):
    config = dataclasses.replace(ENET, upsampling=upsampling)
    folded, params = fold_norms(config, silenced(config, drawn(ENet, config), FEWER))
    formats = choose_enet_precision(folded, params, images(config), uniform_bits(folded, 6))
    smaller, shorter = reduce_filters(folded, {"params": params}, FEWER)
    apply = [jax.jit(ENet(dataclasses.replace(one, precision=formats)).apply) for one in (folded, smaller)]
    expected = np.asarray(apply[0]({"params": params}, images(config, 5)))
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(apply[1](shorter, images(config, 5)), expected)


@pytest.mark.parametrize("case", ["enet", "enet transposed", "svhn"])
def test_reducing_and_folding_commute(case):
    model, config, counts = NETWORKS[case]
    variables = drawn(model, config)
    smaller, shorter = reduce_filters(config, variables, counts)
    first = fold_network(shorter, config.epsilon)
    folded = dataclasses.replace(config, norm="folded")
    second_config, second = reduce_filters(folded, fold_network(variables, config.epsilon), counts)
    assert second_config == dataclasses.replace(smaller, norm="folded")
    chex.assert_trees_all_equal(first, second)


def test_the_strength_of_a_shared_feature_counts_all_layers_that_are_added():
    config, params = fold_norms(ENET, drawn(ENet, ENET))
    group = config.feature_groups[0]
    assert group.writers == ("initial/conv", *(f"{name}/expand/conv" for name in ENET.bottlenecks))
    blocks = [params["initial"], *(params[name]["expand"] for name in ENET.bottlenecks)]
    expected = sum(np.abs(np.asarray(block["conv"]["kernel"], np.float64)).sum((0, 1, 2)) for block in blocks)
    np.testing.assert_allclose(strengths(params, group), expected, rtol=1e-12)  # float64 in another order
    kept = np.sort(np.argsort(-expected)[:4])
    _, shorter = reduce_filters(config, {"params": params}, {"filters": 4})
    for name in ENET.bottlenecks:
        old, new = params[name]["expand"]["conv"], shorter["params"][name]["expand"]["conv"]
        np.testing.assert_array_equal(new["kernel"], old["kernel"][..., kept])
        np.testing.assert_array_equal(new["bias"], old["bias"][kept])
        before, after = params[name]["project"]["conv"]["kernel"], shorter["params"][name]["project"]["conv"]["kernel"]
        np.testing.assert_array_equal(after, before[:, :, kept])


def test_the_smaller_config_is_the_plain_one_where_all_bottlenecks_are_alike():
    config = ENetConfig(filters=16)
    assert config.with_features(config.proportional(8)) == ENetConfig(filters=8)
    other = config.with_features(config.proportional(8) | {"decoder_1_0": 3})
    assert other.inner == (4, 4, 4, 4, 4, 3)
    assert other.widths["decoder_1_0"] == 3


def test_the_strongest_stay_in_their_order_and_of_equal_ones_the_first():
    np.testing.assert_array_equal(strongest(np.array([2.0, 5.0, 4.5, 3.0]), 2), [1, 2])
    np.testing.assert_array_equal(strongest(np.ones(4), 3), [0, 1, 2])


CHAIN = {"params": {"conv": {"kernel": jnp.ones((3, 2, 4))}, "head": {"kernel": jnp.ones((6, 5))}}}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: strongest(np.ones(4), 5, "conv"), ConfigError, r"of the 4 features of conv 1 \.\.\. 4 can.*got 5"),
        (lambda: strongest(np.ones(4), 0), ConfigError, "got 0"),
        (lambda: reduce_filters(ENET, drawn(ENet, ENET), {"filters": 9}), ConfigError, "of the 6 features of filters"),
        (lambda: reduce_filters(ENET, {}, {"encoder_7": 2}), ConfigError, "filters, encoder_0_0, .*, got encoder_7"),
        (lambda: ENET.proportional(5), ConfigError, "divisible by 2, got 5"),
        (lambda: dataclasses.replace(ENET, inner=(2, 2)), ConfigError, r"inside of 3 bottlenecks .* got \(2, 2\)"),
        (
            lambda: reduce_filters(dataclasses.replace(SVHN, norm="folded", precision=VariableBits()), {}, {}),
            ConfigError,
            "choose a precision afterwards",
        ),
        (
            lambda: take_features(CHAIN, FeatureGroup("a", ("conv",), ("tail",)), np.arange(2)),
            InputError,
            "no layer tail; there are conv, head",
        ),
        (
            lambda: take_features(CHAIN, FeatureGroup("a", ("conv",), ("head",)), np.arange(2)),
            InputError,
            "head reads 6 inputs, which are no whole pixels of the 4 features of conv",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
