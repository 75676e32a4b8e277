"""Every family of posteriors against Hamiltonian Monte Carlo on a small image network, from images to one table.

    JAXGEO_DATA=data python -m benchmarks.papers.image_posteriors --out runs/images
    python -m benchmarks.papers.image_posteriors --quick --out runs/quick    # small sizes, to see that all works

FashionMNIST averaged to 7 x 7 pixels (or, where its files are not, scikit-learn's digits of 8 x 8) is learnt by a
perceptron of two hidden layers and some 4000 parameters. The reference is HMC: four chains begun at four trained
networks, on the log joint that all others share, with its split R-hat on the predictions. Held against it: a deep
ensemble; ensembles of MC dropout, DropConnect and non-parametric dropout; Laplace's approximation (last layer,
diagonal); mean-field variational inference; SWAG; cyclical SGLD and SGHMC; and microcanonical Langevin chains begun at
a deep ensemble. Each is a `Posterior`, and only `init` and `sample` are called.

For each: accuracy, negative log-likelihood (NLL), Brier score, expected calibration error (ECE), agreement and total
variation with HMC, |H - H_HMC| and |MI - MI_HMC| (entropy and mutual information, nats), the area under the ROC curve
with which MI and H tell images of another set (MNIST; test images with permuted pixels), and processor time: of
training and drawing, compilation included. Errors are jackknife errors over members or chains; the row of HMC's halves
is the floor below which nobody can be told from HMC.

Networks of each family are a file in the folder: what is there is not made again, HMC goes on where it was broken off.
At the end report.md, report.json, cost.png, reliability.png and chains.png lie there, and the last line printed is one
JSON object.

On 1500 training and 600 test images, drawn from 10,000 and 3000 of FashionMNIST,

    python -m benchmarks.papers.image_posteriors --images 1500 --test-images 600 --members 8 --gaussian-draws 16 \
        --cycles 4 --cycle-epochs 60 --walkers 4 --walker-steps 100 --hmc-draws 80

took 321 processor seconds for all networks, 54 of them for HMC (split R-hat at most 1.05 for 99.9 % of the outputs).
Total variation from HMC, whose halves differ by 0.014 +- 0.001: microcanonical Langevin 0.016 +- 0.001, cyclical SGHMC
0.030, deep ensemble 0.032, SWAG 0.035, mean-field 0.038, Laplace of the last layer 0.040, MC dropout 0.042, DropConnect
0.054, non-parametric dropout 0.061; SGLD 0.181, whose step at this length has not brought it to the posterior, and
diagonal Laplace 0.370, whose draws leave the region where the network is nearly linear.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.papers.image_posterior_families import (
    QUICK,
    Family,
    ImageConfig,
    Problem,
    default_source,
    families,
    make_problem,
    trainer,
)
from jaxgeo import files, interrupts
from jaxgeo.config_files import first_difference, from_dict, to_dict
from jaxgeo.errors import ConfigError, JaxgeoError
from jaxgeo.metrics.calibration import reliability_curve
from jaxgeo.metrics.noise_floor import noise_floor
from jaxgeo.metrics.ood import detect
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy
from jaxgeo.metrics.uncertainty_gap import uncertainty_floor, uncertainty_gap
from jaxgeo.posteriors import deep_ensemble, diagnostics
from jaxgeo.posteriors.hmc import HmcTrace, concatenate_traces, cut_short, plan_hmc
from jaxgeo.posteriors.hmc_state import HmcState
from jaxgeo.progress import Callback, Progress, progress_for

_CONFIG, _HMC = "config.json", "hmc.safetensors"
_PIECE = 10  # transitions of HMC between two savings
_REFERENCE = "HMC"
_PICTURED = ("deep_ensemble", "mc_dropout", "last_layer_laplace", "mean_field", "swag", "microcanonical")
SCORES = {
    "accuracy": "accuracy", "negative_log_likelihood": "NLL", "brier": "Brier",
    "calibration_error_equal_width": "ECE", "mutual_information": "MI",
}  # fmt: skip
DISTANCES = {
    "agreement": "agreement", "total_variation": "total variation", "entropy_gap": "entropy gap",
    "mutual_information_gap": "MI gap",
}  # fmt: skip


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
    different = first_difference(from_dict(ImageConfig, before["config"]), config)
    if different is None and before["images_sha256"] != now:
        different = "images of SHA-256", before["images_sha256"][:12], now[:12]
    if different:
        key, one, other = different
        raise ConfigError(f"{folder} was begun with {key} = {one!r}, not {other!r}; take that, or another --out")


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
    path = folder / _HMC
    if path.exists():
        saved = files.load_tree(path)
        state, trace = HmcState(**saved["state"]), HmcTrace(**saved["trace"])
        seconds = float(saved["seconds"])
    else:
        begun = time.process_time()
        train = trainer(deep_ensemble.objective(problem.log_joint, len(problem.labels)), config, problem)
        start = deep_ensemble.deep_ensemble(problem.init, config.chains, train).init(start_key)
        state, trace = sampler.init(chain_key, inputs, labels, start), None
        seconds = time.process_time() - begun
    while int(np.asarray(state.iteration)) < settings.num_transitions:
        begun = time.process_time()
        state, piece = sampler.run(state, inputs, labels, _PIECE)
        trace = piece if trace is None else concatenate_traces([trace, piece])
        seconds += time.process_time() - begun
        arrays = {"state": state._asdict(), "trace": trace._asdict(), "seconds": np.asarray(seconds)}
        files.save_tree(path, jax.tree.map(np.asarray, arrays))
        shown = {name: float(getattr(piece, name)[:, -1].mean()) for name in ("acceptance", "num_leapfrogs")}
        bar(int(np.asarray(state.iteration)), settings.num_transitions, shown)
    assert trace is not None  # a run has at least one transition
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
    problem: Problem, draws: Any, groups: int, reference: Mapping[str, Array] | None, chains: int, key: Array
) -> dict[str, Any]:
    """All measures of one method, by name; `reference` has HMC's log-probabilities on each set of images.

    Without it, for HMC itself, there are no distances.
    """
    predicted = predictions(problem, draws)
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


def predictions(problem: Problem, draws: Any) -> dict[str, Array]:
    """Log-probabilities (draw, image, class) of the test images, and of each set from outside."""
    sets = {"test": problem.test_inputs} | problem.outside
    return {name: jnp.asarray(log_probs(problem.log_joint.apply, draws, x)) for name, x in sets.items()}


def floors(reference: Array, chains: int, key: Array) -> dict[str, Measure]:
    """HMC's one half of its chains against the other, by the names of `DISTANCES`."""
    floor, gap = noise_floor(reference, chains, key=key), uncertainty_floor(reference, chains, key=key)
    return {
        "agreement": floor.agreement, "total_variation": floor.total_variation, "entropy_gap": gap.entropy,
        "mutual_information_gap": gap.mutual_information,
    }  # fmt: skip


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.3f}"
    return f"{measure.value:.3f}{error}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def markdown(
    found: Mapping[str, dict[str, Any]],
    floor: Mapping[str, Measure],
    seconds: Mapping[str, float],
    titles: Mapping[str, str],
    verdict: diagnostics.ConvergenceVerdict,
    config: ImageConfig,
) -> str:
    """Both tables: scores, and distances from HMC with detection and price."""
    outside = list(next(iter(found.values()))["outside"])
    scores = [
        [titles[name], str(row["networks"]), *(_cell(row[key]) for key in SCORES), f"{seconds[name]:.0f}"]
        for name, row in found.items()
    ]
    kinds = [(name, kind) for name in outside for kind in ("mutual_information", "entropy")]
    distances = [
        [titles[name], *(_cell(row.get(key)) for key in DISTANCES), *(_cell(row["outside"][o][k]) for o, k in kinds)]
        for name, row in found.items()
    ]
    distances.append(["HMC, half against half", *(_cell(floor[key]) for key in DISTANCES), *("" for _ in kinds)])
    names = {"mutual_information": "MI", "entropy": "H"}
    return "\n".join(
        [
            f"# Posteriors of a small image network against HMC ({config.source}, {config.images} images)", "",
            verdict.message, "",
            "Values ± jackknife errors over members or chains (distances: with HMC's chains in quadrature); entropies "
            "in nats; CPU: processor seconds of training and drawing, compilation included.", "",
            *_table(["method", "networks", *SCORES.values(), "CPU, s"], scores),
            "Distances from HMC (mean absolute gaps, nats), and areas under the ROC curve by MI and by H:", "",
            *_table(["method", *DISTANCES.values(), *(f"{o}, {names[k]}" for o, k in kinds)], distances),
        ]
    )  # fmt: skip


