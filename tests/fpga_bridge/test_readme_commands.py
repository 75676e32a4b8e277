"""The README's commands of the bridge run as they are printed, on a small network under the names that they use."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge import cli
from fpga_bridge.estimates.parts import PARTS, full_part_name
from jaxgeo.files import save_tree
from jaxgeo.models.mlp import Mlp, MlpConfig

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^fpga-bridge .*$", README, re.MULTILINE)]
CSYNTH = """<profile>
<UserAssignments><Part>xczu9eg-ffvb1156-2-e</Part><TargetClockPeriod>5.00</TargetClockPeriod></UserAssignments>
<PerformanceEstimates><SummaryOfOverallLatency>
<Best-caseLatency>7</Best-caseLatency><Worst-caseLatency>7</Worst-caseLatency>
<Interval-min>1</Interval-min><Interval-max>1</Interval-max>
</SummaryOfOverallLatency></PerformanceEstimates>
<AreaEstimates><Resources><BRAM_18K>2</BRAM_18K><DSP>11</DSP><FF>300</FF><LUT>400</LUT></Resources></AreaEstimates>
</profile>"""


def write_qkeras(path):
    """A network of QKeras: inputs and weights of 8 and 6 bits, and one dense layer."""
    bits = {"class_name": "quantized_bits", "config": {"bits": 6, "integer": 1, "alpha": 1}}
    kinds = (
        ("InputLayer", {"batch_input_shape": [None, 4], "name": "in"}),
        ("QActivation", {"name": "entry", "activation": "quantized_bits(8,2,alpha=1)"}),
        ("QDense", {"name": "head", "units": 3, "use_bias": True, "activation": "linear", "kernel_quantizer": bits,
                    "bias_quantizer": bits}),
    )  # fmt: skip
    layers, before = [], []
    for kind, config in kinds:
        layers.append({"class_name": kind, "config": config, "name": config["name"], "inbound_nodes": before})
        before = [[[config["name"], 0, 0, {}]]]
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        config = {"name": "net", "layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["head", 0, 0]]}
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": config})
        group = file.create_group("model_weights/head")
        group.attrs["weight_names"] = [b"head/kernel:0", b"head/bias:0"]
        group["head/kernel:0"] = rng.normal(size=(4, 3)).astype(np.float32)
        group["head/bias:0"] = rng.normal(size=3).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the files that the README names."""
    monkeypatch.chdir(tmp_path)
    config = MlpConfig(4, (5,), 3)
    Path("config.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config)}))
    for seed, name in enumerate(("params", "a", "b")):
        variables = Mlp(config).init(jax.random.key(seed), jnp.zeros((1, 4)))
        save_tree(Path(f"{name}.safetensors"), jax.tree.map(np.asarray, variables["params"]))
    Path("csynth.xml").write_text(CSYNTH)
    write_qkeras("network.h5")
    return tmp_path


def test_the_readme_shows_an_estimate_an_export_and_a_report():
    assert {command[0] for command in COMMANDS} >= {"estimate", "export", "report"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_of_the_readme_runs(command, folder, capsys):
    if "--help" in command:
        with pytest.raises(SystemExit) as end:
            cli.main(command)
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith("usage: fpga-bridge")
        command = [word for word in command if word != "--help"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
    if "--board" in command:
        (script,) = folder.glob("*/project.tcl")
        assert "xczu9eg-ffvb1156-2-e" in script.read_text()
        assert (script.parent / "firmware/network_axi.cpp").exists()  # the wrapper of VivadoAccelerator


@pytest.mark.parametrize(
    "name",
    [
        "xcu250-figd2104-2L-e", "XCU250-FIGD2104-2L-E", "xczu9eg-ffvb1156-2-e", "xc7z020clg400-1", "xa7z020clg400-1I",
        "xq7vx690trf1930-2I", "xcku115-flvb2104-2-i", "xcvu13p-flga2577-2-e", "xcu55c-fsvh2892-2L-e",
        "xck26-sfvc784-2LV-c", "xcvc1902-vsva2197-2MP-e-S", "xcu250figd2104-2L", "xc6slx45tfgg484-3",
    ],
)  # fmt: skip
def test_names_of_parts_as_their_maker_spells_them_are_kept(name):
    assert full_part_name(name) == name


def test_a_known_device_gets_the_package_of_its_board(folder):
    for part in PARTS.values():
        assert full_part_name(part.name.upper()) == part.full_name == full_part_name(part.full_name)
        assert part.full_name.startswith(part.name)
    assert cli.main(["export", "network.h5", "--part", "xcvu9p", "--out", "with_part"]) == 0
    assert "xcvu9p-flga2104-2L-e" in Path("with_part/project.tcl").read_text()
