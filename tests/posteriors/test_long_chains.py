"""Chains that are broken off at any moment and begun again end in the same numbers; what does not fit is refused."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo import files, locks
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, RunFolderError
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.posteriors.long_chains import sample_chains

WORKER = Path(__file__).with_name("chain_worker.py")


def first_draws(folder):
    """Whether a stretch with a draw in it, and the state after it, are on the disk: 8 transitions are warm-up."""
    return any(int(path.name) >= 12 for path in (folder / "states").glob("[0-9]*") if path.name.isdigit())


def test_chains_that_are_killed_at_random_end_in_the_same_bits(tmp_path):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(Path(files.__file__).parents[1]),
    }
    killed, whole, out = tmp_path / "killed", tmp_path / "whole", tmp_path / "out.safetensors"
    command = [sys.executable, str(WORKER), str(killed), str(whole), str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while not first_draws(killed) and process.poll() is None:
            time.sleep(0.002)
        # Fifteen savings are to come, which take longer than the longest delay: the moment lies inside the run.
        time.sleep(random.SystemRandom().uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        said = process.stderr.read().decode()
    assert process.returncode == -signal.SIGKILL, said
    assert not out.exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    begun, *_ = (int(line.split()[0]) for line in done.stdout.splitlines())
    assert begun > 12  # it went on, and did not begin anew
    found = files.load_tree(out)
    assert found["whole"]["trace"]["position"].shape == (2, 24, 6)
    assert found["whole"]["trace"]["energy"].shape == (2, 56)
    chex.assert_trees_all_equal(found["killed"], found["whole"])


CONFIG = HmcConfig(num_chains=2, num_warmup=4, num_draws=4, thinning=2, warmup_leapfrogs=2, max_leapfrogs=4)
X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
Y = jnp.asarray(np.arange(12) % 2, jnp.int32)
LIKE = dict(kernel=jnp.zeros((3, 2)))
START = dict(kernel=jnp.ones((2, 3, 2)) / 7)


def apply(params, x):
    return x @ params["kernel"]


PRIOR = GaussianPrior()


def plan(config=CONFIG, prior=PRIOR):
    return plan_hmc(LogJoint(apply, prior), LIKE, config)


SAMPLER = plan()


def chains(folder, sampler=SAMPLER, seed=0, inputs=X, targets=Y, start=START, **settings):
    return sample_chains(folder, sampler, jax.random.key(seed), inputs, targets, start, **settings)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A finished run, and what it was told on the way."""
    folder, said = tmp_path_factory.mktemp("begun") / "run", []
    return folder, chains(folder, every=5, progress=lambda *event: said.append(event)), said


def same(one, other):
    chex.assert_trees_all_equal((one.state, one.trace), (other.state, other.trace))


def test_a_saved_run_is_the_run_of_the_sampler_and_is_then_only_read(begun):
    folder, found, said = begun
    state, trace = SAMPLER.run(SAMPLER.init(jax.random.key(0), X, Y, START), X, Y)
    chex.assert_trees_all_equal((found.state, found.trace), (state, trace))
    assert [event[:2] for event in said] == [(5, 12), (10, 12), (12, 12)]
    assert set(said[0][2]) == {"acceptance", "step_size", "num_leapfrogs", "divergences"}
    assert said[-1][2]["divergences"] == trace.diverging[:, 4:].sum()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = chains(folder, progress=lambda *event: pytest.fail("nothing was left to do"))
    same(again, found)
    assert again.cpu_seconds == found.cpu_seconds > 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_each_transition_is_written_once_and_two_states_are_kept(begun):
    folder, found, _ = begun
    stretches = sorted((folder / "trace").iterdir())
    assert [path.stem for path in stretches] == ["000000000-000000005", "000000005-000000010", "000000010-000000012"]
    parts = [files.load_arrays(path) for path in stretches]
    assert [part["position"].shape[1] for part in parts] == [0, 3, 1]  # every second one after four
    np.testing.assert_array_equal(np.concatenate([part["energy"] for part in parts], axis=1), found.trace.energy)
    assert {path.name for path in (folder / "states").iterdir() if path.name.isdigit()} == {"10", "12"}


