"""The command `jaxgeo`: typed flags to one configuration, one function called, its status returned.

Progress goes to stderr; a study prints its tables on stdout, and the last line there is one JSON object of the
figures. A deliberate error, or one of the disk, is one sentence on stderr and exit status 1.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

import jaxgeo
from jaxgeo import files, interrupts, launch
from jaxgeo.config_files import first_difference, from_dict, load_config, to_dict, unchecked, unchecked_instance
from jaxgeo.dense_prediction import command as dense_command
from jaxgeo.errors import ConfigError, JaxgeoError
from jaxgeo.interrupts import Terminated
from jaxgeo.progress import progress_for
from jaxgeo.study.config import StudyConfig, quick_study
from jaxgeo.study.pipeline import STAGES, change_settings, check_tools, export_is_open, run_stage, run_study
from jaxgeo.study.run_folder import RunFolder, read_config

_MAX_DEVICES = 8
_AGAIN = "make the stage anew although it is finished; what builds on it must then be made anew too"

_OTHERS = {
    launch.COMMAND: "run one program in several processes that share their devices",
    "train heal-swin": "train a HEAL-SWIN (or its flat baseline) on maps of the sphere",
    "evaluate heal-swin": "score one whose weights are in a file",
    "predict": "class probabilities for every pixel of a map, by such runs",
}
"""commands that parse their own words"""


def _commands(base: StudyConfig) -> dict[str, type]:
    """A dataclass for each command; the flags of settings take their defaults from `base`."""
    flags = unchecked(StudyConfig)
    settings = dataclasses.field(default_factory=lambda: unchecked_instance(flags, base))
    begin = [
        ("config", Annotated[Path | None, tyro.conf.arg(help="read settings from this .json or .toml file")], None),
        (
            "quick",
            Annotated[bool, tyro.conf.arg(help="the small variant, in about a minute: no RTL and no sound reference")],
            False,
        ),
        ("settings", Annotated[flags, tyro.conf.arg(name="")], settings),
    ]
    run = ("run", Annotated[Path, tyro.conf.arg(help="folder of the run"), tyro.conf.Positional])
    again = ("again", Annotated[bool, tyro.conf.arg(help=_AGAIN)], False)
    out = Annotated[Path | None, tyro.conf.arg(help="folder of a new run; without it: runs/ and the time of day")]
    resume = Annotated[Path | None, tyro.conf.arg(help="folder of a run to go on with; finished stages are skipped")]
    quick = Annotated[bool, tyro.conf.arg(help="those of --quick")]
    specs: dict[str, tuple[str, list[Any]]] = {
        "study": (
            "Run the whole study on real digits, from projection to report.html, or go on with one.",
            [("out", out, None), ("resume", resume, None), *begin],
        ),
        "config": ("Print the settings of a study as JSON, for --config.", [("quick", quick, False)]),
    }
    for stage in STAGES:
        first = stage.name == "project"
        text = "Begin a run: " if first else f"Needs {', '.join(stage.needs)}: "
        specs[stage.name] = (f"{text}{stage.description}.", [run, again, *(begin if first else [])])
    return {
        name: dataclasses.make_dataclass(name, fields, frozen=True, namespace={"__doc__": text})
        for name, (text, fields) in specs.items()
    }


def _value_of(flag: str, argv: Sequence[str]) -> Path | None:
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word.startswith(f"{flag}="):
            return Path(word.split("=", 1)[1])
        if word == flag and following is not None:
            return Path(following)
    return None


def _base_settings(argv: Sequence[str]) -> StudyConfig:
    """The settings that flags are laid over; found before the real parsing, whose defaults they are."""
    given, resumed, quick = _value_of("--config", argv), _value_of("--resume", argv), "--quick" in argv
    if {"--help", "-h"}.intersection(argv) or argv[:1] not in (["study"], ["project"]):
        return quick_study() if quick else StudyConfig()
    if sum([given is not None, resumed is not None, quick]) > 1:
        raise ConfigError("--config, --quick and --resume each bring settings of their own; give one of them")
    if resumed is not None:
        return read_config(resumed)
    if given is not None:
        return load_config(StudyConfig, given)
    return quick_study() if quick else StudyConfig()


def _parse(argv: Sequence[str]) -> tuple[str, Any]:
    commands = _commands(_base_settings(argv))
    subcommands = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=kind.__doc__, prefix_name=False)]
        for name, kind in commands.items()
    )
    others = "\n".join(f"  {words}: {does}" for words, does in _OTHERS.items())
    union: Any = Union[subcommands]  # noqa: UP007 -- the members are known only now
    parsed = tyro.cli(
        union,
        prog="jaxgeo",
        description=(jaxgeo.__doc__ or "").splitlines()[0]
        + f"\n\nBeside the commands below there are, each with a --help of its own:\n\n{others}",
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return type(parsed).__name__, parsed


def _give_devices() -> None:
    """Let members and chains use all cores, as virtual devices, where the user has not decided otherwise."""
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    # Once JAX runs it is too late, and a program that calls `main` decides for itself.
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ and "jax" not in sys.modules:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["JAX_NUM_CPU_DEVICES"] = str(min(cores, _MAX_DEVICES))


def _open(name: str, options: Any) -> RunFolder:
    """The run that the options mean: a new one, or one to go on with, where the flags change no setting in use."""
    if name not in {"study", "project"}:
        return RunFolder.open(options.run)
    wanted = from_dict(StudyConfig, to_dict(options.settings))
    if name == "project":
        path, going_on = options.run, (options.run / "manifest.json").exists()
        silent = wanted == StudyConfig() and not options.quick and options.config is None
    elif options.resume is not None and options.out is not None:
        raise ConfigError("--out begins a run and --resume goes on with one; give one of them")
    else:
        path, going_on = options.resume or options.out, options.resume is not None
        path, silent = path or Path("runs") / time.strftime("%Y-%m-%d-%H%M%S"), False
    if not going_on:
        if name == "study":
            check_tools(wanted)
        return RunFolder.create(path, wanted)
    run = RunFolder.open(path)
    try:
        if not silent:
            _lay_over(run, wanted)
    except BaseException:
        run.close()
        raise
    return run


def _lay_over(run: RunFolder, wanted: StudyConfig) -> None:
    free = {"run", "export"} if export_is_open(run) else {"run"}
    different = first_difference(run.config, wanted, free)
    if different:
        key, before, now = different
        raise ConfigError(
            f"{run.path} was begun with {key} = {before!r}, which {now!r} would change half-way; leave that out, or "
            f"begin a new run"
        )
    change_settings(run, wanted)


def _execute(name: str, options: Any) -> int:
    with _open(name, options) as run:
        print(f"run folder: {run.path}", file=sys.stderr)
        try:
            with progress_for(sys.stderr) as progress:
                if name != "study":
                    done = run_stage(run, name, progress, options.again)
                    if not done:
                        progress.note(f"{name} was finished before; its files are whole (--again makes it anew)")
                    print(json.dumps({"stage": name, "run": str(run.path), "done": done} | run.json(name, "figures")))
                    return 0
                report = run_study(run, progress)
        except (KeyboardInterrupt, Terminated):
            how = f"jaxgeo study --resume {run.path}"
            print(f"jaxgeo: interrupted; what was done is kept, go on with: {how}", file=sys.stderr)
            raise
        print(f"report: {(run.path / 'report.html').resolve()}", file=sys.stderr)
        _print_study(run, report)
        failure = report["export"].get("failure")
        if failure:
            again = f"the report has all else; try the export again with: jaxgeo study --resume {run.path}"
            print(f"jaxgeo: the export failed: {failure}; {again}", file=sys.stderr)
        return 1 if failure else 0


def _print_study(run: RunFolder, report: dict[str, Any]) -> None:
    from jaxgeo.study import console, values, wording

    console.print_tables(wording.console_tables(values.restored(report)), sys.stdout)
    print(json.dumps({"run": str(run.path)} | report["figures"] | {"timing": report["timing"]}))


def _study_command(argv: Sequence[str]) -> int:
    name, options = _parse(argv)
    if name == "config":
        print(json.dumps(to_dict(quick_study() if options.quick else StudyConfig()), indent=2))
        return 0
    _give_devices()
    return _execute(name, options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after a deliberate error, 130 or 143 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with interrupts.heeded():
            if launch.is_mine(argv):
                return launch.run(argv)
            return dense_command.run(argv) if dense_command.is_mine(argv) else _study_command(argv)
    except JaxgeoError as error:
        print(f"jaxgeo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else Path("the output")
        print(f"jaxgeo: {files.run_folder_error(error, where)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated:
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
