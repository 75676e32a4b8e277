"""Parts of a data set by name: disjoint and complete, or with the published overlap; smaller parts lie in larger."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.data.splits import EFFICIENCY_FRACTIONS, split, training_subset
from jaxgeo.errors import ConfigError, InputError

NUMBERS = st.integers(5, 80)
SEEDS = st.integers(0, 2**31 - 1)


def stems(count):
    return [f"{i:05d}_{('FV', 'RV', 'MVL', 'MVR')[i % 4]}" for i in range(count)]


@given(count=NUMBERS, tenths=st.integers(3, 8), seed=st.none() | SEEDS)
def test_correct_parts_share_no_image_and_lose_none(count, tenths, seed):
    parts = split(stems(count), tenths / 10, seed)
    assert sorted(parts.train + parts.validation) == stems(count)
    assert len(parts.train) == -(-count * tenths // 10)  # ceil, in integers


@given(count=NUMBERS, tenths=st.integers(3, 8), seed=st.none() | SEEDS)
def test_published_parts_share_one_image_where_the_cut_is_whole_and_agree_with_the_correct_ones_otherwise(
    count, tenths, seed
):
    faithful, correct = split(stems(count), tenths / 10, seed, mode="faithful"), split(stems(count), tenths / 10, seed)
    both = set(faithful.train) & set(faithful.validation)
    # 0.7 and the like are not exact in floating point, and the published program multiplies there.
    if (count * (tenths / 10)).is_integer():
        assert both == {faithful.train[-1]} == {faithful.validation[0]}
        assert faithful.train[:-1] == correct.train
        assert faithful.validation == correct.validation
    else:
        assert not both
        assert faithful == correct


@given(count=NUMBERS, seed=SEEDS)
def test_published_parts_are_those_of_its_slices(count, seed):
    # What the program does, with arrays: inclusive bounds from 0.8 N rounded down and up.
    order = np.array(stems(count))[np.random.RandomState(seed).permutation(count)]
    last_train, first_validation = math.floor(0.8 * count), math.ceil(0.8 * count)
    parts = split(stems(count), seed=seed, mode="faithful")
    assert list(parts.train) == order[0 : last_train + 1].tolist()
    assert list(parts.validation) == order[first_validation:].tolist()


def test_five_images_are_dealt_as_published():
    # RandomState(42).permutation(5) is 1, 4, 2, 0, 3, in every NumPy.
    assert split(list("ecabd")) == (("b", "e", "c", "a"), ("d",))
    assert split(list("ecabd"), mode="faithful") == (("b", "e", "c", "a", "d"), ("d",))


@given(seed=SEEDS, count=NUMBERS)
def test_the_order_in_which_names_come_does_not_matter(seed, count):
    names = stems(count)
    mixed = [names[i] for i in np.random.default_rng(seed).permutation(count)]
    assert split(mixed) == split(names)


@given(count=st.integers(1, 200), seed=SEEDS)
def test_smaller_parts_lie_in_larger_ones_and_the_whole_is_the_training_part(count, seed):
    train = tuple(stems(count))
    parts = [training_subset(train, fraction, seed) for fraction in EFFICIENCY_FRACTIONS]
    for small, large in itertools.pairwise(parts):
        assert large[: len(small)] == small
    assert sorted(parts[-1]) == sorted(train)
    assert len(parts[0]) == -(-count // 100)


def test_fractions_are_read_as_decimals_but_as_published_in_floating_point():
    train = stems(100)
    # 0.07 * 100 is 7.000000000000001.
    assert len(training_subset(train, 0.07)) == 7
    assert len(training_subset(train, 0.07, mode="faithful")) == 8
    order = np.random.RandomState(3).permutation(100)[:30]
    assert training_subset(train, 0.3, 3) == tuple(np.array(train)[order].tolist())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "b", "a"],), InputError, "1 come more than once, the first is 'a'"),
        (([],), InputError, "no names"),
        ((["a"],), InputError, "1 images split at a share of 0.8 leave 1 for training and 0 for validation"),
        ((["a", "b"], 1.5), ConfigError, "between 0 and 1, got 1.5"),
        (
            (["a", "b"], 0.5, 1, "published"),
            ConfigError,
            "mode of a split must be .*, got 'published'",
        ),
    ],
)
def test_impossible_splits_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        unchecked(split)(*arguments)


@pytest.mark.parametrize(("fraction", "mode"), [(0.0, "correct"), (1.1, "correct"), (0.5, "published")])
def test_impossible_fractions_are_refused(fraction, mode):
    with pytest.raises(ConfigError, match=r"above 0 and not above 1|the mode of a split"):
        unchecked(training_subset)(["a"], fraction, mode=mode)


def test_all_images_may_train():
    assert split(list("ab"), 1.0, None) == (("a", "b"), ())
    assert split(list("ab"), 0.0, None) == ((), ("a", "b"))
