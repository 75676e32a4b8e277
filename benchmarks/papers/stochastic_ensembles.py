"""The toy of "Bayesian posterior approximation with stochastic ensembles" (arXiv:2212.08123): every family beside HMC.

    python -m benchmarks.papers.stochastic_ensembles --out runs/toy [--activation relu|tanh|swish] [--members 1024]

2000 points of [0, 3] x [-3, 3] are labelled by the disc |x| < 2.4, and a perceptron 2-10-10-2 with prior N(0, 1) on
every parameter learns them: by Hamiltonian Monte Carlo, several chains on the same log joint, and by deep ensembles and
ensembles of MC dropout, DropConnect and non-parametric dropout, 1024 members each, trained by Adam (rate 0.01, a tenth
at half and a hundredth at three quarters of 500 epochs, batches of 100: the published rates). On ten domains that lead
away from the points, the mean distances |H - H_HMC| and |MI - MI_HMC| in nats, with Monte Carlo errors, beside the
floor that HMC's own halves leave; and which families are nearer to HMC than the deep ensemble, by more than that floor
and at one level of significance for all sixty comparisons. What is finished in the folder is not done again, and what
was broken off (Ctrl-C and SIGTERM do no harm) goes on. At the end report.md, report.json and pictures lie there, and
the last line is one JSON object.

Two things are not as published unless they are asked for. `--divergence published` weighs the squares of what MC
dropout and DropConnect drop by 1 - p, where the divergence of survivors scaled by 1 / (1 - p) has that as its factor.
`--dropped published` drops of the units those of the second hidden layer alone, and of the weights those of the map to
it, with its biases; by default units of both hidden layers drop, and all weights, but no biases. Even so the published
programs, which drop the outputs of that map, weigh its own squares for MC dropout, where here the kernel that reads the
unit has the factor; and they begin Adam's moments anew when the rate falls.
"""

import argparse
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.papers.command import perform, run_folder
from benchmarks.papers.hmc_reference import reference_trace
from benchmarks.papers.stochastic_ensembles_families import Family, Problem, ToyConfig, families, make_problem
from benchmarks.papers.stochastic_ensembles_verdict import FLOOR, judge
from jaxgeo import files, interrupts
from jaxgeo.config_files import check_same_settings, from_dict, to_dict
from jaxgeo.data.half_disc import HALF_WIDTH, NUM_DOMAINS, domain
from jaxgeo.metrics import uncertainty_gap as gaps
from jaxgeo.metrics.information import entropy
from jaxgeo.metrics.predictive import summarize
from jaxgeo.posteriors import diagnostics
from jaxgeo.posteriors.hmc import cut_short, plan_hmc
from jaxgeo.training import long_runs
from jaxgeo.training.ensemble import block_size
from jaxgeo.training.meshes import spread

BASELINE = "deep_ensemble"
_CONFIG, _REPORT = "config.json", "report.json"
_STREAMS = {"masks": 1, "hmc": 2, "init": 100}  # of one seed; each family has an initialisation of its own
_MOST_DEVICES = 8
_NAME = "benchmarks.papers.stochastic_ensembles"
_LINES = 121  # of the maps of the plane, each way


def open_run(folder: Path, config: ToyConfig) -> None:
    """Make the folder, or check that what lies there is of the same settings."""
    path = files.make_folder(folder) / _CONFIG
    if not path.exists():
        files.write_json_atomically(path, to_dict(config))
        return
    check_same_settings(folder, from_dict(ToyConfig, files.read_json(path)), config)


