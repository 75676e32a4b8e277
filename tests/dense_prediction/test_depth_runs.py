"""Depths of a run: how they are scaled is its own setting, and all that a network predicts of them is scored."""

import dataclasses
import math

import numpy as np
import pytest
from tiny_runs import SCENES, STEPS, TINY

from jaxgeo.data.depth_scaling import published_statistics, scale_depths, unscale_depths
from jaxgeo.dense_prediction.config import DenseConfig, DepthConfig, FitConfig
from jaxgeo.dense_prediction.networks import model_of
from jaxgeo.dense_prediction.presets import (
    paper_config,
    paper_depth_config,
    paper_flat_config,
    paper_flat_depth_config,
)
from jaxgeo.dense_prediction.problems import Form, make_problem
from jaxgeo.dense_prediction.scoring import headline, score, score_spaces
from jaxgeo.dense_prediction.viewing import View
from jaxgeo.errors import ConfigError
from jaxgeo.models.planar_cnn import count_parameters
from jaxgeo.models.swin_weights import parameter_shapes

# Where nothing else is said, tolerances bound float32 rounding, of depths and their scaling there and back.

DATA = dataclasses.replace(SCENES, task="depth", train_examples=2, test_examples=1)
NETWORK = dataclasses.replace(TINY, shift="grid")


def problem_of(depth=DepthConfig(), **fit):  # noqa: B008 -- frozen
    return make_problem(DenseConfig(DATA, NETWORK, FitConfig(loss="gaussian", **fit), STEPS, depth))


@pytest.mark.parametrize("transform", ["none", "log", "inverse"])
def test_the_mean_depth_has_relative_errors_of_one_and_deviations_are_in_metres(transform):
    problem = problem_of(DepthConfig(transform=transform, limit=None))
    z = np.float32(scale_depths(problem.scaling, np.array([problem.mean_depth]))[0])
    log_variance = np.float32(-7)

    def predict(inputs):
        return np.stack(np.broadcast_arrays(np.full(len(inputs), z), log_variance), -1)

    scores = score(problem, predict)
    for space in ("pixel", "area"):
        assert scores[f"{space}_relative_squared_error"] == pytest.approx(1, rel=1e-4)  # float32 sums and exponentials
        assert scores[f"{space}_relative_absolute_error"] == pytest.approx(1, rel=1e-4)
        # exp(s / 2) scaled deviations, times the slope of the depth at the mean.
        step = 1e-3
        up, down = (unscale_depths(problem.scaling, np.array([float(z) + side * step]))[0] for side in (1, -1))
        deviation = math.exp(float(log_variance) / 2) * abs(up - down) / (2 * step)
        assert scores[f"{space}_mean_deviation"] == pytest.approx(deviation, rel=1e-4)
        assert scores[f"{space}_mean_median_deviation"] == pytest.approx(deviation, rel=1e-4)


def test_variances_are_scored_in_both_spaces():
    problem = problem_of()
    spaces = score_spaces(
        problem, lambda inputs: np.zeros((len(inputs), 2), np.float32), View(DATA.nside, tuple(range(8)))
    )
    for scores in spaces.values():
        assert scores["area_mean_deviation"] > 0
        assert scores["area_relative_squared_error"] > 0
    # A network of one output has no deviation.
    assert score(problem, lambda inputs: np.zeros((len(inputs), 1), np.float32))["area_mean_deviation"] is None


def test_scaling_is_as_configured_and_the_reference_is_the_mean_of_what_is_learnt_from():
    problem = problem_of(DepthConfig(transform="none", normalisation="min_max", limit=None))
    depths = np.concatenate([example.targets[np.isfinite(example.targets)] for example in _pictures()])
    assert problem.mean_depth == pytest.approx(depths.astype(np.float64).mean(), rel=1e-6)  # float32 depths
    scaled = scale_depths(problem.scaling, depths.astype(np.float64))
    assert (scaled.min(), scaled.max()) == pytest.approx((0, 1), abs=1e-7)
    assert problem.scaling.limit == math.inf
    published = problem_of(DepthConfig(transform="none", statistics="published"))
    assert published.scaling.statistics == published_statistics("none", True)
    assert published.mean_depth == published_statistics("none", True).mean
    kept = problem_of(DepthConfig(transform="log", statistics="published", background="kept"))
    assert kept.scaling.statistics == published_statistics("log", False)
    assert kept.mean_depth == published_statistics("none", False).mean


def _pictures():
    flat = DenseConfig(DATA, dataclasses.replace(TINY, kind="swin", shift_size=1), FitConfig(loss="l1"), STEPS)
    return list(make_problem(flat).train.examples)


def test_published_scores_choose_by_the_squared_error_and_count_the_sky_in_inverse_depths():
    faithful, correct = problem_of(scores="faithful"), problem_of()

    def predict(inputs):
        return np.zeros((len(inputs), 2), np.float32)

    published, own = score(faithful, predict), score(correct, predict)
    assert headline(faithful, published) == -published["pixel_mean_squared_error"]
    assert headline(correct, own) == -own["area_mean_absolute_error"]
    assert published["pixel_mean_squared_error"] == own["pixel_mean_squared_error"]
    example = correct.test[0]
    sky = (example.weights > 0) & np.isinf(example.targets)
    known = np.isfinite(example.targets) & (example.weights > 0)
    inverse = 1000 / unscale_depths(correct.scaling, np.zeros(1))[0]
    errors = np.concatenate([np.full(sky.sum(), inverse), inverse - 1000 / example.targets[known]])
    assert sky.any()
    key = "pixel_inverse_root_mean_squared_error"
    assert published[key] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-4)  # float32
    assert own[key] == pytest.approx(math.sqrt(np.mean(errors[sky.sum() :] ** 2)), rel=1e-4)


def test_the_depth_preset_is_the_published_run():
    config = paper_depth_config()
    assert (config.data.source, config.data.task) == ("synwoodscape", "depth")
    assert (config.depth.transform, config.depth.normalisation, config.depth.limit) == ("none", "standardise", None)
    assert (config.fit.loss, config.training.learning_rate) == ("l2", 0.005)
    assert config.network == paper_config().network
    assert model_of(config, Form((), 3, None)).num_classes == 1


def test_the_flat_depth_preset_is_the_published_baseline():
    config, sphere = paper_flat_depth_config(), paper_depth_config()
    assert config.network == paper_flat_config().network
    assert (config.depth, config.fit, config.training.learning_rate) == (sphere.depth, sphere.fit, 5e-5)
    model = model_of(config, Form((), 3, config.data.image_shape))
    assert model.size == (512, 640)
    assert count_parameters(parameter_shapes(model)) == 41_278_824  # as on the sphere


def test_a_limit_that_is_no_depth_is_refused():
    with pytest.raises(ConfigError, match=r"depth\.limit is the largest depth in metres, above 0, got 0.0"):
        DepthConfig(limit=0.0)
