"""Estimates as a whole: reports of the tools read back, pictures of what the simulation found."""

import dataclasses

import numpy as np
import pytest

from benchmarks.svhn_network import svhn_graph
from fpga_bridge.estimates import pictures, stages
from fpga_bridge.estimates import summary as estimates
from fpga_bridge.estimates.dataflow import simulate
from fpga_bridge.estimates.fifo_depths import lean_depths
from fpga_bridge.estimates.latency import HardwareConfig
from fpga_bridge.estimates.parts import find_part
from fpga_bridge.estimates.reports import read_report, relative_error
from fpga_bridge.estimates.streams import Design, Fifo
from jaxgeo.errors import ConfigError, CorruptFileError

CSYNTH_XML = """<?xml version="1.0" encoding="UTF-8"?>
<profile>
<UserAssignments><unit>ns</unit><ProductFamily>virtexuplus</ProductFamily><Part>xcu250-figd2104-2L-e</Part>
<TopModelName>myproject</TopModelName><TargetClockPeriod>5.00</TargetClockPeriod></UserAssignments>
<PerformanceEstimates><PipelineType>dataflow</PipelineType>
<SummaryOfOverallLatency><unit>clock cycles</unit><Best-caseLatency>1035</Best-caseLatency>
<Worst-caseLatency>1044</Worst-caseLatency><Interval-min>1028</Interval-min><Interval-max>1028</Interval-max>
</SummaryOfOverallLatency></PerformanceEstimates>
<AreaEstimates><Resources><BRAM_18K>100</BRAM_18K><DSP48E>5414</DSP48E><FF>52549</FF><LUT>245466</LUT><URAM>0</URAM>
</Resources><AvailableResources><BRAM_18K>5376</BRAM_18K><DSP48E>12288</DSP48E><FF>3456000</FF><LUT>1728000</LUT>
</AvailableResources></AreaEstimates>
</profile>
"""

CSYNTH_RPT = """
== Vivado HLS Report for 'myproject'
* Date:           Mon Mar  1 10:00:00 2021
* Target device:  xcu250-figd2104-2L-e

== Performance Estimates
+ Timing:
    * Summary:
    +--------+---------+----------+------------+
    |  Clock |  Target | Estimated| Uncertainty|
    +--------+---------+----------+------------+
    |ap_clk  | 5.00 ns | 4.367 ns |   0.62 ns  |
    +--------+---------+----------+------------+
+ Latency:
    * Summary:
    +---------+---------+----------+----------+------+------+----------+
    |  Latency (cycles) |  Latency (absolute) |   Interval  | Pipeline |
    |   min   |   max   |    min   |    max   |  min |  max |   Type   |
    +---------+---------+----------+----------+------+------+----------+
    |     1035|     1044| 5.175 us | 5.220 us |  1028|  1028| dataflow |
    +---------+---------+----------+----------+------+------+----------+
    + Detail:
        * Instance:
        +-----------+-----------+---------+---------+----------+----------+------+------+----------+
        |           |           |  Latency (cycles) |  Latency (absolute) |   Interval  | Pipeline |
        |  Instance |   Module  |   min   |   max   |    min   |    max   |  min |  max |   Type   |
        +-----------+-----------+---------+---------+----------+----------+------+------+----------+
        |conv_U0    |conv_2d_cl |     1027|     1027| 5.135 us | 5.135 us |  1027|  1027|   none   |
        |relu_U0    |relu       |      902|      902| 4.510 us | 4.510 us |   902|   902|   none   |
        |loop_U0    |loop       |        ?|        ?|     ?    |     ?    |     ?|     ?|   none   |
        +-----------+-----------+---------+---------+----------+----------+------+------+----------+
        * Loop:
        N/A

== Utilization Estimates
* Summary:
+-----------------+---------+-------+---------+---------+-----+
|       Name      | BRAM_18K| DSP48E|    FF   |   LUT   | URAM|
+-----------------+---------+-------+---------+---------+-----+
|DSP              |        -|      -|        -|        -|    -|
|FIFO             |      100|      -|     5000|     7000|    -|
|Instance         |        0|   5414|    47549|   238466|    -|
+-----------------+---------+-------+---------+---------+-----+
|Total            |      100|   5414|    52549|   245466|    0|
+-----------------+---------+-------+---------+---------+-----+
|Available        |     5376|  12288|  3456000|  1728000| 1280|
+-----------------+---------+-------+---------+---------+-----+
"""

VIVADO_RPT = """Copyright
| Tool Version : Vivado v.2020.1 (lin64)
| Device       : xcu250figd2104-2L
1. CLB Logic
------------
+----------------------------+--------+-------+-----------+-------+
|          Site Type         |  Used  | Fixed | Available | Util% |
+----------------------------+--------+-------+-----------+-------+
| CLB LUTs*                  | 123948 |     0 |   1728000 |  7.17 |
|   LUT as Logic             | 120000 |     0 |   1728000 |  6.94 |
| CLB Registers              |  43435 |     0 |   3456000 |  1.26 |
+----------------------------+--------+-------+-----------+-------+
2. BLOCKRAM
| Block RAM Tile    | 42.5 |     0 |      2688 |  1.56 |
|   RAMB18          |   85 |     0 |      5376 |  1.58 |
3. ARITHMETIC
| DSPs           | 5386 |     0 |     12288 | 43.83 |
"""


