"""From a pure JAX function to gates: trace, Keras, hls4ml, C++ emulation and RTL, with the error at each step.

    typed_graph   the nodes that hardware takes; `precision.py` gives each its exact type by interval arithmetic
    tracing       a jaxpr as such a graph, or the line of the model that has no exact form
    hls           the way through hls4ml: Keras model, project, compiled C++, export for a board
    emulation     hls4ml's arithmetic as JAX functions, for designs typed as its users type them
    circuits      the open way: da4ml's logic, Verilog, Verilator, Yosys
    estimates     cycles, FIFO depths and resources before any synthesis, and reports of those that were made
    keras_files   networks of Keras and QKeras read from files
    onnx          graphs as ONNX models
    capabilities  what each layer may hope for, asked of the rooms above

Beside them stand the commands (`cli.py`, `study.py`), what they say of wrong files (`checks.py`), the networks by name
(`networks.py`), the error at each step (`ladder.py`), all formats of export (`exports.py`, `hardware_weights.py`) and
the child processes of compilers and simulators (`processes.py`, `guard.py`).

Importing this package loads none of Keras, hls4ml or da4ml; it only makes sure that they are installed.
"""

import importlib.util

from jaxgeo.errors import ToolMissingError


def _check_extra() -> None:
    missing = [name for name in ("keras", "hls4ml") if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolMissingError(
            f"fpga_bridge needs {' and '.join(missing)}, not installed here; install the extra with "
            "`pip install 'jaxgeo[fpga]'`"
        )


_check_extra()