@pytest.mark.parametrize("every", [3, 5])
def test_a_stretch_without_its_state_is_done_again(begun, tmp_path, every):
    folder, found, _ = begun
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    shutil.rmtree(cut / "states" / "12")  # as if killed after the stretch and before the state
    (cut / "trace" / "000000010-000000012.safetensors").write_bytes(b"half")
    (cut / "trace" / ".x.safetensors.1.part").write_bytes(b"")
    same(chains(cut, every=every), found)
    assert not list((cut / "trace").glob(".*"))


def test_a_run_goes_on_to_more_draws_as_if_it_had_never_stopped(begun, tmp_path):
    folder, _, _ = begun
    more = plan(dataclasses.replace(CONFIG, num_draws=6))
    longer = tmp_path / "longer"
    shutil.copytree(folder, longer)
    same(chains(longer, more), chains(tmp_path / "at_once", more))
    with pytest.raises(ConfigError, match=r"holds 16 transitions, more than the 12 .*num_draws of at least 6"):
        chains(longer)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(sampler=plan(dataclasses.replace(CONFIG, thinning=1))), "begun with thinning = 2, not 1"),
        (dict(sampler=plan(dataclasses.replace(CONFIG, num_warmup=5))), "begun with num_warmup = 4, not 5"),
        (dict(sampler=plan(dataclasses.replace(CONFIG, num_chains=1))), "begun with num_chains = 2, not 1"),
        (dict(sampler=plan(prior=GaussianPrior(2.0))), "begun with other parameters or prior scales"),
        (dict(seed=1), "begun with other key"),
        (dict(inputs=X + 1e-6), "begun with other training inputs"),
        (dict(targets=1 - Y), "begun with other targets"),
        (dict(start=None), "begun with other starting points"),
    ],
)
def test_another_run_is_refused_in_one_sentence_and_nothing_is_changed(begun, changes, said):
    folder, _, _ = begun
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        chains(folder, **changes)
    assert sorted(folder.rglob("*")) == before


def test_damage_is_named(begun, tmp_path):
    folder, _, _ = begun
    for name, message in (("missing", "lacks the trace of the transitions from 5 on"), ("cut", "truncated or altered")):
        damaged = tmp_path / name
        shutil.copytree(folder, damaged)
        path = damaged / "trace" / "000000005-000000010.safetensors"
        path.unlink() if name == "missing" else path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(CorruptFileError, match=message):
            chains(damaged)
    files.save_arrays(path, {"energy": np.zeros(3)})
    with pytest.raises(CorruptFileError, match="no stretch of a trace"):
        chains(damaged)


def test_impossible_runs_leave_nothing_behind(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="every must be a whole number of at least 1, got 0"):
        chains(folder, every=0)
    with pytest.raises(InputError, match="values from 1 to 2"):
        chains(folder, targets=Y + 1)
    assert not folder.exists()


def test_a_run_that_is_broken_off_keeps_its_last_state_though_it_saves_seldom(begun, tmp_path):
    _, found, _ = begun

    def stop(done, total, values):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chains(tmp_path, every=2, at_least_s=1e9, progress=stop)
    assert [path.stem for path in (tmp_path / "trace").iterdir()] == ["000000000-000000006"]
    same(chains(tmp_path, every=5, at_least_s=1e9), found)
    assert {path.stem for path in (tmp_path / "trace").iterdir()} == {"000000000-000000006", "000000006-000000012"}


def test_two_processes_do_not_go_on_with_the_same_chains(tmp_path):
    with locks.held(tmp_path), pytest.raises(RunFolderError, match="in use by another process"):
        chains(tmp_path)
