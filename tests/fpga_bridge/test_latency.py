"""Cycle counts before synthesis: published modules and designs, hls4ml's rule for reuse factors, damaged tables."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import without_type_checks

from benchmarks import latency as bench
from benchmarks.svhn_network import svhn_graph
from fpga_bridge.estimates import enet_latency
from fpga_bridge.estimates.dataflow import simulate
from fpga_bridge.estimates.enet_latency import EnetDesign, StageModel, fit, predict, read_designs
from fpga_bridge.estimates.fifo_depths import deadlocks, minimal_depths
from fpga_bridge.estimates.latency import HardwareConfig, plan_design
from fpga_bridge.estimates.reuse import closest_reuse_factor, valid_reuse_factors
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, InputError

# Synthesis report of hls4ml's tutorial, part 6: xcu250, 5 ns, 16 bits, half of the weights pruned.
SVHN_MODULES = {
    "conv1": 1027, "relu1": 902, "pool1": 903, "conv2": 229, "relu2": 171, "pool2": 172, "conv3": 40, "relu3": 18,
    "pool3": 19, "dense1": 7, "dense2": 3, "dense3": 2, "softmax": 7,
}  # fmt: skip
SVHN_FIFOS = [900, 900, 225, 169, 169, 36, 16, 16, 4, 1]

# Designs of arXiv:2205.07690 (filters, clock, reuse factor, bits, cycles): every pair of clock and width, both loops.
ENET = [
    EnetDesign(4, 10.0, 2, 16, 1641612),
    EnetDesign(4, 10.0, 4, 8, 1751049),
    EnetDesign(4, 7.0, 10, 8, 1641612),
    EnetDesign(8, 5.0, 100, 8, 18607955),
    EnetDesign(4, 5.0, 100, 8, 9269075),
    EnetDesign(8, 5.0, 20, 16, 2410835),
    EnetDesign(8, 5.0, 100, 16, 18753875),
    EnetDesign(8, 7.0, 50, 8, 9378512),
    EnetDesign(8, 7.0, 20, 16, 2374352),
    EnetDesign(16, 10.0, 100, 8, 18826829),
    EnetDesign(8, 10.0, 50, 16, 9378512),
]


@pytest.fixture(scope="module")
def svhn():
    return plan_design(svhn_graph())


def test_modules_of_the_svhn_network_take_the_cycles_of_its_report(svhn):
    for name, cycles in SVHN_MODULES.items():
        assert abs(svhn.design[name].latency - cycles) <= 1, name
    exact = sum(svhn.design[name].latency == cycles for name, cycles in SVHN_MODULES.items())
    assert exact >= 11


def test_the_svhn_network_as_a_whole_takes_the_cycles_of_its_report(svhn):
    run = simulate(svhn.design, 3)
    assert run.latency == pytest.approx(1044, rel=0.01)  # what is promised of the prediction
    assert abs(run.interval - 1028) <= 2
    assert run.batch_cycles(3) == run.finished()[-1]
    depths = [fifo.depth for fifo in svhn.design.fifos]
    assert depths[: len(SVHN_FIFOS)] == SVHN_FIFOS
    assert not svhn.messages


@settings(max_examples=60)
@given(n_in=st.integers(1, 60), n_out=st.integers(1, 40), wanted=st.integers(1, 3000))
def test_reuse_factors_are_those_of_hls4ml(n_in, n_out, wanted):
    from hls4ml.backends.fpga.fpga_backend import FPGABackend

    backend = FPGABackend.__new__(FPGABackend)  # its rules need nothing of its state
    theirs = backend.get_valid_reuse_factors(n_in, n_out)
    assert list(valid_reuse_factors(n_in, n_out)) == theirs
    ours = closest_reuse_factor(n_in, n_out, wanted, "dense")
    assert ours.used == backend.get_closest_reuse_factor(theirs, wanted)
    assert bool(ours.message) == (ours.used != wanted)


def test_reuse_factors_of_a_product_with_10_12_terms_are_found_at_once():
    prime = 1_000_003
    assert valid_reuse_factors(4 * prime, prime) == (1, 2, 4, prime, 2 * prime, 4 * prime, 4 * prime**2)
    assert predict(EnetDesign(prime, 5.0, 2, 8, None)).reuse.used == 2


def test_a_reuse_factor_that_cannot_be_is_replaced_with_the_reason():
    reuse = closest_reuse_factor(16, 4, 50, "head")
    assert reuse.used == 64
    assert re.search(
        r"head gets reuse factor 64, not 50: 16 x 4 .*near factors that work are .*16, 32, 64", reuse.message
    )
    for wanted in (0, -3):
        with pytest.raises(ConfigError, match="at least 1"):
            closest_reuse_factor(16, 4, wanted)
    with pytest.raises(ConfigError, match="at least one input"):
        valid_reuse_factors(0, 4)


def residual(x):
    """Not a constant input, so that the fork is real; the skip goes around a 3 x 3 convolution."""
    kernel = jnp.ones((3, 3, 2, 2), jnp.float32)
    y = _convolve(x, kernel)
    return _convolve(jnp.maximum(y, 0.0) + x, kernel)[:, ::1]


def _convolve(x, kernel):
    import jax

    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_a_skip_connection_is_planned_with_its_fork_and_its_depth():
    plan = plan_design(trace(lambda params, x: residual(x), {}, (6, 8, 2)))
    kinds = [process.kind for process in plan.design.processes]
    assert kinds.count("clone") == 1
    assert kinds.count("padding") == 2
    skip = next(i for i, f in enumerate(plan.design.fifos) if "clone" in f.source and "pad" not in f.target)
    depths = list(minimal_depths(plan.design))
    assert 1 < depths[skip] <= 8 + 3
    assert not deadlocks(plan.design.with_depths(depths))
    depths[skip] -= 1
    assert deadlocks(plan.design.with_depths(depths))


def test_more_reuse_takes_more_cycles_and_says_what_it_changed():
    graph = svhn_graph()
    cycles = []
    for reuse in (1, 6, 24):
        plan = plan_design(graph, HardwareConfig("Resource", reuse))
        cycles.append(simulate(plan.design, 2).interval)
        assert all(r.used in valid_reuse_factors(*_sizes(graph, name)) for name, r in plan.reuse.items())
    assert cycles == sorted(set(cycles))
    assert plan.reuse["conv1"].used == 27
    assert any(message.startswith("conv1 gets reuse factor 27, not 24") for message in plan.messages)
    own = plan_design(graph, HardwareConfig("Latency", 1, {"dense1": 4}))
    assert own.reuse["dense1"].used == 4
    assert own.reuse["dense2"].used == 1


def _sizes(graph, name):
    kernel = graph[name].kernel.value
    return kernel.size // kernel.shape[-1], kernel.shape[-1]


def test_slower_clocks_need_fewer_stages():
    graph = svhn_graph()
    latencies = [
        plan_design(graph, HardwareConfig(clock_period_ns=clock)).design["conv3"].latency for clock in (2.0, 5.0, 20.0)
    ]
    assert latencies == sorted(set(latencies), reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "resource"}, "strategy must be one of Latency, Resource, got 'resource'"),
        ({"default_width": 0}, "default_width must be a whole number of at least 1, got 0"),
        ({"default_width": 2.5}, "default_width must be a whole number of at least 1, got 2.5"),
        ({"default_width": float("nan")}, "default_width must be a whole number of at least 1, got nan"),
        ({"reuse_factor": 0}, "reuse_factor must be a whole number of at least 1, got 0"),
        ({"reuse_factor": 1.5}, "reuse_factor must be a whole number of at least 1, got 1.5"),
        ({"reuse_factors": {"conv1": 1.5}}, "a text and a whole number of at least 1 each, got {.conv1.: 1.5}"),
    ],
)
def test_hardware_that_cannot_be_built_is_refused(changes, message):
    with without_type_checks(), pytest.raises(ConfigError, match=message):
        HardwareConfig(**changes)


def test_plans_that_are_none_are_refused():
    graph = svhn_graph()
    with pytest.raises(ConfigError, match="no layer with weights is called 'relu1'; there are conv1"):
        plan_design(graph, HardwareConfig(reuse_factors={"relu1": 2}))
    with pytest.raises(ConfigError, match="clock_period_ns must be a finite number, got nan"):
        HardwareConfig(clock_period_ns=float("nan"))
    entry = ir.Input(name="x", inputs=(), shape=(4, 4, 1))
    with pytest.raises(ConfigError, match="no layer that costs a cycle"):
        plan_design(ir.Graph((entry,), "x"))
    odd = ir.ZeroInsert(name="odd", inputs=("x",), shape=(7, 7, 1), strides=(2, 2))
    with pytest.raises(ExportError, match=r"zeroinsert .* no streaming form"):
        plan_design(ir.Graph((entry, odd), "odd"))


@pytest.mark.parametrize("design", ENET)
def test_published_enet_designs_are_reproduced_to_the_cycle(design):
    assert predict(design).cycles == design.latency_cycles


def test_the_fit_finds_constants_that_explain_all_designs():
    model = fit(ENET)
    assert all(predict(design, model).cycles == design.latency_cycles for design in ENET)
    assert model.floor_cycles == enet_latency.FLOOR_CYCLES


@pytest.mark.parametrize("cell", [(10.0, 8), (10.0, 16), (5.0, 8)])
def test_a_pair_of_clock_and_width_that_the_fit_has_not_seen_is_predicted(cell):
    model = fit([design for design in ENET if design.cell != cell])
    for design in ENET:
        if design.cell == cell:
            # What is promised of the prediction.
            assert predict(design, model).cycles == pytest.approx(design.latency_cycles, rel=0.01)


@pytest.mark.parametrize("clock", [5.0, 7.0, 10.0])
def test_a_clock_that_the_fit_has_not_seen_is_predicted_within_7_percent(clock):
    model = fit([design for design in ENET if design.clock_ns != clock])
    for design in ENET:
        if design.clock_ns == clock:
            assert predict(design, model).cycles == pytest.approx(design.latency_cycles, rel=0.07)


@given(clock=st.floats(3.0, 20.0), width=st.integers(4, 32), reuse=st.integers(1, 200), filters=st.integers(1, 32))
def test_any_combination_has_a_prediction_within_the_loops(clock, width, reuse, filters):
    estimate = predict(EnetDesign(filters, clock, reuse, width, None))
    pixels = 240 * 152
    assert estimate.reuse.used in valid_reuse_factors(4 * filters, filters)
    loop = max(4 * estimate.reuse.used, 44)
    assert (loop - 2) * pixels <= estimate.cycles <= (loop + 4 * StageModel().stages(clock, width)) * pixels + 4000


def test_models_and_fits_that_are_impossible_are_refused():
    with pytest.raises(ConfigError, match=r"must exceed the 2\.31 ns"):
        predict(EnetDesign(4, 1.0, 4, 8, None))
    assert predict(EnetDesign(4, None, 4, 8, 100)) is None
    with pytest.raises(InputError, match="reuse factor of 16 or more"):
        fit(ENET[:3])


HEADER = "Run,Filters,Clock,ReuseFactor,Quantization,Precision,LUTs%,MaxLatency\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column Filters"),
        ("a,b\n1,2\n", "lacks the column Filters"),
        (HEADER, "no designs below"),
        (HEADER + 'r,4,5,2,4,"8,4\n', r"line \d"),
        (b"\xff\xfe\x00", "not a readable table"),
    ],
)
def test_a_damaged_table_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "designs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorruptFileError, match=message):
        read_designs(path)
    with pytest.raises(CorruptFileError, match="not a readable table"):
        read_designs(tmp_path / "missing.csv")


def test_the_bench_prints_each_design_and_skips_what_is_not_available(tmp_path, capsys, monkeypatch):
    path = tmp_path / "designs.csv"
    rows = [f'r,{d.filters},{d.clock_ns:g},{d.reuse_factor},4,"{d.width},6",NA,{d.latency_cycles}' for d in ENET]
    rows += ['r,4,NA,2,4,"8,4",NA,12', 'r,4,5,2,4,"8,4",NA,NA', 'r,4,6,2,4,"12,4",NA,NA']
    path.write_text(HEADER + "\n".join(rows) + "\n")
    result = bench.bench_enet(path)
    printed = capsys.readouterr().out
    counts = {"designs": 14, "without_prediction": 1, "compared": 11}
    assert result == counts | {"within_1_percent": 1.0, "worst_error": 0.0, "exact": 1.0}
    assert "is NA" in printed
    assert printed.count("seen with larger reuse factors only") == 1
    assert printed.count("between or beyond those fitted") == 1
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    assert bench.main(["--no-frame"]) == 1
    assert "set JAXGEO_DATA to its folder" in capsys.readouterr().err
    (tmp_path / "short.csv").write_text("filters,clock_ns\n4,5\n")
    assert bench.main(["--no-frame", "--designs", str(tmp_path / "short.csv")]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert json.loads(said.out)["error"] in said.err
    assert bench.main(["--no-frame", "--cross-validate", "--designs", str(path)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["enet"] == result


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('r,4,2,2,4,"8,4",NA,99', "'clock_ns': 2.0.*must exceed the 2.31 ns of a register, got 2.0"),
        ('r,4,5,x,4,"8,4",NA,9', "line 5: ReuseFactor is 'x', a positive number"),
        ('r,4,5,0,4,"8,4",NA,9', "line 5: ReuseFactor is '0', a positive number"),
        ('r,4,-5,2,4,"8,4",NA,9', "line 5: Clock is '-5'"),
        ('r,4,5,2.5,4,"8,4",NA,9', "line 5: ReuseFactor is '2.5', a whole number"),
        ('r,4,5,2,4,"ap_fixed<8,4>",NA,9', "line 5: Precision is 'ap_fixed<8', a positive number"),
        ('r,4,5,2,4,"1e308,4",NA,9', "line 5: Precision is '1e308', a positive number up to 1e.12"),
        ('r,1000000007,5,2,4,"8,4",NA,9', "4000000028 x 1000000007 is beyond any FPGA"),
        ('r,4,5,2,4,"8,4"', "line 5 ends before the column MaxLatency"),
    ],
)
def test_a_row_that_cannot_be_predicted_is_noted_and_the_others_are_compared(row, message, tmp_path, capsys):
    path = tmp_path / "designs.csv"
    rows = [f'r,{d.filters},{d.clock_ns:g},{d.reuse_factor},4,"{d.width},6",NA,{d.latency_cycles}' for d in ENET]
    path.write_text(HEADER + "\n".join([*rows[:3], row, *rows[3:]]) + "\n")
    assert bench.main(["--no-frame", "--cross-validate", "--designs", str(path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (noted,) = [line for line in table if "no prediction" in line]
    assert re.search(message, noted), noted
    found = json.loads(last)["enet"]
    assert (found["designs"], found["without_prediction"], found["compared"]) == (12, 1, 11)
    assert found["exact"] == 1.0


def test_a_table_without_any_count_is_predicted_and_compares_nothing(tmp_path, capsys):
    path = tmp_path / "designs.csv"
    path.write_text(HEADER + 'r,4,5,2,4,"8,4",NA,NA\nr,8,7,16,4,"16,6",NA,n/a\n')
    assert bench.main(["--no-frame", "--cross-validate", "--designs", str(path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    for line, (filters, clock, reuse, width) in zip(table[1:3], ((4, 5.0, 2, 8), (8, 7.0, 16, 16)), strict=True):
        assert str(predict(EnetDesign(filters, clock, reuse, width, None)).cycles) in line.split()
    found = json.loads(last)["enet"]
    assert (found["designs"], found["compared"], found["worst_error"]) == (2, 0, None)


def test_designs_that_show_too_little_for_a_fit_are_said_to(tmp_path, capsys):
    path = tmp_path / "designs.csv"
    one = ENET[0]
    path.write_text(
        HEADER + f'r,{one.filters},{one.clock_ns:g},{one.reuse_factor},4,"{one.width},6",NA,{one.latency_cycles}\n'
    )
    assert bench.main(["--no-frame", "--cross-validate", "--designs", str(path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert sum("the fit needs designs with a reuse factor of 16 or more" in line for line in table) == 6
    assert [row["compared"] for row in json.loads(last)["cross_validation"]] == [0] * 6


def test_the_help_of_the_bench_tells_its_exit_status(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    assert "Exit status: 0 whatever the figures are; 1 for a file" in capsys.readouterr().out


def test_the_frame_of_the_bench_is_a_design_of_its_size():
    small = bench.enet_frame(16, 24, 4)
    run = simulate(small, 2)
    assert run.interval == max(process.latency for process in small.processes) + 1
    assert dataclasses.is_dataclass(small)
    assert np.all(np.diff(run.finished()) > 0)
