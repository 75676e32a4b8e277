"""CIFAR-10 files in the published format and in the small npz forms, written here; what is damaged is one error."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxgeo.data.cifar import (
    MEAN,
    STANDARD_DEVIATION,
    available_sources,
    load_cifar10,
    read_binary_batch,
    rows_at,
    standardise,
)
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

RECORDS = 4


@pytest.fixture
def binary(tmp_path):
    """A folder of the published form with four images in each file, and what it holds."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = rng.integers(0, 256, (6, RECORDS, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, (6, RECORDS)).astype(np.uint8)
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        content = b""
        for image, label in zip(images[number], labels[number], strict=True):
            content += bytes([label])
            for channel in range(3):  # red, green and blue planes, each row by row
                content += bytes(int(image[row, column, channel]) for row in range(32) for column in range(32))
        (folder / name).write_bytes(content)
    return tmp_path, images, labels


def encode(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75)
    return stream.getvalue()


def packed(count, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    parts = [encode(image) for image in images]
    offsets = np.cumsum([0] + [len(part) for part in parts]).astype(np.uint32)
    return np.frombuffer(b"".join(parts), np.uint8), offsets, [np.asarray(Image.open(io.BytesIO(p))) for p in parts]


def jpeg_arrays():
    train, off_train, decoded = packed(3, 0)
    test, off_test, _ = packed(2, 1)
    arrays = {"jpeg_train": train, "off_train": off_train, "y_train": np.array([1, 0, 9], np.uint8)}
    arrays |= {"jpeg_test": test, "off_test": off_test, "y_test": np.array([2, 3], np.uint8)}
    return arrays | {"i_test": np.array([7, 9999], np.uint16)}, decoded


def mini_arrays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    arrays = {"x_train": images[:3], "y_train": np.arange(3, dtype=np.uint8)}
    return arrays | {
        "x_test": images[3:],
        "y_test": np.arange(2, dtype=np.uint8),
        "i_test": np.array([4, 8], np.uint16),
    }


def test_binary_files_give_the_images_that_were_written(binary):
    root, images, labels = binary
    found = load_cifar10("binary", root, records=RECORDS)
    np.testing.assert_array_equal(found.train_images, images[:5].reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(found.train_labels, labels[:5].ravel())
    np.testing.assert_array_equal(found.test_images, images[5])
    np.testing.assert_array_equal(found.test_labels, labels[5])
    np.testing.assert_array_equal(found.test_index, np.arange(RECORDS))


def test_fewer_training_images_are_the_first_and_files_behind_them_are_not_opened(binary):
    root, images, _ = binary
    for number in (3, 4, 5):
        (root / "cifar-10-batches-bin" / f"data_batch_{number}.bin").unlink()
    found = load_cifar10("binary", root, records=RECORDS, num_train=6)
    np.testing.assert_array_equal(found.train_images, images[:2].reshape(-1, 32, 32, 3)[:6])
    with pytest.raises(InputError, match=r"data_batch_3.bin, which should hold the CIFAR-10 images, cannot be read"):
        load_cifar10("binary", root, records=RECORDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], r"truncated: 4 records of 3073 bytes are 12292, the file has 12291"),
        (lambda content: content + b"\0", "longer than it should be"),
        (
            lambda content: content[:3073] + b"\x0a" + content[3074:],
            r"labels outside of 0 ... 9: 10 at image 1, 1 in all",
        ),
    ],
)
def test_a_damaged_binary_file_is_refused_with_its_name(binary, change, message):
    path = binary[0] / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=f"data_batch_2.bin.*{message}"):
        load_cifar10("binary", binary[0], records=RECORDS)


def test_a_file_of_the_published_length_is_expected(binary):
    with pytest.raises(CorruptFileError, match=r"10000 records of 3073 bytes are 30730000"):
        read_binary_batch(binary[0] / "cifar-10-batches-bin" / "test_batch.bin")


