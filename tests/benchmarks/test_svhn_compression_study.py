"""The compression study: settings, resuming, and the tables that it writes, on a few small random images."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.papers import svhn_compression as study
from benchmarks.papers import svhn_training
from benchmarks.papers.svhn_compression import QUICK
from benchmarks.papers.svhn_training import CompressionConfig, Problem
from jaxgeo.errors import ConfigError

RNG = np.random.default_rng(0)
SIX = {"family": "trained pruned", "bits": "6", "accuracy": 0.875, "zeros": 0.5, "bit_operations": 10,
       "wide_multiplications": 0, "dsp": 4.0}  # fmt: skip
BASE = {"family": "rounded", "bits": "14", "accuracy": 0.88, "zeros": 0.0, "bit_operations": 100,
        "wide_multiplications": 40, "dsp": 50.0}  # fmt: skip


def test_the_claim_is_what_the_rows_say_and_the_table_names_the_images():
    report = study.summary(QUICK, {"float": 0.88}, [BASE, SIX], None)
    assert report["claim"] == pytest.approx({"accuracy_lost": 0.005, "dsp_saved": 0.92, "bit_operations_saved": 0.9})
    page = study.markdown(QUICK, report)
    assert "on FashionMNIST (30 x 30), not SVHN" in page
    assert "is confirmed here, by the model: 0.50 points lost, 92.0%" in page
    worse = study.summary(QUICK, {"float": 0.89}, [BASE, SIX], None)
    assert "is refuted here" in study.markdown(QUICK, worse)


def test_a_picture_is_drawn_of_all_rows(tmp_path):
    rows = [BASE, SIX, {**SIX, "family": "greedy pruned", "bits": "2/4"}, {**BASE, "family": "trained"}]
    study.draw(tmp_path, study.summary(QUICK, {"float": 0.88}, rows, None))
    assert (tmp_path / "compression.png").read_bytes().startswith(b"\x89PNG")


def test_batches_of_an_epoch_are_disjoint_and_each_epoch_has_an_order_of_its_own():
    key = study.jax.random.key(0)
    config = dataclasses.replace(QUICK, images=200, batch_size=64)
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


def test_settings_are_json_and_impossible_ones_are_refused():
    assert json.loads(json.dumps(study.to_dict(CompressionConfig())))["size"] == 30
    with pytest.raises(ConfigError, match="images of svhn are not cut, so size 30 is too small"):
        CompressionConfig(data="svhn")
    with pytest.raises(ConfigError, match=r"widths lie in 1 \.\.\. 14, got \(16,\)"):
        CompressionConfig(widths=(16,))
