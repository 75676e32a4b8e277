"""The commands `estimate` and `report`: what they print and draw, and what they refuse."""

import dataclasses
import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from fpga_bridge import cli
from fpga_bridge.estimates import summary
from jaxgeo.files import save_tree
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig
from jaxgeo.models.mlp import Mlp, MlpConfig

FORMAT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
LAYER = LinearPrecision(FORMAT, FORMAT, FORMAT)
CONFIG = HealpixClassifierConfig(4, 2, 1, (3,), (4,), ClassifierPrecision(FORMAT, (LAYER, LAYER)))
UTILISATION = """
|          Site Type         |  Used  | Fixed | Available | Util% |
| CLB LUTs*                  | 123948 |     0 |   1728000 |  7.17 |
| CLB Registers              |  43435 |     0 |   3456000 |  1.26 |
| Block RAM Tile             |   42.5 |     0 |      2688 |  1.56 |
| DSPs                       |   5386 |     0 |     12288 | 43.83 |
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    config, params = folder / "config.json", folder / "params.safetensors"
    config.write_text(json.dumps(dataclasses.asdict(CONFIG)))
    shapes = jax.eval_shape(HealpixClassifier(CONFIG).init, jax.random.key(0), jnp.zeros((1, 48, 1), jnp.float32))
    rng = np.random.default_rng(0)
    save_tree(params, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"]))
    return str(config), str(params)


def test_the_estimate_of_a_network_is_printed_and_drawn(files, tmp_path, capsys):
    assert cli.main(["estimate", *files, "--board", "zcu102", "--pictures", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "conv_0_dense" in printed
    assert "of xczu9eg" in printed
    assert "assumed" not in printed  # the classifier states its formats
    for name in ("timeline.png", "resources.png"):
        assert imread(tmp_path / "new" / name).std() > 0.05  # not a blank page
    for bad, message in (
        (["--layer-reuse", "3"], "takes NAME=FACTOR"),
        (["--part", "none"], "no part is called 'none'"),
        (["--part", "xcu250", "--board", "zcu102"], "board 'zcu102' has its own part"),
    ):
        assert cli.main(["estimate", *files, *bad]) == 1
        assert message in capsys.readouterr().err


def test_a_full_disk_leaves_the_former_picture(files, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "timeline.png").write_bytes(b"former")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        assert cli.main(["estimate", *files, "--pictures", str(tmp_path)]) == 1
    assert "no space left to write" in capsys.readouterr().err
    assert (tmp_path / "timeline.png").read_bytes() == b"former"
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.png"]


def test_what_is_assumed_or_not_searched_is_said(tmp_path, capsys, monkeypatch):
    config = MlpConfig(4, (5,), 3)
    (tmp_path / "mlp.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config)}))
    variables = Mlp(config).init(jax.random.key(0), jnp.zeros((1, 4)))
    save_tree(tmp_path / "mlp.safetensors", jax.tree.map(np.asarray, variables["params"]))
    network = ["estimate", str(tmp_path / "mlp.json"), str(tmp_path / "mlp.safetensors")]
    assert cli.main(network) == 0
    printed = capsys.readouterr().out
    assert "note: the network does not state all of its formats, so 16 bits are assumed" in printed
    assert "not sought" not in printed

    def never(design):
        raise AssertionError("no search in a network that is too large for it")

    monkeypatch.setattr(summary, "minimal_depths", never)
    monkeypatch.setattr(summary, "_STEPS", 1)
    assert cli.main([*network, "--formats", "ap_fixed<8,3>"]) == 0
    printed = capsys.readouterr().out
    assert "not sought" in printed
    assert "assumed" not in printed


def test_reports_are_printed_alone_or_beside_the_estimate(files, tmp_path, capsys):
    path = tmp_path / "vivado_synth.rpt"
    path.write_text(UTILISATION)
    assert cli.main(["report", str(path)]) == 0
    alone = capsys.readouterr().out
    assert "123948" in alone
    assert "estimate" not in alone
    assert cli.main(["report", str(path), "--network", *files]) == 0
    assert "estimate" in capsys.readouterr().out
    path.write_text("")
    assert cli.main(["report", str(path)]) == 1
    assert "no report that is known" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["estimate", *files, "--io-type", "io_parallel"])
    assert "choose from" in capsys.readouterr().err
