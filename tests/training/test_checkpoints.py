"""Checkpoints: what comes back is what was saved, to the bit; a killed or damaged one costs only itself."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import CorruptFileError, RunFolderError
from jaxgeo.training.checkpoints import Checkpoints


def state_of(seed):
    key = jax.random.key(seed)
    return {
        "params": {"kernel": jax.random.normal(key, (3, 4)), "half": jnp.ones(5, jnp.bfloat16) * seed},
        "count": jnp.asarray(seed, jnp.int32),
        "key": jax.random.fold_in(key, 1),
        "nothing": None,
    }


def assert_equal(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(plain(a), plain(b))


def plain(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def test_the_newest_of_several_comes_back_to_the_bit_in_another_manager(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        assert checkpoints.restore(state_of(0)) is None
        for step in (1, 4, 9):
            checkpoints.save(step, state_of(step), {"best": step / 7})
    with Checkpoints(tmp_path / "c") as again:
        assert again.latest_step == 9
        found, notes = again.restore(state_of(0))
    assert_equal(found, state_of(9))
    assert notes == {"best": 9 / 7}
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["4", "9"]


def test_another_network_and_a_damaged_file_are_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(3), {})
    other = state_of(3) | {"params": {"kernel": jnp.zeros((2, 2))}}
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CorruptFileError, match="of other settings"):
        checkpoints.restore(other)
    for file in (tmp_path / "3").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CorruptFileError, match="damaged"):
        checkpoints.restore(state_of(3))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_a_process_killed_while_saving_leaves_the_former_checkpoint(tmp_path):
    program = textwrap.dedent("""
        import sys
        import jax.numpy as jnp
        from pathlib import Path
        from jaxgeo.training.checkpoints import Checkpoints
        with Checkpoints(Path(sys.argv[1])) as checkpoints:
            for step in range(1000):
                checkpoints.save(step, {"x": jnp.full(200_000, step)}, {"step": step})
                print(step, flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        said = [int(child.stdout.readline()) for _ in range(4)]
        os.kill(child.pid, signal.SIGKILL)
        said += [int(line) for line in child.stdout.read().split()]
    with Checkpoints(tmp_path) as checkpoints:
        state, notes = checkpoints.restore({"x": jnp.zeros(200_000, int)})
    # Between a save and what is said of it the process may die too.
    assert notes["step"] in (said[-1], said[-1] + 1)
    np.testing.assert_array_equal(state["x"], notes["step"])
