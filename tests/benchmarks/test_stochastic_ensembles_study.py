"""The toy as a command: its claim is judged as it says, and what is finished is not done again."""

import dataclasses
import json
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import unchecked

from benchmarks.papers import stochastic_ensembles as toy
from benchmarks.papers.stochastic_ensembles_families import ToyConfig, families, make_problem
from benchmarks.papers.stochastic_ensembles_verdict import FLOOR as ABOUT_THE_FLOOR
from benchmarks.papers.stochastic_ensembles_verdict import judge
from jaxgeo import files
from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import drop_rows, drop_weights
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.metrics.uncertainty_gap import UncertaintyGap

TINY = {
    "members": 4, "epochs": 2, "train_points": 100, "batch_size": 50, "domain_points": 20, "chains": 2, "warmup": 2,
    "draws": 4, "max_leapfrogs": 4,
}  # fmt: skip


TITLES = {"mc_dropout": "MC dropout", "drop_connect": "DropConnect", "non_parametric_dropout": "non-parametric dropout"}
FLOOR = 0.02


def gap(entropy, information, error=0.01):
    return UncertaintyGap(Measure(float(entropy), error), Measure(float(information), error))


def run_of(rng, shift=0.0, floor=FLOOR):
    """Ten domains of differences: noise of their stated error around a shift of MC dropout's entropy."""
    rows = [
        {name: gap(*rng.normal((shift if name == "mc_dropout" else 0.0, 0.0), 0.01)) for name in TITLES}
        for _ in range(10)
    ]
    return judge(rows, [gap(floor, floor, 0.003)] * 10, TITLES)


def test_equal_families_are_seldom_found_to_differ_and_never_by_more_than_the_floor():
    rng = np.random.default_rng(0)
    verdicts = [run_of(rng) for _ in range(300)]
    by_errors = [
        sum(count["nearer_without_floor"] + count["farther_without_floor"] for count in verdict.counts.values()) > 0
        for verdict in verdicts
    ]
    # 300 tosses at 5 % have a standard deviation of 1.3 %: three of that.
    assert np.mean(by_errors) < 0.05 + 0.04
    assert not any("confirmed" in verdict.sentence for verdict in verdicts)
    # Nor does a floor of zero make more of them pass than the level allows.
    assert np.mean(["confirmed" in run_of(rng, floor=0.0).sentence for _ in range(300)]) < 0.05 + 0.04


def test_a_family_that_is_nearer_by_more_than_the_floor_is_found_and_named():
    rng = np.random.default_rng(1)
    verdict = run_of(rng, shift=0.12)
    # Ten errors away, of which the floor takes two: Holm asks for 3.3 of hypot(0.01, 0.003).
    assert verdict.counts["mc_dropout entropy"]["nearer"] == 10
    assert "is confirmed here: of 60 differences" in verdict.sentence
    assert "MC dropout: entropy 10/0/0, mutual information 0/0/10" in verdict.sentence
    away = run_of(rng, shift=-0.12)
    assert away.counts["mc_dropout entropy"] == {
        "nearer": 0, "farther": 10, "open": 0,
        "nearer_without_floor": 0, "farther_without_floor": 10, "open_without_floor": 0,
    }  # fmt: skip
    assert "is refuted here" in away.sentence


def test_nearer_by_less_than_the_floor_leaves_the_claim_open():
    rows = [{"mc_dropout": gap(0.019, -0.019, 0.001)}]
    verdict = judge(rows, [gap(FLOOR, FLOOR)], {"mc_dropout": "MC dropout"})
    assert [row["outcome"] for row in verdict.comparisons] == ["open", "open"]
    assert [row["outcome_without_floor"] for row in verdict.comparisons] == ["nearer", "farther"]
    assert "is open here" in verdict.sentence
    # A floor from one split of two chains, whose error nobody knows, asks for more.
    bold = [{"mc_dropout": gap(0.09, 0.0, 0.001)}]
    for error, outcome in ((0.003, "nearer"), (None, "open")):
        floor = UncertaintyGap(*[Measure(0.04, error)] * 2)
        assert judge(bold, [floor], {"mc_dropout": ""}).comparisons[0]["outcome"] == outcome


def test_a_tiny_run_is_whole_and_is_read_when_it_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy, "_LINES", 5)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    words = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["--out", str(tmp_path), *words]
    assert toy.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["domain"] for row in found["domains"]] == list(range(10))
    row = found["domains"][3]
    assert row["drop_connect"]["entropy"]["standard_error"] > 0
    values = [row[name]["entropy"]["value"] for name in ("deep_ensemble", "drop_connect")]
    difference = row["nearer_than_deep_ensemble"]["drop_connect"]["entropy"]["value"]
    assert difference == pytest.approx(values[0] - values[1], abs=1e-6)  # float32 of values below 1
    assert len(found["comparisons"]) == 60
    page = (tmp_path / "report.md").read_text()
    for said in (found["claim"], ABOUT_THE_FLOOR):
        assert said in page
    written = page.split("`")[1].split()  # the command that writes the page: all that is not the default
    assert written[:3] == ["python", "-m", "benchmarks.papers.stochastic_ensembles"]
    assert sorted(written[3:]) == sorted(words)
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


