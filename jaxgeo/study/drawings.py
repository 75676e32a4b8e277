"""The report's figures, from what the stages kept."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgeo.metrics.calibration import ReliabilityCurve
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting import calibration, comparison, ladder, sphere, trace, training, uncertainty
from jaxgeo.plotting.style import figure_to_data_uri
from jaxgeo.study.network import NUM_CLASSES
from jaxgeo.study.run_folder import RunFolder
from jaxgeo.study.score import REFERENCE

Drawn = Mapping[str, str]
"""Figures by name, as data URLs."""


def _measure(values: Mapping[str, Any]) -> Measure:
    return Measure(values["value"], values["standard_error"], values["image_standard_error"])


def _on_its_own_ground(figure: Any) -> str:
    """A PNG that keeps the figure's own background: the maps are drawn on a dark sky."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _spheres(run: RunFolder) -> Any:
    maps, wanted = run.tree("project", "maps"), run.config.report.spheres
    labels = maps["train_labels"]
    # One of each class before the second of any.
    order = np.argsort([np.sum(labels[:i] == label) for i, label in enumerate(labels)], kind="stable")[:wanted]
    return sphere.mollweide_grid(
        maps["train_images"][order, :, 0], [str(label) for label in labels[order]], columns=min(3, wanted)
    )


def _reliability(numbers: Mapping[str, Any]) -> Any:
    scores = numbers["scores"]
    curves = {
        name: ReliabilityCurve(**{field: jnp.asarray(values) for field, values in curve.items()})
        for name, curve in scores["reliability"].items()
    }
    errors = {name: _measure(card["calibration_error_equal_width"]) for name, card in scores["methods"].items()}
    return calibration.reliability_diagram(curves, errors)


def _rotation(numbers: Mapping[str, Any]) -> Any:
    rotation = numbers["scores"]["rotation"]

    def band(curve: Mapping[str, Any], quantity: str) -> uncertainty.Band:
        return uncertainty.Band(np.asarray(curve[quantity]), np.asarray(curve[f"{quantity}_error"]))

    curves = {
        name: uncertainty.UncertaintyCurve(
            band(curve, "entropy"), band(curve, "mutual_information"), band(curve, "accuracy")
        )
        for name, curve in rotation["methods"].items()
    }
    return uncertainty.uncertainty_under_rotation(
        np.asarray(rotation["angles"]),
        curves,
        trained_up_to=numbers["config"]["data"]["tilt_degrees"],
        num_classes=NUM_CLASSES,
    )


def _against_reference(run: RunFolder, numbers: Mapping[str, Any], quantity: str, label: str) -> Any:
    per_image, scores = run.tree("score", "per_image"), numbers["scores"]
    reference = per_image[REFERENCE][quantity]
    methods = {
        name: comparison.Comparison(
            reference, per_image[name][quantity], _measure(card["agreement"]), _measure(card["total_variation"])
        )
        for name, card in scores["methods"].items()
        if name != REFERENCE
    }
    floor, halves = scores["noise_floor"], per_image["halves"]
    itself = comparison.Comparison(
        halves["one"], halves["other"], _measure(floor["agreement"]), _measure(floor["total_variation"])
    )
    return comparison.method_against_reference(methods, itself, quantity=label)


def _ladder(numbers: Mapping[str, Any]) -> Any:
    rungs = [
        ladder.Rung(
            rung["name"],
            rung["compared_with"],
            rung["max_abs_error"],
            rung["mean_abs_error"],
            rung["top1_agreement"],
            rung["num_values"],
        )
        for rung in numbers["export"]["ladder"]
    ]
    return ladder.error_ladder(rungs)


def _chains(run: RunFolder) -> Any:
    kept = run.tree("sample", "diagnostics")
    return trace.chain_diagnostics(kept["function_r_hat"], kept["weight_r_hat"], kept["energy"], kept["divergent"])


def draw_all(run: RunFolder, numbers: Mapping[str, Any], said: Callable[[int, int], None]) -> dict[str, str]:
    """Every figure that the finished stages allow.

    Args:
        run: the run.
        numbers: what `report.json` will hold.
        said: told (done, total) after each figure.
    """
    curves = run.tree("train", "curves")
    makers: dict[str, tuple[Callable[[], Any], Any]] = {
        "spheres": (lambda: _spheres(run), "png"),
        "learning": (lambda: training.learning_curves(curves["ensemble"], title="Deep ensemble"), "svg"),
        "dropout": (lambda: training.learning_curves(curves["dropout"], title="MC dropout"), "svg"),
        "reliability": (lambda: _reliability(numbers), "svg"),
        "rotation": (lambda: _rotation(numbers), "svg"),
        "scatter": (
            lambda: _against_reference(run, numbers, "predictive_entropy", "predictive entropy, nats"), "svg",
        ),
        "chains": (lambda: _chains(run), "svg"),
    }  # fmt: skip
    if numbers["export"].get("ladder"):
        makers["ladder"] = (lambda: _ladder(numbers), "svg")
    drawn = {}
    for i, (name, (make, form)) in enumerate(makers.items()):
        drawn[name] = _on_its_own_ground(make()) if name == "spheres" else figure_to_data_uri(make(), form, dpi=150)
        said(i + 1, len(makers))
    return drawn
