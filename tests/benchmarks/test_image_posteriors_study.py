"""The study of all families: the contract is all it uses, images are as told, and a finished run is only read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from benchmarks.papers import image_posterior_families as parts
from benchmarks.papers import image_posterior_pages as pages
from benchmarks.papers import image_posterior_sets as sets
from benchmarks.papers import image_posteriors as study
from benchmarks.papers import langevin_steps
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
    found = sets.coarse(images).reshape(2, 7, 7)
    np.testing.assert_allclose(found[1, 2, 5], images[1, 8:12, 20:24].mean(), rtol=1e-6)  # float32
    small = images[:, :8, :8]
    np.testing.assert_array_equal(sets.coarse(small), small.reshape(2, 64))
    # 8 pixels become 7: the second covers six sevenths of pixel 1 and two of pixel 2; in all, the light stays.
    found = sets.coarse(small, 7).reshape(2, 7, 7)
    weights = np.array([6, 2]) / 8
    np.testing.assert_allclose(found[0, 1, 1], weights @ small[0, 1:3, 1:3] @ weights, rtol=1e-6)  # float32
    np.testing.assert_allclose(found.mean(axis=(1, 2)), small.mean(axis=(1, 2)), rtol=1e-6)


def test_every_other_set_that_is_there_is_outside(tmp_path):
    def idx(values):
        header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        return header + values.astype(np.uint8).tobytes()

    for name in ("mnist", "fashion-mnist"):
        (tmp_path / name).mkdir()
        for part in ("train", "t10k"):
            (tmp_path / name / f"{part}-images-idx3-ubyte").write_bytes(idx(np.full((20, 28, 28), 51)))
            (tmp_path / name / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(20) % 10))
    grey = np.full((32, 32, 3, 12), 102, np.uint8)
    (tmp_path / "svhn").mkdir()
    scipy.io.savemat(tmp_path / "svhn" / "test_32x32.mat", {"X": grey, "y": np.arange(1, 13)[:, None] % 10 + 1})
    found = sets.outside_sets("fashion_mnist", 7, tmp_path, 0, 15)
    assert {name: images.shape for name, images in found.items()} == {
        "MNIST": (15, 49), "digits": (15, 49), "SVHN": (12, 49)
    }  # fmt: skip
    np.testing.assert_allclose(found["MNIST"], 0.2, rtol=1e-6)  # float32
    np.testing.assert_allclose(found["SVHN"], 0.4, rtol=1e-6)
    assert set(sets.outside_sets("sklearn", 8, tmp_path, 0, 15)) == {"MNIST", "FashionMNIST", "SVHN"}
    assert set(sets.outside_sets("fashion_mnist", 7, tmp_path / "none", 0, 15)) == {"digits"}


def test_networks_of_each_member_lie_together():
    posterior = deep_ensemble(lambda key: {"w": jax.random.normal(key, (3,))}, 4)
    drawn = parts.networks_of_each(posterior, 5)(jax.random.key(0))["w"].reshape(4, 5, 3)
    np.testing.assert_array_equal(drawn, jnp.broadcast_to(drawn[:, :1], drawn.shape))
    assert len(np.unique(drawn[:, 0], axis=0)) == 4


def test_a_tiny_run_is_whole_and_is_read_when_it_is_there(tmp_path, capsys, monkeypatch):
    words = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["--out", str(tmp_path), *words]
    # One family, with as many networks and groups as HMC has draws and chains, and one of the linearised network.
    whole = parts.families
    chosen = ("mc_dropout", "linearised_diagonal_laplace")
    monkeypatch.setattr(study, "families", lambda *arguments: {n: whole(*arguments)[n] for n in chosen})
    assert study.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["methods"]) == {"hmc", *chosen}
    row = found["methods"]["mc_dropout"]
    assert row["networks"] == 8
    assert 0 <= row["total_variation"]["value"] <= 1
    assert row["outside"]["permuted pixels"]["mutual_information"]["standard_error"] >= 0
    assert "total_variation" not in found["methods"]["hmc"]
    # Each distance has its floor, in the report and below its column.
    assert set(found["floor"]) == set(pages.DISTANCES) <= set(row)
    assert found["floor"]["divergence_from_reference"]["value"] > 0
    for name in ("report.md", "report.json", *pages.PICTURES):
        assert (tmp_path / name).stat().st_size > 0
    text = (tmp_path / "report.md").read_text()
    heads, *_, floor = next(
        part for part in text.split("\n\n") if part.startswith("| method | " + next(iter(pages.DISTANCES.values())))
    ).splitlines()
    column = heads.split(" | ").index(pages.DISTANCES["divergence_from_reference"])
    shown = floor.strip("|").split(" | ")[column].split(" ± ")[0]
    assert float(shown) == pytest.approx(found["floor"]["divergence_from_reference"]["value"], abs=5e-4)  # three digits
    assert all(f"]({name}): " in text for name in pages.PICTURES)
    assert {"hmc_trace.png", "hmc_rank.png", "hmc_energy.png"} <= set(pages.PICTURES)
    # SGHMC takes as much more careful steps as its gradients' noise and curvature weigh more (see langevin_step).
    ends = found["langevin"]
    assert 0 < ends["steps"]["sghmc"] < ends["steps"]["sgld"] < 4 / ends["curvature"]

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
    (tmp_path / "hmc.safetensors").unlink()  # as if killed before it was written: the chains lie beside it, whole
    own_key = jax.random.fold_in(jax.random.key(config.seed), 0)
    gone_on = study.sample(tmp_path, config, parts.make_problem(config), own_key, not_again)
    assert gone_on["seconds"] == again["seconds"]
    np.testing.assert_array_equal(gone_on["trace"].position, again["trace"].position)
    assert study.main([*command, "--seed", "1"]) == 1
    assert "was begun with seed = 0, not 1" in capsys.readouterr().err


def test_a_scan_of_steps_needs_images_to_learn_and_images_to_judge(capsys):
    assert langevin_steps.main(["--held-out", "1500"]) == 1
    assert "between 1 and 1499 of the training images can be held out, got 1500" in capsys.readouterr().err


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
        (["--inflation", "0"], "inflation must be a finite number above 0, got 0.0"),
        (["--draws", "0"], "draws must be at least 1, got 0"),
        (["--batch-size", "4000"], "batch_size 4000 is larger than"),
        (["--quick", "--seed", "-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["--test-images", "0"], "test_images must be at least 1, got 0"),
        (["--width", "0"], "features must be a tuple, each a whole number of at least 1, got (0"),
    ],
)
def test_impossible_settings_are_one_sentence_and_leave_nothing_behind(words, said, tmp_path, capsys):
    assert study.main(["--out", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
