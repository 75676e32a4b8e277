"""Runs on a folder in WoodScape's format: resized pictures, the published flat baseline, scores without void."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_runs import COLUMNS, EARTH, NSIDE, ROWS, SCENES, STEPS, TINY

from jaxgeo.cli import main
from jaxgeo.data import woodscape
from jaxgeo.dense_prediction import viewing
from jaxgeo.dense_prediction.config import DataConfig, DenseConfig, FitConfig
from jaxgeo.dense_prediction.networks import make_network, model_of
from jaxgeo.dense_prediction.presets import paper_flat_config
from jaxgeo.dense_prediction.problems import form_of, make_problem
from jaxgeo.dense_prediction.scoring import Tally
from jaxgeo.errors import ConfigError

PICTURES = DataConfig("woodscape", nside=NSIDE, faces=8, image_rows=16, image_columns=24)
FLAT = DenseConfig(PICTURES, dataclasses.replace(TINY, kind="swin", shift="grid", shift_size=1), FitConfig(), STEPS)


@pytest.mark.usefixtures("folder")
def test_resized_pictures_are_those_of_the_loader_and_see_what_the_stored_ones_see():
    small = make_problem(FLAT)
    assert form_of(FLAT) == (small.class_names, 3, (16, 24))
    assert small.test[0].targets.shape == (16, 24)
    whole = make_problem(
        dataclasses.replace(FLAT, data=dataclasses.replace(PICTURES, image_rows=None, image_columns=None))
    )
    assert whole.test[0].targets.shape == (ROWS, COLUMNS)
    picture, stored = small.pictures.picture(0), whole.pictures.picture(0)
    np.testing.assert_array_equal(picture.image, woodscape.resize_example(stored, (16, 24)).image)
    # The same part of the sphere, to an edge of pixels of 1/16 of the height.
    areas = [viewing.solid_angles(each).sum() for each in (picture, stored)]
    assert areas[0] == pytest.approx(areas[1], rel=0.05)
    view = viewing.View(NSIDE, tuple(range(8)))
    shown = [np.asarray(viewing.to_sphere(each, view).nearest) >= 0 for each in (picture, stored)]
    np.testing.assert_array_equal(*shown)  # the outer edges are the same


@pytest.mark.usefixtures("folder")
def test_a_command_trains_the_flat_network_on_resized_pictures_and_scores_it_with_and_without_void(tmp_path, capsys):
    network = {"embed_dim": "4", "depths": "1 1", "num_heads": "1 1", "patch_size": "4", "window_size": "4"}
    network |= {"shift_size": "1"}
    flags = [word for name, value in network.items() for word in (f"--network.{name}", *value.split())]
    flags += [
        "--data.nside",
        "8",
        "--data.image_rows",
        "16",
        "--data.image_columns",
        "24",
        "--data.train_examples",
        "2",
    ]
    flags += ["--fit.epochs", "1", "--training.batch_size", "1", "--fit.figures", "0"]
    assert main(["train", "heal-swin", "--preset", "paper-flat", "--out", str(tmp_path / "run"), *flags]) == 0
    spaces = json.loads(capsys.readouterr().out.splitlines()[-1])["spaces"]
    assert set(spaces) == {"flat_masked", "flat_to_sphere"}
    assert all({"area_miou", "area_miou_without_void"} <= set(scores) for scores in spaces.values())


@pytest.mark.usefixtures("folder")
def test_void_is_left_out_of_the_mean_where_the_source_has_it():
    problem = make_problem(FLAT)
    assert problem.class_names[problem.void] == "void"
    tally, targets = Tally(problem), np.array([0, 0, 1, 1, 6, 6], np.int32)
    tally.add(np.array([0, 1, 1, 1, 6, 0], np.int32), targets, np.ones(6, np.float32))
    scores = tally.scores()
    # Intersections over unions: void 1/3, road 2/3, vehicles 1/2.
    assert scores["pixel_miou"] == pytest.approx(50)
    assert scores["pixel_miou_without_void"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


@pytest.mark.usefixtures("earth")
def test_a_source_without_void_has_no_score_without_it():
    problem = make_problem(EARTH)
    assert problem.class_names[0] == "ocean"
    assert problem.void is None
    tally = Tally(problem)
    tally.add(np.zeros(4, np.int32), np.zeros(4, np.int32), np.ones(4, np.float32))
    assert not [key for key in tally.scores() if "without" in key]
    assert tally.scores()["pixel_miou"] == 100


@pytest.mark.usefixtures("folder")
def test_the_flat_preset_is_the_published_baseline():
    flat = paper_flat_config()
    # The form is that of the data: ten classes, and pictures of the published size whatever is stored.
    form = form_of(flat)
    assert form.image_shape == (640, 768)
    model = model_of(flat, form)
    assert (model.patch_size, model.window_size, model.shift) == ((2, 2), (8, 8), (2, 2))
    shapes = jax.eval_shape(make_network(model).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 41_279_688


IMPOSSIBLE = {
    "nside": (["--data.nside", "100"], "nside must be a power of two"),
    "window": (["--network.window_size", "12"], "window_size must be a power of four"),
    "stages": (["--network.depths", "2", "2"], "a number of heads for each"),
    "heads": (["--network.num_heads", "5", "5", "5"], "5 heads cannot share"),
    "roll": (["--network.shift", "nest_roll", "--network.shift_size", "99"], "99"),
    "flat patch": (["--network.kind", "swin", "--network.patch_size", "8"], "square number"),
    "flat size": (["--network.kind", "swin", "--data.image_rows", "100"], "got 100 rows"),
    "one side": (["--data.image_rows", "None"], "both given or both not"),
}


@pytest.mark.parametrize(("flags", "said"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_settings_are_refused_before_examples_are_made_and_leave_no_folder(
    tmp_path, monkeypatch, capsys, flags, said
):
    monkeypatch.setattr("jaxgeo.dense_prediction.fitting.make_problem", lambda config: pytest.fail("examples are made"))
    out = tmp_path / "run"
    assert main(["train", "heal-swin", "--preset", "scenes", "--out", str(out), *flags]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not out.exists()


def test_a_run_without_its_data_leaves_a_folder_that_the_next_can_have(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path / "nowhere"))
    out = tmp_path / "run"
    assert main(["train", "heal-swin", "--out", str(out)]) == 1
    assert "earth_climate" in capsys.readouterr().err
    assert not (out / "config.json").exists()


def test_flat_networks_without_pictures_are_refused():
    with pytest.raises(ConfigError, match="needs pictures, and there are none"):
        model_of(FLAT, form_of(dataclasses.replace(FLAT, data=SCENES))._replace(image_shape=None))
