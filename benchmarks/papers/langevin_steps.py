"""Steps of cyclical SGLD on the images of `image_posteriors`, judged by training images that are held out.

    JAXGEO_DATA=data python -m benchmarks.papers.langevin_steps [--friction 0.1 --steps 2e-6 7e-6 2e-5]

Four chains from networks of the prior sample the posterior of the first of the training images, each cycle's first step
being one of `--steps`; printed are the negative log-likelihood (nats) and the accuracy of the mean prediction for the
other training images, by all draws and by those after the first cycle. Neither test images nor Hamiltonian Monte Carlo
are looked at. Beside them stands the share by which the largest eigenvalues of curvature and gradient noise at a
trained network let the variance be too large at the first draw (`jaxgeo.posteriors.langevin_step`; none where the
dynamics diverge). The last line is one JSON object.

Without options it printed 0.949, 0.774, 0.687 and 0.671 nats for the steps 1e-5, 3e-5, 1e-4 and 2e-4 (all draws), and
0.892, 0.744, 0.676 and 0.666 after the first cycle: chains that begin at the prior's networks have far to go, and
longer steps are better up to close to where the dynamics diverge.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks.papers.image_posterior_families import ImageConfig, make_problem, measured_stiffness
from benchmarks.papers.image_posterior_sets import default_source
from jaxgeo.errors import ConfigError, JaxgeoError
from jaxgeo.metrics.scores import accuracy, negative_log_likelihood
from jaxgeo.posteriors.langevin import cyclical_step, langevin


def scan(
    config: ImageConfig, held_out: int, steps: Sequence[float], friction: float | None
) -> list[dict[str, float | None]]:
    """One row for each step.

    Args:
        config: of the images, of which `held_out` are kept from sampling; its cycles.
        held_out: training images that judge.
        steps: first steps of the cycles.
        friction: of SGHMC; None: SGLD.

    Raises:
        JaxgeoError: no images, or impossible settings.
    """
    if not 0 < held_out < config.images:
        raise ConfigError(f"between 1 and {config.images - 1} of the training images can be held out, got {held_out}")
    whole, count = make_problem(config), config.images - held_out
    problem = whole._replace(inputs=whole.inputs[:count], labels=whole.labels[:count])
    settings = dataclasses.replace(config, images=count).langevin(friction)
    stiff = measured_stiffness(config, problem, jax.random.key(5))
    inputs, labels = (jnp.asarray(a) for a in (problem.inputs, problem.labels))
    others, truth = (jnp.asarray(a) for a in (whole.inputs[count:], whole.labels[count:]))
    noise, bend = (1 / 4, 1 / 4) if friction is None else (1 / (2 * friction), 1 / (4 - 2 * friction))
    apply = problem.log_joint.apply
    predict = jax.jit(lambda draws, x: jax.vmap(lambda draw: jax.nn.log_softmax(apply(draw, x)))(draws))
    rows: list[dict[str, float | None]] = []
    for step in steps:
        chosen, begun = dataclasses.replace(settings, step_size=step), time.process_time()
        draws = langevin(problem.init, problem.log_joint, inputs, labels, chosen).init(jax.random.key(3))
        found = predict(draws, others)
        cycles = found.reshape(chosen.num_chains, chosen.num_cycles, chosen.draws_per_cycle, *found.shape[1:])
        late = cycles[:, min(1, chosen.num_cycles - 1) :].reshape(-1, *found.shape[1:])
        first = chosen.steps_per_cycle - chosen.draws_per_cycle * chosen.steps_between
        at_draw, left = float(cyclical_step(chosen, jnp.asarray(first))), 1 - step * bend * stiff.curvature
        inflation = (1 + at_draw * noise * stiff.gradient_noise) / (1 - at_draw * bend * stiff.curvature) - 1
        rows.append(
            {
                "step": step,
                "negative_log_likelihood": float(negative_log_likelihood(found, truth)),
                "after_first_cycle": float(negative_log_likelihood(late, truth)),
                "accuracy": float(accuracy(found, truth)),
                "inflation": inflation if left > 0 else None,
                "cpu_seconds": time.process_time() - begun,
            }
        )
        print(
            "  ".join(f"{name} {'none' if value is None else f'{value:.3g}'}" for name, value in rows[-1].items()),
            flush=True,
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.langevin_steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=1500, help="training images, of which some are held out (1500)")
    parser.add_argument("--held-out", type=int, default=300, help="those that judge (300)")
    parser.add_argument("--cycles", type=int, default=4, help="of each chain (4)")
    parser.add_argument("--cycle-epochs", type=int, default=60, help="length of a cycle (60)")
    parser.add_argument("--width", type=int, default=40, help="units of each hidden layer (40)")
    parser.add_argument("--batch-size", type=int, default=100, help="images of a batch (100)")
    parser.add_argument("--epochs", type=int, default=60, help="of the training of one network (60)")
    parser.add_argument("--friction", type=float, help="of SGHMC; without it SGLD")
    parser.add_argument(
        "--steps", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4, 2e-4], help="first steps of a cycle"
    )
    args = vars(parser.parse_args(argv))
    held_out, steps, friction = (args.pop(name) for name in ("held_out", "steps", "friction"))
    try:
        config = ImageConfig(source=default_source(), test_images=100, **args)
        rows = scan(config, held_out, steps, friction)
    except JaxgeoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"bench": "langevin_steps", "friction": friction, "rows": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
