"""Every command explains itself, and each mistake is one sentence on stderr and exit status 1."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys

import pytest

from jaxgeo import cli
from jaxgeo.config_files import from_dict
from jaxgeo.interrupts import Terminated
from jaxgeo.progress import BarProgress, LineProgress, SilentProgress, progress_for
from jaxgeo.study import command, pipeline
from jaxgeo.study.config import StudyConfig, quick_study
from jaxgeo.study.run_folder import RunFolder


def helped(capsys, *words):
    """What a page of help says, without frames; lines are broken anywhere."""
    with contextlib.suppress(SystemExit):
        assert cli.main([*words, "--help"]) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([*command.split(), "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: jaxgeo {command} " in said
    assert cli.COMMANDS[command][0].split(",")[0].rstrip(".") in " ".join(said.split())


def test_the_list_of_commands_is_whole_and_says_what_each_does(capsys):
    assert {"study", "config", *pipeline.STAGE_NAMES, "launch", "predict"} < set(cli.COMMANDS)
    said = helped(capsys)
    assert [name for name, (does, _) in cli.COMMANDS.items() if f"{name} {does}" not in said] == []


@pytest.mark.parametrize("first", ["train", "evaluate"])
def test_the_first_of_two_words_names_the_second(first, capsys):
    assert f"{first} heal-swin " + cli.COMMANDS[f"{first} heal-swin"][0] in helped(capsys, first)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate"], "no command is called 'evaluate'; near it: evaluate heal-swin"),
        (["evaluate", "runs/x"], "no command is called 'evaluate runs/x'; near it: evaluate heal-swin"),
        (["stuby", "--quick"], "near it: study"),
        (["quantise"], "there are study, config, "),
        ([], "which command? There are study, config, "),
    ],
)
def test_an_unknown_command_is_one_sentence_with_those_near_it(words, said, capsys):
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["study", "project", "train heal-swin", "evaluate heal-swin"])
def test_a_flag_that_switches_off_stands_beside_the_one_that_its_text_describes(command, capsys):
    said = helped(capsys, *command.split())
    off = re.findall(r"--([a-z.-]*)\bno-([a-z0-9-]+)", said)
    assert off
    assert [name for part, name in off if f"--{part}{name}, --{part}no-{name}" not in said] == []


def test_help_loads_no_jax():
    script = (
        "import sys, contextlib; from jaxgeo import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_printed_configuration_can_be_read_back(capsys):
    assert cli.main(["config", "--quick"]) == 0
    assert from_dict(StudyConfig, json.loads(capsys.readouterr().out)) == quick_study()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ensemble.members", "0"], "ensemble.members must be a number of at least 1"),
        (["--hmc.num-chains", "0"], "hmc.num_chains must be a number of at least 1"),
        (["--data.nside", "12"], "data.nside must be a power of two"),
        (["--data.test-images", "9"], "each of the 10 classes needs a test image"),
        (["--data.source", "mnist"], "mnist/train-images-idx3-ubyte.gz (or the same without .gz), which is not there"),
        (["--resume", "{tmp}/missing"], "is no folder"),
        (["--resume", "{tmp}"], "is not a run of jaxgeo"),
        (["--config", "{tmp}/missing.json"], "cannot be read"),
        (["--quick", "--config=x.json"], "give one of them"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_one(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path))
    words = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    out = [] if "--resume" in words else ["--out", str(tmp_path / "run")]
    assert cli.main(["study", *words, *out]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "run").exists()


def test_a_stage_out_of_order_says_what_comes_first(tmp_path, capsys):
    RunFolder.create(tmp_path / "run", StudyConfig()).close()
    assert cli.main(["train", str(tmp_path / "run")]) == 1
    assert f"first run: jaxgeo project {tmp_path / 'run'}" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_study_says_how_to_go_on(error, status, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise error

    monkeypatch.setattr(command, "run_study", stop)
    assert cli.main(["study", "--out", str(tmp_path / "run")]) == status
    assert f"go on with: jaxgeo study --resume {tmp_path / 'run'}" in capsys.readouterr().err


def test_sigterm_is_handled_only_while_a_command_runs(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["config"]) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_lines_of_progress_are_few_and_the_last_one_is_there():
    stream = io.StringIO()
    progress = LineProgress(stream, every_s=1e9)
    bar = progress.bar("train", "epochs")
    for done in range(101):
        bar(done, 100, {"loss": 1 / (done + 1)})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("  train: 100/100 epochs")
    assert lines[0].endswith("loss 0.009901")


@pytest.mark.parametrize("progress", [SilentProgress(), BarProgress()])
def test_every_kind_of_progress_takes_the_same_calls(progress):
    progress.stage("train", "networks")
    bar = progress.bar("ensemble", "epochs")
    bar(1, 2, {"loss": 1.0})
    bar(2, 2, {})
    progress.note("done")
    assert isinstance(progress_for(io.StringIO()), LineProgress)
