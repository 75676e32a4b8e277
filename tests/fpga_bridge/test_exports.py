"""What leaves the bridge comes back as the same network: words, Keras and ONNX files; projects say what was asked."""

import dataclasses
import json
import math
import re
import sys
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import outputs, values
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import without_type_checks

from fpga_bridge.circuits.rtl import emit_verilog
from fpga_bridge.circuits.verilog_export import write_verilog
from fpga_bridge.exports import export, write_keras
from fpga_bridge.hardware_weights import load_hardware_weights, save_hardware_weights
from fpga_bridge.hls import export as hls_export
from fpga_bridge.hls.export import HlsSettings, export_hls
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.onnx.export import to_onnx
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, InputError, RunFolderError
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding, quantize

sys.path.insert(0, str(Path(__file__).parent))
import onnx_reader  # beside this file

INPUT = FixedPoint(8, 3, True, "RND", "SAT")
WEIGHT = FixedPoint(6, 2, True, "RND_CONV", "SAT")
HIDDEN = FixedPoint(9, 4, True, "RND_INF", "WRAP")


def weight(*shape, exact=False):
    rounded = np.asarray(quantize(jnp.asarray(values(len(shape), *shape)), WEIGHT))
    return ir.Weight(rounded, None if exact else WEIGHT)


class Net:
    """A graph written down node by node."""

    def __init__(self, *shape):
        self.nodes = [ir.Input(name="x", inputs=(), shape=shape)]

    def add(self, kind, shape, *inputs, **fields):
        name = f"n{len(self.nodes)}"
        inputs = inputs or (self.nodes[-1].name,)
        self.nodes.append(kind(name=name, inputs=inputs, shape=shape, **fields))
        return name

    def quantize(self, format):
        return self.add(ir.Quantize, self.nodes[-1].shape, format=format)

    @property
    def graph(self):
        return ir.Graph(tuple(self.nodes), self.nodes[-1].name)


def image_graph():
    """Every kind of node over two axes."""
    net = Net(5, 4, 2)
    net.quantize(INPUT)
    net.add(ir.Conv, (3, 4, 3), kernel=weight(3, 2, 2, 3), bias=weight(3), strides=(2, 1), padding="same")
    a = net.quantize(HIDDEN)
    net.add(ir.Affine, (3, 4, 3), scale=weight(3), offset=weight(3, exact=True))
    net.add(ir.LeakyRelu, (3, 4, 3), slope=0.25)
    symmetric = dataclasses.replace(HIDDEN, rounding="RND_ZERO", overflow="SAT_SYM")
    net.quantize(symmetric)
    entries = ir.Weight(np.arange(255, -256, -1, np.float32) / 32, HIDDEN)
    b = net.add(ir.Table, (3, 4, 3), function="falling", entries=entries, input_format=symmetric)
    b = net.add(ir.Maximum, (3, 4, 3), a, b)
    b = net.add(ir.Multiply, (3, 4, 3), b, a)
    b = net.add(ir.Minimum, (3, 4, 3), net.quantize(HIDDEN), a)
    net.add(ir.Add, (3, 4, 3), a, b)
    net.add(ir.PRelu, (3, 4, 3), slope=weight(3))
    net.add(ir.Relu, (3, 4, 3))
    net.add(ir.ThresholdedRelu, (3, 4, 3), threshold=0.75)
    c = net.quantize(dataclasses.replace(HIDDEN, rounding="RND_MIN_INF", overflow="SAT_ZERO"))
    net.add(ir.Concatenate, (3, 4, 6), c, a, axis=2)
    net.add(ir.Concatenate, (6, 4, 6), f"n{len(net.nodes) - 1}", f"n{len(net.nodes) - 1}", axis=0)
    net.add(ir.Upsample, (6, 8, 6), factors=(1, 2))
    net.add(ir.ZeroPad, (8, 9, 6), pads=((2, 0), (0, 1)))
    net.add(ir.Pool, (4, 5, 6), reduce="max", window=(3, 2), strides=(2, 2), padding="same")
    net.add(ir.Transpose, (5, 4, 6), perm=(1, 0, 2))
    net.add(ir.Pool, (4, 2, 6), reduce="average", window=(2, 2), strides=(1, 2), padding="valid")
    net.add(ir.ZeroInsert, (7, 4, 6), strides=(2, 3))
    net.add(ir.Conv, (6, 3, 2), kernel=weight(2, 2, 6, 2), strides=(1, 1), padding="valid")
    d = net.quantize(dataclasses.replace(HIDDEN, rounding="TRN_ZERO", overflow="SAT"))
    net.add(ir.Dense, (6, 3, 3), kernel=weight(2, 3))
    net.quantize(dataclasses.replace(HIDDEN, rounding="TRN"))
    net.add(ir.Reshape, (54,))
    e = net.add(ir.Dense, (2,), kernel=weight(54, 2), bias=weight(2))
    f = net.add(ir.GlobalPool, (2,), d, reduce="max")
    net.add(ir.Concatenate, (4,), e, f, axis=0)
    net.quantize(FixedPoint(14, 8, True, "RND_CONV", "SAT"))
    return net.graph


