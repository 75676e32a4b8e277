"""From a pure JAX function to gates: trace, Keras, hls4ml, C++ emulation and RTL, with the error at each step.

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
