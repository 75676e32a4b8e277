"""The stages in their order, and the ways to run one or all of them.

A stage is a function `(run, progress) -> artefacts`: it reads the configuration and what earlier stages made from
the run and returns, by file name, what it made. Writing, checksums and timing happen here, once for all.
"""

import dataclasses
import importlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxgeo.study.progress import Progress, SilentProgress
from jaxgeo.study.run_folder import RunFolder

Artefacts = Mapping[str, Mapping[str, Any] | str]
StageFunction = Callable[[RunFolder, Progress], Artefacts]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of the study; its function `run_stage` lies in the module of that name."""

    name: str
    description: str
    needs: tuple[str, ...]

    def function(self) -> StageFunction:
        """The stage's function, imported only now: the command line's help must not wait for JAX."""
        return importlib.import_module(f"jaxgeo.study.{self.name}").run_stage


STAGES = (
    Stage("project", "digits onto NESTED HEALPix maps", ()),
    Stage("train", "the deep ensemble and the MC dropout network", ("project",)),
    Stage("sample", "the HMC reference on the same log joint", ("project", "train")),
    Stage("score", "every method against the labels and against HMC", ("project", "train", "sample")),
    Stage("export", "one member to fixed point, Keras, hls4ml C++ and RTL", ("project", "train")),
    Stage("report", "the page and the numbers", ("project", "train", "sample", "score", "export")),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return STAGES[STAGE_NAMES.index(name)]


def _builds_on(name: str) -> list[str]:
    """Stages that use, directly or not, what `name` makes."""
    found = {name}
    for stage in STAGES:
        if found.intersection(stage.needs):
            found.add(stage.name)
    return [stage for stage in STAGE_NAMES if stage in found and stage != name]


def run_stage(run: RunFolder, name: str, progress: Progress | None = None, again: bool = False) -> bool:
    """Run one stage of a study, or go on with it where it was broken off.

    Args:
        run: the run's folder, open.
        name: one of `STAGE_NAMES`.
        progress: where to say what happens.
        again: make a finished stage anew; the stages that build on it must then be made anew too.

    Returns:
        Whether there was anything to do: False for a finished stage, whose files are checked instead.

    Raises:
        RunFolderError: a stage that it needs is not finished, or the folder cannot be written.
        CorruptFileError: a file that it needs is damaged.
    """
    stage, progress = stage_named(name), progress or SilentProgress()
    if again:
        run.forget([name, *_builds_on(name)])
    elif run.finished(name):
        return False
    run.require(name, stage.needs)
    progress.stage(name, stage.description)
    begun = time.monotonic()
    try:
        artefacts = stage.function()(run, progress)
    except BaseException:
        run.add_seconds(name, time.monotonic() - begun)
        raise
    run.finish(name, artefacts, time.monotonic() - begun)
    return True


def run_study(run: RunFolder, progress: Progress | None = None) -> dict[str, Any]:
    """Run every stage that is not finished and return the numbers of `report.json`.

    Raises:
        ToolMissingError: the export is asked for and a tool that it needs is missing; said before the long work.
        RunFolderError, CorruptFileError: as for `run_stage`.
    """
    progress = progress or SilentProgress()
    if run.config.export.run and not run.finished("export"):
        from jaxgeo.study.export import check_tools  # noqa: PLC0415 -- imports JAX

        check_tools()
    for stage in STAGES:
        if not run_stage(run, stage.name, progress):
            progress.stage(stage.name, "finished before; its files are whole")
    from jaxgeo import files  # noqa: PLC0415

    return files.read_json(run.path / "report.json")


def peak_memory_bytes() -> dict[str, int]:
    """Peak resident memory of this process and of the largest of its children that ended, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        who: resource.getrusage(whose).ru_maxrss * unit
        for who, whose in (("process", resource.RUSAGE_SELF), ("largest_child", resource.RUSAGE_CHILDREN))
    }
