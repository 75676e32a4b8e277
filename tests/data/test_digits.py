"""Image sets: the bundled digits, small IDX sets written here, and the real ones where a folder is named."""

import gzip

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given
from hypothesis import strategies as st
from test_idx import idx_bytes
from unchecked import unchecked

from jaxgeo.data.digits import available_sources, load_digits, stratified_indices
from jaxgeo.data.root import data_root
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

# The names are those of the environment at collection, so that a test never changes what another one reads.
REAL_SOURCES = [source for source in available_sources() if source != "sklearn"]


def write_set(root, folder="mnist", compress=True, num_train=40, num_test=20):
    rng = np.random.default_rng(0)
    (root / folder).mkdir(parents=True)
    for part, number in [("train", num_train), ("t10k", num_test)]:
        images = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        images[0, 0, 0] = 255
        labels = (np.arange(number) % 10).astype(np.uint8)
        for name, array in [(f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)]:
            content = idx_bytes(array)
            path = root / folder / (f"{name}.gz" if compress else name)
            path.write_bytes(gzip.compress(content, 1) if compress else content)
    return images, labels


def test_bundled_digits_are_split_without_loss_and_each_class_keeps_its_share():
    found = load_digits()
    assert found.train_images.shape == (1437, 8, 8)
    assert found.test_images.shape == (360, 8, 8)
    assert found.train_images.dtype == found.test_images.dtype == np.float32
    assert found.train_labels.dtype == found.test_labels.dtype == np.int32
    together = np.concatenate([found.train_images, found.test_images])
    assert (together.min(), together.max()) == (0, 1)
    # Every image of the source is there once, with its own label.
    original = sklearn.datasets.load_digits()
    labels = np.concatenate([found.train_labels, found.test_labels])
    rows = np.column_stack([together.reshape(-1, 64) * 16, labels])
    expected = np.column_stack([original["data"], original["target"]])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    share = np.bincount(original["target"]) * 360 / 1797
    assert np.abs(np.bincount(found.test_labels) - share).max() < 1


def test_split_depends_on_the_seed_alone():
    first, again, other = load_digits(seed=1), load_digits(seed=1), load_digits(seed=2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.test_images, other.test_images)


def test_test_images_do_not_depend_on_how_many_train():
    few, all_of_them = load_digits(num_train=100), load_digits()
    np.testing.assert_array_equal(few.test_images, all_of_them.test_images)
    assert few.train_images.shape == (100, 8, 8)
    assert np.bincount(few.train_labels, minlength=10).min() >= 9


@given(count=st.integers(0, 60), seed=st.integers(0, 2**31 - 1))
def test_strata_keep_their_shares(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    chosen = stratified_indices(labels, count, rng)
    assert len(chosen) == len(set(chosen.tolist())) == count
    share = np.bincount(labels, minlength=4) * count / 60
    assert np.abs(np.bincount(labels[chosen], minlength=4) - share).max() < 1


def test_no_labels_give_no_indices():
    assert stratified_indices(np.zeros(0, int), 0, np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize(("source", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")])
@pytest.mark.parametrize("compress", [True, False])
def test_idx_sets_are_read_from_a_root_or_the_environment(tmp_path, monkeypatch, source, folder, compress):
    images, labels = write_set(tmp_path, folder, compress)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    for found in [load_digits(source, tmp_path), load_digits(source)]:
        assert found.train_images.shape == (40, 28, 28)
        np.testing.assert_array_equal(found.test_images, images.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(found.test_labels, labels)
        assert found.test_images.max() == 1
    part = load_digits(source, num_train=20, num_test=10)
    assert np.bincount(part.train_labels).tolist() == [2] * 10
    assert np.bincount(part.test_labels).tolist() == [1] * 10
    assert available_sources() == ("sklearn", source)


def test_absent_folder_and_absent_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    assert data_root() is None
    assert available_sources() == ("sklearn",)
    with pytest.raises(ConfigError, match=r"JAXGEO_DATA.*'sklearn' needs no files"):
        load_digits("mnist")
    with pytest.raises(InputError, match=r"mnist/train-images-idx3-ubyte\.gz.*not there"):
        load_digits("mnist", tmp_path)


def test_damaged_set_is_named(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptFileError, match="t10k-labels"):
        load_digits("mnist", tmp_path)
    path.write_bytes(idx_bytes(np.zeros(7, np.uint8)))
    with pytest.raises(InputError, match="20 images but 7 labels in its t10k files"):
        load_digits("mnist", tmp_path)
    path.write_bytes(idx_bytes(np.full(20, 10, np.uint8)))
    with pytest.raises(CorruptFileError, match=r"t10k-labels.* holds the label 10, expected 0 to 9"):
        load_digits("mnist", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_test=9), "9 test images cannot hold"),
        (dict(num_train=0), "number of training images must be a whole number of at least 1, got 0"),
        (dict(num_train=2.5), "number of training images must be a whole number of at least 1, got 2.5"),
        (dict(num_train=1438), "1438 images are asked for, but there are 1437"),
        (dict(num_test=1798), "1798 images are asked for, but there are 1797"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        unchecked(load_digits)(**arguments)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="the seed must be a whole number of at least 0, got -1"):
        load_digits(seed=-1)


@pytest.mark.parametrize("source", REAL_SOURCES)
def test_real_sets_hold_all_classes_and_an_average_image_tells_most_of_them_apart(source):
    found = load_digits(source, num_train=2000, num_test=500)
    assert found.train_images.shape == (2000, 28, 28)
    assert np.bincount(found.test_labels, minlength=10).min() > 0
    means = np.stack([found.train_images[found.train_labels == c].mean(0) for c in range(10)])
    distance = ((found.test_images[:, None] - means[None]) ** 2).sum((2, 3))
    # Nearest class mean: well known to reach about 0.8 on MNIST and 0.67 on FashionMNIST; swapped labels give 0.1.
    assert (distance.argmin(1) == found.test_labels).mean() > 0.6
