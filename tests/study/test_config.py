"""What a study can be told, and each way to tell it wrong: one sentence with the key, what came and what is needed."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.config_files import first_difference, from_dict, load_config, to_dict
from jaxgeo.errors import ConfigError
from jaxgeo.study.config import StudyConfig, quick_study

KEYS = [(part, key) for part, values in to_dict(StudyConfig()).items() for key in values]


@pytest.mark.parametrize("config", [StudyConfig(), quick_study()])
def test_a_configuration_survives_json(config):
    assert from_dict(StudyConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_missing_keys_take_the_defaults():
    config = from_dict(StudyConfig, {"hmc": {"num_chains": 3}})
    assert config.hmc.num_chains == 3
    assert first_difference(StudyConfig(), config) == ("hmc.num_chains", StudyConfig().hmc.num_chains, 3)
    assert first_difference(config, config) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hmc": {"chians": 3}}, r"unknown key hmc\.chians \(value 3\).*nearest key is hmc\.num_chains"),
        ({"ensmble": {}}, r"unknown key ensmble .*nearest key is ensemble"),
        ({"nside": 4}, r"unknown key nside .*nearest key is data\.nside"),
        ({"data": {"zzz": 1}}, r"unknown key data\.zzz .*keys here are source, nside"),
        ({"hmc": {"num_chains": "4"}}, r"hmc\.num_chains must be a whole number, got '4' of type str"),
        ({"hmc": {"num_chains": 4.0}}, r"hmc\.num_chains must be a whole number, got 4\.0 of type float"),
        ({"hmc": {"num_chains": True}}, r"hmc\.num_chains must be a whole number, got True of type bool"),
        ({"hmc": {"num_chains": None}}, r"hmc\.num_chains must be a whole number, got None"),
        ({"hmc": 3}, r"hmc must be a table of keys, got 3 of type int"),
        ({"export": {"run": 1}}, r"export\.run must be true or false, got 1"),
        ({"report": {"title": 1}}, r"report\.title must be a text, got 1"),
        ({"model": {"widths": [8]}}, r"unknown key model\.widths \(value \[8\]\).*it is called model\.features now"),
        ({"model": {"features": 8}}, r"model\.features must be a list, each a whole number, got 8"),
        ({"model": {"features": ["a", 2]}}, r"model\.features must be a list, each a whole number"),
        ({"data": {"source": "letters"}}, r"data\.source must be one of 'sklearn', 'mnist', 'fashion_mnist'"),
        ({"hmc": {"num_chains": 0}}, r"hmc\.num_chains must be a number of at least 1, got 0: the reference needs"),
        ({"ensemble": {"members": 0}}, r"ensemble\.members must be .* at least 1, got 0: an ensemble of no members"),
        ({"data": {"test_images": 9}}, r"data\.test_images must be .* at least 10, got 9: each of the 10 classes"),
        ({"data": {"nside": 12}}, r"data\.nside must be a power of two for NESTED order, got 12; .* 8 and 16"),
        ({"data": {"nside": 0}}, r"data\.nside must be a power of two"),
        ({"data": {"tilt_degrees": 200}}, r"data\.tilt_degrees must lie between 0 and 180"),
        ({"data": {"radius_degrees": float("nan")}}, r"data\.radius_degrees must be a finite number, got nan"),
        ({"model": {"features": [], "patches": []}}, r"model\.features and model\.patches describe the same layers"),
        ({"model": {"features": [8], "patches": [16, 4]}}, r"model\.features and model\.patches describe the same"),
        ({"model": {"features": [8, 0]}}, r"model\.features must be at least 1 each"),
        ({"model": {"patches": [8, 4]}}, r"model\.patches must be powers of four"),
        ({"model": {"prior_scale": 0}}, r"model\.prior_scale must be a finite number above 0"),
        ({"data": {"nside": 4}}, r"model\.patches \[16, 4\] merge 64 pixels, more than the 16"),
        ({"ensemble": {"batch_size": 5000}}, r"ensemble\.batch_size must not exceed data\.train_images, got 5000"),
        ({"dropout": {"rate": 1.0}}, r"dropout\.rate must lie between 0 and 1"),
        ({"hmc": {"target_acceptance": 1}}, r"hmc\.target_acceptance must lie between 0 and 1"),
        ({"export": {"member": 99}}, r"export\.member must be one of the \d+ members, counted from 0, got 99"),
        ({"export": {"weight_bits": 1}}, r"export\.weight_bits must be a number of at least 2, got 1"),
        ({"score": {"rotation_images": 9999}}, r"score\.rotation_images must not exceed data\.test_images"),
        ({"score": {"angles": [0, 200]}}, r"score\.angles must be degrees between 0 and 180"),
        ({"score": {"angles": []}}, r"score\.angles must be degrees"),
        ({"hmc": {"seed": -1}}, r"hmc\.seed must be a whole number from 0 to 4294967295, got -1"),
        ({"hmc": {"num_chains": 1, "num_draws": 5}}, r"hmc\.num_draws must be even for a single chain, .* got 5"),
        ({"export": {"weight_bits": 17}}, r"export\.weight_bits must be at most 16, got 17"),
        ({"export": {"weight_bits": 12}}, r"weight_bits 12 and export\.activation_bits 8 may need sums of 28 bits"),
    ],
)
def test_a_mistake_is_named_with_its_key(values, message):
    with pytest.raises(ConfigError, match=message) as raised:
        from_dict(StudyConfig, values)
    assert "\n" not in str(raised.value)


@given(key=st.sampled_from(KEYS), value=st.sampled_from([None, {}, [[]], {"a": 1}, [None]]))
def test_no_wrong_type_gets_through(key, value):
    part, name = key
    with pytest.raises(ConfigError, match=rf"{part}\.{name}"):
        from_dict(StudyConfig, {part: {name: value}})


@given(key=st.sampled_from(KEYS), position=st.integers(0, 30), letter=st.sampled_from("xyz"))
def test_a_misspelt_key_is_traced_to_the_right_one(key, position, letter):
    part, name = key
    wrong = name[:position] + letter + name[position:]
    with pytest.raises(ConfigError, match=rf"unknown key {part}\.{wrong} "):
        from_dict(StudyConfig, {part: {wrong: 1}})


def test_json_and_toml_files_mean_the_same(tmp_path):
    (tmp_path / "a.json").write_text('{"model": {"features": [4, 4]}, "data": {"radius_degrees": 60}}')
    (tmp_path / "a.toml").write_text("[model]\nfeatures = [4, 4]\n[data]\nradius_degrees = 60\n")
    config = load_config(StudyConfig, tmp_path / "a.json")
    assert config == load_config(StudyConfig, tmp_path / "a.toml")
    assert config.model.features == (4, 4)
    assert isinstance(config.data.radius_degrees, float)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not valid JSON"),
        ("a.toml", "a =", "is not valid TOML"),
        ("a.json", "[1]", "must be a table of keys, got list"),
        ("a.json", None, "cannot be read"),
    ],
)
def test_a_bad_file_is_said_so(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(StudyConfig, tmp_path / name)


def test_settings_cannot_be_changed_after_they_were_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudyConfig().hmc.num_chains = 0  # pyright: ignore[reportAttributeAccessIssue]