def draw_pictures(
    folder: Path,
    found: Mapping[str, dict[str, Any]],
    floor: Mapping[str, Measure],
    seconds: Mapping[str, float],
    titles: Mapping[str, str],
    reference: Mapping[str, Any],
) -> None:
    """Distance against price, reliability, and whether HMC's chains met."""
    from jaxgeo.plotting import calibration, cost, style, trace

    costs = {
        titles[name]: cost.Cost(seconds[name], row["total_variation"])
        for name, row in found.items()
        if "total_variation" in row
    }
    shown = [name for name in ("hmc", *_PICTURED) if name in found]
    curves = {titles[name]: found[name]["reliability"] for name in shown}
    errors = {titles[name]: found[name]["calibration_error_equal_width"] for name in shown}
    run: HmcTrace = reference["trace"]
    chains, draws = run.position.shape[:2]
    warm = run.energy.shape[1] - draws
    figures = {
        "cost.png": cost.distance_against_cost(costs, floor["total_variation"], seconds["hmc"]),
        "reliability.png": calibration.reliability_diagram(curves, errors),
        "chains.png": trace.chain_diagnostics(
            diagnostics.split_rhat(reference["outputs"].reshape(chains, draws, -1)),
            diagnostics.split_rhat(run.position),
            run.energy[:, warm:],
            run.diverging[:, warm:],
        ),
    }
    for name, figure in figures.items():
        files.write_bytes_atomically(folder / name, style.figure_to_bytes(figure))


