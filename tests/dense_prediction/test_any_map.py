"""Maps of any file are predicted: with missing pixels, of other programs' arrays, on any faces."""

import dataclasses
import json

import healpy
import numpy as np
import pytest
from tiny_runs import EARTH, NSIDE, SCENES, STEPS, TINY, untrained_run

from jaxgeo.cli import main
from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig

FEW = dataclasses.replace(TINY, depths=(1, 1), shift="grid")
PIXELS = 12 * NSIDE**2


@pytest.fixture
def run(earth, tmp_path):
    return untrained_run(tmp_path / "run", dataclasses.replace(EARTH, network=FEW), 0)


def predicted(run, source, tmp_path, capsys, *argv):
    assert main(["predict", str(run), str(source), "--out", str(tmp_path / "map"), *argv]) == 0
    return read_map(tmp_path / "map.fits").maps, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("ending", ["fits", "npz"])
def test_missing_pixels_stay_missing_and_count_as_the_mean_for_others(run, tmp_path, capsys, ending):
    rng = np.random.default_rng(0)
    raw = rng.normal(100, 20, (4, PIXELS))
    write_map(tmp_path / f"whole.{ending}", raw)
    whole, said = predicted(run, tmp_path / f"whole.{ending}", tmp_path, capsys)
    assert (said["pixels"], said["missing"]) == (PIXELS, 0)
    holes = rng.choice(PIXELS, 5, replace=False)
    broken = raw.copy()
    broken[rng.integers(0, 4, 5), holes] = np.nan
    write_map(tmp_path / f"broken.{ending}", broken)
    maps, said = predicted(run, tmp_path / f"broken.{ending}", tmp_path, capsys)
    assert (said["pixels"], said["missing"]) == (PIXELS - 5, 5)
    np.testing.assert_array_equal(np.isnan(maps), np.broadcast_to(np.isin(np.arange(PIXELS), holes), maps.shape))
    # As if the mean of what was learnt from stood there.
    from jaxgeo.data.earth import load_earth

    filled = np.where(np.isnan(broken), load_earth().means[:, None], broken)
    write_map(tmp_path / f"filled.{ending}", filled)
    other, _ = predicted(run, tmp_path / f"filled.{ending}", tmp_path, capsys)
    known = ~np.isnan(maps[0])
    np.testing.assert_allclose(maps[:, known], other[:, known], atol=1e-5)  # float32
    assert np.abs(maps[:, known] - whole[:, known]).max() > 1e-4
    write_map(tmp_path / f"none.{ending}", np.full((4, PIXELS), np.nan))
    assert main(["predict", str(run), str(tmp_path / f"none.{ending}"), "--out", str(tmp_path / "x")]) == 1
    assert "is missing in some map" in capsys.readouterr().err


