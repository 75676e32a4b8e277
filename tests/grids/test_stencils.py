"""Tables of pixels and weights that no plan makes, and are refused."""

import re

import jax.numpy as jnp
import pytest

from jaxgeo.errors import InputError
from jaxgeo.grids.stencils import Stencil, check_stencil


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pixels": [[0, 6, 1, 2]]}, "must look at pixels of its source, 0 ... 5 or -1 for none, got 6"),
        ({"nearest": [-2]}, "or -1 for none, got -2"),
        ({"weights": [[1.5, -0.5, 0.0, 0.0]]}, "must not be negative and must sum to one, got the smallest -0.5"),
        ({"weights": [[0.5, 0.25, 0.0, 0.0]]}, "and sums up to 0.25 away from one"),
    ],
)
def test_tables_that_are_no_means_of_the_source_are_refused(changes, said):
    table = {"pixels": [[0, 5, -1, 2]], "weights": [[0.25, 0.75, 0.0, 0.0]], "nearest": [5]}
    check_stencil(Stencil(*map(jnp.asarray, table.values()), (2, 3), "correct"))
    with pytest.raises(InputError, match=re.escape(said)):
        check_stencil(Stencil(*map(jnp.asarray, (table | changes).values()), (2, 3), "correct"))
