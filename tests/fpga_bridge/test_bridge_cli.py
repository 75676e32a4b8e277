"""What a user gets wrong at the command line: status 1 and one sentence that says what would work."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from graph_tools import CONFIG, classifier_params

from fpga_bridge import cli, study
from fpga_bridge.networks import NETWORKS, load_config
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.files import save_arrays, save_tree
from jaxgeo.models.batch_norm_resnet import BatchNormResNetConfig
from jaxgeo.models.enet import ENetConfig, init_enet

IMAGES = np.random.default_rng(0).normal(size=(6, 48, 1)).astype(np.float32)
LABELS = np.arange(6) % 4


@pytest.fixture(scope="module")
def params():
    return classifier_params()


class Files:
    """The three files of a command, to be spoilt one by one."""

    def __init__(self, folder, params):
        self.folder, self.params = folder, params
        self.tree = dataclasses.asdict(CONFIG)
        self.config, self.weights, self.inputs = (
            folder / name for name in ("config.json", "params.safetensors", "inputs.safetensors")
        )
        self.write_config()
        save_tree(self.weights, params)
        self.write_inputs()

    def write_config(self, **changes):
        self.config.write_text(json.dumps({**self.tree, **changes}))

    def write_inputs(self, images=IMAGES, labels=LABELS):
        save_arrays(self.inputs, {"inputs": images, "labels": labels})

    def format(self, text):
        self.tree["precision"]["layers"][0]["weight"] = text
        self.write_config()


@pytest.fixture
def files(tmp_path, params):
    return Files(tmp_path, params)


def refused(capsys, message, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fpga-bridge: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err


CONFIGS = {
    "not an object": (lambda files: files.config.write_text("[]"), r"one JSON object .*, got list"),
    "an unknown key": (lambda files: files.write_config(depth=3), "does not describe .*depth"),
    "a former key": (lambda files: files.write_config(widths=[3]), "unknown key widths .* is called features now"),
    "a near key": (lambda files: files.write_config(nsde=2), "unknown key nsde .*; the nearest key is nside"),
    "no key model": (
        lambda files: files.write_config(modle="mlp"),
        "a HealpixClassifier, for which it is taken without the key model: unknown key modle .* keys here are",
    ),
    "a wrong type": (lambda files: files.write_config(nside="two"), "does not describe .*nside"),
    "an impossible value": (lambda files: files.write_config(nside=3), "nside must be a power of two.*got 3"),
    "too many integer bits": (
        lambda files: files.format("ap_fixed<8,12>"),
        r"kernel of layer conv_0_dense \(.*ap_fixed<8,12.*at most as many integer bits as bits; ap_fixed<12,12> has",
    ),
    "no format": (lambda files: files.format("fixed"), "cannot read 'fixed' as a fixed-point format; write ap_fixed"),
    "parameters of another network": (
        lambda files: files.write_config(features=[5]),
        r"conv_0/dense/bias has shape \(3,\), not \(5,\).*give the config with which they were trained",
    ),
    "parameters that lack an array": (
        lambda files: save_tree(files.weights, {"head": files.params["head"], "tail": {"w": np.zeros(2)}}),
        "conv_0/dense/bias is missing.*tail/w is unknown",
    ),
    "no file": (lambda files: files.weights.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("command", ["layers", "export"])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_wrong_description_is_one_sentence(case, command, files, capsys):
    spoil, message = CONFIGS[case]
    spoil(files)
    folder = ("--out", files.folder / "project") if command == "export" else ()
    refused(capsys, message, command, files.config, files.weights, *folder)
    assert not (files.folder / "project").exists()


NAN = np.where(np.arange(IMAGES.size).reshape(IMAGES.shape) == 50, np.nan, IMAGES)
INPUTS = {
    "NaN pixels": ({"images": NAN}, (), r"must be finite, got 1 NaN .* at index \(1, 2, 0\)"),
    "maps of a wrong length": ({"images": IMAGES[:, :47]}, (), r"needs maps of shape \(image, 48, 1\).*\(6, 47, 1\)"),
    "no maps": ({"images": IMAGES[:0], "labels": LABELS[:0]}, (), "at least one"),
    "ring order": ({}, ("--order", "ring"), r"NESTED order are needed, .*RING.*healpix\.reorder\(map, "),
    "labels out of range": (
        {"labels": LABELS + 1},
        (),
        r"between 0 and 3 for 4 classes, got 1 others, the first \(4\)",
    ),
    "labels below zero": ({"labels": LABELS - 1}, (), r"the first \(-1\) at index 0; count classes from 0"),
    "too few labels": ({"labels": LABELS[:5]}, (), r"6 images need 6 integer labels .*\(5,\)"),
    "labels that are no integers": ({"labels": LABELS * 1.0}, (), "integer labels from 0 to 3, got float64"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs_of_the_ladder_are_one_sentence(case, files, capsys):
    arrays, options, message = INPUTS[case]
    files.write_inputs(**arrays)
    refused(capsys, message, "ladder", files.config, files.weights, files.inputs, "--out", files.folder, *options)


def test_without_a_compiler_the_ladder_says_what_to_install(files, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    refused(
        capsys, r"g\+\+, which is not on the PATH; install it",
        "ladder", files.config, files.weights, files.inputs, "--out", files.folder,
    )  # fmt: skip


def test_a_folder_that_cannot_be_made_is_one_sentence(files, capsys):
    (files.folder / "file").touch()
    refused(
        capsys,
        "file/project cannot be",
        "export",
        files.config,
        files.weights,
        "--out",
        files.folder / "file/project",
    )


def test_the_export_stage_checks_labels_and_maps(params, tmp_path):
    def stage(inputs, labels):
        study.export_stage(
            config=CONFIG, params=params, quantised_params=params, inputs=inputs, labels=labels, workdir=tmp_path
        )

    with pytest.raises(InputError, match="between 0 and 3"):
        stage(IMAGES, LABELS + 1)
    with pytest.raises(InputError, match="must be finite"):
        stage(NAN.astype(np.float32), LABELS)


def pixel_network(folder, labels):
    """Files of an ENet without formats whose transposed convolutions double the picture, and of 12 pictures."""
    config = ENetConfig(
        rows=4, columns=8, filters=2, encoder=(1,), decoder=(1,), upsampling="transposed", norm="folded"
    )
    files = [folder / name for name in ("enet.json", "enet.safetensors", "pictures.safetensors")]
    files[0].write_text(json.dumps({**dataclasses.asdict(config), "model": "enet"}))
    save_tree(files[1], jax.tree.map(np.asarray, init_enet(jax.random.key(1), config)["params"]))
    pictures = np.random.default_rng(2).uniform(size=(12, 4, 8, 3)).astype(np.float32)
    save_arrays(files[2], {"inputs": pictures, "labels": labels})
    return files


def test_the_ladder_of_transposed_convolutions_is_equal_word_by_word_in_streamed_cpp(tmp_path, capsys):
    files = pixel_network(tmp_path, np.random.default_rng(3).integers(0, 4, (12, 4, 8)))
    options = ("--formats", "ap_fixed<7,3,AP_RND,AP_SAT>", "--io-type", "io_stream", "--out", tmp_path)
    assert cli.main([str(argument) for argument in ("ladder", *files, *options)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rungs = {rung["name"]: rung for rung in result["ladder"]}
    assert (result["model"], result["bit_for_bit"]) == ("enet", 1.0)
    assert rungs["hls4ml C++"]["num_equal"] == rungs["hls4ml C++"]["num_values"] == 12 * 4 * 8 * 4
    assert 0 < rungs["fixed point in JAX"]["max_abs_error"] < 1.0  # the formats do round, by steps of 1/16
    assert "nnet_zero_insertion.h" in (tmp_path / "hls/firmware/parameters.h").read_text()
    assert "hls::stream" in (tmp_path / "hls/firmware/network.cpp").read_text()


def test_labels_of_pixels_and_a_simulated_head_are_checked_before_any_cpp(tmp_path, files, capsys):
    folder = ("--formats", "ap_fixed<7,3>", "--out", tmp_path / "project")
    refused(
        capsys, r"12 images need 384 integer labels from 0 to 3, one for each of 4 x 8 pixels, got int64 .*\(12,\)",
        "ladder", *pixel_network(tmp_path, np.zeros(12, np.int64)), *folder,
    )  # fmt: skip
    message = "--rtl simulates the head of a HEALPix classifier .* io_stream; leave out --rtl"
    refused(
        capsys, message, "ladder", files.config, files.weights, files.inputs, "--io-type", "io_stream", "--rtl", *folder
    )
    assert not (tmp_path / "project").exists()


def test_networks_are_called_by_their_modules_and_an_older_name_is_read(tmp_path):
    assert all(name == kind.module for name, kind in NETWORKS.items())
    path = tmp_path / "net.json"
    for name in ("resnet", "batch_norm_resnet"):
        path.write_text(json.dumps({**dataclasses.asdict(BatchNormResNetConfig()), "model": name}))
        assert load_config(path) == ("batch_norm_resnet", BatchNormResNetConfig())
    path.write_text('{"model": ["mlp"]}')
    with pytest.raises(ConfigError, match=r"no network is called \"\['mlp'\]\"; the key model may be"):
        load_config(path)