@pytest.mark.parametrize(("network", "nside"), [("table", 2 * NSIDE), ("table", NSIDE // 2), ("deep", 1)])
def test_a_map_of_an_nside_that_the_network_cannot_take_is_predicted_at_the_networks_own(
    earth, tmp_path, capsys, network, nside
):
    settings = {"absolute_position": True} if network == "table" else {}
    config = dataclasses.replace(EARTH, network=dataclasses.replace(FEW, **settings))
    run = untrained_run(tmp_path / "run", config, 0)
    raw = np.random.default_rng(0).normal(100, 20, (4, 12 * nside**2))
    write_map(tmp_path / "raw.fits", raw)
    maps, said = predicted(run, tmp_path / "raw.fits", tmp_path, capsys)
    assert (said["nside"], said["pixels"]) == (NSIDE, 12 * nside**2)

    def regraded(values, wanted):  # healpy's mean over the finer pixels, and copies into them
        return np.stack([healpy.ud_grade(one, wanted, order_in="NESTED") for one in values.astype(np.float64)])

    write_map(tmp_path / "own.fits", regraded(raw, NSIDE))
    own, said = predicted(run, tmp_path / "own.fits", tmp_path, capsys)
    assert said["nside"] == NSIDE
    np.testing.assert_allclose(maps[:3], regraded(own[:3], nside), rtol=2e-5)  # float32; entropies are no means


def test_a_network_without_a_table_predicts_at_the_nside_of_the_map(run, tmp_path, capsys):
    write_map(tmp_path / "fine.fits", np.random.default_rng(0).normal(100, 20, (4, 4 * PIXELS)))
    maps, said = predicted(run, tmp_path / "fine.fits", tmp_path, capsys)
    assert said["nside"] == 2 * NSIDE
    assert np.ptp(maps[:3].reshape(3, -1, 4), axis=-1).max() > 1e-3  # not copies of coarser ones


def test_arrays_of_another_program_are_named_and_put_in_order(run, tmp_path, capsys):
    maps = np.random.default_rng(1).normal(size=(4, PIXELS))
    ring = np.empty_like(maps)
    ring[:, healpy.nest2ring(NSIDE, np.arange(PIXELS))] = maps
    np.savez(tmp_path / "other.npz", iqu=ring[:3], mask=ring[3], spectrum=np.ones(5))
    write_map(tmp_path / "same.npz", maps)
    expected, _ = predicted(run, tmp_path / "same.npz", tmp_path, capsys)
    flags = ["--arrays", "iqu", "mask", "--order", "ring"]
    found, _ = predicted(run, tmp_path / "other.npz", tmp_path, capsys, *flags)
    np.testing.assert_array_equal(found, expected)
    for argv, said in (
        ([], "holds iqu, mask, spectrum and no maps; name those of its arrays"),
        (["--arrays", "iqu", "mask"], "do not say the order"),
        (["--arrays", "nothing", "--order", "ring"], "has no array 'nothing'; there are iqu, mask, spectrum"),
        (["--arrays", "iqu", "spectrum", "--order", "ring"], "all of one nside"),
    ):
        assert main(["predict", str(run), str(tmp_path / "other.npz"), "--out", str(tmp_path / "x"), *argv]) == 1
        assert said in capsys.readouterr().err
    write_map(tmp_path / "some.fits", maps)
    assert main(["predict", str(run), str(tmp_path / "some.fits"), "--out", str(tmp_path / "x"), *flags]) == 1
    assert "is a FITS file" in capsys.readouterr().err


def test_the_sky_of_wmap_is_predicted_by_a_run_of_three_channels_on_its_own_faces(tmp_path, monkeypatch, capsys):
    data = dataclasses.replace(SCENES, faces=12, base_pixels=(7, 2))
    run = untrained_run(tmp_path / "run", DenseConfig(data, FEW, FitConfig(), STEPS), 0)
    sky = np.random.default_rng(2).normal(size=(3, 12 * 32**2)).astype(np.float32)
    arrays = {"iqu_W": sky, "iqu_V": sky, "mask": np.ones(12 * 32**2, np.uint8), "cl_W_II_lmax64_fortran": np.ones(65)}
    np.savez(tmp_path / "wmap7_nside32.npz", **arrays)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    by_name, said = predicted(run, "wmap", tmp_path, capsys)
    assert said["pixels"] == 2 * 32**2
    faces = np.isfinite(by_name[0]).reshape(12, -1)
    np.testing.assert_array_equal(faces.all(1), [face in (2, 7) for face in range(12)])
    np.testing.assert_array_equal(faces.any(1), faces.all(1))
    flags = ["--arrays", "iqu_W", "--order", "nested"]
    by_file, _ = predicted(run, tmp_path / "wmap7_nside32.npz", tmp_path, capsys, *flags)
    np.testing.assert_array_equal(by_file, by_name)


def test_files_are_named_as_they_were_asked_for_and_no_folder_is_said_before_predicting(run, tmp_path, capsys):
    write_map(tmp_path / "maps.npz", np.random.default_rng(3).normal(size=(4, PIXELS)))
    for asked, written in (("half.5", "half.5"), ("whole.fits", "whole")):
        assert main(["predict", str(run), str(tmp_path / "maps.npz"), "--out", str(tmp_path / asked)]) == 0
        names = [str(tmp_path / written) + ending for ending in (".fits", ".npz", ".png")]
        assert json.loads(capsys.readouterr().out)["files"] == names
        assert all((tmp_path / name).is_file() for name in names)
    for asked in (tmp_path / "nowhere" / "map", "."):
        assert main(["predict", "no run", "no map", "--out", str(asked)]) == 1
        assert "a folder that is there" in capsys.readouterr().err
