"""Published names and layouts: there and back to the last bit, prefixes and buffers, one error for all mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.models import swin_weights
from jaxgeo.models.heal_swin import HealSwinConfig
from jaxgeo.models.swin import SwinConfig
from jaxgeo.models.swin_weights import heal_swin_from_torch, heal_swin_to_torch, swin_from_torch, swin_to_torch

SMALL = {"num_classes": 3, "channels": 2, "embed_dim": 4, "depths": (1, 2), "num_heads": (1, 2)}
SPHERE = HealSwinConfig(**SMALL, nside=8, window_size=4, absolute_position=True, patch_norm=True)
PICTURE = SwinConfig(**SMALL, size=(16, 24), window_size=(4, 2), shift_size=None, absolute_position=True)
NETWORKS = {
    "sphere": (SPHERE, heal_swin_from_torch, heal_swin_to_torch),
    "picture": (PICTURE, swin_from_torch, swin_to_torch),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """(config, import, export, random arrays by published name)."""
    config, from_torch, to_torch = NETWORKS[request.param]
    leaves, structure = jax.tree.flatten(swin_weights.parameter_shapes(config))
    rng = np.random.default_rng(0)
    params = structure.unflatten([jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])
    return config, from_torch, to_torch, to_torch(config, params), params


def test_weights_go_there_and_back_to_the_last_bit(network):
    config, from_torch, to_torch, state, params = network
    back = from_torch(config, state)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    again = to_torch(config, back)
    assert list(again) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value)


def test_names_and_layouts_are_the_published_ones(network):
    config, _, _, state, params = network
    decoder = "decoder." if config is SPHERE else ""
    expected = {
        "patch_embed.proj.weight": (4, 2, 4) if config is SPHERE else (4, 2, 2, 2),
        "absolute_pos_embed": (1, 128, 4) if config is SPHERE else (1, 96, 4),
        "layers.0.blocks.0.attn.qkv.weight": (12, 4),
        "layers.0.blocks.0.attn.logit_scale": (1, 1, 1),
        "layers.0.blocks.0.attn.relative_position_bias_table": (9 if config is SPHERE else 21, 1),
        "layers.0.downsample.reduction.weight": (8, 16),
        "layers.0.downsample.norm.weight": (16,),
        "layers.1.blocks.1.mlp.fc1.weight": (32, 8),
        "norm.weight": (8,),
        f"{decoder}layers_up.0.expand.weight": (16, 8),
        f"{decoder}layers_up.1.blocks.0.norm2.bias": (4,),
        f"{decoder}concat_back_dim.1.weight": (4, 8),
        f"{decoder}norm_up.bias": (4,),
        f"{decoder}up.expand.weight": (16, 4),
        f"{decoder}output.weight": (3, 4, 1) if config is SPHERE else (3, 4, 1, 1),
    }
    assert {key: state[key].shape for key in expected} == expected
    kernel = params["encoder"]["patch_embed"]["proj"]["kernel"]  # ((offset, channel), out)
    np.testing.assert_array_equal(state["patch_embed.proj.weight"].reshape(4, 2, 4)[3, 1], kernel[1::2, 3])


def test_prefixes_buffers_and_losses_of_checkpoints_are_recognised(network):
    config, from_torch, _, state, params = network
    stored = {f"model.{key}": value for key, value in state.items()}
    stored |= {
        "model.layers.1.blocks.1.attn_mask": np.zeros((2, 4, 4)),
        "model.layers.0.blocks.0.attn.relative_position_index": np.zeros((4, 4), int),
        "loss.weight": np.ones(3),
    }
    jax.tree.map(np.testing.assert_array_equal, from_torch(config, stored), params)


def test_one_error_names_all_that_is_wrong(network):
    config, from_torch, _, state, _ = network
    wrong = {f"net.model.{key}": value for key, value in state.items()}
    del wrong["net.model.norm.bias"]
    wrong["net.model.norm.weight"] = np.zeros(9)
    wrong["net.model.norm.extra"] = np.zeros(9)
    wrong["other.weight"] = np.zeros(9)
    with pytest.raises(InputError) as caught:
        from_torch(config, wrong)
    for part in (
        "norm.bias is missing",
        r"norm.weight has shape (9,) and needs (8,)",
        "norm.extra is not part of the network",
        "other.weight is not part of the network, whose names begin with net.model.",
    ):
        assert part in str(caught.value)


def test_an_empty_state_lacks_everything(network):
    config, from_torch, _, state, _ = network
    with pytest.raises(InputError) as caught:
        from_torch(config, {})
    assert str(caught.value).count("is missing") == len(state)


def test_tables_that_a_flat_network_does_not_use_are_left_out():
    with_table = SwinConfig(**SMALL, size=(16, 24), window_size=(4, 2), shift_size=None)
    without = SwinConfig(**SMALL, size=(16, 24), window_size=(4, 2), shift_size=None, position_bias="none")
    leaves, structure = jax.tree.flatten(swin_weights.parameter_shapes(with_table))
    state = swin_to_torch(with_table, structure.unflatten([np.ones(leaf.shape) for leaf in leaves]))
    found = swin_from_torch(without, state)
    assert "relative_position_bias_table" not in found["encoder"]["layers_0"]["blocks_0"]["attn"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"position_bias": "face"}, "no position biases by face"),
        ({"latitude": True}, "knows no latitudes"),
        ({"pixel_width": 4}, "no perceptron"),
    ],
)
def test_options_of_ours_have_no_published_form(option, message):
    config = HealSwinConfig(**SMALL, nside=8, window_size=4, **option)
    with pytest.raises(InputError, match=message):
        heal_swin_from_torch(config, {})
