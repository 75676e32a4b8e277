"""FIFO depths in written projects: enough by a simulation and by counting, least where paths join.

That the C++ still computes the same words is part of `test_hls`, which compiles a project with such depths.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge import cli
from fpga_bridge.estimates.dataflow import simulate
from fpga_bridge.estimates.fifo_depths import deadlocks, free_running_depths, lean_depths, minimal_depths, quick_depths
from fpga_bridge.estimates.latency import HardwareConfig, plan_design
from fpga_bridge.exports import write_keras
from fpga_bridge.hls import fifos
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.export import HlsSettings, export_hls
from fpga_bridge.tracing.trace import trace
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
WEIGHT = FixedPoint(6, 2, rounding="RND", overflow="SAT")
HIDDEN = FixedPoint(9, 4, rounding="RND_CONV", overflow="SAT")
ROWS, COLUMNS = 6, 8


def kernel(seed, *shape):
    return quantize(jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32), WEIGHT)


def convolve(x, seed, outputs):
    weights = kernel(seed, 3, 3, x.shape[-1], outputs)
    y = jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return quantize(y, HIDDEN)


def skip_network(_, x):
    """A residual block, pooling, upsampling, padding, a pointwise and a dense layer."""
    x = nn.relu(convolve(quantize(x, INPUT), 0, 3))
    x = quantize(x + convolve(x, 1, 3), HIDDEN)
    x = jnp.repeat(jnp.repeat(nn.max_pool(x, (2, 2), (2, 2)), 2, axis=1), 2, axis=2)
    x = jnp.pad(x, ((0, 0), (0, 1), (1, 0), (0, 0)))
    x = quantize(x @ kernel(2, 3, 2), HIDDEN)
    return quantize(x.reshape(x.shape[0], -1) @ kernel(3, (ROWS + 1) * (COLUMNS + 1) * 2, 3), FixedPoint(14, 8))


SHAPE = (ROWS, COLUMNS, 2)
GRAPH = trace(skip_network, {}, SHAPE)


def depths_written(folder):
    text = (Path(folder) / "firmware/network.cpp").read_text()
    return {name: int(depth) for name, depth in re.findall(r"STREAM variable=(\w+) depth=(\d+)", text)}


class Written:
    """A project with simulated depths, and what hls4ml's model was when they were set."""

    def __init__(self, folder, monkeypatch, graph, **settings):
        self.folder, self.messages = folder, []

        def spy(model, graph, clock):
            self.streams = fifos.stream_design(model, graph, clock)
            self.variables = [model.output_vars[tensor].name for tensor in self.streams.tensors]
            return fifos.simulated_depths(model, graph, clock)

        with monkeypatch.context() as patch:
            patch.setattr(hls, "simulated_depths", spy)
            self.project, self.messages = export_hls(graph, folder, HlsSettings(io_type="io_stream", **settings))
        written = depths_written(folder)
        self.depths = [written[name] for name in self.variables]

    @property
    def design(self):
        return self.streams.design


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return Written(tmp_path_factory.mktemp("fifos") / "project", patch, GRAPH)


def test_depths_in_the_cpp_are_those_of_the_simulation(written):
    assert set(written.variables) == depths_written(written.folder).keys()  # every stream inside, none else
    assert written.depths == list(lean_depths(written.design))
    own = sum(fifo.depth for fifo in written.design.fifos)
    words = sum(written.depths)
    assert written.messages == [
        f"{len(written.depths)} FIFOs hold {words} words by simulation, where hls4ml's own depths are {own}"
    ]
    assert words < own / 5


def test_written_depths_delay_no_frame(written):
    free = simulate(written.design.with_depths([None] * len(written.depths)), 3)
    run = simulate(written.design.with_depths(written.depths), 3)
    np.testing.assert_array_equal(run.finished(), free.finished())


def test_the_short_branch_holds_what_fills_the_line_buffers_of_the_long_one(written):
    # The first window of a padded 3 x 3 convolution is whole with the second pixel of the second row.
    needed = COLUMNS + 2
    short = [i for i, fifo in enumerate(written.design.fifos) if fifo.source == "clone_relu" and fifo.target == "add"]
    (at,) = short
    assert minimal_depths(written.design)[at] == needed
    # Padding and the steps in the pipelines of the long branch take more, but less than another row.
    assert needed <= written.depths[at] < needed + COLUMNS
    less = [*written.depths]
    less[at] = needed - 1
    assert deadlocks(written.design.with_depths(less))


