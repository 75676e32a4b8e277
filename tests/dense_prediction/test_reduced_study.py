"""The whole reduced study of HEAL-SWIN, on tiny networks, streets and a tiny globe."""

import dataclasses
import json

import pytest
from tiny_runs import NSIDE, SCENES, TINY

from benchmarks.papers import heal_swin as study
from jaxgeo.dense_prediction.presets import earth_config, scenes_config


def _tiny(config, data):
    kept = ("pixel_width", "absolute_position", "patch_norm")
    network = dataclasses.replace(TINY, shift_size=1, **{name: getattr(config.network, name) for name in kept})
    return dataclasses.replace(config, data=data, network=dataclasses.replace(network, shift=config.network.shift))


@pytest.mark.parametrize("part", study.SIZES["reduced"])
@pytest.mark.usefixtures("earth")
def test_a_part_of_the_study_trains_judges_and_draws_all_its_networks(tmp_path, monkeypatch, capsys, part):
    globe = dataclasses.replace(earth_config().data, nside=NSIDE)
    monkeypatch.setattr(study, "scenes_config", lambda: _tiny(scenes_config(), SCENES))
    monkeypatch.setattr(study, "earth_config", lambda: _tiny(earth_config(), globe))
    monkeypatch.setattr(study, "TREES", 2)
    argv = ["--parts", part, "--seeds", "2", "--scale", "1e-6", "--workers", "1", "--out", str(tmp_path / "study")]
    assert study.main(argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])[part]["summary"]
    spaces = ("heal_swin sphere", "heal_swin sphere_to_flat", "swin flat_masked", "swin flat_to_sphere")
    scores = {f"{space} {score}" for space in spaces for score in ("pixel_miou", "area_miou")}
    forests = {"forest", "forest_with_latitude"}
    judged = {"heal_swin"} | forests | {f"gain over {name}" for name in forests}
    assert set(summary) == (scores if part == "scenes" else judged)
    assert all(-100 <= score["min"] <= score["mean"] <= score["max"] <= 100 for score in summary.values())
    assert {"report.md", "report.json", f"{part}.png"} <= {path.name for path in (tmp_path / "study").iterdir()}
