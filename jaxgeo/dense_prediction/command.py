"""`jaxgeo train heal-swin`, `jaxgeo evaluate heal-swin` and `jaxgeo predict`: flags to one configuration, one call."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgeo.config_files import from_dict, load_config, to_dict
from jaxgeo.errors import ConfigError
from jaxgeo.flags import Command, find, parse, switch
from jaxgeo.progress import progress_for


def _train(argv: Sequence[str]) -> int:
    options, config = _settings(
        "train heal-swin",
        argv,
        "The folder of the run decides: where one of the same settings lies, it is gone on with, to the same numbers. "
        "Where there are several devices, they share each batch.",
        [],
    )
    if options.show:
        return _show(config)
    from jaxgeo.dense_prediction.fitting import fit

    with progress_for(sys.stderr) as progress:
        return _report(options.out, fit(options.out, config, progress.bar("training", "steps")))


def _evaluate(argv: Sequence[str]) -> int:
    weights = Annotated[Path, tyro.conf.arg(help="PyTorch's .ckpt or .pt, or safetensors, by the published names")]
    options, config = _settings(
        "evaluate heal-swin",
        argv,
        "The folder then holds a finished run, as after training: scores, figures, and parameters for `jaxgeo "
        "predict`. The presets that begin with paper have the published settings.",
        [("weights", weights)],
    )
    if options.show:
        return _show(config)
    from jaxgeo.dense_prediction.fitting import evaluate

    return _report(options.out, evaluate(options.out, config, options.weights))


def _show(config: Any) -> int:
    print(json.dumps(to_dict(config), indent=2))
    return 0


def _report(out: Path, fitted: Any) -> int:
    from jaxgeo.dense_prediction.fitting import report_line

    print(f"run folder: {out}", file=sys.stderr)
    for space, scores in fitted.scores["spaces"].items():
        numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
        print(space + ": " + ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in numbers.items()))
    print(report_line(out, fitted))
    return 0


def _settings(command: str, argv: Sequence[str], more: str, fields: list[tuple[Any, ...]]) -> tuple[Any, Any]:
    """The options of a command, and the configuration that its flags say.

    Args:
        command: its name.
        argv: what follows.
        more: to know of it.
        fields: flags of its own.
    """
    # The settings know of optimisers, and so of JAX: `jaxgeo --help` does not wait for that.
    from jaxgeo.dense_prediction.config import DenseConfig
    from jaxgeo.dense_prediction.presets import PRESETS

    prog = f"jaxgeo {command}"
    known, rest = find(prog, argv, {"--config": {"type": Path}, "--preset": {"choices": sorted(PRESETS)}})
    if known.config is not None and known.preset is not None:
        raise ConfigError("--config and --preset each bring settings of their own; give one of them")
    base = PRESETS[known.preset or "earth"]() if known.config is None else load_config(DenseConfig, known.config)
    what = (
        f"{COMMANDS[command][0]}\n\n--preset {{{','.join(sorted(PRESETS))}}} and --config FILE (.json or .toml) bring "
        f"settings, over which flags are laid. {more}"
    )
    out = ("out", Annotated[Path, tyro.conf.arg(help="folder of the run")])
    show = ("show", switch("print the settings as JSON, for --config, and do nothing"), False)
    parsed = parse(prog, what, [*fields, out, show], base, rest)
    epochs, steps = parsed.settings.fit.epochs, parsed.settings.training.steps
    if epochs is not None and steps != base.training.steps:
        raise ConfigError(
            f"the settings train for {epochs} epochs, so that --training.steps {steps} would count nothing; give "
            "--fit.epochs None beside it, or another number of epochs"
        )
    return parsed, from_dict(DenseConfig, to_dict(parsed.settings))


def _predict(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxgeo predict",
        description=COMMANDS["predict"][0],
        epilog="OUT.fits and OUT.npz hold a map for each class, then the entropy of the (mean) prediction, the mean "
        "entropy of the members and the mutual information, in nats, NESTED; OUT.png shows the likeliest class and "
        "these. Maps of any nside are taken; networks with a table of positions, or of more stages than a map can be "
        "halved, predict at their own nside, and the pixels of the map get what is predicted there.",
    )
    which = "folders of finished runs of one problem: same classes, nside and faces"
    parser.add_argument("run", type=Path, nargs="+", help=which)
    what = "FITS or npz with a map for each channel, raw and in any order, NaN or UNSEEN where missing; or the word "
    parser.add_argument("map", help=what + "earth, or wmap (I, Q, U of the band W): those of JAXGEO_DATA")
    named = "arrays of an npz file of another program, (pixel,) or (map, pixel), in the order of the channels"
    parser.add_argument("--arrays", nargs="+", default=[], help=named)
    parser.add_argument("--order", choices=("nested", "ring"), help="of the pixels, where the file does not say it")
    parser.add_argument("--out", type=Path, required=True, help="path of the files to write, without ending")
    args = parser.parse_args(argv)
    from jaxgeo.dense_prediction.predicting import predict_map

    print(json.dumps(predict_map(args.run, args.map, args.out, args.arrays, args.order)))
    return 0


COMMANDS: dict[str, Command] = {
    "train heal-swin": (
        "Train a HEAL-SWIN (or its flat baseline) on maps of the sphere, or go on with a run that was broken off.",
        _train,
    ),
    "evaluate heal-swin": (
        "Score a HEAL-SWIN (or its flat baseline) whose weights are in a file, such as a published checkpoint.",
        _evaluate,
    ),
    "predict": (
        "Write class probabilities for every pixel of a map, by one run of `jaxgeo train heal-swin` or by the mean of "
        "several, and how sure they are.",
        _predict,
    ),
}
"""by name: what each does, and the function of the words behind its name"""
