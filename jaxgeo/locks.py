"""A folder for one process at a time, so that two that go on with the same run do not write over each other."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from jaxgeo.errors import RunFolderError
from jaxgeo.files import run_folder_error

NAME = ".lock"
"""of the file in the folder; it stays, empty, and means nothing while no process holds it"""


def hold(folder: Path) -> int:
    """Hold a folder until `os.close` of what is returned, or until this process ends, however it ends.

    Raises:
        RunFolderError: another process (or another part of this one) holds it, or it cannot be written.
    """
    path = Path(folder) / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise run_folder_error(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise run_folder_error(error, path) from error
        raise RunFolderError(f"{folder} is in use by another process; wait until it ends, or end it") from error
    return descriptor


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is there, while this lasts; raises as `hold` does."""
    descriptor = hold(folder)
    try:
        yield
    finally:
        os.close(descriptor)
