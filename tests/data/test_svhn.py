"""House numbers in MATLAB files that the tests write: what comes back, and what is refused."""

import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.data.svhn import load_svhn, read_svhn
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
Y = np.array([10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1], np.uint8)[:, None]


def write(path, x=X, y=Y, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"X": x, "y": y}, **options)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_images_come_first_and_ten_is_the_digit_zero(tmp_path, compressed):
    images, labels = read_svhn(write(tmp_path / "a.mat", do_compression=compressed))
    np.testing.assert_array_equal(images, np.moveaxis(X, -1, 0))
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_the_sets_are_found_under_the_root(tmp_path, monkeypatch):
    write(tmp_path / "svhn" / "train_32x32.mat")
    write(tmp_path / "svhn" / "test_32x32.mat", X[..., :3], Y[:3])
    write(tmp_path / "svhn" / "extra_32x32.mat", X[..., 5:], Y[5:])
    found = load_svhn(tmp_path, extra=True)
    assert (len(found.train_images), len(found.test_images)) == (19, 3)
    assert found.train_labels[12:].tolist() == [5, 6, 7, 8, 9, 0, 1]
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    assert len(load_svhn().train_images) == 12
    monkeypatch.delenv("JAXGEO_DATA")
    with pytest.raises(ConfigError, match=r"set JAXGEO_DATA to the folder that holds svhn/train_32x32\.mat"):
        load_svhn()
    with pytest.raises(InputError, match="house numbers, cannot be read"):
        load_svhn(tmp_path / "elsewhere")


@settings(max_examples=30)
@given(cut=st.floats(0, 1, exclude_max=True), compressed=st.booleans())
def test_a_truncated_file_is_refused(tmp_path_factory, cut, compressed):
    path = write(tmp_path_factory.mktemp("cut") / "a.mat", do_compression=compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(CorruptFileError, match=r"a\.mat"):
        read_svhn(path)


@settings(max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_a_compressed_file_is_refused_or_changes_nothing(tmp_path_factory, place, flip):
    path = write(tmp_path_factory.mktemp("flip") / "a.mat", do_compression=True)
    content = bytearray(path.read_bytes())
    # The text in front may say anything.
    at = 128 + int(place * (len(content) - 128))
    content[at] ^= flip
    path.write_bytes(bytes(content))
    try:
        images, labels = read_svhn(path)
    except CorruptFileError as error:
        assert "a.mat" in str(error)  # noqa: PT017  # either outcome is right
    else:
        np.testing.assert_array_equal(images, np.moveaxis(X, -1, 0))
        np.testing.assert_array_equal(labels, Y[:, 0] % 10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X.astype(np.float32), Y, "X of float32"),
        (X[:28], Y, r"shape \(28, 32, 3, 12\), expected uint8"),
        (X[..., 0], Y, r"shape \(32, 32, 3\)"),
        (X, Y[:11], r"y of uint8 and shape \(11, 1\) for 12 images"),
        (X, Y - np.uint8(1), "classes other than 1 ... 10 .*: 0 at image 1, 2 in all"),
        (X, Y + 0.5, "classes other than 1 ... 10"),
    ],
)
def test_other_arrays_are_refused(tmp_path, x, y, message):
    with pytest.raises(CorruptFileError, match=message):
        read_svhn(write(tmp_path / "a.mat", x, y))


def test_a_file_without_classes_and_a_file_that_is_no_matlab_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"X": X})
    with pytest.raises(CorruptFileError, match="lacks y"):
        read_svhn(path)
    path.write_bytes(zlib.compress(b"something else"))
    with pytest.raises(CorruptFileError, match="no MATLAB 5 file"):
        read_svhn(path)
