"""Stanford panoramas from folders in the published layout, written small here."""

import json

import numpy as np
import pytest
from PIL import Image
from unchecked import unchecked

from jaxgeo.data.stanford_panoramas import (
    AREA_FOLDS,
    CLASS_NAMES,
    instance_classes,
    open_panoramas,
    read_instance_names,
)
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

ROWS, COLUMNS = 4, 8
# More than 256 instances, so that two bytes count.
INSTANCES = ["<UNK>_0_<UNK>_0_0"] + [f"{CLASS_NAMES[i % 13]}_{i}_office_{i}_{i % 6 + 1}" for i in range(600)]
ROOMS = {"area_1": ("camera_aa_office_1", "camera_bb_hallway_2"), "area_5a": ("camera_cc_lobby_1",)}


def panorama_path(folder, area, room, part):
    return folder / area / "pano" / part / f"{room}_frame_equirectangular_domain_{part}.png"


def write_set(folder):
    rng = np.random.default_rng(1)
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "semantic_labels.json").write_text(json.dumps(INSTANCES))
    arrays = {}
    for area, rooms in ROOMS.items():
        for part in ("rgb", "semantic", "depth"):
            (folder / area / "pano" / part).mkdir(parents=True)
        for room in rooms:
            image = rng.integers(0, 256, (ROWS, COLUMNS, 4), dtype=np.uint8)
            index = rng.integers(0, len(INSTANCES), (ROWS, COLUMNS))
            index[0, 0] = 600
            index[1, 1] = 0x0D0D0D
            index[2, 2] = 0
            depth = rng.integers(0, 65535, (ROWS, COLUMNS), dtype=np.uint16)
            depth[0, :3] = 65535
            colors = np.stack([index >> 16, index >> 8 & 255, index & 255], -1).astype(np.uint8)
            for part, array in (("rgb", image), ("semantic", colors), ("depth", depth)):
                Image.fromarray(array).save(panorama_path(folder, area, room, part))
            arrays[f"{area}/{room}"] = (image, index, depth)
    return arrays


def test_panoramas_come_back(tmp_path):
    arrays = write_set(tmp_path)
    found = open_panoramas(tmp_path)
    assert list(found.names) == sorted(arrays)
    assert len(found) == 3
    for panorama in found:
        image, index, depth = arrays[panorama.name]
        np.testing.assert_array_equal(panorama.image, image[..., :3])
        np.testing.assert_array_equal(panorama.instances, np.where(index == 0x0D0D0D, -1, index))
        for labels, number in zip(panorama.labels.ravel().tolist(), index.ravel().tolist(), strict=True):
            word = "<UNK>" if number == 0x0D0D0D else INSTANCES[number].split("_")[0]
            assert labels == (255 if word == "<UNK>" else CLASS_NAMES.index(word))
        assert np.isinf(panorama.depth[0, :3]).all()
        # Powers of two: exact.
        np.testing.assert_array_equal(panorama.depth.ravel()[3:], depth.ravel()[3:] / 512)
        assert panorama.depth.dtype == np.float32
    np.testing.assert_array_equal(found[-1].image, found.read(found.names[2]).image)


def test_areas_and_parts_are_chosen(tmp_path, monkeypatch):
    write_set(tmp_path / "2d3ds")
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    found = open_panoramas(areas=("area_5a",), parts=("depth",))
    assert found.names == ("area_5a/camera_cc_lobby_1",)
    assert found[0].labels is None
    assert found[0].instances is None
    assert found[0].depth is not None
    assert open_panoramas(parts=("semantic",))[0].depth is None
    with pytest.raises(InputError, match=r"panoramas of area_3 are looked for in .*, which is no folder"):
        open_panoramas(areas=("area_3",))
    with pytest.raises(ConfigError, match="unknown part 'xyz'"):
        unchecked(open_panoramas)(parts=("xyz",))
    monkeypatch.delenv("JAXGEO_DATA")
    with pytest.raises(ConfigError, match="JAXGEO_DATA to that which has 2d3ds/"):
        open_panoramas()
    with pytest.raises(InputError, match="has no panoramas"):
        open_panoramas(tmp_path)


