"""Published checkpoints, evaluated as they were: inputs and scores of a command by a second implementation."""

import dataclasses
import json
import math

import chex
import healpy
import jax
import numpy as np
import pytest
import torch_writer
from PIL import Image
from tiny_runs import COLUMNS, INTRINSIC, NAMES, NSIDE, ROWS, TINY

from benchmarks.papers import heal_swin as study
from jaxgeo.cli import main
from jaxgeo.data.splits import split
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.dense_prediction.fitting import fit, load_params, training_of
from jaxgeo.dense_prediction.networks import make_apply, make_network, model_of
from jaxgeo.dense_prediction.presets import (
    PRESETS,
    paper_config,
    paper_flat_config,
    paper_flat_depth_config,
)
from jaxgeo.dense_prediction.problems import batch_of, form_of, make_problem
from jaxgeo.errors import ConfigError
from jaxgeo.models.swin_weights import heal_swin_to_torch, swin_to_torch

FACES = 8
SIZES = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "patch_size": 4, "window_size": 4, "shift_size": 1}
FLAGS = ["--data.nside", str(NSIDE), "--fit.figures", "0"]
FLAGS += [
    word
    for name, value in SIZES.items()
    for word in (f"--network.{name}", *map(str, value if isinstance(value, tuple) else (value,)))
]


def small(config, **fit_settings):
    """The same settings for a network that a test can afford."""
    shape = {"image_rows": 16, "image_columns": 24} if config.network.kind == "swin" else {}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, nside=NSIDE, **shape),
        network=dataclasses.replace(config.network, **SIZES),
        fit=dataclasses.replace(config.fit, figures=0, **fit_settings),
    )


def checkpoint(path, config):
    """What Lightning leaves of a training, and its parameters by our names."""
    model = model_of(config, form_of(config))
    shapes, rng = jax.eval_shape(make_network(model).init, jax.random.key(0)), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    to_torch = heal_swin_to_torch if config.network.kind == "heal_swin" else swin_to_torch
    state = {
        f"model.{name}": torch_writer.whole(np.ascontiguousarray(a)) for name, a in to_torch(model, params).items()
    }
    state["loss.weight"] = torch_writer.whole(np.ones(model.num_classes, np.float32))
    path.write_bytes(torch_writer.zip_file({"epoch": 3, "global_step": 40, "state_dict": state, "callbacks": {}}))
    return model, params


def published_map(root, name):
    """Colours and classes of the first faces, pixel by pixel, as the published program samples them."""
    image = np.asarray(Image.open(root / "rgb_images" / f"{name}.png"), np.float64)
    labels = np.asarray(Image.open(root / "semantic_annotations/semantic_annotations/gtLabels" / f"{name}.png"))
    theta, phi = healpy.pix2ang(NSIDE, np.arange(FACES * NSIDE**2), nest=True)
    rho = sum(INTRINSIC[f"k{order}"] * theta**order for order in range(1, 5))
    x = rho * np.cos(phi) + INTRINSIC["cx_offset"] + COLUMNS / 2 - 0.5
    y = rho * np.sin(phi) * INTRINSIC["aspect_ratio"] + INTRINSIC["cy_offset"] + ROWS / 2 - 0.5
    colors, classes = np.zeros((len(x), 3), np.uint8), np.zeros(len(x), np.int32)

    def at(row, column):
        return image[row, column] if 0 <= row < ROWS and 0 <= column < COLUMNS else np.zeros(3)

    for pixel, (u, v) in enumerate(zip(x, y, strict=True)):
        left, right, top, bottom = math.floor(u), math.ceil(u), math.floor(v), math.ceil(v)
        upper = (right - u) * at(top, left) + (u - left) * at(top, right)
        lower = (right - u) * at(bottom, left) + (u - left) * at(bottom, right)
        colors[pixel] = np.floor((bottom - v) * upper + (v - top) * lower)
        row, column = round(v), round(u)
        if 0 <= row < ROWS and 0 <= column < COLUMNS:
            classes[pixel] = labels[row, column]
    return colors, classes


def published_scores(decided, labels, classes):
    """mIoU and accuracy without class 0, over all pixels; a class that does not occur has IoU 0."""
    ious = []
    for number in range(1, classes):
        either = ((decided == number) | (labels == number)).sum()
        ious.append(((decided == number) & (labels == number)).sum() / either if either else 0.0)
    known = labels != 0
    return 100 * np.mean(ious), 100 * (decided == labels)[known].mean()


