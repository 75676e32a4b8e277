"""CIFAR-10 beside published Hamiltonian Monte Carlo: deep and stochastic ensembles (arXiv:2212.08123, 2104.14421).

    python -m benchmarks.papers.cifar_posteriors --size reduced --out runs/cifar     # two cores
    python -m benchmarks.papers.cifar_posteriors --size full --out runs/cifar_full   # a GPU or more
    python -m benchmarks.papers.cifar_posteriors --size reduced --estimate           # how long it would take
    python -m benchmarks.papers.cifar_posteriors --size reduced --out runs/cifar --corruptions fog snow --ood none

Members of ResNet-20 with filter response normalisation and swish are trained as deep ensembles and as ensembles of MC
dropout, DropConnect and non-parametric dropout: Nesterov momentum 0.9, rate 0.1, a tenth at half and a hundredth at
three quarters of 300 epochs, batches of 64, no augmentation, Gaussian prior of precision 5 on every parameter
(`--prior variance` for the variance 5 that the HMC reference states). Members are spread over all devices. They
predict the test images whose published HMC probabilities are in JAXGEO_DATA (`cifar10_hmc.npz`, 5000 images, or the
competition's `probs.csv`, of which `--test-images` are taken) and are held against those; training images come from the
training files alone. Errors are jackknife errors over members.

`full` trains 8 members of each family on 40,960 images; `reduced` a network of depth 8 and width 8 on 10,000 images.
Then the same networks are scored on corrupted test images (`--corruptions`, `--severities`: fifteen kinds made anew in
the manner of CIFAR-10-C, at five severities) and have to tell images of SVHN and FashionMNIST from test images
(`--ood`; where their files are in JAXGEO_DATA). `full` takes all test images for that, `reduced` 200 of them
(`--shift-images`). These options may change when a folder goes on, whenever it was begun.

Each member, its predictions and its scores on each set are a file in the folder: what is there is not done again, what
was broken off goes on from the last epoch that was finished, and `--members` may grow. Ctrl-C and SIGTERM end an epoch
at once (but while a program is compiled, and on several CPU devices the first two epochs, within which JAX does not
come back). At the end report.md, report.json and, of the corruptions, shifts.json and shifts.png lie there, and the
last line printed is one JSON object.

Where the published programs drop the outputs of convolutions at each pixel, dropout here removes rows of kernels (one
input channel at one tap) or, with `--dropout-unit channel`, whole input channels (at all taps, in the whole plane), and
non-parametric dropout chooses whole channels, as a draw is one parameter tree. As there, the head is not dropped.
"""

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.papers.cifar_ensembles import (
    PREDICTED_AT_ONCE,
    SIZES,
    CifarConfig,
    Family,
    FamilyName,
    Problem,
    families,
    make_problem,
    member_keys,
    members_at_once,
    open_run,
    predict,
    predictions,
    train,
)
from benchmarks.papers.cifar_shift_pages import draw_picture, summary
from benchmarks.papers.cifar_shift_pages import markdown as shift_markdown
from benchmarks.papers.cifar_shifts import OUTSIDE, ShiftConfig, available_outside, chosen_images, score_shifts
from benchmarks.papers.command import perform, run_folder
from jaxgeo import files, interrupts
from jaxgeo.config_files import to_dict
from jaxgeo.data.cifar_hmc import as_log_probs
from jaxgeo.data.corruptions import CORRUPTIONS, SEVERITIES
from jaxgeo.errors import ConfigError
from jaxgeo.metrics.scorecard import Scorecard, score
from jaxgeo.progress import Progress, progress_for
from jaxgeo.training.ensemble import block_size, init_ensemble, steps_per_epoch, train_epochs
from jaxgeo.training.meshes import spread

