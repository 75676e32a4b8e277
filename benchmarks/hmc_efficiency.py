"""Effective draws per processor second: HMC of this library beside NUTS of NumPyro and of BlackJAX as they come.

    python -m benchmarks.hmc_efficiency [--problems toy digits] [--activation tanh] [--chains 8] [--draws 60]

The same log joint, chains and starting points (trained members) for all, and as many transitions. Ours makes
trajectories of a quarter period with jitter, with one step size that all chains adapt. The peers get the same
potential and their own defaults: step size and diagonal mass adapted over the warm-up, trees up to 1023 leapfrogs; one
chain after the other, since lanes of vmapped trees would wait for the deepest. Effective draws are in function space,
the smallest hundredth and the median of bulk-ESS over class probabilities. Seconds are of the process, warm-up and
sampling together for all contenders, compilation apart: who warms up longer, by deeper trees, pays for it, and in a
longer run that would weigh less. `toy` is the half disc with its perceptron, here smooth (tanh) where the published toy
has `--activation relu`; `digits` scikit-learn's, 8 x 8, with a perceptron (tanh) of about 5000 parameters. Both are run
unless `--problems` names one. The last line is one JSON object.

Whether all sample the same posterior is asked of each two, the peers between themselves too: the mean |H - H'| and
|MI - MI'| over the outlook in nats, H the entropy of the mean prediction and MI its mutual information with the
parameters, beside the floor, which is that of one half of a sampler's chains against its other half, the smaller of the
two samplers'. Equal samplers with equally many effective draws stand at about 0.7 floors. The whole is met where ours
has 1.5 times the effective draws per second of every peer and no two are further apart than 1.5 floors; `speed_met`,
`against_ours_met` and `between_peers_met` say which.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from benchmarks.timing import installed
from jaxgeo.data.digits import load_digits
from jaxgeo.data.half_disc import domain, half_disc
from jaxgeo.metrics.uncertainty_gap import UncertaintyGap, uncertainty_floor, uncertainty_gap
from jaxgeo.models.mlp import Activation, Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble, diagnostics
from jaxgeo.posteriors.hmc import plan_hmc
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training.ensemble import TrainingConfig, fit, init_ensemble

BAR = 1.5
GAP_BAR = 1.5  # of the noise floor
CAPTION = "seconds of processor time: warm-up and sampling together, compilation apart"
_TINY = 1e-38  # the smallest probability that float32 has a logarithm of
PROBLEMS = ("toy", "digits")


class Problem(NamedTuple):
    """A posterior, where chains start, and where functions are looked at."""

    joint: LogJoint
    inputs: Array
    labels: Array
    start: Any  # stacked parameter trees
    outlook: Array
    trajectory_length: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """The same for every contender."""

    chains: int = 8
    warmup: int = 100
    draws: int = 60
    seed: int = 0
    activation: Activation = "tanh"
    """of the toy's perceptron"""


def toy(settings: Settings) -> Problem:
    points, labels = half_disc(2000, 0)
    outlook = np.concatenate([domain(number, 40, 1) for number in range(5)])
    model = Mlp(MlpConfig(activation=settings.activation))
    training = TrainingConfig(epochs=150, batch_size=100, learning_rate=1e-2, schedule="step", members_per_block=8)
    return _problem(model, GaussianPrior(1.0, fan_in=False), points, labels, outlook, training, settings)


def digits(settings: Settings) -> Problem:
    images = load_digits("sklearn")
    flat = images.train_images.reshape(len(images.train_images), -1)
    outlook = images.test_images[:60].reshape(60, -1)
    model = Mlp(MlpConfig(channels=64, features=(50, 24), num_classes=10, activation="tanh"))
    training = TrainingConfig(epochs=40, batch_size=50, learning_rate=1e-2, schedule="step", members_per_block=8)
    return _problem(model, GaussianPrior(1.0), flat, images.train_labels, outlook, training, settings)


