"""A folder is held by one process at a time, and by nobody once that process is gone."""

import errno
import fcntl
import signal
import subprocess
import sys

import pytest

from jaxgeo import locks
from jaxgeo.errors import RunFolderError


def test_a_folder_is_held_once_and_free_afterwards(tmp_path):
    with locks.held(tmp_path):
        with pytest.raises(RunFolderError, match="is in use by another process; wait until it ends, or end it"):
            locks.hold(tmp_path)
        with pytest.raises(RunFolderError, match="in use"), locks.held(tmp_path):
            pytest.fail("held twice")
    with pytest.raises(KeyError), locks.held(tmp_path):
        raise KeyError
    with locks.held(tmp_path):
        assert [entry.name for entry in tmp_path.iterdir()] == [locks.NAME]


def test_what_a_killed_process_leaves_behind_blocks_nobody(tmp_path):
    script = (
        "import sys, signal; from jaxgeo import locks; locks.hold(sys.argv[1]); print(1, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(RunFolderError, match="in use by another process"):
            locks.hold(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / locks.NAME).exists()
    with locks.held(tmp_path):
        pass


def test_a_folder_that_is_not_there_and_a_disk_without_locks_are_not_taken_for_another_process(tmp_path, monkeypatch):
    with pytest.raises(RunFolderError, match="No such file"):
        locks.hold(tmp_path / "none")

    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFolderError, match="No locks available"):
        locks.hold(tmp_path)
