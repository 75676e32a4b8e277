"""What some FPGA parts hold, from their makers' public product tables."""

import dataclasses

from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Part:
    """Totals of one part; a block-RAM tile holds 36 Kbit and counts as two of 18."""

    name: str
    board: str
    dsp: int
    lut: int
    ff: int
    bram_tiles: int
    multiplier: tuple[int, int]  # bits of the two signed operands of a DSP slice


PARTS = {
    part.name: part
    for part in (
        Part("xcu250", "Alveo U250", 12288, 1728000, 3456000, 2688, (27, 18)),
        Part("xcvu9p", "VCU118", 6840, 1182240, 2364480, 2160, (27, 18)),
        Part("xczu9eg", "ZCU102", 2520, 274080, 548160, 912, (27, 18)),
        Part("xc7z020", "PYNQ-Z2", 220, 53200, 106400, 140, (25, 18)),
    )
}


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
