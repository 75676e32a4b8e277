"""hls4ml's C++, compiled by g++, against the JAX network: every value equal, bit for bit."""

import re
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import values
from unchecked import without_type_checks

from fpga_bridge import ladder
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.export import HlsSettings, export_hls
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, ExportError, InputError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.normalization import ChannelAffine

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
WEIGHT = FixedPoint(6, 2, rounding="RND", overflow="SAT")
HIDDEN = FixedPoint(9, 4, rounding="RND_CONV", overflow="SAT_SYM")
WRAPPED = FixedPoint(7, 2, rounding="TRN_ZERO", overflow="WRAP")


def convolve(x, kernel, strides, padding):
    axes = "HW"[: kernel.ndim - 2]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(x, quantize(kernel, WEIGHT), strides, padding, dimension_numbers=numbers)


def image_network(p, x):
    """2-D convolution, batch norm, leaky relu, pooling, a branch joined by add and by concatenate, transpose."""
    x = quantize(x, INPUT)
    y = convolve(x, p["stem"]["kernel"], (2, 1), "SAME") + quantize(p["stem"]["bias"], WEIGHT)[None, None, None]
    y = quantize(y, HIDDEN)
    y = y * quantize(p["norm"]["scale"], WEIGHT)[None, None, None]
    y = quantize(y + quantize(p["norm"]["offset"], WEIGHT)[None, None, None], HIDDEN)
    y = nn.leaky_relu(y, 0.25)
    branch = quantize(convolve(y, p["branch"]["kernel"], (1, 1), "SAME"), HIDDEN)
    y = nn.relu(quantize(y + branch, WRAPPED))
    y = jnp.concatenate([y, branch], axis=-1)
    y = jnp.swapaxes(nn.max_pool(y, (3, 2), (2, 2), "SAME"), 1, 2)
    y = quantize(nn.avg_pool(y, (2, 1), (2, 1)), HIDDEN)
    y = jnp.concatenate([jnp.mean(y, axis=(1, 2)), jnp.max(y, axis=(1, 2))], axis=-1)
    return quantize(y @ quantize(p["head"]["kernel"], WEIGHT), WRAPPED)


IMAGE_PARAMS = {
    "stem": {"kernel": values(0, 3, 3, 2, 4), "bias": values(1, 4)},
    "norm": {"scale": values(2, 4), "offset": values(3, 4)},
    "branch": {"kernel": values(4, 1, 2, 4, 4)},
    "head": {"kernel": values(5, 16, 3)},
}


def signal_network(p, x):
    """1-D convolutions that a stream allows, and a dense head."""
    x = quantize(x, INPUT)
    x = nn.relu(quantize(convolve(x, p["first"]["kernel"], (2,), "VALID"), HIDDEN))
    x = nn.max_pool(x, (2,), (2,))
    x = quantize(convolve(x, p["second"]["kernel"], (1,), "SAME"), HIDDEN)
    x = quantize(x + nn.relu(x), HIDDEN)
    return quantize(x.reshape(x.shape[0], -1) @ quantize(p["head"]["kernel"], WEIGHT), HIDDEN)


SIGNAL_PARAMS = {
    "first": {"kernel": values(0, 3, 2, 4)},
    "second": {"kernel": values(1, 3, 4, 3)},
    "head": {"kernel": values(2, 12, 3)},
}


def mixed_network(p, x):
    """What the two others lack: 1-D average and global pools, a batch norm, strided SAME, the rarer modes."""
    x = quantize(x, INPUT)
    x = quantize(convolve(x, p["stem"]["kernel"], (2,), "SAME"), FixedPoint(8, 3, True, "RND_ZERO", "SAT_ZERO"))
    x = ChannelAffine(LinearPrecision(WEIGHT, WEIGHT, FixedPoint(9, 4, True, "RND_INF", "SAT"))).apply(
        {"params": p["norm"]}, x
    )
    x = quantize(nn.avg_pool(x, (2,), (2,)), FixedPoint(8, 3, True, "RND_MIN_INF", "SAT"))
    y = jnp.concatenate([jnp.mean(x, axis=1), jnp.max(x, axis=1)], axis=-1)
    # Two bits of integer weight 2^-1 and less: a negative number of integer bits in the middle of the network.
    y = quantize(y @ quantize(p["narrow"]["kernel"], FixedPoint(4, -1, True, "RND", "SAT")), FixedPoint(6, -1))
    return quantize(y @ quantize(p["head"]["kernel"], WEIGHT), FixedPoint(8, 2, True, "RND", "SAT_ZERO"))


