"""The study of equivariance against augmentation on a tiny grid: every stage, going on after a stop, the verdict."""

import dataclasses
import json

import pytest

from benchmarks.papers import augmentation_report, augmentation_training
from benchmarks.papers import equivariance_vs_augmentation as study
from benchmarks.papers.augmentation_grid import NETWORKS, Cell, DataSet, Grid, Training, full_grid, reduced_grid
from jaxgeo.data.spherical_digits import SphericalDigitsConfig
from jaxgeo.errors import RunFolderError
from jaxgeo.models.planar_cnn import CnnClassifierConfig, CnnSegmenterConfig
from jaxgeo.models.s2cnn import KernelGrid
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenterConfig


def tiny_grid(steps=3):
    digits = SphericalDigitsConfig(bandlimit=4, oversampling=1)
    data = {
        "one_digit": DataSet("one digit", "sklearn", digits),
        "four_digits": DataSet("four digits", "sklearn", dataclasses.replace(digits, num_digits=4)),
    }
    networks = {
        ("segmentation", "s2cnn"): S2CNNSegmenterConfig(
            input_bandlimit=4, output_bandlimit=4, features=(2,), bandlimits=(3,), kernel_max_beta=(0.2, 0.2),
            kernel_grid=KernelGrid(3, 1, 2), batch_norm=True,
        )
    }  # fmt: skip
    networks["segmentation", "cnn_small"] = CnnSegmenterConfig((2, 6), (3, 3), (1, 2), size=8)
    networks["classification", "cnn_small"] = CnnClassifierConfig((2,), (3,), (2,), size=8)
    training = {key: Training(steps, 4, 1e-3) for key in networks}
    cells = [
        Cell("segmentation", "one_digit", "s2cnn", 10, False, 0),
        Cell("segmentation", "one_digit", "cnn_small", 10, False, 0),
        Cell("segmentation", "one_digit", "cnn_small", 20, True, 0),
        Cell("classification", "one_digit", "cnn_small", 10, False, 0),
        Cell("classification", "one_digit", "cnn_small", 10, False, 1),
    ]
    return Grid("tiny", data, networks, training, tuple(cells), num_test=12)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, cells first in two portions."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "grid_of", lambda args: tiny_grid())
        assert (
            study.main(
                ["--out", str(out), "--workers", "1", "--only", "classification-one_digit-cnn_small-10-unrotated-0"]
            )
            == 0
        )
        (early,) = (out / "cells").iterdir()
        before = early.stat().st_mtime_ns
        assert study.main(["--out", str(out), "--workers", "1"]) == 0
        assert early.stat().st_mtime_ns == before
    return out


def test_every_cell_is_a_file_of_its_own_with_both_poses(finished):
    for cell in tiny_grid().cells:
        row = json.loads(study.cell_path(finished, cell).read_text())
        assert {name: row[name] for name in dataclasses.asdict(cell)} == dataclasses.asdict(cell)
        for pose in ("unrotated", "rotated"):
            assert all(0 <= value <= 100 for value in row[pose].values())
        assert row["steps"] == 3
        assert row["parameters"] > 0


