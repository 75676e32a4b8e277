"""Oracle files are there where they are asked for, and every test of one tells what it met."""

from pathlib import Path

import golden_files
import pytest
from golden_summary import FILE, MET


def pytest_configure():
    """End at once where the named folder has nothing to compare with: all its tests would be left out in silence."""
    problem = golden_files.folder_problem()
    if problem is not None:
        raise pytest.UsageError(problem)


@pytest.fixture(autouse=True)
def _told(request, no_cover):
    """The properties that the summary reads, of tests that go through a file given as `path`.

    Coverage does not count these tests: it must not depend on files that are not everywhere, and its tracer takes
    a seventh of the time.
    """
    path = getattr(request.node, "callspec", None) and request.node.callspec.params.get("path")
    golden_files.MET.clear()
    if not isinstance(path, Path) or (family := golden_files.family(path)) is None:
        yield
        return
    properties = request.node.user_properties
    properties.append((FILE, (family, golden_files.name(path))))
    yield
    if golden_files.MET:
        worst, key = max((share, key) for key, share in golden_files.MET)
        properties.append((MET, (len(golden_files.MET), worst, key)))
