"""Published names and layouts: there and back to the last bit, prefixes and buffers, one error for all mistakes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.models import swin_weights
from jaxgeo.models.heal_swin import HealSwinConfig
from jaxgeo.models.swin import SwinConfig, plan_swin
from jaxgeo.models.swin_buffers import published_buffers
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
    state, params = filled(config)
    return config, from_torch, to_torch, state, params


def filled(config):
    """(random arrays by published name, the parameters that they are of)."""
    leaves, structure = jax.tree.flatten(swin_weights.parameter_shapes(config))
    rng = np.random.default_rng(0)
    params = structure.unflatten([jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])
    return (swin_to_torch if isinstance(config, SwinConfig) else heal_swin_to_torch)(config, params), params


def weights_of(state):
    return {key: value for key, value in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}


def test_weights_go_there_and_back_to_the_last_bit(network):
    config, from_torch, to_torch, state, params = network
    back = from_torch(config, state)
    chex.assert_trees_all_equal(back, params)
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


def test_prefixes_and_losses_of_checkpoints_are_recognised_and_masks_need_not_be_there(network):
    config, from_torch, _, state, params = network
    stored = {f"model.{key}": value for key, value in state.items()} | {"loss.weight": np.ones(3)}
    chex.assert_trees_all_equal(from_torch(config, stored), params)
    chex.assert_trees_all_equal(from_torch(config, weights_of(state)), params)


def test_weights_go_to_other_faces_channels_and_classes_but_for_two_parts():
    published = dataclasses.replace(SPHERE, absolute_position=False)
    state, params = filled(published)
    theirs = dataclasses.replace(published, nside=16, base_pixels=tuple(range(12)))
    loaded = heal_swin_from_torch(theirs, weights_of(state))
    chex.assert_trees_all_equal(loaded, params)
    ours = swin_weights.parameter_shapes(dataclasses.replace(theirs, num_classes=6, channels=4))
    loaded["decoder"]["output"], loaded["encoder"]["patch_embed"]["proj"]["kernel"] = (
        ours["decoder"]["output"],
        ours["encoder"]["patch_embed"]["proj"]["kernel"],
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, ours)


def test_masks_and_index_tables_are_exported_for_the_blocks_that_have_them(network):
    config, _, _, state, _ = network
    decoder = "decoder." if config is SPHERE else ""
    size, windows = (4, 8) if config is SPHERE else (8, 3)
    assert {key for key in state if key.endswith("attn_mask")} == {"layers.1.blocks.1.attn_mask"}
    mask = state["layers.1.blocks.1.attn_mask"]
    assert (mask.shape, mask.dtype) == ((windows, size, size), np.float32)
    assert set(np.unique(mask)) == {0, -100}
    indices = {key: value for key, value in state.items() if key.endswith("relative_position_index")}
    blocks = ["layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1", f"{decoder}layers_up.1.blocks.0"]
    assert set(indices) == {f"{block}.attn.relative_position_index" for block in blocks}
    for value in indices.values():
        assert (value.shape, value.dtype) == ((size, size), np.int64)


def test_pictures_are_numbered_by_rows():
    """The published program's masks and index tables, from pictures cut into windows row by row."""
    config = dataclasses.replace(PICTURE, size=(48, 24), window_size=(3, 2), shift_size=(2, 1), depths=(2, 2))
    buffers = published_buffers(config, plan_swin(config))
    row, column = np.divmod(np.arange(6), 2)
    expected = (row[:, None] - row[None, :] + 2) * 3 + column[:, None] - column[None, :] + 1
    np.testing.assert_array_equal(buffers["layers.0.blocks.0.attn.relative_position_index"], expected)
    for name, (high, wide) in (("layers.0", (24, 12)), ("layers.1", (12, 6)), ("layers_up.1", (24, 12))):
        part = np.add.outer(3 * np.repeat([0, 1, 2], [high - 3, 1, 2]), np.repeat([0, 1, 2], [wide - 2, 1, 1]))
        cut = part.reshape(high // 3, 3, wide // 2, 2).swapaxes(1, 2).reshape(-1, 6)
        masks = np.where(cut[:, :, None] != cut[:, None, :], -100.0, 0.0)
        np.testing.assert_array_equal(buffers[f"{name}.blocks.1.attn_mask"], masks)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            {"window_size": 16},
            [
                "relative_position_index has shape (4, 4) and the configured windows need (16, 16)",
                "bias_table",
            ],
        ),
        ({"shift_size": 3}, ["layers.1.blocks.1.attn_mask is not that of the configured windows, shift and mode"]),
        (
            {"shift": "grid"},
            ["layers.1.blocks.1.attn_mask is not that of", "without masks and index tables the weights"],
        ),
        ({"shift_size": 0}, ["layers.1.blocks.1.attn_mask is not part of the network"]),
        (
            {"position_bias": "none"},
            ["position_index is not part", "bias_table is not part"],
        ),
        ({"num_classes": 4, "shift": "grid"}, ["attn_mask is not that of", "output.weight has shape"]),
    ],
)
def test_masks_of_other_windows_shifts_and_modes_are_part_of_the_one_error(options, parts):
    state = filled(SPHERE)[0]
    with pytest.raises(InputError) as caught:
        heal_swin_from_torch(dataclasses.replace(SPHERE, **options), state)
    for part in parts:
        assert part in str(caught.value)


