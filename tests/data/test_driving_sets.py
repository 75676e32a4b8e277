"""CamVid and Cityscapes: what the files that this test writes hold comes out; damaged ones are one clear error."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxgeo.data import camvid, cityscapes, driving
from jaxgeo.data.root import find_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

ROWS, COLUMNS = 12, 20


def generator(seed=0):
    return np.random.default_rng(seed)


def packed(labels, images):
    """The arrays of one part, pictures as JPEG."""
    streams = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
        streams.append(np.frombuffer(stream.getvalue(), np.uint8))
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in streams])]).astype(np.uint32)
    names = np.array([f"frame_{k}" for k in range(len(images))])
    return {"jpeg": np.concatenate(streams), "off": offsets, "y": labels, "name": names}


@pytest.fixture
def camvid_file(tmp_path):
    labels = generator().integers(0, 12, (2, ROWS, COLUMNS)).astype(np.uint8)
    images = np.full((2, ROWS, COLUMNS, 3), [[[[10, 120, 240]]], [[[200, 90, 5]]]], np.uint8)

    def write(**changes):
        arrays = packed(labels, images) | changes
        np.savez(tmp_path / camvid.FILE, **{f"{key}_val": value for key, value in arrays.items()})
        return tmp_path

    return write, labels, images


def test_the_packed_file_gives_pictures_names_and_both_sets_of_classes(camvid_file):
    write, labels, images = camvid_file
    eleven = camvid.load_camvid("val", write(), classes="segnet")
    assert eleven.names == ("frame_0", "frame_1")
    # A plain colour survives JPEG but for the rounding of its three transformed values.
    assert np.abs(eleven.images.astype(int) - images).max() <= 3
    np.testing.assert_array_equal(eleven.labels, np.where(labels == 11, 255, labels))
    four = camvid.load_camvid("val", write())
    for name, code in (("road", 1), ("car", 2), ("pedestrian", 3), ("bicyclist", 3), ("sky", 0)):
        assert (four.labels[labels == camvid.SEGNET_CLASSES.index(name)] == code).all()
    assert (four.labels[labels == 11] == 255).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"off": np.array([0, 5, 9])}, "do not cut"),
        ({"y": np.full((2, ROWS, COLUMNS), 12, np.uint8)}, "up to 12"),
        ({"y": np.zeros((2, ROWS, COLUMNS + 1), np.uint8)}, "is of shape"),
    ],
)
def test_a_packed_file_of_other_content_is_refused(camvid_file, changes, words):
    with pytest.raises(CorruptFileError, match=words):
        camvid.load_camvid("val", camvid_file[0](**changes))


def test_a_truncated_or_absent_packed_file_and_a_broken_picture_are_refused(camvid_file, tmp_path, monkeypatch):
    write, labels, images = camvid_file
    arrays = packed(labels, images)
    arrays["jpeg"][arrays["off"][1] : arrays["off"][1] + 20] = 0
    with pytest.raises(CorruptFileError, match="val image 1 is no whole JPEG"):
        camvid.load_camvid("val", write(**arrays))
    path = write() / camvid.FILE
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFileError, match="no whole npz"):
        camvid.load_camvid("val", tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        camvid.load_camvid("val", tmp_path)
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    with pytest.raises(ConfigError, match="JAXGEO_DATA"):
        camvid.load_camvid("val")


def test_published_colours_are_32_and_map_onto_every_class_of_segnet():
    assert len({color for color, _ in camvid.COLORS.values()}) == 32
    assert {label for _, label in camvid.COLORS.values()} == set(range(12))


@pytest.fixture
def camvid_folder(tmp_path):
    names = list(camvid.COLORS)
    chosen = generator(1).integers(0, 32, (2, ROWS, COLUMNS))
    colors = np.array([camvid.COLORS[name][0] for name in names], np.uint8)
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    images = generator(2).integers(0, 256, (2, ROWS, COLUMNS, 3)).astype(np.uint8)
    for k in range(2):
        Image.fromarray(images[k]).save(tmp_path / "701_StillsRaw_full" / f"f_{k}.png")
        Image.fromarray(colors[chosen[k]]).save(tmp_path / "LabeledApproved_full" / f"f_{k}_L.png")
    return tmp_path, images, np.array([camvid.COLORS[name][1] for name in names])[chosen]


def test_published_camvid_folders_are_read_merged_and_resized(camvid_folder):
    folder, images, classes = camvid_folder
    opened = camvid.open_camvid(folder, classes="segnet")
    image, labels = opened.read("f_1")
    np.testing.assert_array_equal(image, images[1])
    np.testing.assert_array_equal(labels, np.where(classes[1] == 11, 255, classes[1]))
    small = opened.load(ROWS // 2, COLUMNS // 2)
    blocks = images.reshape(2, ROWS // 2, 2, COLUMNS // 2, 2, 3).astype(float).mean((2, 4))
    np.testing.assert_array_equal(small.images, np.floor(blocks + 0.5))
    np.testing.assert_array_equal(small.labels[1], labels[1::2, 1::2])


def test_a_colour_of_no_class_and_a_label_without_a_frame_are_refused(camvid_folder):
    folder, *_ = camvid_folder
    strange = np.full((ROWS, COLUMNS, 3), 7, np.uint8)
    Image.fromarray(strange).save(folder / "LabeledApproved_full" / "f_0_L.png")
    with pytest.raises(CorruptFileError, match=r"\(7, 7, 7\) at row 0, column 0"):
        camvid.open_camvid(folder).read("f_0")
    (folder / "701_StillsRaw_full" / "f_1.png").unlink()
    with pytest.raises(InputError, match="1 of 2 labels have no frame"):
        camvid.open_camvid(folder)


@pytest.fixture
def cityscapes_folder(tmp_path):
    ids = generator(3).integers(0, 34, (2, 16, 32)).astype(np.uint8)
    images = generator(4).integers(0, 256, (2, 16, 32, 3)).astype(np.uint8)
    for k in range(2):
        for kind, suffix, array in (("leftImg8bit", "leftImg8bit", images[k]), ("gtFine", "gtFine_labelIds", ids[k])):
            place = tmp_path / kind / "val" / "ulm"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place / f"ulm_000000_{k:06}_{suffix}.png")
    return tmp_path, images, ids


def test_cityscapes_gives_four_classes_of_its_numbers(cityscapes_folder):
    folder, images, ids = cityscapes_folder
    opened = cityscapes.open_cityscapes(folder, "val")
    assert opened.names == ("ulm/ulm_000000_000000", "ulm/ulm_000000_000001")
    image, labels = opened.read(opened.names[1])
    np.testing.assert_array_equal(image, images[1])
    expected = np.select([ids[1] == 7, ids[1] == 26, ids[1] == 24], [1, 2, 3], 0)
    np.testing.assert_array_equal(labels, expected)
    ignored = cityscapes.driving_labels(ids, "ignored")
    np.testing.assert_array_equal(ignored == 255, np.isin(ids, cityscapes.IGNORED_IDS))
    whole = opened.load(16, 32)
    np.testing.assert_array_equal(whole.images, images)
    cut = opened.load(8, 8, cut=True)
    np.testing.assert_array_equal(cut.labels[1], labels[:, 8:24][1::2, 1::2])


def test_cityscapes_tells_what_is_missing_or_damaged(cityscapes_folder):
    folder, _, ids = cityscapes_folder
    path = folder / "gtFine" / "val" / "ulm" / "ulm_000000_000001_gtFine_labelIds.png"
    opened = cityscapes.open_cityscapes(folder, "val")
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(CorruptFileError, match="truncated"):
        opened.read(opened.names[1])
    Image.fromarray(np.where(ids[1] == 7, 77, ids[1]).astype(np.uint8)).save(path)
    with pytest.raises(CorruptFileError, match=r"labelIds.png: .*got 77"):
        opened.read(opened.names[1])
    Image.fromarray(ids[1, :8]).save(path)
    with pytest.raises(CorruptFileError, match="is of shape"):
        opened.read(opened.names[1])
    path.unlink()
    with pytest.raises(InputError, match="1 of 2 pictures have no labels"):
        cityscapes.open_cityscapes(folder, "val")
    with pytest.raises(InputError, match="has no pictures"):
        cityscapes.open_cityscapes(folder, "train")


@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    new=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    value=st.integers(0, 255),
    seed=st.integers(0, 99),
)
def test_averaging_over_areas_keeps_plain_colours_and_the_mean(old, new, value, seed):
    plain = np.full((*old, 1), value, np.uint8)
    np.testing.assert_array_equal(driving.resize_area(plain, *new), np.full((*new, 1), value))
    image = generator(seed).integers(0, 256, (*old, 2)).astype(np.uint8)
    # Each new pixel is rounded by half a step at most.
    assert np.abs(driving.resize_area(image, *new).mean((0, 1)) - image.mean((0, 1))).max() <= 0.5 + 1e-9


def test_bytes_over_256_are_exact_in_eight_bits():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, -1, 1).repeat(3, -1)
    values = driving.network_input(every)
    np.testing.assert_array_equal(values[..., 0].ravel() * 256, np.arange(256))


@pytest.mark.parametrize("shape", [(0, 3), (3, 3)])
def test_pictures_without_pixels_cannot_be_resized(shape):
    with pytest.raises(InputError, match="at least one row"):
        driving.resize_nearest(np.zeros(shape, np.uint8), 0 if shape[0] else 2, 2)


def test_labels_beyond_the_table_are_refused():
    with pytest.raises(InputError, match=r"got 5 at index \(0, 1\)"):
        driving.merge_classes(np.array([[0, 5]], np.uint8), np.arange(3, dtype=np.uint8))


# Of the environment at collection; a run without the file reports a skip.
REAL = [path for path in [find_file(camvid.FILE)] if path is not None]


@pytest.mark.parametrize("path", REAL)
@pytest.mark.parametrize(("part", "size"), [("train", 367), ("val", 101)])
def test_the_real_camvid_has_its_published_parts(path, part, size):
    found = camvid.load_camvid(part, root=path.parent)
    assert found.images.shape == (size, driving.ROWS, driving.COLUMNS, 3)
    assert set(np.unique(found.labels)) == {0, 1, 2, 3, 255}
