"""`jaxgeo study`, its stages and `jaxgeo config`: flags to one configuration, one call.

Progress goes to stderr; a study prints its tables on stdout, and the last line there is one JSON object of the figures.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgeo.config_files import check_same_settings, from_dict, load_config, to_dict
from jaxgeo.errors import ConfigError
from jaxgeo.flags import Command, find, parse, switch
from jaxgeo.interrupts import Terminated
from jaxgeo.progress import progress_for
from jaxgeo.study.config import StudyConfig, quick_study
from jaxgeo.study.pipeline import STAGES, change_settings, check_data, check_tools, export_is_open, run_stage, run_study
from jaxgeo.study.run_folder import RunFolder, read_config

_MAX_DEVICES = 8
_DOES = {
    "study": "Run the whole study on real digits, from projection to report.html, or go on with one.",
    "config": "Print the settings of a study as JSON, for --config.",
    "project": f"Begin a run: {STAGES[0].description}.",
} | {stage.name: f"Needs {', '.join(stage.needs)}: {stage.description}." for stage in STAGES[1:]}


def _path(text: str) -> Any:
    return Annotated[Path | None, tyro.conf.arg(help=text)]


_QUICK = ("quick", switch("the small variant, in about a minute: no RTL and no sound reference"), False)
_BEGIN = [("config", _path("read settings from this .json or .toml file"), None), _QUICK]
_STUDY = [
    ("out", _path("folder of a new run; without it: runs/ and the time of day"), None),
    ("resume", _path("folder of a run to go on with; finished stages are skipped"), None),
]
_STAGE = [
    ("run", Annotated[Path, tyro.conf.arg(help="folder of the run"), tyro.conf.Positional]),
    (
        "again",
        switch("make the stage anew although it is finished; what builds on it must then be made anew too"),
        False,
    ),
]


def _base_settings(prog: str, argv: Sequence[str]) -> StudyConfig:
    """The settings that flags are laid over; found before the real parsing, whose defaults they are."""
    path: dict[str, Any] = {"type": Path}
    known, rest = find(prog, argv, {"--config": path, "--resume": path, "--quick": {"action": "store_true"}})
    if {"--help", "-h"}.intersection(rest):
        return quick_study() if known.quick else StudyConfig()
    if sum([known.config is not None, known.resume is not None, known.quick]) > 1:
        raise ConfigError("--config, --quick and --resume each bring settings of their own; give one of them")
    if known.resume is not None:
        return read_config(known.resume)
    if known.config is not None:
        return load_config(StudyConfig, known.config)
    return quick_study() if known.quick else StudyConfig()


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
        check_data(wanted)
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
    check_same_settings(run.path, run.config, wanted, free)
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


def _config(argv: Sequence[str]) -> int:
    quick = parse("jaxgeo config", _DOES["config"], [_QUICK], None, argv).quick
    print(json.dumps(to_dict(quick_study() if quick else StudyConfig()), indent=2))
    return 0


def _run(name: str, argv: Sequence[str]) -> int:
    prog, fields, base = f"jaxgeo {name}", list(_STUDY if name == "study" else _STAGE), None
    if name in {"study", "project"}:
        fields, base = fields + _BEGIN, _base_settings(prog, argv)
    options = parse(prog, _DOES[name], fields, base, argv)
    _give_devices()
    return _execute(name, options)


COMMANDS: dict[str, Command] = {
    name: (does, _config if name == "config" else functools.partial(_run, name)) for name, does in _DOES.items()
}
"""by name: what each does, and the function of the words behind its name"""