def test_report_is_complete_and_the_last_line_is_json(finished, monkeypatch, capsys):
    monkeypatch.setattr(study, "grid_of", lambda args: tiny_grid())
    assert study.main(["--out", str(finished), "--report"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["cells"] == figures["cells_in_all"] == 5
    assert set(figures["latency"]) == {"s2cnn", "cnn_small"}
    assert figures["verdict"]["met"] is False  # one seed, untrained
    page = (finished / "report.md").read_text()
    assert "NOT met with 1 seeds" in page
    assert "79.0 | 13.5" in page
    assert (finished / "figure.png").read_bytes().startswith(b"\x89PNG")
    classification = [row for row in figures["summary"] if row["task"] == "classification"]
    assert classification[0]["seeds"] == 2


def test_folder_of_other_settings_is_refused(finished, monkeypatch, capsys):
    monkeypatch.setattr(study, "grid_of", lambda args: tiny_grid(steps=4))
    assert study.main(["--out", str(finished)]) == 1
    assert "cells of other settings" in capsys.readouterr().err


def test_claimed_cell_is_left_to_the_process_that_has_it(tmp_path):
    grid = tiny_grid()
    cell = grid.cells[3]
    with study.claimed(tmp_path, cell) as first:
        assert first
        study.work(tmp_path, grid, [cell])
        assert not study.cell_path(tmp_path, cell).exists()
    with study.claimed(tmp_path, cell) as again:
        assert again


def test_failing_worker_says_how_to_go_on(tmp_path):
    with pytest.raises(RunFolderError, match="run the same command again"):
        study.run_workers(tmp_path, ["--no-such-option"], 2)


def test_worker_does_cells_and_reports_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "grid_of", lambda args: tiny_grid())
    assert study.main(["--out", str(tmp_path), "--only", "classification", "--worker"]) == 0
    assert len(list((tmp_path / "cells").iterdir())) == 2
    assert not (tmp_path / "report.json").exists()
    assert capsys.readouterr().out == ""


def row(network, parameters, unrotated, rotated, seed=0, num_train=100):
    scores = {
        pose: {"pixel_miou": value, "area_miou": value}
        for pose, value in (("unrotated", unrotated), ("rotated", rotated))
    }
    cell = Cell("segmentation", "one_digit", network, num_train, False, seed)
    return dataclasses.asdict(cell) | {"parameters": parameters, "seconds": 1.0} | scores


def good_rows():
    rows = []
    for seed in range(3):
        rows += [row("s2cnn", 10, 60.0, 58.5, seed), row("cnn_small", 11, 60.0, 20.0, seed)]
        rows += [row("s2cnn", 10, 60.0, 10.0, seed, num_train=50)]  # fewer images do not count
    return rows


def area_rotated(entry, value):
    return entry | {"rotated": entry["rotated"] | {"area_miou": value}}


def test_verdict_needs_three_seeds_both_weightings_and_a_large_enough_cnn():
    judged = augmentation_report.verdict(good_rows())
    assert judged["met"]
    assert judged["area"]["met_by_every_seed"]
    assert judged["pixel"]["s2cnn_points_lost"] == {"mean": 1.5, "worst_seed": 1.5, "bar": 2.0}
    assert not augmentation_report.verdict([r for r in good_rows() if r["seed"] < 2])["met"]
    one_off = [area_rotated(r, 57.5) if i == 0 else r for i, r in enumerate(good_rows())]
    judged = augmentation_report.verdict(one_off)
    assert judged["met"]
    assert not judged["area"]["met_by_every_seed"]
    for network, value in (("s2cnn", 57.5), ("cnn_small", 31.0)):
        judged = augmentation_report.verdict(
            [area_rotated(r, value) if r["network"] == network else r for r in good_rows()]
        )
        assert judged["pixel"]["met"]
        assert not judged["area"]["met"]
        assert not judged["met"]
    small = [r | {"parameters": 9} if r["network"] != "s2cnn" else r for r in good_rows()]
    assert not augmentation_report.verdict(small)["met"]
    assert augmentation_report.verdict([])["reason"] == "no S2CNN was trained"
    assert "No verdict" in augmentation_report.markdown(tiny_grid(), [], augmentation_report.verdict([]), {})


def test_spread_is_over_seeds_alone():
    summary = augmentation_report.summarise(good_rows())
    assert len(summary) == 3
    entry = next(e for e in summary if e["network"] == "s2cnn" and e["num_train"] == 100)
    assert entry["seeds"] == 3
    assert entry["rotated"]["area_miou"] == {"mean": 58.5, "min": 58.5, "max": 58.5}


@pytest.mark.parametrize("make", [reduced_grid, full_grid])
def test_grids_name_each_cell_once_and_cnns_are_at_least_as_large_as_the_s2cnn(make):
    grid = make("sklearn", garments=True)
    assert len({cell.name for cell in grid.cells}) == len(grid.cells)
    assert grid.seeds == 3
    for task in ("segmentation", "classification") if make is reduced_grid else ():  # published sizes: slow tables
        sizes = [augmentation_training.parameters_of(grid.networks[task, network]) for network in NETWORKS]
        assert sizes == sorted(sizes)
    for cell in grid.cells:
        assert (cell.task, cell.network) in grid.networks
        assert (cell.task, cell.network) in grid.training
        assert cell.data in grid.data
    assert set(make("sklearn", garments=False).data) == {"one_digit", "four_digits"}