COLUMNS = {
    "agreement": "agreement", "total_variation": "total variation", "accuracy": "accuracy",
    "negative_log_likelihood": "NLL, nats", "calibration_error_equal_width": "ECE, 10 bins",
}  # fmt: skip
BINS = 10  # of equal width, as for the published 0.0520 of HMC
SHIFT_IMAGES = {"full": None, "reduced": 200}
"""test images that are corrupted, None: all"""
NOTES = {
    "dropout_unit": "what a coin of MC dropout drops: an input channel of a kernel at one tap (row) or at all its taps "
    "(channel); the paper's programs toss one for each channel and pixel of a convolution's output",
    "members_per_block": "members vmapped together; on accelerators, where it is not given, as many as half of the "
    "memory holds, spread evenly over the devices",
}
"""more on some of the options"""
OUTSIDE_FILES = (
    "In the folder JAXGEO_DATA they are svhn/test_32x32.mat (the cropped digits as published, in MATLAB's format) and "
    "fashion-mnist/t10k-images-idx3-ubyte beside the other three published files, packed by gzip or not"
)
NO_SHIFTS = ShiftConfig(corruptions=(), outside=())


def estimate(
    config: CifarConfig, problem: Problem, made: dict[str, Family], progress: Progress, shifts: ShiftConfig
) -> dict[str, Any]:
    """How long the run would take here: a few steps of all members and a prediction, timed after a first one."""
    steps, settings = 4, config.training
    some = slice(0, steps * config.batch_size)
    images, labels = jnp.asarray(problem.train_images[some]), jnp.asarray(problem.train_labels[some])
    mesh = spread("member", config.members // block_size(config.members, settings))
    rows: dict[str, Any] = {}
    total = {"wall": 0.0, "cpu": 0.0}
    for name, family in made.items():
        begun = Clock()
        state = init_ensemble(member_keys(config, family, range(config.members)), family.init, settings)
        state, history = train_epochs(state, family.objective, images, labels, settings, 1, mesh)
        jax.block_until_ready(history.loss)
        first = begun.read()
        again = Clock()
        state, history = train_epochs(state, family.objective, images, labels, settings, 1, mesh)
        jax.block_until_ready(history.loss)
        step = {kind: value / steps for kind, value in again.read().items()}
        member = jax.tree.map(lambda leaf: leaf[:1], jax.device_get(state.params))
        draws = jax.tree.map(lambda leaf: leaf[:1], family.draw(jax.random.key(0), member))
        predict(problem.log_joint.apply, draws, problem.test_images[:PREDICTED_AT_ONCE])
        again = Clock()
        predict(problem.log_joint.apply, draws, problem.test_images[:PREDICTED_AT_ONCE])
        predicted = len(problem.test_images) + shifts.sets * len(chosen_images(problem.test_labels, shifts))
        share = predicted / min(PREDICTED_AT_ONCE, len(problem.test_images))
        drawn = {kind: value * share for kind, value in again.read().items()}
        count = config.epochs * steps_per_epoch(settings, config.images)
        for kind in total:
            total[kind] += first[kind] + count * step[kind] + config.members * family.draws * drawn[kind]
        rows[name] = {"step_of_all_members_s": step, "draw_s": drawn, "steps": count, "compile_s": first}
        progress.note(f"{family.title}: a step of all members {step['wall']:.2f} s, CPU time {step['cpu']:.2f} s")
    return {
        "families": rows,
        "minutes_here": total["wall"] / 60,
        "cpu_minutes": total["cpu"] / 60,
        "minutes_on_two_quiet_cores": total["cpu"] / 120,
        "how": f"{steps} steps of all members and a prediction timed after a first one, times steps and draws (for all "
        "test images, corrupted ones included), plus compiling; two quiet cores: half of the CPU time, as members run "
        "on one core each",
    }


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, as `wall` and `cpu`."""
        return {"wall": time.perf_counter() - self._begun[0], "cpu": time.process_time() - self._begun[1]}


def scorecards(predicted: dict[str, np.ndarray], config: CifarConfig, problem: Problem) -> dict[str, Scorecard]:
    """Scores of HMC itself and of each family, with jackknife errors over members."""
    labels = jnp.asarray(problem.test_labels)
    reference = jnp.asarray(as_log_probs(problem.reference))
    cards = {"hmc": score(reference, labels, reference, num_bins=BINS)}
    for name, log_probs in predicted.items():
        cards[name] = score(jnp.asarray(log_probs), labels, reference, groups=config.members, num_bins=BINS)
    return cards


def markdown(cards: dict[str, Scorecard], titles: dict[str, str], config: CifarConfig) -> str:
    """The table: a row for each family, a value with its jackknife error over members in each column."""
    source = "the published images" if config.source == "binary" else "a JPEG copy of the published images"
    lines = [
        f"# CIFAR-10 beside Hamiltonian Monte Carlo (ResNet-{config.depth}-FRN, width {config.width})", "",
        f"{config.members} members of each family, {config.epochs} epochs on {config.images} images from {source}; "
        f"prior {config.prior} {config.prior_value:g}; {cards['hmc'].num_images} test images. Agreement (more is "
        f"nearer) and total variation (less is nearer) are those with the published probabilities; ± is the jackknife "
        f"error over members. HMC is one published mean predictive without its chains: neither its own Monte Carlo "
        f"error nor the noise floor below which nobody can be told from it is known, and ± has no share of them. ECE "
        f"has {BINS} bins of equal width. The error that finitely many images leave stands in report.json.", "",
        "| family | draws | " + " | ".join(COLUMNS.values()) + " |",
        "| --- | ---: |" + " ---: |" * len(COLUMNS),
    ]  # fmt: skip
    for name, card in cards.items():
        cells = [_cell(card, column) for column in COLUMNS]
        draws = "published" if name == "hmc" else str(card.num_draws)
        lines.append(f"| {titles.get(name, 'HMC')} | {draws} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(card: Scorecard, column: str) -> str:
    measure = card[column]
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.4f}"
    return f"{measure.value:.4f}{error}"


def run(
    folder: Path, config: CifarConfig, problem: Problem, made: dict[str, Family], progress: Progress,
    shifts: ShiftConfig = NO_SHIFTS,
) -> dict[str, Any]:  # fmt: skip
    """Everything; what is finished is read.

    Raises:
        ConfigError: the folder was begun with other settings.
        RunFolderError: it cannot be written.
    """
    open_run(folder, config)
    predicted, seconds, members = {}, {}, {}
    titles = {name: family.title for name, family in made.items()}
    for name, family in made.items():
        begun = Clock()
        paths = members[name] = train(folder / name, family, config, problem, progress.bar(family.title, "epochs"))
        bar = progress.bar(f"{family.title}, predictions", "members")
        predicted[name] = predictions(paths, family, config, problem, bar)
        seconds[name] = begun.read()
    cards = scorecards(predicted, config, problem)
    page = markdown(cards, titles, config)
    found = {
        "study": "cifar_posteriors",
        "config": to_dict(config),
        "seconds": seconds,  # of this call: what was finished before costs nothing
        "scores": {name: _finite(card.to_dict()) for name, card in cards.items()},
    }
    _report(folder, found, page)  # now, should the scores on other images be broken off
    if shifts.sets:
        begun, images = Clock(), len(chosen_images(problem.test_labels, shifts))
        scored = score_shifts(folder, made, members, predicted, config, problem, shifts, progress)
        page += "\n".join(["", *shift_markdown(scored, titles, shifts, images, len(problem.test_labels))])
        if scored.severity:
            draw_picture(folder, scored, titles)
        settings = {"config": to_dict(shifts), "images": images}
        files.write_json_atomically(folder / "shifts.json", settings | scored.to_dict())
        found["shifts"] = settings | summary(scored)
        seconds["shifts"] = begun.read()
        _report(folder, found, page)
    print(page)
    return found


def _report(folder: Path, found: dict[str, Any], page: str) -> None:
    files.write_json_atomically(folder / "report.json", found)
    files.write_bytes_atomically(folder / "report.md", page.encode())


def _finite(scores: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | str | None]]:
    # Strict JSON has no infinity: the surprisal of a label that was thought impossible.
    return {
        name: {key: str(x) if x is not None and not math.isfinite(x) else x for key, x in measure.items()}
        for name, measure in scores.items()
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.cifar_posteriors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="reduced")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar_posteriors"), help="goes on in this folder")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take, and train nothing")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--devices", type=int, default=cores, help="virtual CPU devices; default: the cores at hand")
    shifts = parser.add_argument_group("scores on other images; may differ when a folder goes on")
    for option, names, text in (
        ("--corruptions", CORRUPTIONS, "corruptions of the test images; default: all"),
        ("--ood", OUTSIDE, f"images from outside; all: those whose files are there (default). {OUTSIDE_FILES}"),
    ):
        shifts.add_argument(option, nargs="+", choices=[*names, "all", "none"], default=["all"], help=text)
    shifts.add_argument("--severities", nargs="+", type=int, choices=SEVERITIES, default=list(SEVERITIES))
    text = "test images to corrupt, and images of each outside set; " + ", ".join(
        f"{name} {count or 'all'}" for name, count in SHIFT_IMAGES.items()
    )
    shifts.add_argument("--shift-images", type=int, help=text)
    options = parser.add_argument_group("changes of the size")
    for field in dataclasses.fields(CifarConfig):
        option, shown = (
            f"--{field.name.replace('_', '-')}",
            {name: getattr(size, field.name) for name, size in SIZES.items()},
        )
        text = ", ".join(f"{name} {value}" for name, value in shown.items()) if field.name != "families" else "all"
        text = f"{NOTES[field.name]}; {text}" if field.name in NOTES else text
        if field.name == "families":
            options.add_argument(option, nargs="+", choices=get_args(FamilyName), help=text)
        else:
            choices = get_args(field.type) or None
            kind = type(getattr(SIZES["full"], field.name))
            options.add_argument(option, type=kind, choices=choices, help=text)
    args = parser.parse_args(argv)
    if args.devices < 1:
        parser.error(f"--devices must be at least 1, got {args.devices}")
    return args


def config_of(args: argparse.Namespace) -> CifarConfig:
    """The size with what was changed of it.

    Raises:
        ConfigError: impossible settings.
    """
    names = [field.name for field in dataclasses.fields(CifarConfig)]
    changed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "families" in changed:
        changed["families"] = tuple(changed["families"])
    return dataclasses.replace(SIZES[args.size], **changed)


def shifts_of(args: argparse.Namespace) -> ShiftConfig:
    """What is to be scored on other images.

    Raises:
        ConfigError: `all` or `none` beside a name, a name twice, or too few images.
    """

    def named(option: str, given: list[str], everything: Sequence[Any]) -> tuple[Any, ...]:
        for word, meaning in (("all", tuple(everything)), ("none", ())):
            if given == [word]:
                return meaning
            if word in given:
                raise ConfigError(f"{option} {word} stands alone, got {' '.join(given)}")
        return tuple(given)

    return ShiftConfig(
        corruptions=named("--corruptions", args.corruptions, CORRUPTIONS),
        severities=tuple(args.severities),
        outside=named("--ood", args.ood, available_outside()),
        images=SHIFT_IMAGES[args.size] if args.shift_images is None else args.shift_images,
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)

    def work() -> dict[str, Any]:
        config, shifts = config_of(args), shifts_of(args)
        jax.config.update("jax_num_cpu_devices", args.devices)
        problem = make_problem(config)
        made = families(config, problem)
        if args.members_per_block is None:
            config = dataclasses.replace(config, members_per_block=members_at_once(config, problem, made))
        if args.estimate:
            with progress_for(sys.stderr) as progress:
                found = estimate(config, problem, made, progress, shifts)
            print(f"{found['minutes_on_two_quiet_cores']:.1f} minutes on two quiet cores, {found['how']}")
            return found
        with run_folder(args.out) as progress:
            return run(args.out, config, problem, made, progress, shifts)

    return perform(args.out, work)


if __name__ == "__main__":
    interrupts.leave(main())
