"""Equiangular grids and their weights against the stored ones of the original programs."""

import numpy as np
import pytest
from golden_files import golden_files, group, load, name

from jaxgeo.grids import latlon


@pytest.mark.parametrize("path", golden_files("b*/weights", "b*/beta_SOFT"), ids=name)
def test_quadrature_is_that_of_the_original(path):
    arrays = load(path)
    bandlimits = [int(key.removeprefix("b").removesuffix("/weights")) for key in arrays if key.endswith("/weights")]
    for bandlimit in bandlimits:
        stored = group(arrays, f"b{bandlimit}/")
        soft, driscoll_healy = latlon.soft_grid(bandlimit), latlon.driscoll_healy_grid(bandlimit)
        ours = {
            "weights": soft.weights / 2 / (2 * bandlimit) ** 2,
            "beta_SOFT": soft.colatitudes,
            "alpha_SOFT": soft.longitudes,
            "beta_DriscollHealy": driscoll_healy.colatitudes,
        }
        for key, values in stored.items():
            # Pass mark of the files: a few units in the last place.
            np.testing.assert_allclose(ours[key], values, rtol=0, atol=1e-14, err_msg=f"b{bandlimit}/{key}")
