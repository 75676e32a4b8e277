"""Small labelled images: scikit-learn's bundled digits, and the IDX sets MNIST and FashionMNIST from a folder.

Nothing is downloaded. The IDX sets are looked for under a root folder (an argument, or the environment variable
JAXGEO_DATA) as `mnist/` and `fashion-mnist/` with the published names, compressed or not.
"""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from jaxgeo.data.checks import check_images, check_labels, check_test_size
from jaxgeo.data.idx import read_idx
from jaxgeo.data.root import DATA_VARIABLE, StrPath, data_root
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_one_of, check_whole

Source = Literal["sklearn", "mnist", "fashion_mnist"]

NUM_CLASSES = 10
DEFAULT_SKLEARN_TEST = 360  # of 1,797: a fifth
_PARTS = "train", "t10k"
_FOLDERS = {"mnist": "mnist", "fashion_mnist": "fashion-mnist"}


class ImageSet(NamedTuple):
    """Images in [0, 1] with their classes 0 ... 9, on the host."""

    train_images: Float[np.ndarray, "train row column"]  # float32
    train_labels: Int[np.ndarray, " train"]  # int32
    test_images: Float[np.ndarray, "test row column"]
    test_labels: Int[np.ndarray, " test"]


def available_sources(root: StrPath | None = None) -> tuple[Source, ...]:
    """The sources whose files are there."""
    folder = data_root(root)
    found = [s for s in _FOLDERS if folder is not None and _find(folder / _FOLDERS[s], "t10k-images-idx3-ubyte")]
    return tuple(source for source in get_args(Source) if source == "sklearn" or source in found)


def check_source(source: Source, root: StrPath | None = None) -> None:
    """Look for the files of a source before long work; they are not read.

    Raises:
        ConfigError: unknown source, or no folder is named.
        InputError: a file is absent.
    """
    check_one_of("the source of images", source, Source)
    if source != "sklearn":
        for part in _PARTS:
            _idx_paths(source, root, part)


def load_digits(
    source: Source = "sklearn",
    root: StrPath | None = None,
    *,
    seed: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
) -> ImageSet:
    """Training and test images of one source.

    scikit-learn's 1,797 images (8 x 8) are split at random, the IDX sets (28 x 28) as published. Smaller numbers take
    a random part in which the classes keep their shares. Equal arguments give equal arrays in equal order.

    Args:
        source: which set.
        root: folder of the IDX sets; by default the environment variable JAXGEO_DATA.
        seed: of the split and of the choice of a part.
        num_train: training images; by default all (of scikit-learn's, all that are not test images).
        num_test: test images; by default all (of scikit-learn's, 360).

    Raises:
        ConfigError: unknown source, a negative seed, or no folder is named.
        InputError: the files are absent, or more images are asked for than there are, or fewer test images than
            classes.
        CorruptFileError: a file is damaged.
    """
    check_source(source, root)
    if num_train is not None:
        check_whole("the number of training images", num_train, error=InputError)
    check_whole("the seed", seed, 0)
    if num_test is not None:
        check_test_size(num_test, NUM_CLASSES)
    rng = np.random.default_rng(seed)
    if source == "sklearn":
        images, labels = _read_sklearn()
        test = stratified_indices(labels, num_test or DEFAULT_SKLEARN_TEST, rng)
        rest = np.setdiff1d(np.arange(len(labels)), test)
        rest = rest[stratified_indices(labels[rest], num_train or len(rest), rng)]
        result = ImageSet(images[rest], labels[rest], images[test], labels[test])
    else:
        parts = []
        for name, number in zip(_PARTS, (num_train, num_test), strict=True):
            images, labels = _read_idx_pair(source, root, name)
            if number is not None:
                chosen = stratified_indices(labels, number, rng)
                images, labels = images[chosen], labels[chosen]
            parts += [images, labels]
        result = ImageSet(*parts)
    for part, labels in ((result.train_images, result.train_labels), (result.test_images, result.test_labels)):
        check_images(part)
        check_labels(labels, NUM_CLASSES, len(part))
    return result


def stratified_indices(labels: Int[np.ndarray, " image"], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different indices in random order, each class with its share to within one image.

    Raises:
        InputError: there are fewer labels than `count`.
    """
    if not 0 <= count <= len(labels):
        raise InputError(f"{count} images are asked for, but there are {len(labels)}")
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes * count / len(labels)
    taken = np.floor(share).astype(int)
    # The largest remainders get what rounding down left over; ties go to the smaller class number.
    taken[np.argsort(taken - share, kind="stable")[: count - taken.sum()]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:number] for label, number in zip(classes, taken, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def _read_sklearn() -> tuple[np.ndarray, np.ndarray]:
    # Only this source needs scikit-learn, whose import takes a second.
    import sklearn.datasets

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    return np.asarray(pixels, np.float32).reshape(-1, 8, 8) / np.float32(16), np.asarray(labels, np.int32)


def _idx_paths(source: str, root: StrPath | None, part: str) -> tuple[Path, Path]:
    folder = data_root(root)
    if folder is None:
        raise ConfigError(
            f"{source} is read from files: give its root folder, or set {DATA_VARIABLE} to the folder that holds "
            f"{_FOLDERS[source]}/; the source 'sklearn' needs no files"
        )
    found = []
    for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        path = _find(folder / _FOLDERS[source], stem)
        if path is None:
            raise InputError(
                f"{source} needs {folder / _FOLDERS[source] / stem}.gz (or the same without .gz), which is not there; "
                f"put the published IDX files there, or take the source 'sklearn', which needs none"
            )
        found.append(path)
    return found[0], found[1]


def _read_idx_pair(source: str, root: StrPath | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    image_path, label_path = _idx_paths(source, root, part)
    images = read_idx(image_path, (None, 28, 28), np.dtype(np.uint8))
    labels = read_idx(label_path, (None,), np.dtype(np.uint8))
    if len(images) != len(labels):
        raise InputError(f"{source} has {len(images)} images but {len(labels)} labels in its {part} files")
    if (highest := labels.max(initial=0)) >= NUM_CLASSES:
        raise CorruptFileError(
            f"{label_path} holds the label {highest}, expected 0 to {NUM_CLASSES - 1}; the published file is needed"
        )
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int32)


def _find(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)
