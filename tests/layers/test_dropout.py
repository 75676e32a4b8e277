"""Dropout on the parameter tree: a draw is a tree, its mean is the tree, and a row is an input unit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import (
    RowDropout,
    WeightDropout,
    draw_masks,
    draw_weight_masks,
    drop_rows,
    drop_weights,
    dropped_rows,
    dropped_weights,
)
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig

MODEL = HealpixClassifier(HealpixClassifierConfig(nside=2, features=(3,), patches=(4,), num_classes=5))
PARAMS = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 48, 1)))["params"]
FIRST_FIXED = RowDropout(rate=0.3, fixed=("conv_0",))


def test_a_draw_is_a_tree_of_the_same_shapes_and_dtypes():
    drawn = drop_rows(jax.random.key(1), PARAMS, FIRST_FIXED)
    assert jax.tree.structure(drawn) == jax.tree.structure(PARAMS)
    for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(PARAMS), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype


def test_fixed_layers_and_biases_are_left_alone():
    drawn = drop_rows(jax.random.key(1), PARAMS, FIRST_FIXED)
    np.testing.assert_array_equal(drawn["conv_0"]["dense"]["kernel"], PARAMS["conv_0"]["dense"]["kernel"])
    np.testing.assert_array_equal(drawn["head"]["bias"], PARAMS["head"]["bias"])
    assert dropped_rows(PARAMS, FIRST_FIXED)["head"]["kernel"] == 36
    assert dropped_rows(PARAMS, FIRST_FIXED)["conv_0"]["dense"]["kernel"] == 0


@given(seed=st.integers(0, 2**31 - 1), inverted=st.booleans())
def test_every_row_is_gone_or_scaled_as_a_whole(seed, inverted):
    dropout = RowDropout(rate=0.4, inverted=inverted, fixed=("conv_0",))
    before = np.asarray(PARAMS["head"]["kernel"])
    after = np.asarray(drop_rows(jax.random.key(seed), PARAMS, dropout)["head"]["kernel"])
    kept = np.any(after != 0, axis=1)
    scale = 1 / 0.6 if inverted else 1.0
    np.testing.assert_allclose(after, np.where(kept[:, None], before * scale, 0.0), rtol=1e-6)  # float32


def test_the_mean_draw_is_the_tree_itself_when_inverted_and_shrunk_when_not():
    keys = jax.random.split(jax.random.key(2), 4000)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    for inverted, expected in ((True, 1.0), (False, 0.7)):
        dropout = RowDropout(rate=0.3, inverted=inverted, fixed=("conv_0",))
        mean = jax.vmap(lambda k, d=dropout: drop_rows(k, ones, d))(keys)["head"]["kernel"].mean(0)
        # A Bernoulli mean of 4000 has a standard error of 0.0104 when inverted: 5 of them for 36 rows.
        np.testing.assert_allclose(mean, expected, atol=0.052)


def test_dropping_a_row_is_dropping_the_input_unit():
    masks = draw_masks(jax.random.key(3), PARAMS, FIRST_FIXED)
    x = jax.random.normal(jax.random.key(4), (7, 36))
    kernel, mask = PARAMS["head"]["kernel"], masks["head"]["kernel"]
    # Both are the same sum of 36 products, up to the order of float32 roundings.
    np.testing.assert_allclose(x @ (kernel * mask), (x * mask[:, 0][None]) @ kernel, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ConfigError, match="dropout rate must lie between 0 and 1"):
        RowDropout(rate=rate)


def test_an_unknown_fixed_layer_is_named():
    with pytest.raises(ConfigError, match=r"fixed names \['conv_7'\]"):
        dropped_rows(PARAMS, RowDropout(fixed=("conv_7",)))


def test_nothing_left_to_drop_is_refused():
    with pytest.raises(ConfigError, match="nothing to drop"):
        dropped_rows(PARAMS, RowDropout(fixed=("conv_0", "head")))


def test_dropout_of_the_other_kind_is_refused():
    for count, draw, wrong in (
        (dropped_rows, drop_rows, WeightDropout()),
        (dropped_weights, drop_weights, RowDropout()),
    ):
        for call in (functools.partial(count, PARAMS), functools.partial(draw, jax.random.key(0), PARAMS)):
            with without_type_checks(), pytest.raises(ConfigError, match=f"is needed here, got {type(wrong).__name__}"):
                call(wrong)


@given(seed=st.integers(0, 2**31 - 1), inverted=st.booleans())
def test_every_weight_is_gone_or_scaled_and_biases_stay(seed, inverted):
    dropout = WeightDropout(rate=0.4, inverted=inverted, fixed=("conv_0",))
    drawn = drop_weights(jax.random.key(seed), PARAMS, dropout)
    before, after = np.asarray(PARAMS["head"]["kernel"]), np.asarray(drawn["head"]["kernel"])
    scale = 1 / 0.6 if inverted else 1.0
    np.testing.assert_allclose(after, np.where(after != 0, before * scale, 0.0), rtol=1e-6)  # float32
    assert 0 < np.count_nonzero(after) < after.size
    np.testing.assert_array_equal(drawn["head"]["bias"], PARAMS["head"]["bias"])
    np.testing.assert_array_equal(drawn["conv_0"]["dense"]["kernel"], PARAMS["conv_0"]["dense"]["kernel"])


def test_weights_are_dropped_at_the_rate_and_independently_of_their_row():
    dropout = WeightDropout(rate=0.3, inverted=False, fixed=("conv_0",))
    keys = jax.random.split(jax.random.key(2), 4000)
    kept = jax.vmap(lambda k: draw_weight_masks(k, PARAMS, dropout)["head"]["kernel"])(keys)
    # A Bernoulli mean of 4000 has a standard error of 0.0072, and of the product of two 0.0079: 5 of them for 180.
    np.testing.assert_allclose(kept.mean(0), 0.7, atol=0.036)
    np.testing.assert_allclose((kept[:, :, 1:] * kept[:, :, :-1]).mean(0), 0.49, atol=0.04)
    assert dropped_weights(PARAMS, dropout)["head"] == dict(kernel=180, bias=0)