def test_another_mode_is_told_by_its_masks():
    config = dataclasses.replace(SPHERE, base_pixels=tuple(range(12)))
    state = filled(config)[0]
    with pytest.raises(InputError, match="attn_mask is not that of the configured windows, shift and mode"):
        heal_swin_from_torch(dataclasses.replace(config, mode="faithful"), state)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("norm.bias", lambda array: array.astype(np.int64), "norm.bias is of int64 and needs floating-point numbers"),
        ("norm.bias", lambda array: array * np.nan, "norm.bias holds NaN or infinities"),
        ("norm.weight", lambda array: array.astype(ml_dtypes.bfloat16) * np.inf, "norm.weight holds NaN or infinities"),
        ("garbage.attn_mask", lambda _: np.ones(3), "garbage.attn_mask is not part of the network"),
        ("layers.0.blocks.0.attn_mask", lambda _: np.ones(3), "layers.0.blocks.0.attn_mask is not part of the network"),
    ],
)
def test_weights_that_are_none_are_refused(network, name, change, message):
    config, from_torch, _, state, _ = network
    with pytest.raises(InputError, match=message):
        from_torch(config, state | {name: change(state.get(name))})


def test_parameters_of_another_network_are_not_exported(network):
    config, _, to_torch, _, params = network
    with pytest.raises(InputError) as caught:
        to_torch(config, {"encoder": {}, "more": jnp.ones(2)})
    assert str(caught.value).count("is missing") == len(jax.tree.leaves(params))
    assert "more is not part of the network" in str(caught.value)
    wider = dataclasses.replace(config, embed_dim=8)
    with pytest.raises(InputError, match=r"encoder/norm/bias has shape \(8,\) and needs \(16,\)") as caught:
        to_torch(wider, params)
    assert str(caught.value).count("has shape") > 30


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
    assert str(caught.value).count("is missing") == len(weights_of(state))


def test_tables_that_a_flat_network_does_not_use_are_left_out():
    with_table = SwinConfig(**SMALL, size=(16, 24), window_size=(4, 2), shift_size=None)
    without = SwinConfig(**SMALL, size=(16, 24), window_size=(4, 2), shift_size=None, position_bias="none")
    leaves, structure = jax.tree.flatten(swin_weights.parameter_shapes(with_table))
    state = swin_to_torch(with_table, structure.unflatten([np.ones(leaf.shape) for leaf in leaves]))
    found = swin_from_torch(without, state)
    assert "relative_position_bias_table" not in found["encoder"]["layers_0"]["blocks_0"]["attn"]
    again = swin_to_torch(without, found)
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}
    tables = [key for key in again if key.endswith("relative_position_bias_table")]
    assert len(tables) == 4
    assert not any(again[key].any() for key in tables)


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
