"""CIFAR-10 beside published Hamiltonian Monte Carlo: deep and stochastic ensembles (arXiv:2212.08123, 2104.14421).

    python -m benchmarks.papers.cifar_posteriors --size reduced --out runs/cifar     # two cores
    python -m benchmarks.papers.cifar_posteriors --size full --out runs/cifar_full   # a GPU or more
    python -m benchmarks.papers.cifar_posteriors --size reduced --estimate           # how long it would take

Members of ResNet-20 with filter response normalisation and swish are trained as deep ensembles and as ensembles of MC
dropout, DropConnect and non-parametric dropout: Nesterov momentum 0.9, rate 0.1, a tenth at half and a hundredth at
three quarters of 300 epochs, batches of 64, no augmentation, Gaussian prior of precision 5 on every parameter
(`--prior variance` for the variance 5 that the HMC reference states). Members are spread over all devices. They
predict the 5000 shared test images, whose published HMC probabilities (`cifar10_hmc.npz` in JAXGEO_DATA) they are held
against; training images come from the training files alone. Errors are jackknife errors over members.

`full` trains 8 members of each family on 40,960 images; `reduced` a network of depth 8 and width 8 on 10,000 images.
Each member and its predictions are a file in the folder: what is there is not done again, what was broken off goes on
from its last checkpoint, and `--members` may grow. At the end report.md and report.json lie there, and the last line
printed is one JSON object.

Where the published programs drop the outputs of convolutions at each pixel, dropout here removes rows of kernels (one
input channel at one tap) and non-parametric dropout chooses whole channels, as a draw is one parameter tree. As there,
the head is not dropped.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgeo import files, interrupts
from jaxgeo.config_files import from_dict, to_dict
from jaxgeo.data.cifar import Source, load_cifar10, rows_at, standardise
from jaxgeo.data.cifar_hmc import as_log_probs, load_hmc
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, JaxgeoError
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.layers.unit_choice import UnitChoice, init_pair
from jaxgeo.metrics.scorecard import Scorecard, score
from jaxgeo.models.resnet import ResNet, ResNetConfig, init_resnet
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, non_parametric_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.posteriors.stochastic_ensemble import Divergence
from jaxgeo.progress import Callback, Progress, progress_for
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.ensemble import Objective, TrainingConfig, block_size, init_ensemble, steps_per_epoch, train_epochs
from jaxgeo.training.meshes import spread

FamilyName = Literal["deep_ensemble", "mc_dropout", "drop_connect", "non_parametric_dropout"]
STEM, HEAD = "stem", "head"
COLUMNS = {
    "agreement": "agreement", "total_variation": "total variation", "accuracy": "accuracy",
    "negative_log_likelihood": "NLL, nats", "calibration_error_equal_width": "ECE",
}  # fmt: skip
_GROWING = ("members", "draws", "families", "test_images", "members_per_block")  # may differ when a folder goes on
_CHECKPOINT_S = 60.0
_PREDICTED_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class CifarConfig:
    """One run; the defaults are the published sizes, with the fewest members that give errors worth stating."""

    source: Source = "binary"
    images: int = 40_960
    test_images: int = 5000
    """at most; of those that have HMC probabilities"""
    depth: int = 20
    width: int = 16
    families: tuple[FamilyName, ...] = get_args(FamilyName)
    members: int = 8
    draws: int = 20
    """of each member of a stochastic family"""
    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    prior: Literal["precision", "variance"] = "precision"
    prior_value: float = 5.0
    dropout_rate: float = 0.1
    divergence: Divergence = "exact"
    """factor of the squares of what is dropped: that of the family, or that of the published programs"""
    members_per_block: int = 1
    """vmapped together; convolutions of several members at once are slower on a CPU than one after another"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what the parts would refuse late or not at all."""
        for name in ("images", "test_images", "members", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        unknown = sorted(set(self.families) - set(get_args(FamilyName)))
        if unknown or not self.families or len(set(self.families)) < len(self.families):
            raise ConfigError(f"families are some of {get_args(FamilyName)}, each once, got {self.families}")
        if self.prior not in ("precision", "variance"):
            raise ConfigError(f"prior must be 'precision' or 'variance', got {self.prior!r}")
        if not (math.isfinite(self.prior_value) and self.prior_value > 0):
            raise ConfigError(f"the prior's {self.prior} must be positive and finite, got {self.prior_value}")
        # Impossible settings of the parts, said before any data are read.
        steps_per_epoch(self.training, self.images)
        ResNetConfig(depth=self.depth, width=self.width)

    @property
    def training(self) -> TrainingConfig:
        """Optimiser and schedule as published."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, schedule="step",
            warmup_fraction=0.0, optimizer="sgd", nesterov=True, members_per_block=self.members_per_block,
        )  # fmt: skip

    @property
    def prior_scale(self) -> float:
        """Standard deviation of every parameter before the data."""
        return math.sqrt(1 / self.prior_value if self.prior == "precision" else self.prior_value)


SIZES = {
    "full": CifarConfig(),
    "reduced": CifarConfig(source="jpeg", images=10_000, depth=8, width=8, members=4, draws=5, epochs=4),
}


class Problem(NamedTuple):
    """Standardised images, what they are held against, and the log joint that all families share."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    reference: np.ndarray  # (image, class) probabilities of HMC
    init: Callable[[Array], Any]
    log_joint: LogJoint


class Family(NamedTuple):
    """How one family is trained, and how networks are drawn from one member."""

    title: str
    number: int  # of its keys, whatever other families there are
    objective: Objective
    init: Callable[[Array], Any]
    draw: Callable[[Array, Any], Any]  # (key, stack of one member) -> stacked networks
    draws: int


def make_problem(config: CifarConfig, root: Path | None = None) -> Problem:
    """Data and network of a run.

    Raises:
        JaxgeoError: a file is missing or damaged, or the test images are others than the reference's.
    """
    data = load_cifar10(config.source, root, num_train=config.images)
    probabilities, labels, places = load_hmc(root)
    shared = np.flatnonzero(np.isin(places, data.test_index))[: config.test_images]
    if not shared.size:
        raise InputError(f"none of the test images of source {config.source} has HMC probabilities")
    rows = rows_at(places[shared], data.test_index)
    if not np.array_equal(data.test_labels[rows], labels[shared]):
        raise CorruptFileError(
            f"the HMC probabilities are of other images than those of source {config.source}: "
            f"{int((data.test_labels[rows] != labels[shared]).sum())} of {shared.size} labels differ"
        )
    network = ResNetConfig(depth=config.depth, width=config.width)
    example = jax.ShapeDtypeStruct((1, *data.train_images.shape[1:]), jnp.float32)
    joint = LogJoint(pure_apply(ResNet(network), example), GaussianPrior(config.prior_scale, fan_in=False))
    return Problem(
        standardise(data.train_images), data.train_labels, standardise(data.test_images[rows]), labels[shared],
        probabilities[shared], functools.partial(init_resnet, config=network), joint,
    )  # fmt: skip


def families(config: CifarConfig, problem: Problem) -> dict[str, Family]:
    """The families asked for, by name."""
    joint, count, draws = problem.log_joint, config.images, config.draws
    # As published: neither pixels nor what the head sees are dropped; DropConnect drops weights of the first layer too.
    rows = RowDropout(rate=config.dropout_rate, fixed=(STEM, HEAD))
    weights = WeightDropout(rate=config.dropout_rate, fixed=(HEAD,))
    choice = UnitChoice(fixed=(HEAD,))
    made = {
        "deep_ensemble": Family(
            "deep ensemble", 0, deep_ensemble.objective(joint, count), problem.init, lambda key, member: member, 1
        ),
        "mc_dropout": Family(
            "MC dropout", 1, mc_dropout.objective(joint, rows, count, config.divergence), problem.init,
            lambda key, member: mc_dropout.draws_of_members(key, member, rows, draws), draws,
        ),
        "drop_connect": Family(
            "DropConnect", 2, drop_connect.objective(joint, weights, count, config.divergence), problem.init,
            lambda key, member: drop_connect.draws_of_members(key, member, weights, draws), draws,
        ),
        "non_parametric_dropout": Family(
            "non-parametric dropout", 3, non_parametric_dropout.objective(joint, count, choice),
            init_pair(problem.init),
            lambda key, member: non_parametric_dropout.draws_of_members(key, member, draws, choice), draws,
        ),
    }  # fmt: skip
    return {name: made[name] for name in config.families}


def member_keys(config: CifarConfig, family: Family, members: Sequence[int]) -> Array:
    """The seed of each member: a function of the run's seed, the family and the member's number alone."""
    base = jax.random.fold_in(jax.random.key(config.seed), 2 * family.number)
    return jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.asarray(members))


