"""What `image_posteriors` leaves behind to be looked at: its tables and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.image_posterior_families import ImageConfig
from jaxgeo import files
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.posteriors import diagnostics
from jaxgeo.posteriors.hmc import HmcTrace
from jaxgeo.posteriors.inference_data import FIGURES, figures, to_inference_data

_PICTURED = ("deep_ensemble", "mc_dropout", "last_layer_laplace", "mean_field", "swag", "microcanonical")
SCORES = {
    "accuracy": "accuracy", "negative_log_likelihood": "NLL", "brier": "Brier",
    "calibration_error_equal_width": "ECE", "mutual_information": "MI",
}  # fmt: skip
DISTANCES = {
    "agreement": "agreement", "total_variation": "total variation", "divergence_from_reference": "KL(HMC, method)",
    "entropy_gap": "entropy gap", "mutual_information_gap": "MI gap",
}  # fmt: skip
PICTURES = {
    "cost.png": "total variation from HMC against processor time",
    "reliability.png": "reliability of some methods, with their calibration errors",
    "chains.png": "whether HMC's chains met: split R-hat of outputs and weights, energies",
    **{
        f"hmc_{name}.png": f"by ArviZ, of the outputs and weights whose split R-hat is largest: {what}"
        for name, what in {
            "trace": "densities, and values along the chains",
            "rank": "ranks of each chain, level where the chains agree",
            "ess": "effective draws of small intervals",
            "energy": "energies beside their changes, which should spread as widely",
        }.items()
    },
}


def cell(measure: Measure | None) -> str:
    """A value with its Monte Carlo error, or nothing."""
    if measure is None:
        return ""
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.3f}"
    return f"{measure.value:.3f}{error}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def markdown(
    found: Mapping[str, dict[str, Any]],
    floor: Mapping[str, Measure],
    seconds: Mapping[str, float],
    titles: Mapping[str, str],
    verdict: diagnostics.ConvergenceVerdict,
    config: ImageConfig,
    steps: Mapping[str, float],
) -> str:
    """Scores and price; distances from HMC; detection; what the pictures show."""
    scores = [
        [titles[name], str(row["networks"]), *(cell(row[key]) for key in SCORES), f"{seconds[name]:.0f}"]
        for name, row in found.items()
    ]
    distances = [
        [titles[name], *(cell(row[key]) for key in DISTANCES)]
        for name, row in found.items()
        if DISTANCES.keys() <= row.keys()
    ]
    distances.append(["HMC, half against half", *(cell(floor[key]) for key in DISTANCES)])
    outside = list(next(iter(found.values()))["outside"])
    names = {"mutual_information": "MI", "entropy": "H"}
    kinds = [(name, kind) for name in outside for kind in names]
    detection = [
        [titles[name], *(cell(row["outside"][other][kind]) for other, kind in kinds)] for name, row in found.items()
    ]
    return "\n".join(
        [
            f"# Posteriors of a small image network against HMC ({config.source}, {config.images} images)", "",
            verdict.message, "",
            "Values ± jackknife errors over members or chains (distances: with HMC's chains in quadrature); entropies "
            "in nats; CPU: processor seconds of training and drawing, compilation included. First steps of a cycle, "
            "from the curvature and the gradients' noise at a trained network: "
            + ", ".join(f"{titles.get(name, name)} {step:.2g}" for name, step in steps.items()) + ".", "",
            *table(["method", "networks", *SCORES.values(), "CPU, s"], scores),
            "Distances from HMC (divergence and mean absolute gaps in nats); the last row, one mean over half of HMC's "
            "draws against one over the other half, is the floor, of the divergence the mean of both directions. With "
            "half of the draws each it is up to twice the error of the whole reference (of the divergence four times): "
            "who is below it cannot be told from HMC by this run, and is not shown to be as good:", "",
            *table(["method", *DISTANCES.values()], distances),
            "Areas under the ROC curve with which mutual information (MI) and entropy (H) tell images of other sets "
            f"from test images of {config.source}:", "",
            *table(["method", *(f"{other}, {names[kind]}" for other, kind in kinds)], detection),
            "Pictures:", "",
            *(f"- [{name}]({name}): {what}" for name, what in PICTURES.items()), "",
        ]
    )  # fmt: skip


def draw_pictures(
    folder: Path,
    found: Mapping[str, dict[str, Any]],
    floor: Mapping[str, Measure],
    seconds: Mapping[str, float],
    titles: Mapping[str, str],
    reference: Mapping[str, Any],
    config: ImageConfig,
) -> None:
    """All of `PICTURES`."""
    from jaxgeo.plotting import calibration, cost, style, trace

    costs = {
        titles[name]: cost.Cost(seconds[name], row["total_variation"])
        for name, row in found.items()
        if "total_variation" in row
    }
    shown = [name for name in ("hmc", *_PICTURED) if name in found]
    curves = {titles[name]: found[name]["reliability"] for name in shown}
    errors = {titles[name]: found[name]["calibration_error_equal_width"] for name in shown}
    run = HmcTrace(*(np.asarray(values) for values in reference["trace"]))
    chains, draws = run.position.shape[:2]
    warm = run.energy.shape[1] - draws
    outputs = reference["outputs"].reshape(chains, draws, *reference["outputs"].shape[1:])
    made = {
        "cost.png": cost.distance_against_cost(costs, floor["total_variation"], seconds["hmc"]),
        "reliability.png": calibration.reliability_diagram(curves, errors),
        "chains.png": trace.chain_diagnostics(
            diagnostics.split_rhat(outputs.reshape(chains, draws, -1)),
            diagnostics.split_rhat(run.position),
            run.energy[:, warm:],
            run.diverging[:, warm:],
        ),
    }
    by_arviz = figures(to_inference_data(run, config.hmc, outputs, num=2), FIGURES)
    made |= {f"hmc_{name}.png": figure for name, figure in by_arviz.items()}
    for name, figure in made.items():
        files.write_bytes_atomically(folder / name, style.figure_to_bytes(figure))
