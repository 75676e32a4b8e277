"""Every family of posteriors against Hamiltonian Monte Carlo on a small image network, from images to one table.

    JAXGEO_DATA=data python -m benchmarks.papers.image_posteriors --out runs/images
    python -m benchmarks.papers.image_posteriors --quick --out runs/quick    # small sizes, to see that all works

FashionMNIST averaged to 7 x 7 pixels (or, where its files are not, scikit-learn's digits of 8 x 8) is learnt by a
perceptron of two hidden layers and some 4000 parameters. The reference is HMC: four chains begun at four trained
networks, on the log joint that all others share, with its split R-hat on the predictions. Held against it: a deep
ensemble; ensembles of MC dropout, DropConnect and non-parametric dropout; Laplace's approximation (draws of the last
layer or of a diagonal; the linearised network with a diagonal, Kronecker-factored or whole precision); mean-field
variational inference; SWAG; cyclical SGLD and SGHMC; and microcanonical Langevin chains begun at a deep ensemble. Each
is a `Posterior`, and only `init` and `sample` are called.

The step of SGLD and SGHMC is not tuned against the reference: it follows from the largest curvature and the noise of
the gradients at one trained network (`jaxgeo.posteriors.langevin_step`), both of the training images alone, and from
the share `--inflation` by which the variance in the worst direction may be too large when a cycle's first draw is begun
(the steps of later draws are smaller, other directions softer). Held-out training images prefer steps as long as that
allows: `python -m benchmarks.papers.langevin_steps`.

For each: accuracy, negative log-likelihood (NLL), Brier score, expected calibration error (ECE), agreement and total
variation with HMC, the divergence KL(HMC, method) of its predictions, |H - H_HMC| and |MI - MI_HMC| (entropy and mutual
information, nats), the area under the ROC curve with which MI and H tell images of other sets (MNIST, SVHN where their
files are, scikit-learn's digits, the test images with permuted pixels), and processor time: of training and drawing,
compilation included. Errors are jackknife errors over members or chains; the row of HMC's halves is the floor below
which nobody can be told from HMC.

Networks of each family are a file in the folder: what is there is not made again, HMC goes on where it was broken off.
At the end report.md, report.json and the pictures that the report lists (ArviZ's of HMC among them) lie there, and the
last line printed is one JSON object.

`--quick` (500 training images of FashionMNIST, 1630 parameters; HMC's split R-hat at most 1.152) printed these total
variations from HMC: deep ensemble 0.042 +- 0.003, MC dropout 0.057 +- 0.004, DropConnect 0.095 +- 0.009, non-parametric
dropout 0.158 +- 0.006, Laplace of the last layer 0.071 +- 0.003; diagonal Laplace 0.361 +- 0.019, whose draws leave the
region where the network is nearly linear, and of the linearised network 0.181 +- 0.015 (diagonal), 0.103 +- 0.008
(Kronecker-factored) and 0.078 +- 0.003 (whole precision).
"""

import argparse
import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.papers.command import perform, run_folder
from benchmarks.papers.hmc_reference import reference_trace
from benchmarks.papers.image_posterior_families import (
    QUICK,
    Family,
    ImageConfig,
    Problem,
    families,
    make_problem,
    measured_stiffness,
    stepped,
    trainer,
)
from benchmarks.papers.image_posterior_pages import cell, draw_pictures, markdown
from benchmarks.papers.image_posterior_sets import default_source
from jaxgeo import files, interrupts
from jaxgeo.config_files import check_same_settings, from_dict, to_dict
from jaxgeo.metrics.calibration import reliability_curve
from jaxgeo.metrics.noise_floor import noise_floor
from jaxgeo.metrics.ood import detect
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy
from jaxgeo.metrics.uncertainty_gap import uncertainty_floor, uncertainty_gap
from jaxgeo.posteriors import deep_ensemble, diagnostics
from jaxgeo.posteriors.base import Apply
from jaxgeo.posteriors.hmc import cut_short, plan_hmc
from jaxgeo.posteriors.langevin_step import Stiffness
from jaxgeo.progress import Callback, Progress

_CONFIG, _STIFFNESS = "config.json", "stiffness.json"
_PIECE = 10  # transitions of HMC between two savings
_REFERENCE = "HMC"


def digest(problem: Problem) -> str:
    """SHA-256 of all images and labels, hexadecimal."""
    total = hashlib.sha256()
    for array in (problem.inputs, problem.labels, problem.test_inputs, problem.test_labels, *problem.outside.values()):
        total.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def open_run(folder: Path, config: ImageConfig, problem: Problem) -> None:
    """Make the folder, or check that what lies there is of the same settings and images."""
    path = files.make_folder(folder) / _CONFIG
    now = digest(problem)
    if not path.exists():
        files.write_json_atomically(path, {"config": to_dict(config), "images_sha256": now})
        return
    before = files.read_json(path)
    check_same_settings(folder, from_dict(ImageConfig, before["config"]), config)
    check_same_settings(folder, {"images of SHA-256": before["images_sha256"][:12]}, {"images of SHA-256": now[:12]})


