"""The study of all families: the contract is all it uses, images are as told, and a finished run is only read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import image_posterior_families as parts
from benchmarks.papers import image_posteriors as study
from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.base import num_stacked
from jaxgeo.posteriors.deep_ensemble import deep_ensemble

TINY = {
    "source": "sklearn", "images": 100, "test_images": 50, "width": 3, "members": 2, "draws": 4, "gaussian_members": 2,
    "gaussian_draws": 2, "epochs": 1, "batch_size": 50, "snapshots": 2, "cycles": 1, "cycle_epochs": 10, "walkers": 2,
    "walker_draws": 2, "walker_steps": 1, "chains": 2, "warmup": 2, "hmc_draws": 4, "max_leapfrogs": 4,
}  # fmt: skip


def test_coarse_pixels_are_means_of_blocks():
    images = np.random.default_rng(0).random((2, 28, 28)).astype(np.float32)
    found = parts.coarse(images).reshape(2, 7, 7)
    np.testing.assert_allclose(found[1, 2, 5], images[1, 8:12, 20:24].mean(), rtol=1e-6)  # float32
    small = images[:, :8, :8]
    np.testing.assert_array_equal(parts.coarse(small), small.reshape(2, 64))


def test_networks_of_each_member_lie_together():
    posterior = deep_ensemble(lambda key: {"w": jax.random.normal(key, (3,))}, 4)
    drawn = parts.networks_of_each(posterior, 5)(jax.random.key(0))["w"].reshape(4, 5, 3)
    np.testing.assert_array_equal(drawn, jnp.broadcast_to(drawn[:, :1], drawn.shape))
    assert len(np.unique(drawn[:, 0], axis=0)) == 4


def test_a_tiny_run_is_whole_and_is_read_when_it_is_there(tmp_path, capsys, monkeypatch):
    words = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["--out", str(tmp_path), *words]
    # One family, with as many networks and groups as HMC has draws and chains: nothing is compiled twice.
    whole = parts.families
    monkeypatch.setattr(study, "families", lambda *arguments: {"mc_dropout": whole(*arguments)["mc_dropout"]})
    assert study.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["methods"]) == {"hmc", "mc_dropout"}
    row = found["methods"]["mc_dropout"]
    assert row["networks"] == 8
    assert 0 <= row["total_variation"]["value"] <= 1
    assert row["outside"]["permuted pixels"]["mutual_information"]["standard_error"] >= 0
    assert "total_variation" not in found["methods"]["hmc"]
    for name in ("report.md", "report.json", "cost.png", "reliability.png", "chains.png"):
        assert (tmp_path / name).stat().st_size > 0

    def not_again(*_):
        raise AssertionError("made again")

    key, family = jax.random.key(0), parts.Family("", 2, not_again)
    networks, seconds = study.made(tmp_path, "mc_dropout", family, key)
    assert num_stacked(networks) == 8
    assert seconds == found["cpu_seconds"]["mc_dropout"]
    monkeypatch.setattr(study, "trainer", not_again)  # HMC is read too
    config = parts.ImageConfig(**TINY)
    again = study.sample(tmp_path, config, parts.make_problem(config), key, not_again)
    assert again["seconds"] == found["cpu_seconds"]["hmc"]
    assert study.main([*command, "--seed", "1"]) == 1
    assert "was begun with seed = 0, not 1" in capsys.readouterr().err


def test_other_images_of_the_same_settings_are_refused(tmp_path):
    config = parts.ImageConfig(**TINY)
    problem = parts.make_problem(config)
    study.open_run(tmp_path, config, problem)
    study.open_run(tmp_path, config, problem)
    with pytest.raises(ConfigError, match="was begun with images of SHA-256"):
        study.open_run(tmp_path, config, problem._replace(labels=problem.labels[::-1]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--members", "1"], "at least 2 members of every kind"),
        (["--dropout-rate", "1"], "got 1.0"),
        (["--draws", "0"], "draws must be at least 1, got 0"),
        (["--batch-size", "4000"], "batch_size 4000 is larger than"),
    ],
)
def test_impossible_settings_are_one_sentence_and_leave_nothing_behind(words, said, tmp_path, capsys):
    assert study.main(["--out", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
