"""The reduced study of HEAL-SWIN: its runs, counts and sentences; networks are trained elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.papers.heal_swin import (
    POSITIONS,
    at_size,
    counts,
    earth_label,
    earth_run,
    forest,
    full_run,
    judged,
    main,
    markdown,
    scenes_run,
    spread,
)
from jaxgeo.dense_prediction.networks import make_network, model_config, model_of
from jaxgeo.dense_prediction.presets import earth_config, paper_config, paper_flat_config
from jaxgeo.dense_prediction.problems import Example, Form, Kept, Problem
from jaxgeo.metrics.segmentation import confusion_matrix
from jaxgeo.models.heal_swin import latitude_channel
from jaxgeo.training.meshes import largest_divisor


@given(seed=st.integers(0, 2**31 - 1), pixels=st.integers(1, 50))
def test_counts_are_the_confusion_matrix_of_the_metrics(seed, pixels):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, 4, (2, pixels))
    expected = confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 4)
    np.testing.assert_array_equal(counts(predictions, labels, 4), np.asarray(expected))


def test_both_networks_have_the_same_blocks_and_runs_differ_by_their_seeds_alone():
    sphere, plane = scenes_run("heal_swin", 0.5, 1), scenes_run("swin", 0.5, 1)
    assert sphere.network.embed_dim == plane.network.embed_dim
    assert sphere.training == plane.training
    assert sphere.fit.seed == 1
    assert [earth_run(1.0, 2, fold, "latitude").data.fold for fold in range(3)] == [0, 1, 2]
    assert earth_run(0.1, 0, 0, "table").training.steps == 40
    assert earth_run(1.0, 0, 0, "table").network == earth_config().network  # what `--preset earth` trains


def test_the_full_size_is_the_published_networks_and_training_with_other_seeds():
    for kind, published in (("heal_swin", paper_config()), ("swin", paper_flat_config())):
        run = full_run(kind, 1.0, 2)
        assert (run.data, run.network, run.training) == (published.data, published.network, published.training)
        assert (run.fit.epochs, run.fit.seed) == (1000, 2)
        # Four devices have two pictures of a batch each.
        assert largest_divisor(run.training.batch_size, 4) == 4
        assert run.training.batch_size == 8
    assert full_run("swin", 1e-6, 0).fit.epochs == 1


def test_the_full_size_names_what_is_missing_where_woodscape_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    assert main(["--size", "full", "--out", str(tmp_path / "out")]) == 1
    assert "woodscape is looked for in" in capsys.readouterr().err


def test_a_picture_of_classes_is_brought_to_another_size():
    classes = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(at_size(classes, (3, 4)), classes)
    np.testing.assert_array_equal(at_size(classes, (6, 12)), classes.repeat(2, 0).repeat(3, 1))
    np.testing.assert_array_equal(at_size(classes.repeat(3, 0).repeat(3, 1), (3, 4)), classes)


@pytest.mark.parametrize("position", POSITIONS)
def test_what_the_network_knows_of_its_place_is_what_it_is_told_to(position):
    network = earth_run(1.0, 0, 0, position).network
    assert (network.latitude, network.absolute_position) == (position == "latitude", position == "table")
    plain = dataclasses.replace(network, latitude=False, absolute_position=False)
    assert plain == earth_run(1.0, 0, 0, "none").network
    # The network's own parameters say so: a row for each token, and a channel more for each of a token's 64 pixels.
    model = model_of(earth_run(1.0, 0, 0, position), Form(("ocean", "land"), 4, None))
    shapes = jax.eval_shape(make_network(model).init, jax.random.key(0))["encoder"]
    assert shapes["patch_embed"]["proj"]["kernel"].shape == (64 * (5 if position == "latitude" else 4), 24)
    assert shapes["patch_embed"]["norm"]["scale"].shape == (24,)
    assert ("absolute_pos_embed" in shapes) == (position == "table")
    assert position != "table" or shapes["absolute_pos_embed"].shape == (12 * 16**2, 24)
    # Runs of all kinds lie side by side in one folder.
    assert len({earth_label(seed, fold, known) for seed in (0, 1) for fold in (0, 1) for known in POSITIONS}) == 12


def test_figures_stand_in_the_report():
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "min": 1.0, "max": 6.0}
    page = markdown(
        {
            "size": "reduced",
            "minutes": 3.2,
            "processor_minutes": 6.0,
            "scale": 1.0,
            "earth": {"summary": {"gain": spread([5.0, 7.0])}},
        }
    )
    assert "| gain | 6.00 | 5.00 | 7.00 |" in page


ROWS = [
    {"seed": 0, "heal_swin": 60.0, "forest": 50.0, "forest_with_latitude": 54.0},
    {"seed": 1, "heal_swin": 56.0, "forest": 50.5, "forest_with_latitude": 59.0},
]


@pytest.mark.parametrize(
    ("position", "over", "least", "mean", "met"),
    [
        ("none", "forest", 5.5, 7.75, True),
        ("table", "forest", 5.5, 7.75, True),
        ("latitude", "forest_with_latitude", -3.0, 1.5, False),
    ],
)
def test_the_bar_is_judged_by_the_seed_that_gains_least_over_the_forest_of_the_same_inputs(
    position, over, least, mean, met
):
    found = judged(ROWS, position)
    bar = {"over": over, "position": position, "needed": 5.0, "least": least, "mean": mean, "met": met}
    assert found["bar"] == bar
    # Both comparisons are stated, whichever is judged.
    assert found["summary"]["gain over forest"] == {"mean": 7.75, "min": 5.5, "max": 10.0}
    assert found["summary"]["gain over forest_with_latitude"] == {"mean": 1.5, "min": -3.0, "max": 6.0}
    assert judged(ROWS[:1], position)["bar"]["met"]
    page = markdown({"size": "reduced", "minutes": 1.0, "processor_minutes": 1.0, "scale": 1.0, "earth": found})
    assert f"above {over}, which has the same inputs as the HEAL-SWIN (position: {position})" in page
    assert (": met." in page, ": not met." in page) == (met, not met)


@pytest.mark.parametrize("latitude", [False, True])
def test_only_the_forest_that_is_told_the_latitude_can_tell_zones_apart(latitude):
    nside = 16
    height = latitude_channel(nside)
    labels = (height > np.median(height)).astype(np.int32)
    inputs = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    known = np.arange(len(labels)) % 2 == 0
    parts = tuple(Example(inputs, labels, mask.astype(np.float32)) for mask in (known, ~known))
    problem = Problem(
        Kept(parts[:1]), None, Kept(parts[1:]), ("low", "high"), None, None, np.zeros(2), np.ones(2), None
    )
    right = (forest(problem, 0, latitude) == labels[~known]).mean()
    # Noise alone is right for half, to within six standard errors of 1536 pixels.
    assert right > 0.98 if latitude else abs(right - 0.5) < 6 * 0.5 / np.sqrt(1536)


@pytest.mark.parametrize(
    "argv",
    [
        ["--seeds", "0"],
        ["--scale", "0"],
        ["--scale", "inf"],
        ["--parts", "mars"],
        ["--parts", "woodscape"],
        ["--size", "full", "--parts", "earth"],
        ["--workers", "0"],
    ],
)
def test_impossible_arguments_end_with_status_two(argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2


def test_the_networks_of_the_study_have_equally_many_parameters():
    sizes = {"heal_swin": (8 * 64**2,), "swin": (128, 160)}
    numbers = {}
    for kind, shape in sizes.items():
        example = Example(np.zeros((*shape, 3), np.float32), np.zeros(shape, np.int32), np.ones(shape, np.float32))
        names = tuple(map(str, range(12)))
        problem = Problem(Kept((example,)), None, Kept((example,)), names, None, None, np.zeros(3), np.ones(3), None)
        network = make_network(model_config(scenes_run(kind, 1.0, 0), problem))
        leaves = jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))
        numbers[kind] = sum(leaf.size for leaf in leaves)
    assert numbers["heal_swin"] == numbers["swin"]