def test_reports_of_all_kinds_say_the_same(tmp_path):
    paths = [tmp_path / name for name in ("csynth.xml", "csynth.rpt", "vivado_synth.rpt")]
    for path, text in zip(paths, (CSYNTH_XML, CSYNTH_RPT, VIVADO_RPT), strict=True):
        path.write_text(text)
    xml, rpt, vivado = map(read_report, paths)
    assert (xml.kind, rpt.kind, vivado.kind) == ("csynth", "csynth", "synthesis")
    assert (xml.latency_cycles, xml.interval_cycles, xml.clock_period_ns) == (1044, 1028, 5.0)
    assert dataclasses.replace(rpt, module_latency={}) == xml
    assert rpt.module_latency == {"conv_U0": 1027, "relu_U0": 902}
    cells = (vivado.resources.dsp, vivado.resources.lut, vivado.resources.ff, vivado.resources.bram_tiles)
    assert cells == (5386, 123948, 43435, 42.5)
    assert vivado.latency_cycles is None
    assert vivado.part == "xcu250figd2104-2L"


def test_a_report_of_vitis_and_of_a_small_part_is_read_too(tmp_path):
    path = tmp_path / "csynth.xml"
    path.write_text(CSYNTH_XML.replace("DSP48E>", "DSP>").replace("1044<", "undef<"))
    assert read_report(path).resources.dsp == 5414
    assert read_report(path).latency_cycles is None
    path = tmp_path / "utilization.rpt"
    path.write_text(VIVADO_RPT.replace("CLB LUTs*", "Slice LUTs").replace("CLB Reg", "Slice Reg"))
    assert read_report(path).resources.lut == 123948


@pytest.mark.parametrize("text", [CSYNTH_XML, CSYNTH_RPT, VIVADO_RPT])
def test_a_report_cut_anywhere_is_whole_in_its_cells_or_refused(tmp_path, text):
    path = tmp_path / "report"
    path.write_text(text)
    whole = read_report(path)
    refused = 0
    for length in range(0, len(text), 41):
        path.write_text(text[:length])
        try:
            found = read_report(path)
        except CorruptFileError:
            refused += 1
        else:
            assert found.resources == whole.resources
    assert refused > 10


def test_what_is_no_report_is_said(tmp_path):
    path = tmp_path / "report"
    for text, message in (
        ("hello", "no report that is known here; give csynth.xml"),
        ("<a/>", "without AreaEstimates"),
        (CSYNTH_XML.replace(">5414<", ">many<"), "no number for DSP48E"),
    ):
        path.write_text(text)
        with pytest.raises(CorruptFileError, match=message):
            read_report(path)
    with pytest.raises(CorruptFileError, match="not a readable report"):
        read_report(tmp_path / "missing")


@pytest.fixture(scope="module")
def svhn():
    return estimates.estimate_network(svhn_graph(), find_part("xcu250"))


def test_an_estimate_has_the_least_depths_that_delay_no_frame_and_says_where_it_does_not_fit(svhn):
    depths = tuple(fifo.depth for fifo in svhn.plan.design.fifos)
    assert depths == lean_depths(svhn.plan.design)
    assert all(least <= depth for least, depth in zip(svhn.least_depths, depths, strict=True))
    text = "\n".join(estimates.lines(svhn))
    assert "latency 1046 cycles (5.230 us), a new frame each 1028 cycles" in text
    assert "more than" not in text
    small = estimates.estimate_network(svhn_graph(), find_part("xc7z020"), HardwareConfig("Resource", 24))
    text = "\n".join(estimates.lines(small))
    assert "this is more than xc7z020 holds" in text
    assert "note: conv1 gets reuse factor 27, not 24" in text


def test_reports_stand_beside_the_estimate(svhn, tmp_path):
    path = tmp_path / "csynth.xml"
    path.write_text(CSYNTH_XML)
    rows = estimates.report_lines({"csynth.xml": read_report(path)}, svhn)
    latency = next(row for row in rows if row.startswith("latency"))
    assert latency.split() == ["latency", "1046", "1044", "0.2%"]
    assert any("csynth, part xcu250-figd2104-2L-e, clock 5 ns" in row for row in rows)
    assert np.isnan(relative_error(3.0, None))


def slow_reader():
    """A fast writer, a slow reader behind a short FIFO, and a last process that starves."""
    first = dataclasses.replace(stages.pointwise("first", 100), reads=np.ones((0, 100), bool))
    slow = stages.pointwise("slow", 100, interval=5, depth=5)
    last = dataclasses.replace(stages.pointwise("last", 100), writes=np.ones((0, 100), bool))
    return Design((first, slow, last), (Fifo("first", "slow", depth=2), Fifo("slow", "last", depth=2)))


def test_time_is_spent_on_steps_and_on_waiting_for_whoever_is_slow():
    run = simulate(slow_reader())
    shares = pictures.shares_of_time(run, 7)
    assert shares.min() >= 0
    assert shares.sum(axis=2).max() <= 1 + 1e-9
    first, slow, last = shares[:, 2]
    assert first[2] > 0.7  # no room
    assert slow[0] > 0.95  # always at work
    assert last[1] > 0.7  # no word
    assert pictures.main_waits(run) == {"first": ("room", "slow"), "slow": ("word", "first"), "last": ("word", "slow")}
    with pytest.raises(ConfigError, match="at least one span"):
        pictures.shares_of_time(run, 0)


def test_pictures_show_every_process_and_every_layer(svhn, tmp_path):
    timeline = pictures.draw_timeline(svhn.run, 5.0)
    names = [label.get_text() for label in timeline.axes[0].get_yticklabels()]
    assert names == [process.name for process in svhn.run.design.processes]
    bars = pictures.draw_resources(svhn.layers, svhn.part)
    assert [len(ax.patches) for ax in bars.axes] == [len(svhn.layers)] * 4
    widths = [patch.get_width() for patch in bars.axes[0].patches]
    np.testing.assert_allclose(widths, [100 * cells.dsp / svhn.part.dsp for cells in svhn.layers.values()])
    with pytest.raises(ConfigError, match="no layer to draw"):
        pictures.draw_resources({}, svhn.part)
