"""The images of `image_posteriors`: coarse pixels of one set to learn, and of other sets to be found out of place."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxgeo.data.digits import ImageSet, Source, available_sources, load_digits
from jaxgeo.data.root import data_root
from jaxgeo.data.svhn import FOLDER, TEST_FILE, read_svhn

_COARSE = 7  # pixels each way that images of 28 x 28 become
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MOST_SKLEARN = 1500  # of scikit-learn's 1797 as test images


def coarse(images: Float[np.ndarray, "image row column"], side: int | None = None) -> Float[np.ndarray, "image pixel"]:
    """Vectors of `side` x `side` pixels, each the mean of the area that it covers; float32.

    Without `side` images of 28 x 28 become 7 x 7, and others keep their pixels.
    """
    rows, columns = images.shape[1:]
    if side is None and (rows, columns) == (28, 28):
        side = _COARSE
    new = (rows, columns) if side is None else (side, side)
    left, right = _areas(rows, new[0]), _areas(columns, new[1])
    found = np.einsum("ir,nrc,jc->nij", left, images.astype(np.float64), right, optimize=True)
    return found.reshape(len(images), -1).astype(np.float32)


def _areas(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Share of each old pixel in each new one, rows of sum 1."""
    edges = np.arange(new + 1) * (old / new)
    upper = np.minimum(edges[1:, None], np.arange(1, old + 1)[None])
    lower = np.maximum(edges[:-1, None], np.arange(old)[None])
    return np.maximum(upper - lower, 0.0) * (new / old)


def default_source(root: Path | None = None) -> Source:
    """FashionMNIST where its files are, else scikit-learn's digits."""
    return "fashion_mnist" if "fashion_mnist" in available_sources(root) else "sklearn"


def load_source(source: Source, root: Path | None, seed: int, num_train: int, num_test: int) -> ImageSet:
    """The set that is learnt."""
    return load_digits(source, root, seed=seed, num_train=num_train, num_test=num_test)


def outside_sets(
    source: Source, side: int, root: Path | None, seed: int, count: int
) -> dict[str, Float[np.ndarray, "image pixel"]]:
    """Test images of every other set that is there, by its name: `count` of each or as many as there are.

    MNIST and FashionMNIST where their files are, SVHN in grey where `svhn/test_32x32.mat` is, scikit-learn's digits
    always; never the set that is learnt.

    Args:
        source: the set that is learnt.
        side: pixels each way.
        root: folder of the sets; by default the environment variable JAXGEO_DATA.
        seed: of the choice of images.
        count: images of each set.

    Raises:
        JaxgeoError: files that are there are damaged.
    """
    titles: dict[Source, str] = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "sklearn": "digits"}
    there, found = available_sources(root), {}
    for name, title in titles.items():
        if name != source and name in there:
            most = min(count, _MOST_SKLEARN) if name == "sklearn" else count
            found[title] = coarse(load_digits(name, root, seed=seed, num_test=most).test_images, side)
    folder = data_root(root)
    path = None if folder is None else folder / FOLDER / TEST_FILE
    if path is not None and path.is_file():
        images, _ = read_svhn(path)
        chosen = np.random.default_rng(seed).permutation(len(images))[:count]
        found["SVHN"] = coarse(images[np.sort(chosen)] @ (np.asarray(_LUMA) / 255), side)
    return found
