"""The README's code runs as it is printed, only with fewer epochs and draws."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.models.heal_swin import HealSwin, HealSwinConfig, plan_heal_swin
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.models.swin_weights import heal_swin_to_torch
from jaxgeo.torch_files import write_state_dict
from jaxgeo.training.quantisation import choose_precision

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALL = {"nside": 8, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
SHORTER = {
    "epochs=60": "epochs=1",
    "HealSwinConfig(num_classes=12)": "HealSwinConfig(num_classes=12, **SMALL)",
    "num_draws=70": "num_draws=4, num_warmup=4, warmup_leapfrogs=4, max_leapfrogs=4",
}


def run(code: str, names: dict) -> None:
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), names)  # the README is ours


@pytest.fixture
def names():
    keys = jax.random.split(jax.random.key(0), 4)
    network = HealpixClassifier(HealpixClassifierConfig())
    maps = jax.random.uniform(keys[0], (64, 768, 1))
    return {
        "maps": maps,
        "labels": jax.random.randint(keys[1], (64,), 0, 10),
        "test_maps": jax.random.uniform(keys[2], (20, 768, 1)),
        "test_labels": jax.random.randint(keys[3], (20,), 0, 10),
        "params": network.init(jax.random.key(1), maps[:1])["params"],
    }


def test_readme_has_a_start_for_each_of_five_readers():
    assert len(BLOCKS) == 5
    assert all(len(block.splitlines()) <= 13 for block in BLOCKS)


def test_members_train_and_are_held_against_hmc_as_printed(names):
    run(BLOCKS[0], names)
    assert names["state"].params["head"]["kernel"].shape == (64, 192, 10)
    with jax.numpy_rank_promotion("allow"):  # inside NumPyro
        run(BLOCKS[1], names)
    assert 0 <= names["card"]["total_variation"].value <= 1
    assert names["card"]["total_variation"].standard_error > 0


def test_a_spherical_cnn_shows_where_it_breaks_equivariance_as_printed():
    names = {"jax": jax, "images": jax.random.normal(jax.random.key(2), (1, 24, 24, 1))}
    run(BLOCKS[2], names)
    report = names["report"]
    assert report.linear_error < 2e-6  # rounding in float32
    assert report.output.accumulated.max() < 0.05  # the ReLU, sampled at twice the bandlimit


def test_a_published_checkpoint_is_read_and_applied_as_printed(tmp_path):
    config = HealSwinConfig(num_classes=12, **SMALL)
    maps = jax.random.normal(jax.random.key(0), (1, config.num_pixels, 3))
    plan = plan_heal_swin(config)
    params = HealSwin(config).init(jax.random.key(1), plan, maps)["params"]
    write_state_dict(tmp_path / "weights.safetensors", heal_swin_to_torch(config, params))
    names = {"SMALL": SMALL, "maps": maps, "checkpoint": tmp_path / "weights.safetensors"}
    run(BLOCKS[3], names)
    np.testing.assert_allclose(names["logits"], HealSwin(config).apply({"params": params}, plan, maps), atol=1e-5)


def test_a_network_climbs_to_hardware_as_printed(names, tmp_path, monkeypatch):
    config, params, maps = HealpixClassifierConfig(), names["params"], names["maps"]
    fixed = dataclasses.replace(config, precision=choose_precision(config, params, jnp.asarray(maps)))
    names["apply"] = lambda params, x: HealpixClassifier(config).apply({"params": params}, x)
    names["fixed_apply"] = lambda params, x: HealpixClassifier(fixed).apply({"params": params}, x)
    names["maps"] = np.asarray(maps)
    monkeypatch.chdir(tmp_path)
    run(BLOCKS[4], names)
    rungs = {rung.name: rung for rung in names["ladder"].rungs}
    assert rungs["Keras"].equal_share == 1.0
    assert rungs["hls4ml C++"].equal_share == 1.0
