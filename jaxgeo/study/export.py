"""One member to hardware, by whatever package offers the stage: this library knows no hardware tool.

The stage is found through the entry point `export` of the group `jaxgeo.study`. Without the package, or without
its extra, the study goes on and says so.
"""

import dataclasses
import importlib.metadata
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import files
from jaxgeo.errors import ToolMissingError
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.progress import Callback, Progress
from jaxgeo.study.config import StudyConfig
from jaxgeo.study.network import classifier_config
from jaxgeo.study.run_folder import RunFolder
from jaxgeo.training.quantisation import choose_precision, finetune

_CALIBRATION_IMAGES = 256
_INSTALL = "install the extra: pip install 'jaxgeo[fpga]'"


@runtime_checkable
class Exporter(Protocol):
    """What the entry point names."""

    def check_tools(self, rtl: bool) -> None:
        """Fail within a second where a program is missing that the export needs, with or without Verilog.

        Raises:
            ToolMissingError: says how to get it.
        """
        ...

    def __call__(
        self,
        *,
        config: HealpixClassifierConfig,
        params: Any,
        quantised_params: Any,
        inputs: np.ndarray,
        labels: np.ndarray,
        workdir: Path,
        progress: Callback | None,
        rtl: bool,
    ) -> dict[str, Any]:
        """One member to hardware: the error of each step on the way, among other figures."""
        ...


def find_exporter() -> Exporter:
    """What the entry point names.

    Raises:
        ToolMissingError: no package offers it, or one that it needs is not installed; says which extra to install.
    """
    entries = importlib.metadata.entry_points(group="jaxgeo.study", name="export")
    if not entries:
        raise ToolMissingError(f"no installed package offers the export; {_INSTALL}")
    try:
        return next(iter(entries)).load()
    except ImportError as error:
        raise ToolMissingError(f"the export needs {error.name or error}, which is not installed; {_INSTALL}") from error


def check_tools(config: StudyConfig) -> None:
    """Look for the programs that the export needs.

    Raises:
        ToolMissingError: the export could run but for a program; says how to get it and how to do without.
    """
    try:
        exporter = find_exporter()
    except ToolMissingError:
        return  # the report will say that the export did not run, and why
    try:
        exporter.check_tools(config.export.rtl)
    except ToolMissingError as error:
        raise ToolMissingError(f"{error} (to go on without the export: --export.no-run)") from error


def _fine_tuned(run: RunFolder, params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """The classifier's configuration with formats chosen from data, and its parameters trained on in them."""
    settings, floating = run.config.export, classifier_config(run.config)
    precision = choose_precision(
        floating,
        params,
        images[:_CALIBRATION_IMAGES],
        weight_bits=settings.weight_bits,
        activation_bits=settings.activation_bits,
        logit_bits=settings.logit_bits,
    )
    config = dataclasses.replace(floating, precision=precision)
    if settings.epochs == 0:
        return config, params
    model = HealpixClassifier(config)

    @jax.jit
    def tune(params: Any, images: Any, labels: Any) -> Any:
        return finetune(
            lambda tree, x: model.apply({"params": tree}, x),  # pyright: ignore[reportArgumentType]
            params,
            images,
            labels,
            jax.random.key(settings.seed),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        )[0]

    return config, tune(params, images, labels)


def _build_folder(run: RunFolder) -> Path:
    """An empty folder for the tools, and none of earlier attempts.

    Named after this process: a compiler that outlives a killed study must not write into the next one's files.
    """
    stage = files.make_folder(run.path / "export")
    for old in stage.glob("build-*"):
        shutil.rmtree(old, ignore_errors=True)
    return files.make_folder(stage / f"build-{os.getpid()}")


def _keep(build: Path) -> None:
    """Give the finished project a name that is the same in every run."""
    project = build.parent / "project"
    shutil.rmtree(project, ignore_errors=True)
    build.rename(project)


def _rtl(rtl: Mapping[str, Any]) -> dict[str, Any]:
    share, cycles, interval = rtl["equal_share"], rtl["latency_cycles"], rtl["initiation_interval"]
    agree = "agree bit for bit on all" if share == 1 else f"agree bit for bit on only {100 * share:.2f} % of"
    return {
        "sentence": f"Layer '{rtl['part']}' as Verilog by da4ml, simulated under Verilator, and fixed point in JAX "
        f"{agree} {rtl['values_compared']:,} outputs; its latency is {cycles} clock cycles, its initiation interval "
        f"{interval}.",
        "bit_for_bit": share,
        **rtl,
    }


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Fine-tune one member in fixed point and climb the ladder on the whole test set.

    Raises:
        ToolMissingError: a program is missing.
        ExportError: the network cannot be carried exactly.
    """
    settings = run.config.export
    if not settings.run:
        return {"figures.json": {"ran": False, "reason": "it was left out by export.run = false."}}
    try:
        exporter = find_exporter()
    except ToolMissingError as error:
        progress.note(str(error))
        return {"figures.json": {"ran": False, "reason": f"{error}."}}
    maps = run.tree("project", "maps")
    member = jax.tree.map(lambda leaf: jnp.asarray(leaf[settings.member]), run.tree("train", "ensemble"))
    images, labels = jnp.asarray(maps["train_images"]), jnp.asarray(maps["train_labels"])
    config, tuned = _fine_tuned(run, member, images, labels)
    build = _build_folder(run)
    found = exporter(
        config=config,
        params=jax.device_get(member),
        quantised_params=jax.device_get(tuned),
        inputs=np.asarray(maps["test_images"], np.float32),
        labels=maps["test_labels"],
        workdir=build,
        progress=progress.bar("export", "steps"),
        rtl=settings.rtl,
    )
    _keep(build)
    equal = [rung for rung in found["ladder"] if rung["bit_for_bit"] is not None]
    figures = {
        **found,
        "ran": True,
        "member": settings.member,
        "values_compared": sum(rung["num_values"] for rung in equal),
        "rtl": _rtl(found["rtl"]) if found["rtl"] else None,
    }
    return {"figures.json": figures, "tuned.safetensors": jax.device_get(tuned)}
