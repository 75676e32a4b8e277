"""Figures of equivariance hold the numbers of the report."""

import numpy as np
import pytest

from jaxgeo.equivariance.meter import Measurement
from jaxgeo.equivariance.report import EquivarianceReport, LayerErrors
from jaxgeo.errors import InputError
from jaxgeo.plotting.equivariance import equivariance_report, error_against_oversampling

ANGLES = np.array([10.0, 90.0, 180.0])
SMALL = np.full((3, 2), 1e-7)


def example():
    layers = (
        LayerErrors("mix", "linear", SMALL, 0 * SMALL, SMALL, SMALL),
        LayerErrors("gate", "nonlinear", 3 * SMALL, 1e5 * SMALL, 1e5 * SMALL * np.array([[1], [2], [3]]), SMALL),
        LayerErrors("output", None, None, SMALL, np.array([[1e-2, 3e-2]] * 3), SMALL),
    )
    return EquivarianceReport(ANGLES, layers)


def line(ax, label):
    return next(artist for artist in ax.lines if artist.get_label() == label)


def test_report_figure_shows_every_part_of_every_layer():
    left, right = equivariance_report(example()).axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["mix", "gate", "output"]
    np.testing.assert_allclose(line(left, "accumulated").get_ydata(), [1e-7, 2e-2, 2e-2])
    np.testing.assert_allclose(line(left, "linear layers").get_xydata(), [[0, 1e-7]])
    np.testing.assert_allclose(line(left, "nonlinear layers").get_xydata(), [[1, 3e-7]])
    # An error of exactly zero stands on a line of the logarithmic axis that says so.
    np.testing.assert_allclose(line(left, "between layers").get_ydata(), [1e-17, 1e-2, 1e-7])
    assert [text.get_text() for text in left.texts] == ["exactly 0"]
    assert not right.texts
    np.testing.assert_allclose(line(right, "gate").get_xydata(), np.stack([ANGLES, [1e-2, 2e-2, 3e-2]], -1))
    np.testing.assert_allclose(line(right, "output").get_ydata(), [2e-2] * 3)
    assert left.get_yscale() == right.get_yscale() == "log"


def test_angles_are_drawn_in_rising_order_and_a_single_one_as_a_point():
    accumulated = np.array([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]])
    layers = (
        LayerErrors("mix", "linear", SMALL, SMALL, accumulated, SMALL),
        LayerErrors("output", None, None, SMALL, accumulated, SMALL),
    )
    _, right = equivariance_report(EquivarianceReport(np.array([180.0, -45.0, 90.0]), layers)).axes
    for label in ("mix", "output"):
        np.testing.assert_allclose(line(right, label).get_xydata(), [[-45, 1], [90, 2], [180, 3]])
        assert line(right, label).get_marker() == "o"


@pytest.mark.parametrize("known", [SMALL, SMALL * np.inf])
def test_errors_that_are_no_numbers_leave_gaps(known):
    unknown = np.full((3, 2), np.nan)
    layers = (
        LayerErrors("mix", "linear", known, known, unknown, known),
        LayerErrors("output", None, None, known, known, known),
    )
    left, right = equivariance_report(EquivarianceReport(ANGLES, layers)).axes
    np.testing.assert_array_equal(np.isnan(line(left, "accumulated").get_ydata()), [True, False])
    for ax in (left, right):
        low, high = ax.get_ylim()
        assert 0 < low < high < np.inf


def test_oversampling_figure_shows_means_and_range():
    by_factor = {
        4: Measurement(ANGLES, np.array([[1e-3], [2e-3], [3e-3]]), np.zeros((3, 1))),
        1: Measurement(ANGLES, np.full((3, 1), 0.2), np.zeros((3, 1))),
    }
    (ax,) = error_against_oversampling({"relu": by_factor}).axes
    np.testing.assert_allclose(line(ax, "relu").get_xydata(), [[1, 0.2], [4, 2e-3]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4"]
    with pytest.raises(InputError, match="at least one nonlinearity"):
        error_against_oversampling({})
