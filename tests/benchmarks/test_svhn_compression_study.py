"""The compression study: settings, resuming, and the tables that it writes, on a few small random images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import svhn_compression as study
from benchmarks.papers import svhn_hardware, svhn_training
from benchmarks.papers.svhn_compression import QUICK
from benchmarks.papers.svhn_training import CompressionConfig, Problem
from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnPrecision

RNG = np.random.default_rng(0)
CELLS = {"lut": 12_345, "ff": 2345, "bram_tiles": 1.5, "latency_cycles": 1046, "interval_cycles": 1028}
SIX = {"family": "trained pruned", "bits": "6", "accuracy": 0.875, "zeros": 0.5, "bit_operations": 10,
       "wide_multiplications": 0, "dsp": 4.0, **CELLS}  # fmt: skip
BASE = {"family": "rounded", "bits": "14", "accuracy": 0.88, "zeros": 0.0, "bit_operations": 100,
        "wide_multiplications": 40, "dsp": 50.0, **CELLS}  # fmt: skip


def test_the_claim_is_what_the_rows_say_and_the_table_names_the_images():
    report = study.summary(QUICK, {"float": 0.88}, [BASE, SIX], None)
    assert report["claim"] == pytest.approx({"accuracy_lost": 0.005, "dsp_saved": 0.92, "bit_operations_saved": 0.9})
    page = study.markdown(QUICK, report)
    assert "on FashionMNIST (30 x 30), not SVHN" in page
    assert "| DSP | LUT | FF | BRAM | latency | II |" in page
    assert "| 4 | 12,345 | 2,345 | 1.5 | 1,046 | 1,028 |" in page
    columns = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert columns == {13}  # names, rule and rows alike
    assert "is confirmed here, by the model: 0.50 points lost, 92.0%" in page
    worse = study.summary(QUICK, {"float": 0.89}, [BASE, SIX], None)
    assert "is refuted here" in study.markdown(QUICK, worse)


def test_a_picture_is_drawn_of_all_rows(tmp_path):
    rows = [BASE, SIX, {**SIX, "family": "greedy pruned", "bits": "2/4"}, {**BASE, "family": "trained"}]
    study.draw(tmp_path, study.summary(QUICK, {"float": 0.88}, rows, None))
    assert (tmp_path / "compression.png").read_bytes().startswith(b"\x89PNG")


def test_batches_of_an_epoch_are_disjoint_and_each_epoch_has_an_order_of_its_own():
    key = study.jax.random.key(0)
    config = dataclasses.replace(QUICK, images=201, batch_size=64)
    rows = list(svhn_training.batches(key, config, 2))
    assert len(rows) == 6
    assert len(set(np.concatenate(rows[:3]))) == 192
    assert not np.array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(rows, list(svhn_training.batches(key, config, 2)))


def test_what_is_kept_is_not_made_again_and_another_setting_is_refused(tmp_path):
    images = RNG.uniform(size=(4, 30, 30, 1)).astype(np.float32)
    problem = Problem(images, np.zeros(4, int), images, np.zeros(4, int))
    one = study.Study(tmp_path, QUICK, problem)
    first = one.kept("tree", lambda key: {"draw": study.jax.random.normal(key, (3,))})
    again = study.Study(tmp_path, dataclasses.replace(QUICK, widths=(6,)), problem).kept("tree", None)
    np.testing.assert_array_equal(first["draw"], again["draw"])
    with pytest.raises(ConfigError, match="was begun with seed = 0, not 1"):
        study.Study(tmp_path, dataclasses.replace(QUICK, seed=1), problem)


def test_cells_and_cycles_are_those_of_the_streaming_design(monkeypatch):
    config = dataclasses.replace(QUICK, data="cifar10", size=32)
    network = dataclasses.replace(config.network, norm="folded")
    shapes = jax.eval_shape(SvhnCnn(network).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    params = jax.tree.map(lambda leaf: RNG.choice([-0.5, 0.5], leaf.shape).astype(np.float32), shapes)
    # One bit gets formats with more integer bits than bits, which generated hardware has not; they are counted wider.
    weight, result = FixedPoint(2, 1, True, "RND", "SAT"), FixedPoint(1, 2, False, "RND", "SAT")
    precision = SvhnPrecision(FixedPoint(8, 0, False, "RND", "SAT"), (LinearPrecision(weight, weight, result),) * 6)
    monkeypatch.setattr(svhn_hardware, "to_formats", lambda *_: (precision, params))
    found = svhn_hardware.hardware_costs(config, params, None)
    assert list(found) == list(svhn_hardware.COLUMNS)
    # Each weight is added by itself, so there is a LUT for each at the least, and a flip-flop for each result.
    assert found["lut"] > sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["ff"] > sum(layer.features for layer in config.network.matrix_layers)
    # All 32 x 32 pixels pass one by one; the report of the published network, of other weights, has 1028 and 1044.
    assert found["interval_cycles"] == 32 * 32 + 4
    assert found["latency_cycles"] == pytest.approx(1044, rel=0.01)


def test_cifar_images_are_scaled_chosen_and_padded(tmp_path):
    pixels = RNG.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    labels = (np.arange(400) % 10).astype(np.int32)
    np.savez(
        tmp_path / "cifar10_mini.npz", x_train=pixels[:300], y_train=labels[:300], x_test=pixels[300:],
        y_test=labels[300:], i_test=np.arange(100, dtype=np.int32),
    )  # fmt: skip
    config = dataclasses.replace(QUICK, data="cifar10", size=35, test_images=100)
    assert config.network.channels == 3
    problem = svhn_training.make_problem(config, tmp_path)
    assert problem.images.shape == (QUICK.images, 35, 35, 3)
    assert problem.images.dtype == np.float32
    # One row of zeros before, two behind; in between all test images, in another order, each with its label.
    inner = problem.test_images[:, 1:33, 1:33]
    assert np.count_nonzero(problem.test_images) == np.count_nonzero(inner)
    np.testing.assert_array_equal(np.sort(inner.reshape(100, -1), axis=0),
                                  np.sort(pixels[300:].reshape(100, -1), axis=0) / np.float32(255))  # fmt: skip
    place = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for image, label in zip(inner, problem.test_labels, strict=True):
        assert place[np.rint(image * 255).astype(np.uint8).tobytes()] == label
    with pytest.raises(ConfigError, match="101 images were asked for, and the file has 100"):
        svhn_training.make_problem(dataclasses.replace(config, test_images=101), tmp_path)
    page = study.markdown(config, study.summary(config, {"float": 0.88}, [BASE, SIX], None))
    assert "on CIFAR-10 (35 x 35), not SVHN" in page


def test_settings_are_json_and_impossible_ones_are_refused():
    assert json.loads(json.dumps(study.to_dict(CompressionConfig())))["size"] == 30
    with pytest.raises(ConfigError, match="images of svhn are not cut, so size 30 is too small; take 32"):
        CompressionConfig(data="svhn")
    with pytest.raises(ConfigError, match=r"widths lie in 1 \.\.\. 14, got \(16,\)"):
        CompressionConfig(widths=(16,))
