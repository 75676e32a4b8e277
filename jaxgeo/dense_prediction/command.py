"""`jaxgeo train heal-swin` and `jaxgeo predict`: flags to one configuration, one function called."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgeo.config_files import from_dict, load_config, to_dict, unchecked, unchecked_instance
from jaxgeo.errors import ConfigError
from jaxgeo.progress import progress_for

_TRAIN = "train", "heal-swin"
_PREDICT = "predict"


def is_mine(argv: Sequence[str]) -> bool:
    """Whether a command line is one of these commands; `jaxgeo train RUN` is the study's."""
    return tuple(argv[:2]) == _TRAIN or list(argv[:1]) == [_PREDICT]


def run(argv: Sequence[str]) -> int:
    """Run one of the two commands.

    Raises:
        JaxgeoError: what the user has to know.
    """
    return _predict(argv[1:]) if argv[0] == _PREDICT else _train(argv[2:])


def _train(argv: Sequence[str]) -> int:
    # The settings know of optimisers, and so of JAX: `jaxgeo --help` does not wait for that.
    from jaxgeo.dense_prediction.config import DenseConfig
    from jaxgeo.dense_prediction.presets import PRESETS

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--preset", choices=sorted(PRESETS))
    known, rest = first.parse_known_args(argv)
    if known.config is not None and known.preset is not None:
        raise ConfigError("--config and --preset each bring settings of their own; give one of them")
    base = PRESETS[known.preset or "earth"]() if known.config is None else load_config(DenseConfig, known.config)

    flags = unchecked(DenseConfig)

    @dataclasses.dataclass(frozen=True)
    class Train:
        """Train a HEAL-SWIN (or its flat baseline) on maps of the sphere, or go on with a run that was broken off.

        --preset {earth,paper,paper-flat,scenes} and --config FILE (.json or .toml) bring settings, over which flags
        are laid. The folder of the run decides: where one of the same settings lies, it is gone on with, to the same
        numbers.
        """

        out: Annotated[Path, tyro.conf.arg(help="folder of the run")]
        show: Annotated[bool, tyro.conf.arg(help="print the settings as JSON, for --config, and do nothing")] = False
        settings: Annotated[flags, tyro.conf.arg(name="")] = dataclasses.field(  # pyright: ignore[reportInvalidTypeForm]
            default_factory=lambda: unchecked_instance(flags, base)
        )

    parsed: Any = tyro.cli(
        Train, prog="jaxgeo train heal-swin", args=list(rest), config=(tyro.conf.FlagCreatePairsOff,)
    )
    config = from_dict(DenseConfig, to_dict(parsed.settings))
    if parsed.show:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    from jaxgeo.dense_prediction.fitting import fit, report_line

    print(f"run folder: {parsed.out}", file=sys.stderr)
    with progress_for(sys.stderr) as progress:
        fitted = fit(parsed.out, config, progress.bar("training", "steps"))
    for space, scores in fitted.scores["spaces"].items():
        numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
        print(space + ": " + ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in numbers.items()))
    print(report_line(parsed.out, fitted))
    return 0


def _predict(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxgeo predict",
        description="Write class probabilities for every pixel of a map, by one run of `jaxgeo train heal-swin` or by "
        "the mean of several, and how sure they are.",
        epilog="OUT.fits and OUT.npz hold a map for each class, then the entropy of the (mean) prediction, the mean "
        "entropy of the members and the mutual information, in nats, NESTED; OUT.png shows the likeliest class and "
        "these.",
    )
    which = "folders of finished runs of one problem: same classes, nside and faces"
    parser.add_argument("run", type=Path, nargs="+", help=which)
    what = "FITS or npz with a map for each channel, raw and in any order; or the word earth: that of JAXGEO_DATA"
    parser.add_argument("map", help=what)
    parser.add_argument("--out", type=Path, required=True, help="path of the files to write, without ending")
    args = parser.parse_args(argv)
    from jaxgeo.dense_prediction.predicting import predict_map

    print(json.dumps(predict_map(args.run, args.map, args.out)))
    return 0
