"""CIFAR-10 from the published binary files, or from small npz files that hold a JPEG copy or a few images of it.

Nothing is downloaded. Under a root folder (an argument, or the environment variable JAXGEO_DATA) three sources are
known: `binary`, the published `cifar-10-batches-bin/data_batch_1.bin` ... `data_batch_5.bin` and `test_batch.bin`;
`jpeg`, `cifar10_jpeg.npz` with all training images in one fixed shuffle and 500 test images of each class; and `mini`,
`cifar10_mini.npz` with 30 training and 10 test images of each class out of the JPEG copy. JPEG pixels differ from the
published ones, so scores come out slightly different.

References:
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), and the page of the data set, section
    "Binary version".
"""

import io
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.root import DATA_VARIABLE, StrPath, data_root
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, ToolMissingError, check_one_of

Source = Literal["binary", "jpeg", "mini"]

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32  # rows = columns
RECORDS = 10_000  # in each published file
MEAN = (0.4914, 0.4822, 0.4465)  # of red, green and blue over the training images, in [0, 1]
STANDARD_DEVIATION = (0.2470, 0.2435, 0.2616)
TRAINING_IMAGES = 40_960
"""training images of the published studies: what 512 devices can share evenly"""

_BINARY_FOLDER = "cifar-10-batches-bin"
_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_NPZ_FILES = {"jpeg": "cifar10_jpeg.npz", "mini": "cifar10_mini.npz"}
_RECORD_BYTES = 1 + 3 * SIZE**2
_TEST_TOTAL = 10_000  # published test images, which `test_index` counts
_ADVICE = "an unbroken copy of it is needed"


class CifarSet(NamedTuple):
    """Images of 8 bits with their classes 0 ... 9 (`CLASS_NAMES`), on the host."""

    train_images: UInt8[np.ndarray, "train 32 32 3"]
    train_labels: Int[np.ndarray, " train"]  # int32
    test_images: UInt8[np.ndarray, "test 32 32 3"]
    test_labels: Int[np.ndarray, " test"]  # int32
    test_index: Int[np.ndarray, " test"]  # place of each test image among the published 10,000


def available_sources(root: StrPath | None = None) -> tuple[Source, ...]:
    """The sources whose files are there, the most complete first."""
    folder = data_root(root)
    if folder is None:
        return ()
    there = {"binary": (folder / _BINARY_FOLDER / _TEST_FILE).is_file()}
    there |= {source: (folder / name).is_file() for source, name in _NPZ_FILES.items()}
    return tuple(source for source in get_args(Source) if there[source])


def load_cifar10(
    source: Source | None = None,
    root: StrPath | None = None,
    *,
    num_train: int | None = None,
    records: int = RECORDS,
) -> CifarSet:
    """Training and test images of one source, each in the order of its files.

    Args:
        source: by default the most complete one that is there.
        root: folder of the files; by default the environment variable JAXGEO_DATA.
        num_train: the first so many training images; by default all.
        records: images in each binary file; the published files have 10,000.

    Raises:
        ConfigError: an unknown source, no root, nothing found there, or more images asked for than there are.
        InputError: a file is missing.
        CorruptFileError: a file is truncated, damaged or holds something else.
        ToolMissingError: JPEG images, and Pillow is not installed.
    """
    folder = data_root(root)
    if folder is None:
        raise ConfigError(
            f"CIFAR-10 is read from a folder: set {DATA_VARIABLE}, or give root=, to the one that holds "
            f"{_BINARY_FOLDER}/ or {' or '.join(_NPZ_FILES.values())}"
        )
    if source is None:
        found = available_sources(folder)
        if not found:
            raise ConfigError(
                f"{folder} holds neither {_BINARY_FOLDER}/{_TEST_FILE} nor {' nor '.join(_NPZ_FILES.values())}; unpack "
                f"the published binary version of CIFAR-10 there"
            )
        source = found[0]
    check_one_of("the source of CIFAR-10", source, Source)
    if num_train is not None and num_train < 1:
        raise ConfigError(f"num_train must be at least 1, got {num_train}")
    if source == "binary":
        return _binary(folder / _BINARY_FOLDER, num_train, records)
    path = folder / _NPZ_FILES[source]
    return _jpeg(path, num_train) if source == "jpeg" else _mini(path, num_train)