MIXED_PARAMS = {
    "stem": {"kernel": values(0, 3, 2, 4)},
    "norm": {"scale": values(1, 4), "offset": values(2, 4)},
    "narrow": {"kernel": values(3, 8, 5, scale=0.2)},
    "head": {"kernel": values(4, 5, 3, scale=2.0)},
}


def strided_network(p, x):
    """A strided VALID convolution over two axes, with its result rounded at once."""
    x = quantize(convolve(quantize(x, INPUT), p["stem"]["kernel"], (2, 3), "VALID"), HIDDEN)
    return quantize(x.reshape(x.shape[0], -1) @ quantize(p["head"]["kernel"], WEIGHT), HIDDEN)


STRIDED_PARAMS = {"stem": {"kernel": values(0, 3, 2, 2, 2)}, "head": {"kernel": values(1, 12, 3)}}


@pytest.mark.parametrize(
    ("network", "params", "shape", "io_type", "backend"),
    [
        (mixed_network, MIXED_PARAMS, (16, 2), "io_parallel", "Vitis"),
        # The network of VivadoAccelerator is that of Vivado, here called through its AXI wrapper.
        (strided_network, STRIDED_PARAMS, (7, 6, 2), "io_parallel", "VivadoAccelerator"),
        (image_network, IMAGE_PARAMS, (8, 7, 2), "io_parallel", "Vitis"),
        (signal_network, SIGNAL_PARAMS, (17, 2), "io_stream", "VivadoAccelerator"),
    ],
)
def test_compiled_cpp_equals_jax_bit_for_bit(network, params, shape, io_type, backend, tmp_path, capfd):
    graph = trace(network, params, shape)
    converted = hls.convert(graph, tmp_path / "project", io_type=io_type, backend=backend, fifo_depths="simulated")
    # Without optimisation: g++ takes longer than the few samples. The ladder's tests compile with it.
    project = hls.compile_project(converted, optimization="-O0")
    cpp = (tmp_path / "project/firmware/network.cpp").read_text()
    depths = [int(depth) for depth in re.findall(r"#pragma HLS STREAM variable=\w+ depth=(\d+)", cpp)]
    assert bool(depths) == (io_type == "io_stream")
    assert max(depths, default=0) < 8  # hls4ml's own begin with the 8 pixels that the first convolution writes
    x = values(9, 50, *shape, scale=3.0)
    outputs = hls.emulate(project, x)
    expected = np.asarray(jax.jit(network)(params, x))
    assert outputs.shape == expected.shape
    assert len(np.unique(expected)) > 20  # neither saturated nor zero all over
    np.testing.assert_array_equal(outputs, expected)
    assert capfd.readouterr() == ("", "")  # hls4ml's talk stays away from the terminal
    with pytest.raises(InputError, match="takes samples of shape"):
        hls.emulate(project, x[:, :1])
    with pytest.raises(ExportError, match="more than 0 s"):
        hls.emulate(project, x, timeout_s=0.0)


def test_outputs_that_the_floats_of_axi_would_round_are_refused(tmp_path):
    def network(p, x):
        return quantize(x, FixedPoint(16, 4)) @ quantize(p["w"], FixedPoint(11, 2))

    graph = trace(network, {"w": np.full((2, 1), 1.0 - 2.0**-9, np.float32)}, (2,))
    with pytest.raises(ExportError, match=r"dense at .*test_hls.py:[0-9]+ .*float32, which holds 24 bits.*double"):
        hls.convert(graph, tmp_path / "float", backend="VivadoAccelerator")
    project = hls.convert(graph, tmp_path / "double", backend="VivadoAccelerator", options={"output_type": "double"})
    assert "typedef double T_out;" in (project.folder / "firmware/network_axi.h").read_text()


