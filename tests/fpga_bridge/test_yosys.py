"""Cells that Yosys counts: exact where the mapping is forced, and never silently none."""

import json
from types import MappingProxyType

import pytest

from fpga_bridge.circuits import yosys
from fpga_bridge.circuits.rtl import Port, RtlDesign
from jaxgeo.errors import ExportError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint

WORD = FixedPoint(6, 6)


def design(text: str, name: str = "toy_rtl") -> RtlDesign:
    port = Port((True,), (6,), (0,))
    return RtlDesign(name, MappingProxyType({f"{name}.v": text}), WORD, (1,), (1,), port, port, 1, 1, 6)


# Three outputs: the parity of six bits is one LUT6; a registered parity of five more bits one LUT5 and one flip-flop;
# the product of two signed 12-bit words one DSP.
TOY = """
module toy_rtl (input clk, input [5:0] a, input [4:0] b, input signed [11:0] c, input signed [11:0] d,
                output parity, output reg held, output signed [23:0] product);
    assign parity = ^a;
    always @(posedge clk) held <= ^b;
    assign product = c * d;
endmodule
"""


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return yosys.synthesise(design(TOY), tmp_path_factory.mktemp("yosys"))


def test_forced_mappings_are_counted_exactly(counts):
    assert (counts.lut, counts.ff, counts.dsp) == (2, 1, 1)
    assert (counts.carry, counts.shift_register, counts.block_ram, counts.distributed_ram) == (0, 0, 0, 0)
    assert counts.cells == {"LUT6": 1, "LUT5": 1, "FDRE": 1, "DSP48E2": 1}
    assert counts.synthesis_s > 0


def test_every_kind_of_cell_has_its_count(tmp_path):
    cells = {"LUT1": 1, "LUT6_2": 2, "INV": 4, "SRL16E": 8, "FDRE": 16, "FDSE_1": 32, "CARRY8": 64, "MUXF7": 128}
    cells |= {"DSP48E2": 256, "RAMB18E2": 512, "RAM32M": 1024, "\\own": 5, "$scopeinfo": 7}
    path = tmp_path / "stat.json"
    path.write_text(json.dumps({"design": {"num_cells_by_type": cells}}))
    counted = yosys.count_cells(path)
    assert (counted.lut, counted.shift_register, counted.ff, counted.carry, counted.mux) == (7, 8, 48, 64, 128)
    assert (counted.dsp, counted.block_ram, counted.distributed_ram, counted.carry_bits) == (256, 512, 1024, 8)
    assert counted.cells["own"] == 5
    assert sum(counted.cells.values()) == sum(cells.values()) - 7  # a scope is no cell


@pytest.mark.parametrize("text", ["", '{"design": {"num_cells"', '{"modules": {}}', '{"design": []}'])
def test_a_damaged_statistics_file_is_said(tmp_path, text):
    path = tmp_path / "stat.json"
    path.write_text(text)
    with pytest.raises(ExportError, match=r"stat\.json holds no cell counts.*synthesise the design anew"):
        yosys.count_cells(path)
    with pytest.raises(ExportError, match=r"absent\.json holds no cell counts"):
        yosys.count_cells(tmp_path / "absent.json")


def test_a_missing_yosys_is_said_and_one_on_the_path_is_found(monkeypatch):
    monkeypatch.setattr(yosys.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(yosys.shutil, "which", lambda name: None)
    with pytest.raises(ToolMissingError, match=r"Yosys is not installed here.*jaxgeo\[fpga\]"):
        yosys.find_yosys()
    monkeypatch.setattr(yosys.shutil, "which", lambda name: f"/opt/{name}")
    assert yosys.find_yosys() == ["/opt/yosys"]


def test_what_yosys_refuses_is_passed_on(monkeypatch, tmp_path):
    script = tmp_path / "refuses"
    script.write_text("#!/bin/sh\necho 'ERROR: syntax error, unexpected TOK_ENDMODULE'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(yosys, "find_yosys", lambda: [str(script)])
    with pytest.raises(ExportError, match=r"Yosys could not synthesise bad_rtl .*syntax error"):
        yosys.synthesise(design("module bad_rtl (", "bad_rtl"), tmp_path / "work")
