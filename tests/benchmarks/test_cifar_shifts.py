"""The CIFAR-10 study on corrupted images and on images from outside: scores, errors, what is kept. Tiny networks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from benchmarks.papers import cifar_posteriors as study
from benchmarks.papers import cifar_shifts
from benchmarks.papers.cifar_ensembles import CifarConfig, Family, Problem
from benchmarks.papers.cifar_shifts import MEASURES, ShiftConfig
from jaxgeo import files
from jaxgeo.data.cifar import standardise
from jaxgeo.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.ood import auroc
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.uncertainty import predictive_entropy
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.progress import SilentProgress

CONFIG = CifarConfig(
    source="mini", images=40, families=("mc_dropout",), members=3, draws=2, epochs=1, batch_size=8, depth=8
)
SHIFTS = ShiftConfig(corruptions=("contrast", "fog"), severities=(1, 5), outside=("svhn",), images=15)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
LABELS = (np.arange(20) % 10).astype(np.int32)


def apply(params, images):
    return images[:, :4, :4].reshape(len(images), -1) @ params["kernel"]


def two_draws(key, member):
    return {"kernel": member["kernel"] + 0.1 * jax.random.normal(key, (2, 48, 10))}


NOISY = Family("noisy", 1, lambda *_: jnp.zeros(()), lambda key: {}, two_draws, 2)
PROBLEM = Problem(
    standardise(PIXELS), LABELS, standardise(PIXELS), LABELS, RNG.dirichlet(np.ones(10), 20).astype(np.float32),
    PIXELS, lambda key: {}, LogJoint(apply, GaussianPrior(fan_in=False)),
)  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder as a run leaves it that knew nothing of shifts, and a root with house numbers."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(CONFIG.members):
        path = files.make_folder(folder / "run" / "noisy") / f"member-{number:03d}.safetensors"
        files.save_tree(path, {"kernel": np.random.default_rng(number).normal(size=(48, 10)).astype(np.float32)})
    study.run(folder / "run", CONFIG, PROBLEM, {"noisy": NOISY}, SilentProgress())
    house_numbers = np.random.default_rng(5).integers(0, 256, (32, 32, 3, 30)).astype(np.uint8)
    files.make_folder(folder / "svhn")
    scipy.io.savemat(folder / "svhn" / "test_32x32.mat", {"X": house_numbers, "y": np.full((30, 1), 10, np.uint8)})
    return folder, np.moveaxis(house_numbers, 3, 0)


@pytest.fixture(scope="module")
def scored(run_folder):
    folder, _ = run_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXGEO_DATA", str(folder))
        return study.run(folder / "run", CONFIG, PROBLEM, {"noisy": NOISY}, SilentProgress(), SHIFTS)


def log_probs(run_folder, images):
    """Of all networks by hand, member slowest: what the study must have predicted."""
    base = jax.random.fold_in(jax.random.key(CONFIG.seed), 2 * NOISY.number + 1)
    found = []
    for number in range(CONFIG.members):
        member = files.load_tree(run_folder[0] / "run" / "noisy" / f"member-{number:03d}.safetensors")
        draws = two_draws(jax.random.fold_in(base, number), {"kernel": member["kernel"][None]})
        found += [jax.nn.log_softmax(apply({"kernel": kernel}, standardise(images))) for kernel in draws["kernel"]]
    return jnp.stack(found)


def test_scores_are_those_of_the_scorecard_and_averages_have_the_errors_of_averages(run_folder, scored):
    rows = cifar_shifts.chosen_images(LABELS, SHIFTS)
    cards = [
        score(log_probs(run_folder, corrupt(PIXELS[rows], name, 5)), jnp.asarray(LABELS[rows]), groups=3)
        for name in SHIFTS.corruptions
    ]
    details = json.loads((run_folder[0] / "run" / "shifts.json").read_text())
    for measure in MEASURES:
        for name, card in zip(SHIFTS.corruptions, cards, strict=True):
            found, expected = details["corruption"]["noisy"][name]["5"][measure], card[measure].to_dict()
            for field, value in found.items():
                # float32, where errors are roots of sums of squares of differences
                assert value == pytest.approx(expected[field], rel=2e-3, abs=1e-5), (measure, field)
        mean = scored["shifts"]["severity"]["noisy"]["5"][measure]
        assert mean["value"] == pytest.approx(np.mean([card[measure].value for card in cards]), rel=1e-5)
        # The members are shared, so errors lie between nothing and full correlation.
        assert mean["standard_error"] <= np.mean([card[measure].standard_error for card in cards]) * (1 + 1e-3)
    clean = scored["shifts"]["severity"]["noisy"]["0"]
    expected = score(log_probs(run_folder, PIXELS[rows]), jnp.asarray(LABELS[rows]), groups=3)
    assert clean["accuracy"]["value"] == pytest.approx(expected["accuracy"].value, rel=1e-6)


def test_images_from_outside_are_told_by_the_same_networks(run_folder, scored):
    outside = run_folder[1][np.sort(np.random.default_rng(0).permutation(30)[:15])]
    entropies = [predictive_entropy(log_probs(run_folder, images)) for images in (PIXELS, outside)]
    found = scored["shifts"]["outside"]["noisy"]["svhn"]["entropy"]["auroc"]
    assert found["value"] == pytest.approx(auroc(*entropies), abs=1e-6)
    assert found["standard_error"] is not None


def test_report_has_tables_and_a_picture_and_says_that_it_is_reduced(run_folder, scored):
    page = (run_folder[0] / "run" / "report.md").read_text()
    assert "15 test images (reduced: a part of the 20" in page
    assert "| family | 0 | 1 | 5 |" in page
    assert "| family | SVHN, H | SVHN, MI |" in page
    assert "not in JAXGEO_DATA: FashionMNIST." in page
    assert (run_folder[0] / "run" / "shifts.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_folder[0] / "run" / "report.json").read_text())["shifts"] == scored["shifts"]


def test_what_is_scored_is_not_done_again_and_one_more_severity_is(run_folder, scored, monkeypatch):
    folder = run_folder[0] / "run"
    monkeypatch.setenv("JAXGEO_DATA", str(run_folder[0]))
    calls = []
    original = cifar_shifts.predict
    monkeypatch.setattr(cifar_shifts, "predict", lambda *args: calls.append(args) or original(*args))
    again = study.run(folder, CONFIG, PROBLEM, {"noisy": NOISY}, SilentProgress(), SHIFTS)
    assert again["shifts"] == scored["shifts"]
    assert not calls
    more = dataclasses.replace(SHIFTS, corruptions=("fog",), severities=(1, 2), outside=())
    found = study.run(folder, CONFIG, PROBLEM, {"noisy": NOISY}, SilentProgress(), more)
    assert len(calls) == CONFIG.members  # one set
    assert set(found["shifts"]["severity"]["noisy"]) == {"0", "1", "2"}
    fewer = dataclasses.replace(more, images=10)
    calls.clear()
    study.run(folder, CONFIG, PROBLEM, {"noisy": NOISY}, SilentProgress(), fewer)
    assert len(calls) == 2 * CONFIG.members  # scores of other images are made anew


def test_grey_pictures_from_outside_stand_in_the_middle_in_three_equal_channels(tmp_path):
    folder = files.make_folder(tmp_path / "fashion-mnist")
    grey = np.arange(28 * 28 * 12, dtype=np.int64).reshape(12, 28, 28) % 256
    for part in ("train", "t10k"):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in grey.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + grey.astype(np.uint8).tobytes())
        labels = b"\0\0\x08\x01" + (12).to_bytes(4, "big") + bytes(i % 10 for i in range(12))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    assert cifar_shifts.available_outside(tmp_path) == ("fashion_mnist",)
    images = cifar_shifts.load_outside("fashion_mnist", 20, 0, tmp_path)
    np.testing.assert_array_equal(images[:, 2:30, 2:30], np.repeat(grey[..., None], 3, axis=-1))
    assert images.shape == (12, 32, 32, 3)
    assert images.sum() == 3 * grey.sum()
    with pytest.raises(InputError, match=r"test_32x32\.mat"):
        cifar_shifts.load_outside("svhn", 20, 0, tmp_path)


def test_a_part_of_the_test_images_has_each_class_alike():
    rows = cifar_shifts.chosen_images(np.repeat(np.arange(10), 50), dataclasses.replace(SHIFTS, images=40))
    np.testing.assert_array_equal(np.bincount(rows // 50), np.full(10, 4))
    np.testing.assert_array_equal(
        cifar_shifts.chosen_images(LABELS, dataclasses.replace(SHIFTS, images=None)), np.arange(20)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruptions": ("rain",)}, "corruptions are some of gaussian_noise"),
        ({"corruptions": ("fog", "fog")}, "each once"),
        ({"severities": (0,)}, "severities are some of 1, 2, 3, 4, 5"),
        ({"severities": ()}, "at least one severity"),
        ({"outside": ("mars",)}, "outside are some of svhn, fashion_mnist"),
        ({"images": 1}, "at least 2"),
    ],
)
def test_impossible_shifts_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ShiftConfig(**changes)


def test_options_say_what_is_scored(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))

    def shifts(*argv):
        return study.shifts_of(study.parse(argv))

    assert shifts("--size", "full") == ShiftConfig(outside=())  # no file of another set is there
    assert shifts().images == study.SHIFT_IMAGES["reduced"]
    named = shifts("--corruptions", "fog", "snow", "--severities", "3", "--ood", "svhn", "--shift-images", "50")
    assert named == ShiftConfig(("fog", "snow"), (3,), ("svhn",), 50)
    nothing = shifts("--corruptions", "none", "--ood", "none")
    assert (nothing.corruptions, nothing.outside, nothing.sets) == ((), (), 0)
    assert (shifts().corruptions, shifts().severities) == (CORRUPTIONS, SEVERITIES)
    with pytest.raises(ConfigError, match="--ood none stands alone, got svhn none"):
        shifts("--ood", "svhn", "none")
