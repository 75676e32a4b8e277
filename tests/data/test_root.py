"""Folders of data sets are given as paths or as texts."""

import importlib
import inspect
import os
import re
from pathlib import Path

import pytest

import jaxgeo.data
from jaxgeo.data.root import data_root
from jaxgeo.data.spherical_digits import SphericalDigitsConfig
from jaxgeo.errors import JaxgeoError

ARGUMENTS = {
    "load_camvid": ("train",),
    "load_digits": ("mnist",),
    "load_spherical_digits": ("mnist", SphericalDigitsConfig(), 1, 1),
}


def loaders() -> list:
    """Every public function that begins with `load_` or `open_`, and the name of the folder that it takes."""
    found = []
    for path in sorted(Path(jaxgeo.data.__path__[0]).glob("*.py")):
        for name in re.findall(r"^def ((?:load|open)_\w+)", path.read_text(), re.MULTILINE):
            function = getattr(importlib.import_module(f"jaxgeo.data.{path.stem}"), name)
            keys = {"root", "folder"} & set(inspect.signature(function).parameters)
            found += [pytest.param(function, key, id=name) for key in keys]
    return found


@pytest.mark.parametrize(("function", "key"), loaders())
def test_a_folder_may_be_a_text(function, key, tmp_path):
    def outcome(folder: str | os.PathLike[str]) -> str:
        try:
            return str(function(*ARGUMENTS.get(function.__name__, ()), **{key: folder}))
        except JaxgeoError as error:
            return str(error)

    assert outcome(str(tmp_path)) == outcome(tmp_path)


def test_a_text_is_the_same_folder(tmp_path):
    assert data_root(str(tmp_path)) == tmp_path
