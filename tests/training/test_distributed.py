"""Two processes are one machine: the same numbers as two devices of one, also after one of them was killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxgeo import cli, files, launch
from jaxgeo.errors import ConfigError
from jaxgeo.training import processes

WORKER = Path(__file__).with_name("process_worker.py")
EPOCHS = 16


def environment(folder):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(processes, *words, devices=1):
    start = [sys.executable, "-m", "jaxgeo.cli", "launch", "--processes", str(processes), "--devices", str(devices)]
    return [*start, "--", sys.executable, str(WORKER), *map(str, words)]


def children(process):
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in listed.split()]


def killed(words, folder, moment, process, delay_s=0.0):
    """Run a command whose launcher has two children, and kill one of them so long after a line that begins so."""
    with subprocess.Popen(
        words, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        for line in run.stdout:
            if line.startswith(moment):
                time.sleep(delay_s)
                os.kill(children(run)[process], signal.SIGKILL)
                break
        said = run.stderr.read()
    # Whichever the launcher saw first: the one that was killed, or the other, which had lost it.
    assert run.returncode != 0, said
    assert "the others are stopped" in said


def newest(folder):
    return max(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def first(output, what):
    return next(int(line.split()[1]) for line in output.splitlines() if line.startswith(what))


def test_two_processes_equal_two_devices_and_go_on_after_a_kill_in_training_and_in_hmc(tmp_path):
    one = command(1, tmp_path / "one", EPOCHS, tmp_path / "one.safetensors", devices=2)
    done = subprocess.run(one, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = files.load_arrays(tmp_path / "one.safetensors")

    two = command(2, tmp_path / "two", EPOCHS, tmp_path / "two.safetensors")
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moments are of seed {seed}")  # shown where this fails
    chance = random.Random(seed)
    # Eight savings at least are to come, each of them waited for by both processes: the moment lies among them.
    epoch = chance.randrange(1, EPOCHS - 7)
    killed(two, tmp_path, f"epoch {epoch}\n", process=chance.randrange(2), delay_s=chance.uniform(0, 0.1))
    assert newest(tmp_path / "two") >= 4 * epoch  # steps
    assert not (tmp_path / "two-chains").exists()

    # Seven savings are to come.
    killed(two, tmp_path, "transition 3", process=chance.randrange(2), delay_s=chance.uniform(0, 0.2))
    assert not (tmp_path / "two.safetensors").exists()
    assert newest(tmp_path / "two") == 4 * EPOCHS
    sampled = newest(tmp_path / "two-chains" / "states")

    done = subprocess.run(two, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stdout
    assert first(done.stdout, "transition") > sampled >= 3  # it went on, and did not begin anew
    found = files.load_arrays(tmp_path / "two.safetensors")
    assert set(found) == set(reference)
    for name, values in reference.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_environment_tells_each_process_which_one_it_is(tmp_path, capfd):
    script = "import os, json; print(json.dumps({k: os.environ[k] for k in os.environ if k.startswith('JAX_')}))"
    assert launch.launch([sys.executable, "-c", script], 3, devices=2, port=12345) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert sorted(row["JAX_PROCESS_ID"] for row in found) == ["0", "1", "2"]
    for row in found:
        assert row["JAX_COORDINATOR_ADDRESS"] == "localhost:12345"
        assert (row["JAX_NUM_PROCESSES"], row["JAX_NUM_CPU_DEVICES"]) == ("3", "2")


def test_one_failure_stops_all(capfd):
    script = "import os, sys, time; sys.exit(7) if os.environ['JAX_PROCESS_ID'] == '1' else time.sleep(600)"
    assert cli.main(["launch", "--processes", "2", "--", sys.executable, "-c", script]) == 7
    assert "process 1 ended with status 7; the others are stopped" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2"], "needs a program"),
        (["--processes", "0", "--", "true"], "at least 1 process"),
        (["--processes", "1", "--", "/no/such/program"], "/no/such/program cannot be run: No such file"),
    ],
)
def test_what_cannot_be_launched_is_one_sentence(words, message, capsys):
    assert cli.main(["launch", *words]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ConfigError, match="all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        processes.connect()


def test_a_process_alone_connects_to_nobody():
    assert processes.connect() == 1
    assert processes.is_first()
