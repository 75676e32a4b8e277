"""Every method against the labels, against the HMC reference, and on digits turned away from the training poses."""

import concurrent.futures
import contextlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.metrics import calibration, noise_floor, scorecard, uncertainty
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.scores import is_correct
from jaxgeo.models.healpix_classifier import HealpixClassifier
from jaxgeo.progress import Progress
from jaxgeo.study.config import StudyConfig
from jaxgeo.study.network import classifier, log_probs_of
from jaxgeo.study.run_folder import RunFolder
from jaxgeo.study.values import plain

REFERENCE = "HMC"
ENSEMBLE = "deep ensemble"
DROPOUT = "MC dropout"
SINGLE = "single network"


def _once() -> contextlib.AbstractContextManager[None]:
    """For functions that are called once: one operation at a time takes a fraction of the time to compile them."""
    return jax.disable_jit()


class Method(NamedTuple):
    """Draws of parameters on one leading axis, and how many groups of them belong together (None: each alone)."""

    params: Any
    groups: int | None


def _flat_chains(draws: Any) -> Any:
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), draws)


def methods_of(run: RunFolder) -> dict[str, Method]:
    """Every method's draws as stacked params trees; the reference's chains one after another."""
    members = run.tree("train", "ensemble")
    return {
        ENSEMBLE: Method(members, None),
        DROPOUT: Method(run.tree("train", "dropout_draws"), run.config.dropout.members),
        SINGLE: Method(jax.tree.map(lambda x: x[:1], members), None),
        REFERENCE: Method(_flat_chains(run.tree("sample", "draws")), run.config.hmc.num_chains),
    }


def _thinned(method: Method, draws: int) -> Any:
    total = jax.tree.leaves(method.params)[0].shape[0]
    kept = np.unique(np.linspace(0, total - 1, min(draws, total)).round().astype(int))
    return jax.tree.map(lambda x: x[kept], method.params)


def _under_rotation(
    log_probs: Float[Array, "draw image class"], labels: Float[Array, " image"] | Any
) -> dict[str, tuple[float, float]]:
    values = {
        "entropy": uncertainty.predictive_entropy(log_probs),
        "mutual_information": uncertainty.mutual_information(log_probs),
        "accuracy": is_correct(mean_log_probs(log_probs), labels),
    }
    return {
        name: (float(jnp.mean(x)), float(jnp.std(x, ddof=1) / math.sqrt(x.size)) if x.size > 1 else 0.0)
        for name, x in values.items()
    }


def _scores_of(
    method: Method, drawn: Array, labels: Array, reference: Array | None, config: StudyConfig
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Its scores, reliability curve and uncertainty of each image; of the reference itself without distances."""
    with _once():
        card = scorecard.score(
            drawn,
            labels,
            reference,
            groups=method.groups,
            reference_groups=None if reference is None else config.hmc.num_chains,
            num_bins=config.score.bins,
        ).to_dict()
        curve = calibration.reliability_curve(drawn, labels, config.score.bins)._asdict()
        entropy, information = uncertainty.predictive_entropy(drawn), uncertainty.mutual_information(drawn)
    return card, curve, {"predictive_entropy": entropy, "mutual_information": information}


def _distances(
    log_probs: dict[str, Array], dropout_groups: int | None, config: StudyConfig
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The noise floor, which of ensemble and dropout is closer to the reference, and the entropies of its halves."""
    # One chain has no halves that could disagree about where it settled; its blocks are all there is.
    reference, chains = log_probs[REFERENCE], config.hmc.num_chains
    blocks = chains if chains > 1 else 2
    verdicts = {}
    with _once():
        floor = noise_floor.noise_floor(reference, blocks, key=jax.random.key(config.score.seed))
        for distance in ("total_variation", "disagreement"):
            verdict = noise_floor.closer_than(
                log_probs[ENSEMBLE],
                log_probs[DROPOUT],
                reference,
                distance=distance,
                other_groups=dropout_groups,
                reference_groups=blocks,
                floor=floor,
            )
            verdicts[distance] = verdict.to_dict() | {"sentence": verdict.sentence}
    # Whole chains: halves of one chain would share what it has in common with itself. An odd one is left out.
    half = (blocks // 2) * (reference.shape[0] // blocks)
    halves = {
        "one": uncertainty.predictive_entropy(reference[:half]),
        "other": uncertainty.predictive_entropy(reference[-half:]),
    }
    return floor.to_dict() | {"num_splits": floor.num_splits}, verdicts, halves


def _turned(
    model: HealpixClassifier, methods: dict[str, Method], rotated: Any, config: StudyConfig
) -> dict[str, dict[str, list[float]]]:
    """Of each method means and errors by angle; of so many of its draws as are asked for."""
    kept = {name: _thinned(method, config.score.draws) for name, method in methods.items()}
    turned: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    for at_angle in jnp.asarray(rotated["images"]):
        for name, params in kept.items():
            drawn = log_probs_of(model, params, at_angle)
            with _once():
                found = _under_rotation(drawn, jnp.asarray(rotated["labels"]))
            for quantity, (value, error) in found.items():
                turned[name].setdefault(quantity, []).append(value)
                turned[name].setdefault(f"{quantity}_error", []).append(error)
    return turned


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Scores, distances, verdicts and the study of rotation."""
    config = run.config
    model = classifier(config)
    maps = run.tree("project", "maps")
    images, labels = jnp.asarray(maps["test_images"]), jnp.asarray(maps["test_labels"])
    methods = methods_of(run)
    steps = 2 * len(methods) + 2
    bar, done = progress.bar("scores", "tables"), 0

    log_probs = {}
    for name, method in methods.items():
        log_probs[name] = log_probs_of(model, method.params, images)
        done += 1
        bar(done, steps, {})

    def scores_of(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reference = None if name == REFERENCE else log_probs[REFERENCE]
        return _scores_of(methods[name], log_probs[name], labels, reference, config)

    cards, curves, arrays = {}, {}, {}
    # Most of the time is compilation, which threads share.
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, found in zip(methods, threads.map(scores_of, methods), strict=True):
            cards[name], curves[name], arrays[name] = found
            done += 1
            bar(done, steps, {})
    floor, verdicts, arrays["halves"] = _distances(log_probs, methods[DROPOUT].groups, config)
    bar(done + 1, steps, {})
    rotated = run.tree("project", "rotated")
    turned = _turned(model, methods, rotated, config)
    bar(steps, steps, {})
    figures = {
        "methods": cards,
        "noise_floor": floor,
        "ensemble_against_dropout": verdicts,
        "rotation": {"angles": list(config.score.angles), "images": len(rotated["labels"]), "methods": turned},
        "reliability": curves,
    }
    return {"figures.json": plain(figures), "per_image.safetensors": jax.device_get(arrays)}
