"""What `cifar_shifts` leaves behind to be looked at: tables for the report, and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.cifar_shifts import MEASURES, OUTSIDE, SCORES, Outside, ShiftConfig, Shifts
from benchmarks.papers.image_posterior_pages import table
from jaxgeo import files
from jaxgeo.metrics.standard_error import Measure

PICTURE = "shifts.png"
_PICTURED = ("accuracy", "calibration_error_equal_width")


def _cell(measure: Measure) -> str:
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.4f}"
    return f"{measure.value:.4f}{error}"


def markdown(
    found: Shifts, titles: Mapping[str, str], shifts: ShiftConfig, num_images: int, num_test: int
) -> list[str]:
    """Lines of the report: each measure by severity, accuracy by corruption, detection of images from outside.

    Args:
        found: of `score_shifts`.
        titles: of the families.
        shifts: what was scored.
        num_images: test images that were corrupted.
        num_test: test images of the run.
    """
    lines: list[str] = []
    if found.severity:
        part = "" if num_images == num_test else f" (reduced: a part of the {num_test}, each class by its share)"
        lines += [
            "## Under corruption", "",
            f"{num_images} test images{part}, {len(shifts.corruptions)} corruptions: {', '.join(shifts.corruptions)}. "
            "They are made here and are not the published CIFAR-10-C files (`jaxgeo.data.corruptions` says what "
            "differs). Severity 0 is the clean images; each other column averages over the corruptions. ± is the "
            "jackknife error over members, of the average. Calibration errors grow as images get fewer: compare them "
            "within this table only.", "",
            f"![{PICTURE}]({PICTURE})", "",
        ]  # fmt: skip
        severities = sorted(next(iter(found.severity.values())))
        for measure, text in MEASURES.items():
            rows = [
                [titles[name], *(_cell(by_severity[severity][measure]) for severity in severities)]
                for name, by_severity in found.severity.items()
            ]
            lines += [f"{text[0].upper()}{text[1:]}:", "", *table(["family", *map(str, severities)], rows)]
        rows = [
            [corruption, *(_mean_accuracy(found.corruption[name][corruption]) for name in found.corruption)]
            for corruption in shifts.corruptions
        ]
        lines += [
            "Accuracy, averaged over the severities:", "",
            *table(["corruption", *(titles[name] for name in found.corruption)], rows),
        ]  # fmt: skip
    if found.outside:
        kinds: list[tuple[Outside, str]] = [(outside, score) for outside in shifts.outside for score in SCORES]
        short = {"entropy": "H", "mutual_information": "MI"}
        rows = [
            [titles[name], *(_cell(by_set[outside][score]["auroc"]) for outside, score in kinds)]
            for name, by_set in found.outside.items()
        ]
        lines += [
            "## Out of distribution", "",
            f"Areas under the ROC curve with which predictive entropy (H) and mutual information (MI) tell at most "
            f"{num_images} images of other sets from the {num_test} clean test images; 1/2 tells nothing. ± is the "
            f"jackknife error over members; DeLong's error of the images stands in shifts.json.{_absent(shifts)}", "",
            *table(["family", *(f"{OUTSIDE[outside]}, {short[score]}" for outside, score in kinds)], rows),
        ]  # fmt: skip
    return lines


def _absent(shifts: ShiftConfig) -> str:
    names = [title for name, title in OUTSIDE.items() if name not in shifts.outside]
    return f" Not scored, as not asked for or not in JAXGEO_DATA: {', '.join(names)}." if names else ""


def _mean_accuracy(by_severity: Mapping[int, Mapping[str, Measure]]) -> str:
    return f"{np.mean([found['accuracy'].value for found in by_severity.values()]):.4f}"


def draw_picture(folder: Path, found: Shifts, titles: Mapping[str, str]) -> None:
    """Accuracy and calibration error against severity, as `shifts.png`."""
    from jaxgeo.plotting.severity import scores_by_severity
    from jaxgeo.plotting.style import figure_to_bytes

    panels = {
        MEASURES[measure]: {
            titles[name]: {severity: values[measure] for severity, values in by_severity.items()}
            for name, by_severity in found.severity.items()
        }
        for measure in _PICTURED
    }
    figure = scores_by_severity(panels, title="CIFAR-10 under corruption, averaged over the kinds")
    files.write_bytes_atomically(folder / PICTURE, figure_to_bytes(figure))


def summary(found: Shifts) -> dict[str, Any]:
    """The part of the numbers that the report's last line has: by severity, and from outside; not by corruption."""
    numbers = found.to_dict()
    return {"severity": numbers["severity"], "outside": numbers["outside"]}
