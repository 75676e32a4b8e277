"""WoodScape from folders in the published layout, written small here: what comes back, what is missing or damaged."""

import json

import numpy as np
import pytest
from PIL import Image
from unchecked import unchecked

from jaxgeo.data.splits import split
from jaxgeo.data.woodscape import camera_name, open_woodscape
from jaxgeo.data.woodscape_classes import class_table
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

ROWS, COLUMNS = 6, 8
NAMES = ("00000_FV", "00001_RV", "00002_MVL", "00003_MVR", "00004_FV")


def calibration(name):
    return {
        "name": name.split("_")[1],
        "intrinsic": {
            "model": "radial_poly",
            "poly_order": 4,
            "k1": 2.0,
            "k2": 0.1,
            "k3": 0.2,
            "k4": -0.05,
            "aspect_ratio": 1.0,
            "cx_offset": 0.25,
            "cy_offset": -0.5,
            "width": float(COLUMNS),
            "height": float(ROWS),
        },
        "extrinsic": {"quaternion": [0.5, -0.5, 0.5, -0.5], "translation": [3.7, 0.1, 0.65]},
    }


def write_set(folder, num_raw=10, doubled=True, names=NAMES):
    """The arrays of a set in the published layout, by name."""
    rng = np.random.default_rng(0)
    images = folder / ("rgb_images/rgb_images" if doubled else "rgb_images")
    masks = folder / ("semantic_annotations/semantic_annotations" if doubled else "semantic_annotations") / "gtLabels"
    calibrations = folder / ("calibration/calibration" if doubled else "calibration")
    depths = folder / "depth_maps" / "raw_data"
    for place in (images, masks, calibrations, depths):
        place.mkdir(parents=True)
    arrays = {}
    for name in names:
        image = rng.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)
        raw = rng.integers(0, num_raw, (ROWS, COLUMNS)).astype(np.uint8)
        depth = rng.uniform(0.2, 90, (ROWS, COLUMNS)).astype(np.float32)
        depth[0, :2] = 1000
        Image.fromarray(image).save(images / f"{name}.png")
        Image.fromarray(raw).save(masks / f"{name}.png")
        np.save(depths / f"{name}.npy", depth)
        (calibrations / f"{name}.json").write_text(json.dumps(calibration(name)))
        arrays[name] = (image, raw, depth)
    return arrays


@pytest.mark.parametrize("doubled", [True, False])
def test_examples_come_back_by_index_and_by_name(tmp_path, doubled):
    arrays = write_set(tmp_path, doubled=doubled)
    found = open_woodscape("woodscape", tmp_path)
    assert found.names == NAMES
    assert len(found) == 5
    for index, example in enumerate(found):
        image, raw, _ = arrays[NAMES[index]]
        assert (example.name, example.camera_name) == (NAMES[index], NAMES[index].split("_")[1])
        np.testing.assert_array_equal(example.image, image)
        np.testing.assert_array_equal(example.labels, raw)
        assert example.labels.dtype == np.uint8
        assert example.depth is None
        assert example.camera.image_shape == (ROWS, COLUMNS)
        np.testing.assert_allclose(example.camera.coefficients, [2.0, 0.1, 0.2, -0.05], rtol=0)  # float64, as read
    np.testing.assert_array_equal(found[-1].image, found.read("00004_FV").image)
    with pytest.raises(IndexError):
        found[5]


@pytest.mark.parametrize("version", ["synwoodscape", "synwoodscape_large", "synwoodscape_large_plus_AD"])
def test_classes_of_synwoodscape_are_merged_as_they_are_read(tmp_path, version):
    arrays = write_set(tmp_path, num_raw=25)
    found = open_woodscape(version, tmp_path, parts=("labels", "depth"))
    for example in found:
        _, raw, depth = arrays[example.name]
        np.testing.assert_array_equal(example.labels, np.array(found.table.merging)[raw])
        assert example.labels.max() < found.table.num_classes
        assert np.isinf(example.depth[0, :2]).all()
        np.testing.assert_array_equal(example.depth.ravel()[2:], depth.ravel()[2:])
        assert example.camera is None
    kept = open_woodscape(version, tmp_path, parts=("depth",), keep_background=True)[0]
    np.testing.assert_array_equal(kept.depth, arrays[NAMES[0]][2])
    assert kept.labels is None


def test_masks_that_are_merged_already_are_left_as_they_are_and_not_taken_for_raw_ones(tmp_path):
    arrays = write_set(tmp_path, num_raw=8)
    table = class_table("synwoodscape_large")
    info = {"class_names": table.names, "class_colors": table.colors}
    (tmp_path / "semantic_annotations" / "seg_annotation_info.json").write_text(json.dumps(info))
    found = open_woodscape("synwoodscape_large", tmp_path, merged=True)
    np.testing.assert_array_equal(found[2].labels, arrays[NAMES[2]][1])
    with pytest.raises(CorruptFileError, match=r"names 8 classes, but synwoodscape_large before merging has 25"):
        open_woodscape("synwoodscape_large", tmp_path)
    with pytest.raises(CorruptFileError, match=r"names 8 classes, but synwoodscape_large_plus_AD merged has 12"):
        open_woodscape("synwoodscape_large_plus_AD", tmp_path, merged=True)


