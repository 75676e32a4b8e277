"""A line at the end of a test run for each kind of oracle file: what was met, and by how much.

Tests of tests/golden/ say what they compared in properties of their reports, which workers of pytest-xdist hand on.
"""

from typing import Any, NamedTuple

FILE, MET = "golden file", "golden arrays"  # of a report: (kind, file), and (arrays, worst share of a mark, its array)


class Kind(NamedTuple):
    """What is known of the files of one kind."""

    files: set[str]
    arrays: list[int]  # by test
    worst: list[tuple[float, str]]  # share of the pass mark, and "array in file", by test
    failed: list[str]  # ids of tests


_kinds: dict[str, Kind] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Take down what a test of oracle files met; of all workers where there are some."""
    said = dict(report.user_properties)
    if FILE not in said:
        return
    kind, file = said[FILE]
    found = _kinds.setdefault(kind, Kind(set(), [], [], []))
    found.files.add(file)
    if report.failed:
        found.failed.append(report.nodeid)
    if report.when == "teardown" and MET in said:
        arrays, worst, key = said[MET]
        found.arrays.append(arrays)
        found.worst.append((worst, f"{key} in {file}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The lines, sorted by kind."""
    if _kinds:
        terminalreporter.section("oracle files: largest deviation in units of its pass mark")
        for kind, found in sorted(_kinds.items()):
            terminalreporter.line(summary_line(kind, found))


def summary_line(kind: str, found: Kind) -> str:
    """One kind's line."""
    worst, where = max(found.worst, default=(0.0, ""))
    deviation = f"worst {worst:.2g} ({where})" if worst > 0 else "no deviation" if found.arrays else "nothing compared"
    failed = f"; {len(found.failed)} FAILED, the first is {found.failed[0]}" if found.failed else ""
    return f"{kind}: {_number(len(found.files), 'file')}, {_number(sum(found.arrays), 'array')}, {deviation}{failed}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
