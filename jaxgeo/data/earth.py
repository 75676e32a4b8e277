"""The Earth's climate on a HEALPix map: colour and relief in, climate classes out.

One globe, so there are no images to hold back: parts of the sphere are. The labels of some of the 48 pixels at nside 2
("regions") are removed; the others make the folds of a cross-validation. Neighbouring pixels look alike, and a fold of
random pixels would judge memory.

Classes: 0 is the ocean (and all else that the climate map leaves out), then either the five main groups of Koeppen and
Geiger, or their thirty classes.

References:
    Kottek et al., "World Map of the Koeppen-Geiger climate classification updated", Meteorol. Z. 15 (2006) 259;
    Rubel and Kottek (2010); Rubel et al. (2016).
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Integer

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.root import StrPath, named_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_one_of
from jaxgeo.grids.healpix import check_nside, nside_of

Classes = Literal["main", "koeppen"]

FILE_NAME = "earth_climate.npz"
UNLABELLED = 255
REGION_NSIDE = 2
NUM_REGIONS = 12 * REGION_NSIDE**2
CHANNELS = ("red", "green", "blue", "elevation")

_KEYS = {"main": ("hp_main", "main_names"), "koeppen": ("hp_koppen", "class_names")}


class EarthClimate(NamedTuple):
    """A globe in NESTED order."""

    images: Float32[np.ndarray, "pixel 4"]  # red, green, blue, elevation: (value - mean) / scale
    labels: Int32[np.ndarray, " pixel"]  # 255 where removed
    class_names: tuple[str, ...]
    nside: int
    means: Float64[np.ndarray, " 4"]  # over all pixels, labelled or not; 0..255 and metres
    scales: Float64[np.ndarray, " 4"]  # standard deviations, likewise


def load_earth(root: StrPath | None = None, classes: Classes = "main") -> EarthClimate:
    """Colour and relief, each channel with mean 0 and standard deviation 1 over the whole sphere, and climate classes.

    The statistics are taken over all pixels, also those without labels: they use no label, and every pixel is seen.

    Args:
        root: folder of `earth_climate.npz`; by default the environment variable JAXGEO_DATA.
        classes: six (ocean and A to E), or 31.

    Raises:
        ConfigError: unknown classes, or no folder is named.
        InputError: there is no such file.
        CorruptFileError: it is damaged, or its arrays do not fit together.
    """
    check_one_of("the classes of the Earth", classes, Classes)
    path = named_file("Earth's climate", FILE_NAME, root)
    label_key, name_key = _KEYS[classes]
    arrays = parse_npz(read_file(path, "Earth's climate"), path, ("hp_rgb", "hp_elev_m", label_key, name_key, "nside"))
    colors, elevation, labels = arrays["hp_rgb"], arrays["hp_elev_m"], arrays[label_key]
    names, nside = arrays[name_key], arrays["nside"]
    if nside.ndim or not np.issubdtype(nside.dtype, np.integer) or names.ndim != 1 or names.dtype.kind != "U":
        raise CorruptFileError(f"{path} must hold nside as one integer and the class names as texts")
    try:
        check_nside(int(nside))
    except ConfigError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    pixels = 12 * int(nside) ** 2
    for name, array, shape in (("hp_rgb", colors, (pixels, 3)), ("hp_elev_m", elevation, (pixels,))):
        _check_integers(array, name, shape, path)
    _check_integers(labels, label_key, (pixels,), path)
    bad = (labels >= len(names)) & (labels != UNLABELLED)
    if bad.any() or int(labels.min()) < 0:
        raise CorruptFileError(f"{path} has labels beyond its {len(names)} classes in {int(bad.sum())} pixels")
    channels = np.column_stack([colors, elevation]).astype(np.float64)
    means, scales = channels.mean(0), channels.std(0)
    if not (scales > 0).all():
        raise CorruptFileError(f"{path} has a channel of colour or relief that is the same everywhere")
    images = ((channels - means[None]) / scales[None]).astype(np.float32)
    return EarthClimate(images, labels.astype(np.int32), tuple(names.tolist()), int(nside), means, scales)


def pixel_regions(nside: int) -> Int[np.ndarray, " pixel"]:
    """The region 0..47 (pixel at nside 2, NESTED) of every pixel of a NESTED map.

    Raises:
        InputError: nside below 2: a pixel would lie in several regions.
    """
    if nside < REGION_NSIDE:
        raise InputError(f"regions are pixels at nside {REGION_NSIDE}, so a map needs at least that, got {nside}")
    return np.arange(12 * nside**2) // (nside // REGION_NSIDE) ** 2


def region_folds(
    labels: Integer[np.ndarray, " pixel"], num_folds: int, seed: int = 0
) -> tuple[tuple[Bool[np.ndarray, " pixel"], Bool[np.ndarray, " pixel"]], ...]:
    """(training, validation) masks of each fold; every labelled region validates once and trains otherwise.

    Folds get equal numbers of regions, to within one, dealt at random by the seed. Then regions of two folds are
    exchanged, always the pair that lowers the imbalance most, until none does. The imbalance is the sum over folds and
    classes of (share of the class's pixels in the fold - 1 / folds)^2, so rare classes count like common ones. Equal
    arguments give equal folds. Pixels without labels are in no mask, nor are regions without labels.

    Args:
        labels: NESTED; 255 is unlabelled.
        num_folds: at least 2.
        seed: of the first deal.

    Raises:
        ConfigError: fewer than 2 folds.
        InputError: no map, labels below 0, or fewer labelled regions than folds.
    """
    if num_folds < 2:
        raise ConfigError(f"at least two folds are needed, so that each can train on the rest, got {num_folds}")
    regions = pixel_regions(nside_of(len(labels)))
    if int(labels.min()) < 0:
        raise InputError(f"labels must be 0 or more, with {UNLABELLED} for unlabelled, got {int(labels.min())}")
    labelled = labels != UNLABELLED
    present = np.unique(regions[labelled])
    if len(present) < num_folds:
        raise InputError(f"{num_folds} folds need as many labelled regions, got {len(present)}; take fewer folds")
    classes, codes = np.unique(labels[labelled], return_inverse=True)
    counts = np.zeros((NUM_REGIONS, len(classes)))
    np.add.at(counts, (regions[labelled], codes), 1)
    shares = (counts / counts.sum(0, keepdims=True))[present]
    fold_of = np.full(NUM_REGIONS, -1)
    fold_of[present] = _balanced(shares, num_folds, np.random.default_rng(seed))
    pixel_fold = np.where(labelled, fold_of[regions], -1)
    return tuple((labelled & (pixel_fold != fold), labelled & (pixel_fold == fold)) for fold in range(num_folds))


def _balanced(shares: np.ndarray, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each region, from its shares (region, class)."""
    folds = np.empty(len(shares), int)
    folds[rng.permutation(len(shares))] = np.arange(len(shares)) % num_folds
    first, second = np.triu_indices(len(shares), 1)
    while True:
        load = np.stack([shares[folds == fold].sum(0) for fold in range(num_folds)])
        # Exchanging regions a and b moves d = b - a into a's fold: |A + d|^2 + |B - d|^2 - |A|^2 - |B|^2.
        # The target 1 / folds drops out, since what one fold gains the other loses.
        d = shares[second] - shares[first]
        gain = 2 * (d * (load[folds[first]] - load[folds[second]])).sum(1) + 2 * (d * d).sum(1)
        gain[folds[first] == folds[second]] = 0
        best = int(np.argmin(gain))
        # Rounding could otherwise exchange equal regions for ever.
        if gain[best] > -1e-12:
            return folds
        folds[first[best]], folds[second[best]] = folds[second[best]], folds[first[best]]


def _check_integers(array: np.ndarray, name: str, shape: tuple[int, ...], path: Path) -> None:
    if array.shape != shape or not np.issubdtype(array.dtype, np.integer):
        raise CorruptFileError(f"{path} must hold {name} as integers of shape {shape}, got {array.dtype} {array.shape}")