def test_packed_jpeg_images_come_out_as_pillow_decodes_them(tmp_path):
    arrays, decoded = jpeg_arrays()
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    found = load_cifar10(root=tmp_path)
    np.testing.assert_array_equal(found.train_images, decoded)
    np.testing.assert_array_equal(found.train_labels, [1, 0, 9])
    np.testing.assert_array_equal(found.test_index, [7, 9999])
    first = load_cifar10("jpeg", tmp_path, num_train=2)
    np.testing.assert_array_equal(first.train_images, decoded[:2])
    assert found.test_images.shape == first.test_images.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("jpeg_train", lambda a: np.concatenate([a[:30], a[30:] * 0]), "train image 0 is no whole JPEG"),
        ("off_test", lambda a: a[::-1].copy(), "off_test that do not cut jpeg_test"),
        ("off_train", lambda a: a[:-1], "off_train that do not cut jpeg_train"),
        ("y_train", lambda a: a[:-1], r"labels of shape \(2,\) and uint8 for 3 images"),
        ("y_test", lambda a: a + 10, "labels outside of 0 ... 9: 12 at image 0, 2 in all"),
        ("i_test", lambda a: a + 1, "places in the published test set outside of 0 ... 9999: 10000 at image 1"),
    ],
)
def test_a_damaged_packed_file_is_refused(tmp_path, name, value, message):
    arrays, _ = jpeg_arrays()
    np.savez(tmp_path / "cifar10_jpeg.npz", **(arrays | {name: value(arrays[name])}))
    with pytest.raises(CorruptFileError, match=message):
        load_cifar10("jpeg", tmp_path)


def test_a_picture_of_another_size_is_refused(tmp_path):
    arrays, _ = jpeg_arrays()
    content = np.frombuffer(encode(np.zeros((16, 32, 3), np.uint8)), np.uint8)
    changed = {"jpeg_test": content, "off_test": np.array([0, content.size]), "y_test": np.array([1])}
    np.savez(tmp_path / "cifar10_jpeg.npz", **(arrays | changed | {"i_test": np.array([0])}))
    with pytest.raises(CorruptFileError, match=r"test image 0 is of shape \(16, 32, 3\)"):
        load_cifar10("jpeg", tmp_path)


def test_the_small_file_gives_its_arrays_and_refuses_others(tmp_path):
    arrays = mini_arrays()
    np.savez(tmp_path / "cifar10_mini.npz", **arrays)
    found = load_cifar10("mini", tmp_path, num_train=2)
    np.testing.assert_array_equal(found.train_images, arrays["x_train"][:2])
    np.testing.assert_array_equal(found.test_images, arrays["x_test"])
    np.testing.assert_array_equal(found.test_index, [4, 8])
    np.savez(tmp_path / "cifar10_mini.npz", **(arrays | {"x_test": arrays["x_test"].astype(np.float32)}))
    with pytest.raises(CorruptFileError, match="x_test of float32"):
        load_cifar10("mini", tmp_path)


def test_the_most_complete_source_is_taken(binary):
    root = binary[0]
    np.savez(root / "cifar10_mini.npz", **mini_arrays())
    assert available_sources(root) == ("binary", "mini")
    assert len(load_cifar10(root=root, records=RECORDS).train_images) == 5 * RECORDS


def test_what_is_not_there_is_one_error(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    assert available_sources() == ()
    with pytest.raises(ConfigError, match="set JAXGEO_DATA"):
        load_cifar10()
    with pytest.raises(ConfigError, match=r"holds neither cifar-10-batches-bin/test_batch.bin nor cifar10_jpeg.npz"):
        load_cifar10(root=tmp_path)
    with pytest.raises(InputError, match=r"cifar10_mini.npz, which should hold the CIFAR-10 images, cannot be read"):
        load_cifar10("mini", tmp_path)


def test_impossible_numbers_of_training_images_are_refused(tmp_path):
    np.savez(tmp_path / "cifar10_mini.npz", **mini_arrays())
    with pytest.raises(ConfigError, match="num_train must be at least 1, got 0"):
        load_cifar10("mini", tmp_path, num_train=0)
    with pytest.raises(ConfigError, match=r"4 training images were asked for and .* holds 3"):
        load_cifar10("mini", tmp_path, num_train=4)


def test_standardised_images_are_the_formula_in_float64():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    found = standardise(images)
    assert found.dtype == np.float32
    expected = (images / 255 - np.array(MEAN)) / np.array(STANDARD_DEVIATION)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # float32 of values up to 2.1


def test_rows_of_places_find_each_image_again():
    index = np.array([5, 2, 9998], np.int32)
    np.testing.assert_array_equal(index[rows_at(np.array([9998, 5]), index)], [9998, 5])
    with pytest.raises(InputError, match="1 of 2 wanted test images are not among the 3 at hand, the first at place 7"):
        rows_at(np.array([5, 7]), index)