def test_published_folds_hold_every_area_back_once():
    tested = sorted(area for _, test in AREA_FOLDS for area in test)
    assert tested == ["area_1", "area_2", "area_3", "area_4", "area_5a", "area_5b", "area_6"]
    for train, test in AREA_FOLDS:
        assert sorted(train + test) == tested


@pytest.mark.parametrize("part", ["semantic", "depth"])
def test_missing_parts_are_counted_on_opening(tmp_path, part):
    write_set(tmp_path)
    path = panorama_path(tmp_path, "area_1", "camera_bb_hallway_2", part)
    path.unlink()
    with pytest.raises(InputError, match=rf"1 of 3 panoramas have no {part}, the first needs .*{path.name}"):
        open_panoramas(tmp_path)
    assert len(open_panoramas(tmp_path, parts=("rgb",))) == 3


@pytest.mark.parametrize("part", ["semantic", "depth"])
def test_pictures_that_are_missing_are_named_by_what_is_there_of_them(tmp_path, part):
    write_set(tmp_path)
    path = panorama_path(tmp_path, "area_1", "camera_bb_hallway_2", "rgb")
    path.unlink()
    with pytest.raises(InputError, match=rf"1 panoramas have {part} but no picture in colours.*{path.name}"):
        open_panoramas(tmp_path, parts=(part,))
    assert len(open_panoramas(tmp_path, areas=["area_5a"])) == 1


DAMAGES = [
    ("rgb", lambda p: Image.new("RGB", (ROWS, ROWS)).save(p), CorruptFileError, "twice as wide as high"),
    ("rgb", lambda p: p.write_bytes(p.read_bytes()[:70]), CorruptFileError, "truncated"),
    ("semantic", lambda p: Image.new("L", (COLUMNS, ROWS)).save(p), CorruptFileError, "needed is 8-bit colour"),
    ("semantic", lambda p: Image.new("RGB", (4, 2)).save(p), CorruptFileError, r"of size \(2, 4\).*4 x 8"),
    (
        "semantic",
        lambda p: Image.new("RGB", (COLUMNS, ROWS), (0, 2, 89)).save(p),
        InputError,
        "32 pixels of instances that .*semantic_labels.json does not list, the first is 601 of 601",
    ),
    ("depth", lambda p: Image.new("L", (COLUMNS, ROWS)).save(p), CorruptFileError, "channel of 16 bits"),
    ("depth", lambda p: Image.fromarray(np.zeros((2, 4), np.uint16)).save(p), CorruptFileError, r"of size \(2, 4\)"),
]


@pytest.mark.parametrize("which", range(len(DAMAGES)))
def test_damaged_files_are_named(tmp_path, which):
    part, damage, error, message = DAMAGES[which]
    write_set(tmp_path)
    found = open_panoramas(tmp_path)
    path = panorama_path(tmp_path, "area_1", "camera_aa_office_1", part)
    damage(path)
    with pytest.raises(error, match=rf"{path.name}.*{message}"):
        found[0]
    assert found[1].name == "area_1/camera_bb_hallway_2"  # the others are not touched
    with pytest.raises(InputError, match="no 'area_9/camera' among the 3 panoramas"):
        found.read("area_9/camera")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must be a JSON list of texts"),
        ("[1]", "must be a JSON list of texts"),
        ("[]", "must be a JSON list of texts"),
        ('["wall_1_office_1_1", "spaceship_1_office_1_1"]', "1 of 2 instances are of no known class, .*at place 1"),
        ("[", "not whole JSON"),
    ],
)
def test_lists_of_instances_of_another_form_are_refused(tmp_path, content, message):
    path = tmp_path / "semantic_labels.json"
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=rf"semantic_labels\.json.*{message}"):
        read_instance_names(path)


def test_classes_are_what_names_begin_with():
    assert instance_classes(["clutter_1_a_1_1", "<UNK>_0_<UNK>_0_0", "ceiling_9_a_1_1"]).tolist() == [12, 255, 0]
