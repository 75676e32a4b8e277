"""The stage of `jaxgeo study` that carries one network to hardware; found through the entry point `jaxgeo.study`."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga_bridge.checks import check_labels, check_maps
from jaxgeo.errors import ConfigError, ToolMissingError
from jaxgeo.files import make_folder
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig

Callback = Callable[[int, int, Mapping[str, float]], None]


class ExportStage:
    """What the entry point gives, as `export_stage`: it looks for its tools, and exports when it is called."""

    def check_tools(self, rtl: bool = True) -> None:
        """Fail within a second where a program that the export needs is missing.

        Args:
            rtl: also what Verilog and its simulation need: make, Verilator and da4ml.

        Raises:
            ToolMissingError: names the program and how to get it.
        """
        if shutil.which("g++") is None:
            raise ToolMissingError(
                "the export compiles C++ with g++, which is not on the PATH; install it (Debian or Ubuntu: apt install "
                "g++)"
            )
        if rtl:
            from fpga_bridge.circuits.verilator import find_verilator

            find_verilator()
            if importlib.util.find_spec("da4ml") is None:
                raise ToolMissingError(
                    "da4ml is not installed here, and it writes the RTL; install the extra with "
                    "`pip install 'jaxgeo[fpga]'`"
                )

    def __call__(
        self,
        *,
        config: HealpixClassifierConfig,
        params: Any,
        quantised_params: Any,
        inputs: np.ndarray,
        labels: np.ndarray,
        workdir: Path,
        progress: Callback | None = None,
        rtl: bool = True,
    ) -> dict[str, Any]:
        """One fine-tuned member through the whole ladder.

        All rungs take the fine-tuned parameters, so that the ladder shows what arithmetic changes and nothing else; the
        accuracy of `params`, the member before fine-tuning, stands beside them.

        Args:
            config: of the classifier, with a precision.
            params: the float member, before fine-tuning.
            quantised_params: after fine-tuning with quantisers in place; still floats, rounded by the model itself.
            inputs: float32 `(image, pixel, channel)`, NESTED.
            labels: `(image,)` integers.
            workdir: for the HLS project and the RTL; made where missing.
            progress: called with (done, total, values).
            rtl: also unroll the head into Verilog and simulate it.

        Returns:
            What JSON can hold, without times: `ladder` (fields of `fpga_bridge.ladder.Rung`, one entry for each rung
            after float64), `bit_for_bit` (the smallest share of equal values over all fixed-point rungs, RTL
            included), `layers` (types of each layer), `rtl` (figures, and `table` in words; None where not asked for).

        Raises:
            ConfigError: where the config has no precision.
            InputError: for inputs that are no finite maps of the config's nside, or labels out of range or not as many.
            ToolMissingError: where g++ is missing; before anything else.
            ExportError: where the network cannot be carried exactly.
            RunFolderError: where `workdir` cannot be written.
        """
        self.check_tools(rtl)
        if config.precision is None:
            raise ConfigError("the export needs formats, but config.precision is None; give a ClassifierPrecision")
        from fpga_bridge import ladder as ladders  # Keras only where an export follows

        labels = np.asarray(labels)
        check_maps(config, np.asarray(inputs))
        check_labels(labels, config.num_classes, (len(inputs),))
        apply = _pure(dataclasses.replace(config, precision=None))
        images = np.asarray(inputs, np.float32)
        total = ladders.STEPS + (1 if rtl else 0)

        def report(done: int, steps: int, values: Mapping[str, float]) -> None:
            if progress is not None:
                progress(done, total, values)

        folder = Path(workdir) / "hls"
        make_folder(folder)
        ladder = ladders.climb(apply, _pure(config), quantised_params, images, folder, labels=labels, progress=report)
        rungs, figures = ladder.rungs, None
        if rtl:
            outputs, figures = _rtl_of_head(ladder, images, Path(workdir) / "rtl")
            pair = {"hls4ml C++": ladder.outputs["hls4ml C++"], "RTL of the head": outputs}
            rungs = (*rungs, *ladders.compare_rungs(ladder.outputs | pair, tuple(pair), labels)[-1:])
            report(total, total, {})
        before = ladders.forward(apply, params, images)
        return {
            "carrier": ladder.carrier,
            "num_images": len(images),
            "accuracy_before_fine_tuning": float((before.argmax(-1) == labels).mean()),
            "accuracy_float64": float((ladder.outputs["float64"].argmax(-1) == labels).mean()),
            "ladder": [dataclasses.asdict(rung) for rung in rungs],
            "bit_for_bit": min(rung.bit_for_bit for rung in rungs if rung.bit_for_bit is not None),
            "layers": layer_table(ladder),
            "rtl": figures,
        }


export_stage = ExportStage()


def _pure(config: HealpixClassifierConfig) -> Callable:
    model = HealpixClassifier(config)
    return lambda params, x: model.apply({"params": params}, x)


def layer_table(ladder: Any) -> list[dict[str, Any]]:
    """Name, kind and types of each layer, as text."""
    rows = []
    for node in ladder.graph:
        types = ladder.types[node.name]
        formats = {key: getattr(types, key) for key in ("result", "weight", "bias", "accumulator")}
        row = {key: None if value is None else str(value) for key, value in formats.items()}
        rows.append({"name": node.name, "kind": node.kind, "shape": list(node.shape), **row})
    return rows


def _rtl_of_head(ladder: Any, inputs: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The last dense layer as Verilog under Verilator: outputs, and figures beside the whole network's in JAX."""
    from fpga_bridge.circuits import rtl  # da4ml takes seconds to import
    from fpga_bridge.ladder import features
    from fpga_bridge.typed_graph import graph as ir

    head = [node for node in ladder.graph if isinstance(node, ir.Dense)][-1]
    start = head.inputs[0]
    design = rtl.emit_verilog(ladder.graph, name="head", start=start)
    words = features(ladder.keras_model, start, inputs, ladder.carrier)
    run = rtl.simulate(design, words.astype(np.float32), folder)
    figures = rtl.compare(design, run, ladder.outputs["fixed point in JAX"])
    for clock in ("verilator_compile_s", "simulate_s"):
        figures.pop(clock)
    table = {
        "part of the network": f"{head.name}, {head.kernel.value.shape[0]} inputs to {head.shape[-1]} outputs",
        "latency": f"{figures['latency_cycles']} clock cycles",
        "initiation interval": f"{figures['initiation_interval']} clock cycle",
        "bit-for-bit equal to JAX": f"{100 * figures['equal_share']:.6g} % of {figures['values_compared']:,} values",
        "size, estimated by da4ml": f"{figures['lut_estimate']:,} LUTs, {figures['register_bits']:,} register bits",
    }
    return run.outputs, {"part": head.name, **figures, "table": table}
