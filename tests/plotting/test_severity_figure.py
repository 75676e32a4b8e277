"""Scores by severity: every value and error where it belongs."""

import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.severity import scores_by_severity

CURVES = {
    "one": {5: Measure(0.4, 0.02), 0: Measure(0.9, 0.01), 2: Measure(0.7, None)},
    "other": {0: Measure(0.8, 0.01), 5: Measure(0.5, 0.03)},
}


def test_lines_go_through_the_values_in_order_of_severity_with_their_errors():
    figure = scores_by_severity({"accuracy": CURVES, "ECE": CURVES})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["accuracy", "ECE"]
    for ax in figure.axes:
        one, other = ax.containers
        np.testing.assert_allclose(np.asarray(one.lines[0].get_ydata(), float), [0.9, 0.7, 0.4])
        np.testing.assert_allclose(np.asarray(other.lines[0].get_ydata(), float), [0.8, 0.5])
        # Methods stand less than a tenth of a severity from their place.
        np.testing.assert_allclose(np.asarray(one.lines[0].get_xdata(), float), [0, 2, 5], atol=0.1)
        (bars,) = other.lines[2]
        heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(heights, [0.02, 0.06])
        assert one.lines[0].get_color() != other.lines[0].get_color()
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["one", "other"]


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "at least one measure"),
        ({"ECE": {}}, "ECE needs methods"),
        ({"ECE": {"one": {}}}, r"got none of \['one'\]"),
        ({"ECE": {"one": {3: Measure(float("inf"), None)}}}, "ECE of one at severity 3 must be finite .* got inf"),
    ],
)
def test_what_cannot_be_drawn_is_refused(panels, message):
    with pytest.raises(InputError, match=message):
        scores_by_severity(panels)
