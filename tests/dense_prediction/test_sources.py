"""Where examples come from: panoramas in the published format, and nested parts of the pictures to learn from."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from tiny_runs import EARTH, NSIDE, SCENES, STEPS, TINY

from jaxgeo.cli import main
from jaxgeo.data.stanford_panoramas import AREA_FOLDS, CLASS_NAMES, open_panoramas
from jaxgeo.dense_prediction import viewing
from jaxgeo.dense_prediction.config import DataConfig, DenseConfig, FitConfig
from jaxgeo.dense_prediction.problems import make_problem
from jaxgeo.dense_prediction.scoring import score_spaces
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix import pixel_vectors

FACES = tuple(range(12))
STANFORD = DenseConfig(DataConfig("stanford", nside=NSIDE), TINY, FitConfig(), STEPS)
DEPTH = dataclasses.replace(STANFORD, data=dataclasses.replace(STANFORD.data, task="depth"), fit=FitConfig(loss="l1"))
ROWS = 32


@pytest.fixture
def stanford(tmp_path, monkeypatch):
    """Two rooms in each area: ceiling above, floor below, a wall to the left of the middle and a door to the right."""
    folder = tmp_path / "data" / "2d3ds"
    (folder / "assets").mkdir(parents=True)
    instances = [f"{name}_1_office_1_1" for name in CLASS_NAMES]
    (folder / "assets" / "semantic_labels.json").write_text(json.dumps(instances))
    classes = np.full((ROWS, 2 * ROWS), CLASS_NAMES.index("wall"))
    classes[:, ROWS:] = CLASS_NAMES.index("door")
    classes[: ROWS // 4], classes[-ROWS // 4 :] = 0, 1
    colors = np.stack([classes * 0, classes * 0, classes], -1).astype(np.uint8)
    colors[:2] = 0x0D  # no data around the zenith
    depth = np.full((ROWS, 2 * ROWS), 3 * 512, np.uint16)
    depth[:, ROWS:] = 6 * 512
    depth[:2] = 65535
    rng = np.random.default_rng(0)
    for area in ("area_1", "area_2", "area_3", "area_4", "area_5a", "area_5b", "area_6"):
        for part in ("rgb", "semantic", "depth"):
            (folder / area / "pano" / part).mkdir(parents=True)
        for room in ("camera_aa_office_1", "camera_bb_office_2"):
            image = rng.integers(0, 256, (ROWS, 2 * ROWS, 3), dtype=np.uint8)
            for part, array in (("rgb", image), ("semantic", colors), ("depth", depth)):
                name = f"{room}_frame_equirectangular_domain_{part}.png"
                Image.fromarray(array).save(folder / area / "pano" / part / name)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path / "data"))
    return folder


@pytest.mark.usefixtures("stanford")
@pytest.mark.parametrize("fold", [0, 1, 2])
def test_areas_that_are_held_back_are_not_learnt_from(fold):
    problem = make_problem(dataclasses.replace(STANFORD, data=dataclasses.replace(STANFORD.data, fold=fold)))
    train, test = AREA_FOLDS[fold]
    assert (len(problem.train), len(problem.test)) == (2 * len(train), 2 * len(test))
    names = [problem.pictures.picture(index).name for index in range(len(problem.test))]
    assert {name.split("/")[0] for name in names} == set(test)
    # Every picture is another one, so that what is learnt from can be told by its colours.
    held = {example.inputs.tobytes() for example in problem.test.examples}
    assert not held & {example.inputs.tobytes() for example in problem.train.examples}


@pytest.mark.usefixtures("stanford")
def test_a_room_lies_on_the_sphere_as_around_the_camera():
    problem, depths = make_problem(STANFORD), make_problem(DEPTH)
    assert problem.class_names == CLASS_NAMES
    example = problem.test[0]
    assert example.weights.sum() == pytest.approx(4 * np.pi, rel=1e-5)  # float32
    _, y, z = np.asarray(pixel_vectors(NSIDE, np.arange(12 * NSIDE**2), "nested")).T
    seen = {name: example.targets == number for number, name in enumerate(CLASS_NAMES)}
    assert (z[seen["ceiling"]] > 0.65).all()  # rows above 45 degrees, by half a row's width
    assert (z[seen["floor"]] < -0.65).all()
    # Columns go to the right, longitudes to the left; the middle column looks along x.
    assert (y[seen["wall"]] > -1e-6).all()
    assert (y[seen["door"]] < 1e-6).all()
    assert all(seen[name].any() for name in ("ceiling", "floor", "wall", "door"))
    assert (example.targets[z > 0.999] == 255).all()
    assert set(np.unique(depths.test[0].targets)) == {3, 6, np.inf}
    assert (depths.test[0].targets[seen["wall"]] == 3).all()
    # A class that does not occur has no weight, unknown pixels none either.
    assert (problem.class_weights > 0).sum() == 4


def test_pixels_of_a_panorama_cover_the_sphere_once_and_look_where_they_are_taken_to(stanford):
    panorama = open_panoramas(stanford, areas=("area_1",))[0]
    angles, rays = viewing.solid_angles(panorama), viewing.directions(panorama)
    assert angles.sum() == pytest.approx(4 * np.pi, rel=1e-6)  # float32
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose((angles[..., None] * rays).sum((0, 1)), 0, atol=1e-5)  # the centre of the sphere
    nearest = np.asarray(viewing.to_sphere(panorama, viewing.View(NSIDE)).nearest)
    apart = np.sum(rays.reshape(-1, 3)[nearest] * viewing.sphere_directions(NSIDE, FACES), axis=-1)
    assert apart.min() > np.cos(np.hypot(np.pi / ROWS, np.pi / ROWS) / 2)  # half a pixel's diagonal


@pytest.mark.usefixtures("stanford")
@pytest.mark.parametrize("config", [STANFORD, DEPTH], ids=["segmentation", "depth"])
def test_the_truth_of_panoramas_has_full_marks_on_the_sphere_and_nearly_in_the_panorama(config):
    problem = make_problem(config)
    depths = config.data.task == "depth"
    outputs = {
        example.inputs.tobytes(): np.eye(256)[example.targets][:, :13]
        if not depths
        else np.nan_to_num(_scaled(problem, example.targets), posinf=0.0)[:, None]
        for example in problem.test.examples
    }
    spaces = score_spaces(problem, lambda inputs: outputs[inputs.tobytes()].astype(np.float32), viewing.View(NSIDE))
    own, carried = spaces["sphere"], spaces["sphere_to_flat"]
    if depths:
        assert own["area_mean_absolute_error"] == pytest.approx(0, abs=1e-4)  # float32 through a logarithm
        assert own["area_chamfer_distance"] == pytest.approx(0, abs=1e-7)
        assert 1e-3 < carried["area_chamfer_distance"] < 1  # edges, by a pixel of 7 degrees
    else:
        assert own["area_accuracy"] == pytest.approx(100)
        assert 85 < carried["area_accuracy"] < 100


def _scaled(problem, depths):
    from jaxgeo.dense_prediction.problems import scaled_targets

    return scaled_targets(problem, depths)


@pytest.mark.usefixtures("stanford")
def test_a_command_trains_on_panoramas_and_draws_them(tmp_path, capsys):
    network = {"embed_dim": "4", "depths": "1 1", "num_heads": "1 1", "patch_size": "4", "window_size": "4"}
    flags = [word for name, value in network.items() for word in (f"--network.{name}", *value.split())]
    flags += ["--data.nside", "4", "--training.steps", "2", "--training.warmup_steps", "1"]
    flags += ["--fit.figures", "1", "--data.subset", "0.3"]
    assert main(["train", "heal-swin", "--data.source", "stanford", "--out", str(tmp_path / "run"), *flags]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(said["spaces"]) == {"sphere", "sphere_to_flat"}
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {
        "example-0-sphere.png",
        "example-0-picture.png",
    }


def test_an_area_that_is_not_there_is_named(stanford):
    (stanford / "area_5b").rename(stanford / "elsewhere")
    with pytest.raises(InputError, match="panoramas of area_5b are looked for in"):
        make_problem(STANFORD)


@pytest.mark.usefixtures("earth")
def test_a_run_that_would_have_nothing_to_learn_from_is_refused():
    few = DenseConfig(dataclasses.replace(SCENES, faces=12, train_examples=1), TINY, FitConfig(patience=1), STEPS)
    with pytest.raises(ConfigError, match=r"of 1 training pictures 1 is to choose by.*train_examples 2 or more"):
        make_problem(few)
    two = dataclasses.replace(EARTH.data, folds=2)
    with pytest.raises(ConfigError, match=r"of data.folds 2 one is to judge by and one to choose by.*3 folds or more"):
        make_problem(dataclasses.replace(EARTH, data=two, fit=FitConfig(keep_best=True)))
    assert make_problem(dataclasses.replace(EARTH, data=two)).train[0].weights.any()


def test_pictures_without_any_label_are_refused(stanford):
    for path in stanford.glob("area_*/pano/semantic/*.png"):
        Image.new("RGB", (2 * ROWS, ROWS), (0x0D, 0x0D, 0x0D)).save(path)
    with pytest.raises(InputError, match=r"none of the \d+ pixels to learn from has a label"):
        make_problem(STANFORD)


def test_smaller_subsets_of_pictures_lie_in_larger_ones_and_the_judges_stay():
    def parts(subset, seed=2, patience=0):
        data = dataclasses.replace(SCENES, train_examples=9, test_examples=1, subset=subset, subset_seed=seed)
        network = dataclasses.replace(TINY, kind="swin", shift_size=1)  # the pictures themselves
        problem = make_problem(DenseConfig(data, network, FitConfig(patience=patience), STEPS))
        kept = problem.train, problem.validation, problem.test
        return [None if part is None else {e.inputs.tobytes() for e in part.examples} for part in kept]

    whole, none, judges = parts(1.0)
    assert none is None
    sizes = {}
    former = set()
    for subset in (0.01, 0.3, 0.5, 0.99):
        train, _, test = parts(subset)
        sizes[subset] = len(train)
        assert former <= train <= whole
        assert test == judges
        former = train
    assert sizes == {0.01: 1, 0.3: 3, 0.5: 5, 0.99: 9}  # rounded up
    assert parts(0.3, seed=3)[0] != parts(0.3)[0]
    # What training is stopped by is the same for all subsets, and not learnt from.
    some, chosen, _ = parts(0.5, patience=1)
    assert len(some) == 4
    assert len(chosen) == 1
    assert not some & chosen
    assert parts(1.0, patience=1)[1] == chosen
