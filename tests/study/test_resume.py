"""A study that is broken off at any moment and resumed reports the same numbers as one that was not."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxgeo import cli

TINY = {
    "data": {"nside": 2, "train_images": 40, "test_images": 20},
    "model": {"features": [3], "patches": [4]},
    "ensemble": {"members": 2, "epochs": 6, "batch_size": 20, "chunk_epochs": 1},
    "dropout": {"members": 2, "draws": 2, "epochs": 6, "batch_size": 20, "chunk_epochs": 4},
    "hmc": {"num_chains": 2, "num_warmup": 4, "num_draws": 6, "warmup_leapfrogs": 4, "max_leapfrogs": 4},
    "score": {"draws": 4, "angles": [0, 90], "rotation_images": 5},
    "export": {"run": False},
    "run": {"checkpoint_seconds": 0},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The configuration's file, and an environment in which a second run need not compile again."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
    }
    return folder / "tiny.json", environment


def command(*words):
    return [sys.executable, "-m", "jaxgeo.cli", "study", *map(str, words)]


def numbers(run):
    report = json.loads((run / "report.json").read_text())
    assert set(report["timing"]) == {"seconds", "finished", "peak_memory_bytes", "machine"}
    return {key: value for key, value in report.items() if key != "timing"}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run."""
    config, environment = tiny
    run = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        command("--out", run, "--config", config), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["run"] == str(run)
    return run


def interrupt(words, environment, number, stage, delay_s, reached=lambda: True):
    """Send a signal a moment after a stage has begun; returns the exit status and what stderr said.

    The moment begins once `reached` says so.
    """
    with subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith(f"[{stage}]"):
                break
        while process.poll() is None and not reached():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        said += process.stderr.read()
    return process.returncode, said


def test_a_resumed_study_reports_the_same_numbers(tiny, whole, tmp_path):
    config, environment = tiny
    draw = random.Random(1)
    run = tmp_path / "run"
    words = command("--out", run, "--config", config)
    for number, stage in ((signal.SIGKILL, "train"), (signal.SIGTERM, "sample"), (signal.SIGINT, "score")):
        # Each of these stages compiles for longer than the longest delay, so the moment lies inside it.
        status, said = interrupt(words, environment, number, stage, draw.uniform(0, 1))
        assert status == (-number if number == signal.SIGKILL else 128 + number), said
        if number != signal.SIGKILL:
            assert f"go on with: jaxgeo study --resume {run}" in said
        words = command("--resume", run)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert numbers(run) == numbers(whole)
    assert not list((run / "checkpoints").glob("*.safetensors"))


def test_an_export_that_is_killed_and_resumed_reports_the_same_numbers(tiny, whole, tmp_path):
    # With XLA's optimisations, as users export.
    environment = tiny[1] | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    settings = ["--export.run", "--export.no-rtl", "--export.epochs", 1]
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    for run in (killed, unbroken):
        shutil.copytree(whole, run)
    words = command("--resume", killed, *settings)
    # Once the project is written, g++ compiles it.

    def compiling():
        return list(killed.glob("export/build-*/hls/firmware/*.cpp"))

    status, said = interrupt(words, environment, signal.SIGKILL, "export", 0.5, compiling)
    assert status == -signal.SIGKILL, said
    assert list((killed / "export").glob("build-*"))
    subprocess.run(command("--resume", killed), env=environment, capture_output=True, check=True)
    done = subprocess.run(
        command("--resume", unbroken, *settings), env=environment, capture_output=True, text=True, check=True
    )
    assert "hls4ml C++" in done.stdout
    assert numbers(killed) == numbers(unbroken)
    assert numbers(unbroken)["export"]["bit_for_bit"] == 1
    for run in (killed, unbroken):
        assert (run / "export" / "project" / "hls").is_dir()
        assert not list((run / "export").glob("build-*"))


def test_a_finished_study_is_checked_and_not_run_again(whole, capsys):
    before = (whole / "report.json").read_bytes()
    assert cli.main(["study", "--resume", str(whole)]) == 0
    said = capsys.readouterr()
    assert said.err.count("finished before; its files are whole") == 6
    assert (whole / "report.json").read_bytes() == before
    tables, last = said.out.rsplit("\n{", 1)
    assert json.loads("{" + last)["run"] == str(whole)
    for text in ("Against the labels", "Against HMC", "deep ensemble", "MC dropout", "HMC, half against half", "±"):
        assert text in tables
    assert "\x1b" not in tables
    assert cli.main(["study", "--resume", str(whole), "--hmc.num-draws", "7"]) == 1
    assert "was begun with hmc.num_draws = 6, not 7; go on with that, or begin another" in capsys.readouterr().err


def test_eight_devices_give_the_numbers_of_one(tiny, whole, tmp_path):
    config, environment = tiny
    run = tmp_path / "run"
    # With XLA's optimisations, which most tests leave out: as users run it.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run(command("--out", run, "--config", config), env=environment | flags, capture_output=True, check=True)
    one, eight = numbers(whole), numbers(run)
    # Sums over a batch are cut differently for each number of members on a device, and optimised differently: float32
    # rounding, amplified by a few steps of Adam and a few leapfrogs. Shares of 20 images move in steps of 0.05 and must
    # not move at all.
    for method, card in one["scores"]["methods"].items():
        other = eight["scores"]["methods"][method]
        for measure, tolerance in (("negative_log_likelihood", 1e-3), ("total_variation", 1e-3), ("accuracy", 1e-6)):
            if measure in card:
                assert other[measure]["value"] == pytest.approx(card[measure]["value"], abs=tolerance)
    np.testing.assert_allclose(
        one["train"]["final_losses"]["ensemble"], eight["train"]["final_losses"]["ensemble"], rtol=1e-4
    )


def test_the_page_needs_no_network_and_shows_every_figure(whole):
    page = (whole / "report.html").read_text()
    assert page.count("data:image/") == 7  # all but the error ladder: nothing was exported
    # Nothing is fetched: no address but those inside the images, and those are data.
    assert not re.findall(r"(?:src|href)=[\"'](?!data:image/|#)", page)
    assert "<script" not in page
    assert "The export to hardware did not run" in page
