"""Functions as callers have them, without the checks of types that this test run adds."""

import contextlib
import inspect
from collections.abc import Iterator

import jaxtyping


def unchecked(function):
    """The function below all wrappers: what it refuses here it refuses by itself."""
    return inspect.unwrap(function)


@contextlib.contextmanager
def without_type_checks() -> Iterator[None]:
    """Everything called inside, as callers have it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
