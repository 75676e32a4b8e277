"""Compilers and simulations as child processes that do not outlive this one and whose failures are one sentence."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxgeo.errors import ExportError, JaxgeoError
from jaxgeo.files import run_folder_error

TIMEOUT_S = 3600.0  # far above any compilation seen; only what hangs reaches it
_GUARD = Path(__file__).with_name("guard.py")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around code that writes at or below `path`: the system's errors become one sentence.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    try:
        yield
    except JaxgeoError:  # some of them are OSErrors too
        raise
    except OSError as error:
        raise run_folder_error(error, path) from error


def run(
    command: Sequence[str | Path],
    folder: Path,
    failure: str,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Run a command in `folder` and return what it printed, both streams.

    The command and its own children form one process group. It is killed whole where this function is left by any
    exception (Ctrl-C among them), and by a guard process where this process dies without warning.

    Args:
        command: program and arguments.
        folder: working directory, in which the command writes.
        failure: begins the message of the error, for example "g++ rejected the project".
        environment: instead of this process's own.
        timeout_s: after which the command is killed.

    Raises:
        ExportError: where the command fails or takes too long; the end of what it printed is given.
        RunFolderError: where it found the disk full.
    """
    lifeline, our_end = os.pipe()
    try:
        # -P: this folder must not come before the standard library, which has a module `trace` too.
        guarded = [sys.executable, "-P", str(_GUARD), str(lifeline), *map(str, command)]
        with subprocess.Popen(
            guarded,
            cwd=folder,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline,),
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout_s)
            except BaseException as error:
                # The leader is not yet waited for, so its number still means this group.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ExportError(f"{failure}: it took more than {timeout_s:g} s and was stopped") from error
                raise
    finally:
        os.close(lifeline)
        os.close(our_end)
    text = output.decode(errors="replace").strip()
    if process.returncode:
        if os.strerror(errno.ENOSPC) in text:
            raise run_folder_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder)
        raise ExportError(f"{failure} (stopped with status {process.returncode}): {text[-800:]}")
    return text
