"""Child processes end with us, whatever ends us, and what goes wrong in them is one sentence."""

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from fpga_bridge import guard, processes
from fpga_bridge.circuits import verilator
from fpga_bridge.hls import project as hls
from jaxgeo.errors import ExportError, RunFolderError


def test_output_of_both_streams_comes_back(tmp_path):
    assert processes.run(["sh", "-c", "echo one; echo two >&2; pwd"], tmp_path, "it failed").split() == [
        "one", "two", str(tmp_path.resolve()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "status"),
    [("echo reason >&2; exit 3", "3"), ("echo reason; kill -ABRT $$", "-6"), ("exec /no/tool", "127")],
)
def test_a_failure_says_what_status_and_the_last_words(script, status, tmp_path):
    with pytest.raises(ExportError, match=rf"the tool failed \(stopped with status {status}\): .*(reason|/no/tool)"):
        processes.run(["sh", "-c", script], tmp_path, "the tool failed")


def test_a_program_that_cannot_be_started_is_said(tmp_path):
    with pytest.raises(ExportError, match=r"status 127\): /no/such/tool cannot be started"):
        processes.run(["/no/such/tool"], tmp_path, "the tool failed")


def test_what_takes_too_long_is_killed(tmp_path):
    with pytest.raises(ExportError, match=r"it failed: it took more than 0\.2 s"):
        processes.run(["sleep", "600"], tmp_path, "it failed", timeout_s=0.2)


def test_a_full_disk_inside_a_tool_is_called_one(tmp_path):
    script = f"echo 'g++: {os.strerror(errno.ENOSPC)}'; exit 1"
    with pytest.raises(RunFolderError, match="no space left to write"):
        processes.run(["sh", "-c", script], tmp_path, "it failed")


# Only the pipes that they need are inherited by children, so the tests' pipe goes by the name that /proc gives it.
_SLEEPER = "exec 3>{name}; sleep 600 & echo started >&3; wait"


def _closed_within(reader, seconds):
    """Whether every process that held the other end is gone."""
    readable, _, _ = select.select([reader], [], [], seconds)
    return bool(readable) and os.read(reader, 100) == b""


@contextlib.contextmanager
def _pipe():
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        with contextlib.suppress(OSError):
            os.close(writer)


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGTERM])
def test_grandchildren_end_with_a_parent_that_is_killed(deadly):
    with _pipe() as (reader, writer):
        sleeper = _SLEEPER.format(name=f"/proc/{os.getpid()}/fd/{writer}")
        code = (
            "import sys; from pathlib import Path; from fpga_bridge import processes\n"
            "processes.run(['sh', '-c', sys.argv[1]], Path('.'), 'the sleeper failed')"
        )
        parent = subprocess.Popen([sys.executable, "-c", code, sleeper])
        try:
            assert os.read(reader, 100) == b"started\n"
            os.close(writer)
            assert not _closed_within(reader, 0)
            os.kill(parent.pid, deadly)
            assert parent.wait(30) == -deadly
            assert _closed_within(reader, 30)
        finally:
            parent.kill()
            parent.wait()


def test_grandchildren_end_with_an_exception_in_the_parent(monkeypatch):
    with _pipe() as (reader, writer):
        sleeper = _SLEEPER.format(name=f"/proc/{os.getpid()}/fd/{writer}")

        def interrupted(self, *args, **kwargs):
            assert os.read(reader, 100) == b"started\n"
            os.close(writer)
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            processes.run(["sh", "-c", sleeper], processes.Path("."), "it failed")
        assert _closed_within(reader, 30)


def test_the_guard_gives_the_status_of_its_command(capfd, monkeypatch):
    monkeypatch.setattr(guard, "watch", lambda lifeline: None)  # the group that it would kill is that of the tests
    assert guard.run(-1, ["sh", "-c", "exit 7"]) == 7
    assert guard.run(-1, ["/no/such/tool"]) == 127
    assert "cannot be started (No such file" in capfd.readouterr().err


def test_the_guard_kills_its_group_at_the_end_of_the_pipe(monkeypatch):
    killed = []
    monkeypatch.setattr(guard.os, "killpg", lambda *group: killed.append(group))
    with _pipe() as (lifeline, writer):
        os.close(writer)
        guard.watch(lifeline)
    assert killed == [(0, signal.SIGKILL)]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file/rtl"):
        verilator.compile_simulation({}, "top", 1, 1, tmp_path / "file" / "rtl")
    project = hls.HlsProject(tmp_path / "gone", "network", (4,), (2,), True, tmp_path / "network.so")
    with pytest.raises(RunFolderError, match="gone"):
        hls.emulate(project, np.zeros((2, 4)))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunFolderError, match="no space left to write"):
        hls.emulate(project, np.zeros((2, 4)))


def test_an_old_output_is_never_read_and_a_failed_simulation_is_said(tmp_path):
    script = tmp_path / "simulation"
    (tmp_path / "outputs.bin").write_bytes(bytes(16))  # of the right length, from a run before
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with pytest.raises(ExportError, match="ended early, after 0 bytes"):
        verilator.run_simulation(script, np.zeros((2, 8), np.uint8), 1)
    script.write_text("#!/bin/sh\nhead -c 16 /dev/zero > outputs.bin\nexit 4\n")
    with pytest.raises(ExportError, match=r"the simulation .* failed \(stopped with status 4\)"):
        verilator.run_simulation(script, np.zeros((2, 8), np.uint8), 1)


def test_quiet_keeps_only_what_its_own_thread_prints(capsys):
    with hls.quiet() as said:
        print("from hls4ml")
        other = threading.Thread(target=lambda: print("from a progress bar", flush=True))
        other.start()
        other.join()
    print("afterwards")
    assert said.getvalue() == "from hls4ml\n"
    assert capsys.readouterr().out == "from a progress bar\nafterwards\n"
