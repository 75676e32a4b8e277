"""What the commands of all studies do alike: one process works in a folder, and whatever ends it is a sentence."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgeo import files, interrupts, locks
from jaxgeo.errors import JaxgeoError
from jaxgeo.progress import Progress, progress_for


@contextlib.contextmanager
def run_folder(out: Path) -> Iterator[Progress]:
    """Make the folder where it is missing and hold it for this process alone; gives where to say what happens.

    Raises:
        RunFolderError: another process works in it, or it cannot be written.
    """
    with locks.held(files.make_folder(out)), progress_for(sys.stderr) as progress:
        yield progress


def perform(out: Path, work: Callable[[], Mapping[str, Any]]) -> int:
    """Do a study's work and print its figures as one line of JSON.

    Returns:
        The exit status: 0, 1 after an error of the library, which is printed, 130 or 143 after Ctrl-C or SIGTERM.
    """
    try:
        with interrupts.heeded():
            found = work()
    except JaxgeoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, interrupts.Terminated) as stop:
        print(f"stopped; what is finished lies in {out}, and the same command goes on from there", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    print(json.dumps(found))
    return 0