def _problem(
    model: Mlp, prior: GaussianPrior, inputs: Any, labels: Any, outlook: Any, training: TrainingConfig, of: Settings
) -> Problem:
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    joint = LogJoint(pure_apply(model, inputs[:1]), prior)

    def init(key: Array) -> Any:
        return model.init(key, inputs[:1])["params"]

    state = init_ensemble(jax.random.split(jax.random.key(of.seed), of.chains), init, training)
    state, _ = fit(state, deep_ensemble.objective(joint, len(labels)), inputs, labels, training)
    return Problem(joint, inputs, labels, state.params, jnp.asarray(outlook), float(np.pi / 2))


class Outcome(NamedTuple):
    """One run of one contender."""

    positions: Any  # parameter trees (chain, draw, ...)
    seconds: float
    compile_seconds: float
    gradients: int  # of all chains
    acceptance: float


def ours(problem: Problem, settings: Settings) -> Outcome:
    """Fixed-length HMC, all chains in one program."""
    config = HmcConfig(
        num_chains=settings.chains, num_warmup=settings.warmup, num_draws=settings.draws,
        trajectory_length=problem.trajectory_length, max_leapfrogs=1024, step_size=3e-3, chains_at_once=1,
    )  # fmt: skip
    like = jax.tree.map(lambda leaf: leaf[0], problem.start)
    sampler = plan_hmc(problem.joint, like, config)
    key = jax.random.key(settings.seed + 1)
    state = sampler.init(key, problem.inputs, problem.labels, problem.start)
    begun = time.perf_counter()
    sampler.run(state, problem.inputs, problem.labels, 1)  # compiles; its result is not used
    compiled = time.perf_counter() - begun
    begun = time.process_time()
    state, trace = sampler.run(state, problem.inputs, problem.labels)
    seconds = time.process_time() - begun
    warm = slice(settings.warmup, None)
    return Outcome(
        sampler.draws(trace.position), seconds, compiled, int(trace.num_leapfrogs.sum()),
        float(trace.acceptance[:, warm].mean()),
    )  # fmt: skip


def _peer(problem: Problem, settings: Settings, chain: Callable[..., Any]) -> Outcome:
    """Chains one after the other through a peer's `chain(log_density, key, position)`, on whitened positions."""
    like = jax.tree.map(lambda leaf: leaf[0], problem.start)
    unravel = ravel_pytree(like)[1]
    whitener = ravel_pytree(jax.tree.map(jnp.full_like, like, problem.joint.prior.scales(like)))[0]
    starts = jax.vmap(lambda tree: ravel_pytree(tree)[0] / whitener)(problem.start)
    keys = jax.random.split(jax.random.key(settings.seed + 2), settings.chains)

    def all_chains(starts: Array, keys: Array, inputs: Array, labels: Array) -> Any:
        def log_density(position: Array) -> Array:
            return problem.joint.log_joint(unravel(position * whitener), inputs, labels)

        return jax.lax.map(lambda pair: chain(log_density, pair[1], pair[0]), (starts, keys))

    arguments = starts, keys, problem.inputs, problem.labels
    begun = time.perf_counter()
    program = jax.jit(all_chains).lower(*arguments).compile()
    compiled = time.perf_counter() - begun
    begun = time.process_time()
    positions, leapfrogs, acceptance = jax.block_until_ready(program(*arguments))
    seconds = time.process_time() - begun
    flat = jax.vmap(lambda position: unravel(position * whitener))(positions.reshape(-1, positions.shape[-1]))
    trees = jax.tree.map(lambda leaf: leaf.reshape(*positions.shape[:2], *leaf.shape[1:]), flat)
    return Outcome(trees, seconds, compiled, int(leapfrogs.sum()), float(acceptance.mean()))