def open_run(folder: Path, config: CifarConfig) -> None:
    """Make the folder, or check that what lies there is of the same settings (but for what may grow)."""
    path = files.make_folder(folder) / "config.json"
    if not path.exists():
        files.write_json_atomically(path, to_dict(config))
        return
    before, now = to_dict(from_dict(CifarConfig, files.read_json(path))), to_dict(config)
    for key in before:
        if key not in _GROWING and before[key] != now[key]:
            raise ConfigError(f"{folder} was begun with {key} = {before[key]!r}, not {now[key]!r}; take another --out")


def train(folder: Path, family: Family, config: CifarConfig, problem: Problem, bar: Callback) -> list[Path]:
    """Files of all members; those that are missing are trained together, spread over the devices."""
    paths = [folder / f"member-{number:03d}.safetensors" for number in range(config.members)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    files.make_folder(folder)
    settings = config.training
    mesh = spread("member", len(missing) // block_size(len(missing), settings))
    state = init_ensemble(member_keys(config, family, missing), family.init, settings)
    images, labels = jnp.asarray(problem.train_images), jnp.asarray(problem.train_labels)
    halfway = folder / f"checkpoints-{missing[0]}-{missing[-1]}"
    with Checkpoints(halfway) as checkpoints:
        saved = checkpoints.restore(state)
        state = state if saved is None else saved[0]
        done, kept = int(state.epoch), time.monotonic()
        bar(done, config.epochs, {})
        while done < config.epochs:
            state, history = train_epochs(state, family.objective, images, labels, settings, 1, mesh)
            done += 1
            loss = np.asarray(history.loss[-1])
            if not np.isfinite(loss).all():
                raise ConfigError(
                    f"the loss of {family.title} became {loss.mean()} at epoch {done}; a lower --learning-rate may help"
                )
            bar(done, config.epochs, {"loss": float(loss.mean())})
            if time.monotonic() - kept > _CHECKPOINT_S and done < config.epochs:
                checkpoints.save(done, state, {})
                kept = time.monotonic()
    params = jax.device_get(state.params)
    for row, number in enumerate(missing):
        files.save_tree(paths[number], jax.tree.map(lambda leaf, row=row: leaf[row], params))
    shutil.rmtree(halfway)
    return paths


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(apply: Callable[[Any, Any], Array], params: Any, images: Array) -> Array:
    return jax.nn.log_softmax(apply(params, images))


def predict(apply: Callable[[Any, Any], Array], draws: Any, images: np.ndarray) -> np.ndarray:
    """Log-probabilities (draw, image, class) of stacked networks, float32; draw after draw, so that memory is flat."""
    count = jax.tree.leaves(draws)[0].shape[0]
    batches = [images[i : i + _PREDICTED_AT_ONCE] for i in range(0, len(images), _PREDICTED_AT_ONCE)]
    networks = (jax.tree.map(lambda leaf, row=row: leaf[row], draws) for row in range(count))
    return np.stack([np.concatenate([_log_probs(apply, network, batch) for batch in batches]) for network in networks])


def predictions(paths: list[Path], family: Family, config: CifarConfig, problem: Problem, bar: Callback) -> np.ndarray:
    """Log-probabilities (member x draw, image, class); kept beside each member."""
    base = jax.random.fold_in(jax.random.key(config.seed), 2 * family.number + 1)
    found = []
    for number, path in enumerate(paths):
        kept, wanted = path.with_name(f"predictions-{number:03d}.safetensors"), [family.draws, len(problem.test_images)]
        if kept.exists() and files.load_note(kept)["draws and images"] == wanted:
            found.append(files.load_arrays(kept)["log_probs"])
        else:
            member = jax.tree.map(lambda leaf: leaf[None], files.load_tree(path))
            draws = family.draw(jax.random.fold_in(base, number), member)
            found.append(predict(problem.log_joint.apply, draws, problem.test_images))
            files.save_arrays(kept, {"log_probs": found[-1]}, {"draws and images": wanted})
        bar(number + 1, len(paths), {})
    return np.concatenate(found)


def estimate(config: CifarConfig, problem: Problem, made: dict[str, Family], progress: Progress) -> dict[str, Any]:
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
        predict(problem.log_joint.apply, draws, problem.test_images[:_PREDICTED_AT_ONCE])
        again = Clock()
        predict(problem.log_joint.apply, draws, problem.test_images[:_PREDICTED_AT_ONCE])
        share = len(problem.test_images) / min(_PREDICTED_AT_ONCE, len(problem.test_images))
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
        "how": f"{steps} steps of all members and a prediction timed after a first one, times steps and draws, plus "
        f"compiling; two quiet cores: half of the CPU time, as members run on one core each",
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
    cards = {"hmc": score(reference, labels, reference)}
    for name, log_probs in predicted.items():
        cards[name] = score(jnp.asarray(log_probs), labels, reference, groups=config.members)
    return cards


def markdown(cards: dict[str, Scorecard], titles: dict[str, str], config: CifarConfig) -> str:
    """The table: a row for each family, a value with its jackknife error over members in each column."""
    source = "the published images" if config.source == "binary" else "a JPEG copy of the published images"
    lines = [
        f"# CIFAR-10 beside Hamiltonian Monte Carlo (ResNet-{config.depth}-FRN, width {config.width})", "",
        f"{config.members} members of each family, {config.epochs} epochs on {config.images} images from {source}; "
        f"prior {config.prior} {config.prior_value:g}; {cards['hmc'].num_images} test images. Agreement (more is "
        f"nearer) and total variation (less is nearer) are those with the published probabilities; ± is the jackknife "
        f"error over members. The error that finitely many images leave stands in report.json.", "",
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
    folder: Path, config: CifarConfig, problem: Problem, made: dict[str, Family], progress: Progress
) -> dict[str, Any]:
    """Everything; what is finished is read."""
    open_run(folder, config)
    predicted, seconds = {}, {}
    for name, family in made.items():
        begun = Clock()
        paths = train(folder / name, family, config, problem, progress.bar(family.title, "epochs"))
        bar = progress.bar(f"{family.title}, predictions", "members")
        predicted[name] = predictions(paths, family, config, problem, bar)
        seconds[name] = begun.read()
    cards = scorecards(predicted, config, problem)
    page = markdown(cards, {name: family.title for name, family in made.items()}, config)
    found = {
        "study": "cifar_posteriors",
        "config": to_dict(config),
        "seconds": seconds,  # of this call: what was finished before costs nothing
        "scores": {name: _finite(card.to_dict()) for name, card in cards.items()},
    }
    files.write_json_atomically(folder / "report.json", found)
    files.write_bytes_atomically(folder / "report.md", page.encode())
    print(page)
    return found


def _finite(scores: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | str | None]]:
    # Strict JSON has no infinity: the surprisal of a label that was thought impossible.
    return {
        name: {key: str(x) if x is not None and not math.isfinite(x) else x for key, x in measure.items()}
        for name, measure in scores.items()
    }


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, CifarConfig]:
    """The command's options, and the size with what was changed of it."""
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
    options = parser.add_argument_group("changes of the size")
    for field in dataclasses.fields(CifarConfig):
        option, shown = (
            f"--{field.name.replace('_', '-')}",
            {name: getattr(size, field.name) for name, size in SIZES.items()},
        )
        text = ", ".join(f"{name} {value}" for name, value in shown.items()) if field.name != "families" else "all"
        if field.name == "families":
            options.add_argument(option, nargs="+", choices=get_args(FamilyName), help=text)
        else:
            choices = get_args(field.type) or None
            kind = type(getattr(SIZES["full"], field.name))
            options.add_argument(option, type=kind, choices=choices, help=text)
    args = parser.parse_args(argv)
    if args.devices < 1:
        parser.error(f"--devices must be at least 1, got {args.devices}")
    names = [field.name for field in dataclasses.fields(CifarConfig)]
    changed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "families" in changed:
        changed["families"] = tuple(changed["families"])
    return args, dataclasses.replace(SIZES[args.size], **changed)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args, config = parse(argv)
        jax.config.update("jax_num_cpu_devices", args.devices)
        with interrupts.heeded(), progress_for(sys.stderr) as progress:
            problem = make_problem(config)
            made = families(config, problem)
            if args.estimate:
                found = estimate(config, problem, made, progress)
                print(f"{found['minutes_on_two_quiet_cores']:.1f} minutes on two quiet cores, {found['how']}")
            else:
                found = run(args.out, config, problem, made, progress)
    except JaxgeoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, interrupts.Terminated) as stop:
        print("stopped; what is finished lies in --out, and the same command goes on from there", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
