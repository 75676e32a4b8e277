"""Class tables: what is published about them, merging as a map of numbers, and weights that go back to shares."""

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.data.scene_classes import SCENE_CLASSES
from jaxgeo.data.woodscape_classes import (
    ClassTable,
    Version,
    class_table,
    class_weights,
    merge_labels,
    paint,
    read_raw_classes,
)
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

VERSIONS = get_args(Version)


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (
            "woodscape",
            [
                "void",
                "road",
                "lanemarks",
                "curb",
                "person",
                "rider",
                "vehicles",
                "bicycle",
                "motorcycle",
                "traffic_sign",
            ],
        ),
        (
            "synwoodscape_large",
            ["void", "building", "road line", "road", "sidewalk", "four-wheeler vehicle", "sky", "ego-vehicle"],
        ),
        (
            "synwoodscape_large_plus_AD",
            [
                "void",
                "building",
                "pedestrian",
                "road line",
                "road",
                "sidewalk",
                "four-wheeler vehicle",
                "traffic sign",
                "sky",
                "traffic light",
                "two-wheeler vehicle",
                "ego-vehicle",
            ],
        ),
    ],
)
def test_names_are_those_of_the_published_lists_in_their_order(version, names):
    assert list(class_table(version).names) == names


def test_the_large_classes_are_merged_as_published():
    published = {1: 1, 6: 2, 7: 3, 8: 4, 10: 5, 13: 6, 24: 7}
    assert dict(enumerate(class_table("synwoodscape_large").merging)) == {
        raw: published.get(raw, 0) for raw in range(25)
    }


def test_classes_for_driving_are_taken_out_of_void_alone():
    large, more = class_table("synwoodscape_large"), class_table("synwoodscape_large_plus_AD")
    raw = class_table("synwoodscape").names
    for number in range(25):
        small_name, large_name = large.names[large.merging[number]], more.names[more.merging[number]]
        assert small_name in (large_name, "void")
        assert large_name in (raw[number], "void")


@pytest.mark.parametrize("version", [v for v in VERSIONS if class_table(v).weights])
def test_published_weights_are_fourth_roots_of_one_percent_over_the_share(version):
    table = class_table(version)
    percent = np.asarray(table.weights) ** -4.0
    # The shares behind the weights are rounded to a thousandth of a percent, and the weights to 8 digits.
    np.testing.assert_allclose(percent, np.round(percent, 3), atol=1e-5)
    assert percent.sum() == pytest.approx(100, abs=0.0005 * table.num_classes)
    # The rounded shares do not sum to 100 exactly, which class_weights makes up for.
    np.testing.assert_allclose(class_weights(percent), table.weights, rtol=1e-5)
    assert "run_config.py" in table.weights_source


def test_weights_of_equal_classes_are_the_same_in_both_merged_tables():
    large, more = class_table("synwoodscape_large"), class_table("synwoodscape_large_plus_AD")
    for name, weight in zip(large.names[1:], large.weights[1:], strict=True):
        assert more.weights[more.names.index(name)] == weight
    # Void is what is left: the classes for driving came out of it. Five shares are rounded to 0.001 percent.
    extra = [i for i, name in enumerate(more.names) if name not in large.names]
    parts = np.asarray(more.weights)[[0, *extra]] ** -4.0
    assert parts.sum() == pytest.approx(large.weights[0] ** -4.0, abs=0.003)


@pytest.mark.parametrize("version", VERSIONS)
def test_colors_tell_all_classes_apart(version):
    table = class_table(version)
    assert len(set(table.colors)) == table.num_classes
    picture = paint(np.append(np.arange(table.num_classes), 255), table)
    assert picture.shape == (table.num_classes + 1, 3)
    assert [tuple(color) for color in picture[:-1].tolist()] == list(table.colors)
    assert picture[-1].tolist() == [255, 255, 255]
    with pytest.raises(InputError, match="negative"):
        paint(np.array([-1]), table)