def train(folder: Path, name: str, family: Family, config: ToyConfig, problem: Problem, bar: Any) -> Any:
    """Stacked members of a family; read where they are finished."""
    path = folder / f"{name}.safetensors"
    if path.exists():
        return files.load_tree(path)
    settings = config.training
    base = list(families(config, problem)).index(name)
    keys = long_runs.seeds(config.seed, _STREAMS["init"] + base, config.members)
    members, _ = long_runs.train_ensemble(
        folder / "checkpoints" / name, keys, family.init, family.objective, jnp.asarray(problem.points),
        jnp.asarray(problem.labels), settings, progress=bar,
        mesh=spread("member", config.members // block_size(config.members, settings)),
    )  # fmt: skip
    files.save_tree(path, members)
    return members


def sample(folder: Path, config: ToyConfig, problem: Problem, start: Any, bar: Any) -> tuple[Any, dict[str, Any]]:
    """Draws of HMC (chain slowest) from members of the deep ensemble, and their verdict on training-free points."""
    settings = config.hmc
    inputs, labels = jnp.asarray(problem.points), jnp.asarray(problem.labels)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), start)
    sampler = plan_hmc(problem.log_joint, like, settings, spread("chain", config.chains))
    key = jax.random.fold_in(jax.random.key(config.seed), _STREAMS["hmc"])
    trace, seconds = reference_trace(
        folder, sampler, key, inputs, labels, lambda: (start, 0.0), 10 * config.thinning, bar
    )
    draws = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sampler.draws(trace.position))
    points = np.concatenate([domain(number, 50, config.seed + 1) for number in range(NUM_DOMAINS)])
    outputs = np.exp(log_probs(problem.apply, draws, points)[..., 1])
    warm = slice(settings.num_warmup, None)
    verdict = diagnostics.judge_convergence(
        outputs.reshape(config.chains, config.draws, -1), trace.position, trace.diverging[:, warm],
        trace.acceptance[:, warm], cut_short(settings, trace)[:, warm],
    )  # fmt: skip
    cost = {"cpu_seconds": seconds, "gradients_of_each_chain": int(trace.num_leapfrogs[0].sum())}
    return draws, dataclasses.asdict(verdict) | cost


def log_probs(apply: Callable[[Any, Any], Array], draws: Any, points: np.ndarray) -> np.ndarray:
    """(draw, point, class), float32."""
    return np.asarray(_log_probs(apply, draws, jnp.asarray(points)))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(apply: Callable[[Any, Any], Array], draws: Any, points: Array) -> Array:
    def of_draw(params: Any) -> Array:
        return jax.nn.log_softmax(apply(params, points))

    return jax.lax.map(of_draw, draws, batch_size=64)


def compare(config: ToyConfig, problem: Problem, drawn: dict[str, Any], bar: Any) -> list[dict[str, Any]]:
    """Gaps of every family on every domain, and their differences from the deep ensemble's."""
    rows = []
    for number in range(NUM_DOMAINS):
        points = domain(number, config.domain_points, config.seed + 1)
        reference = jnp.asarray(log_probs(problem.apply, drawn["hmc"], points))
        key = jax.random.key(0)
        row: dict[str, Any] = {"domain": number}
        row["floor"] = gaps.uncertainty_floor(reference, config.chains, key=key)
        own = {name: jnp.asarray(log_probs(problem.apply, draws, points)) for name, draws in drawn.items()}
        groups = config.member_groups, config.chains
        row |= {name: gaps.uncertainty_gap(own[name], reference, *groups) for name in own if name != "hmc"}
        row["nearer_than_deep_ensemble"] = {
            name: gaps.uncertainty_gap_difference(own[name], own[BASELINE], reference, groups[0], *groups)
            for name in own
            if name not in ("hmc", BASELINE)
        }
        rows.append(row)
        bar(number + 1, NUM_DOMAINS, {})
    return rows


def draw_maps(folder: Path, config: ToyConfig, problem: Problem, drawn: dict[str, Any], titles: dict[str, str]) -> None:
    """Entropy and mutual information over the plane, each method on one scale with HMC."""
    from jaxgeo.plotting import style
    from jaxgeo.plotting.plane import plane_maps

    edge = 4 * HALF_WIDTH
    axis = np.linspace(-edge, edge, _LINES, dtype=np.float32)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    entropies, informations = {}, {}
    for name, draws in drawn.items():
        predictive = summarize(jnp.asarray(log_probs(problem.apply, draws, plane)))
        whole = np.asarray(entropy(predictive.log_mean))
        title = "HMC" if name == "hmc" else titles[name]
        entropies[title] = whole.reshape(_LINES, _LINES)
        informations[title] = (whole - np.asarray(predictive.expected_entropy)).reshape(_LINES, _LINES)
    for file, maps, unit in (
        ("entropy.png", entropies, "entropy of the mean prediction, nats"),
        ("mutual_information.png", informations, "mutual information, nats"),
    ):
        figure = plane_maps(
            maps, (-edge, edge, -edge, edge), limits=(0.0, math.log(2)), unit=unit, points=problem.points,
            labels=problem.labels,
        )  # fmt: skip
        files.write_bytes_atomically(folder / file, style.figure_to_bytes(figure))