def test_sigterm_ends_a_run_with_its_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setattr(toy, "train", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert toy.main(["--out", str(tmp_path)]) == 143
    assert capsys.readouterr().err.endswith("the same command goes on from there\n")


def draws_and_gradient(config, name):
    """Which weights a family's draws change at all, and the gradient of its objective's squares at ones."""
    problem = make_problem(config)
    family = families(config, problem)[name]
    ones = jax.tree.map(jnp.ones_like, problem.init(jax.random.key(0)))
    drawn = family.draw(jax.random.key(1), jax.tree.map(lambda leaf: jnp.ones((64, *leaf.shape)), ones))
    data = jnp.asarray(problem.points[:10]), jnp.asarray(problem.labels[:10])

    def squares(params):
        key = jax.random.key(2)
        if name == "mc_dropout":
            network = drop_rows(key, params, config.rows)
        else:
            network = drop_weights(key, params, config.weights)
        likelihood = jnp.mean(problem.log_joint.log_likelihoods_of_examples(network, *data))
        return config.train_points * (family.objective(params, key, *data) + likelihood)

    gradient = jax.tree.map(lambda leaf: float(leaf.ravel()[0]), jax.grad(squares)(ones))
    return jax.tree.map(lambda leaf: bool((leaf != 1).any()), drawn), gradient


EVERY_KERNEL = {name: {"kernel": True, "bias": False} for name in ("hidden_0", "hidden_1", "output")}


@pytest.mark.parametrize(
    ("name", "dropped", "changed"),
    [
        ("mc_dropout", "everything", {"hidden_0": {"kernel": False, "bias": False}}),
        ("mc_dropout", "published", {n: {"kernel": False, "bias": False} for n in ("hidden_0", "hidden_1")}),
        ("drop_connect", "everything", {}),
        (
            "drop_connect",
            "published",
            {n: {"kernel": n == "hidden_1", "bias": n == "hidden_1"} for n in ("hidden_0", "hidden_1", "output")},
        ),
    ],
)
def test_families_drop_and_weigh_as_asked(name, dropped, changed):
    for divergence, factor in (("exact", 1 / 0.9), ("published", 0.9)):
        config = ToyConfig(train_points=50, batch_size=10, dropped=dropped, divergence=divergence)
        found, gradient = draws_and_gradient(config, name)
        assert found == EVERY_KERNEL | changed
        expected = jax.tree.map(lambda drops, factor=factor: factor if drops else 1.0, found)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4), gradient, expected
        )  # float32


def test_what_is_unknown_is_refused():
    for name in ("divergence", "dropped"):
        wrong: dict[str, Any] = {name: "both"}
        with pytest.raises(ConfigError, match=f"{name} must be one of .*, got 'both'"):
            unchecked(ToyConfig)(**wrong)


def test_folders_of_before_have_what_was_the_only_way(tmp_path):
    toy.open_run(tmp_path, ToyConfig())
    settings = files.read_json(tmp_path / "config.json")
    del settings["divergence"], settings["dropped"]
    files.write_json_atomically(tmp_path / "config.json", settings)
    toy.open_run(tmp_path, ToyConfig())
    with pytest.raises(ConfigError, match="was begun with dropped = 'everything', not 'published'"):
        toy.open_run(tmp_path, dataclasses.replace(ToyConfig(), dropped="published"))


def test_too_few_members_for_an_error_are_refused():
    with pytest.raises(ConfigError, match="at least 2 members, 2 chains and 4 draws of each, got 1, 8 and 200"):
        ToyConfig(members=1)


@pytest.mark.parametrize(
    ("members", "groups"), [(2, 2), (25, 25), (64, 64), (99, 33), (100, 50), (134, 2), (1000, 50), (1024, 64)]
)
def test_members_fall_into_as_many_groups_as_their_divisors_allow(members, groups):
    assert ToyConfig(members=members).member_groups == groups


@pytest.mark.parametrize("members", [67, 127, 67 * 71])
def test_members_that_fall_into_no_groups_are_refused(members):
    with pytest.raises(ConfigError, match=f"{members} has no divisor there; {members - 1} and {members + 1} members"):
        ToyConfig(members=members)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rate", "nan"], "learning_rate must be a finite number, got nan"),
        (["--dropout-rate", "1"], "got 1.0"),
        (["--warmup", "-1"], "at least 0, got -1"),
        (["--train-points", "0"], "train_points must be a whole number of at least 1, got 0"),
        (["--domain-points", "0"], "domain_points must be a whole number of at least 1, got 0"),
        (["--seed", "-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["--batch-size", "5000"], "batch_size 5000 is larger than the 2000"),
    ],
)
def test_impossible_settings_are_one_sentence_and_leave_nothing_behind(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # the devices of a process that runs already cannot be changed
    assert toy.main(["--out", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
