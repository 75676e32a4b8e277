# ruff: noqa: PLW0108  -- the lambdas are lines of a model, which errors must name
"""Every supported operation becomes Keras layers that compute the same; every other one is refused by line."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge.hls.keras_model import to_keras
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ExportError, InputError
from jaxgeo.layers.patch import PatchConv
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig


def vector(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def keras_outputs(graph, x):
    with jax.numpy_rank_promotion("allow"):
        model = to_keras(graph)
        return np.asarray(jax.jit(lambda x: model(x, training=False))(x))


def check_equal(apply, params, shape, tolerance=1e-5):
    """Keras computes what the function does, up to the rounding of sums in another order."""
    graph = trace(apply, params, shape)
    x = vector(99, 6, *shape)
    with jax.numpy_rank_promotion("allow"):
        expected = jax.jit(apply)(params, x)
    np.testing.assert_allclose(keras_outputs(graph, x), expected, rtol=tolerance, atol=tolerance)
    return graph


def kinds(graph):
    return [node.kind for node in graph][1:]


class Network(nn.Module):
    """Whatever `layers` does, as a linen module."""

    layers: callable

    @nn.compact
    def __call__(self, x):
        return self.layers(x)


def linen(layers, shape):
    """A linen network with parameters and statistics away from their initial zeros and ones."""
    model = Network(layers)
    with jax.numpy_rank_promotion("allow"):
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    leaves, structure = jax.tree.flatten(variables)
    # Positive, as variances are.
    rng = np.random.default_rng(0)
    leaves = [rng.uniform(0.2, 1.0, leaf.shape).astype(np.float32) for leaf in leaves]
    return model.apply, jax.tree.unflatten(structure, leaves)


def _softmax_by_hand(x):
    shifted = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return shifted / jnp.sum(shifted, axis=-1, keepdims=True)


LINEN_CASES = {
    "dense": (lambda x: nn.Dense(3)(x), (5,), ["dense"]),
    "dense without bias": (lambda x: nn.Dense(3, use_bias=False)(x), (5,), ["dense"]),
    "dense on every pixel": (lambda x: nn.Dense(3)(x), (4, 5), ["dense"]),
    "convolution 1-D": (lambda x: nn.Conv(3, (3,), padding="VALID")(x), (8, 2), ["conv"]),
    "convolution 1-D strided": (lambda x: nn.Conv(3, (4,), strides=3)(x), (11, 2), ["conv"]),
    "convolution 2-D": (lambda x: nn.Conv(3, (3, 2), strides=(2, 1))(x), (7, 6, 2), ["conv"]),
    "convolution without bias": (lambda x: nn.Conv(3, (3,), use_bias=False)(x), (8, 2), ["conv"]),
    "batch norm": (lambda x: nn.BatchNorm(use_running_average=True)(x), (4, 3), ["affine"]),
    "batch norm after convolution": (
        lambda x: nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3,))(x)),
        (8, 2),
        ["conv", "affine"],
    ),
    "relu": (lambda x: nn.relu(x), (5,), ["relu"]),
    "leaky relu": (lambda x: nn.leaky_relu(x, 0.2), (5,), ["leakyrelu"]),
    "leaky relu after batch norm": (
        lambda x: nn.leaky_relu(nn.BatchNorm(use_running_average=True)(x)),
        (4, 3),
        ["affine", "leakyrelu"],
    ),
    "max pooling": (lambda x: nn.max_pool(x, (2,), (2,)), (8, 2), ["pool"]),
    "max pooling padded": (lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), (7, 6, 2), ["pool"]),
    "average pooling": (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), (6, 6, 2), ["pool"]),
    "global average": (lambda x: jnp.mean(x, axis=(1, 2)), (4, 4, 3), ["globalpool"]),
    "global average by a factor": (lambda x: jnp.sum(x, axis=1) * 0.125, (8, 3), ["globalpool"]),
    "global maximum": (lambda x: jnp.max(x, axis=1), (8, 3), ["globalpool"]),
    "softmax": (lambda x: nn.softmax(x), (5,), ["softmax"]),
    "softmax by hand": (_softmax_by_hand, (5,), ["softmax"]),
    "reshape": (lambda x: x.reshape(x.shape[0], 4, 6), (8, 3), ["reshape"]),
    "two reshapes": (lambda x: x.reshape(-1, 24).reshape(-1, 6, 4), (8, 3), ["reshape"]),
    "transpose": (lambda x: jnp.swapaxes(x, 1, 2), (4, 3), ["transpose"]),
    "concatenate": (lambda x: jnp.concatenate([x, nn.relu(x)], axis=-1), (4, 3), ["relu", "concatenate"]),
    "add": (lambda x: nn.relu(x) + x, (4, 3), ["relu", "add"]),
    "scale and offset": (lambda x: (2.0 - x) / 4.0 + 1.0, (4, 3), ["affine"]),
    "product": (lambda x: x * nn.relu(x), (4, 3), ["relu", "multiply"]),
    "squares": (lambda x: jnp.square(x) - x**2 / 2, (4, 3), ["multiply", "multiply", "affine", "add"]),
    "maximum": (lambda x: jnp.maximum(x[..., ::-1], x), (4, 3), ["dense", "maximum"]),
    "minimum": (lambda x: jnp.minimum(x, 1.0 - x), (4, 3), ["affine", "minimum"]),
    "channels gated": (
        lambda x: x * jnp.max(x, axis=(1, 2), keepdims=True),
        (4, 5, 3),
        ["globalpool", "reshape", "upsample", "multiply"],
    ),
    "pixels gated": (lambda x: nn.Dense(1)(x) * x, (4, 3), ["dense", "dense", "multiply"]),
    "negative": (lambda x: -x, (3,), ["affine"]),
    "difference": (lambda x: x - nn.relu(x), (4, 3), ["relu", "affine", "add"]),
    "three joined": (
        lambda x: jnp.concatenate([x, nn.relu(x), -x], axis=-1),
        (4, 3),
        ["relu", "affine", "concatenate", "concatenate"],
    ),
    "grouped convolution": (lambda x: nn.Conv(6, (3,), feature_group_count=2)(x), (8, 4), ["conv"]),
    "depthwise convolution": (
        lambda x: nn.Conv(6, (3, 2), (2, 1), kernel_dilation=(1, 2), feature_group_count=3)(x),
        (8, 7, 3),
        ["conv"],
    ),
    "relu by where": (lambda x: jnp.where(x > 0, x, 0.0), (5,), ["relu"]),
    "leaky relu by where": (lambda x: jnp.where(x < 0, 0.5 * x, x), (5,), ["leakyrelu"]),
    "leaky relu by division": (lambda x: jnp.where((y := 2.0 - x) > 0, y, y / 8), (5,), ["affine", "leakyrelu"]),
    "slope as a parameter": (lambda x: nn.PReLU()(x), (4, 3), ["leakyrelu"]),
    "slope above one": (lambda x: jnp.where(x > 0, x, 1.5 * x), (4, 3), ["prelu"]),
    "slopes of channels": (
        lambda x: jnp.where((y := nn.Dense(3)(x)) < 0, jnp.array([[[0.5, 0.0, -2.0]]]) * y, y),
        (4, 3),
        ["dense", "prelu"],
    ),
    "slopes behind a norm": (
        lambda x: jnp.where((y := 1.0 - 3 * x) > 0, y, y * jnp.array([[[0.25, 1.5]]])),
        (4, 2),
        ["affine", "prelu"],
    ),
    "threshold": (lambda x: jnp.where(x > 0.3, x, 0.0), (4, 3), ["thresholdedrelu"]),
    "threshold from below": (lambda x: jnp.where(x <= 0.5, 0.0, x), (4,), ["thresholdedrelu"]),
    "split": (lambda x: jnp.multiply(*jnp.split(x, 2, axis=-1)), (4,), ["dense", "dense", "multiply"]),
    "patches": (lambda x: PatchConv(3, 4)(x), (16, 2), ["conv"]),
    "checkpointed": (lambda x: jax.checkpoint(nn.relu)(x), (5,), ["relu"]),
    "squeezed": (lambda x: jnp.squeeze(x, 1), (1, 5), ["reshape"]),
    "axis of one": (lambda x: x[:, None, :], (5,), ["reshape"]),
    "reshape to itself and back": (lambda x: nn.relu(x.reshape(-1, 6).reshape(-1, 2, 3)), (2, 3), ["relu"]),
}


@pytest.mark.parametrize("case", LINEN_CASES)
def test_keras_computes_what_the_traced_function_does(case):
    layers, shape, expected_kinds = LINEN_CASES[case]
    graph = check_equal(*linen(layers, shape), shape)
    assert kinds(graph) == expected_kinds


def test_a_deep_network_keeps_the_names_of_its_layers():
    def layers(x):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(4, (3, 3), name="stem")(x)))
        y = nn.Conv(4, (3, 3), name="branch")(x)
        x = nn.max_pool(x + y, (2, 2), (2, 2))
        return nn.Dense(3, name="head")(jnp.mean(x, axis=(1, 2)))

    graph = check_equal(*linen(layers, (8, 8, 2)), (8, 8, 2))
    assert [n.name for n in graph] == [
        "input_map", "stem", "norm", "relu", "branch", "add", "max_pool", "average_pool", "head",
    ]  # fmt: skip
    assert to_keras(graph).get_layer("stem").kernel.shape == (3, 3, 2, 4)


def test_the_classifier_becomes_two_convolutions_and_a_head():
    model = HealpixClassifier(HealpixClassifierConfig())
    params = model.init(jax.random.key(0), jnp.zeros((1, 768, 1)))["params"]
    graph = check_equal(lambda p, x: model.apply({"params": p}, x), params, (768, 1))
    assert [n.name for n in graph] == ["input_map", "conv_0_dense", "relu", "conv_1_dense", "relu_1", "reshape", "head"]
    convolution = graph["conv_0_dense"]
    assert isinstance(convolution, ir.Conv)
    assert convolution.strides == (16,)
    assert convolution.kernel.value.shape == (16, 1, 8)
    with pytest.raises(InputError, match=r"called 'conv_dense'; the nearest are conv_.*_dense"):
        graph["conv_dense"]
    with pytest.raises(InputError, match=r"called 'zzz'; there are input_map, conv_0_dense, .*, head"):
        graph["zzz"]


def test_a_layer_called_twice_gets_two_names_and_one_kernel():
    params = {"w": vector(0, 4, 4)}
    graph = check_equal(lambda p, x: nn.relu(x @ p["w"]) @ p["w"], params, (4,))
    assert [n.name for n in graph] == ["input_map", "w", "relu", "w_1"]


def test_a_dense_layer_read_before_its_bias_stays_without():
    params = [vector(0, 4, 3), vector(1, 3)]

    def apply(p, x):
        y = x @ p[0]
        return jnp.concatenate([y, y + p[1][None]], axis=-1)

    graph = check_equal(apply, params, (4,))
    assert kinds(graph) == ["dense", "dense", "concatenate"]


def test_parameters_in_any_pytree_and_a_transposed_kernel_are_read():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Params:
        kernel: jax.Array

    def apply(p, x):
        return jax.lax.dot_general(x, p.kernel, (((1,), (1,)), ((), ())))

    graph = check_equal(apply, Params(vector(0, 3, 4)), (4,))
    assert [n.name for n in graph] == ["input_map", "kernel"]


def test_a_constant_of_the_code_needs_no_parameter():
    kernel = np.asarray(vector(0, 4, 3))
    graph = check_equal(lambda _, x: x @ jnp.asarray(kernel), {}, (4,))
    assert [n.name for n in graph] == ["input_map", "dense"]


def test_an_inner_jit_reports_the_line_of_this_call_and_not_of_the_first():
    jax.make_jaxpr(nn.leaky_relu)(jnp.zeros(3))  # fills the cache from this line
    model, params = linen(lambda x: nn.leaky_relu(x), (5,))
    (leaky,) = trace(model, params, (5,)).nodes[1:]
    here = inspect.currentframe().f_lineno
    assert leaky.source.line == here - 2
    assert Path(leaky.source.file).name == Path(__file__).name


REFUSALS = {
    "tanh": (lambda x: jnp.tanh(x), (4,), "relu"),
    "logistic": (lambda x: nn.sigmoid(x), (4,), "logits"),
    "conv_general_dilated": (lambda x: nn.Conv(4, (2, 2, 2))(x), (4, 4, 4, 1), "one or two spatial axes"),
    "convolution": (lambda x: nn.Conv(4, (3,), padding=((-1, 0),))(x), (8, 4), "SAME"),
    "max pooling": (lambda x: nn.max_pool(x, (2,), (2,), ((1, 1),)), (8, 4), "VALID"),
    "average pooling": (lambda x: nn.avg_pool(x, (3,), (2,), "SAME"), (8, 4), "VALID"),
    "reduce_window_max": (lambda x: nn.max_pool(x, (1, 1, 2), (1, 1, 1)), (4, 4, 4, 2), "over space only"),
    "reduce_sum": (lambda x: jnp.sum(x, axis=(1, 2)), (4, 3), "between the batch and the channels"),
    "reduce_max": (lambda x: jnp.max(x, axis=-1), (4,), "keepdims=True"),
    "exp": (lambda x: jnp.exp(x), (4,), "softmax"),
    "log": (lambda x: jnp.log(jnp.abs(x)), (4,), None),
    "integer_pow": (lambda x: x**3, (4,), "x * x"),
    "min": (lambda x: jnp.minimum(x, 1.0), (4,), "range of a quantizer"),
    "div": (lambda x: x / nn.relu(x), (4,), "softmax"),
    "max": (lambda x: jnp.maximum(x, 1.0), (4,), "relu"),
    "ge": (lambda x: jnp.where(x >= 1.0, x, 0.0), (4,), "one step lower"),
    "lt": (lambda x: jnp.where(x < jnp.arange(4.0)[None], 0.0, x), (4,), "relu"),
    "gt": (lambda x: jnp.where(x > -1.0, x, 0.0), (4,), "at least 0"),
    "select_n": (lambda x: jnp.where(x > 0.0, 1.0, x), (4,), "relu"),
    "add": (lambda x: x + jnp.arange(12.0).reshape(1, 4, 3), (4, 3), "each channel"),
    "dot_general": (lambda x: jnp.einsum("bpc,bqc->bpq", x, x), (64, 5), "parameters"),
    "transpose": (lambda x: jnp.swapaxes(x, 0, 1).swapaxes(0, 1), (4,), "batch"),
    "reshape": (lambda x: x.reshape(-1).reshape(-1, 4), (4,), "one sample"),
    "broadcast_in_dim": (lambda x: jnp.broadcast_to(x[:, None], (*x.shape[:1], 2, 4)), (4,), "one sample"),
    "concatenate": (lambda x: jnp.concatenate([x, jnp.ones((x.shape[0], 1))], axis=-1), (4,), "activations"),
    "convert_element_type": (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), (4,), "float32"),
    "rev": (lambda x: x[::-1], (4,), "outside of the network"),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 1))), (4,), "SAME"),
    "sort": (lambda x: jnp.sort(x, axis=-1), (4,), "and sort afterwards"),
}


@pytest.mark.parametrize("operation", REFUSALS)
def test_a_refusal_names_operation_file_line_and_remedy(operation):
    layers, shape, remedy = REFUSALS[operation]
    apply, params = linen(layers, shape)
    _, first_line = inspect.getsourcelines(layers)
    with pytest.raises(ExportError) as caught:
        trace(apply, params, shape)
    message = str(caught.value)
    if remedy is not None:
        assert message.startswith(operation)
        assert remedy in message
    last_line = first_line + len(inspect.getsourcelines(layers)[0]) - 1
    places = [f"{__file__}:{line} " for line in range(first_line, last_line + 1)]
    assert any(place in message for place in places), message


def test_a_convolution_in_groups_of_the_batch_is_refused_by_name():
    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x, jnp.ones((3, 4, 12)), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"), batch_group_count=x.shape[0]
        )
        return jnp.broadcast_to(y, (x.shape[0], *y.shape[1:]))

    with pytest.raises(ExportError, match=r"conv_general_dilated at .*parts of the batch; .*feature_group_count"):
        trace(apply, {}, (8, 4))


def test_a_model_that_looks_at_values_is_refused():
    with pytest.raises(ExportError, match="masks made from shapes"):
        trace(lambda p, x: x if x.sum() > 0 else -x, {}, (3,))


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda p, x: (x, x), "one array"),
        (lambda p, x: x.sum(), "first axis is the batch"),
        (lambda p, x: jnp.zeros((x.shape[0], 2)), "does not depend on its input"),
    ],
)
def test_a_function_of_another_form_is_refused(apply, words):
    with pytest.raises(InputError, match=words):
        trace(apply, {}, (3,))


def test_the_package_imports_neither_keras_nor_hls4ml():
    code = "import sys, fpga_bridge; print(sorted({'keras', 'hls4ml', 'da4ml', 'jax'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_the_extra_the_import_says_which_to_install():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'hls4ml' else find(name, *a)\n"
        "import fpga_bridge"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ToolMissingError: fpga_bridge needs hls4ml" in result.stderr
    assert "pip install 'jaxgeo[fpga]'" in result.stderr