def markdown(found: dict[str, Any], titles: dict[str, str]) -> str:
    """The tables below their command: a row for each domain, a value with its Monte Carlo error for each family."""
    default = to_dict(ToyConfig())
    words = [f" --{k.replace('_', '-')} {value}" for k, value in found["config"].items() if value != default[k]]
    lines = [f"# The toy, {found['config']['activation']}", "", f"Written by `python -m {_NAME}{''.join(words)}`.", ""]
    lines += [found["claim"], "", FLOOR, "", found["hmc"]["message"], ""]
    for quantity in gaps.UncertaintyGap._fields:
        lines += [f"## Mean distance of {quantity.replace('_', ' ')} to HMC, nats", ""]
        lines += ["| domain | HMC's halves | " + " | ".join(titles.values()) + " |", "| --- " * (len(titles) + 2) + "|"]
        for row in found["domains"]:
            cells = [row[name][quantity] for name in ("floor", *titles)]
            lines.append(f"| {row['domain']} | " + " | ".join(map(_with_error, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def _with_error(cell: dict[str, float | None]) -> str:
    """An error that nobody knows is left out."""
    error = cell["standard_error"]
    return f"{cell['value']:.4f}" if error is None else f"{cell['value']:.4f} ± {error:.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.to_dict() if isinstance(value, gaps.UncertaintyGap) else value


def run(folder: Path, config: ToyConfig, progress: Any) -> dict[str, Any]:
    """Everything; what is finished is read."""
    open_run(folder, config)
    problem = make_problem(config)
    drawn: dict[str, Any] = {}
    made = families(config, problem)
    titles = {name: family.title for name, family in made.items()}
    seconds = {}
    key = jax.random.fold_in(jax.random.key(config.seed), _STREAMS["masks"])
    members: Any = None
    for number, (name, family) in enumerate(made.items()):
        begun = time.monotonic()
        trained = train(folder, name, family, config, problem, progress.bar(family.title, "epochs"))
        seconds[name] = time.monotonic() - begun
        drawn[name] = family.draw(jax.random.fold_in(key, number), trained)
        members = trained if name == BASELINE else members
    draws, convergence = sample(folder, config, problem, members, progress.bar("HMC", "transitions"))
    drawn = {"hmc": draws} | drawn
    rows = compare(config, problem, drawn, progress.bar("scores", "domains"))
    verdict = judge(
        [row["nearer_than_deep_ensemble"] for row in rows],
        [row["floor"] for row in rows],
        {name: title for name, title in titles.items() if name != BASELINE},
    )
    draw_maps(folder, config, problem, drawn, titles)
    found = {
        "study": "stochastic_ensembles",
        "config": to_dict(config),
        "hmc": convergence,
        "training_seconds_of_this_run": seconds,
        "claim": verdict.sentence,
        "counts": verdict.counts,
        "comparisons": verdict.comparisons,
        "domains": [_plain(row) for row in rows],
    }
    files.write_json_atomically(folder / _REPORT, found)
    files.write_bytes_atomically(folder / "report.md", markdown(found, titles).encode())
    print(markdown(found, titles))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/stochastic_ensembles"), help="goes on in this folder")
    for field in dataclasses.fields(ToyConfig):
        option, choices = f"--{field.name.replace('_', '-')}", get_args(field.type) or None
        kind = type(field.default)
        parser.add_argument(option, type=kind, choices=choices, default=field.default, help="%(default)s")
    args = vars(parser.parse_args(argv))
    folder = args.pop("out")
    if "JAX_NUM_CPU_DEVICES" not in os.environ:  # members and chains are spread over devices: make each core one
        jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, _MOST_DEVICES))

    def work() -> dict[str, Any]:
        config = ToyConfig(**args)
        with run_folder(folder) as progress:
            return run(folder, config, progress)

    return perform(folder, work)


if __name__ == "__main__":
    interrupts.leave(main())
