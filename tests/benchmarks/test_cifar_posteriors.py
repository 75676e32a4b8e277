"""The CIFAR-10 study: settings, data that may be trained on, members that are kept, tables. Tiny linear networks."""

import dataclasses
import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import cifar_ensembles
from benchmarks.papers import cifar_posteriors as study
from benchmarks.papers.cifar_ensembles import SIZES, CifarConfig, Family, Problem
from benchmarks.scale_programs import kept_bytes
from jaxgeo import files, interrupts
from jaxgeo.data import svhn
from jaxgeo.data.cifar_hmc import tensorflow_datasets_order
from jaxgeo.errors import ConfigError, CorruptFileError, InputError
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.progress import SilentProgress
from jaxgeo.training import long_runs
from jaxgeo.training.ensemble import learning_rate_schedule

CONFIG = CifarConfig(
    source="mini", images=40, families=("deep_ensemble",), members=2, draws=3, epochs=2, batch_size=8, depth=8
)


def apply(params, inputs):
    return inputs @ params["kernel"]


def init(key):
    return {"kernel": 0.1 * jax.random.normal(key, (5, 10))}


def two_draws(key, member):
    noise = 0.1 * jax.random.normal(key, (2, 5, 10))
    return {"kernel": member["kernel"] + noise}


RNG = np.random.default_rng(0)
PROBLEM = Problem(
    RNG.normal(size=(40, 5)).astype(np.float32), RNG.integers(0, 10, 40).astype(np.int32),
    RNG.normal(size=(12, 5)).astype(np.float32), RNG.integers(0, 10, 12).astype(np.int32),
    RNG.dirichlet(np.ones(10), 12).astype(np.float32), np.zeros((12, 32, 32, 3), np.uint8), init,
    LogJoint(apply, GaussianPrior(fan_in=False)),
)  # fmt: skip
# Made once: each new objective is compiled anew.
OBJECTIVE = deep_ensemble.objective(PROBLEM.log_joint, 40)
DEEP = Family("deep ensemble", 0, OBJECTIVE, init, lambda key, member: member, 1)
NOISY = Family("noisy", 1, OBJECTIVE, init, two_draws, 2)


