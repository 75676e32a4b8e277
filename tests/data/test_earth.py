"""The Earth's climate: standardised channels, labels, folds of whole regions; the real globe where it is at hand."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.data.earth import FILE_NAME, UNLABELLED, load_earth, pixel_regions, region_folds
from jaxgeo.data.root import find_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

# Of the environment at collection, so that a test never changes what another one reads.
REAL = [path for path in [find_file(FILE_NAME)] if path is not None]
NSIDE = 4
PIXELS = 12 * NSIDE**2
MAIN_NAMES = ["ocean", "A", "B", "C", "D", "E"]


def globe(seed=0):
    """Arrays of a small file: regions 3 and 40 have no labels."""
    rng = np.random.default_rng(seed)
    main = rng.integers(0, 6, PIXELS).astype(np.uint8)
    main[np.isin(np.arange(PIXELS) // 4, [3, 40])] = UNLABELLED
    return {
        "hp_rgb": rng.integers(0, 256, (PIXELS, 3), dtype=np.uint8),
        "hp_elev_m": rng.integers(-8000, 5000, PIXELS).astype(np.int16),
        "hp_main": main,
        "hp_koppen": np.where(main == UNLABELLED, main, main * 5),
        "main_names": np.array(MAIN_NAMES),
        "class_names": np.array([f"K{i}" for i in range(31)]),
        "nside": np.array(NSIDE),
    }


def imbalance(labels, folds):
    kept = labels != UNLABELLED
    classes = np.unique(labels[kept])
    shares = np.array([[(labels[v] == c).sum() / (labels == c).sum() for c in classes] for _, v in folds])
    return ((shares - 1 / len(folds)) ** 2).sum()


@pytest.mark.parametrize(("classes", "names", "factor"), [("main", 6, 1), ("koeppen", 31, 5)])
def test_channels_are_standardised_over_the_whole_sphere_and_go_back(tmp_path, classes, names, factor):
    arrays = globe()
    np.savez(tmp_path / "earth_climate.npz", **arrays)
    earth = load_earth(tmp_path, classes)
    assert earth.images.dtype == np.float32
    assert earth.nside == NSIDE
    assert len(earth.class_names) == names
    np.testing.assert_allclose(earth.images.mean(0), 0, atol=1e-6)  # float32
    np.testing.assert_allclose(earth.images.std(0), 1, rtol=1e-6)
    back = earth.images * earth.scales + earth.means
    np.testing.assert_allclose(back, np.column_stack([arrays["hp_rgb"], arrays["hp_elev_m"]]), rtol=1e-5, atol=1e-3)
    expected = np.where(arrays["hp_main"] == UNLABELLED, UNLABELLED, arrays["hp_main"].astype(int) * factor)
    np.testing.assert_array_equal(earth.labels, expected)
    assert earth.labels.dtype == np.int32


def test_regions_are_the_parents_that_healpy_says():
    for nside in (2, 4, 16):
        vectors = healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True)
        np.testing.assert_array_equal(pixel_regions(nside), healpy.vec2pix(2, *vectors, nest=True))
    with pytest.raises(InputError, match="needs at least that, got 1"):
        pixel_regions(1)


@given(seed=st.integers(0, 2**31 - 1), num_folds=st.integers(2, 7))
def test_every_labelled_region_validates_once_and_trains_otherwise(seed, num_folds):
    labels = globe(seed)["hp_main"]
    labels[5] = UNLABELLED  # one pixel of a labelled region
    folds = region_folds(labels, num_folds, seed)
    regions = pixel_regions(NSIDE)
    labelled = labels != UNLABELLED
    np.testing.assert_array_equal(sum(validation.astype(int) for _, validation in folds), labelled)
    validating = [set(regions[validation].tolist()) for _, validation in folds]
    for (train, validation), own in zip(folds, validating, strict=True):
        np.testing.assert_array_equal(train ^ validation, labelled)
        assert not set(regions[train].tolist()) & own
    sizes = [len(own) for own in validating]
    assert sum(sizes) == 46
    assert max(sizes) - min(sizes) <= 1


@given(seed=st.integers(0, 2**31 - 1))
def test_no_exchange_of_two_regions_balances_better(seed):
    labels = globe(seed)["hp_main"]
    folds = region_folds(labels, 3, seed)
    again = region_folds(labels, 3, seed)
    np.testing.assert_array_equal(folds, again)
    regions = pixel_regions(NSIDE)
    reached = imbalance(labels, folds)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        a, b = rng.permutation(3)[:2]
        one, other = (rng.choice(regions[folds[fold][1]]) for fold in (a, b))
        exchanged = [validation.copy() for _, validation in folds]
        for here, there, region in ((a, b, one), (b, a, other)):
            exchanged[here][regions == region] = False
            exchanged[there][regions == region] = True
        assert imbalance(labels, [(None, v) for v in exchanged]) >= reached - 1e-12


def test_seeds_deal_differently():
    labels = globe()["hp_main"]
    assert not np.array_equal(region_folds(labels, 3, 0), region_folds(labels, 3, 1))


def test_a_class_that_fills_regions_of_its_own_is_dealt_evenly():
    labels = np.zeros(PIXELS, np.int32)
    labels[pixel_regions(NSIDE) < 4] = 1
    for _, validation in region_folds(labels, 4):
        assert (labels[validation] == 1).sum() == 4
        assert validation.sum() == 48


@pytest.mark.parametrize(
    ("labels", "num_folds", "error", "message"),
    [
        (np.zeros(PIXELS, int), 1, ConfigError, "at least two folds"),
        (np.zeros(PIXELS + 1, int), 2, InputError, "full HEALPix map"),
        (np.full(PIXELS, -1), 2, InputError, "0 or more"),
        (np.full(PIXELS, UNLABELLED), 2, InputError, "2 folds need as many labelled regions, got 0"),
        (np.zeros(48, int), 49, InputError, "49 folds need as many labelled regions, got 48"),
    ],
)
def test_impossible_folds_are_refused(labels, num_folds, error, message):
    with pytest.raises(error, match=message):
        region_folds(labels, num_folds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hp_rgb": np.zeros((PIXELS, 4), np.uint8)}, "hp_rgb as integers of shape"),
        ({"hp_elev_m": np.zeros(PIXELS)}, "hp_elev_m as integers"),
        ({"hp_elev_m": np.zeros(PIXELS, int)}, "the same everywhere"),
        ({"hp_main": np.full(PIXELS, 6)}, "beyond its 6 classes in 192 pixels"),
        ({"hp_main": np.full(PIXELS, -1)}, "beyond its 6 classes"),
        ({"nside": np.array(3)}, "power of two"),
        ({"nside": np.array(4.0)}, "nside as one integer"),
        ({"main_names": np.arange(6)}, "class names as texts"),
        ({"hp_rgb": None}, "lacks hp_rgb"),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path, changes, message):
    arrays = {name: array for name, array in (globe() | changes).items() if array is not None}
    np.savez(tmp_path / "earth_climate.npz", **arrays)
    with pytest.raises(CorruptFileError, match=rf"earth_climate\.npz.*{message}"):
        load_earth(tmp_path)


def test_absent_files_and_unknown_classes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    assert find_file(FILE_NAME) is None
    with pytest.raises(InputError, match=r"earth_climate\.npz.*cannot be read"):
        load_earth()
    with pytest.raises(ConfigError, match=r"the classes of the Earth must be one of .*, got 'all'"):
        unchecked(load_earth)(classes="all")
    monkeypatch.delenv("JAXGEO_DATA")
    with pytest.raises(ConfigError, match="set JAXGEO_DATA"):
        load_earth()
    assert find_file(FILE_NAME, None) is None


@pytest.mark.parametrize("path", REAL)
def test_the_real_globe_has_land_in_every_fold_and_its_classes_nest(path):
    main, full = load_earth(path.parent), load_earth(path.parent, "koeppen")
    assert main.images.shape == (12 * 128**2, 4)
    np.testing.assert_array_equal(main.images, full.images)
    # The first letter of a Koeppen class is its main group.
    letters = np.array([0 if name == "ocean" else " ABCDE".index(name[0]) for name in full.class_names])
    kept = main.labels != UNLABELLED
    np.testing.assert_array_equal(full.labels != UNLABELLED, kept)
    np.testing.assert_array_equal(letters[full.labels[kept]], main.labels[kept])
    assert len(np.unique(pixel_regions(128)[kept])) == 36
    # Land lies above water, almost everywhere (measured: 0.94 and 0.999): order and channels are as said.
    elevation = main.images[:, 3] * main.scales[3] + main.means[3]
    assert (elevation[(main.labels > 0) & kept] > -10).mean() > 0.9
    assert (elevation[main.labels == 0] < 10).mean() > 0.95
    folds = region_folds(main.labels, 4)
    for _, validation in folds:
        assert np.bincount(main.labels[validation], minlength=6).min() > 0
    rng = np.random.default_rng(0)
    regions = pixel_regions(128)
    present = np.unique(regions[kept])
    dealt = []
    for _ in range(5):
        fold_of = np.full(48, -1)
        fold_of[rng.permutation(present)] = np.arange(36) % 4
        dealt.append(imbalance(main.labels, [(None, kept & (fold_of[regions] == fold)) for fold in range(4)]))
    # Far better than random deals: measured at a fifteenth or less.
    assert imbalance(main.labels, folds) < min(dealt) / 5
