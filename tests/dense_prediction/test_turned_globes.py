"""The turns and mirror images of the Earth that a run learns from."""

import dataclasses

import numpy as np
import pytest
from tiny_runs import EARTH, NSIDE

from jaxgeo.dense_prediction.config import DataConfig
from jaxgeo.dense_prediction.examples import Turned
from jaxgeo.dense_prediction.problems import make_problem
from jaxgeo.errors import ConfigError
from jaxgeo.grids.healpix import pixel_vectors


def with_data(**changes):
    return dataclasses.replace(EARTH, data=dataclasses.replace(EARTH.data, **changes))


def eastward(turned):
    """Of every example of a map that shows its own directions: mean of exp(i (longitude shown - longitude))."""
    x, y, z = np.asarray(pixel_vectors(NSIDE, np.arange(12 * NSIDE**2), "nested")).T
    directions = np.stack([x, y, z], axis=-1).astype(np.float32)
    globe = Turned(turned.example._replace(inputs=directions), turned.permutations, turned.turns)
    place, belt = (x + 1j * y) / np.hypot(x, y), np.abs(z) < 0.5
    shown = [globe[index].inputs[belt] for index in range(len(globe))]
    return np.array([np.mean((one[:, 0] + 1j * one[:, 1]) / np.hypot(*one[:, :2].T) / place[belt]) for one in shown])


@pytest.mark.usefixtures("earth")
@pytest.mark.parametrize(("mirrors", "symmetries"), [("both", 16), ("equator", 8)])
def test_a_globe_is_turned_by_equal_steps_and_keeps_its_east_where_it_is_told_to(mirrors, symmetries):
    turns = NSIDE // 2  # two pixels of the belt each, so that they are exact there
    train = make_problem(with_data(mirrors=mirrors, turns=turns)).train
    assert len(train) == turns * symmetries
    means = eastward(train)
    # In the mean over the belt mirrored longitudes agree with the true ones nowhere, turned ones everywhere.
    kept = np.abs(means) > 0.5
    steps = np.angle(means[kept]) / (np.pi / 2 / turns)
    # The coordinates are float32.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    # Every step once, and once mirrored at the equator.
    np.testing.assert_array_equal(np.bincount(np.round(steps).astype(int) % (4 * turns)), np.full(4 * turns, 2))


@pytest.mark.usefixtures("earth")
def test_a_globe_that_is_not_turned_is_one_example_and_judged_as_it_is():
    still = make_problem(with_data(symmetries=False))
    assert len(still.train) == 1
    turned = make_problem(with_data(mirrors="equator", turns=2))
    np.testing.assert_array_equal(turned.train[0].inputs, still.train[0].inputs)
    assert len(turned.test) == 1
    for one, other in zip(turned.test[0], still.test[0], strict=True):
        np.testing.assert_array_equal(one, other)
    # No pixel of a held-out region is learnt from.
    learnt = turned.train[0].weights > 0
    assert not (learnt & (turned.test[0].weights > 0)).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"turns": 0}, "data.turns must be a whole number of at least 1, got 0"),
        ({"turns": 2, "symmetries": False}, "say which data.symmetries are taken"),
        ({"mirrors": "equator", "symmetries": False}, "say which data.symmetries are taken"),
    ],
)
def test_turns_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        DataConfig(**changes)