def test_a_published_checkpoint_is_evaluated_by_a_command_as_it_was(folder, tmp_path, capsys):
    config = small(paper_config())
    model, params = checkpoint(tmp_path / "epoch.ckpt", config)
    argv = ["evaluate", "heal-swin", "--preset", "paper", "--weights", str(tmp_path / "epoch.ckpt"), *FLAGS]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert model.mode == "faithful"
    assert said["weights"]["file"] == "epoch.ckpt"
    assert said["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal(load_params(tmp_path / "run"), params)

    # 80 % of six pictures are 4.8, so that the published split has no picture twice.
    problem, names = make_problem(config), split(NAMES).validation
    plan, apply = make_network(model).plan, make_apply(model)
    decided, labels = [], []
    for index, name in enumerate(names):
        colors, classes = published_map(folder, name)
        example = problem.test[index]
        np.testing.assert_array_equal(example.inputs, colors.astype(np.float32))
        np.testing.assert_array_equal(example.targets, classes)
        assert (classes == 0).any()
        decided.append(np.argmax(apply(params, plan, colors.astype(np.float32)), -1))
        labels.append(classes)
    miou, accuracy = published_scores(np.concatenate(decided), np.concatenate(labels), len(problem.class_names))
    scores = said["spaces"]["sphere"]
    assert scores["pixel_miou_without_void"] == pytest.approx(miou, rel=1e-12)
    assert scores["pixel_accuracy_without_void"] == pytest.approx(accuracy, rel=1e-12)
    assert min(scores["pixel_iou"].values()) == 0  # never None: no picture has all classes
    # The same command again reads what is there; training, or other weights, would be another run.
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "heal-swin", "--preset", "paper", *FLAGS, "--out", str(tmp_path / "run")]) == 1
    assert "holds scores after weights of epoch.ckpt, not training" in capsys.readouterr().err


def test_the_flat_checkpoint_counts_all_pixels_alike(folder, tmp_path, capsys):
    config = small(paper_flat_config())
    model, _ = checkpoint(tmp_path / "flat.ckpt", config)
    size = ["--data.image_rows", "16", "--data.image_columns", "24"]
    argv = ["evaluate", "heal-swin", "--preset", "paper-flat", "--weights", str(tmp_path / "flat.ckpt"), *FLAGS, *size]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["spaces"]) == {"flat_masked", "flat_to_sphere"}
    assert model.mode == "faithful"
    inputs, _, weights = batch_of(make_problem(config), [0, 1])
    assert (weights == 1).all()
    np.testing.assert_array_equal(inputs, inputs.astype(np.uint8))
    area = dataclasses.replace(config, fit=dataclasses.replace(config.fit, pixels="area"))
    assert np.ptp(batch_of(make_problem(area), [0])[2]) > 0.1


def test_weights_that_do_not_fit_leave_no_folder(folder, tmp_path, capsys):
    checkpoint(tmp_path / "wide.ckpt", small(paper_config()))
    argv = ["evaluate", "heal-swin", "--preset", "paper", "--weights", str(tmp_path / "wide.ckpt"), *FLAGS]
    assert main([*argv, "--network.embed_dim", "16", "--out", str(tmp_path / "run")]) == 1
    assert "do not fit the configured network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("folder")
def test_published_training_passes_over_its_examples_and_keeps_the_best_by_what_it_is_judged_by(tmp_path):
    base = small(paper_config(), epochs=1, evaluate_every=1)
    config = dataclasses.replace(base, training=dataclasses.replace(base.training, batch_size=2, learning_rate=0.05))
    problem = make_problem(config)
    assert problem.validation is problem.test
    assert training_of(config, len(problem.train)).steps == math.ceil(len(problem.train) / 2)
    fitted = fit(tmp_path / "run", config, problem=problem)
    history = [entry["score"] for entry in fitted.scores["history"]]
    assert len(history) == fitted.scores["steps"] == math.ceil(len(problem.train) / 2)
    assert fitted.scores["spaces"]["sphere"]["pixel_miou_without_void"] == max(history)


