"""What some FPGA parts hold, from their makers' public product tables, and how a part is named in full."""

import dataclasses
import re

from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Part:
    """Totals of one part; a block-RAM tile holds 36 Kbit and counts as two of 18."""

    name: str
    full_name: str  # with the package and speed grade of the board
    board: str
    dsp: int
    lut: int
    ff: int
    bram_tiles: int
    multiplier: tuple[int, int]  # bits of the two signed operands of a DSP slice


PARTS = {
    part.name: part
    for part in (
        Part("xcu250", "xcu250-figd2104-2L-e", "Alveo U250", 12288, 1728000, 3456000, 2688, (27, 18)),
        Part("xcvu9p", "xcvu9p-flga2104-2L-e", "VCU118", 6840, 1182240, 2364480, 2160, (27, 18)),
        Part("xczu9eg", "xczu9eg-ffvb1156-2-e", "ZCU102", 2520, 274080, 548160, 912, (27, 18)),
        Part("xc7z020", "xc7z020clg400-1", "PYNQ-Z2", 220, 53200, 106400, 140, (25, 18)),
    )
}

# Device, package and speed grade, then a temperature grade where the family has one: xc7z020clg400-1,
# xczu9eg-ffvb1156-2-e, xcu250-figd2104-2L-e, xcvc1902-vsva2197-2MP-e-S. Automotive and defence parts begin with xa, xq.
_FULL_NAME = re.compile(
    r"x[acq](?=[a-z0-9]*\d)[a-z0-9]+(-[a-z]{3,4}\d{2,4})?-[1-3][a-z]{0,3}(-[a-z]{1,2}){0,2}", re.IGNORECASE
)
_INTEL = re.compile(r"(10[acm]|1s|ag|a[35]e|5[acs]|ep\d)[a-z0-9]{6,}", re.IGNORECASE)


def full_part_name(name: str) -> str:
    """The name of a part as Vivado and Vitis take it; a device of `PARTS` alone gets the package of its board.

    The form alone is checked: which of such names exist, the vendor's tool knows.

    Raises:
        ConfigError: for what is no such name, with an example.
    """
    if name.lower() in PARTS:
        return PARTS[name.lower()].full_name
    if _FULL_NAME.fullmatch(name):
        return name
    example = "device, package and speed grade, such as xcu250-figd2104-2L-e or xc7z020clg400-1"
    if _INTEL.fullmatch(name):
        raise ConfigError(
            f"{name!r} has the form of a part of Intel, and Vivado and Vitis take those of AMD: {example}"
        )
    known = ", ".join(PARTS)
    raise ConfigError(f"{name!r} is no name of an FPGA part: {example}; of {known} the device is enough")


def find_part(name: str) -> Part:
    """The part whose name the given one begins with, or whose board it names: `xczu9eg-ffvb1156-2-e`, `ZCU102`.

    Raises:
        ConfigError: for a part that is not in the table.
    """
    wanted = name.lower()
    for part in PARTS.values():
        if wanted.startswith(part.name) or wanted == part.board.lower():
            return part
    known = ", ".join(f"{part.name} ({part.board})" for part in PARTS.values())
    raise ConfigError(f"no part is called {name!r}; known are {known}")
