"""Both commands end alike: a status, and one sentence where something went wrong; each is a module that Python runs."""

import errno
import signal
import subprocess
import sys

import pytest

import fpga_bridge.cli
import jaxgeo
import jaxgeo.cli
from jaxgeo.console import exit_status
from jaxgeo.errors import ConfigError
from jaxgeo.interrupts import Terminated

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("a b"), 1, "program: a b\n"),
        (FULL, 1, "program: no space left to write the output (No space left on device); what was done before is still "
            "there: free some space on that disk and go on\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, ""),
        (Terminated(), 128 + signal.SIGTERM, ""),
    ],
)  # fmt: skip
def test_what_stops_a_command_is_a_status_and_a_sentence(error, status, said, capsys):
    def run() -> int:
        raise error

    assert exit_status("program", run) == status
    assert capsys.readouterr() == ("", said)


def test_what_is_no_error_of_the_library_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError):
        exit_status("program", lambda: 1 // 0)
    assert exit_status("program", lambda: 7) == 7


@pytest.mark.parametrize("stop", [FULL, KeyboardInterrupt()])
def test_the_bridge_ends_as_the_library_does(stop, monkeypatch, capsys):
    def stopped(args) -> int:
        raise stop

    monkeypatch.setattr(fpga_bridge.cli, "run_capabilities", stopped)
    assert fpga_bridge.cli.main(["capabilities"]) == (1 if stop is FULL else 130)
    assert capsys.readouterr().err.startswith("fpga-bridge: no space left" if stop is FULL else "")


def test_both_say_their_version(capsys):
    assert jaxgeo.cli.main(["--version"]) == 0
    with pytest.raises(SystemExit, match=r"^0$"):
        fpga_bridge.cli.main(["--version"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"jaxgeo {jaxgeo.__version__}", f"fpga-bridge of jaxgeo {jaxgeo.__version__}"]


@pytest.mark.parametrize(("module", "program"), [("jaxgeo", "jaxgeo"), ("fpga_bridge", "fpga-bridge")])
def test_python_runs_the_packages_as_their_commands(module, program):
    said = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"usage: {program} ")


def test_an_output_that_is_full_is_said_once():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxgeo", "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("jaxgeo: no space left to write the output")
    assert len(ended.stderr.splitlines()) == 1