def _plain(value: Any) -> Any:
    """Measures and mappings as what strict JSON has: an infinity (a class thought impossible) becomes a text."""
    if isinstance(value, Measure):
        return _plain(value.to_dict())
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if key != "reliability"}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run(folder: Path, config: ImageConfig, progress: Progress, root: Path | None = None) -> dict[str, Any]:
    """Everything; what is finished is read."""
    problem = make_problem(config, root)
    open_run(folder, config, problem)
    key = jax.random.key(config.seed)
    chains = config.chains
    hmc = sample(folder, config, problem, jax.random.fold_in(key, 0), progress.bar(_REFERENCE, "transitions"))
    progress.note(hmc["verdict"].message)
    reference = predictions(problem, hmc["draws"])
    score_key = jax.random.fold_in(key, 1)
    floor = floors(reference["test"], chains, score_key)
    titles, seconds = {"hmc": _REFERENCE}, {"hmc": hmc["seconds"]}
    found = {"hmc": compare(problem, hmc["draws"], chains, None, chains, score_key)}
    for number, (name, family) in enumerate(families(config, problem).items()):
        draws, seconds[name] = made(folder, name, family, jax.random.fold_in(key, 2 + number))
        titles[name] = family.title
        found[name] = compare(problem, draws, family.groups, reference, chains, score_key)
        progress.note(
            f"{family.title}: total variation {_cell(found[name]['total_variation'])}, {seconds[name]:.0f} CPU seconds"
        )
    page = markdown(found, floor, seconds, titles, hmc["verdict"], config)
    draw_pictures(folder, found, floor, seconds, titles, hmc)
    report = {
        "study": "image_posteriors",
        "config": to_dict(config),
        "parameters": int(hmc["trace"].position.shape[-1]),
        "hmc": _plain(dataclasses.asdict(hmc["verdict"])),
        "floor": _plain(floor),
        "cpu_seconds": seconds,
        "methods": _plain(found),
    }
    files.write_json_atomically(folder / "report.json", report)
    files.write_bytes_atomically(folder / "report.md", page.encode())
    print(page)
    return report


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, ImageConfig]:
    """The command's options, and the settings with what was changed of them."""
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
    args = parser.parse_args(argv)
    changed = {name: value for name, value in vars(args).items() if name not in ("out", "quick") and value is not None}
    changed.setdefault("source", default_source())
    if changed["source"] == "sklearn":  # of 1797 images in all
        changed.setdefault("test_images", min(360, (QUICK if args.quick else default).test_images))
        changed.setdefault("images", min(1400, (QUICK if args.quick else default).images))
    return args, dataclasses.replace(QUICK if args.quick else default, **changed)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args, config = parse(argv)
        with interrupts.heeded(), progress_for(sys.stderr) as progress:
            found = run(args.out, config, progress)
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
