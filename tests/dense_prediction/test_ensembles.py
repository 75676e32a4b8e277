"""Means of runs and what they say of their own doubt: against scipy, by identities; and who is no member."""

import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import EARTH, NSIDE, SCENES, STEPS, TINY, untrained_run

from jaxgeo.cli import main
from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.dense_prediction.ensembles import average
from jaxgeo.dense_prediction.networks import make_step
from jaxgeo.models.heal_swin import HealSwinConfig

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each logarithm.

FEW = dataclasses.replace(TINY, depths=(1, 1), shift="grid")
NAMES = ("PREDICTIVE_ENTROPY", "EXPECTED_ENTROPY", "MUTUAL_INFORMATION")


@given(members=st.integers(1, 5), sharpness=st.floats(0, 50), seed=st.integers(0, 2**31 - 1))
def test_entropy_of_the_mean_is_mean_entropy_and_mutual_information(members, sharpness, seed):
    logits = sharpness * np.random.default_rng(seed).normal(size=(members, 7, 4))
    probabilities = scipy.special.softmax(logits, axis=-1)
    found = average(scipy.special.log_softmax(logits, axis=-1).astype(np.float32))
    mean = probabilities.mean(0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)  # float32, here and below
    np.testing.assert_allclose(found.predictive_entropy, scipy.stats.entropy(mean, axis=-1), atol=1e-5)
    np.testing.assert_allclose(found.expected_entropy, scipy.stats.entropy(probabilities, axis=-1).mean(0), atol=1e-5)
    both = found.expected_entropy + found.mutual_information
    np.testing.assert_allclose(found.predictive_entropy, both, atol=1e-5)
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= np.log(members) + 1e-6).all()


def test_sure_members_that_differ_disagree_by_log_two_and_equal_ones_not_at_all():
    sure = np.log(np.array([[[1, 1e-30]], [[1e-30, 1]]], np.float32))
    assert average(sure).mutual_information == pytest.approx(np.log(2), abs=1e-6)
    assert average(sure).expected_entropy == pytest.approx(0, abs=1e-6)
    assert average(sure[[0, 0, 0]]).mutual_information == 0


def predict(tmp_path, *runs, source="earth"):
    assert main(["predict", *map(str, runs), source, "--out", str(tmp_path / "map")]) == 0
    fits, npz = read_map(tmp_path / "map.fits"), read_map(tmp_path / "map.npz")
    np.testing.assert_array_equal(fits.maps, npz.maps)
    assert fits.names == npz.names
    assert fits.names[-3:] == NAMES
    return fits.maps, (tmp_path / "map.png").read_bytes()


@pytest.mark.usefixtures("earth")
def test_two_runs_are_averaged_by_the_command_and_their_doubt_is_written_beside(tmp_path, capsys):
    config = dataclasses.replace(EARTH, network=FEW)
    # Another fold and another width: the problem is the same.
    other = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, fold=1),
        network=dataclasses.replace(FEW, embed_dim=4),
    )
    runs = untrained_run(tmp_path / "a", config, 0), untrained_run(tmp_path / "b", other, 1)
    alone = [predict(tmp_path, run) for run in runs]
    capsys.readouterr()
    together, picture = predict(tmp_path, *runs)
    said = json.loads(capsys.readouterr().out)
    members = np.stack([maps[:-3] for maps, _ in alone])
    np.testing.assert_allclose(together[:-3], members.mean(0), atol=1e-6)  # float32, here and below
    np.testing.assert_allclose(together[-3], scipy.stats.entropy(members.mean(0), axis=0), atol=1e-5)
    np.testing.assert_allclose(together[-2], scipy.stats.entropy(members, axis=1).mean(0), atol=1e-5)
    np.testing.assert_allclose(together[-1], together[-3] - together[-2], atol=1e-5)
    assert together[-1].max() > 1e-3
    assert all((maps[-1] == 0).all() and (maps[-3] == maps[-2]).all() for maps, _ in alone)
    assert said["members"] == 2
    assert said["mutual_information"] == pytest.approx(together[-1].mean(), rel=1e-5)
    # Four panels instead of two: the height in the PNG's header grows.
    heights = [int.from_bytes(png[20:24], "big") for png in (alone[0][1], picture)]
    assert heights[1] > 1.5 * heights[0]


@pytest.mark.usefixtures("earth")
def test_what_does_not_belong_together_is_refused_in_a_sentence(tmp_path, capsys, monkeypatch):
    config = dataclasses.replace(EARTH, network=FEW)
    data, out = dataclasses.replace(SCENES, faces=12), ["--out", str(tmp_path / "map")]
    scenes = DenseConfig(data, FEW, FitConfig(), STEPS)
    coarse = dataclasses.replace(scenes, data=dataclasses.replace(data, nside=NSIDE // 2))
    few = dataclasses.replace(scenes, data=dataclasses.replace(data, faces=8))
    others = dataclasses.replace(scenes, data=dataclasses.replace(data, base_pixels=tuple(range(4, 12))))
    depth = dataclasses.replace(scenes, data=dataclasses.replace(data, task="depth"), fit=FitConfig(loss="l1"))
    runs = {"earth": config, "scenes": scenes, "coarse": coarse, "few": few, "others": others, "depth": depth}
    for name, one in runs.items():
        untrained_run(tmp_path / name, one, 0)
    for names, said in (
        (("earth", "scenes"), "same classes, but .*earth has ocean, land, other and .*scenes has ego vehicle, road"),
        (("scenes", "coarse"), r"same data\.nside, but .*scenes has 8 and .*coarse has 4; predict with each by itself"),
        (("scenes", "few"), "same faces in the same order, but .*scenes has 0 1 .* 11 and .*few has 0 1 2 3 4 5 6 7"),
        (("few", "others"), "same faces in the same order, but .*few has .* 7 and .*others has 4 5 6 7 8 9 10 11"),
        (("earth", "depth"), "holds a heal_swin for depth, but maps of classes come from"),
        (("earth", "earth"), "given twice"),
        (("earth", "nowhere"), "holds no run"),
    ):
        folders = [str(tmp_path / name) for name in names]
        assert main(["predict", *folders, "earth", *out]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(said, error), error
    assert not list(tmp_path.glob("map*"))

    # A run of eight faces maps those of any full map, and draws no street for it; the rest is missing.
    monkeypatch.setattr("jaxgeo.data.fisheye_scenes.FisheyeScenes.__getitem__", None)
    raw = np.random.default_rng(0).integers(0, 256, (3, 12 * NSIDE**2)).astype(np.float64)
    write_map(tmp_path / "raw.npz", raw, ["R", "G", "B"])
    maps, _ = predict(tmp_path, tmp_path / "few", source=str(tmp_path / "raw.npz"))
    assert np.isfinite(maps[:, : 8 * NSIDE**2]).all()
    assert np.isnan(maps[:, 8 * NSIDE**2 :]).all()


def test_members_that_differ_in_seeds_share_a_compiled_step():
    model = HealSwinConfig(nside=NSIDE, depths=(1, 1), num_heads=(1, 2), embed_dim=4, window_size=4, shift="grid")
    step = make_step(model, FitConfig(seed=0), STEPS)
    assert make_step(model, FitConfig(seed=1, patience=3), STEPS) is step
    assert make_step(model, FitConfig(loss="huber"), STEPS) is not step
    assert make_step(model, FitConfig(loss="huber", huber_delta=2.0), STEPS) is not make_step(
        model, FitConfig(loss="huber"), STEPS
    )
