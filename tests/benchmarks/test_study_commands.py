"""Every command of a study: one process works in a run's folder, and what ends it is a sentence and a status."""

import importlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from benchmarks.papers import command
from jaxgeo import locks
from jaxgeo.errors import ConfigError

SOURCES = {path.stem: path.read_text() for path in sorted(Path(command.__file__).parent.glob("*.py"))}
STUDIES = {
    name: importlib.import_module(f"benchmarks.papers.{name}")
    for name, source in SOURCES.items()
    if 'add_argument("--out"' in source
}
# Data are looked for before a folder is made, so that none is left behind where they are missing.
WITHOUT_DATA = {
    "cifar_posteriors": {"make_problem": lambda *_: None, "families": lambda *_: {}, "members_at_once": lambda *_: 1},
    "equivariance_vs_augmentation": {"grid_of": lambda *_: None, "jobs_of": lambda *_: []},
    "image_posteriors": {"make_problem": lambda *_: None},
    "svhn_compression": {"make_problem": lambda *_: None},
}


def test_studies_with_a_run_folder_are_found():
    assert len(STUDIES) >= 7
    assert set(WITHOUT_DATA) <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_second_process_in_a_folder_is_refused_with_a_sentence_and_changes_nothing(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # this process has its devices already
    for function, instead in WITHOUT_DATA.get(name, {}).items():
        monkeypatch.setattr(STUDIES[name], function, instead)
    with locks.held(tmp_path):
        assert STUDIES[name].main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: {tmp_path} is in use by another process; wait until it ends, or end it\n"
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == [locks.NAME]


def test_a_report_on_what_is_there_may_be_written_while_another_process_trains(tmp_path, monkeypatch, capsys):
    study = STUDIES["equivariance_vs_augmentation"]
    for function, instead in WITHOUT_DATA["equivariance_vs_augmentation"].items():
        monkeypatch.setattr(study, function, instead)
    for function in ("prepare", "measure"):
        monkeypatch.setattr(study, function, lambda *_: None)
    monkeypatch.setattr(study, "conclude", lambda out, *_: (out / "report.md").write_text("page") and {"cells": 0})
    with locks.held(tmp_path):
        assert study.main(["--out", str(tmp_path), "--report"]) == 0
    page, figures = capsys.readouterr().out.splitlines()
    assert page == "page"
    assert json.loads(figures)["cells"] == 0


@pytest.mark.parametrize(
    ("ended", "status", "said"),
    [
        (lambda: {"figure": 1}, 0, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "the same command goes on from there\n"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "the same command goes on from there\n"),
    ],
)
def test_what_ends_the_work_is_the_status_and_the_folder_is_free_again(ended, status, said, tmp_path, capsys):
    def work():
        with command.run_folder(tmp_path / "new"):
            return ended()

    assert command.perform(tmp_path / "new", work) == status
    found = capsys.readouterr()
    assert found.err.endswith(said)
    assert (json.loads(found.out) == {"figure": 1}) if status == 0 else (found.out == "")
    with locks.held(tmp_path / "new"):
        pass


def test_an_error_of_the_library_is_a_sentence_and_another_one_is_raised(tmp_path, capsys):
    def refuse():
        raise ConfigError("so many are needed")

    assert command.perform(tmp_path, refuse) == 1
    assert capsys.readouterr().err == "error: so many are needed\n"
    with pytest.raises(AttributeError):
        command.perform(tmp_path, lambda: SimpleNamespace().absent)
