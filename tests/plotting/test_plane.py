"""Maps of the plane share one scale, and lie the right way up."""

import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.plotting.plane import plane_maps


def test_every_map_has_a_panel_on_the_common_scale():
    maps = {name: np.full((3, 4), value) for name, value in (("HMC", 0.1), ("one", 0.5), ("two", 0.7), ("three", 0.0))}
    figure = plane_maps(maps, (-2.0, 2.0, -1.0, 1.0), limits=(0.0, 0.7), unit="nats", columns=3)
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in panels] == list(maps)
    for ax, values in zip(panels, maps.values(), strict=True):
        (image,) = ax.images
        assert image.get_clim() == (0.0, 0.7)
        assert tuple(image.get_extent()) == (-2.0, 2.0, -1.0, 1.0)
        assert image.origin == "lower"  # row 0 is the lowest x2
        np.testing.assert_array_equal(np.asarray(image.get_array()), values)
    assert figure.axes[-1].get_ylabel() == "nats"


def test_points_lie_on_the_first_panel_alone():
    points = np.array([[0.0, 0.5], [1.0, -0.5]])
    maps = {"HMC": np.zeros((2, 2)), "other": np.zeros((2, 2))}
    figure = plane_maps(
        maps, (-2.0, 2.0, -1.0, 1.0), limits=(0.0, 1.0), unit="", points=points, labels=np.array([0, 1])
    )
    first, second = (ax for ax in figure.axes if ax.images)
    np.testing.assert_array_equal(np.asarray(first.collections[0].get_offsets()), points)
    assert not second.collections


def test_no_maps_are_refused():
    with pytest.raises(InputError, match="at least one map"):
        plane_maps({}, (0.0, 1.0, 0.0, 1.0), limits=(0.0, 1.0), unit="")
