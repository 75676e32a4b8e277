"""Training of an ensemble in one process that is killed at a random moment ends in the numbers of one left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex

from jaxgeo import files

WORKER = Path(__file__).with_name("ensemble_worker.py")


def test_members_that_are_killed_at_random_end_in_the_same_bits(tmp_path):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(Path(files.__file__).parents[1]),
    }
    killed, out = tmp_path / "killed", tmp_path / "out.safetensors"
    command = [sys.executable, str(WORKER), str(killed), str(tmp_path / "whole"), str(out)]
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moment is of seed {seed}")  # shown where this fails
    chance = random.Random(seed)
    # Ten savings at least are still to come, and the delay is shorter than those.
    epoch, delay_s = chance.randrange(1, 31), chance.uniform(0, 0.03)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.split() == ["killed", str(epoch)]:
                time.sleep(delay_s)
                process.send_signal(signal.SIGKILL)
                break
        said = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, said
    assert not out.exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    begun, *_ = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("killed"))
    assert epoch < begun <= 40  # it went on, and did not begin anew
    found = files.load_tree(out)
    assert found["whole"]["losses"].shape == (40, 4)
    chex.assert_trees_all_equal(found["killed"], found["whole"])
