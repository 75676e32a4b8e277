"""What commands of both packages end with: a status, and one sentence on stderr where something went wrong."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from jaxgeo import files, interrupts
from jaxgeo.errors import JaxgeoError


def exit_status(program: str, run: Callable[[], int]) -> int:
    """Run a command.

    Args:
        program: its name, in front of the sentence.
        run: does it, and returns the status.

    Returns:
        Its status; 1 after a deliberate error or one of the disk; 130 or 143 when interrupted.
    """
    try:
        with interrupts.heeded():
            try:
                return run()
            finally:
                sys.stdout.flush()  # what is still to be written may not fit on the disk
    except JaxgeoError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else Path("the output")
        print(f"{program}: {files.run_folder_error(error, where)}", file=sys.stderr)
        _give_up_output()
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except interrupts.Terminated:
        return 128 + signal.SIGTERM


def _give_up_output() -> None:
    """Python tries to write what is left once more when it ends, and would then say what was said here."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
