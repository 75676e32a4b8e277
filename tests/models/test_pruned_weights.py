"""What is pruned of each network: all weights of sums, whatever their names, and nothing that is added or scales."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_no_images import FLAT, NETWORKS

from jaxgeo.layers.dropout import STAYING_WORDS
from jaxgeo.models.swin import Swin, plan_swin
from jaxgeo.training.pruning import apply_masks, is_pruned, magnitude_masks, zero_share

TABLES = dataclasses.replace(FLAT, absolute_position=True)
EVERY = {**NETWORKS, "swin with a table of places": (Swin(TABLES), (plan_swin(TABLES),), (16, 32, 2), (16, 32, 3))}
# Every name of weights in a network of ours. A new name belongs here, or has one of the words of `STAYING_WORDS`.
WEIGHTS = ("kernel", "spectrum", "degree_")


def leaves_of(name):
    module, plans, image, _ = EVERY[name]
    dtype = jnp.complex64 if name == "clebsch-gordan" else jnp.float32
    x = jax.ShapeDtypeStruct((1, *image), dtype)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *plans, x)["params"]
    return jax.tree_util.tree_leaves_with_path(shapes)


@pytest.mark.parametrize("name", EVERY)
def test_every_array_of_a_network_is_either_weights_or_known_not_to_be(name):
    pruned = 0
    for path, leaf in leaves_of(name):
        own = path[-1].key
        if is_pruned(path, leaf):
            assert own.startswith(WEIGHTS)
            pruned += 1
        else:
            assert leaf.ndim < 2 or set(own.split("_")) & set(STAYING_WORDS)
            assert not own.startswith(WEIGHTS)
    assert pruned


def test_an_array_by_another_name_than_kernel_is_pruned_too():
    rng = np.random.default_rng(0)
    shapes = {
        "zonal": {"spectrum": (4, 2, 3), "bias": (3,)},
        "norm": {"scale": (2, 3)},
        "product": {"path_0": (2, 2, 4)},
    }
    params = {
        layer: {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }
    found = apply_masks(params, magnitude_masks(params, 0.5))
    assert zero_share(found) == 0.5
    assert (np.asarray(found["zonal"]["spectrum"]) == 0).sum() == 12
    assert (np.asarray(found["product"]["path_0"]) == 0).sum() == 8
    np.testing.assert_array_equal(found["norm"]["scale"], params["norm"]["scale"])