def test_the_published_sizes_are_the_papers():
    full = SIZES["full"]
    training = full.training
    assert (full.images, full.epochs, full.batch_size, full.depth, full.width) == (40_960, 300, 64, 20, 16)
    assert (training.optimizer, training.nesterov, training.learning_rate) == ("sgd", True, 0.1)
    rate = learning_rate_schedule(training, full.images)
    for epoch, expected in ((0, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (299, 0.001)):
        assert float(rate(epoch * 640)) == pytest.approx(expected, rel=1e-6)  # float32
    assert full.members >= 8
    assert len(full.families) == 4


@pytest.mark.parametrize(("prior", "variance"), [("precision", 0.2), ("variance", 5.0)])
def test_the_prior_is_of_the_stated_precision_or_variance(prior, variance):
    assert dataclasses.replace(CONFIG, prior=prior).prior_scale ** 2 == pytest.approx(variance)


def all_of(folder, family, config):
    paths = cifar_ensembles.train(folder, family, config, PROBLEM, lambda *_: None)
    return paths, cifar_ensembles.predictions(paths, family, config, PROBLEM, lambda *_: None)


def test_finished_members_are_kept_and_more_can_be_added(tmp_path):
    all_of(tmp_path, NOISY, CONFIG)
    kept = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.safetensors"))}
    assert len(kept) == 4  # two members, each with its predictions
    three = dataclasses.replace(CONFIG, members=3)
    paths, predicted = all_of(tmp_path, NOISY, three)
    assert {path: path.read_bytes() for path in kept} == kept
    assert predicted.shape == (6, 12, 10)
    fresh_paths, fresh = all_of(tmp_path / "fresh", NOISY, three)
    for one, other in zip(paths, fresh_paths, strict=True):
        # Alone in its program or one of three: equal up to the rounding of float32.
        np.testing.assert_allclose(
            files.load_tree(one)["kernel"], files.load_tree(other)["kernel"], rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(predicted, fresh, rtol=1e-4, atol=1e-5)


def test_a_finished_run_trains_and_predicts_nothing_and_reports_the_same(tmp_path, capsys, monkeypatch):
    made = {"noisy": NOISY}
    first = study.run(tmp_path, CONFIG, PROBLEM, made, SilentProgress())
    assert not list(tmp_path.glob("*/checkpoints*"))
    page = (tmp_path / "report.md").read_text()
    assert "| noisy | 4 |" in page
    assert page in capsys.readouterr().out
    monkeypatch.setattr(cifar_ensembles, "train_ensemble", None)
    monkeypatch.setattr(cifar_ensembles, "predict", None)
    again = study.run(tmp_path, CONFIG, PROBLEM, made, SilentProgress())
    assert again["scores"] == first["scores"]
    assert first["scores"]["noisy"]["agreement"]["standard_error"] is not None
    assert first["scores"]["hmc"]["agreement"]["value"] == 1.0
    assert (tmp_path / "report.md").read_text() == page


def test_a_folder_of_other_settings_is_refused(tmp_path):
    cifar_ensembles.open_run(tmp_path, CONFIG)
    cifar_ensembles.open_run(tmp_path, dataclasses.replace(CONFIG, members=5, draws=9))
    with pytest.raises(ConfigError, match=r"was begun with learning_rate = 0\.1, not 0\.2"):
        cifar_ensembles.open_run(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.2))


def test_a_signal_within_an_epoch_loses_nothing_and_the_end_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(long_runs, "next_steps", lambda steps, seconds: 1)  # five calls an epoch
    calls, whole = [], long_runs.plan_steps

    def stopped_at_the_seventh(*arguments):
        steps = whole(*arguments)

        def run(state, totals, first, stop):
            calls.append(first)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return steps.run(state, totals, first, stop)

        return steps._replace(run=run)

    monkeypatch.setattr(long_runs, "plan_steps", stopped_at_the_seventh)
    with interrupts.heeded(), pytest.raises(interrupts.Terminated):
        cifar_ensembles.train(tmp_path / "broken", DEEP, CONFIG, PROBLEM, lambda *_: None)
    paths = cifar_ensembles.train(tmp_path / "broken", DEEP, CONFIG, PROBLEM, lambda *_: None)
    assert calls == [*range(5), *range(5)]  # the second began where the first was broken off
    monkeypatch.undo()
    whole = cifar_ensembles.train(tmp_path / "whole", DEEP, CONFIG, PROBLEM, lambda *_: None)
    for one, other in zip(paths, whole, strict=True):
        np.testing.assert_array_equal(files.load_tree(one)["kernel"], files.load_tree(other)["kernel"])


def test_rows_or_channels_are_dropped_and_folders_of_before_have_rows(tmp_path):
    kernel = {"conv": {"kernel": jnp.ones((1, 3, 3, 40, 2))}, "stem": jnp.ones(1), "head": jnp.ones(1)}
    masked = {}
    for unit in ("row", "channel"):
        config = dataclasses.replace(CONFIG, families=("mc_dropout",), dropout_unit=unit)
        drawn = cifar_ensembles.families(config, PROBLEM)["mc_dropout"].draw(jax.random.key(0), kernel)
        masked[unit] = np.asarray(drawn["conv"]["kernel"])[..., 0] == 0  # (draw, tap, tap, channel)
    one_fate = {unit: (zero.any((1, 2)) == zero.all((1, 2))).all() for unit, zero in masked.items()}
    assert one_fate == {"row": False, "channel": True}
    assert masked["channel"].any()
    cifar_ensembles.open_run(tmp_path, CONFIG)
    settings = files.read_json(tmp_path / "config.json")
    del settings["dropout_unit"]  # as folders of earlier versions are
    files.write_json_atomically(tmp_path / "config.json", settings)
    cifar_ensembles.open_run(tmp_path, CONFIG)
    with pytest.raises(ConfigError, match="was begun with dropout_unit = 'row', not 'channel'"):
        cifar_ensembles.open_run(tmp_path, dataclasses.replace(CONFIG, dropout_unit="channel"))


def test_help_says_what_the_paper_drops_and_where_images_from_outside_lie(capsys):
    with pytest.raises(SystemExit):
        study.parse(["--help"])
    said = "".join(capsys.readouterr().out.split())  # lines are broken anywhere
    assert "thepaper'sprogramstossoneforeachchannelandpixelofaconvolution'soutput;fullrow" in said
    for path in (f"{svhn.FOLDER}/{svhn.TEST_FILE}", "fashion-mnist/t10k-images-idx3-ubyte"):
        assert path in said


def test_a_loss_that_is_not_finite_is_said_and_leaves_no_member(tmp_path):
    fast = dataclasses.replace(CONFIG, learning_rate=1e30)  # whose squares float32 has not, in the prior
    became = r"a loss became (inf|nan) in epoch 1; .* lower learning_rate than 1e\+30"
    with pytest.raises(ConfigError, match=became), jax.debug_nans(False):
        cifar_ensembles.train(tmp_path, DEEP, fast, PROBLEM, lambda *_: None)
    assert not list(tmp_path.glob("*.safetensors"))


def test_predictions_are_the_networks_own_batch_after_batch(monkeypatch):
    monkeypatch.setattr(cifar_ensembles, "PREDICTED_AT_ONCE", 5)
    draws = {"kernel": jnp.asarray(RNG.normal(size=(3, 5, 10)), jnp.float32)}
    found = cifar_ensembles.predict(apply, draws, PROBLEM.test_images)
    logits = PROBLEM.test_images.astype(np.float64)[None] @ np.asarray(draws["kernel"], np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32


def mini_files(root, places=(3, 7, 11), labels=(0, 1, 2)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (43, 32, 32, 3)).astype(np.uint8)
    arrays = {"x_train": images[:40], "y_train": np.zeros(40, np.uint8), "x_test": images[40:]}
    arrays |= {"y_test": np.array([0, 1, 2], np.uint8), "i_test": np.array([3, 7, 11], np.uint16)}
    np.savez(root / "cifar10_mini.npz", **arrays)
    # Right, and each row known by its confidence: 0.91, 0.82, 0.73 and so on.
    sure = 1 - 0.09 * (1 + np.arange(len(places)))
    probabilities = np.repeat(((1 - sure) / 9)[:, None], 10, axis=1).astype(np.float32)
    probabilities[np.arange(len(places)), labels] = sure
    reference = {"i_test": np.array(places, np.uint16), "y_test": np.array(labels, np.uint8)}
    np.savez(root / "cifar10_hmc.npz", **reference, hmc_probs=probabilities)
    return images


def test_test_images_stand_beside_their_own_probabilities_and_none_is_trained_on(tmp_path):
    images = mini_files(tmp_path, places=(0, 11, 3), labels=(5, 2, 0))
    problem = cifar_ensembles.make_problem(CONFIG, tmp_path)
    np.testing.assert_array_equal(problem.test_images, cifar_ensembles.standardise(images[[42, 40]]))
    np.testing.assert_array_equal(problem.test_labels, [2, 0])
    np.testing.assert_array_equal(problem.test_pixels, images[[42, 40]])
    np.testing.assert_allclose(problem.reference.max(1), [0.82, 0.73], rtol=1e-6)  # float32
    np.testing.assert_array_equal(problem.train_images, cifar_ensembles.standardise(images[:40]))
    assert set(cifar_ensembles.families(SIZES["full"], problem)) == set(SIZES["full"].families)


def test_the_competitions_table_is_a_reference_too(tmp_path):
    images = mini_files(tmp_path)
    (tmp_path / "cifar10_hmc.npz").unlink()
    rows = np.full((10_000, 10), 0.02)
    rows[np.arange(10_000), np.array([(p - 3) // 4 % 10 for p in range(10_000)])] = 0.82  # 3, 7 and 11 are 0, 1 and 2
    np.savetxt(tmp_path / "probs.csv", rows[tensorflow_datasets_order(10_000)], fmt="%.2f")
    problem = cifar_ensembles.make_problem(CONFIG, tmp_path)
    np.testing.assert_array_equal(problem.test_pixels, images[40:])
    np.testing.assert_allclose(problem.reference[np.arange(3), [0, 1, 2]], 0.82, rtol=1e-6)  # float32


def test_as_many_members_run_at_once_as_half_of_a_memory_holds():
    made, kept = {"deep ensemble": DEEP}, kept_bytes(
        OBJECTIVE, jax.eval_shape(init, jax.random.key(0)), jax.random.key(0), PROBLEM.train_images[:8],
        PROBLEM.train_labels[:8],
    )  # fmt: skip
    sixteen = dataclasses.replace(CONFIG, members=16)

    def on(count, limit, platform="gpu"):
        device = SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": limit})
        return cifar_ensembles.members_at_once(sixteen, PROBLEM, made, [device] * count)

    assert on(1, 2 * 5 * kept) == 5
    assert on(1, 2 * 5 * kept - 1) == 4
    assert on(1, kept) == 1
    assert [on(count, 2**40) for count in (1, 4, 5)] == [16, 4, 4]
    assert on(1, 2**40, "cpu") == 1
    assert cifar_ensembles.members_at_once(sixteen, PROBLEM, made) == 1  # here


def test_the_calibration_error_has_ten_bins_of_equal_width():
    labels, confidence = PROBLEM.test_labels, PROBLEM.reference.max(1).astype(np.float64)
    correct = PROBLEM.reference.argmax(1) == labels
    index = np.ceil(confidence * 10).astype(int) - 1
    expected = np.abs(np.bincount(index, correct - confidence, 10)).sum() / len(labels)
    cards = study.scorecards({}, CONFIG, PROBLEM)
    found = cards["hmc"]["calibration_error_equal_width"].value
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32
    page = study.markdown(cards, {}, CONFIG)
    assert "ECE, 10 bins |" in page
    assert "neither its own Monte Carlo error nor the noise floor" in page


def test_probabilities_of_other_images_are_refused(tmp_path):
    mini_files(tmp_path, labels=(0, 1, 9))
    with pytest.raises(CorruptFileError, match="1 of 3 labels differ"):
        cifar_ensembles.make_problem(CONFIG, tmp_path)
    mini_files(tmp_path, places=(1, 2, 4))
    with pytest.raises(InputError, match="none of the test images of source mini"):
        cifar_ensembles.make_problem(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 0}, "members must be at least 1"),
        ({"images": 4}, "batch_size 8 is larger than the 4"),
        ({"depth": 9}, "depth must be 6 n"),
        ({"families": ()}, "families are some of"),
        ({"families": ("deep_ensemble", "deep_ensemble")}, "each once"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"prior_value": -1.0}, "precision must be positive"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_options_change_a_size():
    args = study.parse(["--size", "full", "--members", "16", "--prior", "variance", "--families", "mc_dropout"])
    assert study.config_of(args) == dataclasses.replace(
        SIZES["full"], members=16, prior="variance", families=("mc_dropout",)
    )
    assert not args.estimate


def test_missing_data_end_with_status_one_and_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    monkeypatch.setattr(study.jax.config, "update", lambda *_: None)  # this process has its devices already
    assert study.main(["--size", "reduced", "--out", str(tmp_path / "run")]) == 1
    assert "cifar10_jpeg.npz, which should hold the CIFAR-10 images, cannot be read" in capsys.readouterr().err