def signal_graph():
    """Over one axis, with a global mean and a softmax."""
    net = Net(9, 2)
    net.quantize(INPUT)
    net.add(ir.Conv, (4, 3), kernel=weight(3, 2, 3), strides=(2,), padding="valid")
    net.quantize(HIDDEN)
    net.add(ir.Pool, (2, 3), reduce="max", window=(2,), strides=(2,), padding="valid")
    net.add(ir.Affine, (2, 3), scale=weight(3), offset=weight(3))
    net.quantize(HIDDEN)
    net.add(ir.GlobalPool, (3,), reduce="average")
    net.add(ir.Softmax, (3,))
    return net.graph


@pytest.fixture(scope="module", params=[image_graph, signal_graph])
def network(request):
    graph = request.param()
    x = values(7, 20, *graph.input.shape, scale=2.0)
    expected = outputs(graph, x)
    assert len(np.unique(expected)) > 20
    return graph, x, expected


def test_an_onnx_model_computes_what_the_graph_does(network):
    graph, x, expected = network
    model = onnx_reader.read(to_onnx(graph, "net"))
    assert (model.ir_version, model.opset_import[0].version, model.graph.name) == (8, 13, "net")
    entry, output = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    assert [d.dim_value or d.dim_param for d in entry.shape.dim] == ["batch", *graph.input.shape]
    assert [d.dim_value or d.dim_param for d in output.shape.dim] == ["batch", *graph[graph.output].shape]
    if isinstance(graph[graph.output], ir.Softmax):
        # Exponentials of two libraries: a few units in the last place of float32.
        np.testing.assert_allclose(onnx_reader.run(model, x), expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(onnx_reader.run(model, x), expected)


def test_channels_are_moved_only_where_an_operator_needs_it():
    graph = image_graph()
    kinds = [node.op_type for node in onnx_reader.read(to_onnx(graph)).graph.node]
    # In for the first convolution; out for the transpose, in again for the mean behind it, out for the zeros between
    # pixels, in for the second convolution, out for the dense layer. The transpose of the network itself is one more.
    assert kinds.count("Transpose") == 7


def exact(x, format):
    """Assigning one number to the C++ type, in rational arithmetic."""
    scaled = Fraction(float(x)) * Fraction(2) ** format.fraction
    low, rest = math.floor(scaled), scaled - math.floor(scaled)
    half, negative = Fraction(1, 2), scaled < 0
    tie_goes_up = {"RND": True, "RND_MIN_INF": False, "RND_INF": not negative, "RND_ZERO": negative,
                   "RND_CONV": low % 2 == 1}  # fmt: skip
    if format.rounding == "TRN":
        word = low
    elif format.rounding == "TRN_ZERO":
        word = low + (negative and rest > 0)
    else:
        word = low + (rest > half or (rest == half and tie_goes_up[format.rounding]))
    if not format.min_word <= word <= format.max_word:
        turned = (word + 2**format.width // 2) % 2**format.width - 2**format.width // 2
        word = {
            "SAT": format.min_word if word < 0 else format.max_word,
            "SAT_SYM": format.min_word if word < 0 else format.max_word,
            "SAT_ZERO": 0,
            "WRAP": turned if format.signed else word % 2**format.width,
        }[format.overflow]
    return word * format.step


@settings(deadline=None)
@given(
    width=st.integers(2, 10),
    integer=st.integers(-2, 12),
    signed=st.booleans(),
    rounding=st.sampled_from(Rounding.__args__),
    overflow=st.sampled_from(Overflow.__args__),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_onnx_quantisers_are_exact_in_every_mode(width, integer, signed, rounding, overflow, dtype, seed):
    format = FixedPoint(width, integer, signed, rounding, overflow)
    net = Net(60)
    net.quantize(format)
    x = values(seed, 1, 60, scale=format.max * 1.5)
    x[0, :30] = np.arange(-15, 15) * np.float32(format.step / 2)  # ties
    x[0, 30:36] = np.array([0.49999997, -0.49999997, 0.5, -0.50000006, 1e-30, -1e-30]) * np.float32(format.step)
    model = onnx_reader.read(to_onnx(net.graph, dtype=dtype))
    np.testing.assert_array_equal(onnx_reader.run(model, x)[0], [exact(value, format) for value in x[0]])


def same(a, b):
    assert (a.name, a.kind, a.inputs, a.shape) == (b.name, b.kind, b.inputs, b.shape)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, ir.Weight):
            assert x.format == y.format
            np.testing.assert_array_equal(x.value, y.value)
            assert x.value.dtype == y.value.dtype == np.float32
        elif field.name != "source":
            assert x == y


def test_a_file_of_hardware_words_holds_the_network(network, tmp_path):
    graph, _, _ = network
    save_hardware_weights(tmp_path / "net.npz", graph)
    back = load_hardware_weights(tmp_path / "net.npz")
    assert back.output == graph.output
    for a, b in zip(graph, back, strict=True):
        same(a, b)
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        description = json.loads(file["graph"].tobytes())
        kernels = [node for node in description["nodes"] if node["kind"] == "Conv"]
        for node in kernels:
            words, kernel = file[node["kernel"]["words"]], graph[node["name"]].kernel
            assert words.dtype == np.int8
            np.testing.assert_array_equal(words * 2.0 ** -node["kernel"]["fraction"], kernel.value)
            assert FixedPoint.parse(node["kernel"]["format"]) == kernel.format
    first = (tmp_path / "net.npz").read_bytes()
    save_hardware_weights(tmp_path / "again.npz", graph)
    assert (tmp_path / "again.npz").read_bytes() == first
    assert not list(tmp_path.glob(".*"))


def test_damaged_words_are_one_sentence(tmp_path):
    path = tmp_path / "net.npz"
    save_hardware_weights(path, signal_graph())
    data = path.read_bytes()
    for cut in (0, 30, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(CorruptFileError, match="no whole file of hardware weights"):
            load_hardware_weights(path)
    with np.load(_write(path, data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    changed = next(name for name in arrays if name.endswith("kernel"))
    np.savez(path, **{**arrays, changed: arrays[changed] + np.int8(1)})
    with pytest.raises(CorruptFileError, match="was altered"):
        load_hardware_weights(path)
    text = arrays["graph"].tobytes().replace(b'"version": 1', b'"version": 9')
    np.savez(path, **{**arrays, "graph": np.frombuffer(text, np.uint8)})
    with pytest.raises(ConfigError, match="of version 9"):
        load_hardware_weights(path)
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_hardware_weights(tmp_path / "nothing.npz")


def _write(path, data):
    path.write_bytes(data)
    return path


def test_floats_have_no_words(tmp_path):
    net = Net(3)
    net.quantize(INPUT)
    net.add(ir.Dense, (2,), kernel=ir.Weight(np.full((3, 2), np.pi, np.float32) ** -40))
    with pytest.raises(ExportError, match="lie on no fixed-point grid"):
        save_hardware_weights(tmp_path / "net.npz", net.graph)
    assert not list(tmp_path.iterdir())


def test_a_keras_file_of_the_bridge_is_read_back(tmp_path):
    graph = image_graph()
    write_keras(graph, tmp_path / "net.keras")
    back = load_keras_graph(tmp_path / "net.keras")
    x = values(7, 20, *graph.input.shape, scale=2.0)
    np.testing.assert_array_equal(outputs(back, x), outputs(graph, x))
    assert [n.name for n in back] == [n.name for n in graph]
    with pytest.raises(RunFolderError):
        write_keras(signal_graph(), tmp_path / "nowhere/net.keras")


def dense_graph():
    net = Net(6)
    net.quantize(INPUT)
    net.add(ir.Dense, (4,), kernel=weight(6, 4), bias=weight(4))
    net.quantize(FixedPoint(9, 4, True, "RND", "SAT"))
    net.add(ir.Relu, (4,))
    net.add(ir.Dense, (3,), kernel=weight(4, 3))
    return net.graph


def test_verilog_comes_with_its_ports_and_latency(tmp_path):
    design = write_verilog(dense_graph(), tmp_path / "rtl", name="head")
    expected = emit_verilog(dense_graph(), name="head")
    assert {p.name: p.read_text() for p in (tmp_path / "rtl/src").iterdir()} == dict(expected.sources)
    text = (tmp_path / "rtl/README.md").read_text()
    top = (tmp_path / "rtl/src/head_rtl.v").read_text()
    for port, bits in (("model_inp", design.input_port.bits), ("model_out", design.output_port.bits)):
        assert re.search(rf"`{port}` \| (in|out) \| {bits} \|", text)
        assert re.search(rf"\[{bits - 1}:0\] {port}", top)
    assert f"Latency: {design.latency_cycles} rising edges" in text
    # Words of the input, all of one type, in one row from bit 0.
    assert "| `model_inp` | 0 to 5 | from bit 0, 8 bits each, two's complement, fraction 5 |" in text


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory):
    """A project for a board, with shared multipliers and a test bench; written, not compiled."""
    folder = tmp_path_factory.mktemp("accelerator") / "project"
    asked = HlsSettings("VivadoAccelerator", "io_stream", "Resource", 5, None, "ZCU102", 10.0)
    samples = values(3, 4, 6)
    return folder, samples, export_hls(dense_graph(), folder, asked, testbench=samples)


def test_a_project_for_a_board_shares_multipliers_and_says_how(accelerator):
    folder, _, (project, messages) = accelerator
    assert project.exact
    # 6 x 4 products: 5 divides nothing, 4 leaves 6 multipliers for 4 outputs, 6 is a whole row. 4 x 3: 4.
    *factors, fifos = messages
    assert [re.match(r"layer (n\d) gets reuse factor (\d+), not 5: ", m).groups() for m in factors] == [
        ("n2", "6"), ("n5", "4"),
    ]  # fmt: skip
    assert "FIFOs hold" in fifos
    parameters = (folder / "firmware/parameters.h").read_text()
    assert re.findall(r"nnet::dense_config \{.*?reuse_factor = (\d+)", parameters, re.DOTALL) == ["6", "4"]
    assert "strategy = nnet::resource" in parameters
    assert "xczu9eg-ffvb1156-2-e" in (folder / "project.tcl").read_text()
    assert (folder / "firmware/network_axi.cpp").exists()
    assert list(folder.glob("**/axi_stream_driver.py"))


def test_the_test_bench_holds_samples_and_the_outputs_of_the_graph(accelerator):
    folder, samples, _ = accelerator
    np.testing.assert_array_equal(np.loadtxt(folder / "tb_data/tb_input_features.dat"), samples.astype(np.float64))
    written = np.loadtxt(folder / "tb_data/tb_output_predictions.dat")
    np.testing.assert_array_equal(written, outputs(dense_graph(), samples))


SETTINGS = {
    "another backend": ({"board": "zcu102"}, "is for the backend VivadoAccelerator, got Vitis"),
    "no board": ({"backend": "VivadoAccelerator"}, "needs a board, for example pynq-z2"),
    "two parts": ({"backend": "VivadoAccelerator", "board": "zcu102", "part": "x"}, "has its own part"),
    "no part": ({"part": "xcku115"}, "'xcku115' is no name of an FPGA part: .*such as xcu250-figd2104-2L-e"),
    "another maker": ({"part": "10AX115S2F45I1SG"}, "form of a part of Intel, and Vivado .* such as xcu250"),
    "reuse": ({"reuse_factor": 0}, "reuse_factor must be a whole number of at least 1, got 0"),
    "clock": ({"clock_period_ns": float("nan")}, "clock_period_ns must be a finite number, got nan"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_contradict_each_other_are_refused(case):
    fields, message = SETTINGS[case]
    with pytest.raises(ConfigError, match=message):
        HlsSettings(**fields)


def test_unknown_boards_and_wrong_samples_are_refused_before_any_work(tmp_path):
    unknown = HlsSettings("VivadoAccelerator", board="zcu999")
    with pytest.raises(ConfigError, match=r"no project for board 'zcu999', but for \('pynq-z2', 'zcu102'"):
        export_hls(dense_graph(), tmp_path / "p", unknown)
    for samples in (values(0, 2, 5), values(0, 0, 6), np.full((1, 6), np.nan)):
        with pytest.raises(InputError, match="finite samples of shape"):
            export_hls(dense_graph(), tmp_path / "p", testbench=samples)
    with pytest.raises(ConfigError, match="are of the format hls, got npz"):
        export(dense_graph(), "npz", tmp_path / "p", settings=HlsSettings())
    with without_type_checks(), pytest.raises(ConfigError, match="one of hls, verilog, keras, onnx, npz, got 'c'"):
        export(dense_graph(), "c", tmp_path / "p")
    with pytest.raises(ConfigError, match="of the format verilog, got keras"):
        export(dense_graph(), "keras", tmp_path / "p", start="n1")
    assert not (tmp_path / "p").exists()
    assert set(hls_export.supported_boards()) >= {"pynq-z2", "zcu102"}


def test_a_traced_network_keeps_its_function(tmp_path):
    params = {"w": values(0, 4, 3)}
    graph = trace(lambda p, x: nn.relu(quantize(x, INPUT) @ quantize(p["w"], WEIGHT)), params, (4,))
    save_hardware_weights(tmp_path / "net.npz", graph)
    x = values(1, 20, 4)
    np.testing.assert_array_equal(outputs(load_hardware_weights(tmp_path / "net.npz"), x), outputs(graph, x))
