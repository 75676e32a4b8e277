"""Distance against price: every method where it belongs, the floor and the reference beside them."""

import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.cost import Cost, distance_against_cost

METHODS = {f"method {i}": Cost(10.0 * (i + 1), Measure(0.1 / (i + 1), 0.01)) for i in range(9)}


def test_points_lie_at_price_and_distance_and_no_two_look_the_same():
    ax = distance_against_cost(METHODS, Measure(0.02, 0.005), 300.0).axes[0]
    points = [container.lines[0] for container in ax.containers]
    np.testing.assert_allclose([line.get_xdata()[0] for line in points], [10.0 * (i + 1) for i in range(9)])
    np.testing.assert_allclose([line.get_ydata()[0] for line in points], [0.1 / (i + 1) for i in range(9)])
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in points}
    assert len(looks) == 9
    assert ax.get_xscale() == "log"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["HMC, one half against the other", "HMC", *METHODS]
    band = ax.patches[0].get_bbox() if ax.patches else None
    assert band is not None
    np.testing.assert_allclose([band.y0, band.y1], [0.0, 0.025])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "at least one method"),
        (({"a": Cost(0.0, Measure(0.1, None))},), "a needs a positive finite time and a finite distance, got 0.0"),
        (({"a": Cost(1.0, Measure(float("nan"), None))},), "got 1.0 and nan"),
        ((METHODS, None, -1.0), "the time of HMC must be positive and finite"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        distance_against_cost(*arguments)