def test_a_board_gets_our_layers_where_no_other_backend_came_before(tmp_path):
    code = f"""
import numpy as np
from jax import lax
from pathlib import Path
from fpga_bridge.hls import project as hls
from fpga_bridge.tracing.trace import trace
from jaxgeo.layers.fixed_point import FixedPoint, quantize

def network(p, x):
    return lax.conv_transpose(quantize(x, FixedPoint(8, 4)), quantize(p, FixedPoint(6, 3)), (2,), "SAME")

graph = trace(network, np.ones((3, 1, 1), np.float32), (4, 1))
hls.convert(graph, Path({str(tmp_path / "p")!r}), backend="VivadoAccelerator", options={{"board": "pynq-z2"}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # what hls4ml has learnt stays for the process
    assert "nnet::zero_insertion<" in (tmp_path / "p/firmware/network.cpp").read_text()


def test_copies_of_a_repacked_stream_keep_every_bit(tmp_path):
    fine = FixedPoint(18, 2, rounding="RND", overflow="SAT")  # more bits after the point than hls4ml's default has

    def network(p, x):
        y = quantize(x, fine).reshape(len(x), 1, 2)
        return quantize(y * 0.5, fine) + nn.relu(y)

    project = hls.convert(trace(network, {}, (2, 1, 1)), tmp_path / "p", io_type="io_stream")
    x = values(9, 50, 2, 1, 1)
    outputs = hls.emulate(hls.compile_project(project, optimization="-O0"), x)
    np.testing.assert_array_equal(outputs, np.asarray(jax.jit(network)({}, x)))


def test_inputs_that_the_floats_of_axi_would_round_are_refused(tmp_path):
    wide = HardwareFormats(FixedPoint(30, 10), WEIGHT, WEIGHT, FixedPoint(24, 4))
    graph = with_formats(trace(lambda p, x: x @ p, np.eye(2, dtype=np.float32), (2,)), wide)
    with pytest.raises(ExportError, match=r"^input at .* reads .*<30,10.*float32, which holds 24 bits.*'input_type'"):
        hls.convert(graph, tmp_path / "float", backend="VivadoAccelerator")
    doubles = hls.convert(graph, tmp_path / "double", backend="VivadoAccelerator", options={"input_type": "double"})
    x = np.array([[300 + 2.0**-20, -511 + 5 * 2.0**-20]])  # of more bits than float32 holds
    outputs = hls.emulate(hls.compile_project(doubles, optimization="-O0"), x)
    np.testing.assert_array_equal(outputs, np.mod(x + 8, 16) - 8)  # wrapped to four bits before the point


def test_a_softmax_at_the_end_is_converted_and_called_inexact(tmp_path):
    graph = trace(lambda p, x: nn.softmax(quantize(x, INPUT)), {}, (4,))
    project = hls.convert(graph, tmp_path / "project")
    assert not project.exact
    with pytest.raises(InputError, match="not compiled"):
        hls.emulate(project, values(0, 2, 4))
    (tmp_path / "project/firmware/network.cpp").write_text("this is no C++")
    with pytest.raises(ExportError, match=r"g\+\+ rejected"):
        hls.compile_project(project)


def test_a_compiled_softmax_is_near_and_never_called_equal(tmp_path):
    def logits(p, x):
        return quantize(x, INPUT) @ quantize(p["w"], WEIGHT)

    params, x = {"w": values(0, 4, 3)}, values(1, 60, 4)
    climbed = ladder.climb(
        lambda p, x: nn.softmax(x @ p["w"]), lambda p, x: nn.softmax(logits(p, x)), params, x, tmp_path
    )
    assert not climbed.project.exact
    assert all(rung.bit_for_bit is None for rung in climbed.rungs)
    last = climbed.rungs[-1]
    assert last.name == "hls4ml C++"
    # Its tables have 1024 entries; measured 0.0031. With the types that hls4ml takes by default it was 0.17.
    assert 0 < last.max_abs_error < 0.01


def test_what_hls4ml_itself_refuses_comes_in_its_own_words(tmp_path, monkeypatch):
    graph = trace(lambda p, x: quantize(x, INPUT), {}, (4,))
    import hls4ml

    def refuse(*args, **kwargs):
        print("parsing layers")
        raise Exception("ERROR: Unsupported layer type")

    monkeypatch.setattr(hls4ml.converters, "convert_from_keras_model", refuse)
    message = r"hls4ml could not convert network for Vitis .*: Exception: ERROR: Unsupported .*'parsing layers'; try"
    with pytest.raises(ExportError, match=message):
        hls.convert(graph, tmp_path)


@pytest.mark.parametrize("option", ["backend", "io_type", "fifo_depths"])
def test_words_that_hls4ml_does_not_know_are_refused_before_any_work(option, tmp_path):
    graph = trace(lambda p, x: quantize(x, FixedPoint(8, 4)), {}, (2,))
    with without_type_checks(), pytest.raises(ConfigError, match=rf"^{option} must be one of \w+, \w+.*, got 'other'"):
        hls.convert(graph, tmp_path / "p", **{option: "other"})
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["my-net", "2d", "", "a/b", "../up", "naïve"])
def test_names_that_no_function_can_have_are_refused_before_any_work(name, tmp_path):
    graph = trace(lambda p, x: quantize(x, FixedPoint(8, 4)), {}, (2,))
    with pytest.raises(ConfigError, match=f"^'{re.escape(name)}' cannot name a function of C.*use letters, digits"):
        export_hls(graph, tmp_path / "p", name=name)
    assert not (tmp_path / "p").exists()


def test_an_emulation_that_aborts_leaves_this_process_alive(tmp_path):
    library = tmp_path / "firmware" / "network.so"
    library.parent.mkdir()
    (tmp_path / "abort.cpp").write_text(
        '#include <cstdlib>\nextern "C" void network_double(double*, double*) { abort(); }'
    )
    compiler = shutil.which("g++")
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "abort.cpp", "-o", library], check=True)
    project = hls.HlsProject(tmp_path, "network", (4,), (2,), True, library)
    with pytest.raises(ExportError, match="stopped with status -6"):
        hls.emulate(project, values(0, 2, 4))


def test_without_a_compiler_the_error_comes_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(ToolMissingError, match=r"g\+\+.*install"):
        ladder.climb(image_network, image_network, IMAGE_PARAMS, values(0, 2, 8, 7, 2), tmp_path)
    assert time.perf_counter() - start < 1.0  # the promise of the error: before any other work
    assert not list(tmp_path.iterdir())


STREAM_REFUSALS = {
    "reshape": (lambda x: x.reshape(-1, 6, 2), (4, 3)),
    "padded pooling": (lambda x: nn.max_pool(x, (3,), (2,), "SAME"), (4, 3)),
    "convolution": (
        lambda x: jax.lax.conv_general_dilated(
            x, np.ones((1, 2, 3, 1), np.float32), (2, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (5, 4, 3),
    ),
}


@pytest.mark.parametrize("operation", STREAM_REFUSALS)
def test_what_hls4ml_streams_wrongly_is_refused(operation, tmp_path):
    layers, shape = STREAM_REFUSALS[operation]
    graph = trace(lambda p, x: layers(quantize(x, INPUT)), {}, shape)
    with pytest.raises(ExportError, match=f"{operation} at .*test_hls.py:[0-9]+ .*use"):
        hls.convert(graph, tmp_path, io_type="io_stream")


def test_a_softmax_inside_and_a_join_of_four_axes_are_refused(tmp_path):
    graph = trace(lambda p, x: nn.relu(nn.softmax(quantize(x, INPUT))), {}, (4,))
    with pytest.raises(ExportError, match=r"softmax at .* export the logits"):
        hls.convert(graph, tmp_path)

    def join(p, x):
        y = quantize(x, INPUT).reshape(-1, 2, 2, 2, 1)
        return jnp.concatenate([y, y], -1)

    graph = trace(join, {}, (8,))
    with pytest.raises(ExportError, match=r"concatenate at .* reshape first"):
        hls.convert(graph, tmp_path)


def shared_network(p, x):
    """Products of 18, 4 and 3 terms to an output, over pixels; and of 24 over a vector."""
    x = quantize(convolve(quantize(x, INPUT), p["conv"], (1, 1), "SAME"), HIDDEN)
    x = quantize(x @ quantize(p["places"], WEIGHT), HIDDEN).reshape(x.shape[0], 8, 3)
    x = quantize(convolve(x, p["point"], (1,), "VALID"), HIDDEN)
    return quantize(x.reshape(x.shape[0], -1) @ quantize(p["head"], WEIGHT), WRAPPED)


SHARED = {"conv": values(0, 3, 3, 2, 4), "places": values(1, 4, 3), "point": values(2, 1, 3, 3),
          "head": values(3, 24, 2)}  # fmt: skip


@pytest.mark.parametrize("backend", ["Vitis", "Vivado"])
def test_multipliers_that_are_shared_as_far_as_can_be_compute_what_jax_does(backend, tmp_path):
    # With one of more than the 18, 4 or 3 products of an output, those of Vitis left out some without a word.
    graph = trace(shared_network, SHARED, (2, 4, 2))
    asked = HlsSettings(backend, "io_parallel", "Resource", 48)
    project, notes = export_hls(graph, tmp_path, asked)
    assert [re.findall(r"reuse factor (\d+), not 48", note) for note in notes] == [["18"], ["4"], ["3"]]
    assert all("in io_parallel a multiplier of a convolution serves one output" in note for note in notes)
    x = values(4, 40, 2, 4, 2)
    expected = np.asarray(jax.jit(shared_network)(SHARED, x))
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(hls.emulate(hls.compile_project(project, "-O0"), x), expected)


def test_multipliers_of_a_parallel_convolution_that_two_outputs_would_share_are_refused(tmp_path):
    graph = trace(shared_network, SHARED, (2, 4, 2))
    config = hls.layer_config(graph, plan_types(graph))
    config["LayerName"]["places"] |= {"ReuseFactor": 12, "Strategy": "Resource"}
    with pytest.raises(ExportError, match=r"dense at .*test_hls.py:\d+ .*reuse factor of 12, more than the 4 .*io_str"):
        hls.convert(graph, tmp_path, config=config)
    hls.convert(graph, tmp_path, config=config, io_type="io_stream")


def test_sums_far_below_the_step_that_they_are_rounded_to_are_rounded_as_in_jax(tmp_path):
    """The headers of ap_fixed stop at the bit beside the last, which such sums in the narrowest format have not."""
    tiny = jnp.asarray([[2.0**-9, 0.0], [0.0, -(2.0**-9)]])

    def network(_, x):
        return quantize(quantize(x, INPUT) @ tiny, FixedPoint(4, 3, rounding="RND_INF", overflow="SAT"))

    x = values(0, 20, 2, scale=2.0)
    project = hls.compile_project(hls.convert(trace(network, {}, (2,)), tmp_path), "-O0")
    np.testing.assert_array_equal(hls.emulate(project, x), np.asarray(jax.jit(network)({}, x)))


def test_a_quantizer_of_numbers_below_half_of_its_step_is_refused(tmp_path):
    def network(rounding):
        fine, coarse = FixedPoint(4, -3, rounding="RND"), FixedPoint(4, 3, rounding=rounding)
        return trace(lambda _, x: quantize(nn.relu(quantize(x, fine)), coarse), {}, (3,))

    with pytest.raises(ExportError, match=r"quantize at .* rounds ap_fixed<4,-3.* headers of ap_fixed stop; leave out"):
        hls.convert(network("RND_INF"), tmp_path)
    hls.convert(network("TRN"), tmp_path)


@pytest.mark.parametrize("perm", [(0, 1, 3, 2), (0, 3, 2, 1)])
def test_a_transpose_of_a_single_row_of_the_input_is_kept(perm, tmp_path):
    """hls4ml leaves it out, as if it moved channels that come first."""

    def network(_, x):
        x = jnp.transpose(quantize(x, INPUT), perm)
        return quantize(x @ quantize(jnp.asarray(values(1, x.shape[-1], 3)), WEIGHT), HIDDEN)

    project = hls.compile_project(hls.convert(trace(network, {}, (1, 3, 2)), tmp_path), "-O0")
    x = values(0, 20, 1, 3, 2, scale=2.0)
    np.testing.assert_array_equal(hls.emulate(project, x), np.asarray(jax.jit(network)({}, x)))


def test_a_batch_norm_as_it_is_drawn_keeps_its_rounding(tmp_path):
    """Of scale 1 and offset 0 hls4ml leaves it out, and with it the quantizer behind."""
    norm = ChannelAffine(LinearPrecision(WEIGHT, WEIGHT, WRAPPED))
    params = norm.init(jax.random.key(0), jnp.zeros((1, 4)))

    def network(p, x):
        return quantize(norm.apply(p, quantize(x, INPUT)), FixedPoint(5, 3, rounding="RND"))

    project = hls.compile_project(hls.convert(trace(network, params, (4,)), tmp_path), "-O0")
    x = values(0, 40, 4, scale=2.0)
    np.testing.assert_array_equal(hls.emulate(project, x), np.asarray(jax.jit(network)(params, x)))
