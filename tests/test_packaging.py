"""What an installation brings: every package that the code imports, and the mark that its types may be used."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import fpga_bridge
import jaxgeo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
PACKAGES = {jaxgeo: PROJECT["dependencies"], fpga_bridge: PROJECT["dependencies"] + OPTIONAL["fpga"]}
OWN = {*sys.stdlib_module_names, "jaxgeo", "fpga_bridge"}


def distribution(requirement):
    """Its name in the one spelling in which names are compared."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(folder):
    """Names of the packages that modules below a folder import, wherever in a module."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return found - OWN


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_what_is_imported_is_declared(package):
    declared = {distribution(requirement) for requirement in PACKAGES[package]}
    sources = packages_distributions()
    names = imported(Path(package.__file__).parent)
    assert "numpy" in names
    assert [name for name in sorted(names) if declared.isdisjoint(map(distribution, sources.get(name, ())))] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_may_read_the_annotations(package):
    assert (Path(package.__file__).parent / "py.typed").is_file()
