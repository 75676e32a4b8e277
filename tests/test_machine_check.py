"""`make demo` and `make test` say at once what a machine lacks."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_machine.sh"


def check(tmp_path, python: str, tools: dict[str, str], **variables: str) -> subprocess.CompletedProcess:
    """Run the check on a PATH that holds nothing but the given shell scripts."""
    for name, body in tools.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    shell = shutil.which("sh")
    assert shell is not None
    environment = {"PATH": str(tmp_path)} | {k: v for k, v in os.environ.items() if k == "LANG"} | variables
    return subprocess.run([shell, str(SCRIPT), python], env=environment, capture_output=True, text=True, check=False)


def test_a_complete_machine_passes_in_silence(tmp_path):
    done = check(tmp_path, "python3", {"python3": "exit 0", "g++": "exit 0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_compiler_is_named_with_its_remedy(tmp_path):
    done = check(tmp_path, "python3", {"python3": "exit 0"})
    assert done.returncode == 1
    assert "g++, which is missing" in done.stderr
    assert "apt install g++" in done.stderr


def test_another_compiler_does_not_stand_in_for_gpp(tmp_path):
    # What compiles the networks is called g++ by name.
    assert check(tmp_path, "python3", {"python3": "exit 0", "clang++": "exit 0"}, CXX="clang++").returncode == 1


def test_an_old_python_is_named_with_its_version(tmp_path):
    old = 'case "$2" in *version_info*) exit 1;; *platform*) echo 3.9.2;; esac'
    done = check(tmp_path, "python3", {"python3": old, "g++": "exit 0"})
    assert done.returncode == 1
    assert "Python 3.11 or newer, but python3 is 3.9.2" in done.stderr


@pytest.mark.parametrize("python", ["python3.11", "/nowhere/python3"])
def test_no_python_at_all_is_said(tmp_path, python):
    done = check(tmp_path, python, {"g++": "exit 0"})
    assert done.returncode == 1
    assert "found none" in done.stderr


def test_a_python_without_pip_is_said(tmp_path):
    bare = 'case "$2" in *ensurepip*|*"import pip"*) exit 1;; esac'
    done = check(tmp_path, "python3", {"python3": bare, "g++": "exit 0"})
    assert done.returncode == 1
    assert "apt install python3-pip" in done.stderr