def test_processes_of_hls4mls_model_are_those_of_the_estimate(written):
    planned = {process.name: process for process in plan_design(GRAPH).design.processes}
    for process in written.design.processes:
        if process.name.startswith(("zp2d_", "clone_")) or process.name == "quantize_3":
            continue  # named otherwise there, or a quantizer that costs nothing there
        same = planned[process.name]
        assert (process.latency, process.steps) == (same.latency, same.steps), process.name
    pads = [process for process in written.design.processes if process.name.startswith("zp2d_")]
    assert [(p.steps, int(p.reads.sum())) for p in pads] == [
        ((ROWS + 2) * (COLUMNS + 2), 0),  # the first is fed from outside
        ((ROWS + 2) * (COLUMNS + 2), ROWS * COLUMNS),
    ]


def test_shared_multipliers_and_one_axis_have_their_own_depths(tmp_path, monkeypatch):
    def network(_, x):
        x = quantize(x, INPUT)
        y = jax.lax.conv_general_dilated(x, kernel(0, 3, 2, 4), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        y = quantize(y, HIDDEN)
        y = quantize(y + nn.relu(y), HIDDEN)
        return nn.softmax(quantize(jnp.mean(y, axis=1) @ kernel(1, 4, 3), HIDDEN))

    graph = trace(network, {}, (16, 2))
    found = Written(tmp_path / "project", monkeypatch, graph, strategy="Resource", reuse_factor=8)
    conv = found.design[next(node.name for node in graph if node.kind == "conv")]
    planned = plan_design(graph, HardwareConfig("Resource", 8)).design[conv.name]
    assert conv.latency == planned.latency > 16 * 8
    assert found.depths == list(lean_depths(found.design))


def test_zero_insertion_reads_a_pixel_where_the_cpp_does(tmp_path, monkeypatch):
    def network(_, x):
        weights = kernel(0, 2, 2, 2, 3)
        y = jax.lax.conv_general_dilated(
            nn.relu(quantize(x, INPUT)), weights, (1, 1), ((1, 1),) * 2, lhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return quantize(y, HIDDEN)

    found = Written(tmp_path / "project", monkeypatch, trace(network, {}, (3, 4, 2)))
    (process,) = [process for process in found.design.processes if process.kind == "zeroinsert"]
    # Rows 0, 2 and 4 of five hold pixels.
    np.testing.assert_array_equal(process.reads[0].reshape(5, 4).sum(axis=1), [4, 0, 4, 0, 4])


@pytest.mark.parametrize(("axis", "waits"), [(1, ROWS * COLUMNS), (2, COLUMNS)])
def test_what_is_joined_behind_a_branch_waits_for_its_frame_or_its_row(axis, waits, tmp_path, monkeypatch):
    def network(_, x):
        x = quantize(x, INPUT)
        y = jnp.swapaxes(jnp.concatenate([nn.relu(x), x], axis=axis), 1, 2)
        y = nn.relu(y.reshape(x.shape[0], ROWS * COLUMNS, 4))
        return quantize(y.reshape(x.shape[0], -1) @ kernel(0, 4 * ROWS * COLUMNS, 3), HIDDEN)

    graph = trace(network, {}, SHAPE)
    found = Written(tmp_path / "project", monkeypatch, graph)
    (at,) = [i for i, fifo in enumerate(found.design.fifos) if fifo.target == "concatenate" and fifo.input == 1]
    assert minimal_depths(found.design)[at] == found.depths[at] == waits
    planned = [(process.steps, process.latency) for process in plan_design(graph).design.processes]
    assert [(process.steps, process.latency) for process in found.design.processes] == planned


def test_vectors_that_are_joined_are_read_one_after_the_other(tmp_path, monkeypatch):
    def network(_, x):
        x = quantize(x, INPUT)
        parts = [y.reshape(x.shape[0], -1) for y in (nn.max_pool(x, (2, 2), (2, 2)), x)]
        return quantize(jnp.concatenate(parts, axis=-1) @ kernel(0, 5 * ROWS * COLUMNS // 2, 3), HIDDEN)

    graph = trace(network, {}, SHAPE)
    found = Written(tmp_path / "project", monkeypatch, graph)
    (join,) = [process for process in found.design.processes if process.kind == "concatenate"]
    assert join.reads.sum(axis=1).tolist() == [ROWS * COLUMNS // 4, ROWS * COLUMNS]
    assert join.writes.sum() == 1
    (at,) = [i for i, fifo in enumerate(found.design.fifos) if fifo.target == join.name and fifo.input == 1]
    # The last pixel of the pooled image is behind all pixels of the other.
    assert found.depths[at] == minimal_depths(found.design)[at] == ROWS * COLUMNS
    assert not deadlocks(found.design.with_depths(found.depths))
    planned = [(process.steps, process.latency) for process in plan_design(graph).design.processes]
    assert [(process.steps, process.latency) for process in found.design.processes] == planned


def test_quick_depths_delay_no_frame_and_are_shallow_off_the_circle(written):
    quick = quick_depths(written.design)
    peaks = free_running_depths(written.design)
    free = simulate(written.design.with_depths([None] * len(quick)), 2)
    np.testing.assert_array_equal(simulate(written.design.with_depths(quick), 2).finished(), free.finished())
    assert all(few <= peak for few, peak in zip(quick, peaks, strict=True))
    assert sum(lean_depths(written.design)) <= sum(quick) <= sum(peaks)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"MAX_STEPS": 10}, r"FIFO depths are hls4ml's own: a frame takes \d+ steps, and 10 is what is simulated"),
        ({"_POINTWISE": ()}, "FIFO depths are hls4ml's own: the layer relu of hls4ml's class Activation has no form"),
        ({"LEAN_WORK": 10}, r"words by simulation, .*\d+ steps a frame, so each alone was not made as small"),
    ],
)
def test_what_is_too_large_or_unknown_falls_back_and_says_so(limits, message, tmp_path, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setattr(fifos, name, value)
    _, (said,) = export_hls(GRAPH, tmp_path / "project", HlsSettings(io_type="io_stream"))
    assert re.search(message, said)
    if "hls4ml's own:" in said:
        assert min(depths_written(tmp_path / "project").values()) == ROWS // 2 * COLUMNS // 2


def test_the_default_is_hls4mls_own_and_parallel_data_have_no_fifos(tmp_path):
    asked = HlsSettings(io_type="io_stream", fifo_depths="default")
    _, messages = export_hls(GRAPH, tmp_path / "own", asked)
    assert messages == []
    assert set(depths_written(tmp_path / "own").values()) >= {ROWS * COLUMNS, (ROWS + 2) * (COLUMNS + 2)}
    with pytest.raises(ConfigError, match="io_parallel passes data without FIFOs; leave their depths out, or take io_"):
        HlsSettings(fifo_depths="simulated")
    _, messages = export_hls(GRAPH, tmp_path / "parallel")
    assert messages == []
    assert "HLS STREAM" not in (tmp_path / "parallel/firmware/network.cpp").read_text()


def test_the_command_writes_the_depths_that_it_is_asked_for(tmp_path, capsys):
    hls_options = ("--io-type", "io_stream", "--format", "hls")
    write_keras(GRAPH, tmp_path / "network.keras")
    found = {}
    for choice in ((), ("--fifo-depths", "default")):
        folder = tmp_path / "-".join(("project", *choice))
        command = ("export", tmp_path / "network.keras", *hls_options, *choice, "--out", folder)
        assert cli.main([str(word) for word in command]) == 0
        assert ("by simulation" in capsys.readouterr().out) == ("default" not in choice)
        found[choice] = depths_written(folder)
    own = found["--fifo-depths", "default"]
    assert found[()].keys() == own.keys()
    assert sum(found[()].values()) < sum(own.values()) / 5


def test_a_layer_without_a_form_is_named():
    class Layer:
        def __init__(self, name, class_name, inputs):
            self.name, self.class_name, self.inputs, self.outputs = name, class_name, inputs, (name,)

        def get_attr(self, _, default=None):
            return default

        def get_output_variable(self):
            return np.zeros((4, 2))

    class Model:
        def get_layers(self):
            return [Layer("x", "Input", ()), Layer("odd", "GRU", ("x",))]

    with pytest.raises(ExportError, match="the layer odd of hls4ml's class GRU has no form in the simulation"):
        fifos.stream_design(Model(), GRAPH, 5.0)
