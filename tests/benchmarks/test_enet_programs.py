"""The ENet programs: batches that repeat, settings that are refused, and state that goes on where it ended."""

import argparse
import io
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import enet_frame
from benchmarks.papers import enet
from benchmarks.papers import enet_training as training
from fpga_bridge.tracing.trace import trace
from jaxgeo.data.driving import SegmentationSet
from jaxgeo.errors import ConfigError, CorruptFileError, InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.models.enet import ENetConfig
from jaxgeo.progress import progress_for
from jaxgeo.training.filter_reduction import reduce_filters


def frames(count=6, rows=24, columns=32, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, rows, columns, 3)).astype(np.uint8)
    labels = generator.integers(0, 5, (count, rows, columns)).astype(np.uint8)
    return SegmentationSet(tuple(map(str, range(count))), images, np.where(labels == 4, 255, labels).astype(np.uint8))


def test_weights_of_classes_are_those_of_enet():
    labels = np.array([0, 0, 0, 1, 2, 2, 255], np.uint8)
    expected = 1 / np.log(1.02 + np.array([3, 1, 2, 0]) / 6)
    np.testing.assert_allclose(training.class_weights(labels), expected, rtol=1e-6)  # float32


def test_batches_are_mirrored_crops_of_frames_and_repeat():
    data, settings = frames(), training.Settings(batch=2, crop=(16, 24))
    first = list(training.batches(data, settings, 3, 3))
    again = list(training.batches(data, settings, 3, 3))
    other = list(training.batches(data, settings, 4, 3))
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(data.labels, (16, 24), axis=(1, 2)).reshape(-1, 16, 24)
    for x, y in first:
        assert x.shape == (2, 16, 24, 3)
        for one in y:
            assert (windows == one).all((1, 2)).any() or (windows == one[:, ::-1]).all((1, 2)).any()


def linear_loss(params, stats, x, y):
    hit = (y == 1).astype(jnp.float32)
    return jnp.mean(jnp.square(jnp.sum(x * params["w"][None, None, None], -1) - hit)), {"seen": stats["seen"] + 1}


def test_a_fit_that_broke_off_ends_as_one_that_did_not(tmp_path):
    data, settings = frames(), training.Settings(batch=2, crop=(16, 24), epochs=2)
    start = training.Fitted({"w": jnp.zeros(3)}, {"seen": jnp.zeros(())}, [])
    said = []

    def fit(name, report=None):
        return training.fit(tmp_path / name, linear_loss, start, data, settings, passes=2.0, rate=0.1, report=report)

    whole = fit("whole", lambda done, total, values: said.append((done, total)))
    assert said == [(k, 6) for k in range(1, 7)]
    assert whole.stats["seen"] == 6
    assert whole.losses[1] < whole.losses[0]

    def stop(done, total, values):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("part", stop)
    resumed = fit("part")
    np.testing.assert_array_equal(resumed.params["w"], whole.params["w"])
    assert resumed.losses == whole.losses
    stored = training.stored_variables(tmp_path / "part", {"params": start.params, "batch_stats": start.stats})
    np.testing.assert_array_equal(stored["params"]["w"], whole.params["w"])
    with pytest.raises(CorruptFileError, match="another network"):
        training.stored_params(tmp_path / "part", {"w": jnp.zeros(4)})
    with pytest.raises(ConfigError, match="go on with that, or begin another"):
        training.fit(tmp_path / "part", linear_loss, start, data, settings, passes=3.0, rate=0.1)


def test_scores_count_labelled_pixels_only_and_the_last_batch_may_be_short():
    data = frames(count=5)
    perfect = iter([data.labels[:2], data.labels[2:4], np.concatenate([data.labels[4:], data.labels[:1]])])
    found = training.score(lambda images: next(perfect), data, 2)
    assert found["pixel_accuracy"] == 100
    assert found["iou"] == dict.fromkeys(training.DRIVING_CLASSES, 100.0)
    always = training.score(lambda images: np.zeros(images.shape[:3], np.uint8), data, 5)
    share = (data.labels == 0).sum() / (data.labels < 4).sum()
    assert always["pixel_accuracy"] == pytest.approx(100 * share)
    assert always["mean_iou"] == pytest.approx(25 * share)