def numpyro_nuts(problem: Problem, settings: Settings) -> Outcome:
    """NumPyro's kernel with the defaults of its class NUTS."""
    from numpyro.infer.hmc import hmc
    from numpyro.infer.util import ParamInfo

    def chain(log_density: Callable[[Array], Array], key: Array, position: Array) -> Any:
        def potential(z: Array) -> Array:
            return -log_density(z)

        init_kernel, sample_kernel = hmc(potential, algo="NUTS")
        energy, gradient = jax.value_and_grad(potential)(position)
        state = init_kernel(
            ParamInfo(position, energy, gradient), num_warmup=settings.warmup, max_tree_depth=10, rng_key=key
        )

        def step(state: Any, _: None) -> Any:
            state = sample_kernel(state)
            return state, (state.z, state.num_steps, state.accept_prob)

        _, (z, steps, accept) = jax.lax.scan(step, state, None, length=settings.warmup + settings.draws)
        return z[settings.warmup :], steps, accept[settings.warmup :]

    return _peer(problem, settings, chain)


def blackjax_nuts(problem: Problem, settings: Settings) -> Outcome:
    """BlackJAX' NUTS after its window adaptation, both with their defaults."""
    import blackjax

    def chain(log_density: Callable[[Array], Array], key: Array, position: Array) -> Any:
        warm_key, draw_key = jax.random.split(key)
        adaptation: Any = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, found), info = adaptation.run(warm_key, position, num_steps=settings.warmup)
        kernel: Any = blackjax.nuts(log_density, **found)

        def step(state: Any, key: Array) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.acceptance_rate)

        _, (z, steps, accept) = jax.lax.scan(step, state, jax.random.split(draw_key, settings.draws))
        return z, jnp.concatenate([info.info.num_integration_steps, steps]), accept

    return _peer(problem, settings, chain)


CONTENDERS: dict[str, Callable[[Problem, Settings], Outcome]] = {
    "ours": ours,
    "numpyro": numpyro_nuts,
    "blackjax": blackjax_nuts,
}


def measure(name: str, problem: Problem, settings: Settings) -> tuple[dict[str, float], Array]:
    """A row of figures, and the log-probabilities of all draws, chain after chain."""
    outcome = CONTENDERS[name](problem, settings)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outcome.positions)
    of_draw = jax.jit(lambda params: jax.nn.softmax(problem.joint.apply(params, problem.outlook)))
    probabilities = np.asarray(jax.lax.map(of_draw, flat, batch_size=16))
    classes = probabilities.reshape(settings.chains, settings.draws, -1, probabilities.shape[-1])[..., 1:]
    summary = diagnostics.summarise(classes)
    row = {
        "cpu_seconds": outcome.seconds,
        "compile_seconds": outcome.compile_seconds,
        "gradients": outcome.gradients,
        "gradients_per_second": outcome.gradients / outcome.seconds,
        "acceptance": outcome.acceptance,
        "rhat_99": summary.rhat_99,
        "ess_low": summary.ess_1_percent,
        "ess_median": summary.ess_median,
        "low_per_second": summary.ess_1_percent / outcome.seconds,
        "median_per_second": summary.ess_median / outcome.seconds,
    }
    return row, jnp.log(jnp.maximum(probabilities, _TINY))


def gaps_in_floors(log_probs: dict[str, Array], chains: int) -> dict[str, dict[str, float]]:
    """Of each pair of contenders and each quantity: the gap and the floor in nats, and the one over the other."""
    key, found = jax.random.key(0), {}
    floors = {name: uncertainty_floor(values, chains, key=key) for name, values in log_probs.items()}
    for one, other in itertools.combinations(log_probs, 2):
        gaps = uncertainty_gap(log_probs[one], log_probs[other], chains, chains)
        for quantity in UncertaintyGap._fields:
            gap = getattr(gaps, quantity).value
            floor = min(getattr(floors[name], quantity).value for name in (one, other))
            found[f"{one} {other} {quantity}"] = {"gap": gap, "floor": floor, "in_floors": gap / floor}
    return found


