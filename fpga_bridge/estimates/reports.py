"""Reports of Vivado HLS, Vitis HLS and Vivado, read into one record to stand beside an estimate.

Three kinds are known by their content: `csynth.xml` and `csynth.rpt` of the HLS compiler (its own estimates, and cycle
counts) and the utilisation report of synthesis or implementation (`vivado_synth.rpt`).

References:
    AMD UG902 and UG1399 (HLS reports), UG906 (report_utilization).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from fpga_bridge.estimates.resources import Resources
from jaxgeo.errors import CorruptFileError

_RESOURCES = {"DSP": "dsp", "DSP48E": "dsp", "LUT": "lut", "FF": "ff", "BRAM_18K": "bram18"}
_SITES = (
    ("dsp", r"DSPs", 1.0),
    ("lut", r"(?:CLB|Slice) LUTs\*?", 1.0),
    ("ff", r"(?:CLB|Slice) Registers", 1.0),
    ("bram18", r"Block RAM Tile", 2.0),
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What one file says; None where it does not.

    Attributes:
        kind: "csynth" (the HLS compiler's estimate) or "synthesis" (cells after logic synthesis or implementation).
        part: of the FPGA, as the report names it.
        clock_period_ns: that was asked for.
        latency_cycles: at most, of the whole design.
        interval_cycles: at most.
        resources: used by the whole design.
        module_latency: module -> cycles at most, where the report has a table of instances.
    """

    kind: str
    part: str | None
    clock_period_ns: float | None
    latency_cycles: int | None
    interval_cycles: int | None
    resources: Resources
    module_latency: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_report(path: Path) -> Report:
    """Read a report, whichever of the kinds it is.

    Raises:
        CorruptFileError: for a file that cannot be read, is none of these reports, or is cut short.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CorruptFileError(f"{path} is not a readable report: {error}") from error
    if text.lstrip().startswith("<"):
        return _csynth_xml(text, path)
    if "Utilization Estimates" in text or "Performance Estimates" in text:
        return _csynth_rpt(text, path)
    if re.search(r"\|\s*Site Type\s*\|", text):
        return _utilisation(text, path)
    raise CorruptFileError(
        f"{path} is no report that is known here; give csynth.xml or csynth.rpt of Vivado or Vitis HLS, or the "
        "utilisation report of Vivado (vivado_synth.rpt)"
    )


def _number(text: str | None) -> int | None:
    """A count; HLS writes `-`, `?` and `undef` for what it does not know."""
    text = (text or "").strip().replace(",", "")
    return int(text) if re.fullmatch(r"\d+", text) else None


def _csynth_xml(text: str, path: Path) -> Report:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise CorruptFileError(f"{path} is not whole XML ({error}); copy the report anew") from error
    used = root.find("./AreaEstimates/Resources")
    if used is None:
        raise CorruptFileError(f"{path} is XML without AreaEstimates/Resources, so no csynth.xml of an HLS compiler")
    latency = "./PerformanceEstimates/SummaryOfOverallLatency/"
    clock = root.findtext("./UserAssignments/TargetClockPeriod")
    counts: dict[str, float] = {}
    for child in used:
        if child.tag in _RESOURCES:
            counts[_RESOURCES[child.tag]] = float(_needed(_number(child.text), child.tag, path))
    interval = root.findtext(latency + "Interval-max") or root.findtext(latency + "PipelineInitiationInterval")
    return Report(
        "csynth",
        root.findtext("./UserAssignments/Part"),
        float(clock) if clock and re.fullmatch(r"\s*\d+(\.\d+)?\s*", clock) else None,
        _number(root.findtext(latency + "Worst-caseLatency")),
        _number(interval),
        _resources(counts, path),
    )


def _needed(value: int | None, name: str, path: Path) -> int:
    if value is None:
        raise CorruptFileError(f"{path} has no number for {name}; the report is damaged, copy it anew")
    return value


def _resources(counts: Mapping[str, float], path: Path) -> Resources:
    missing = {"dsp", "lut", "ff", "bram18"} - counts.keys()
    if missing:
        raise CorruptFileError(f"{path} ends before its counts of {', '.join(sorted(missing))}; copy the report anew")
    return Resources(**counts)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _csynth_rpt(text: str, path: Path) -> Report:
    performance, _, area = text.partition("Utilization Estimates")
    lines = area.splitlines()
    header = next((_cells(line) for line in lines if re.match(r"\s*\|\s*Name\s*\|", line)), None)
    values = next((_cells(line) for line in lines if re.match(r"\s*\|\s*Total\s*\|", line)), None)
    if header is None or values is None or len(header) != len(values):
        raise CorruptFileError(f"{path} has no whole table of Utilization Estimates; copy the report anew")
    counts = {
        _RESOURCES[name]: float(_needed(_number(value), name, path))
        for name, value in zip(header, values, strict=True)
        if name in _RESOURCES
    }
    summary, _, detail = performance.partition("Detail")
    numbers = _latency_rows(summary, skip=0)
    instances = _latency_rows(detail.partition("* Loop")[0], skip=2)
    part = re.search(r"\*\s*Target device:\s*(\S+)", text)
    clock = re.search(r"\|\s*ap_clk\s*\|\s*(\d+(?:\.\d+)?)", text)
    whole = numbers[0] if numbers else ("", None, None)
    return Report(
        "csynth",
        part.group(1) if part else None,
        float(clock.group(1)) if clock else None,
        whole[1],
        whole[2],
        _resources(counts, path),
        {name: latency for name, latency, _ in instances if latency is not None},
    )


def _latency_rows(text: str, skip: int) -> list[tuple[str, int | None, int | None]]:
    """Name, latency and interval (at most) of each row: min, max, twice absolute, min, max, type."""
    rows = []
    for line in text.splitlines():
        cells = _cells(line) if "|" in line else []
        values = cells[skip:]
        if len(values) == 7 and (_number(values[1]) is not None or values[1] == "?"):
            rows.append((cells[0] if skip else "", _number(values[1]), _number(values[5])))
    return rows


def _utilisation(text: str, path: Path) -> Report:
    counts: dict[str, float] = {}
    for field, pattern, scale in _SITES:
        found = re.search(rf"^\|\s*{pattern}\s*\|\s*(\d+(?:\.\d+)?)\s*\|", text, re.MULTILINE)
        if found:
            counts[field] = float(found.group(1)) * scale
    part = re.search(r"^\|\s*Device\s*:\s*(\S+)", text, re.MULTILINE)
    return Report("synthesis", part.group(1) if part else None, None, None, None, _resources(counts, path))


def table(
    estimated: Resources, cycles: tuple[int, int] | None, reports: Mapping[str, Report]
) -> list[tuple[str, float, dict[str, float | int | None]]]:
    """Rows (quantity, estimate, name of the report -> what it says) for printing side by side.

    Args:
        estimated: of the whole design.
        cycles: latency and interval, where they were estimated.
        reports: by a name for the column.
    """
    rows: list[tuple[str, float, dict[str, float | int | None]]] = []
    if cycles is not None:
        for name, value, field in (
            ("latency", cycles[0], "latency_cycles"),
            ("interval", cycles[1], "interval_cycles"),
        ):
            rows.append((name, float(value), {key: getattr(report, field) for key, report in reports.items()}))
    for name, field in (("DSP", "dsp"), ("LUT", "lut"), ("FF", "ff"), ("BRAM tiles", "bram_tiles")):
        said: dict[str, float | int | None] = {key: getattr(report.resources, field) for key, report in reports.items()}
        rows.append((name, float(getattr(estimated, field)), said))
    return rows


def relative_error(estimated: float, said: float | int | None) -> float:
    """Estimate over report, minus one; NaN where the report is silent or says zero."""
    return estimated / said - 1 if said else math.nan
