"""What training examples must be: as many targets as inputs, and labels that are classes.

Looked at once, where data come in. Numbers of rows, shapes and dtypes are known also while JAX traces; values are
looked at where there are any, which is everywhere outside of a traced function.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxgeo.errors import InputError
from jaxgeo.training.processes import to_host


@dataclasses.dataclass(frozen=True)
class CheckedObjective:
    """An objective that knows what its data must be; called like the plain function, and compiled once like it.

    Two of equal losses are equal, so what is compiled for one serves the other.
    """

    loss: Callable[[Any, Any, Any, Any], Array]
    """loss of one member on one batch, nats per example: (params, key, inputs, targets)"""
    check: Callable[[Any, Any, Any], None] = dataclasses.field(compare=False)
    """(params, inputs, targets): raises `InputError`; of the parameters only shapes and dtypes are looked at"""

    def __call__(self, params: Any, key: Any, inputs: Any, targets: Any) -> Array:
        """The loss, a scalar."""
        return self.loss(params, key, inputs, targets)


def check_data(objective: Any, params: Any, inputs: Any, targets: Any) -> int:
    """Refuse data that an objective cannot be meant for; of a plain function only the numbers of rows are known.

    Args:
        objective: a `CheckedObjective` or a function.
        params: of one member, arrays or their shapes.
        inputs: all training inputs, example axis first.
        targets: one for each.

    Returns:
        The number of examples.

    Raises:
        InputError: no examples, inputs and targets of different numbers, or what the objective refuses.
    """
    number = check_rows(inputs, targets)
    if isinstance(objective, CheckedObjective):
        objective.check(params, inputs, targets)
    return number


def check_rows(inputs: Any, targets: Any) -> int:
    """The number of examples, which the first axis of every array must be.

    Raises:
        InputError: no examples, or arrays of different numbers of rows.
    """
    shapes, own = ([tuple(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)] for tree in (inputs, targets))
    rows = {shape[:1] for shape in shapes + own}
    if len(rows) != 1 or not own or not shapes or rows <= {(), (0,)}:
        raise InputError(
            f"there must be at least one example, and as many targets as inputs along the first axis, got inputs "
            f"{_listed(shapes)} and targets {_listed(own)}"
        )
    return own[0][0]


def check_finite(name: str, tree: Any) -> None:
    """Refuse NaN and infinities where values are known; whole numbers have none.

    Args:
        name: what the arrays are, for the message.
        tree: arrays.

    Raises:
        InputError: a value that is not finite.
    """
    for leaf in jax.tree.leaves(tree):
        known = not isinstance(leaf, Tracer | jax.ShapeDtypeStruct)
        if not known or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        # Where the array is, so that only a yes or no leaves the device; at once, also while a function is traced.
        with jax.ensure_compile_time_eval():
            finite = bool(_all_finite(leaf))
        if not finite:
            values = np.asarray(to_host(leaf), jnp.result_type(leaf))
            bad = np.argwhere(~np.isfinite(values))
            raise InputError(
                f"{name} must be finite, got {values[tuple(bad[0])]} at index {tuple(map(int, bad[0]))} of an array of "
                f"shape {values.shape} ({len(bad)} such values)"
            )


_all_finite = jax.jit(lambda values: jnp.all(jnp.isfinite(values)))


def check_labels(labels: Any, shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse what are not labels of classes; a label that is no class would match nothing and be likely for that.

    Args:
        labels: integers.
        shape: that they must have.
        num_classes: they are 0 ... num_classes - 1.

    Raises:
        InputError: no integers, another shape, or a class that there is not.
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise InputError(
            f"labels are class indices and need an integer dtype, got {jnp.result_type(labels)}; convert them "
            f"with labels.astype(int32), one-hot vectors with argmax(axis=-1)"
        )
    _check_shape("labels", labels, shape)
    values = _values(labels)
    if values is None or not values.size:
        return
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= num_classes:
        hint = "; subtract 1 from labels that count from one" if least >= 1 and most == num_classes else ""
        raise InputError(
            f"labels must lie in 0 ... {num_classes - 1}, as the network predicts {num_classes} classes, got values "
            f"from {least} to {most}{hint}"
        )


def check_regression_targets(targets: Any, shape: tuple[int, ...]) -> None:
    """Refuse targets that would be broadcast against the predictions, or are not finite.

    Raises:
        InputError: another shape than the predictions', NaN or an infinity.
    """
    _check_shape("regression targets", targets, shape)
    check_finite("regression targets", targets)


def _check_shape(name: str, targets: Any, shape: tuple[int, ...]) -> None:
    if tuple(jnp.shape(targets)) != shape:
        raise InputError(
            f"{name} must have the shape {shape}, as the network's predictions ask for, got {tuple(jnp.shape(targets))}"
        )


def _values(leaf: Any) -> np.ndarray | None:
    """An array on this machine, None of one that is only traced or a shape."""
    return None if isinstance(leaf, Tracer | jax.ShapeDtypeStruct) else to_host(leaf)


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)