@given(seed=st.integers(0, 2**31 - 1), version=st.sampled_from(VERSIONS))
def test_merging_looks_every_pixel_up(seed, version):
    table = class_table(version)
    raw = np.random.default_rng(seed).integers(0, len(table.merging), (3, 4)).astype(np.uint8)
    merged = merge_labels(raw, table)
    assert merged.dtype == np.uint8
    assert merged.ravel().tolist() == [table.merging[number] for number in raw.ravel().tolist()]


def test_unknown_numbers_are_named_with_their_pixels():
    raw = np.array([[0, 10, 10], [9, 200, 10]], np.uint8)
    with pytest.raises(InputError, match=r"mask\.png.*10 in 3 pixels, 200 in 1 pixels; its classes are 0 \.\.\. 9"):
        merge_labels(raw, class_table("woodscape"), "mask.png")


@given(counts=st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_weights_go_back_to_shares_whatever_the_unit(counts):
    counts = np.array(counts)
    weights = class_weights(counts)
    np.testing.assert_allclose(weights**-4.0, 100 * counts / counts.sum(), rtol=1e-12)  # float64
    np.testing.assert_allclose(class_weights(counts * 0.5), weights, rtol=1e-12)


def test_a_class_without_pixels_has_no_weight():
    with pytest.raises(InputError, match="1 have none, the first is 1"):
        class_weights(np.array([3, 0, 2]))


def test_void_is_what_the_tables_call_so_and_drawn_scenes_have_none():
    for version in VERSIONS:
        table = class_table(version)
        assert table.names[table.void] == "void"
    assert SCENE_CLASSES.void is None


def test_tables_that_contradict_themselves_are_refused():
    with pytest.raises(ConfigError, match="2 class names need as many colours and weights, got 1 colours and no"):
        ClassTable(("a", "b"), (0, 1), ((0, 0, 0),), None)
    with pytest.raises(ConfigError, match=r"can only become 0 \.\.\. 0, got \[3\]"):
        ClassTable(("a",), (0, 3), ((0, 0, 0),), None)
    with pytest.raises(ConfigError, match=r"void class is one of 0 \.\.\. 0, or None, got 1"):
        ClassTable(("a",), (0,), ((0, 0, 0),), None, void=1)
    with pytest.raises(ConfigError, match=r"the version of WoodScape must be one of .*, got 'cityscapes'"):
        unchecked(class_table)("cityscapes")


@pytest.mark.parametrize(("scheme", "first"), [(None, (1, 2, 3)), ("RGB", (1, 2, 3)), ("BGR", (3, 2, 1))])
def test_published_lists_of_classes_are_read_with_either_order_of_colors(tmp_path, scheme, first):
    path = tmp_path / "seg_annotation_info.json"
    value = {"class_names": ["void", "road"], "class_colors": [[1, 2, 3], [9, 9, 9]], "class_indexes": [0, 1]}
    path.write_text(json.dumps(value | ({} if scheme is None else {"color_scheme": scheme})))
    assert read_raw_classes(path) == (("void", "road"), (first, (9, 9, 9)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not whole JSON"),
        ("[1]", "must be an object"),
        ('{"class_names": ["a"]}', "class_colors"),
        ('{"class_names": ["a"], "class_colors": [1]}', "must be an object with lists"),
        ('{"class_names": ["a"], "class_colors": [[1, 2]]}', "three numbers"),
        ('{"class_names": ["a"], "class_colors": [[1, 2, 256]]}', "three numbers"),
        ('{"class_names": ["a", "b"], "class_colors": [[1, 2, 3]]}', "2 names and 1 colours"),
        ('{"class_names": ["a"], "class_colors": [[1, 2, 3]], "color_scheme": "HSV"}', "'HSV'"),
    ],
)
def test_lists_of_classes_of_another_form_are_refused(tmp_path, content, message):
    path = tmp_path / "seg_annotation_info.json"
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=message):
        read_raw_classes(path)
