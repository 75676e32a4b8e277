"""HEAL-SWIN: sizes, the sphere's quarter turns, options that change no result, quirks, what is refused."""

import copy
import dataclasses
import functools

import flax.errors
import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix_symmetries import symmetry_permutations
from jaxgeo.models.heal_swin import HealSwin, HealSwinClassifier, HealSwinConfig, latitude_channel, plan_heal_swin
from jaxgeo.models.planar_cnn import count_parameters
from jaxgeo.models.swin_weights import parameter_shapes

TINY = HealSwinConfig(
    num_classes=3,
    channels=2,
    embed_dim=4,
    depths=(2, 2),
    num_heads=(1, 2),
    nside=8,
    window_size=4,
    shift="grid",
    shift_size=1,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
    stochastic_depth_rate=0.0,
)


def changed(**options):
    return dataclasses.replace(TINY, **options)


def random_variables(config, scale=0.3, module=HealSwin):
    """Parameters of which none is zero."""
    plan, x = plan_heal_swin(config), jax.ShapeDtypeStruct((config.num_pixels, config.channels), jnp.float32)
    shapes = jax.eval_shape(module(config).init, jax.random.key(0), plan, x)
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return structure.unflatten([jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def maps(config, *batch):
    return jax.random.normal(jax.random.key(5), (*batch, config.num_pixels, config.channels))


def run(config, variables, x, **options):
    return jax.jit(lambda variables, plan, x: HealSwin(config).apply(variables, plan, x, **options))(
        variables, plan_heal_swin(config), x
    )


@pytest.mark.parametrize(
    ("num_classes", "count"), [(12, 41_279_880), (10, 41_279_688), (8, 41_279_496), (1, 41_278_824)]
)
def test_the_published_networks_have_the_published_numbers_of_parameters(num_classes, count):
    # None of them depends on the number of pixels; the defaults have 256.
    config = HealSwinConfig(num_classes=num_classes, nside=64 if num_classes < 12 else 256)
    assert count_parameters(parameter_shapes(config)) == count


def test_the_defaults_are_the_published_run():
    config = HealSwinConfig()
    assert config.nsides == (128, 64, 32, 16)
    assert config.features == (96, 192, 384, 768)
    assert (config.shift, config.shift_size, config.window_size) == ("spiral", 4, 64)
    assert (config.attention, config.norm_placement, config.position_bias) == ("cosine", "post", "window")


def test_stochastic_depth_grows_linearly_over_the_encoder():
    rates = HealSwinConfig(depths=(2, 2, 6, 2), stochastic_depth_rate=0.11).stochastic_depth_rates
    np.testing.assert_allclose(np.concatenate(rates), np.arange(12) * 0.01, atol=1e-15)
    assert [len(stage) for stage in rates] == [2, 2, 6, 2]


def quarter_turn(x):
    """Faces 0 -> 1 -> 2 -> 3 -> 0 and 4 -> 5 -> 6 -> 7 -> 4."""
    faces = x.reshape(*x.shape[:-2], -1, 4, TINY.nside**2, x.shape[-1])
    return jnp.roll(faces, 1, axis=-3).reshape(x.shape)


@pytest.mark.parametrize(("shift", "faces"), [("grid", 8), ("grid", 12)])
def test_the_grid_shift_commutes_with_quarter_turns_of_the_sphere(shift, faces):
    config = changed(nside=16, window_size=16, shift=shift, base_pixels=tuple(range(faces)))
    assert config.nside == 2 * TINY.nside
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_variables(config))
        x = jax.random.normal(jax.random.key(5), (config.num_pixels, config.channels), jnp.float64)
        plan = plan_heal_swin(config)
        apply = jax.jit(HealSwin(config).apply)

        def turned(x):
            return jnp.roll(x.reshape(faces // 4, 4, -1, x.shape[-1]), 1, axis=1).reshape(x.shape)

        once, again = turned(apply(variables, plan, x)), apply(variables, plan, turned(x))
        assert jnp.abs(once - apply(variables, plan, x)).max() > 0.1
        np.testing.assert_allclose(again, once, rtol=0, atol=1e-12)  # float64


def test_options_of_computation_change_neither_outputs_nor_gradients():
    base = changed(depths=(2, 1), attention_chunk=None)
    variables, x = random_variables(base), maps(base, 2)

    def with_gradient(**options):
        config = dataclasses.replace(base, **options)

        def loss(variables):
            logits = HealSwin(config).apply(variables, plan_heal_swin(config), x)
            return jnp.sum(jnp.sin(logits)), logits

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)

    (_, logits), gradient = with_gradient()
    assert logits.shape == (2, TINY.num_pixels, 3)
    for options in ({"remat": True, "attention_chunk": 32}, {"attention_chunk": 2}):
        (_, found), found_gradient = with_gradient(**options)
        np.testing.assert_allclose(found, logits, atol=2e-5)  # float32, another order of sums
        for a, b in zip(jax.tree.leaves(found_gradient), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()) + 1e-5)


@functools.cache
def computed_in(dtype):
    """Logits and the gradient, flat."""
    variables, x = random_variables(TINY), 255 * jax.random.uniform(jax.random.key(5), (TINY.num_pixels, 2))
    config = changed(compute_dtype=dtype)

    def loss(variables, plan):
        logits = HealSwin(config).apply(variables, plan, x)
        return jnp.mean(logits**2), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables, plan_heal_swin(config))
    return logits, jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(gradient)])


