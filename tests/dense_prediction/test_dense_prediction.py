"""Runs of dense prediction from the command to the files: trained, broken off and gone on with, scored, and mapped."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_runs import EARTH, NSIDE, SCENES, STEPS, TINY

from jaxgeo import locks
from jaxgeo.cli import main
from jaxgeo.config_files import to_dict
from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.dense_prediction.fitting import check_run, fit, load_params
from jaxgeo.dense_prediction.networks import make_network, model_config
from jaxgeo.dense_prediction.presets import paper_config, scenes_config
from jaxgeo.dense_prediction.problems import batch_of, make_problem
from jaxgeo.dense_prediction.scoring import score
from jaxgeo.dense_prediction.viewing import solid_angles
from jaxgeo.errors import ConfigError, RunFolderError


def assert_equal_trees(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.usefixtures("earth")
def test_a_run_that_is_broken_off_goes_on_to_the_same_bits_and_maps_a_globe(tmp_path, capsys):
    whole = fit(tmp_path / "whole", EARTH)

    def stop(done, total, values):
        if done == 3:  # after the checkpoint of step 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", EARTH, stop)
    with pytest.raises(RunFolderError, match="no finished training"):
        load_params(tmp_path / "broken")
    seen = []
    again = fit(tmp_path / "broken", EARTH, lambda done, total, values: seen.append(done))
    assert min(seen) == 3
    assert_equal_trees(again.params, whole.params)
    assert again.scores["spaces"] == whole.scores["spaces"]
    finished = fit(tmp_path / "whole", EARTH, lambda done, total, values: pytest.fail("nothing was left to do"))
    assert_equal_trees(finished.params, whole.params)
    with pytest.raises(ConfigError, match=r"begun with data\.fold = 0, not 1"):
        fit(tmp_path / "whole", dataclasses.replace(EARTH, data=dataclasses.replace(EARTH.data, fold=1)))

    # By the command: probabilities that sum to one, NESTED, from the named map and from a file of the same values.
    assert main(["predict", str(tmp_path / "whole"), "earth", "--out", str(tmp_path / "map")]) == 0
    said = json.loads(capsys.readouterr().out)
    fits, npz = read_map(tmp_path / "map.fits"), read_map(tmp_path / "map.npz")
    assert fits.order == npz.order == "nested"
    assert fits.maps.shape == (3 + 3, 12 * NSIDE**2)  # classes, and how sure they are
    np.testing.assert_allclose(fits.maps[:3].sum(0), 1, atol=1e-6)  # float32
    np.testing.assert_array_equal(fits.maps, npz.maps)
    assert sum(said["shares"].values()) == pytest.approx(1)
    assert (tmp_path / "map.png").stat().st_size > 10_000
    with np.load(tmp_path / "data" / "earth_climate.npz") as arrays:
        raw = np.vstack([arrays["hp_rgb"].T, arrays["hp_elev_m"][None]]).astype(np.float64)
    write_map(tmp_path / "raw.fits", raw, ["R", "G", "B", "H"])
    assert main(["predict", str(tmp_path / "whole"), str(tmp_path / "raw.fits"), "--out", str(tmp_path / "other")]) == 0
    np.testing.assert_allclose(read_map(tmp_path / "other.npz").maps, npz.maps, atol=1e-5)  # float32 inputs
    write_map(tmp_path / "few.fits", raw[:2], ["R", "G"])
    assert main(["predict", str(tmp_path / "whole"), str(tmp_path / "few.fits"), "--out", str(tmp_path / "x")]) == 1
    assert "takes 4 maps, got 2" in capsys.readouterr().err


@pytest.mark.usefixtures("earth")
def test_two_processes_do_not_train_in_one_folder_and_a_lock_alone_is_no_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locks.held(folder), pytest.raises(RunFolderError, match="is in use by another process"):
        fit(folder, EARTH)
    assert [entry.name for entry in folder.iterdir()] == [locks.NAME]
    assert not check_run(folder, EARTH)
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match="is not empty and no run"):
        check_run(folder, EARTH)


@pytest.mark.usefixtures("earth")
def test_test_regions_are_in_no_batch_and_validation_is_in_neither():
    problem = make_problem(dataclasses.replace(EARTH, fit=FitConfig(patience=1)))
    train, chosen, test = problem.train[0].weights, problem.validation[0].weights, problem.test[0].weights
    assert not (train * chosen).any()
    assert not (train * test).any()
    assert not (chosen * test).any()
    assert (problem.test[0].weights[problem.test[0].targets == 255] == 0).all()
    _, targets, weights = batch_of(problem, range(len(problem.train)))
    assert weights.mean() == pytest.approx(1)
    assert {row.tobytes() for row in targets} != {targets[0].tobytes()}  # the symmetries move the map


@pytest.mark.parametrize("kind", ["heal_swin", "swin"])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_networks_of_both_kinds_learn_both_tasks_and_are_judged_in_their_spaces(tmp_path, kind, task):
    loss = "cross_entropy" if task == "segmentation" else "gaussian"
    config = DenseConfig(
        dataclasses.replace(SCENES, task=task),
        dataclasses.replace(TINY, kind=kind, depths=(1, 1), shift="grid", shift_size=1),
        FitConfig(loss=loss, evaluate_every=5, figures=1),
        dataclasses.replace(STEPS, steps=5),
    )
    fitted = fit(tmp_path, config)
    spaces = {"heal_swin": {"sphere", "sphere_to_flat"}, "swin": {"flat_masked", "flat_to_sphere"}}
    assert set(fitted.scores["spaces"]) == spaces[kind]
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"example-0-sphere.png", "example-0-picture.png"}
    for space, scores in fitted.scores["spaces"].items():
        known = scores["area_accuracy"] if task == "segmentation" else scores["area_mean_absolute_error"]
        assert np.isfinite(known)
        assert task == "segmentation" or min(scores["pixel_chamfer_distance"], scores["area_chamfer_distance"]) > 0
        # A fisheye picture's pixels are not equally large.
        flat = space in ("flat_masked", "sphere_to_flat")
        assert (scores["pixel_" + _key(task)] != pytest.approx(scores["area_" + _key(task)], rel=1e-4)) == flat


def _key(task):
    return "accuracy" if task == "segmentation" else "mean_absolute_error"


def test_the_truth_itself_scores_full_marks_and_a_constant_does_not():
    config = DenseConfig(SCENES, dataclasses.replace(TINY, shift="grid"), FitConfig(), STEPS)
    problem = make_problem(config)
    count, examples = len(problem.class_names), [problem.test[i] for i in range(len(problem.test))]
    by_inputs = {
        example.inputs.tobytes(): np.eye(count + 1)[np.minimum(example.targets, count)] for example in examples
    }
    full = score(problem, lambda inputs: by_inputs[inputs.tobytes()][..., :count])
    assert full["pixel_miou"] == full["area_accuracy"] == pytest.approx(100)
    constant = score(problem, lambda inputs: np.eye(count)[np.full(len(inputs), 3)])
    assert constant["area_miou"] < 20


def test_solid_angles_of_a_picture_sum_to_what_the_camera_sees():
    problem = make_problem(DenseConfig(SCENES, dataclasses.replace(TINY, shift="grid"), FitConfig(), STEPS))
    picture = problem.pictures.picture(0)
    angles = solid_angles(picture)
    assert angles.shape == picture.camera.image_shape
    # Against the share of many HEALPix pixels that the picture shows: both count the same cone, to a pixel's edge.
    from jaxgeo.grids.resample import fisheye_to_healpix

    seen = np.asarray(fisheye_to_healpix(picture.camera, 64).nearest) >= 0
    assert angles.sum() == pytest.approx(4 * np.pi * seen.mean(), rel=0.03)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "heal-swin", "--out", "X", "--data.task", "depth"], "earth has no depths"),
        (["train", "heal-swin", "--out", "X", "--data.faces", "8"], "the Earth has all 12 faces"),
        (["train", "heal-swin", "--out", "X", "--network.kind", "swin"], "no flat picture"),
        (
            ["train", "heal-swin", "--out", "X", "--preset", "scenes", "--network.kind", "swin", "--network.latitude"],
            "a flat picture has no latitudes",
        ),
        (["train", "heal-swin", "--out", "X", "--fit.loss", "l1"], "fit.loss 'l1' is not for segmentation"),
        (["train", "heal-swin", "--out", "X", "--data.subset", "0.5"], "the Earth is one map and has no subset 0.5"),
        (["train", "heal-swin", "--out", "X", "--preset", "scenes", "--data.subset", "0"], "above 0 and not above 1"),
        (["train", "heal-swin", "--out", "X", "--data.subset_seed", "-1"], "must be a whole number from 0 to"),
        (["train", "heal-swin", "--out", "X", "--fit.figures", "-1"], "must be a whole number of at least 0"),
        (["train", "heal-swin", "--out", "X", "--data.source", "stanford", "--data.faces", "8"], "a panorama has all"),
        (
            ["train", "heal-swin", "--out", "X", "--data.source", "stanford", "--data.fold", "3"],
            "lie in 0 ... 2, got 3",
        ),
        (["train", "heal-swin", "--out", "X", "--training.steps", "0"], "steps must be a whole number of at least 1"),
        (["train", "heal-swin", "--out", "X", "--preset", "paper", "--training.steps", "3"], "would count nothing"),
        (["train", "heal-swin", "--out", "X", "--network.compute_dtype", "float16"], "derivatives vanish in float16"),
        (["train", "heal-swin", "--out", "X", "--network.no-masking"], "of the flat network alone"),
        (["train", "heal-swin", "--preset", "earth", "--config", "y", "--out", "X"], "give one of them"),
        (["predict", "nowhere", "earth", "--out", "X"], "holds no run of dense prediction"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_status_one(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "X").exists()


@pytest.mark.parametrize("source", ["earth", "woodscape"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_network_that_cannot_be_is_said_before_data_that_are_missing(tmp_path, monkeypatch, capsys, command, source):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    save_file({"x": np.zeros(1)}, "w.safetensors")
    argv = [command, "heal-swin", "--out", "X", "--data.source", source]
    argv += ["--weights", "w.safetensors"] if command == "evaluate" else []
    assert main(argv) == 1
    assert "JAXGEO_DATA" in capsys.readouterr().err
    assert main([*argv, "--network.depths", "2", "2"]) == 1
    assert "a number of heads for each, got depths (2, 2)" in capsys.readouterr().err
    assert not (tmp_path / "X").exists()


def test_settings_printed_can_be_given_back(tmp_path, capsys):
    assert main(["train", "heal-swin", "--preset", "scenes", "--out", "X", "--show", "--data.nside", "16"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "mine.json").write_text(printed)
    assert main(["train", "heal-swin", "--config", str(tmp_path / "mine.json"), "--out", "X", "--show"]) == 0
    assert capsys.readouterr().out == printed
    assert json.loads(printed)["data"] == to_dict(scenes_config())["data"] | {"nside": 16}
    assert paper_config().network.embed_dim == 96


def test_steps_in_place_of_the_published_epochs_are_asked_for_in_words(capsys):
    argv = ["train", "heal-swin", "--out", "X", "--preset", "paper", "--training.steps", "3", "--fit.epochs", "None"]
    assert main([*argv, "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["training"]["steps"], shown["fit"]["epochs"]) == (3, None)


@pytest.mark.parametrize("kind", ["heal_swin", "swin"])
def test_every_setting_of_a_network_reaches_the_model(kind):
    changed = {"qkv_bias": False, "qk_scale": 0.3, "attention_chunk": 4, "attention": "dot", "mlp_ratio": 3.0}
    changed |= {"masking": False} if kind == "swin" else {}
    network = dataclasses.replace(TINY, kind=kind, shift="grid", shift_size=1, **changed)
    config = DenseConfig(SCENES, network, FitConfig(), STEPS)
    model = model_config(config, make_problem(config))
    assert {name: getattr(model, name) for name in changed} == changed


@pytest.mark.parametrize(("kind", "tokens"), [("heal_swin", 8 * NSIDE**2 // 4), ("swin", 16 * 24 // 4)])
def test_a_table_of_positions_has_a_row_for_each_token(kind, tokens):
    network = dataclasses.replace(TINY, kind=kind, shift="grid", shift_size=1, absolute_position=True)
    config = DenseConfig(SCENES, network, FitConfig(), STEPS)
    shapes = jax.eval_shape(make_network(model_config(config, make_problem(config))).init, jax.random.key(0))
    assert shapes["encoder"]["absolute_pos_embed"].shape == (tokens, 8)
