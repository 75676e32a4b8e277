"""The stages in their order, and the ways to run one or all of them.

A stage is a function `(run, progress) -> artefacts`: it reads the configuration and what earlier stages made from
the run and returns, by file name, what it made. Writing, checksums and timing happen here, once for all.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxgeo import files
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, JaxgeoError, RunFolderError, ToolMissingError
from jaxgeo.progress import Progress, SilentProgress
from jaxgeo.study.config import StudyConfig
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
    try:
        if again or (name == "export" and export_failure(run)):
            run.forget([name, *_builds_on(name)])
        elif run.finished(name):
            return False
        run.require(name, stage.needs)
        progress.stage(name, stage.description)
        begun = time.monotonic()
        try:
            function = stage.function()
            _note_surroundings(run, progress)
            artefacts = function(run, progress)
        except BaseException:
            # What broke it off is the error to tell, not that the clock could not be written.
            with contextlib.suppress(RunFolderError, CorruptFileError):
                run.add_seconds(name, time.monotonic() - begun)
            raise
        run.finish(name, artefacts, time.monotonic() - begun)
    except JaxgeoError:
        raise
    except OSError as error:
        raise files.run_folder_error(error, Path(error.filename or run.path)) from error
    return True


def _note_surroundings(run: RunFolder, progress: Progress) -> None:
    """Warn where a run goes on under other versions or devices; what is finished stays as it is."""
    import jax

    now = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    now |= {"device": jax.devices()[0].device_kind, "number of devices": jax.device_count()}
    for what, (before, value) in run.surroundings(now).items():
        progress.note(
            f"warning: {what} was {before} and is now {value}; finished stages stay as they are, but the last bits of "
            f"what follows may differ from those of an unbroken run"
        )


def export_failure(run: RunFolder) -> str | None:
    """Why the export failed, if it was tried and did."""
    return run.json("export", "figures").get("failure") if run.finished("export") else None


def export_is_open(run: RunFolder) -> bool:
    """Whether nothing has been exported yet, so that the settings of the export can still be changed."""
    return not run.finished("export") or not run.json("export", "figures")["ran"]


def change_settings(run: RunFolder, config: StudyConfig) -> None:
    """Take settings that differ only in what no finished stage has used; what rests on the former ones is made anew."""
    if config.export != run.config.export:
        run.forget(["export", *_builds_on("export")])
    run.change_settings(config)


def _export_or_say_why(run: RunFolder, progress: Progress) -> bool:
    """The export; where it fails, its failure is kept as its result, so that the report can follow."""
    try:
        return run_stage(run, "export", progress)
    except (ExportError, ToolMissingError, ConfigError) as error:
        why = str(error).rstrip(".")
        progress.note(f"the export failed: {why}")
        run.finish("export", {"figures.json": {"ran": False, "failure": why, "reason": f"it failed: {why}."}}, 0.0)
        return True


def run_study(run: RunFolder, progress: Progress | None = None) -> dict[str, Any]:
    """Run every stage that is not finished and return the numbers of `report.json`.

    An export that fails does not take the rest with it: the report says why, `report["export"]["failure"]` too, and
    the next call tries it again.

    Raises:
        ToolMissingError: the export is asked for and a tool that it needs is missing; said before the long work.
        RunFolderError, CorruptFileError: as for `run_stage`.
    """
    progress = progress or SilentProgress()
    if export_failure(run) or not run.finished("export"):
        check_tools(run.config)
    for stage in STAGES:
        done = _export_or_say_why(run, progress) if stage.name == "export" else run_stage(run, stage.name, progress)
        if not done:
            progress.stage(stage.name, "finished before; its files are whole")
    return files.read_json(run.path / "report.json")


def check_data(config: StudyConfig) -> None:
    """Look for the images before a folder is made.

    Raises:
        ConfigError, InputError: see `jaxgeo.data.digits.check_source`.
    """
    from jaxgeo.data.digits import check_source

    check_source(config.data.source)


def check_tools(config: StudyConfig) -> None:
    """Look for what the export needs before the long work.

    Raises:
        ToolMissingError: the export is asked for and a program that it needs is missing.
    """
    if config.export.run:
        from jaxgeo.study import export

        export.check_tools(config)


def peak_memory_bytes() -> dict[str, int]:
    """Peak resident memory of this process and of the largest of its children that ended, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        who: resource.getrusage(whose).ru_maxrss * unit
        for who, whose in (("process", resource.RUSAGE_SELF), ("largest_child", resource.RUSAGE_CHILDREN))
    }
