"""Equiangular grids and their weights against the stored ones of the original programs."""

import pytest
from golden_files import compare_entries, golden_files, groups, load, name

from jaxgeo.grids import latlon


@pytest.mark.parametrize("path", golden_files("quadrature"), ids=name)
def test_quadrature_is_that_of_the_original(path):
    arrays, _ = load(path)
    for case, stored in groups(arrays).items():
        assert case.startswith("b"), f"no test reads {sorted(stored)}"
        bandlimit = int(case.removeprefix("b"))
        soft, driscoll_healy = latlon.soft_grid(bandlimit), latlon.driscoll_healy_grid(bandlimit)
        ours = {
            "weights": soft.weights / 2 / (2 * bandlimit) ** 2,
            "beta_SOFT": soft.colatitudes,
            "alpha_SOFT": soft.longitudes,
            "gamma_SOFT": soft.longitudes,
            "beta_DriscollHealy": driscoll_healy.colatitudes,
            "alpha_DriscollHealy": driscoll_healy.longitudes,
        }
        compare_entries(stored, ours, atol=1e-14)  # the files' pass mark: a few units in the last place
