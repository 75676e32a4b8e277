"""Formats as arrays give the circuit's logits, bit operations count what is left, masks train the smaller network."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgeo.models.enet import ENet, ENetConfig, enet_multiplications, init_enet
from jaxgeo.training.enet_precision import ENetBits, choose_enet_precision, format_chooser, uniform_bits
from jaxgeo.training.enet_search import apply_with_formats, enet_costs, format_arrays
from jaxgeo.training.filter_reduction import filter_masks, reduce_filters
from jaxgeo.training.pruning import apply_masks, keep_masks

CONFIG = ENetConfig(rows=8, columns=16, filters=4, encoder=(1,), decoder=(1,), norm="folded")
COUNTS = {"filters": 3, "encoder_0_0": 1}


def parts(config=CONFIG):
    x = np.random.default_rng(1).integers(0, 256, (3, config.rows, config.columns, 3)).astype(np.float32) / 256
    return init_enet(jax.random.key(2), config)["params"], jnp.asarray(x)


def mixed_bits(config, seed):
    rng = np.random.default_rng(seed)
    weights, results = ({name: int(rng.choice([2, 4, 6, 8])) for name in config.names} for _ in range(2))
    return ENetBits(weights, results)


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_formats_in_arrays_give_the_logits_of_the_fixed_point_network_for_all_bits_in_one_program(upsampling):
    config = dataclasses.replace(CONFIG, upsampling=upsampling)
    params, x = parts(config)
    traced = []

    @jax.jit
    def logits(formats):
        traced.append(None)
        return apply_with_formats(config, params, x, formats)

    choose = format_chooser(config, params, x)
    for seed in range(2):
        precision = choose(mixed_bits(config, seed))
        assert precision == choose_enet_precision(config, params, x, mixed_bits(config, seed))
        expected = jax.jit(ENet(dataclasses.replace(config, precision=precision)).apply)({"params": params}, x)
        np.testing.assert_array_equal(logits(format_arrays(config, precision)), expected)
    assert len(traced) == 1


def test_bit_operations_count_the_bits_of_each_weight_times_those_of_what_it_reads():
    params, x = parts()
    precision = choose_enet_precision(CONFIG, params, x, uniform_bits(CONFIG, 4, 6))
    costs = {cost.name: cost for cost in enet_costs(CONFIG, params, precision)}
    assert tuple(costs) == CONFIG.names
    # By hand for one layer: words of 4 bits, from their highest to their lowest set bit, times 6 bits of the sum.
    kernel = np.asarray(params["decoder_0_0"]["project"]["conv"]["kernel"], np.float64)
    format = precision.convolutions[CONFIG.names.index("decoder_0_0/project")].weight
    words = np.clip(np.floor(kernel / format.step + 0.5), -8, 7).astype(int).ravel()
    bits = sum(len(bin(abs(word)).removeprefix("0b").rstrip("0")) for word in words)
    assert costs["decoder_0_0/project"].bit_operations == 6 * bits
    assert costs["initial"].multiplications <= 27 * 4
    pixels = {layer.name: layer.positions * layer.fan_in * layer.features for layer in CONFIG.matrix_layers}
    assert pixels == enet_multiplications(CONFIG)
    assert pixels["encoder_0_0/convolve"] == 2 * 4 * 9 * 2 * 2


def test_a_network_trained_under_masks_is_the_smaller_one_trained_alone():
    params, x = parts()
    smaller, shorter = reduce_filters(CONFIG, {"params": params}, COUNTS)
    masks = filter_masks(CONFIG, {"params": params}, COUNTS)

    def trained(config, start, transforms):
        rule = optax.chain(optax.sgd(0.05), *transforms)

        @jax.jit
        def step(params, state):
            gradient = jax.grad(lambda p: jnp.mean(jnp.square(ENet(config).apply({"params": p}, x) - 1)))(params)
            updates, state = rule.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        params, state = start, rule.init(start)
        for _ in range(3):
            params, state = step(params, state)
        return params

    masked = trained(CONFIG, apply_masks(params, masks), [keep_masks(masks)])
    taken, found = reduce_filters(CONFIG, {"params": masked}, COUNTS)
    expected = trained(smaller, shorter["params"], [])
    assert taken == smaller
    # float32: sums with and without zeros, in another order.
    chex.assert_trees_all_close(found["params"], expected, rtol=1e-7, atol=2e-6)
    live = sum(int(np.sum(mask)) for mask in jax.tree.leaves(masks))
    assert live == sum(leaf.size for leaf in jax.tree.leaves(shorter))