def gap_table(problem: str, gaps: dict[str, dict[str, float]]) -> Table:
    shown = Table(title=f"{problem}: distances in nats, medians over rounds")
    shown.add_column("who, whom, of what")
    for column in ("gap", "floor", "in floors"):
        shown.add_column(column, justify="right")
    for name, row in gaps.items():
        shown.add_row(name, *(f"{value:.4g}" for value in row.values()))
    return shown


def verdict(ratios: list[float], gaps: list[dict[str, dict[str, float]]]) -> dict[str, bool]:
    """What is met; a bar for which nothing was measured is not."""
    apart = {
        "against_ours_met": [
            row["in_floors"] for each in gaps for name, row in each.items() if name.startswith("ours")
        ],
        "between_peers_met": [
            row["in_floors"] for each in gaps for name, row in each.items() if not name.startswith("ours")
        ],
    }
    found = {"speed_met": bool(ratios) and min(ratios) >= BAR}
    found |= {name: bool(values) and max(values) <= GAP_BAR for name, values in apart.items()}
    return found | {"met": all(found.values())}


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in runs) for key in runs[0]}


def table(problem: str, rows: dict[str, dict[str, float]]) -> Table:
    shown = Table(title=f"{problem}: effective draws per processor second", caption=CAPTION)
    columns = tuple(next(iter(rows.values())))
    shown.add_column("who")
    for column in columns:
        shown.add_column(column.replace("_", " "), justify="right")
    for name, row in rows.items():
        shown.add_row(name, *(f"{row[column]:.4g}" for column in columns))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hmc_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    text = "of the toy's perceptron: tanh and swish are smooth, relu is the published toy's (default: tanh)"
    parser.add_argument("--activation", choices=get_args(Activation), default="tanh", help=text)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=100, help="transitions that adapt")
    parser.add_argument("--draws", type=int, default=60, help="kept of each chain")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, in turn, with other seeds")
    args = parser.parse_args(argv)
    if args.draws < 4 or args.chains < 2 or args.warmup < 20 or args.rounds < 1:
        parser.error("at least 4 draws, 2 chains, 20 transitions of warm-up and 1 round are needed")
    names = [name for name in CONTENDERS if name == "ours" or installed(name)]
    makers = {"toy": toy, "digits": digits}
    console, found, gaps = Console(width=200), {}, {}
    for which in args.problems:
        settings = Settings(args.chains, args.warmup, args.draws, activation=args.activation)
        problem = makers[which](settings)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        apart: list[dict[str, dict[str, float]]] = []
        for number in range(args.rounds):
            log_probs: dict[str, Array] = {}
            for name in names:
                row, log_probs[name] = measure(name, problem, dataclasses.replace(settings, seed=number))
                rounds[name].append(row)
            apart.append(gaps_in_floors(log_probs, settings.chains))
        rows = {name: _medians(runs) for name, runs in rounds.items()}
        gaps[which] = {pair: _medians([each[pair] for each in apart]) for pair in apart[0]}
        title = f"toy ({args.activation})" if which == "toy" else which
        console.print(table(title, rows))
        console.print(gap_table(title, gaps[which]))
        for peer in names[1:]:
            rows["ours"][f"low_over_{peer}"] = rows["ours"]["low_per_second"] / rows[peer]["low_per_second"]
            rows["ours"][f"median_over_{peer}"] = rows["ours"]["median_per_second"] / rows[peer]["median_per_second"]
        found[which] = rows
    ratios = [value for rows in found.values() for key, value in rows["ours"].items() if "_over_" in key]
    most = max((row["in_floors"] for each in gaps.values() for row in each.values()), default=None)
    figures = {
        "bench": "hmc_efficiency",
        "problems": found,
        "activation": args.activation,
        "bar": BAR,
        "least": min(ratios, default=None),
    }
    figures |= {"gaps": gaps, "gap_bar": GAP_BAR, "widest_gap_in_floors": most}
    print(json.dumps(figures | verdict(ratios, list(gaps.values()))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