@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_half_precision_is_near_float32_and_returns_it(dtype, unit):
    for one, other in zip(computed_in(dtype), computed_in(None), strict=True):
        assert one.dtype == jnp.float32
        # The unit of rounding through some fifty layers, there and back.
        assert unit / 40 < float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other)) < 15 * unit


def test_members_are_mapped_over_and_a_second_call_is_not_traced():
    plan, x = plan_heal_swin(TINY), maps(TINY)
    members = [random_variables(TINY, scale) for scale in (0.2, 0.3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    traces = []

    @jax.jit
    def apply(stacked, plan, x):
        traces.append(1)
        return jax.vmap(HealSwin(TINY).apply, in_axes=(0, None, None))(stacked, plan, x)

    together = apply(stacked, plan, x)
    apply(jax.tree.map(lambda leaf: 2 * leaf, stacked), plan_heal_swin(TINY), 2 * x)
    assert len(traces) == 1
    for logits, variables in zip(together, members, strict=True):
        np.testing.assert_allclose(logits, run(TINY, variables, x), atol=1e-5)  # float32, batched products


def test_randomness_comes_from_named_rngs_and_is_off_by_default():
    config = changed(dropout_rate=0.2, attention_dropout_rate=0.2, stochastic_depth_rate=0.5)
    variables, x, plan = random_variables(config), maps(config), plan_heal_swin(config)
    still = run(config, variables, x)
    np.testing.assert_array_equal(still, run(TINY, variables, x))

    @jax.jit
    def draw(seed):
        rngs = {"dropout": jax.random.key(seed), "stochastic_depth": jax.random.key(seed)}
        return HealSwin(config).apply(variables, plan, x, train=True, rngs=rngs)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    with pytest.raises(flax.errors.InvalidRngError, match="stochastic_depth"):
        HealSwin(config).apply(variables, plan, x, train=True, rngs={"dropout": jax.random.key(0)})


def test_the_classifier_pools_the_encoder_and_is_invariant_under_quarter_turns():
    variables, x, plan = random_variables(TINY, module=HealSwinClassifier), maps(TINY, 2), plan_heal_swin(TINY)
    assert set(variables["params"]) == {"encoder", "head"}
    apply = jax.jit(HealSwinClassifier(TINY).apply)
    logits = apply(variables, plan, x)
    assert logits.shape == (2, 3)
    np.testing.assert_allclose(apply(variables, plan, quarter_turn(x)), logits, atol=1e-5)  # float32


def test_biases_by_face_are_those_by_window_where_windows_do_not_leave_their_face():
    by_window, by_face = changed(shift_size=0), changed(shift_size=0, position_bias="face")
    variables, x = random_variables(by_window), maps(by_window)

    def by_each_face(path, leaf):
        # The table repeated for each face, and one more row, of faces that do not touch.
        if path[-1].key != "relative_position_bias_table":
            return leaf
        return jnp.tile(jnp.concatenate([leaf, jnp.zeros_like(leaf[:1])]), (8, 1))

    copied = jax.tree_util.tree_map_with_path(by_each_face, variables)
    expected = run(by_window, variables, x)
    np.testing.assert_allclose(run(by_face, copied, x), expected, atol=1e-6)  # float32
    # And they know the face: of the table of face 5 only that face hears, in the first stage.
    shifted = changed(position_bias="face")
    variables = random_variables(shifted)
    assert (run(shifted, variables, x) != run(shifted, random_variables(shifted, 0.31), x)).any()
    rows = variables["params"]["encoder"]["layers_0"]["blocks_0"]["attn"]["relative_position_bias_table"].shape[0]
    assert rows == 8 * (9 + 1)


def test_windows_larger_than_a_face_are_cut_to_it_or_taken_as_published():
    options = {"nside": 8, "window_size": 64, "position_bias": "none", "shift": "spiral", "shift_size": 4}
    correct, faithful = (plan_heal_swin(changed(mode=mode, **options)) for mode in ("correct", "faithful"))
    # Token grids of nside 4 and 2: faces of 16 and 4 tokens, 128 and 32 in all.
    assert [stage.straight.window_size for stage in correct.stages] == [16, 4]
    assert [stage.straight.window_size for stage in faithful.stages] == [64, 32]
    assert correct.stages[1].shifted.into is not None
    assert faithful.stages[0].shifted.into is not None
    assert faithful.stages[1].shifted is faithful.stages[1].straight
    with pytest.raises(ConfigError, match="fewer tokens, here 32, than the window of 64"):
        changed(**options | {"mode": "faithful", "position_bias": "window"})
    # Tables keep their size, so that parameters do not depend on the mode.
    small = changed(**options | {"position_bias": "window"})
    assert run(small, random_variables(small), maps(small)).shape == (512, 3)


def test_a_shift_that_no_block_takes_need_not_be_possible():
    # Windows of 16 tokens at nsides 4 and 2: the grid shift has no half of a window that is larger than a face.
    options = {"nside": 8, "window_size": 16, "mode": "faithful"}
    alone = plan_heal_swin(changed(depths=(2, 1), **options))
    assert alone.stages[0].shifted.into is not None
    assert alone.stages[1].shifted is alone.stages[1].straight
    with pytest.raises(ConfigError, match="a window must fit into a face"):
        plan_heal_swin(changed(**options))
    # So a plan without a shift is no plan for a network that takes it.
    with pytest.raises(InputError, match=r"has shifted_stages \(True, True\), got a plan for \(True, False\)"):
        HealSwin(TINY).init(jax.random.key(0), plan_heal_swin(changed(depths=(2, 1))), maps(TINY))


def test_a_face_of_one_token_attends_to_itself_only():
    config = changed(nside=4, depths=(1, 1))
    plan = plan_heal_swin(config)
    assert plan.stages[1].straight.window_size == 1
    assert plan.stages[1].shifted.into is None
    assert run(config, random_variables(config), maps(config)).shape == (128, 3)


@pytest.mark.parametrize("shift", ["spiral", "nest_roll", "seamless"])
def test_all_shifts_run_with_absolute_positions_and_normalised_patches(shift):
    faces = 12 if shift == "seamless" else 5
    config = changed(shift=shift, base_pixels=tuple(range(faces)), absolute_position=True, patch_norm=True)
    variables = random_variables(config)
    assert variables["params"]["encoder"]["absolute_pos_embed"].shape == (faces * 16, 4)
    assert set(variables["params"]["encoder"]["patch_embed"]) == {"proj", "norm"}
    logits = run(config, variables, maps(config, 2, 1))
    assert logits.shape == (2, 1, faces * 64, 3)
    assert jnp.isfinite(logits).all()


@pytest.mark.parametrize("nside", [1, 2, 16, 64])
def test_latitudes_are_those_of_healpy_and_the_same_under_every_symmetry(nside):
    height = np.abs(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True)[2])
    channel = latitude_channel(nside)
    np.testing.assert_allclose(channel, (height - 0.5) * np.sqrt(12), atol=2e-7)  # float32, up to 1.7
    for permutation in symmetry_permutations(nside):
        np.testing.assert_array_equal(channel[permutation], channel)
    some = latitude_channel(nside, (5, 2))
    np.testing.assert_array_equal(some, channel.reshape(12, -1)[[5, 2]].reshape(-1))


def test_a_network_that_knows_latitudes_is_one_that_is_told_them():
    knows, told = changed(latitude=True), changed(channels=TINY.channels + 1)
    x, variables = maps(knows, 2), random_variables(told)
    channel = latitude_channel(knows.nside, knows.base_pixels)
    heights = np.broadcast_to(channel[None, :, None], (*x.shape[:-1], 1))
    np.testing.assert_array_equal(
        run(knows, variables, x), run(told, variables, jnp.concatenate([x, heights], axis=-1))
    )


def test_logits_of_single_pixels_are_added_to_the_decoders():
    config = changed(pixel_width=5, latitude=True)
    x, variables = maps(config), random_variables(config)
    own = {name: variables["params"][name] for name in ("pixel_0", "pixel_1", "pixel_output")}
    hidden = np.concatenate([x, latitude_channel(config.nside, config.base_pixels)[:, None]], axis=-1)
    for name in ("pixel_0", "pixel_1"):
        hidden = jax.nn.gelu(hidden @ own[name]["kernel"] + own[name]["bias"][None])
    expected = hidden @ own["pixel_output"]["kernel"] + own["pixel_output"]["bias"][None]
    without = {name: part for name, part in variables["params"].items() if name not in own}
    context = run(dataclasses.replace(config, pixel_width=0), {"params": without}, x)
    np.testing.assert_allclose(
        run(config, variables, x), context + expected, rtol=1e-5, atol=1e-5
    )  # float32, two programs


def test_training_drops_the_context_of_whole_sub_squares_at_the_configured_rate():
    config = changed(pixel_width=5, context_dropout_rate=0.25, nside=8)
    x, variables = maps(config, 200), random_variables(config)
    alone = jax.tree.map_with_path(lambda path, leaf: leaf * ("decoder" not in str(path)), variables)
    keys = {"stochastic_depth": jax.random.key(1)}
    given = run(config, variables, x, train=True, rngs=keys)
    context = np.abs(given - run(config, alone, x)).reshape(200, len(config.base_pixels), -1).max(-1)
    dropped = context < 1e-4  # two float32 programs of values near 1
    # A face, smaller than a sub-square here, goes as a whole: what is kept differs by far more somewhere.
    assert (dropped | (context > 0.05)).all()
    # 1600 faces: four standard errors of the rate.
    assert abs(dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / dropped.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nside": 12}, "power of two"),
        ({"patch_size": 8}, "patch_size must be a power of four"),
        ({"window_size": 32}, "window_size must be a power of four"),
        ({"nside": 2}, "need nside 4 or more, got 2"),
        ({"base_pixels": (0, 0)}, "different faces"),
        ({"base_pixels": (12,)}, "0 to 11"),
        ({"pixel_width": -1}, "pixel_width"),
        ({"context_dropout_rate": 0.2}, "context_dropout_rate needs pixel_width"),
        ({"pixel_width": 4, "context_dropout_rate": 1.0}, "context_dropout_rate must lie in 0"),
        ({"shift": "ring_shift"}, "shift must be one of grid, spiral"),
        ({"position_bias": "flat"}, "position_bias must be one of"),
        ({"depths": (2,)}, "at least two stages"),
        ({"depths": (2, 2, 2)}, "a number of heads for each"),
        ({"depths": (2, 0)}, "each of depths must be a whole number of at least 1, got 0"),
        ({"num_heads": (1, 3)}, "3 heads cannot share 8 channels"),
        ({"dropout_rate": 1.0}, "dropout_rate is a probability below 1"),
        ({"mlp_ratio": 0.1}, "hidden channel"),
        ({"qk_scale": 0.0}, "qk_scale"),
        ({"mode": "published"}, "mode must be one of correct, faithful"),
        ({"compute_dtype": "float8"}, "compute_dtype"),
        ({"attention_chunk": 0}, "attention_chunk"),
        ({"num_classes": 2.5}, "num_classes must be a whole number"),
        ({"shift_size": -1}, "shift_size"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    config = copy.copy(TINY)
    for name, value in options.items():
        object.__setattr__(config, name, value)  # past this test run's checks of types, which users do not have
    with pytest.raises(ConfigError, match=message):
        config.__post_init__()


def test_maps_and_plans_of_other_sizes_are_refused():
    plan = plan_heal_swin(TINY)
    with pytest.raises(InputError, match=r"needs maps of shape \(..., 512, 2\), got \(512, 3\)"):
        HealSwin(TINY).init(jax.random.key(0), plan, jnp.ones((512, 3)))
    with pytest.raises(InputError, match="stages of"):
        HealSwin(TINY).init(jax.random.key(0), plan_heal_swin(changed(nside=16)), jnp.ones((512, 2)))
    with pytest.raises(ConfigError, match="full sphere"):
        plan_heal_swin(changed(shift="seamless"))


@pytest.mark.parametrize("module", [HealSwin, HealSwinClassifier])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": "spiral"}, "has shift 'grid', got a plan for 'spiral'"),
        ({"shift_size": 0}, "has shift 'grid', got a plan for 'none'"),
        ({"window_size": 16}, "has window_size 4, got a plan for 16"),
        ({"base_pixels": tuple(range(4, 12))}, r"has base_pixels \(0, 1, .*, got a plan for \(4, 5,"),
        ({"position_bias": "none"}, "has position_bias 'window', got a plan for 'none'"),
        ({"mode": "faithful"}, "has mode 'correct', got a plan for 'faithful'"),
    ],
)
def test_plans_of_equally_many_tokens_in_another_layout_are_refused(module, options, message):
    with pytest.raises(InputError, match=message):
        module(TINY).init(jax.random.key(0), plan_heal_swin(changed(**options)), jnp.ones((512, 2)))


def test_plans_that_are_the_same_are_taken_whatever_else_the_networks_differ_in():
    def shapes(plan):
        x = jax.ShapeDtypeStruct((512, 2), jnp.float32)
        return jax.eval_shape(HealSwin(TINY).init, jax.random.key(0), plan, x)

    own = plan_heal_swin(TINY)
    # The grid shift moves by half a window whatever size is said; heads and channels are no matter of windows.
    for other in (changed(shift_size=3), changed(num_heads=(2, 4), embed_dim=8, num_classes=5)):
        assert jax.tree.structure(plan_heal_swin(other)) == jax.tree.structure(own)
        shapes(plan_heal_swin(other))
    one, two = (changed(shift="spiral", shift_size=size) for size in (1, 2))
    with pytest.raises(InputError, match="has shift_size 1, got a plan for 2"):
        HealSwin(one).init(jax.random.key(0), plan_heal_swin(two), jnp.ones((512, 2)))
