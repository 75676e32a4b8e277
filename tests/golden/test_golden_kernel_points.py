"""Kernel point lists against the stored ones of the original program."""

import pytest
from golden_files import compare_entries, golden_files, load, name

from jaxgeo.layers import kernel_points

RENAMED = {"n_alpha": "num_alpha", "n_beta": "num_beta", "n_gamma": "num_gamma"}


def points_of(key, config):
    """The points of a key such as `near_identity_0/so3` or `soft_b2/s2`, by the settings in the configuration."""
    case, _, space = key.partition("/")
    kind, _, number = case.rpartition("_")
    if kind == "soft":
        return getattr(kernel_points, f"{space}_full_points")(int(number.removeprefix("b")))
    assert int(number) < len(config.get(kind, ())), f"the configuration describes no {case}"
    settings = dict(zip(("s2", "so3"), config[kind][int(number)], strict=True))[space]
    arguments = {RENAMED.get(key, key): value if key in RENAMED else float(value) for key, value in settings.items()}
    return getattr(kernel_points, f"{space}_{kind}_points")(**arguments)


@pytest.mark.parametrize("path", golden_files("kernel points"), ids=name)
def test_kernel_points_are_those_of_the_original(path):
    stored, config = load(path)
    ours = {key: points_of(key, config) for key in stored}
    compare_entries(stored, ours, atol=1e-14)  # a few units in the last place of angles up to 2 pi
