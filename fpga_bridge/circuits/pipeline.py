"""From da4ml's straight-line logic to pipelined Verilog that needs no other file."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpga_bridge.circuits.circuit import import_da4ml
from jaxgeo.errors import ExportError

_INSTANCE = re.compile(r'lookup_table #\((\d+), (\d+), "([^"]+)"\)')


def pipelined(logic: Any, stage_delay: float) -> Any:
    """Logic cut into stages of at most `stage_delay` levels, the delay spread evenly without another register.

    da4ml's own search for an even delay need not end where delays are fractions; ours halves an interval of integers.
    """
    da4ml = import_da4ml()
    best = da4ml.trace.to_pipeline(logic, stage_delay, retiming=False)
    stages = len(best.solutions)
    low, high = max(math.floor(max(best.out_latencies) / stages), 1), math.ceil(stage_delay)
    size, carry = best.solutions[0].adder_size, best.solutions[0].carry_size
    while low < high:
        delay = (low + high) // 2
        config = da4ml.trace.HWConfig(size, carry, delay)
        entry = [da4ml.trace.FixedVariable(*interval, hwconf=config) for interval in best.inp_qint]
        try:
            again = da4ml.trace.comb_trace(entry, list(best(entry)), keep_dead_inputs=True)
        except AssertionError:  # one operation alone takes longer than such a stage
            low = delay + 1
            continue
        shorter = da4ml.trace.to_pipeline(again, delay, retiming=False)
        if len(shorter.solutions) > stages:
            low = delay + 1
        else:
            best, high = shorter, delay
    return best


def verilog_of(pipeline: Any, name: str) -> dict[str, str]:
    """File name -> Verilog of a pipeline; the top module is called `name`, tables are modules beside it."""
    da4ml = import_da4ml()
    rtl = da4ml.codegen.rtl.verilog
    modules = dict(rtl.pipeline_logic_gen(pipeline, name))
    contents: dict[str, str] = {}
    for stage in pipeline.solutions:
        contents |= rtl.table_mem_gen(stage)
    tables: dict[tuple[str, int, int], str] = {}

    def own_module(match: re.Match) -> str:
        key = match[3], int(match[1]), int(match[2])
        return tables.setdefault(key, f"{name}_table{len(tables)}")

    modules = {module: _INSTANCE.sub(own_module, text) for module, text in modules.items()}
    for (memory, input_bits, output_bits), module in tables.items():
        modules[module] = "\n".join(_table_module(module, contents[memory].split("\n"), input_bits, output_bits))
    library = Path(rtl.__file__).parent.glob("source/*.v")
    parts = {path.name: path.read_text() for path in library if path.stem != "lookup_table"}
    return {f"{module}.v": text for module, text in modules.items()} | parts


def _table_module(name: str, entries: list[str], input_bits: int, output_bits: int) -> Iterator[str]:
    """A table as a case statement; entries that no input reaches are left to synthesis."""
    if len(entries) != 1 << input_bits:
        raise ExportError(f"the table {name} has {len(entries)} entries, but its input {input_bits} bits")
    yield f"module {name} (input [{input_bits - 1}:0] in, output reg [{output_bits - 1}:0] out);"
    yield "  always @(*) case (in)"
    for word, entry in enumerate(entries):
        if "X" not in entry:
            yield f"    {input_bits}'d{word}: out = {output_bits}'h{entry};"
    yield f"    default: out = {{{output_bits}{{1'bx}}}};"
    yield "  endcase"
    yield "endmodule\n"