def test_cameras_and_parts_of_a_split_are_chosen_by_name(tmp_path):
    write_set(tmp_path)
    front = open_woodscape("woodscape", tmp_path, cameras=("FV",))
    assert front.names == ("00000_FV", "00004_FV")
    found = open_woodscape("woodscape", tmp_path)
    parts = split(found.names)
    train = found.subset(parts.train)
    assert [example.name for example in train] == list(parts.train)
    assert set(parts.train) | set(parts.validation) == set(NAMES)
    with pytest.raises(InputError, match=r"1 of 2 names are not in .*'00009_FV'.*such as '00000_FV'"):
        found.subset(["00000_FV", "00009_FV"])
    with pytest.raises(InputError, match="no '00009_FV' among the 5 images"):
        found.read("00009_FV")


def test_only_the_example_that_is_asked_for_is_read(tmp_path):
    write_set(tmp_path)
    (tmp_path / "rgb_images/rgb_images/00003_MVR.png").write_bytes(b"not a picture")
    found = open_woodscape("woodscape", tmp_path)
    assert found[0].name == "00000_FV"
    with pytest.raises(CorruptFileError, match=r"00003_MVR\.png is no PNG file"):
        found[3]


def test_the_folder_named_by_the_environment_is_looked_into(tmp_path, monkeypatch):
    write_set(tmp_path / "synwoodscape", num_raw=25)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    assert len(open_woodscape("synwoodscape_large")) == 5
    with pytest.raises(InputError, match=r"woodscape is looked for in .*/woodscape, which is no folder"):
        open_woodscape("woodscape")
    monkeypatch.delenv("JAXGEO_DATA")
    with pytest.raises(ConfigError, match=r"JAXGEO_DATA to the folder that holds synwoodscape/"):
        open_woodscape("synwoodscape_large")


