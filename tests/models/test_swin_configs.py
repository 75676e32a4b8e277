"""Configurations of the networks of window attention: values of a wrong kind, and what is taken as published only."""

import copy

import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.models.heal_swin import HealSwinConfig, plan_heal_swin
from jaxgeo.models.swin import SwinConfig
from jaxgeo.models.swin_unet import SwinUNetConfig

SIZES = {"num_classes": 3, "channels": 2, "embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2)}
SPHERE = HealSwinConfig(**SIZES, nside=8, window_size=4)
PICTURE = SwinConfig(**SIZES, size=(16, 32), window_size=(2, 4), shift_size=None)
PUBLISHED = {**SIZES, "nside": 8, "mode": "faithful", "position_bias": "none"}


def refuse(config, name, value, message):
    changed = copy.copy(config)
    object.__setattr__(changed, name, value)  # past this test run's checks of types, which users do not have
    with pytest.raises(ConfigError, match=message):
        changed.__post_init__()


@pytest.mark.parametrize("config", [SPHERE, PICTURE], ids=["sphere", "picture"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dropout_rate", "a", "dropout_rate must be a finite number, got 'a'"),
        ("attention_dropout_rate", None, "attention_dropout_rate must be a finite number, got None"),
        ("stochastic_depth_rate", np.nan, "stochastic_depth_rate must be a finite number, got nan"),
        ("qk_scale", "a", "qk_scale must be a finite number, got 'a'"),
        ("mlp_ratio", "4", "mlp_ratio must be a finite number, got '4'"),
        ("mlp_ratio", True, "mlp_ratio must be a finite number, got True"),
        ("depths", 4, "depths must be a tuple of whole numbers, got 4"),
        ("depths", [2, 2], r"depths must be a tuple of whole numbers, got \[2, 2\]"),
        ("num_heads", None, "num_heads must be a tuple of whole numbers, got None"),
    ],
)
def test_values_of_a_wrong_kind_are_one_error(config, name, value, message):
    refuse(config, name, value, message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base_pixels", None, "base_pixels must be a tuple, each a whole number from 0 to 11, got None"),
        ("base_pixels", [0, 1], r"base_pixels must be a tuple, each a whole number from 0 to 11, got \[0, 1\]"),
        ("base_pixels", (0, 1.0), r"base_pixels must be a tuple, each a whole number from 0 to 11, got \(0, 1.0\)"),
        ("context_dropout_rate", "a", "context_dropout_rate must be a finite number, got 'a'"),
        ("shift_size", 1.5, "shift_size must be a whole number, got 1.5"),
    ],
)
def test_values_of_a_wrong_kind_are_one_error_on_the_sphere(name, value, message):
    refuse(SPHERE, name, value, message)


def test_whole_numbers_are_numbers():
    for name in ("dropout_rate", "mlp_ratio", "qk_scale"):
        changed = copy.copy(SPHERE)
        object.__setattr__(changed, name, 0 if name == "dropout_rate" else 2)
        changed.__post_init__()
        assert getattr(changed, name) == (0 if name == "dropout_rate" else 2)  # neither refused nor turned into another


def test_what_the_two_networks_share_is_no_network():
    with pytest.raises(TypeError, match="abstract"):
        SwinUNetConfig()
    assert SwinUNetConfig.__abstractmethods__ == {"patch_pixels", "bias_rows", "layout"}


@pytest.mark.parametrize("kind", ["grid", "spiral", "nest_roll"])
def test_as_published_no_positive_shift_is_no_shift(kind):
    refuse(SPHERE, "shift_size", -1, "at least 0, got -1")
    plan = plan_heal_swin(HealSwinConfig(**PUBLISHED, window_size=4, shift=kind, shift_size=-1))
    assert all(stage.shifted is stage.straight for stage in plan.stages)


def test_as_published_a_roll_may_be_longer_than_a_window_and_a_window_no_square():
    plan = plan_heal_swin(HealSwinConfig(**PUBLISHED, window_size=8, shift="nest_roll", shift_size=11))
    for stage, tokens in zip(plan.stages, (128, 32), strict=True):
        np.testing.assert_array_equal(stage.shifted.into.indices, np.roll(np.arange(tokens), -11))
        np.testing.assert_array_equal(stage.shifted.labels, 2 * (np.arange(tokens) >= tokens - 11))
    with pytest.raises(ConfigError, match="NEST roll moves tokens by a part of the window of 4"):
        plan_heal_swin(HealSwinConfig(**SIZES, nside=8, window_size=4, shift="nest_roll", shift_size=11))
    for options in ({"mode": "correct"}, {"position_bias": "window"}, {"shift": "grid"}):
        with pytest.raises(ConfigError, match="window_size must be a power of four"):
            HealSwinConfig(**{**PUBLISHED, "shift": "nest_roll", **options}, window_size=8)
