"""The toy as a command: its claim is counted as it says, and what is finished is not done again."""

import json

import pytest

from benchmarks.papers import stochastic_ensembles as toy
from jaxgeo.errors import ConfigError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.metrics.uncertainty_gap import UncertaintyGap

TINY = {
    "members": 4, "epochs": 2, "train_points": 100, "batch_size": 50, "domain_points": 20, "chains": 2, "warmup": 2,
    "draws": 4, "max_leapfrogs": 4,
}  # fmt: skip


def gap(entropy, information, error=0.01):
    return UncertaintyGap(Measure(entropy, error), Measure(information, error))


def test_nearer_and_farther_need_two_standard_errors():
    titles = dict.fromkeys(("deep_ensemble", "mc_dropout"), "")
    rows = [
        {"deep_ensemble": gap(0.5, 0.5), "mc_dropout": gap(0.4, 0.51)},  # nearer in entropy, open in information
        {"deep_ensemble": gap(0.5, 0.5), "mc_dropout": gap(0.6, 0.53)},  # farther in both: 0.03 is above 0.0283
    ]
    words, counts = toy.claims(rows, titles)
    assert counts["mc_dropout entropy"] == {"nearer": 1, "farther": 1, "open": 0}
    assert counts["mc_dropout mutual_information"] == {"nearer": 0, "farther": 1, "open": 1}
    assert "confirmed" in words
    assert "in 1 of 4" in words
    assert "refuted" in toy.claims(rows[1:], titles)[0]


def test_a_tiny_run_is_whole_and_is_read_when_it_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy, "_LINES", 5)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    words = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["--out", str(tmp_path), *words]
    assert toy.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["domain"] for row in found["domains"]] == list(range(10))
    assert found["domains"][3]["drop_connect"]["entropy"]["standard_error"] > 0
    for name in ("report.md", "report.json", "entropy.png", "mutual_information.png"):
        assert (tmp_path / name).stat().st_size > 0

    def not_again(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(toy.long_runs, "train_ensemble", not_again)
    assert toy.main(command) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {key: again[key] for key in ("domains", "hmc")} == {key: found[key] for key in ("domains", "hmc")}
    assert toy.main([*command, "--seed", "1"]) == 1
    assert "was begun with seed = 0, not 1" in capsys.readouterr().err


def test_too_few_members_for_an_error_are_refused():
    with pytest.raises(ConfigError, match="at least 2 members, 2 chains and 4 draws of each, got 1, 8 and 200"):
        toy.ToyConfig(members=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rate", "nan"], "learning_rate must be positive and finite, got nan"),
        (["--dropout-rate", "1"], "got 1.0"),
        (["--warmup", "-1"], "num_warmup of at least 0, got -1"),
    ],
)
def test_impossible_settings_are_one_sentence_and_leave_nothing_behind(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # the devices of a process that runs already cannot be changed
    assert toy.main(["--out", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
