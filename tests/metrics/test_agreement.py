import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.metrics.agreement import agreement, divergence_from_reference, same_top_class, total_variation
from jaxgeo.metrics.noise_floor import (
    closer_than,
    half_splits,
    judge_closeness,
    noise_floor,
    noise_floor_of_blocks,
)
from jaxgeo.metrics.standard_error import Measure

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each logarithm, and of errors the root of a
# small difference.

seeds = st.integers(0, 2**31 - 1)


def draws(seed, count, images=6, classes=4, scale=1.0):
    return jax.nn.log_softmax(scale * jax.random.normal(jax.random.key(seed), (count, images, classes)))


def around(seed, count, images=200, centre=0):
    """Draws of a posterior: common logits plus independent noise."""
    logits = 2 * jax.random.normal(jax.random.key(centre), (1, images, 5))
    return jax.nn.log_softmax(logits + 0.3 * jax.random.normal(jax.random.key(seed), (count, images, 5)))


@settings(max_examples=10)
@given(seed=seeds, scale=st.sampled_from([1.0, 1e4]))
def test_agreement_and_total_variation_are_symmetric_and_perfect_on_themselves(seed, scale):
    p, q = draws(seed, 3, scale=scale), draws(seed + 1, 2, scale=scale)
    assert agreement(p, q) == agreement(q, p)
    assert agreement(p, p) == 1
    np.testing.assert_allclose(total_variation(p, q), total_variation(q, p), rtol=1e-6)
    assert total_variation(p, p) == 0
    assert divergence_from_reference(p, p) == 0
    assert 0 <= agreement(p, q) <= 1
    assert 0 <= total_variation(p, q) <= 1 + 1e-6


@settings(max_examples=10)
@given(seed=seeds, scale=st.sampled_from([0.1, 1.0, 100.0]))
def test_total_variation_obeys_the_triangle_inequality(seed, scale):
    p, q, r = (draws(seed + i, 1, scale=scale) for i in range(3))
    assert total_variation(p, r) <= total_variation(p, q) + total_variation(q, r) + 1e-6  # float32


@given(seed=seeds)
def test_total_variation_is_bounded_by_pinsker(seed):
    p, q = draws(seed, 1, images=1), draws(seed + 1, 1, images=1)
    assert total_variation(p, q) <= np.sqrt(divergence_from_reference(q, p) / 2) + 1e-6


def test_closed_forms_of_the_distances():
    one, other = jnp.log(jnp.asarray([[[0.5, 0.5]]])), jnp.log(jnp.asarray([[[0.75, 0.25]]]))
    np.testing.assert_allclose(total_variation(one, other), 0.25, rtol=1e-6)
    np.testing.assert_allclose(divergence_from_reference(one, other), 0.75 * np.log(3) - np.log(2), rtol=1e-6)
    same = same_top_class(jnp.asarray([[0.0, -1], [-1, 0]]), jnp.asarray([[0.0, -2], [0, -2]]))
    np.testing.assert_array_equal(same, [1, 0])


