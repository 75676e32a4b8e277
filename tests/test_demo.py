"""`make demo` goes on with what was broken off, and never trips over what is finished."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "demo.sh"


@pytest.fixture
def demo(tmp_path):
    """The script with a study that only repeats its words."""
    jaxgeo = tmp_path / "jaxgeo"
    jaxgeo.write_text('#!/bin/sh\necho "$@"\n')
    jaxgeo.chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None

    def run(*settings):
        done = subprocess.run(
            [shell, SCRIPT, jaxgeo, "runs/demo", *settings], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run


def leave(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_first_demo_begins_a_run(demo):
    assert demo() == "study --out runs/demo"


def test_an_unfinished_demo_goes_on_and_a_finished_one_is_left_alone(demo, tmp_path):
    leave(tmp_path / "runs" / "demo", "config.json")
    assert demo() == "study --resume runs/demo"
    leave(tmp_path / "runs" / "demo", "report.json")
    assert demo() == "study --out runs/demo-2"
    leave(tmp_path / "runs" / "demo-2", "config.json")
    assert demo() == "study --resume runs/demo-2"


def test_settings_have_a_folder_of_their_own(demo, tmp_path):
    leave(tmp_path / "runs" / "demo", "config.json")
    assert demo("--quick") == "study --out runs/demo-quick --quick"
    leave(tmp_path / "runs" / "demo-quick", "config.json")
    assert demo("--quick") == "study --resume runs/demo-quick"
    assert demo() == "study --resume runs/demo"
    assert demo("--hmc.num-draws", "20") == "study --out runs/demo-hmc.num-draws-20 --hmc.num-draws 20"
