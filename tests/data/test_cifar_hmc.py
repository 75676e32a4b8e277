"""Published predictions of HMC: the order of TensorFlow Datasets, and the figures where the data are there."""

import hashlib

import numpy as np
import pytest
import sklearn.metrics
from unchecked import unchecked

from jaxgeo.data.cifar import CifarSet
from jaxgeo.data.cifar_hmc import (
    HMC_FILE,
    HUMAN_FILE,
    as_log_probs,
    check_order,
    load_hmc,
    load_hmc_images,
    load_human_votes,
    read_probabilities,
    tensorflow_datasets_order,
)
from jaxgeo.data.root import find_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

# Where nothing else is said, tolerances are half of the last digit that is given, or bound float32 rounding.

# Of the environment at collection, so that a test never changes what another one reads.
REAL = [path for path in [find_file(HMC_FILE)] if path is not None]
REAL_WITH_VOTES = [path for path in REAL if find_file(HUMAN_FILE) is not None]


def predictions(num_images=30, seed=0):
    """Arrays of a small file whose predictions are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, num_images)
    probabilities = 0.1 * rng.dirichlet(np.ones(10), num_images) + 0.9 * np.eye(10)[labels]
    return {
        "i_test": rng.choice(10_000, num_images, replace=False).astype(np.uint16),
        "y_test": labels.astype(np.uint8),
        "hmc_probs": probabilities.astype(np.float32),
    }


def test_the_order_sorts_by_the_hash_of_split_and_place():
    order = tensorflow_datasets_order(10_000)
    np.testing.assert_array_equal(np.sort(order), np.arange(10_000))
    hashes = [int(hashlib.md5(f"test{place}".encode()).hexdigest(), 16) for place in order]
    assert hashes == sorted(hashes)
    # Rows of the published file, found by comparing their numbers with rows whose place is known.
    assert order[[0, 5, 7, 8, 9, 11]].tolist() == [9933, 131, 1579, 6174, 8443, 8055]
    assert not np.array_equal(order, tensorflow_datasets_order(10_000, "train"))
    with pytest.raises(ConfigError, match="at least one example, got 0"):
        tensorflow_datasets_order(0)


@pytest.mark.parametrize("separator", [" ", ","])
def test_rows_of_the_table_come_back_into_the_order_of_the_test_batch(tmp_path, separator):
    arrays = predictions()
    shuffled = arrays["hmc_probs"][tensorflow_datasets_order(30)]
    np.savetxt(tmp_path / "probs.csv", shuffled, delimiter=separator)
    restored = read_probabilities(tmp_path / "probs.csv", num_images=30)
    np.testing.assert_array_equal(restored, arrays["hmc_probs"])
    check_order(restored, arrays["y_test"])
    wrong = read_probabilities(tmp_path / "probs.csv", "test_batch", 30)
    with pytest.raises(InputError, match=r"not of the same images.*wrong order have about 0\.1.*TensorFlow Datasets"):
        check_order(wrong, arrays["y_test"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"30 lines of 10 probabilities, got an array of shape \(0, 1\)"),
        (b"0.1 " * 10, r"shape \(1, 10\)"),
        (b"0.5 " * 9 + b"x", "no table of numbers"),
        (b"\xff", "no table of numbers"),
        ((b"0.2 " * 10 + b"\n") * 30, "row 0 sums to 2"),
        ((b"nan " * 10 + b"\n") * 30, "finite probabilities"),
    ],
)
def test_tables_of_another_form_are_named(tmp_path, content, message):
    path = tmp_path / "probs.csv"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"probs\.csv.*{message}"):
        read_probabilities(path, num_images=30)


def test_unknown_orders_and_absent_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="order must be one of tensorflow_datasets, test_batch, got 'tfds'"):
        unchecked(read_probabilities)(tmp_path / "probs.csv", "tfds")
    with pytest.raises(InputError, match=r"probs\.csv.*cannot be read"):
        read_probabilities(tmp_path / "probs.csv")
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    with pytest.raises(ConfigError, match="set JAXGEO_DATA"):
        load_hmc()
    assert find_file(HMC_FILE) is None
    assert find_file(HUMAN_FILE, tmp_path) is None
    with pytest.raises(InputError, match="1 rows of predictions need as many labels"):
        check_order(np.ones((1, 10)), np.zeros(2, int))


def test_predictions_and_votes_come_back(tmp_path, monkeypatch):
    arrays = predictions()
    votes = np.round(arrays["hmc_probs"] * 50).astype(np.uint8)
    np.savez(tmp_path / "cifar10_hmc.npz", **arrays)
    np.savez(tmp_path / "cifar10h_human.npz", i_test=arrays["i_test"], y_test=arrays["y_test"], human_counts=votes)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    found, people = load_hmc(), load_human_votes()
    np.testing.assert_array_equal(found.probabilities, arrays["hmc_probs"])
    np.testing.assert_array_equal(found.labels, people.labels)
    np.testing.assert_array_equal(found.test_index, arrays["i_test"])
    np.testing.assert_allclose(people.probabilities, votes / votes.sum(1, keepdims=True))
    log_probs = as_log_probs(people.probabilities)
    assert log_probs.shape == (1, 30, 10)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(log_probs[0]), people.probabilities, atol=1e-6)


def test_the_competitions_table_serves_where_the_other_file_is_not(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 10_000).astype(np.int32)
    table = np.round(0.1 * rng.dirichlet(np.ones(10), 10_000) + 0.9 * np.eye(10)[labels], 4)
    places = np.sort(rng.choice(10_000, 400, replace=False)).astype(np.int32)
    images = np.broadcast_to((places % 251).astype(np.uint8)[:, None, None, None], (400, 32, 32, 3))
    cifar = CifarSet(images[:1], labels[:1], images, labels[places], places)
    monkeypatch.setattr("jaxgeo.data.cifar_hmc.load_cifar10", lambda **_: cifar)
    with pytest.raises(InputError, match=r"cifar10_hmc\.npz, which should hold .* \(as may probs\.csv\)"):
        load_hmc(tmp_path)
    np.savetxt(tmp_path / "probs.csv", table, fmt="%.4f")  # in the order of the test batch, which is not published
    with pytest.raises(InputError, match=r"not of the same images: .*wrong order have about 0\.1"):
        load_hmc(tmp_path)
    np.savetxt(tmp_path / "probs.csv", table[tensorflow_datasets_order(10_000)], fmt="%.4f")
    found, pictures = load_hmc_images(tmp_path)
    np.testing.assert_array_equal(found.probabilities, table[places].astype(np.float32))
    np.testing.assert_array_equal(found.labels, labels[places])
    np.testing.assert_array_equal(pictures, images)
    arrays = predictions()
    np.savez(tmp_path / "cifar10_hmc.npz", **arrays)  # both: this one is taken
    np.testing.assert_array_equal(load_hmc(tmp_path).test_index, arrays["i_test"])


def test_each_prediction_gets_the_image_of_its_place(tmp_path, monkeypatch):
    arrays = predictions()
    np.savez(tmp_path / "cifar10_hmc.npz", **arrays)
    places = arrays["i_test"][::-2].astype(np.int32)  # half of the images, in another order
    labels = arrays["y_test"][::-2].astype(np.int32)
    images = np.broadcast_to((places % 251).astype(np.uint8)[:, None, None, None], (15, 32, 32, 3))
    cifar = CifarSet(images[:1], labels[:1], images, labels, places)
    monkeypatch.setattr("jaxgeo.data.cifar_hmc.load_cifar10", lambda **_: cifar)
    found, pictures = load_hmc_images(tmp_path)
    assert found.test_index.tolist() == places[::-1].tolist()
    np.testing.assert_array_equal(pictures[:, 0, 0, 0], found.test_index % 251)
    monkeypatch.setattr("jaxgeo.data.cifar_hmc.load_cifar10", lambda **_: cifar._replace(test_labels=9 - labels))
    with pytest.raises(InputError, match=r"labels of cifar10_hmc\.npz and of CIFAR-10's images differ"):
        load_hmc_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hmc_probs", None, "lacks hmc_probs"),
        ("hmc_probs", np.full((30, 9), 1 / 9), r"10 classes for each image, got \(30, 9\)"),
        ("hmc_probs", np.full((30, 10), 0.2), "sum to 1"),
        ("hmc_probs", np.full((30, 10), 1), "finite probabilities"),
        ("y_test", np.full(30, 10), "y_test from 0 to 9, got 10 to 10"),
        ("y_test", np.zeros(30), "y_test as 30 integers"),
        ("i_test", np.zeros(30, int), "29 test images in i_test twice"),
    ],
)
def test_files_of_another_form_are_named(tmp_path, name, value, message):
    changed = {key: array for key, array in (predictions() | {name: value}).items() if array is not None}
    np.savez(tmp_path / "cifar10_hmc.npz", **changed)
    with pytest.raises(CorruptFileError, match=rf"cifar10_hmc\.npz.*{message}"):
        load_hmc(tmp_path)


def test_votes_that_nobody_cast_are_refused(tmp_path):
    arrays = predictions()
    np.savez(tmp_path / "cifar10h_human.npz", **arrays, human_counts=np.zeros((30, 10), np.uint8))
    with pytest.raises(CorruptFileError, match="some in each row"):
        load_human_votes(tmp_path)


def calibration_error(probabilities, labels, num_bins):
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    index = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return np.abs(np.bincount(index, correct - confidence, num_bins)).sum() / len(labels)


@pytest.mark.parametrize("path", REAL)
def test_real_predictions_have_the_published_scores(path):
    found = load_hmc(path.parent)
    exact = found.probabilities.astype(np.float64)
    one_hot = np.eye(10)[found.labels]
    assert (exact.argmax(1) == found.labels).mean() == 0.9144
    np.testing.assert_allclose(-np.log(exact[one_hot == 1]).mean(), 0.272423, atol=5e-7)
    np.testing.assert_allclose(((exact - one_hot) ** 2).sum(1).mean(), 0.131006, atol=5e-7)
    np.testing.assert_allclose(calibration_error(exact, found.labels, 10), 0.051970, atol=5e-7)
    normalised = exact / exact.sum(1, keepdims=True)
    np.testing.assert_allclose(sklearn.metrics.log_loss(found.labels, normalised), 0.272423, atol=1e-6)


@pytest.mark.parametrize("path", REAL)
def test_metrics_of_the_library_find_the_same(path):
    import jax.numpy as jnp

    from jaxgeo.metrics.calibration import expected_calibration_error
    from jaxgeo.metrics.scores import accuracy, brier, negative_log_likelihood

    found = load_hmc(path.parent)
    arrays = jnp.asarray(as_log_probs(found.probabilities)), jnp.asarray(found.labels)
    # Means of 5,000 numbers in float32.
    np.testing.assert_allclose(accuracy(*arrays), 0.9144, rtol=1e-6)
    np.testing.assert_allclose(negative_log_likelihood(*arrays), 0.272423, atol=2e-6)
    np.testing.assert_allclose(brier(*arrays), 0.131006, atol=2e-6)
    np.testing.assert_allclose(expected_calibration_error(*arrays, 10), 0.051970, atol=2e-6)


@pytest.mark.parametrize("path", REAL_WITH_VOTES)
def test_people_and_hmc_agree_as_much_as_they_do(path):
    found, people = load_hmc(path.parent), load_human_votes(path.parent)
    np.testing.assert_array_equal(found.test_index, people.test_index)
    exact, votes = found.probabilities.astype(np.float64), people.probabilities
    assert (exact.argmax(1) == votes.argmax(1)).mean() == 0.9142
    np.testing.assert_allclose(np.abs(exact - votes).sum(1).mean() / 2, 0.152388, atol=5e-7)
