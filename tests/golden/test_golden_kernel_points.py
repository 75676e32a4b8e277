"""Kernel point lists against the stored ones of the original program."""

import numpy as np
import pytest
from golden_files import golden_files, load, name, read_config

from jaxgeo.layers import kernel_points

RENAMED = {"n_alpha": "num_alpha", "n_beta": "num_beta", "n_gamma": "num_gamma"}


def cases(arrays):
    config = read_config(arrays)
    for kind in ("near_identity", "equatorial"):
        for index, both in enumerate(config.get(kind, ())):
            for space, settings in zip(("s2", "so3"), both, strict=True):
                arguments = {RENAMED[key]: value for key, value in settings.items() if key in RENAMED}
                arguments |= {key: float(value) for key, value in settings.items() if key not in RENAMED}
                yield f"{kind}_{index}/{space}", getattr(kernel_points, f"{space}_{kind}_points")(**arguments)
    for bandlimit in config.get("soft", ()):
        yield f"soft_b{bandlimit}/s2", kernel_points.s2_full_points(bandlimit)
        yield f"soft_b{bandlimit}/so3", kernel_points.so3_full_points(bandlimit)


@pytest.mark.parametrize("path", golden_files("*/s2", where=lambda config: "near_identity" in config), ids=name)
def test_kernel_points_are_those_of_the_original(path):
    arrays = load(path)
    computed = dict(cases(arrays))
    assert set(computed) == set(arrays) - {"config_json"}
    for key, points in computed.items():
        # A few units in the last place of angles up to 2 pi.
        np.testing.assert_allclose(points, arrays[key], rtol=0, atol=1e-14, err_msg=key)