@pytest.mark.parametrize(
    "fields", [{"epochs": 0}, {"batch": 0}, {"rate": 0.0}, {"crop": (20, 24)}, {"crop": (160, 240)}, {"images": -1}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ConfigError):
        training.Settings(**fields)


def test_errors_are_one_line_and_status_one(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    assert enet.main(["--out", str(tmp_path / "run")]) == 1
    assert "JAXGEO_DATA" in capsys.readouterr().err
    assert enet.main(["--data", "cityscapes", "--out", str(tmp_path / "run")]) == 1
    assert "--folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reduced", "8", "16"], "out of a larger network, got --reduced 8 16"),
        (["--reduced", "16", "5"], "divisible by 2, got 5"),
        (["--budget", "1.5"], "lie in (0, 1], got 1.5"),
    ],
)
def test_what_would_fail_after_training_is_refused_before(options, message, tmp_path, capsys):
    assert enet.main(["--out", str(tmp_path / "run"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_report_has_a_row_for_each_variant(tmp_path):
    args = argparse.Namespace(out=tmp_path, data="camvid", clock=7.0)
    row = {
        "filters": 4,
        "network": "4 of 16",
        "variant": "8 bits",
        "mean_weight_bits": 8.0,
        "zero_share": 0.5,
        "mean_iou": 41.25,
        "pixel_accuracy": 88.0,
        "iou": dict.fromkeys(training.DRIVING_CLASSES, 12.5),
    }
    latency = {"4": [{"reuse": 2, "cycles": {"1": 7, "10": 61}, "ms_per_frame": {"1": 4.9, "10": 3.0}}]}
    text = enet.write_report(args, training.Settings(), [row], latency, 367, 163)
    assert (tmp_path / "report.md").read_text() == text
    assert "| 4 of 16 | 8 bits | 8.0 | 50 % | 41.2 | 88.0 | 12.5 | 12.5 | 12.5 | 12.5 |" in text
    assert "| 4 | 2 | 7 | 4.90 | 3.00 |" in text


def test_a_reduced_network_begins_with_the_strongest_filters_of_the_larger_one(tmp_path, monkeypatch):
    begun = {}

    def train_float(path, config, data, settings, report=None, *, start=None, passes=None):
        begun[path.parent.name] = (config, start, passes)
        variables = training.init_enet(jax.random.key(1), config) if start is None else start
        return training.Fitted(variables["params"], variables["batch_stats"], [])

    monkeypatch.setattr(training, "train_float", train_float)
    args = argparse.Namespace(out=tmp_path, reduced_epochs=2.5)
    with progress_for(io.StringIO()) as progress:
        config, fitted = enet.float_network(args, 4, 8, frames(), training.Settings(), progress)
        assert config == ENetConfig(filters=4)
        assert set(begun) == {"filters_8", "filters_4_of_8"}
        assert begun["filters_4_of_8"][2] == 2.5
        variables = training.init_enet(jax.random.key(1), ENetConfig(filters=8))
        _, expected = reduce_filters(ENetConfig(filters=8), variables, config.proportional(4))
        chex.assert_trees_all_equal(fitted.params, expected["params"])
        with pytest.raises(ConfigError, match=r"of the 4 features of filters 1 \.\.\. 4 can be kept, got 8"):
            enet.float_network(args, 8, 4, frames(), training.Settings(), progress)


def test_without_data_a_frame_is_of_random_bytes(monkeypatch):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    name, image = enet_frame.load_frame()
    assert (name, image.shape, image.dtype) == ("random bytes", (1, 152, 240, 3), np.uint8)


def test_a_file_gets_formats_everywhere_and_loses_its_softmax(monkeypatch):
    graph = trace(lambda params, x: jax.nn.softmax(x @ params), np.eye(3, 4, dtype=np.float32), (5, 3))
    monkeypatch.setattr(enet_frame, "load_keras_graph", lambda path: graph)
    found = enet_frame.load_file(Path("net.h5"), (5, 3))
    assert [node.kind for node in found] == ["input", "quantize", "dense", "quantize"]
    assert found[found.output].format == FixedPoint(16, 6)
    with pytest.raises(InputError, match=r"net.h5 takes samples of shape \(5, 3\), a frame has \(152, 240, 3\)"):
        enet_frame.load_file(Path("net.h5"), (152, 240, 3))