def made(folder: Path, name: str, family: Family, key: Array) -> tuple[Any, float]:
    """Networks of a family, stacked, and the processor seconds that they took; read where they are finished."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        begun = time.process_time()
        networks = jax.block_until_ready(family.networks(key))
        files.save_tree(path, jax.device_get(networks), {"cpu_seconds": time.process_time() - begun})
    note = files.load_note(path)
    return files.load_tree(path), float(str(note["cpu_seconds"]))


def sample(folder: Path, config: ImageConfig, problem: Problem, key: Array, bar: Callback) -> dict[str, Any]:
    """HMC from trained networks: its stacked draws (chain slowest), trace, verdict and processor seconds."""
    settings = config.hmc
    inputs, labels = jnp.asarray(problem.inputs), jnp.asarray(problem.labels)
    start_key, chain_key = jax.random.split(key)
    sampler = plan_hmc(problem.log_joint, jax.eval_shape(problem.init, key), settings)

    def networks(key: Array) -> Any:
        train = trainer(deep_ensemble.objective(problem.log_joint, len(problem.labels)), config, problem)
        return deep_ensemble.deep_ensemble(problem.init, config.chains, train).init(key)

    def start() -> tuple[Any, float]:
        return made(folder, "hmc_start", Family("where HMC starts", 1, networks), start_key)

    trace, seconds = reference_trace(folder, sampler, chain_key, inputs, labels, start, _PIECE, bar)
    draws = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sampler.draws(trace.position))
    outputs = log_probs(problem.log_joint.apply, draws, problem.test_inputs)
    warm = slice(settings.num_warmup, None)
    verdict = diagnostics.judge_convergence(
        outputs.reshape(config.chains, config.hmc_draws, -1), trace.position, trace.diverging[:, warm],
        trace.acceptance[:, warm], cut_short(settings, trace)[:, warm],
    )  # fmt: skip
    return {"draws": draws, "trace": trace, "outputs": outputs, "verdict": verdict, "seconds": seconds}


def log_probs(apply: Callable[[Any, Any], Array], draws: Any, inputs: np.ndarray) -> np.ndarray:
    """(draw, image, class), float32."""
    return np.asarray(_log_probs(apply, draws, jnp.asarray(inputs)))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(apply: Callable[[Any, Any], Array], draws: Any, inputs: Array) -> Array:
    return jax.lax.map(lambda params: jax.nn.log_softmax(apply(params, inputs)), draws, batch_size=16)


def compare(
    problem: Problem,
    predicted: Mapping[str, Array],
    groups: int,
    reference: Mapping[str, Array] | None,
    chains: int,
    key: Array,
) -> dict[str, Any]:
    """All measures of one method, by name, from its log-probabilities on each set of images.

    `reference` has HMC's; without it, for HMC itself, there are no distances.
    """
    own, labels = predicted["test"], jnp.asarray(problem.test_labels)
    if reference is None:
        card, gaps = score(own, labels, groups=groups), dict[str, Any]()
    else:
        card = score(own, labels, reference["test"], groups=groups, reference_groups=chains)
        gaps = {name: uncertainty_gap(x, reference[name], groups, chains) for name, x in predicted.items()}
    found: dict[str, Any] = dict(card.measures)
    if "test" in gaps:
        found |= {"entropy_gap": gaps["test"].entropy, "mutual_information_gap": gaps["test"].mutual_information}
    found["outside"] = {}
    for name in problem.outside:
        rows = {
            "mutual_information": detect(key, own, predicted[name], mutual_information, groups=groups).auroc,
            "entropy": detect(key, own, predicted[name], predictive_entropy, groups=groups).auroc,
        }
        if name in gaps:
            rows |= {"entropy_gap": gaps[name].entropy, "mutual_information_gap": gaps[name].mutual_information}
        found["outside"][name] = rows
    found["networks"] = int(own.shape[0])
    found["reliability"] = reliability_curve(own, labels)
    return found


def predictions(problem: Problem, draws: Any, apply: Apply | None = None) -> dict[str, Array]:
    """Log-probabilities (draw, image, class) of the test images, and of each set from outside."""
    sets = {"test": problem.test_inputs} | problem.outside
    return {name: jnp.asarray(log_probs(apply or problem.log_joint.apply, draws, x)) for name, x in sets.items()}


def stiffness_of(folder: Path, config: ImageConfig, problem: Problem, key: Array) -> tuple[Stiffness, float]:
    """What the steps of SGLD and SGHMC follow from, and its processor seconds; read where it is there."""
    path = folder / _STIFFNESS
    if not path.exists():
        begun = time.process_time()
        found = measured_stiffness(config, problem, key)
        files.write_json_atomically(path, found._asdict() | {"cpu_seconds": time.process_time() - begun})
    saved = files.read_json(path)
    return Stiffness(saved["curvature"], saved["gradient_noise"]), saved["cpu_seconds"]


def floors(reference: Array, chains: int, key: Array) -> dict[str, Measure]:
    """HMC's one half of its chains against the other, by the names of `DISTANCES`."""
    floor, gap = noise_floor(reference, chains, key=key), uncertainty_floor(reference, chains, key=key)
    return {
        "agreement": floor.agreement, "total_variation": floor.total_variation,
        "divergence_from_reference": floor.divergence, "entropy_gap": gap.entropy,
        "mutual_information_gap": gap.mutual_information,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Measures and mappings as what strict JSON has: an infinity (a class thought impossible) becomes a text."""
    if isinstance(value, Measure):
        return _plain(value.to_dict())
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if key != "reliability"}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run(folder: Path, config: ImageConfig, problem: Problem, progress: Progress) -> dict[str, Any]:
    """Everything; what is finished is read."""
    open_run(folder, config, problem)
    key = jax.random.key(config.seed)
    chains = config.chains
    hmc = sample(folder, config, problem, jax.random.fold_in(key, 0), progress.bar(_REFERENCE, "transitions"))
    progress.note(hmc["verdict"].message)
    reference = predictions(problem, hmc["draws"])
    score_key = jax.random.fold_in(key, 1)
    floor = floors(reference["test"], chains, score_key)
    titles, seconds = {"hmc": _REFERENCE}, {"hmc": hmc["seconds"]}
    found = {"hmc": compare(problem, reference, chains, None, chains, score_key)}
    stiff, stiff_seconds = stiffness_of(folder, config, problem, jax.random.fold_in(key, 2))
    for number, (name, family) in enumerate(families(config, problem, stiff).items()):
        networks, seconds[name] = made(folder, name, family, jax.random.fold_in(key, 3 + number))
        titles[name] = family.title
        predicted = predictions(problem, networks, family.apply)
        found[name] = compare(problem, predicted, family.groups, reference, chains, score_key)
        progress.note(
            f"{family.title}: total variation {cell(found[name]['total_variation'])}, {seconds[name]:.0f} CPU seconds"
        )
    steps = {
        name: stepped(config, alpha, stiff).step_size for name, alpha in (("sgld", None), ("sghmc", config.friction))
    }
    page = markdown(found, floor, seconds, titles, hmc["verdict"], config, steps)
    draw_pictures(folder, found, floor, seconds, titles, hmc, config)
    report = {
        "study": "image_posteriors",
        "config": to_dict(config),
        "parameters": int(hmc["trace"].position.shape[-1]),
        "hmc": _plain(dataclasses.asdict(hmc["verdict"])),
        "floor": _plain(floor),
        "langevin": stiff._asdict() | {"steps": steps, "cpu_seconds": stiff_seconds},
        "cpu_seconds": seconds,
        "methods": _plain(found),
    }
    files.write_json_atomically(folder / "report.json", report)
    files.write_bytes_atomically(folder / "report.md", page.encode())
    print(page)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.image_posteriors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/image_posteriors"), help="goes on in this folder")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    options = parser.add_argument_group("changes of the settings")
    default = ImageConfig()
    for field in dataclasses.fields(ImageConfig):
        text = f"{getattr(default, field.name)}, quick {getattr(QUICK, field.name)}"
        text = "fashion_mnist where JAXGEO_DATA has it, else sklearn" if field.name == "source" else text
        option, choices = f"--{field.name.replace('_', '-')}", get_args(field.type) or None
        options.add_argument(option, type=type(getattr(default, field.name)), choices=choices, help=text)
    return parser.parse_args(argv)


def config_of(args: argparse.Namespace) -> ImageConfig:
    """The settings with what was changed of them.

    Raises:
        ConfigError: impossible ones.
    """
    size = QUICK if args.quick else ImageConfig()
    changed = {name: value for name, value in vars(args).items() if name not in ("out", "quick") and value is not None}
    changed.setdefault("source", default_source())
    if changed["source"] == "sklearn":  # of 1797 images in all
        changed.setdefault("test_images", min(360, size.test_images))
        changed.setdefault("images", min(1400, size.images))
    return dataclasses.replace(size, **changed)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)

    def work() -> dict[str, Any]:
        config = config_of(args)
        problem = make_problem(config)
        with run_folder(args.out) as progress:
            return run(args.out, config, problem, progress)

    return perform(args.out, work)


if __name__ == "__main__":
    interrupts.leave(main())
