"""A study that is broken off at any moment and resumed reports the same numbers as one that was not."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

TINY = {
    "data": {"nside": 2, "train_images": 40, "test_images": 20},
    "model": {"widths": [3], "patches": [4]},
    "ensemble": {"members": 2, "epochs": 6, "batch_size": 20, "chunk_epochs": 1},
    "dropout": {"members": 2, "draws": 2, "epochs": 6, "batch_size": 20, "chunk_epochs": 1},
    "hmc": {"chains": 2, "warmup": 4, "draws": 6, "warmup_leapfrogs": 4, "max_leapfrogs": 4},
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
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
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
    """An uninterrupted run, and the seconds that a run takes once everything is compiled."""
    config, environment = tiny
    run = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        command("--out", run, "--config", config), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["run"] == str(run)
    begun = time.monotonic()
    again = run.with_name("again")
    subprocess.run(command("--out", again, "--config", config), env=environment, capture_output=True, check=True)
    assert numbers(again) == numbers(run)
    return run, time.monotonic() - begun


def interrupt(words, environment, number, after_s):
    """Send a signal after some time; returns the exit status and what stderr said."""
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    said = process.communicate()[1]
    return process.returncode, said


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_resumed_study_reports_the_same_numbers(tiny, whole, tmp_path, number, seed):
    config, environment = tiny
    reference, seconds = whole
    draw = random.Random(10 * number + seed)
    run, words, broken_off = tmp_path / "run", None, 0
    for _ in range(2):
        begun = (run / "config.json").exists()
        words = command("--resume", run) if begun else command("--out", run, "--config", config)
        status, said = interrupt(words, environment, number, draw.uniform(0.25, 0.95) * seconds)
        if status != 0 and (run / "config.json").exists():
            broken_off += 1
            if number != signal.SIGKILL and "run folder" in said:
                assert status == 128 + number, said
                assert f"go on with: jaxgeo study --resume {run}" in said
    words = command("--resume", run) if (run / "config.json").exists() else command("--out", run, "--config", config)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert numbers(run) == numbers(reference)
    assert not list((run / "checkpoints").glob("*.safetensors"))


def test_a_finished_study_is_checked_and_not_run_again(tiny, whole):
    _, environment = tiny
    run, _ = whole
    before = (run / "report.json").read_bytes()
    done = subprocess.run(command("--resume", run), env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("finished before; its files are whole") == 6
    assert (run / "report.json").read_bytes() == before
    changed = subprocess.run(
        command("--resume", run, "--hmc.draws", 7), env=environment, capture_output=True, text=True, check=False
    )
    assert changed.returncode == 1
    assert "was begun with hmc.draws = 6, which 7 would change half-way" in changed.stderr


def test_eight_devices_give_the_numbers_of_one(tiny, whole, tmp_path):
    config, environment = tiny
    reports = []
    for devices in (1, 8):
        run = tmp_path / str(devices)
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        subprocess.run(
            command("--out", run, "--config", config), env=environment | flags, capture_output=True, check=True
        )
        reports.append(numbers(run))
    one, eight = reports
    # Sums over a batch are cut differently for each number of members on a device: float32 rounding, amplified by
    # a few steps of Adam and a few leapfrogs. Shares of 20 images move in steps of 0.05 and must not move at all.
    for method, card in one["scores"]["methods"].items():
        other = eight["scores"]["methods"][method]
        for measure, tolerance in (("negative_log_likelihood", 1e-3), ("total_variation", 1e-3), ("accuracy", 1e-6)):
            if measure in card:
                assert other[measure]["value"] == pytest.approx(card[measure]["value"], abs=tolerance)
    np.testing.assert_allclose(
        one["train"]["final_losses"]["ensemble"], eight["train"]["final_losses"]["ensemble"], rtol=1e-4
    )


def test_the_page_needs_no_network_and_shows_every_figure(whole):
    page = (whole[0] / "report.html").read_text()
    assert page.count("data:image/") == 7  # all but the error ladder: nothing was exported
    # Nothing is fetched: no address but those inside the images, and those are data.
    assert not re.findall(r"(?:src|href)=[\"'](?!data:image/|#)", page)
    assert "<script" not in page
    assert "The export to hardware did not run" in page
