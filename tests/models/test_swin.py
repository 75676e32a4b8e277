"""The flat baseline: order of tokens, windows against plain slices, symmetry, shifts, what is refused."""

import copy
import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.models.planar_cnn import count_parameters
from jaxgeo.models.swin import Swin, SwinConfig, picture_order, plan_swin, token_places
from jaxgeo.models.swin_weights import parameter_shapes

TINY = SwinConfig(
    num_classes=3,
    channels=2,
    embed_dim=4,
    depths=(2, 2),
    num_heads=(1, 2),
    size=(16, 32),
    window_size=(2, 4),
    shift_size=(1, 2),
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
    stochastic_depth_rate=0.0,
)


def changed(**options):
    return dataclasses.replace(TINY, **options)


def random_variables(config, scale=0.3):
    leaves, structure = jax.tree.flatten({"params": parameter_shapes(config)})
    rng = np.random.default_rng(1)
    return structure.unflatten([jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def run(config, variables, x):
    return jax.jit(Swin(config).apply)(variables, plan_swin(config), x)


def test_the_published_network_has_the_published_number_of_parameters():
    assert count_parameters(parameter_shapes(SwinConfig(num_classes=12))) == 41_279_880


@given(
    windows=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stages=st.integers(2, 3),
)
def test_every_token_stands_once_in_the_order_and_four_consecutive_ones_merge(windows, window, stages):
    size = tuple(2 * count * side << (stages - 1) for count, side in zip(windows, window, strict=True))
    config = changed(size=size, window_size=window, shift_size=(0, 0), depths=(1,) * stages, num_heads=(1,) * stages)
    places = token_places(config)
    for (rows, columns), each in zip(config.grids, places, strict=True):
        numbers = each.row * columns + each.column
        np.testing.assert_array_equal(np.sort(numbers), np.arange(rows * columns))
    for fine, coarse in itertools.pairwise(places):
        np.testing.assert_array_equal(fine.row.reshape(-1, 4) // 2, np.tile(coarse.row[:, None], 4))
        np.testing.assert_array_equal(fine.column.reshape(-1, 4) // 2, np.tile(coarse.column[:, None], 4))


@given(
    windows=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    window=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    data=st.data(),
)
@settings(max_examples=15)
def test_windows_shifts_and_masks_are_those_of_a_rolled_picture(windows, window, data):
    shift = tuple(data.draw(st.integers(0, side - 1)) for side in window)
    size = tuple(4 * count * side for count, side in zip(windows, window, strict=True))
    config = changed(size=size, window_size=window, shift_size=shift)
    for grid, places, stage in zip(config.grids, token_places(config), plan_swin(config).stages, strict=True):
        number = np.arange(grid[0] * grid[1]).reshape(grid)
        for plan, by in ((stage.straight, (0, 0)), (stage.shifted, shift)):
            rolled = np.roll(number, (-by[0], -by[1]), axis=(0, 1))
            inside = rolled.reshape(grid[0] // window[0], window[0], grid[1] // window[1], window[1]).swapaxes(1, 2)
            expected = {frozenset(each) for each in inside.reshape(-1, window[0] * window[1]).tolist()}
            order = np.arange(number.size) if plan.into is None else np.asarray(plan.into.indices)
            found = number[places.row[order], places.column[order]].reshape(-1, window[0] * window[1])
            assert {frozenset(each) for each in found.tolist()} == expected
            # Tokens of a window attend to each other if no border of the picture lies between them.
            row, column = np.divmod(found, grid[1])
            near = [
                np.abs(axis[:, :, None] - axis[:, None, :]) < side
                for axis, side in zip((row, column), window, strict=True)
            ]
            labels = np.zeros(number.size, int) if plan.labels is None else np.asarray(plan.labels)
            labels = labels.reshape(found.shape)
            np.testing.assert_array_equal(labels[:, :, None] == labels[:, None, :], near[0] & near[1])
            # The way back.
            if plan.into is not None:
                np.testing.assert_array_equal(order[np.asarray(plan.back.indices)], np.arange(number.size))
            # Biases by offset.
            first = (row[0] - row[0].min()) % grid[0], (column[0] - column[0].min()) % grid[1]
            if plan is stage.straight:
                offset = [axis[:, None] - axis[None, :] + side - 1 for axis, side in zip(first, window, strict=True)]
                index = offset[0] * (2 * window[1] - 1) + offset[1]
                np.testing.assert_array_equal(np.asarray(plan.bias_index)[0], index)


def test_windows_of_sides_that_are_powers_of_two_need_no_reordering():
    for stage in plan_swin(SwinConfig()).stages:
        assert stage.straight.into is None
        assert stage.shifted.into is not None
    # And other windows do, in the finer stage.
    config = changed(size=(24, 24), window_size=(3, 3), shift_size=(1, 1))
    assert plan_swin(config).stages[0].straight.into is not None


def test_a_picture_comes_out_as_it_lies():
    config = changed(shift_size=(0, 0))
    variables = random_variables(config)
    x = jax.random.normal(jax.random.key(0), (2, *config.size, config.channels))
    logits = run(config, variables, x)
    assert logits.shape == (2, 16, 32, 3)
    # Windows of the coarsest stage are 8 x 16 pixels, and without a shift nothing leaves them.
    after = run(config, variables, x.at[1, 3, 17].add(1.0))
    reached = np.zeros((2, 16, 32), bool)
    reached[1, :8, 16:] = True
    np.testing.assert_array_equal((after != logits).any(-1), reached)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=3)
def test_without_shifts_it_commutes_with_moves_by_whole_windows(seed):
    config = changed(shift_size=(0, 0))
    x = jax.random.normal(jax.random.key(seed), (*config.size, config.channels))
    variables = random_variables(config)
    moved = run(config, variables, jnp.roll(x, (8, 16), axis=(0, 1)))
    expected = jnp.roll(run(config, variables, x), (8, 16), axis=(0, 1))
    np.testing.assert_allclose(moved, expected, atol=1e-5)  # float32


def test_published_shifts_do_not_come_back_as_they_went():
    correct, faithful = (plan_swin(changed(mode=mode)).stages[0].shifted for mode in ("correct", "faithful"))
    np.testing.assert_array_equal(correct.back.indices, correct.into.inverse)
    assert (np.asarray(faithful.back.indices) != np.asarray(faithful.into.inverse)).any()
    equal = (plan_swin(changed(mode=mode, shift_size=(1, 1))).stages for mode in ("correct", "faithful"))
    chex.assert_trees_all_equal(*equal)


def test_a_side_of_one_window_is_not_shifted_or_all_is_one_window_as_published():
    options = {"size": (8, 32), "position_bias": "none"}
    correct, faithful = (plan_swin(changed(mode=mode, **options)) for mode in ("correct", "faithful"))
    # The coarser stage has 2 x 8 tokens.
    assert [stage.straight.window_size for stage in correct.stages] == [8, 8]
    assert [stage.straight.window_size for stage in faithful.stages] == [8, 16]
    assert faithful.stages[1].shifted is faithful.stages[1].straight
    rows = token_places(changed(**options))[1].row
    order = np.asarray(correct.stages[1].shifted.into.indices)
    assert (rows[order] == rows).all()
    with pytest.raises(ConfigError, match="one window of 2 x 8 tokens"):
        changed(size=(8, 32), mode="faithful")


def test_without_masking_all_of_a_window_attend():
    assert plan_swin(changed(masking=False)).stages[0].shifted.labels is None
    assert plan_swin(TINY).stages[0].shifted.labels is not None


def test_unused_tables_exist_in_faithful_mode_only():
    def tables(mode):
        params = parameter_shapes(changed(mode=mode, position_bias="none"))
        return sum("bias_table" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))

    assert (tables("faithful"), tables("correct")) == (6, 0)


def test_options_run_together():
    config = changed(
        absolute_position=True, patch_norm=True, remat=True, norm_placement="pre", attention="dot", qk_scale=0.5,
        qkv_bias=False, compute_dtype="bfloat16", num_classes=1, position_bias="none",
    )  # fmt: skip
    variables = random_variables(config)
    assert "bias" not in variables["params"]["encoder"]["layers_0"]["blocks_0"]["attn"]["qkv"]
    logits = run(config, variables, jnp.ones((*config.size, 2)))
    assert logits.shape == (16, 32, 1)
    assert logits.dtype == jnp.float32
    assert sorted(picture_order(config)) == list(range(8 * 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (18, 32)}, r"rows must be divisible .* 4 \* 2, .* got 18 rows; 24 would work"),
        ({"size": (16, 40), "mode": "faithful"}, "columns must be divisible"),
        ({"window_size": 4}, "window_size is a pair"),
        ({"patch_size": (2,)}, "patch_size is a pair"),
        ({"patch_size": (2, 0)}, "each of patch_size must be a whole number"),
        ({"shift_size": (1, 4)}, "shift_size must be less than window_size"),
        ({"position_bias": "face"}, "position_bias must be one of none, window"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    config = copy.copy(TINY)
    for name, value in options.items():
        object.__setattr__(config, name, value)  # past this test run's checks of types, which users do not have
    with pytest.raises(ConfigError, match=message):
        config.__post_init__()


def test_pictures_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"pictures of shape \(..., 16, 32, 2\), got \(16, 16, 2\)"):
        Swin(TINY).init(jax.random.key(0), plan_swin(TINY), jnp.ones((16, 16, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (32, 32)}, "stages of"),
        (
            {"size": (32, 16), "window_size": (4, 2), "shift_size": (2, 1)},
            r"has size \(16, 32\), got a plan for \(32, 16",
        ),
        ({"window_size": (4, 4)}, r"has window_size \(2, 4\), got a plan for \(4, 4\)"),
        ({"shift_size": (0, 2)}, r"has shift \(1, 2\), got a plan for \(0, 2\)"),
        ({"masking": False}, "has masking True, got a plan for False"),
        ({"position_bias": "none"}, "has position_bias 'window', got a plan for 'none'"),
        ({"mode": "faithful"}, "has mode 'correct', got a plan for 'faithful'"),
    ],
)
def test_plans_of_another_network_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Swin(TINY).init(jax.random.key(0), plan_swin(changed(**options)), jnp.ones((16, 32, 2)))
