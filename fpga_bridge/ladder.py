"""The same inputs through float64, float32, fixed point in JAX, Keras and hls4ml's C++: the error at each step."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.hls import project as hls
from fpga_bridge.hls.keras_model import keras, to_keras
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.graph import Graph
from fpga_bridge.typed_graph.precision import FLOAT64_BITS, NodeTypes, carrier, plan_types
from jaxgeo.errors import InputError

Report = Callable[[int, int, dict[str, float]], None]
STEPS = 7  # calls of the progress callback


@dataclasses.dataclass(frozen=True)
class Rung:
    """One way of computing the outputs, compared with the one before it and with float64."""

    name: str
    compared_with: str
    max_abs_error: float
    mean_abs_error: float
    top1_agreement: float  # share of samples whose largest output stays the same
    num_values: int  # outputs compared
    num_equal: int  # of these, equal bit for bit
    equal_share: float
    max_abs_error_to_float64: float
    mean_abs_error_to_float64: float
    top1_agreement_to_float64: float
    bit_for_bit: float | None  # equal_share where a fixed-point rung follows another, else None: not to be expected
    accuracy: float | None = None


class Ladder(NamedTuple):
    """All rungs, the outputs of each by name, and what was built on the way."""

    rungs: tuple[Rung, ...]
    outputs: dict[str, np.ndarray]
    graph: Graph
    types: dict[str, NodeTypes]
    keras_model: Any
    project: hls.HlsProject
    carrier: str  # float32, or float64 where float32 could not hold the sums

    @property
    def bit_for_bit(self) -> bool:
        """Whether all fixed-point rungs agree in every value."""
        return all(rung.bit_for_bit == 1.0 for rung in self.rungs if rung.bit_for_bit is not None)


def climb(
    apply: Callable,
    fixed_apply: Callable | Graph,
    params: Any,
    inputs: np.ndarray,
    folder: Path,
    *,
    labels: np.ndarray | None = None,
    backend: hls.Backend = "Vitis",
    io_type: hls.IOType = "io_parallel",
    progress: Report | None = None,
) -> Ladder:
    """Run every rung on the same parameters and inputs.

    Args:
        apply: the network in floating point, `apply(params, x) -> logits`.
        fixed_apply: the same network with its quantisers, on the same parameter tree; or its graph with formats, as
            `fpga_bridge.keras_files.hardware_formats.with_formats` makes it of a network that has none.
        params: float32 tree.
        inputs: float32 `(sample, *shape)`.
        folder: where the HLS project is written.
        labels: integers of the outputs' shape without the classes; with them every rung gets an accuracy.
        backend: of hls4ml.
        io_type: of hls4ml.
        progress: told after each of `STEPS` steps.

    Raises:
        ToolMissingError: where g++ is missing; before anything else is done.
        InputError: for no samples, or values that are not finite.
        ExportError: where the network cannot be carried.
        RunFolderError: where the folder cannot be written.
    """
    hls.find_compiler()
    inputs = np.asarray(inputs, np.float32)
    if not len(inputs) or not np.isfinite(inputs).all():
        raise InputError(f"the ladder needs finite samples, at least one, got {inputs.shape} with NaN or infinities"
                         if len(inputs) else "the ladder needs at least one sample, got none")  # fmt: skip

    def done(step: int) -> None:
        if progress is not None:
            progress(step, STEPS, {})

    if isinstance(fixed_apply, Graph):
        graph, fixed = fixed_apply, functools.partial(_of_graph, fixed_apply)
    else:
        graph, fixed = trace(fixed_apply, params, inputs.shape[1:]), fixed_apply
    types, dtype = plan_types(graph, FLOAT64_BITS), carrier(graph)
    done(1)
    outputs = {"float64": forward(apply, params, inputs, "float64"), "float32": forward(apply, params, inputs)}
    done(2)
    outputs["fixed point in JAX"] = forward(fixed, params, inputs, dtype)
    done(3)
    model, outputs["Keras"] = keras_forward(graph, inputs, dtype)
    done(4)
    project = hls.convert(
        graph,
        folder,
        backend=backend,
        io_type=io_type,
        types=types,
        keras_model=model if dtype == "float32" else None,
    )
    done(5)
    project = hls.compile_project(project)
    done(6)
    outputs["hls4ml C++"] = hls.emulate(project, inputs)
    done(7)
    exact = ("Keras", "hls4ml C++") if project.exact else ("Keras",) if types[graph.output].exact else ()
    rungs = compare_rungs(outputs, exact, labels)
    return Ladder(rungs, outputs, graph, types, model, project, dtype)


def _of_graph(graph: Graph, params: Any, x: Any) -> Any:
    return apply_graph(graph, x)  # which holds its weights


def forward(apply: Callable, params: Any, inputs: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Outputs of a pure function in the given dtype, with products that no accelerator shortens."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        tree = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), params)
        return np.asarray(jax.jit(apply)(tree, jnp.asarray(inputs, dtype)))


@contextlib.contextmanager
def _keras_numerics(dtype: str) -> Iterator[None]:
    """Keras adds biases of lower rank, which a caller may have forbidden in his own code."""
    with (
        jax.enable_x64(dtype == "float64"),
        jax.default_matmul_precision("highest"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def keras_forward(graph: Graph, inputs: np.ndarray, dtype: str = "float32") -> tuple[Any, np.ndarray]:
    """The Keras model of a graph and its outputs."""
    with _keras_numerics(dtype):
        model = to_keras(graph, dtype=dtype)
        return model, np.asarray(_jitted(model)(jnp.asarray(inputs, dtype)))


def _jitted(model: Any) -> Callable:
    """Inference in one program; call by call, Keras would compile every layer on its own."""
    return jax.jit(lambda x: model(x, training=False))


def features(model: Any, layer: str, inputs: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """What the named layer of the Keras model writes for these inputs."""
    with _keras_numerics(dtype):
        part = keras.Model(model.input, model.get_layer(layer).output)
        return np.asarray(_jitted(part)(jnp.asarray(inputs, dtype)))


def compare_rungs(
    outputs: dict[str, np.ndarray], must_be_equal: tuple[str, ...] = (), labels: np.ndarray | None = None
) -> tuple[Rung, ...]:
    """Each entry of `outputs` against the one before it and against the first, in float64.

    Raises:
        InputError: where shapes differ, those of the labels included, or values are not finite.
    """
    names = list(outputs)
    decided = outputs[names[0]].shape[:-1]
    if labels is not None and np.shape(labels) != decided:
        raise InputError(f"outputs of shape {outputs[names[0]].shape} need labels of shape {decided}, got "
                         f"{np.shape(labels)}")  # fmt: skip
    for name in names:
        if outputs[name].shape != outputs[names[0]].shape or not np.isfinite(outputs[name]).all():
            raise InputError(
                f"outputs of {name} must be finite and of shape {outputs[names[0]].shape}, got {outputs[name].shape}"
            )
    return tuple(
        _rung(outputs, before, name, must_be_equal=name in must_be_equal, labels=labels)
        for before, name in itertools.pairwise(names)
    )


def _rung(
    outputs: dict[str, np.ndarray], before: str, name: str, *, must_be_equal: bool, labels: np.ndarray | None
) -> Rung:
    first = next(iter(outputs))
    values = {key: outputs[key].astype(np.float64) for key in (first, before, name)}
    error, from_first = np.abs(values[name] - values[before]), np.abs(values[name] - values[first])
    top = {key: value.argmax(-1) for key, value in values.items()}
    equal_share = float((values[name] == values[before]).mean())
    return Rung(
        name=name,
        compared_with=before,
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        top1_agreement=float((top[name] == top[before]).mean()),
        num_values=error.size,
        num_equal=int((values[name] == values[before]).sum()),
        equal_share=equal_share,
        max_abs_error_to_float64=float(from_first.max()),
        mean_abs_error_to_float64=float(from_first.mean()),
        top1_agreement_to_float64=float((top[name] == top[first]).mean()),
        bit_for_bit=equal_share if must_be_equal else None,
        accuracy=None if labels is None else float((top[name] == np.asarray(labels)).mean()),
    )
