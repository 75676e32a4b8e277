"""A run folder knows what is finished, notices damage, and has one writer."""

import json
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo import files
from jaxgeo.errors import CorruptFileError, RunFolderError
from jaxgeo.study.config import StudyConfig, quick_study
from jaxgeo.study.run_folder import RunFolder, read_config


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run", quick_study()) as run:
        yield run


def finish(run, stage="project"):
    run.finish(stage, {"maps.safetensors": {"x": np.arange(100)}, "figures.json": {"a": 1}, "/page.html": "<p>"}, 1.5)


def test_a_run_comes_back_with_its_configuration_and_its_stages(run):
    finish(run)
    run.close()
    assert read_config(run.path) == quick_study()
    with RunFolder.open(run.path) as again:
        assert again.config == quick_study()
        assert again.finished("project")
        assert not again.finished("train")
        np.testing.assert_array_equal(again.tree("project", "maps")["x"], np.arange(100))
        assert again.json("project", "figures") == {"a": 1}
        assert (again.path / "page.html").read_text() == "<p>"
        assert again.seconds() == {"project": 1.5}


def test_a_stage_says_what_must_run_before_it(run):
    with pytest.raises(RunFolderError, match=r"'train' builds on 'project'.*first run: jaxgeo project "):
        run.require("train", ["project"])
    finish(run)
    run.require("train", ["project"])


def test_a_forgotten_stage_is_unfinished_and_the_others_stay(run):
    finish(run)
    finish(run, "train")
    run.forget(["train"])
    assert (run.finished("project"), run.finished("train")) == (True, False)


@given(data=st.data())
def test_any_flipped_bit_or_cut_in_a_finished_stage_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "run"
    with RunFolder.create(path, StudyConfig()) as run:
        finish(run)
        victim = path / data.draw(st.sampled_from(["project/maps.safetensors", "project/figures.json", "page.html"]))
        whole = victim.read_bytes()
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        if data.draw(st.booleans()):
            victim.write_bytes(whole[: bit // 8])
        else:
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            victim.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=rf"{victim.name} does not have the SHA-256"):
            run.finished("project")


def test_a_missing_file_of_a_finished_stage_is_noticed(run):
    finish(run)
    (run.path / "page.html").unlink()
    with pytest.raises(CorruptFileError, match=r"page\.html, which the finished stage 'project' made, is missing"):
        run.finished("project")


@pytest.mark.parametrize("change", [{"format": 99}, {"library": "0.0.1"}])
def test_a_run_of_another_version_is_refused(run, change):
    run.close()
    manifest = files.read_json(run.path / "manifest.json")
    files.write_json_atomically(run.path / "manifest.json", manifest | change)
    with pytest.raises(RunFolderError, match=r"was made by jaxgeo .* this is jaxgeo .* start a new run"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "library": "", "stages": {"a": 1}}'])
def test_a_damaged_manifest_is_named(run, text):
    run.close()
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"manifest\.json"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("text", ["{", '{"hmc": {"num_chains": 0}}', '{"hcm": {}}', "[]"])
def test_a_damaged_configuration_is_named(run, text):
    run.close()
    (run.path / "config.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"config\.json"):
        RunFolder.open(run.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="is no folder"):
        RunFolder.open(tmp_path / "missing")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match=r"is not a run of jaxgeo \(it has no manifest"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="is not empty and no run"):
        RunFolder.create(tmp_path, StudyConfig())
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_a_run_is_not_overwritten(run):
    finish(run)
    run.close()
    with pytest.raises(RunFolderError, match="holds a run already; go on with it by: jaxgeo study --resume"):
        RunFolder.create(run.path, StudyConfig())
    assert read_config(run.path) == quick_study()


def test_a_process_killed_while_it_made_a_run_leaves_something_to_go_on_with(run):
    run.close()
    (run.path / "manifest.json").unlink()
    (run.path / ".manifest.json.1.part").write_text("{")
    with RunFolder.open(run.path) as again:
        assert not again.finished("project")
        assert not list(run.path.glob("*.part"))
        assert not list(run.path.glob(".*.part"))
    (run.path / "config.json").unlink()
    (run.path / "manifest.json").unlink()
    with RunFolder.create(run.path, StudyConfig()) as anew:
        assert anew.config == StudyConfig()


def test_a_second_writer_is_refused_until_the_first_is_gone(run):
    with pytest.raises(RunFolderError, match="is in use by another process"):
        RunFolder.open(run.path)
    run.close()
    RunFolder.open(run.path).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "run"
    script = (
        "import sys, signal; from pathlib import Path; from jaxgeo.study.run_folder import RunFolder;"
        "from jaxgeo.study.config import StudyConfig; run = RunFolder.create(Path(sys.argv[1]), StudyConfig());"
        "print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match="is in use by another process"):
            RunFolder.open(path)
        process.send_signal(signal.SIGKILL)
    RunFolder.open(path).close()


def test_a_read_only_folder_is_one_sentence(tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere: let the kernel's answer be played
        real = os.open

        def refuse(path, flags, *args, **kwargs):
            if flags & os.O_CREAT:
                raise PermissionError(13, "Permission denied")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunFolderError, match=r"cannot be written .*make it writable or choose another folder"):
        RunFolder.create(folder, StudyConfig())


def test_a_checkpoint_keeps_the_last_state_when_it_is_broken_off(run):
    checkpoint = run.checkpoint("train", "ensemble", every_s=1e9)
    assert checkpoint.load() is None

    def work():
        with checkpoint:
            for step in range(3):
                checkpoint.offer({"step": np.int32(step)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    state = checkpoint.load()
    assert state is not None
    assert state["step"] == 2
    with checkpoint:
        checkpoint.offer({"step": np.int32(5)}, now=True)
        assert (checkpoint.load() or {})["step"] == 5
    finish(run, "train")
    assert checkpoint.load() is None


def test_a_damaged_checkpoint_is_named(run):
    checkpoint = run.checkpoint("train", "ensemble")
    checkpoint.offer({"x": np.arange(9)}, now=True)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"train\.ensemble\.safetensors"):
        checkpoint.load()


def test_timing_is_summed_over_attempts(run):
    run.add_seconds("train", 1.0)
    run.add_seconds("train", 2.0)
    assert run.seconds() == {"train": 3.0}
    assert json.loads((run.path / "timing.json").read_text()) == {"train": 3.0}
