"""An HMC run as ArviZ knows it, and ArviZ's own pictures of it: traces, ranks, effective draws, energies.

A network has too many outputs and weights to look at each. Taken along are those whose chains agree least, by split
R-hat: if they are fine, so are the others.

References:
    Kumar et al., "ArviZ a unified library for exploratory analysis of Bayesian models in Python", JOSS 4 (2019).
    Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo", arXiv:1604.00695 (energy).
    Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat", arXiv:1903.08008 (ranks).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.diagnostics import split_rhat
from jaxgeo.posteriors.hmc_state import HmcConfig, HmcTrace

FIGURES = ("trace", "rank", "ess", "energy")


def worst(samples: Float[np.ndarray, "chain draw *output"], num: int) -> list[tuple[int, ...]]:
    """Indices of the `num` outputs with the largest split R-hat, the largest first; all of them if there are fewer.

    Raises:
        ConfigError: `num` is below one.
        InputError: fewer than 4 draws, or values that are not finite.
    """
    if num < 1:
        raise ConfigError(f"at least 1 output is needed, got {num}")
    rhat = split_rhat(samples)
    order = np.argsort(-rhat.ravel(), kind="stable")[:num]
    return [tuple(int(i) for i in index) for index in zip(*np.unravel_index(order, rhat.shape), strict=True)]


def to_inference_data(
    trace: HmcTrace, config: HmcConfig, outputs: Float[np.ndarray, "chain draw *output"], num: int = 4
) -> Any:
    """The `arviz.InferenceData` of a whole run.

    Group `posterior` has `output` and `weight`, (chain, draw, which), the latter in prior standard deviations and both
    with their index as a label; `sample_stats` has `energy`, `lp` (log density, nats), `acceptance_rate`, `diverging`,
    `n_steps` and `step_size` of the transitions that led to the draws.

    Args:
        trace: from the first transition on.
        config: of the run.
        outputs: of each draw, such as log-probabilities of test images.
        num: outputs, and weights, that are taken along, those with the largest split R-hat.

    Raises:
        InputError: outputs of other chains or draws, a trace that is not whole, or values that are not finite.
        ConfigError: `num` is below one.
    """
    import arviz  # takes seconds to import, and only this needs it

    chains, draws = trace.position.shape[:2]
    transitions = config.num_warmup + draws * config.thinning
    if draws == 0 or trace.energy.shape != (chains, transitions):
        raise InputError(
            f"a whole trace of {draws} draws has {config.num_warmup} transitions of warm-up and {config.thinning} for "
            f"each draw, {transitions} in all, got {trace.energy.shape[-1]}; join pieces by concatenate_traces"
        )
    if outputs.shape[:2] != (chains, draws):
        raise InputError(f"outputs must be of {chains} chains and {draws} draws, got {outputs.shape[:2]}")
    chosen = {"output": (outputs, worst(outputs, num)), "weight": (trace.position, worst(trace.position, num))}
    kept = slice(config.num_warmup + config.thinning - 1, None, config.thinning)
    stats = {
        "energy": trace.energy,
        "lp": -trace.potential_energy,
        "acceptance_rate": trace.acceptance,
        "diverging": trace.diverging,
        "n_steps": trace.num_leapfrogs,
        "step_size": trace.step_size,
    }
    return arviz.from_dict(
        posterior={
            name: np.stack([values[(slice(None), slice(None), *index)] for index in indices], axis=-1)
            for name, (values, indices) in chosen.items()
        },
        sample_stats={name: values[:, kept] for name, values in stats.items()},
        coords={f"{name}_index": [", ".join(map(str, i)) for i in indices] for name, (_, indices) in chosen.items()},
        dims={name: [f"{name}_index"] for name in chosen},
    )


def figures(data: Any, which: Sequence[str] = FIGURES) -> Mapping[str, Any]:
    """ArviZ's pictures, as Matplotlib figures by name.

    `trace`: densities and values along the chains; `rank`: histograms of the ranks of each chain, level where the
    chains agree; `ess`: effective draws of small intervals of each quantity; `energy`: its distribution beside that of
    its changes, which should be as wide.

    Args:
        data: of `to_inference_data`.
        which: some of `FIGURES`.

    Raises:
        ConfigError: an unknown name.
    """
    unknown = sorted(set(which) - set(FIGURES))
    if unknown:
        raise ConfigError(f"there are pictures {', '.join(FIGURES)}, got {', '.join(unknown)}")
    import arviz
    import matplotlib.pyplot as plt

    draw = {
        "trace": lambda: arviz.plot_trace(data, compact=False),
        "rank": lambda: arviz.plot_rank(data),
        "ess": lambda: arviz.plot_ess(data, kind="local"),
        "energy": lambda: arviz.plot_energy(data),
    }
    found = {}
    for name in which:
        with warnings.catch_warnings():
            # How ArviZ calls newer Matplotlib is no affair of who asks for a picture.
            warnings.filterwarnings("ignore", "Passing a dict or None as alias_mapping")
            found[name] = np.ravel(draw[name]())[0].figure
        # Of more than a few panels the titles would stand on the ticks of the panels above.
        found[name].set_layout_engine("constrained")
        # Pyplot would keep it for ever; the figure itself stays whole.
        plt.close(found[name])
    return found
