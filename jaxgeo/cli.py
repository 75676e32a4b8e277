"""The command `jaxgeo`: the table of its commands, and the status of the one that is called.

A deliberate error, or one of the disk, is one sentence on stderr and exit status 1.
"""

import difflib
import sys
import textwrap
from collections.abc import Iterable, Sequence

import jaxgeo
from jaxgeo import console, launch
from jaxgeo.dense_prediction import command as dense_command
from jaxgeo.errors import ConfigError
from jaxgeo.flags import Command
from jaxgeo.study import command as study_command

COMMANDS: dict[str, Command] = {**study_command.COMMANDS, **dense_command.COMMANDS, **launch.COMMANDS}
"""by name, of one word or two: what each does, and the function of the words behind its name"""

_HELP = {"--help", "-h"}


def _listed(names: Iterable[str]) -> str:
    width = max(map(len, COMMANDS)) + 4
    indents = {name: f"  {name}".ljust(width) for name in names}
    return "\n".join(
        textwrap.fill(COMMANDS[name][0], 100, initial_indent=indent, subsequent_indent=" " * width)
        for name, indent in indents.items()
    )


def _run(argv: Sequence[str]) -> int:
    """Find the command with the longest name that the words begin with, and run it."""
    first, helped = argv[0] if argv else "", not _HELP.isdisjoint(argv[:2])
    if first == "--version":
        print(f"jaxgeo {jaxgeo.__version__}")
        return 0
    below = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if first in _HELP:
        about = (jaxgeo.__doc__ or "").splitlines()[0]
        print(f"usage: jaxgeo COMMAND ...\n\n{about}\n\ncommands, each with a --help of its own:\n{_listed(COMMANDS)}")
        return 0
    if helped and below:
        print(f"commands of two words, each with a --help of its own:\n{_listed(below)}\n")
    for name in (" ".join(argv[:2]), first):
        if name in COMMANDS:
            return COMMANDS[name][1](argv[len(name.split()) :])
    if helped and below:
        return 0
    if not argv:
        raise ConfigError(f"which command? There are {', '.join(COMMANDS)}; jaxgeo --help says what each does")
    near = (
        below or difflib.get_close_matches(" ".join(argv[:2]), COMMANDS) or difflib.get_close_matches(first, COMMANDS)
    )
    hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(COMMANDS)}"
    raise ConfigError(f"no command is called {' '.join(argv[:2])!r}; {hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after a deliberate error, 130 or 143 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    return console.exit_status("jaxgeo", lambda: _run(words))


if __name__ == "__main__":
    sys.exit(main())