@pytest.mark.parametrize("shape", [(3, 4), (2, 8), (9, 5)])
def test_resized_examples_keep_mean_colors_and_only_classes_and_depths_that_were_there(tmp_path, shape):
    arrays = write_set(tmp_path, num_raw=25)
    parts = ("labels", "depth", "calibration")
    for example in open_woodscape("synwoodscape", tmp_path, parts=parts, image_shape=shape):
        image, raw, depth = arrays[example.name]
        assert example.image.shape == (*shape, 3)
        # Every old pixel has the same share in the mean; each new colour is rounded by half a step at most.
        assert np.abs(example.image.mean((0, 1)) - image.mean((0, 1))).max() <= 0.5
        rows, columns = (
            np.floor((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(shape, (ROWS, COLUMNS), strict=True)
        )
        np.testing.assert_array_equal(example.labels, raw[np.ix_(rows, columns)])
        nearest = depth[np.ix_(rows, columns)]
        np.testing.assert_array_equal(example.depth, np.where(nearest == 1000, np.inf, nearest))
        assert example.camera.image_shape == shape
    half = open_woodscape("synwoodscape", tmp_path, image_shape=(3, 4))[0]
    exact = arrays[NAMES[0]][0].reshape(3, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(half.image, np.floor(exact + 0.5))
    with pytest.raises(ConfigError, match=r"at least one row and one column, got \(0, 4\); None keeps them all"):
        open_woodscape("synwoodscape", tmp_path, image_shape=(0, 4))


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("labels", "semantic_annotations/semantic_annotations/gtLabels/00001_RV.png"),
        ("calibration", "calibration/calibration/00001_RV.json"),
        ("depth", "depth_maps/raw_data/00001_RV.npy"),
    ],
)
def test_missing_files_are_counted_and_the_first_is_named_on_opening(tmp_path, part, path):
    write_set(tmp_path, num_raw=25)
    (tmp_path / path).unlink()
    with pytest.raises(InputError, match=rf"1 of 5 images have no {part}, the first is 00001_RV: .*{path} is needed"):
        open_woodscape("synwoodscape", tmp_path, parts=(part,))
    others = [other for other in ("labels", "calibration", "depth") if other != part]
    assert len(open_woodscape("synwoodscape", tmp_path, parts=others)) == 5


def test_pictures_that_are_missing_are_named_by_what_is_there_of_them(tmp_path):
    write_set(tmp_path)
    picture = tmp_path / "rgb_images/rgb_images/00001_RV.png"
    picture.unlink()
    for part in ("labels", "calibration"):
        with pytest.raises(InputError, match=rf"1 files of {part} have no image.*{picture.name} is needed"):
            open_woodscape("woodscape", tmp_path, parts=(part,))
    assert len(open_woodscape("woodscape", tmp_path, cameras=("FV", "MVL", "MVR"))) == 4
    assert len(open_woodscape("woodscape", tmp_path, parts=())) == 4


def damage_json(path, **changes):
    value = calibration("00000_FV")
    for key, change in changes.items():
        value[key] = value[key] | change if isinstance(change, dict) else change
    path.write_text(json.dumps(value))


DAMAGES = {
    "rgb_images/rgb_images/00000_FV.png": [
        (lambda p: p.write_bytes(p.read_bytes()[:60]), CorruptFileError, "truncated"),
        (lambda p: Image.new("L", (COLUMNS, ROWS)).save(p), CorruptFileError, "grey, needed is 8-bit colour"),
    ],
    "semantic_annotations/semantic_annotations/gtLabels/00000_FV.png": [
        (lambda p: Image.new("RGB", (COLUMNS, ROWS)).save(p), CorruptFileError, "needed is one channel"),
        (
            lambda p: Image.new("L", (COLUMNS, ROWS + 1)).save(p),
            CorruptFileError,
            r"of size \(7, 8\), but its image has 6 rows and 8 columns",
        ),
        (
            lambda p: Image.new("L", (COLUMNS, ROWS), 25).save(p),
            InputError,
            "25 in 48 pixels; its classes are 0 ... 24",
        ),
    ],
    "depth_maps/raw_data/00000_FV.npy": [
        (lambda p: np.save(p, np.ones((ROWS, COLUMNS), np.int32)), CorruptFileError, "holds int32, but a depth map"),
        (lambda p: np.save(p, np.ones((ROWS, COLUMNS, 1))), CorruptFileError, r"of size \(6, 8, 1\)"),
        (lambda p: np.save(p, np.full((ROWS, COLUMNS), -1.0)), CorruptFileError, "48 negative or NaN depths of 48"),
        (lambda p: np.save(p, np.full((ROWS, COLUMNS), np.nan)), CorruptFileError, "48 negative or NaN depths of 48"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), CorruptFileError, "no whole npy file"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"}", b" ")), CorruptFileError, "no whole npy file"),
    ],
    "calibration/calibration/00000_FV.json": [
        (lambda p: p.write_text("{"), CorruptFileError, "not whole JSON"),
        (lambda p: p.write_text("[]"), CorruptFileError, "as a JSON object, got list"),
        (lambda p: p.write_text('{"name": "FV"}'), CorruptFileError, "holds no calibration"),
        (lambda p: damage_json(p, intrinsic={"k2": "x"}), CorruptFileError, "holds no calibration"),
        (lambda p: damage_json(p, intrinsic={"width": 9}), CorruptFileError, r"of size \(6, 9\)"),
        (lambda p: damage_json(p, name="RV"), CorruptFileError, "calibration of RV, but its image was taken by FV"),
    ],
}


@pytest.mark.parametrize(("path", "which"), [(path, i) for path, cases in DAMAGES.items() for i in range(len(cases))])
def test_damaged_files_are_named(tmp_path, path, which):
    damage, error, message = DAMAGES[path][which]
    write_set(tmp_path, num_raw=25, names=("00000_FV",))
    found = open_woodscape("synwoodscape", tmp_path, parts=("labels", "calibration", "depth"))
    damage(tmp_path / path)
    with pytest.raises(error, match=rf"{path}.*{message}"):
        found[0]


def test_impossible_requests_are_refused(tmp_path):
    write_set(tmp_path)
    with pytest.raises(ConfigError, match="unknown part 'lidar'"):
        unchecked(open_woodscape)("woodscape", tmp_path, parts=("lidar",))
    with pytest.raises(ConfigError, match="unknown camera 'fv'"):
        unchecked(open_woodscape)("woodscape", tmp_path, cameras=("fv",))
    with pytest.raises(ConfigError, match="WoodScape has no depth maps"):
        open_woodscape("woodscape", tmp_path, parts=("depth",))


def test_folders_without_images_and_names_without_camera_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no PNG images"):
        open_woodscape("woodscape", tmp_path)
    write_set(tmp_path)
    (tmp_path / "rgb_images/rgb_images/._00000_FV.png").write_bytes(b"left by a file manager")
    assert len(open_woodscape("woodscape", tmp_path)) == 5
    (tmp_path / "rgb_images/rgb_images/overview.png").write_bytes(b"")
    with pytest.raises(InputError, match="'overview' names no camera"):
        open_woodscape("woodscape", tmp_path)


@pytest.mark.parametrize(("name", "camera"), [("00000_FV", "FV"), ("1_MVL_prev", "MVL"), ("RV", "RV")])
def test_cameras_are_told_by_the_name(name, camera):
    assert camera_name(name) == camera