def standardise(images: UInt8[np.ndarray, "*batch 32 32 3"]) -> Float[np.ndarray, "*batch 32 32 3"]:
    """Images in [0, 1] less `MEAN`, over `STANDARD_DEVIATION`, channel by channel; float32."""
    mean, deviation = np.asarray(MEAN), np.asarray(STANDARD_DEVIATION)
    scale, offset = (1 / (255 * deviation)).astype(np.float32), (mean / deviation).astype(np.float32)
    return images.astype(np.float32) * scale - offset


def read_binary_batch(
    path: Path, records: int = RECORDS
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, "n"]]:
    """Images and labels (int32) of one published file: records of a label byte and the red, green and blue planes.

    Raises:
        InputError: there is no such file.
        CorruptFileError: it does not have the bytes of so many records, or a label above 9.
    """
    content = read_file(path, "CIFAR-10 images")
    if len(content) != records * _RECORD_BYTES:
        problem = "truncated" if len(content) < records * _RECORD_BYTES else "longer than it should be"
        raise CorruptFileError(
            f"{path} is {problem}: {records} records of {_RECORD_BYTES} bytes are {records * _RECORD_BYTES}, the file "
            f"has {len(content)}; {_ADVICE}"
        )
    table = np.frombuffer(content, np.uint8).reshape(records, _RECORD_BYTES)
    labels = _labels(path, table[:, 0], records)
    planes = table[:, 1:].reshape(records, 3, SIZE, SIZE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _binary(folder: Path, num_train: int | None, records: int) -> CifarSet:
    wanted = _at_most(num_train, len(_TRAIN_FILES) * records, folder)
    # Only the files that are needed are opened.
    parts = [read_binary_batch(folder / name, records) for name in _TRAIN_FILES[: -(-wanted // records)]]
    images, labels = (np.concatenate(arrays)[:wanted] for arrays in zip(*parts, strict=True))
    test_images, test_labels = read_binary_batch(folder / _TEST_FILE, records)
    return CifarSet(images, labels, test_images, test_labels, np.arange(records, dtype=np.int32))


def _mini(path: Path, num_train: int | None) -> CifarSet:
    names = ("x_train", "y_train", "x_test", "y_test", "i_test")
    arrays = parse_npz(read_file(path, "CIFAR-10 images"), path, names)
    for name in ("x_train", "x_test"):
        if arrays[name].dtype != np.uint8 or arrays[name].shape[1:] != (SIZE, SIZE, 3):
            raise CorruptFileError(
                f"{path} holds {name} of {arrays[name].dtype} and shape {arrays[name].shape}, expected uint8 images of "
                f"shape (n, {SIZE}, {SIZE}, 3); {_ADVICE}"
            )
    train_labels = _labels(path, arrays["y_train"], len(arrays["x_train"]))
    wanted = _at_most(num_train, len(train_labels), path)
    return CifarSet(
        arrays["x_train"][:wanted],
        train_labels[:wanted],
        arrays["x_test"],
        _labels(path, arrays["y_test"], len(arrays["x_test"])),
        _places(path, arrays["i_test"], len(arrays["x_test"])),
    )


def _jpeg(path: Path, num_train: int | None) -> CifarSet:
    names = ("jpeg_train", "off_train", "y_train", "jpeg_test", "off_test", "y_test", "i_test")
    arrays = parse_npz(read_file(path, "CIFAR-10 images"), path, names)
    counts = {}
    for part in ("train", "test"):
        counts[part] = arrays[f"off_{part}"].size - 1
        _check_offsets(path, part, arrays[f"off_{part}"], arrays[f"jpeg_{part}"])
    train_labels = _labels(path, arrays["y_train"], counts["train"])
    wanted = _at_most(num_train, counts["train"], path)
    return CifarSet(
        _decode(path, "train", arrays["jpeg_train"], arrays["off_train"][: wanted + 1]),
        train_labels[:wanted],
        _decode(path, "test", arrays["jpeg_test"], arrays["off_test"]),
        _labels(path, arrays["y_test"], counts["test"]),
        _places(path, arrays["i_test"], counts["test"]),
    )


def _check_offsets(path: Path, part: str, offsets: np.ndarray, content: np.ndarray) -> None:
    # As signed numbers: the difference of two unsigned ones is never negative.
    whole = offsets.ndim == 1 and offsets.size > 1 and content.dtype == np.uint8 and content.ndim == 1
    whole = whole and np.issubdtype(offsets.dtype, np.integer)
    if not (
        whole and offsets[0] == 0 and offsets[-1] == content.size and (np.diff(offsets.astype(np.int64)) > 0).all()
    ):
        raise CorruptFileError(
            f"{path} has off_{part} that do not cut jpeg_{part} ({content.size} values of {content.dtype}) into "
            f"images: rising integers from 0 to that number are needed; {_ADVICE}"
        )


def _decode(path: Path, part: str, content: np.ndarray, offsets: np.ndarray) -> UInt8[np.ndarray, "n 32 32 3"]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolMissingError(f"{path} holds JPEG images, which Pillow decodes: pip install pillow") from error
    images = np.empty((len(offsets) - 1, SIZE, SIZE, 3), np.uint8)
    for k in range(len(images)):
        try:
            with Image.open(io.BytesIO(content[offsets[k] : offsets[k + 1]].tobytes()), formats=["JPEG"]) as picture:
                image = np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise CorruptFileError(f"{path}: {part} image {k} is no whole JPEG ({error}); {_ADVICE}") from error
        if image.shape != images.shape[1:]:
            raise CorruptFileError(
                f"{path}: {part} image {k} is of shape {image.shape}, expected {images.shape[1:]}; {_ADVICE}"
            )
        images[k] = image
    return images


def _labels(path: Path, values: np.ndarray, count: int) -> Int[np.ndarray, " n"]:
    return _integers(path, "labels", values, count, len(CLASS_NAMES))


def _places(path: Path, values: np.ndarray, count: int) -> Int[np.ndarray, " n"]:
    return _integers(path, "places in the published test set", values, count, _TEST_TOTAL)


def _integers(path: Path, what: str, values: np.ndarray, count: int, end: int) -> Int[np.ndarray, " n"]:
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise CorruptFileError(
            f"{path} has {what} of shape {values.shape} and {values.dtype} for {count} images, expected one integer "
            f"for each; {_ADVICE}"
        )
    bad = (values < 0) | (values >= end)
    if bad.any():
        first = int(np.argmax(bad))
        raise CorruptFileError(
            f"{path} has {what} outside of 0 ... {end - 1}: {int(values[first])} at image {first}, {int(bad.sum())} in "
            f"all; it is damaged or no CIFAR-10, and {_ADVICE}"
        )
    return values.astype(np.int32)


def _at_most(num_train: int | None, there: int, where: Path) -> int:
    if num_train is not None and num_train > there:
        raise ConfigError(f"{num_train} training images were asked for and {where} holds {there}; ask for at most that")
    return there if num_train is None else num_train


def rows_at(places: Int[np.ndarray, " wanted"], test_index: Int[np.ndarray, " test"]) -> Int[np.ndarray, " wanted"]:
    """Rows of `test_index` at which the wanted places of the published test set stand.

    Raises:
        InputError: one of them is not there.
    """
    row_of = np.full(_TEST_TOTAL, -1)
    row_of[test_index] = np.arange(len(test_index))
    rows = row_of[places]
    if (rows < 0).any():
        raise InputError(
            f"{int((rows < 0).sum())} of {len(places)} wanted test images are not among the {len(test_index)} at hand, "
            f"the first at place {int(np.asarray(places)[rows < 0][0])} of the published test set"
        )
    return rows
