"""The notebooks run from top to bottom and show what their text says."""

import runpy
from pathlib import Path

import numpy as np

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def run(name: str) -> dict:
    return runpy.run_path(str(NOTEBOOKS / name), run_name="__main__")


def test_first_steps_learns_and_doubts_what_it_never_saw():
    told = run("first_steps.py")
    assert told["accuracy"] > 0.8  # 400 training images; chance is 0.1
    assert told["turned_information"] > told["upright_information"]
    assert told["dropout_accuracy"] > 0.5  # one network of 2,594 weights, with a tenth of its rows gone
    assert told["dropout_information"] > 0
    assert len(told["gallery"].axes) >= 2


def test_on_the_sphere_shows_where_equivariance_is_lost():
    told = run("on_the_sphere.py")
    assert max(told["spectrum_error"], told["return_error"]) < 1e-5  # float32 through degrees up to 15
    means = [measurement.mean for measurement in told["by_factor"].values()]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 4e-2 * means[0]  # about the factor to the power -3
    assert told["report"].linear_error < 1e-5 < told["report"].nonlinear_error
    assert told["invariance"].worst < 1e-3  # float32 through products of products
    assert all(told[figure].axes for figure in ("gallery", "oversampling_figure", "report_figure"))


def test_pixels_of_the_sphere_learns_the_large_classes_and_doubts_where_it_is_wrong():
    told = run("pixels_of_the_sphere.py")
    assert told["kept"] > 0.95
    assert min(told["accuracies"]) > 55  # percent of the area of new streets; the road alone has less than half
    assert told["doubt_where_wrong"] > told["doubt_where_right"]
    ensemble = told["ensemble"]
    parts = ensemble.expected_entropy + ensemble.mutual_information
    np.testing.assert_allclose(ensemble.predictive_entropy, parts, atol=1e-5)  # float32
    assert ensemble.mutual_information.mean() > 0.01  # two networks, not one twice
    assert set(told["figures"]) == {"sphere", "picture"}
    titles = {axes.get_title() for axes in told["entropy_figure"].axes}
    assert titles >= {"predicted class", "entropy of the mean", "mutual information"}


def test_every_notebook_has_a_test():
    assert {path.name for path in NOTEBOOKS.glob("*.py")} == {
        "first_steps.py",
        "on_the_sphere.py",
        "pixels_of_the_sphere.py",
    }
