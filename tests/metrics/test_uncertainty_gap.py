"""Distances of uncertainties: closed forms, errors that cover, and the floor of a reference against itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.metrics.uncertainty_gap import uncertainty_floor, uncertainty_gap, uncertainty_gap_difference

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each entropy, and of errors differences of
# them.

LOG_HALF = float(np.log(0.5))


def draws_of(seed, draws, inputs=20):
    return jax.nn.log_softmax(jax.random.normal(jax.random.key(seed), (draws, inputs, 3)))


def test_members_that_contradict_each_other_against_one_that_is_unsure():
    sure = jnp.asarray([[[0.0, -jnp.inf]], [[-jnp.inf, 0.0]]])  # H = MI = ln 2
    unsure = jnp.full((2, 1, 2), LOG_HALF)  # H = ln 2, MI = 0
    gap = uncertainty_gap(sure, unsure, groups=1, reference_groups=1)
    np.testing.assert_allclose(gap.entropy.value, 0.0, atol=1e-7)  # float32
    np.testing.assert_allclose(gap.mutual_information.value, np.log(2), rtol=1e-6)
    assert gap.entropy.standard_error is None
    assert gap.entropy.image_standard_error is None


def test_the_gap_of_a_set_to_itself_is_zero_and_the_gap_is_symmetric():
    one, other = draws_of(0, 8), draws_of(1, 12)
    assert uncertainty_gap(one, one).entropy.value == 0.0
    forth, back = uncertainty_gap(one, other), uncertainty_gap(other, one)
    for name in ("entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(forth, name).value, getattr(back, name).value, rtol=1e-6)
        np.testing.assert_allclose(
            getattr(forth, name).standard_error, getattr(back, name).standard_error, rtol=1e-5
        )  # float32, the same variances added in another order


def test_values_are_those_of_plain_sums():
    one, other = (np.exp(np.asarray(draws_of(seed, 6), np.float64)) for seed in (2, 3))

    def h(p):
        return -(p * np.log(p)).sum(-1)

    def both(p):
        return h(p.mean(0)), h(p.mean(0)) - h(p).mean(0)

    gap = uncertainty_gap(draws_of(2, 6), draws_of(3, 6))
    for found, mine, theirs in zip(gap, both(one), both(other), strict=True):
        np.testing.assert_allclose(found.value, np.abs(mine - theirs).mean(), rtol=1e-5)  # float32


def test_the_stated_error_is_that_of_fresh_draws():
    # A sharper reference: at the floor, where distances are near zero, no error of theirs is to be had.
    reference = jax.nn.log_softmax(3 * draws_of(99, 400))
    gaps = [uncertainty_gap(draws_of(seed, 40), reference, reference_groups=1) for seed in range(30)]
    for name in ("entropy", "mutual_information"):
        found = [getattr(gap, name) for gap in gaps]
        true = np.std([measure.value for measure in found], ddof=1)
        stated = np.mean([measure.standard_error for measure in found])
        # 30 repetitions know a deviation to 13 %; 4 of that.
        assert true / 1.6 < stated < true * 1.6


def test_a_difference_is_that_of_two_gaps_and_changes_its_sign_with_its_order():
    one, other, reference = draws_of(7, 8), draws_of(8, 6), draws_of(9, 12)
    forth = uncertainty_gap_difference(one, other, reference)
    back = uncertainty_gap_difference(other, one, reference)
    gaps = uncertainty_gap(one, reference), uncertainty_gap(other, reference)
    for found, turned, own, others in zip(forth, back, *gaps, strict=True):
        np.testing.assert_allclose(found.value, others.value - own.value, atol=1e-6)  # float32 of values below 1
        np.testing.assert_allclose(turned.value, -found.value, atol=1e-7)
        np.testing.assert_allclose(turned.standard_error, found.standard_error, rtol=1e-5)
    same = uncertainty_gap_difference(one, one, reference, groups=1, other_groups=1)
    # Nothing of the reference's noise is left between two equal sets; nor of the choice of inputs.
    assert [measure.total_error for measure in same] == [0.0, 0.0]
    alone = uncertainty_gap_difference(one, other, reference, 1, 1, 1)
    assert alone.entropy.standard_error is None
    assert alone.entropy.image_standard_error > 0


def test_the_error_of_a_difference_has_what_the_reference_does_to_both_distances():
    # One method surer than the reference on all inputs, one less sure: its noise lengthens the one distance and
    # shortens the other, so the error is the sum of both parts, not their root of squares.
    sure = jnp.broadcast_to(jnp.asarray([0.0, -1e4, -1e4], jnp.float32)[None, None], (1, 20, 3))
    unsure = jnp.full((1, 20, 3), np.log(1 / 3), jnp.float32)
    # Where the mean prediction is far from uniform: at the top of the entropy a jackknife states up to sqrt(2) more.
    centre = 3 * jax.random.normal(jax.random.key(1), (1, 20, 3))
    found = []
    for seed in range(30):
        reference = jax.nn.log_softmax(centre + draws_of(100 + seed, 24))
        gaps = [uncertainty_gap(x, reference, 1) for x in (sure, unsure)]
        found.append((uncertainty_gap_difference(sure, unsure, reference, 1, 1), gaps))
    true = np.std([difference.entropy.value for difference, _ in found], ddof=1)
    stated = np.mean([difference.entropy.standard_error for difference, _ in found])
    assert true / 1.5 < stated < true * 1.5  # 30 repetitions know a deviation to 13 %: four of that
    for difference, gaps in found:
        parts = [gap.entropy.standard_error for gap in gaps]
        np.testing.assert_allclose(difference.entropy.standard_error, sum(parts), rtol=1e-3)  # float32


def test_the_floor_of_equal_chains_is_zero_and_of_two_chains_is_their_gap():
    chain = draws_of(4, 5)
    floor = uncertainty_floor(jnp.concatenate([chain] * 4), 4)
    # Equal halves differ by the rounding of their sums.
    np.testing.assert_allclose([measure.value for measure in floor], 0.0, atol=1e-6)
    one, other = draws_of(5, 6), draws_of(6, 6)
    floor, gap = uncertainty_floor(jnp.concatenate([one, other]), 2), uncertainty_gap(one, other)
    for name in ("entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(floor, name).value, getattr(gap, name).value, rtol=1e-5)
        assert getattr(floor, name).standard_error is None


def test_other_inputs_and_unequal_groups_are_refused():
    with pytest.raises(InputError, match="same images"):
        uncertainty_gap(draws_of(0, 4), draws_of(1, 4, inputs=21))
    with pytest.raises(InputError, match="do not fall into 3 equal groups"):
        uncertainty_gap(draws_of(0, 4), draws_of(1, 4), groups=3)
    with pytest.raises(InputError, match="same images"):
        uncertainty_gap_difference(draws_of(0, 4), draws_of(1, 4, inputs=21), draws_of(2, 4))
    with pytest.raises(InputError, match="do not fall into 3 equal groups"):
        uncertainty_gap_difference(draws_of(0, 4), draws_of(1, 4), draws_of(2, 4), other_groups=3)
    with pytest.raises(InputError, match="at least 2 groups"):
        uncertainty_floor(draws_of(0, 4), 1)
