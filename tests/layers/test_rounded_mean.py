"""A mean over members is the exact quotient of integers, rounded once, for any number of members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.rounded_mean import rounded_mean


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", range(1, 8))
def test_a_mean_is_the_quotient_of_integers_rounded_once(count, signed):
    nearest, down = (FixedPoint(7, 3, signed, rounding, "SAT") for rounding in ("RND", "TRN"))
    words = np.random.default_rng(count).integers(nearest.min_word, nearest.max_word + 1, (count, 500))
    words[:, :2] = nearest.min_word, nearest.max_word  # a sum at either end
    total = words.sum(0)
    for format, expected in ((nearest, (2 * total + count) // (2 * count)), (down, total // count)):
        values = jnp.asarray(words * format.step, jnp.float32)
        mean = jax.jit(rounded_mean, static_argnums=1)(values, format)
        np.testing.assert_array_equal(mean, expected * format.step)


def test_no_member_and_sums_beyond_a_table_are_refused_with_what_would_do():
    with pytest.raises(ConfigError, match="at least one member, got none"):
        rounded_mean(jnp.zeros((0, 4)), FixedPoint(8, 3))
    with pytest.raises(ConfigError, match=r"has 18 bits of words in ap_fixed<15,3.*to 13 bits, or take 4 or 8 of them"):
        rounded_mean(jnp.zeros((5, 4)), FixedPoint(15, 3))
