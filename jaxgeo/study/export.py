"""One member to hardware, by whatever package offers the stage: this library knows no hardware tool.

The stage is found through the entry point `export` of the group `jaxgeo.study`. Without the package, or without
its extra, the study goes on and says so.
"""

import importlib.metadata
import shutil
from collections.abc import Callable
from typing import Any

from jaxgeo.errors import ToolMissingError

_INSTALL = "install the extra: pip install 'jaxgeo[fpga]'"


def find_exporter() -> Callable[..., Any]:
    """The function behind the entry point.

    Raises:
        ToolMissingError: no package offers it, or one that it needs is not installed; says which extra to install.
    """
    entries = importlib.metadata.entry_points(group="jaxgeo.study", name="export")
    if not entries:
        raise ToolMissingError(f"no installed package offers the export; {_INSTALL}")
    try:
        return next(iter(entries)).load()
    except ImportError as error:
        raise ToolMissingError(f"the export needs {error.name or error}, which is not installed; {_INSTALL}") from error


def check_tools() -> None:
    """Look for the compiler before the long work.

    Raises:
        ToolMissingError: the export could run but for g++.
    """
    try:
        find_exporter()
    except ToolMissingError:
        return  # the report will say that the export did not run, and why
    if shutil.which("g++") is None:
        raise ToolMissingError(
            "the export compiles C++ and finds no g++ on the PATH; install it (Debian, Ubuntu: apt install g++), or "
            "leave the export out with --export.no-run"
        )