def test_the_flat_depth_preset_trains_on_files_of_the_published_format(folder, tmp_path):
    depths = folder.rename(folder.with_name("synwoodscape")) / "depth_maps" / "raw_data"
    depths.mkdir(parents=True)
    for name in NAMES:
        depth = np.linspace(1, 20, ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
        depth[0] = 1000  # sky
        np.save(depths / f"{name}.npy", depth)
    config = small(paper_flat_depth_config(), epochs=1)
    problem = make_problem(config)
    fitted = fit(tmp_path / "run", config, problem=problem)
    assert fitted.scores["steps"] == 1  # one batch of 8 takes all pictures
    assert 0 < fitted.scores["spaces"]["flat_masked"]["pixel_mean_squared_error"] < 1000


@pytest.mark.usefixtures("folder")
def test_the_full_study_trains_and_judges_both_networks_on_files_of_the_published_format(tmp_path, monkeypatch, capsys):
    for name, published in (("paper_config", paper_config), ("paper_flat_config", paper_flat_config)):
        monkeypatch.setattr(study, name, lambda published=published: small(published(), evaluate_every=1))
    argv = ["--size", "full", "--seeds", "1", "--scale", "1e-6", "--out", str(tmp_path / "study")]
    assert study.main(argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["woodscape"]["summary"]
    # The published mIoU is without void, in the space that each network lives in.
    for space in ("heal_swin sphere", "swin flat_masked"):
        score = summary[f"{space} pixel_miou_without_void"]
        assert 0 <= score["min"] == score["mean"] == score["max"] <= 100
    assert {"report.md", "report.json", "woodscape.png"} <= {path.name for path in (tmp_path / "study").iterdir()}


def test_the_presets_are_what_was_published():
    names = ("paper", "paper-flat", "paper-depth", "paper-flat-depth")
    assert set(names) < set(PRESETS)
    for name in names:
        config = PRESETS[name]()
        training = config.training
        assert (training.optimizer, training.weight_decay, training.schedule, training.clip_norm) == (
            "adam", 0, "constant", 0,
        )  # fmt: skip
        assert (config.network.mode, config.network.compute_dtype, config.fit.epochs) == ("faithful", None, 1000)
        assert (config.fit.keep_best, config.fit.validate_by, config.fit.pixels) == (True, "test", "equal")
        assert (config.data.inputs, config.data.unseen, config.data.split) == ("raw", "void", "faithful")
        assert (training.batch_size, config.data.sampling, config.fit.scores) == (8, "faithful", "faithful")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "earth", "unseen": "void"}, "has no fisheye pictures"),
        ({"source": "stanford", "sampling": "faithful"}, "has no fisheye pictures"),
        ({"source": "scenes", "split": "faithful"}, "has no split and no cameras"),
        ({"source": "earth", "inputs": "raw"}, "units of their own"),
        ({"source": "woodscape", "base_pixels": (1, 1)}, "different faces, 0 to 11"),
        ({"source": "earth", "base_pixels": (1, 2)}, r"the Earth has all 12 faces, got data\.base_pixels"),
    ],
)
def test_settings_without_a_meaning_are_refused(data, said):
    from jaxgeo.dense_prediction.config import DataConfig

    with pytest.raises(ConfigError, match=said):
        DataConfig(**data)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("rotate_pole", [False, True])
def test_any_faces_and_one_camera_are_learnt_from_and_are_those_of_the_whole_map(rotate_pole):
    network = dataclasses.replace(TINY, shift="grid")

    def examples(**data):
        base = small(paper_config()).data
        chosen = dataclasses.replace(base, train_examples=2, rotate_pole=rotate_pole, **data)
        return make_problem(DenseConfig(chosen, network, FitConfig()))

    some, whole = examples(base_pixels=(5, 0, 1)), examples(faces=12)
    for one, other in zip(some.train.examples, whole.train.examples, strict=True):
        for part, all_of_it in zip(one, other, strict=True):
            faces = all_of_it.reshape(12, NSIDE**2, *all_of_it.shape[1:])
            np.testing.assert_array_equal(part, faces[[5, 0, 1]].reshape(part.shape))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("mode", "learnt"), [("correct", 4), ("faithful", 5)])
def test_a_whole_share_has_one_picture_in_both_parts_as_published_and_cameras_are_chosen(mode, learnt):
    base = small(paper_config())
    data = dataclasses.replace(base.data, cameras=("FV", "RV", "MVL"), split=mode)  # five pictures
    problem = make_problem(dataclasses.replace(base, data=data))
    assert (len(problem.train), len(problem.test)) == (learnt, 1)
    held = problem.test[0].inputs
    assert sum(np.array_equal(example.inputs, held) for example in problem.train.examples) == learnt - 4
    assert not problem.pictures.picture(0).name.endswith("MVR")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_bad_preset_names_the_command_and_no_folder_is_named_before_it_is_there(tmp_path, capsys, command):
    with pytest.raises(SystemExit):
        main([command, "heal-swin", "--preset", "pap", "--out", "x"])
    said = capsys.readouterr().err
    assert said.startswith(f"usage: jaxgeo {command} heal-swin")
    assert "invalid choice: 'pap'" in said
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["train", "heal-swin", "--preset", "scenes", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "is not empty and no run" in said
    assert "run folder:" not in said
