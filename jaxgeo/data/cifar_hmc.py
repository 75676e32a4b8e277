"""Published predictions of Hamiltonian Monte Carlo on CIFAR-10's test images, and people's votes on the same images.

The predictive of the ResNet-20 with filter response normalisation and swish, as given out with the NeurIPS 2021
competition on approximate inference. `load_hmc` takes either of two forms: `cifar10_hmc.npz`, 5,000 of the 10,000 rows
in the order of the test batch, or the competition's `probs.csv`, all rows in the order of TensorFlow Datasets, which
`read_probabilities` puts into that of the test batch without TensorFlow.

TensorFlow Datasets writes examples sorted by a 128-bit hash: the MD5 of the split's name followed by the example's key.
CIFAR's key is the place of the image in the published file, as decimal digits ("test17", without separator or zeros;
the feature "id", "test_00017", is not hashed). With this order the rows of `probs.csv` are, to the last bit of float32,
those of `cifar10_hmc.npz`; any other order gives an accuracy of about a tenth, which `check_order` refuses.

References:
    Izmailov et al., "What Are Bayesian Neural Network Posteriors Really Like?", arXiv:2104.14421.
    Wilson et al., "Evaluating Approximate Inference in Bayesian Deep Learning", PMLR 176 (2022).
    Peterson et al., "Human uncertainty makes classification more robust", arXiv:1908.07086 (CIFAR-10H).
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Integer, UInt8

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.cifar import load_cifar10, rows_at
from jaxgeo.data.root import StrPath, find_file, named_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_one_of

Order = Literal["tensorflow_datasets", "test_batch"]

HMC_FILE = "cifar10_hmc.npz"
TABLE_FILE = "probs.csv"
HUMAN_FILE = "cifar10h_human.npz"
NUM_CLASSES = 10
NUM_TEST = 10_000
PUBLISHED_ACCURACY = 0.9144
LEAST_ACCURACY = 0.5
"""far above a tenth, what images in a wrong order have, and far below what is published"""

_SUM_TOLERANCE = 1e-3


class HmcPredictions(NamedTuple):
    """Mean predictive of Hamiltonian Monte Carlo on images of the test batch."""

    probabilities: Float32[np.ndarray, "image 10"]
    labels: Int32[np.ndarray, " image"]
    test_index: Int32[np.ndarray, " image"]  # place among the published 10,000


class HumanVotes(NamedTuple):
    """How many people called each image what."""

    counts: Int32[np.ndarray, "image 10"]
    labels: Int32[np.ndarray, " image"]
    test_index: Int32[np.ndarray, " image"]

    @property
    def probabilities(self) -> Float64[np.ndarray, "image 10"]:
        """Shares of the votes."""
        return self.counts / self.counts.sum(1, keepdims=True)


def load_hmc(root: StrPath | None = None) -> HmcPredictions:
    """The published predictions, checked against labels: of `cifar10_hmc.npz` or, where it is not, of `probs.csv`.

    Labels of the former stand in the file; the latter, all 10,000 images in the published order, is checked against
    those of the most complete CIFAR-10 in the folder, and only rows whose image is there are returned.

    Args:
        root: folder of the files; by default the environment variable JAXGEO_DATA.

    Raises:
        ConfigError: no folder is named, or no CIFAR-10 beside `probs.csv`.
        InputError: there is neither file, or its rows are in another order than the labels.
        CorruptFileError: it is damaged, or holds other shapes or types.
        ToolMissingError: the only CIFAR-10 beside `probs.csv` has JPEG images, and Pillow is not installed.
    """
    table = find_file(TABLE_FILE, root)
    if table is not None and find_file(HMC_FILE, root) is None:
        cifar = load_cifar10(root=root, num_train=1)
        probabilities = read_probabilities(table)[cifar.test_index]
        check_order(probabilities, cifar.test_labels)
        return HmcPredictions(probabilities.astype(np.float32), cifar.test_labels, cifar.test_index)
    path, arrays = _arrays(root, HMC_FILE, f"predictions of Hamiltonian Monte Carlo (as may {TABLE_FILE})", "hmc_probs")
    probabilities = arrays["hmc_probs"]
    _check_probabilities(probabilities, path)
    labels = arrays["y_test"].astype(np.int32)
    check_order(probabilities, labels)
    return HmcPredictions(probabilities.astype(np.float32), labels, arrays["i_test"].astype(np.int32))


def load_hmc_images(
    root: StrPath | None = None,
) -> tuple[HmcPredictions, UInt8[np.ndarray, "image 32 32 3"]]:
    """The published predictions and the images that they are of, row by row, from the most complete CIFAR-10 there.

    Only rows whose image is there are returned (all 5,000 of `cifar10_hmc.npz` with the JPEG copy, which has the same
    images).

    Raises:
        ConfigError: no folder is named, or no CIFAR-10 lies in it.
        InputError: a file is missing, or labels of image and prediction differ.
        CorruptFileError: a file is damaged.
        ToolMissingError: JPEG images, and Pillow is not installed.
    """
    predictions = load_hmc(root)
    cifar = load_cifar10(root=root, num_train=1)
    kept = np.isin(predictions.test_index, cifar.test_index)
    predictions = HmcPredictions(*(x[kept] for x in predictions))
    rows = rows_at(predictions.test_index, cifar.test_index)
    if not np.array_equal(cifar.test_labels[rows], predictions.labels):
        raise InputError(
            f"labels of {HMC_FILE} and of CIFAR-10's images differ; both must be of the test batch's order"
        )
    return predictions, cifar.test_images[rows]


def load_human_votes(root: StrPath | None = None) -> HumanVotes:
    """About fifty votes on each of the same 5,000 images (CIFAR-10H; not for commercial use).

    Args:
        root: folder of `cifar10h_human.npz`; by default the environment variable JAXGEO_DATA.

    Raises:
        ConfigError: no folder is named.
        InputError: there is no such file, or its rows are in another order than its labels.
        CorruptFileError: it is damaged, or holds other shapes or types.
    """
    path, arrays = _arrays(root, HUMAN_FILE, "votes of people", "human_counts")
    counts, labels = arrays["human_counts"], arrays["y_test"].astype(np.int32)
    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or not (counts.sum(1) > 0).all():
        raise CorruptFileError(f"{path} must hold human_counts as integers of at least 0, some in each row")
    votes = HumanVotes(counts.astype(np.int32), labels, arrays["i_test"].astype(np.int32))
    check_order(votes.probabilities, labels)
    return votes


def read_probabilities(
    path: Path, order: Order = "tensorflow_datasets", num_images: int = NUM_TEST
) -> Float64[np.ndarray, "image 10"]:
    """The rows of `probs.csv` in the order of the test batch; numbers apart by blanks (as published) or commas.

    Nothing in the file tells its order; `check_order` does, where labels are at hand.

    Args:
        path: the file.
        order: of its rows.
        num_images: rows that it must have.

    Raises:
        ConfigError: an unknown order.
        InputError: there is no such file.
        CorruptFileError: other rows, or rows that are no distribution over 10 classes.
    """
    check_one_of("order", order, Order)
    content = read_file(path, "predictions of Hamiltonian Monte Carlo")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file, whose shape is refused below
            table = np.loadtxt(io.StringIO(content.decode("ascii").replace(",", " ")), dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise CorruptFileError(
            f"{path} is no table of numbers ({error}); the competition's probs.csv is needed, {NUM_CLASSES} numbers in "
            f"each line"
        ) from error
    if table.shape != (num_images, NUM_CLASSES):
        raise CorruptFileError(
            f"{path} must have {num_images} lines of {NUM_CLASSES} probabilities, got an array of shape {table.shape}"
        )
    _check_probabilities(table, path)
    if order == "test_batch":
        return table
    restored = np.empty_like(table)
    restored[tensorflow_datasets_order(num_images)] = table
    return restored


def tensorflow_datasets_order(num_examples: int, split: str = "test") -> Int[np.ndarray, " example"]:
    """Places, in the published file, of the examples as TensorFlow Datasets yields them unshuffled.

    Sorted by the MD5 of the split's name followed by the place in decimal digits, as 128-bit numbers. For data sets
    whose key is that place, such as CIFAR-10 and CIFAR-100.

    Args:
        num_examples: in the split: 10,000 or 50,000.
        split: "test" or "train".

    Raises:
        ConfigError: no examples.
    """
    if num_examples < 1:
        raise ConfigError(f"an order needs at least one example, got {num_examples}")
    salt = hashlib.md5(split.encode(), usedforsecurity=False)

    def hashed(place: int) -> bytes:
        salted = salt.copy()
        salted.update(str(place).encode())
        # Of equally many bytes, the highest first: in the order of the numbers.
        return salted.digest()

    return np.asarray(sorted(range(num_examples), key=hashed))


def check_order(probabilities: Float[np.ndarray, "image class"], labels: Integer[np.ndarray, " labelled"]) -> None:
    """Refuse predictions whose rows are of other images than the labels: they are right by chance only.

    Raises:
        InputError: not as many labels, or an accuracy below one half (published is 0.9144).
    """
    if len(probabilities) != len(labels) or not len(labels):
        raise InputError(
            f"{len(probabilities)} rows of predictions need as many labels, of at least one image, got {len(labels)}"
        )
    accuracy = float((probabilities.argmax(1) == labels).mean())
    if accuracy < LEAST_ACCURACY:
        raise InputError(
            f"predictions and labels are not of the same images: the accuracy is {accuracy:.4f}, where the published "
            f"one is {PUBLISHED_ACCURACY} and rows in a wrong order have about 0.1; probs.csv is in the order of "
            f"TensorFlow Datasets, from which read_probabilities(path) restores that of the test batch"
        )


def as_log_probs(probabilities: Float[np.ndarray, "image class"]) -> Float32[np.ndarray, "1 image class"]:
    """Logarithms of normalised rows as one draw, in float32: what `jaxgeo.metrics` takes; log 0 is minus infinity."""
    exact = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.log(exact / exact.sum(1, keepdims=True)).astype(np.float32)[None]


def _arrays(root: StrPath | None, name: str, what: str, key: str) -> tuple[Path, dict[str, np.ndarray]]:
    path = named_file(what, name, root)
    arrays = parse_npz(read_file(path, what), path, ("i_test", "y_test", key))
    table, labels, places = arrays[key], arrays["y_test"], arrays["i_test"]
    if table.ndim != 2 or table.shape[1] != NUM_CLASSES or not len(table):
        raise CorruptFileError(f"{path} must hold {key} with {NUM_CLASSES} classes for each image, got {table.shape}")
    for field, values, end in (("y_test", labels, NUM_CLASSES), ("i_test", places, NUM_TEST)):
        if values.shape != table.shape[:1] or not np.issubdtype(values.dtype, np.integer):
            raise CorruptFileError(
                f"{path} must hold {field} as {len(table)} integers, got {values.dtype} {values.shape}"
            )
        if int(values.min()) < 0 or int(values.max()) >= end:
            raise CorruptFileError(
                f"{path} must hold {field} from 0 to {end - 1}, got {values.min()} to {values.max()}"
            )
    if len(np.unique(places)) != len(places):
        raise CorruptFileError(f"{path} names {len(places) - len(np.unique(places))} test images in i_test twice")
    return path, arrays


def _check_probabilities(table: np.ndarray, path: Path) -> None:
    if table.dtype.kind != "f" or not np.isfinite(table).all() or (table < 0).any():
        raise CorruptFileError(f"{path} must hold finite probabilities of at least 0, got {table.dtype}")
    totals = table.sum(1, dtype=np.float64)
    worst = int(np.argmax(np.abs(totals - 1)))
    if abs(totals[worst] - 1) > _SUM_TOLERANCE:
        raise CorruptFileError(
            f"{path} must hold rows that sum to 1 within {_SUM_TOLERANCE:g}, row {worst} sums to {totals[worst]:.6g}"
        )
