"""Samplers beside one another: whether any two sample the same posterior, and the speed, each by its own key."""

import json

import jax
import pytest

from benchmarks import hmc_efficiency as bench

CHAINS, DRAWS = 4, 12


def draws_of(seed, shift=0.0):
    """Independent draws of log-probabilities of 25 points, (chain draw, point, class), around one fixed function."""
    centre = jax.random.normal(jax.random.key(0), (1, 25, 3)) * (1 + shift)
    noise = jax.random.normal(jax.random.key(seed), (CHAINS * DRAWS, 25, 3))
    return jax.nn.log_softmax(2 * centre + noise)


def test_equal_samplers_stand_below_one_floor_and_another_posterior_beyond_the_bar():
    gaps = bench.gaps_in_floors({"ours": draws_of(1), "numpyro": draws_of(2), "blackjax": draws_of(3, 0.5)}, CHAINS)
    assert len(gaps) == 6
    # Independent draws: sqrt(2) / 2 of the halves' distance, here to within the luck of 25 points.
    assert all(row["in_floors"] < 1.2 for name, row in gaps.items() if name.startswith("ours numpyro"))
    assert gaps["numpyro blackjax entropy"]["in_floors"] > bench.GAP_BAR
    for row in gaps.values():
        assert row["in_floors"] == row["gap"] / row["floor"]


def measured(speeds, log_probs):
    def measure(name, problem, settings):
        return {"low_per_second": speeds[name], "median_per_second": speeds[name]}, log_probs[name]

    return measure


@pytest.mark.parametrize(
    ("speed", "shifts", "met"),
    [
        (2.0, {}, (True, True, True)),
        (1.2, {}, (False, True, True)),
        (2.0, {"ours": 0.5}, (True, False, True)),
        (2.0, {"blackjax": 0.5}, (True, False, False)),
    ],
)
def test_each_bar_can_fail_by_itself_and_all_are_in_the_whole(speed, shifts, met, monkeypatch, capsys):
    names = ("ours", "numpyro", "blackjax")
    log_probs = {name: draws_of(seed, shifts.get(name, 0.0)) for seed, name in enumerate(names, 1)}
    speeds = dict.fromkeys(names, 1.0) | {"ours": speed}
    monkeypatch.setattr(bench, "measure", measured(speeds, log_probs))
    monkeypatch.setattr(bench, "toy", lambda settings: None)
    monkeypatch.setattr(bench, "installed", lambda name: True)
    assert bench.main(["--problems", "toy", "--chains", str(CHAINS), "--draws", str(DRAWS), "--rounds", "2"]) == 0
    said = capsys.readouterr().out
    assert "toy (tanh): effective draws" in said
    assert bench.CAPTION in " ".join(said.split())  # its lines are broken anywhere
    found = json.loads(said.splitlines()[-1])
    assert tuple(found[key] for key in ("speed_met", "against_ours_met", "between_peers_met")) == met
    assert found["met"] == all(met)
    assert found["gaps"]["toy"]["numpyro blackjax entropy"]["floor"] > 0
    assert found["least"] == speed


def test_both_problems_are_run_unless_one_is_named_and_the_toy_is_of_the_asked_activation(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bench, "measure", measured({"ours": 1.0}, {"ours": draws_of(1)}))
    monkeypatch.setattr(bench, "installed", lambda name: False)
    monkeypatch.setattr(bench, "toy", lambda settings: asked.append(("toy", settings.activation)))
    monkeypatch.setattr(bench, "digits", lambda settings: asked.append("digits"))
    assert bench.main(["--activation", "relu", "--chains", str(CHAINS), "--draws", str(DRAWS)]) == 0
    assert asked == [("toy", "relu"), "digits"]
    said = capsys.readouterr().out
    assert "toy (relu)" in said
    assert json.loads(said.splitlines()[-1])["activation"] == "relu"


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_network_of_the_toy_has_that_activation(activation, monkeypatch):
    monkeypatch.setattr(bench, "_problem", lambda model, *rest: model.config.activation)
    assert bench.toy(bench.Settings(activation=activation)) == activation


def test_what_was_not_measured_is_not_met():
    lonely = bench.gaps_in_floors({"ours": draws_of(1)}, CHAINS)
    assert bench.verdict([], [lonely]) == dict.fromkeys(
        ("speed_met", "against_ours_met", "between_peers_met", "met"), False
    )
    pair = bench.gaps_in_floors({"ours": draws_of(1), "numpyro": draws_of(2)}, CHAINS)
    assert bench.verdict([2.0], [pair]) == {
        "speed_met": True, "against_ours_met": True, "between_peers_met": False, "met": False,
    }  # fmt: skip
