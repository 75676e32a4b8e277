"""Figures of a run's examples show what was predicted, and where it is wrong; Chamfer's distance among its scores."""

import dataclasses

import numpy as np
import pytest
from tiny_runs import EARTH, NSIDE, SCENES, STEPS, TINY

from jaxgeo.data.depth_scaling import scale_depths
from jaxgeo.dense_prediction import viewing
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.dense_prediction.figures import draw_examples, example_figures
from jaxgeo.dense_prediction.problems import make_problem
from jaxgeo.dense_prediction.scoring import Tally


def scenes(kind, task):
    loss = "cross_entropy" if task == "segmentation" else "l1"
    network = dataclasses.replace(TINY, kind=kind, shift="grid", shift_size=1)
    return DenseConfig(dataclasses.replace(SCENES, task=task), network, FitConfig(loss=loss, figures=2), STEPS)


def drawn(figure):
    """Values of each panel by its title, NaN in the background."""
    return {
        axes.get_title(): np.ma.filled(np.ma.asarray(axes.images[0].get_array(), float), np.nan)
        for axes in figure.axes
        if axes.images and axes.get_title()
    }


@pytest.mark.parametrize("kind", ["heal_swin", "swin"])
def test_right_and_wrong_classes_are_told_apart_on_the_sphere_and_in_the_picture(kind):
    config = scenes(kind, "segmentation")
    problem = make_problem(config)
    example, size = problem.test[0], len(problem.class_names)
    right = 9 * np.eye(size)[np.minimum(example.targets, size - 1)]
    for outputs, error in ((right, 0), (np.roll(right, 1, axis=-1), 1)):
        figures = example_figures(config, problem, lambda inputs, found=outputs: found.astype(np.float32), 0)
        sphere, picture = drawn(figures["sphere"]), drawn(figures["picture"])
        assert list(sphere) == ["predicted class", "entropy of the prediction", "label", "where they differ"]
        assert list(picture) == ["picture", "labels", "prediction", "where they differ"]
        own, carried = (sphere, picture) if kind == "heal_swin" else (picture, sphere)
        wrong = own["where they differ"]
        assert set(wrong[np.isfinite(wrong)]) == {error}
        # Carried to the other space by the nearest pixel, edges are blurred.
        assert abs(np.nanmean(carried["where they differ"]) - error) < 0.35
        np.testing.assert_array_equal(picture["picture"], problem.pictures.picture(0).image)
        # Eight faces: the south stays background.
        assert np.isnan(sphere["label"][:100]).all()


@pytest.mark.parametrize("kind", ["heal_swin", "swin"])
def test_depths_that_are_a_tenth_too_far_have_a_ratio_of_a_tenth_more(tmp_path, kind):
    config = scenes(kind, "depth")
    problem = make_problem(config)
    by_inputs = {example.inputs.tobytes(): example.targets for example in problem.test.examples}

    def predict(inputs):
        targets = by_inputs[inputs.tobytes()]
        depths = 1.1 * np.where(np.isfinite(targets), targets, 50)
        return np.asarray(scale_depths(problem.scaling, depths), np.float32)[..., None]

    figures = {name: drawn(figure) for name, figure in example_figures(config, problem, predict, 0).items()}
    own = figures["sphere" if kind == "heal_swin" else "picture"]
    ratio = own["predicted / true"]
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1.1, rtol=1e-4)  # float32 through a logarithm
    known = np.isfinite(ratio)
    np.testing.assert_allclose(own["predicted depth"][known], 1.1 * own["true depth"][known], rtol=1e-4)
    assert np.isfinite(own["predicted depth"]).sum() > known.sum()  # the sky has no depth, but a prediction
    written = draw_examples(tmp_path / "figures", config, problem, predict)
    assert [path.name for path in written] == [
        "example-0-sphere.png", "example-0-picture.png", "example-1-sphere.png", "example-1-picture.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


@pytest.mark.usefixtures("earth")
def test_the_earth_is_shown_whole_and_judged_where_it_was_held_back():
    problem = make_problem(EARTH)
    held = problem.test[0].weights > 0
    outputs = 9 * np.eye(3)[np.where(problem.test[0].targets == 255, 0, (problem.test[0].targets + 1) % 3)]
    figures = example_figures(EARTH, problem, lambda inputs: outputs.astype(np.float32), 0)
    assert list(figures) == ["sphere"]
    shown = drawn(figures["sphere"])
    finite = {title: np.isfinite(values).mean() for title, values in shown.items()}
    assert finite["predicted class"] > 0.75  # the ellipse in its box
    assert finite["label"] == pytest.approx(finite["predicted class"] * held.mean(), abs=0.02)  # equal areas
    wrong = shown["where they differ"]
    assert set(wrong[np.isfinite(wrong)]) == {1}


def test_chamfer_of_a_sphere_that_is_too_far_everywhere_is_twice_the_squared_error():
    problem = make_problem(scenes("heal_swin", "depth"))
    rays = viewing.sphere_directions(NSIDE, tuple(range(12)))
    truth = np.full(len(rays), 10, np.float32)
    weights = np.ones(len(rays), np.float32)
    tally, apart = Tally(problem), Tally(problem)
    tally.add(truth + np.float32(0.25), truth, weights, rays)
    assert tally.scores()["area_chamfer_distance"] == pytest.approx(2 * 0.25**2, rel=1e-5)  # float32
    # The published number of several pictures is the mean; one in which nothing counts has none.
    tally.add(truth, truth, weights, rays)
    tally.add(truth, np.full_like(truth, np.inf), weights, rays)
    assert tally.scores()["pixel_chamfer_distance"] == pytest.approx(0.25**2, rel=1e-5)
    # One pixel far off: its prediction is near other targets, and its target near other predictions.
    moved = truth.copy()
    moved[0] = 10.5
    apart.add(moved, truth, weights, rays)
    assert 0 < apart.scores()["pixel_chamfer_distance"] <= 2 * 0.5**2 / len(rays) * (1 + 1e-5)
    apart.add(truth, truth, weights)
    assert apart.scores()["pixel_chamfer_distance"] > 0  # without rays nothing is added
    assert "pixel_chamfer_distance" not in _without_rays(problem, truth, weights)


def _without_rays(problem, truth, weights):
    tally = Tally(problem)
    tally.add(truth, truth, weights)
    return tally.scores()