@pytest.mark.parametrize(("groups", "expected"), [(2, 1), (3, 3), (4, 3), (5, 10), (8, 35)])
def test_all_halvings_are_listed_once_where_they_are_few(groups, expected):
    splits = half_splits(groups)
    assert splits.shape == (expected, groups)
    np.testing.assert_array_equal(splits.sum(axis=1), groups // 2)
    unordered = {frozenset([frozenset(np.flatnonzero(s)), frozenset(np.flatnonzero(~s))]) for s in splits}
    assert len(unordered) == expected


def test_many_halvings_are_drawn_from_a_key_and_only_then():
    splits = half_splits(40, max_splits=10, key=jax.random.key(0))
    assert splits.shape == (10, 40)
    np.testing.assert_array_equal(splits.sum(axis=1), 20)
    np.testing.assert_array_equal(splits, half_splits(40, max_splits=10, key=jax.random.key(0)))
    with pytest.raises(InputError, match="pass a key"):
        half_splits(40)
    with pytest.raises(InputError, match="at least 2 groups"):
        half_splits(1)


def test_floor_of_two_chains_is_the_distance_between_them():
    reference = draws(0, 10)
    halves = reference[:5], reference[5:]
    floor = noise_floor(reference, groups=2)
    np.testing.assert_allclose(floor.total_variation.value, total_variation(reference[:5], reference[5:]), rtol=1e-5)
    assert floor.agreement.value == agreement(reference[:5], reference[5:])
    both = [divergence_from_reference(*pair) for pair in (halves, halves[::-1])]
    np.testing.assert_allclose(floor.divergence.value, np.mean(both), rtol=1e-5)
    assert floor.to_dict()["divergence_from_reference"] == floor.divergence.to_dict()
    assert floor.num_splits == 1
    assert floor.agreement.standard_error is None
    assert floor.to_dict()["agreement"]["value"] == floor.agreement.value
    assert floor.distance("disagreement").value == 1 - floor.agreement.value


def test_floor_of_three_unequal_halves_averages_the_three_splits():
    reference = draws(1, 6)
    pairs = [reference[2 * i : 2 * i + 2] for i in range(3)]
    rest = [jnp.concatenate([pairs[(i + 1) % 3], pairs[(i + 2) % 3]]) for i in range(3)]
    expected = [float(total_variation(p, r)) for p, r in zip(pairs, rest, strict=True)]
    floor = noise_floor(reference, groups=3).total_variation
    np.testing.assert_allclose(floor.value, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(floor.standard_error, np.std(expected, ddof=1), rtol=1e-3)


def test_the_floor_of_blocks_of_images_is_that_of_all_at_once():
    reference = draws(3, 12, images=11)
    whole = noise_floor(reference, groups=4)
    cut = noise_floor_of_blocks((reference[:, start : start + 4] for start in range(0, 11, 4)), groups=4)
    assert cut.num_splits == whole.num_splits == 3
    for name, measure in whole.to_dict().items():
        # Programs of other shapes round float32 otherwise.
        np.testing.assert_allclose(list(cut.to_dict()[name].values()), list(measure.values()), rtol=1e-5, err_msg=name)
    sure = jnp.asarray([[[0.0, -np.inf]] * 2, [[-np.inf, 0.0]] * 2], jnp.float32)
    both = noise_floor_of_blocks([sure, jnp.log(jnp.full((2, 3, 2), 0.5))], groups=2)
    assert both.total_variation.value == 2 / 5
    assert both.divergence == Measure(math.inf, None, math.inf)
    for blocks, message in (
        ([], "at least one block of images, got none"),
        ([reference, reference[:6]], "same draws and classes, got 12 draws of . classes and 6 of"),
    ):
        with pytest.raises(InputError, match=message):
            noise_floor_of_blocks(blocks, groups=2)


def test_identical_chains_have_no_floor_and_more_draws_lower_it():
    chain = around(1, 5)
    same = noise_floor(jnp.concatenate([chain] * 4), groups=4)
    assert same.agreement.value == 1
    assert same.total_variation.value < 1e-6  # rounding of the two means
    few, many = noise_floor(around(2, 8), groups=4), noise_floor(around(2, 128), groups=4)
    ratio = few.total_variation.value / many.total_variation.value
    assert 3 < ratio < 5.5  # Monte Carlo: sqrt(128 / 8) = 4


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_halves_that_exclude_each_other_are_infinitely_or_very_far_apart(least):
    sure = jnp.asarray([[[0.0, least]] * 2, [[least, 0.0]] * 2], jnp.float32)
    floor = noise_floor(sure, groups=2)
    assert floor.divergence.value == -least
    assert floor.total_variation.value == 1
    assert floor.divergence.standard_error is None


def test_floor_of_one_image_has_no_image_error():
    assert noise_floor(draws(0, 4, images=1), groups=2).agreement.image_standard_error is None


def test_a_method_is_closer_only_by_more_than_the_noise_floor():
    reference, near, far = around(1, 64), around(2, 64), around(3, 64, centre=9)
    verdict = closer_than(near, far, reference, reference_groups=4)
    assert verdict.closer
    assert verdict.sentence.startswith("Closer: its total variation is")
    assert verdict.difference.value > verdict.needed > verdict.floor.value
    mirrored = closer_than(far, near, reference, reference_groups=4, floor=noise_floor(reference, 4))
    assert mirrored.outcome == "farther"
    assert not mirrored.closer
    np.testing.assert_allclose(mirrored.difference.value, -verdict.difference.value, rtol=1e-6)
    np.testing.assert_allclose(mirrored.needed, verdict.needed, rtol=1e-5)
    assert mirrored.to_dict()["difference"]["value"] == mirrored.difference.value


@pytest.mark.parametrize("distance", ["total_variation", "disagreement"])
@pytest.mark.parametrize("seed", range(4))
def test_two_runs_of_the_reference_itself_are_never_told_apart(distance, seed):
    reference, one, other = (around(3 * seed + i, 16) for i in range(3))
    verdict = closer_than(one, other, reference, distance=distance, groups=4, reference_groups=4)
    assert verdict.outcome == "indistinguishable"
    assert verdict.sentence.startswith("Not distinguishable")


def test_single_networks_are_judged_as_they_are():
    reference = around(1, 64)
    verdict = closer_than(around(2, 1), around(3, 1, centre=9), reference, distance="disagreement", reference_groups=2)
    assert verdict.closer
    assert verdict.difference.value == pytest.approx(
        agreement(around(2, 1), reference) - agreement(around(3, 1, centre=9), reference)
    )


def test_difference_errors_are_those_of_repeated_experiments():
    differences, errors = [], []
    for seed in range(40):
        own, other, reference = (around(7 * seed + i, 12, 50, centre=c) for i, c in enumerate((0, 5, 0)))
        verdict = closer_than(own, other, reference, groups=6, reference_groups=4)
        differences.append(verdict.difference.value)
        errors.append(verdict.difference.standard_error)
    # Forty repetitions know their standard deviation to 11 %; the jackknife of few groups is a little too careful.
    assert 0.7 < np.mean(errors) / np.std(differences, ddof=1) < 1.8


def test_the_boundary_itself_is_not_closer():
    floor = Measure(0.1, 0.0)
    assert judge_closeness(Measure(0.1, None), floor, "total_variation").outcome == "indistinguishable"
    assert judge_closeness(Measure(0.1001, None), floor, "total_variation").outcome == "closer"
    assert judge_closeness(Measure(0.12, 0.02, 0.0), floor, "total_variation").outcome == "indistinguishable"


def test_a_floor_of_one_split_is_as_uncertain_as_it_is_high():
    floor = Measure(0.1, None, 0.03)
    needed = 0.1 + 2 * np.sqrt(0.1**2 + 0.03**2 + 0.02**2)
    verdict = judge_closeness(Measure(0.3, 0.02), floor, "total_variation")
    assert verdict.needed == pytest.approx(needed)
    assert verdict.outcome == "indistinguishable"
    assert judge_closeness(Measure(0.4, 0.02), floor, "total_variation").outcome == "closer"
    # Two chains: a floor of one split needs more than the same floor with a known, smaller error.
    known = judge_closeness(Measure(0.3, 0.02), Measure(0.1, 0.05, 0.03), "total_variation")
    assert known.needed < verdict.needed
    assert known.closer


def test_errors_that_nothing_can_tell_are_none_and_not_zero():
    floor = noise_floor(draws(0, 4), groups=2)
    alone = closer_than(draws(1, 1), draws(2, 1), draws(0, 4), reference_groups=1, floor=floor).difference
    assert alone.standard_error is None
    assert alone.image_standard_error > 0
    one_image = [draws(seed, 4, images=1) for seed in range(3)]
    seen = closer_than(*one_image, reference_groups=2).difference
    assert seen.standard_error > 0
    assert seen.image_standard_error is None


def test_predictions_of_other_images_are_refused():
    with pytest.raises(InputError, match="same images and classes"):
        closer_than(draws(0, 2), draws(0, 2, images=5), draws(0, 2))
