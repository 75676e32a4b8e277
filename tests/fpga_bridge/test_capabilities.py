"""Every layer by every way to pass data and every backend: equal bit for bit in compiled C++, or refused by name."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge import cli
from fpga_bridge.capabilities import table as capabilities
from fpga_bridge.capabilities.jax_cases import IMAGE, INPUT, SIGNAL
from fpga_bridge.capabilities.table import CASES
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.checks import check_io
from fpga_bridge.hls.layers import softmax_error
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

table = functools.cache(capabilities.capability_table)  # seconds, which who only collects tests need not wait for
# Sums of at most 1400 products of 9 bits with signs: everything below 2^24 steps, so that float32 holds it.
PROJECTED = FixedPoint(24, 15, True, "TRN", "WRAP")
OUTPUTS = 3  # projections of each case


def rows(status):
    return [row for row in table() if row.status == status]


def exact_cases(shape, io_type, backend):
    taken = {(row.layer, row.variant) for row in table() if row.io_type == io_type and row.backend == backend
             and row.status in ("bit-exact", "rewritten")}  # fmt: skip
    return [case for case in CASES if case.shape == shape and (case.layer, case.variant) in taken]


@functools.cache
def reads(case):
    """How often a case reads its quantized input, the second node of its graph."""
    graph = capabilities.case_graph(case)
    return sum(node.inputs.count(graph.nodes[1].name) for node in graph)


def groups(cases, size):
    """So many cases to a project.

    hls4ml begins anew after each layer that a pass changes, and looks through all for the one before another: its time
    grows with the third power of the number of layers, and that of g++ with the number of projects.
    """
    return [cases[first : first + size] for first in range(0, len(cases), size)]


def network_of(cases):
    """All cases side by side, each projected onto random signs by a dense layer of its own: a wrong number shows."""
    counts = [reads(case) for case in cases]

    def network(_, x):
        x, readers, parts = quantize(x, INPUT), 0, []
        for number, (case, count) in enumerate(zip(cases, counts, strict=True)):
            readers += count
            if readers > 6:  # hls4ml copies a stream seven times at most; the seventh makes what the next cases read
                x, readers = quantize(-x, INPUT), count
            y = case.apply(x)
            flat = y.reshape(y.shape[0], -1)
            signs = np.random.default_rng(number).choice([-1.0, 1.0], (flat.shape[1], OUTPUTS))
            parts.append(quantize(flat @ jnp.asarray(signs, jnp.float32), PROJECTED))
        return jnp.concatenate(parts, axis=-1)

    return network


COMBINATIONS = [
    (shape, io, backend) for backend in ("Vitis", "Vivado") for io in capabilities.IO_TYPES for shape in (SIGNAL, IMAGE)
]
# Of all headers of hls4ml, Vivado's are other ones than Vitis' for these layers alone (the test below says so).
OTHER_IN_VIVADO = ("dense", "convolution", "max pooling", "average pooling", "global")


@pytest.mark.parametrize(("shape", "io_type", "backend"), COMBINATIONS)
def test_all_that_the_table_calls_exact_equals_jax_bit_for_bit(shape, io_type, backend, tmp_path):
    cases = exact_cases(shape, io_type, backend)
    if backend == "Vivado":
        cases = [case for case in cases if case.layer.startswith(OTHER_IN_VIVADO)]
    assert len(cases) >= 14
    wrong = []
    for number, group in enumerate(groups(cases, 32)):
        network = network_of(group)
        graph = trace(network, {}, shape)
        project = hls.convert(graph, tmp_path / str(number), io_type=io_type, backend=backend)
        # Without optimisation: g++ takes longer than the few samples.
        outputs = hls.emulate(hls.compile_project(project, optimization="-O0"), samples(shape))
        expected = np.asarray(jax.jit(network)({}, samples(shape)))
        assert (np.ptp(expected, axis=0) > 0).all()  # no projection is a constant
        equal = (outputs == expected).reshape(-1, len(group), OUTPUTS).all(axis=(0, 2))
        wrong += [f"{case.layer}, {case.variant}" for case, same in zip(group, equal, strict=True) if not same]
    assert wrong == []


def test_vivado_differs_from_vitis_in_dense_convolution_and_pooling_alone(tmp_path):
    case = next(case for case in CASES if case.layer == "relu")
    headers = {}
    for backend in ("Vitis", "Vivado"):
        hls.convert(capabilities.case_graph(case), tmp_path / backend, backend=backend)
        files = (tmp_path / backend / "firmware" / "nnet_utils").iterdir()
        headers[backend] = {file.name: file.read_bytes() for file in files}
    vitis, vivado = headers["Vitis"], headers["Vivado"]
    assert vitis.keys() == vivado.keys()
    other = {name for name in vitis if vitis[name] != vivado[name]}
    assert {name.split("_")[1].removesuffix(".h") for name in other} == {
        "conv1d", "conv2d", "dense", "pooling", "sepconv1d", "sepconv2d"
    }  # fmt: skip


def samples(shape):
    """From small ones, whose largest pixel is none at the end of the format, to those that saturate; then all words."""
    scales = np.linspace(0.25, 3.0, 8).reshape(-1, *(1 for _ in shape))
    rng = np.random.default_rng(7)
    drawn = (rng.normal(size=(8, *shape)) * scales).astype(np.float32)
    words = np.resize(rng.permutation(np.arange(INPUT.min_word, INPUT.max_word + 1)), (8, *shape)) * INPUT.step
    return np.concatenate([drawn, words.astype(np.float32)])


def test_the_samples_hold_every_word_of_the_input_format():
    # So a table that has one wrong entry shows, in the test of equality above.
    for shape in (SIGNAL, IMAGE):
        assert len(np.unique(quantize(jnp.asarray(samples(shape)), INPUT))) == 256


@pytest.mark.parametrize("io_type", capabilities.IO_TYPES)
@pytest.mark.parametrize("shape", [SIGNAL, IMAGE])
def test_vivado_accelerator_wraps_the_same_cpp_as_vivado_for_all_that_the_table_calls_exact(shape, io_type, tmp_path):
    for number, group in enumerate(groups(exact_cases(shape, io_type, "VivadoAccelerator"), 12)):
        graph = trace(network_of(group), {}, shape)
        firmware = {}
        for backend, options in (("Vivado", {}), ("VivadoAccelerator", {"board": "pynq-z2"})):
            folder = tmp_path / f"{backend}{number}"
            project = hls.convert(graph, folder, io_type=io_type, backend=backend, options=options)
            files = (project.folder / "firmware").rglob("*.*")
            firmware[backend] = {file.relative_to(folder): file.read_bytes() for file in files if file.is_file()}
        shared, wrapped = firmware["Vivado"], firmware["VivadoAccelerator"]
        assert len(shared) > 50  # network, types, weights, and all headers of hls4ml
        assert {name: wrapped[name] for name in shared} == shared
        assert {name.name for name in wrapped.keys() - shared.keys()} == {"network_axi.cpp", "network_axi.h"}


def test_every_class_of_the_graph_is_in_the_walk():
    classes = {
        kind.__name__.lower() for kind in vars(ir).values() if isinstance(kind, type) and issubclass(kind, ir.Node)
    }
    walked = {kind for row in rows("bit-exact") + rows("rewritten") + rows("approximate") for kind in row.nodes}
    assert classes - {"node"} == walked


def test_no_row_is_missing_and_each_says_why_it_is_not_plain():
    keys = [(row.layer, row.variant, row.backend, row.io_type) for row in table()]
    assert len(set(keys)) == len(keys) == len(CASES) * len(capabilities.BACKENDS) * len(capabilities.IO_TYPES)
    assert all(bool(row.detail) == (row.status != "bit-exact") for row in table())
    # What hls4ml 1.3 computes wrongly without a word, or aborts on: none of it is left to it.
    fate = {(row.layer, row.variant, row.io_type): row.status for row in table() if row.backend == "Vitis"}
    assert fate["upsampling", "bilinear", "io_parallel"] == "refused"
    assert fate["convolution, 1-D", "grouped", "io_stream"] == "rewritten"
    assert fate["convolution, 2-D", "dilated", "io_stream"] == "rewritten"
    assert fate["max pooling, 2-D", "same", "io_stream"] == "refused"
    assert fate["relu", "behind flatten", "io_stream"] == "refused"
    # Its recurrent layers: steps of its own or nothing.
    assert fate["QKeras SimpleRNN", "last state", "io_stream"] == "rewritten"
    assert fate["QKeras LSTM", "last state", "io_stream"] == "rewritten"
    assert fate["QKeras Bidirectional", "SimpleRNN", "io_parallel"] == "rewritten"
    assert fate["Keras LSTM", "tanh and sigmoid", "io_parallel"] == "refused"


@pytest.mark.parametrize("io_type", capabilities.IO_TYPES)
def test_refused_cases_stop_the_conversion_by_name_and_with_a_remedy(io_type, tmp_path):
    refused = [row for row in rows("refused") if (row.backend, row.io_type) == ("Vitis", io_type)]
    assert len(refused) > 5
    cases = {(case.layer, case.variant): case for case in CASES}
    by_layer = r"layer '\w+' \(\w+\) of model.keras.* .+; .+"
    said = {}
    for row in refused:
        try:
            hls.convert(capabilities.case_graph(cases[row.layer, row.variant]), tmp_path, io_type=io_type)
        except ExportError as error:
            said[row.layer, row.variant] = str(error)
        assert not list(tmp_path.iterdir()), row
    assert [row for row in refused if (row.layer, row.variant) not in said] == []
    sentence = re.compile(rf"([\w -]+ at .* cannot be exported: .+; .+|{by_layer})")
    assert [error for error in said.values() if not sentence.match(error)] == []


def chain(*nodes):
    return ir.Graph((ir.Input(name="x", inputs=(), shape=(4, 2)), *nodes), nodes[-1].name)


def test_joins_of_three_and_eight_readers_of_a_stream_are_refused_in_any_graph():
    three = chain(ir.Concatenate(name="y", inputs=("x",) * 3, shape=(4, 6), axis=1))
    with pytest.raises(ExportError, match=r"concatenate .* not 3; join pair by pair"):
        check_io(three, "io_parallel")
    sums = [ir.Add(name=f"y{i}", inputs=("x", f"y{i - 1}" if i else "x"), shape=(4, 2)) for i in range(7)]
    check_io(chain(*sums), "io_parallel")
    check_io(chain(*sums[:6]), "io_stream")
    with pytest.raises(ExportError, match=r"input .* more than 7 layers read it"):
        check_io(chain(*sums), "io_stream")


@pytest.mark.parametrize("apply", [lambda x: x, lambda x: x.reshape(x.shape[0], -1)])
def test_a_network_without_a_layer_is_refused_before_any_cpp(apply, tmp_path):
    graph = trace(lambda _, x: apply(quantize(x, INPUT)), {}, SIGNAL)
    with pytest.raises(ExportError, match=r"test_capabilities.py:[0-9]+ .*no layer.*put a layer"):
        hls.convert(graph, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=capabilities.IO_TYPES)
def softmax_errors(request, tmp_path_factory):
    """Of probabilities at the places of an image, from logits of 8 bits that lie up to 8 apart."""

    def network(_, x):
        return jax.nn.softmax(quantize(x, INPUT))

    graph = trace(network, {}, (2, 4, 3))
    project = hls.convert(graph, tmp_path_factory.mktemp("softmax"), io_type=request.param)
    assert not project.exact
    x = samples((2, 4, 3))
    return np.abs(
        hls.emulate(hls.compile_project(project, optimization="-O0"), x) - np.asarray(network({}, jnp.asarray(x)))
    )


def test_a_softmax_strays_by_its_tables_only_however_far_apart_the_logits(softmax_errors):
    # With hls4ml's own tables, where a distance wraps, it was 0.55.
    assert 0 < softmax_errors.max() < softmax_error(classes=3) < 0.003


def test_a_backend_is_named_where_it_fares_unlike_another():
    def fate(backend, io_type, status, detail=""):
        return capabilities.Capability("relu", "wide", backend, io_type, status, detail, ())

    rows = [fate(backend, io_type, "bit-exact") for backend in ("Vitis", "Vivado") for io_type in capabilities.IO_TYPES]
    line = f"{'relu':30} {'wide':32} "
    assert capabilities.table_lines(rows)[1] == line + f"{'both':11} bit-exact"
    rows[-1] = fate("Vivado", "io_stream", "refused", "why; what")
    assert capabilities.table_lines(rows)[1:4] == [
        line + f"{'both':11} Vitis alone: bit-exact",
        line + f"{'io_parallel':11} Vivado alone: bit-exact",
        line + f"{'io_stream':11} Vivado alone: refused: why; what",
    ]


def test_the_command_prints_the_table(capsys):
    assert cli.main(["capabilities"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:63].strip() for line in lines} >= {f"{case.layer:30} {case.variant}" for case in CASES}
    names = tuple(f"{status} (" for status in ("bit-exact", "rewritten", "approximate", "refused"))
    counts = [line.split(" (")[1].split("):")[0] for line in lines if line.startswith(names)]
    assert sum(map(int, counts)) == len(table())
    assert cli.main(["capabilities", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(table())
    assert cli.main(["capabilities", "--json", "--backend", "Vitis", "--io-type", "io_stream"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["backend"], row["io_type"]) for row in rows} == {("Vitis", "io_stream")}
