"""Each wrong input is refused with one sentence that says what came and what would work."""

import numpy as np
import pytest

from jaxgeo.data.checks import check_images, check_labels, check_map, check_test_size
from jaxgeo.errors import ConfigError, InputError


def test_right_inputs_pass():
    assert check_images(np.zeros((2, 8, 8), np.float32)) is None
    assert check_images(np.zeros((2, 8, 8), np.uint8)) is None
    assert check_labels(np.array([0, 9, 3]), 10, 3) is None
    assert check_map(np.zeros((5, 768), np.float32), 8) is None
    assert check_map(np.zeros(12), 1, "ring", needed="ring") is None
    assert check_test_size(10, 10) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_counted_and_found(bad):
    images = np.zeros((3, 8, 8))
    images[1, 2, 3] = images[2, 0, 0] = bad
    with pytest.raises(InputError, match=r"2 NaN or infinite values of 192, the first \(-?\w+\) at index \(1, 2, 3\)"):
        check_images(images)


def test_images_of_words_are_refused():
    with pytest.raises(InputError, match="numbers"):
        check_images(np.array(["seven"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 10, 11]), r"2 others, the first \(10\) at index 1; count classes from 0"),
        (np.array([1, -1]), r"1 others, the first \(-1\) at index 1"),
        (np.array([0.0, 1.0]), "integers from 0 to 9, got float64"),
        (np.array([True, False]), "got bool"),
        (np.eye(3, dtype=int), r"one axis.*got shape \(3, 3\)"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        check_labels(labels, 10)


def test_other_number_of_labels_than_images_is_refused():
    with pytest.raises(InputError, match="4 images need as many labels, got 2"):
        check_labels(np.array([0, 1]), 10, 4)


@pytest.mark.parametrize(
    ("shape", "found"),
    [((3, 192), "nside 4"), ((767,), "no HEALPix map"), ((768, 1), "no HEALPix map"), ((), "no HEALPix")],
)
def test_map_of_a_wrong_length_is_refused(shape, found):
    with pytest.raises(InputError, match=rf"nside 8 has 768 pixels.*{found}"):
        check_map(np.zeros(shape), 8)


def test_map_in_ring_order_is_refused_and_told_how_to_reorder():
    with pytest.raises(InputError, match=r'NESTED order is needed, got one in RING.*reorder\(map, "ring", "nested"\)'):
        check_map(np.zeros(768), 8, "ring")


def test_map_with_holes_and_impossible_nside_are_refused():
    holed = np.zeros(12)
    holed[5] = np.nan
    with pytest.raises(InputError, match=r"map pixels must be finite.*\(5,\)"):
        check_map(holed, 1)
    with pytest.raises(ConfigError, match="nearest are 4 and 8"):
        check_map(np.zeros(12 * 36), 6)


def test_fewer_test_images_than_classes_are_refused():
    with pytest.raises(InputError, match="9 test images cannot hold one of each of 10 classes"):
        check_test_size(9, 10)
