"""The speed benchmark of HEAL-SWIN tells want of memory, errors and absence apart, whatever its processes do."""

import json
import sys

import pytest

from benchmarks import heal_swin
from benchmarks.heal_swin import main
from benchmarks.turns import Candidate, wants_memory

ANSWERS = """
import json, sys
print(json.dumps({"plan_s": 0.1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": SECONDS, "peak_gib": 2.0, "found": None}), flush=True)
"""
ENDS = {
    "killed": ("import os; os.kill(os.getpid(), 9)", "out of memory"),
    "said so": ("raise SystemExit(75)", "out of memory"),
    "error": ("raise ModuleNotFoundError('no einops')", "failed with status 1: Traceback"),
    "other signal": ("import os; os.kill(os.getpid(), 11)", "failed with status -11: it said nothing"),
}


def command(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(("code", "fate"), ENDS.values(), ids=ENDS)
def test_only_a_kill_or_a_child_that_says_so_is_want_of_memory(code, fate):
    candidate = Candidate("peer", command(code))
    assert candidate.time("forward") is None
    candidate.close()
    assert candidate.fate.startswith(fate)
    assert ("no einops" in candidate.fate) == ("einops" in code)


def test_errors_of_memory_are_known_by_their_kind_or_words():
    assert wants_memory(MemoryError())
    assert wants_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte"))
    assert wants_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"))
    assert not wants_memory(ImportError("einops"))
    assert not wants_memory(RuntimeError("the weights do not match"))


def run(monkeypatch, capsys, codes, *argv):
    """Status, the JSON object of the last line, and stderr of a run whose processes are these."""
    codes = {"weights": ""} | codes
    monkeypatch.setattr(heal_swin, "command_of", lambda name, *rest: command(codes[name]))
    monkeypatch.setattr(heal_swin, "pin", lambda cores: None)
    status = main(["--nside", "128", "--workloads", "forward", "--rounds", "2", *argv])
    said = capsys.readouterr()
    return status, json.loads(said.out.splitlines()[-1]), said


def answering(seconds):
    return ANSWERS.replace("SECONDS", str(seconds))


def test_a_peer_that_is_not_given_is_not_measured_and_its_bars_are_not_judged(monkeypatch, capsys):
    codes = {"ours": answering(2.0), "heal-swin": answering(3.0)}
    status, found, said = run(monkeypatch, capsys, codes, "--peer", ".")
    (row,), bars = found["sizes"][0]["rows"], found["sizes"][0]["bars"]
    assert status == 0
    assert found["failures"] == []
    assert row["peers"]["heal-swin"]["ratio"] == 1.5
    assert bars["forward, heal-swin"] == {"ratio": 1.5, "bar": 1.3, "at_most": False, "met": True}
    assert row["peers"]["heal-swin-nnx"]["note"] == "not measured"
    assert bars["forward, heal-swin-nnx"]["met"] is None
    assert bars["forward, memory beside heal-swin-nnx"]["met"] is None
    assert "not measured" in said.out


@pytest.mark.parametrize(
    ("codes", "failures", "status"),
    [
        ({"ours": answering(1.0), "heal-swin": ENDS["killed"][0]}, [], 0),
        ({"ours": answering(1.0), "heal-swin": ENDS["error"][0]}, ["heal-swin, forward at nside 128: failed"], 1),
        ({"ours": ENDS["error"][0], "heal-swin": answering(1.0)}, ["ours, forward at nside 128: failed"], 1),
        ({"ours": ENDS["killed"][0], "heal-swin": answering(1.0)}, ["ours, forward at nside 128: out of memory"], 1),
        ({"weights": "raise SystemExit(3)"}, ["weights at nside 128: failed with status 3"], 1),
    ],
)
def test_errors_end_with_status_one_and_the_figures_still_come(monkeypatch, capsys, codes, failures, status):
    ended, found, said = run(monkeypatch, capsys, codes, "--peer", ".")
    assert ended == status
    assert len(found["failures"]) == len(failures)
    for one, start in zip(found["failures"], failures, strict=True):
        assert one.startswith(start)
        assert f"error: {start}" in said.err
    for size in found["sizes"]:
        assert size["bars"]["forward, heal-swin"]["met"] is None


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--cores", "0"], ["--peer", "/nowhere"], ["--nnx", __file__]])
def test_impossible_arguments_end_with_status_two(argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2


def test_help_says_what_the_original_needs_and_that_the_gpu_is_untried(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "pip install torch einops" in said
    assert "untried" in said
