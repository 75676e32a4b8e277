"""What a user meets when a run, a disk or a data set is damaged: one sentence on stderr and exit status 1."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxgeo import cli, files
from jaxgeo.config_files import from_dict, to_dict
from jaxgeo.errors import ExportError
from jaxgeo.study import command, export, pipeline
from jaxgeo.study.config import StudyConfig
from jaxgeo.study.run_folder import RunFolder

TINY = {
    "data": {"nside": 2, "train_images": 40, "test_images": 20},
    "model": {"features": [3], "patches": [4]},
    "ensemble": {"members": 2, "epochs": 2, "batch_size": 20},
    "dropout": {"members": 2, "draws": 2, "epochs": 2, "batch_size": 20},
    "hmc": {"num_chains": 2, "num_warmup": 2, "num_draws": 4},
    "score": {"draws": 2, "angles": [0], "rotation_images": 5},
    "export": {"run": False},
}


@pytest.fixture
def run(tmp_path):
    """A run whose first stage is finished, with maps of noise."""
    with RunFolder.create(tmp_path / "run", from_dict(StudyConfig, TINY)) as run:
        draw = np.random.default_rng(0)
        maps = {
            f"{part}_{what}": values
            for part, count in (("train", 40), ("test", 20))
            for what, values in (
                ("images", draw.random((count, 48, 1), np.float32)),
                ("labels", np.arange(count, dtype=np.int32) % 10),
            )
        }
        run.finish("project", {"maps.safetensors": maps, "figures.json": {}}, 1.0)
    return run.path


def refused(capsys, *words):
    """What one sentence on stderr says; stdout is empty, the status 1."""
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("jaxgeo: ")
    assert said.err.count("jaxgeo: ") == 1
    assert "Traceback" not in said.err
    return last


def played(monkeypatch, **stages):
    """Stages that do nothing, but for those given."""
    monkeypatch.setattr(
        pipeline.Stage, "function", lambda self: stages.get(self.name, lambda *_: {"figures.json": {"ran": False}})
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["project/maps.safetensors", "config.json"])
def test_a_damaged_file_of_a_run_is_named(run, capsys, name, damage):
    damage(run / name)
    said = refused(capsys, "study", "--resume", run)
    assert f"{run / name} does not have the SHA-256" in said
    assert "restore it, or start a new run" in said


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_checkpoint_is_named(run, capsys, damage):
    with RunFolder.open(run) as held:
        checkpoint = held.checkpoint("train", "ensemble")
        checkpoint.offer({"x": np.arange(9)}, now=True)
    damage(checkpoint.path)
    assert f"{checkpoint.path} " in refused(capsys, "study", "--resume", run)


def test_a_digit_of_the_settings_cannot_be_changed_by_hand(run, capsys):
    path = run / "config.json"
    path.write_text(path.read_text().replace('"seed": 4', '"seed": 9'))
    assert "config.json does not have the SHA-256" in refused(capsys, "study", "--resume", run)


def test_a_run_of_another_version_is_refused(run, capsys):
    manifest = files.read_json(run / "manifest.json")
    files.write_json_atomically(run / "manifest.json", manifest | {"library": "0.0.1"})
    said = refused(capsys, "study", "--resume", run)
    assert "was made by jaxgeo 0.0.1" in said
    assert "go on with that version, or start a new run" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"hmc": {"num_chians": 3}}',
            "unknown key hmc.num_chians (value 3) in the configuration; the nearest key is hmc.num_chains",
        ),
        ('{"hmc": {"num_chains": "4"}}', "hmc.num_chains must be a whole number, got '4' of type str"),
        ('{"data": {"seed": -1}}', "data.seed must be a whole number from 0 to 4294967295"),
    ],
)
def test_a_mistake_in_a_settings_file_is_named(tmp_path, capsys, text, message):
    (tmp_path / "mine.json").write_text(text)
    assert message in refused(capsys, "study", "--config", tmp_path / "mine.json", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "cannot be written or read (Read-only file system)"),
        (errno.EACCES, "cannot be written or read (Permission denied)"),
    ],
)
@pytest.mark.parametrize("words", [["study", "--resume"], ["train"], ["project"]])
def test_a_read_only_run_is_one_sentence(run, capsys, monkeypatch, words, number, message):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        # The superuser, as whom tests may run, is not stopped by permissions.
        if flags & os.O_CREAT and str(path).startswith(str(run)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    said = refused(capsys, *words, run)
    assert message in said
    assert "make it writable or choose another folder" in said


def test_a_full_disk_keeps_what_was_done_before(run, capsys, monkeypatch):
    played(monkeypatch)
    before = (run / "manifest.json").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        said = refused(capsys, "train", run)
    assert "no space left to write" in said
    assert "what was done before is still there" in said
    assert (run / "manifest.json").read_bytes() == before
    assert cli.main(["train", str(run)]) == 0


def test_an_error_of_the_disk_inside_a_stage_is_one_sentence(run, capsys, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/data/digits.gz")

    played(monkeypatch, train=fail)
    said = refused(capsys, "train", run)
    assert said == (
        "jaxgeo: /data/digits.gz cannot be written or read (Input/output error); what was done before is still there"
    )


def test_a_parent_that_may_not_be_read_is_one_sentence(run, capsys, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "cannot be written or read (Permission denied)" in refused(capsys, "train", run)


def test_a_missing_data_set_is_said_with_its_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    words = ["study", "--out", tmp_path / "run", "--data.source", "mnist", "--export.no-run"]
    said = refused(capsys, *words)
    assert "JAXGEO_DATA" in said
    assert "'sklearn' needs no files" in said


def idx(array, kind=0x08):
    header = bytes([0, 0, kind, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Pixels of the format are bytes: NaN cannot come in, a set of floats is refused as a whole.
        ("train-images-idx3-ubyte", idx(np.full((20, 28, 28), np.nan, ">f4"), 0x0D), "holds float32, expected uint8"),
        ("train-labels-idx1-ubyte", idx(np.full(20, 200, np.uint8)), "ubyte holds the label 200, expected 0 to 9"),
        ("train-labels-idx1-ubyte", idx(np.zeros(19, np.uint8)), "20 images but 19 labels"),
    ],
)
def test_a_bad_data_set_is_one_sentence(tmp_path, capsys, monkeypatch, name, content, message):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 28, 28), np.uint8)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    (folder / name).write_bytes(content)
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path / "data"))
    settings = from_dict(
        StudyConfig, TINY | {"data": {"source": "mnist", "nside": 2, "train_images": 20, "test_images": 20}}
    )
    files.write_json_atomically(tmp_path / "mine.json", to_dict(settings))
    assert message in refused(capsys, "study", "--config", tmp_path / "mine.json", "--out", tmp_path / "run")


@pytest.mark.parametrize(("missing", "rtl"), [("g++", False), ("g++", True), ("make", True)])
def test_a_missing_tool_is_said_before_there_is_a_run(tmp_path, capsys, monkeypatch, missing, rtl):
    import shutil

    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *args, **kw: None if name == missing else real(name, *args, **kw))
    words = ["study", "--out", tmp_path / "run", *([] if rtl else ["--export.no-rtl"])]
    said = refused(capsys, *words)
    assert missing in said
    assert "(to go on without the export: --export.no-run)" in said
    assert not (tmp_path / "run").exists()


def test_after_a_missing_tool_a_run_goes_on_without_the_export(tmp_path, capsys, monkeypatch):
    played(monkeypatch, report=lambda run, _: {"/report.json": {"export": run.json("export", "figures")}})
    monkeypatch.setattr(command, "_print_study", lambda run, report: print(json.dumps(report)))
    RunFolder.create(tmp_path / "run", from_dict(StudyConfig, TINY | {"export": {}})).close()
    words = ["study", "--resume", str(tmp_path / "run")]
    with monkeypatch.context() as machine:
        machine.setattr("shutil.which", lambda *_: None)
        assert "g++" in refused(capsys, *words)
        assert cli.main([*words, "--export.no-run", "--run.checkpoint-seconds", "1"]) == 0
    with RunFolder.open(tmp_path / "run") as run:
        assert not run.config.export.run
        assert run.config.run.checkpoint_seconds == 1
    assert "was begun with hmc.num_draws = 4" in refused(capsys, *words, "--hmc.num-draws", "5")


def test_a_failed_export_leaves_a_report_that_says_so_and_is_tried_again(tmp_path, capsys, monkeypatch):
    tries = []

    def fail_once(*_):
        tries.append(None)
        if len(tries) == 1:
            raise ExportError("layer conv_0 (model.py:7) cannot be carried")
        return {"figures.json": {"ran": True}}

    played(
        monkeypatch, export=fail_once, report=lambda run, _: {"/report.json": {"export": run.json("export", "figures")}}
    )
    monkeypatch.setattr(command, "_print_study", lambda run, report: print(json.dumps(report)))
    monkeypatch.setattr(export, "check_tools", lambda config: None)
    RunFolder.create(tmp_path / "run", from_dict(StudyConfig, TINY | {"export": {}})).close()
    words = ["study", "--resume", str(tmp_path / "run")]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "the export failed: layer conv_0 (model.py:7) cannot be carried" in said.err.splitlines()[-1]
    assert f"try the export again with: jaxgeo study --resume {tmp_path / 'run'}" in said.err
    reason = json.loads(said.out.splitlines()[-1])["export"]["reason"]
    assert reason == "it failed: layer conv_0 (model.py:7) cannot be carried."
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["export"] == {"ran": True}
    # Now that it ran, its settings are in use.
    assert "was begun with export.epochs" in refused(capsys, *words, "--export.epochs", "3")


def test_a_changed_number_of_devices_is_a_warning(run, capsys, monkeypatch):
    played(monkeypatch)
    with RunFolder.open(run) as held:
        import jax

        held.surroundings({"number of devices": jax.device_count() + 1, "jax": jax.__version__})
    assert cli.main(["train", str(run)]) == 0
    said = capsys.readouterr().err
    assert f"warning: number of devices was {jax.device_count() + 1} and is now {jax.device_count()}" in said
    assert cli.main(["train", str(run), "--again"]) == 0
    assert "warning" not in capsys.readouterr().err
