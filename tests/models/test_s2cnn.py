import copy
import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics.s2 import from_dense, plan_s2_transform, synthesis, to_dense
from jaxgeo.models.s2cnn import EQUATORIAL, KernelGrid, S2CNNConfig, precompute_kernels
from jaxgeo.models.s2cnn_classifier import S2CNNClassifier, S2CNNClassifierConfig, plan_s2cnn_classifier
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.s2cnn_weights import params_from_torch, params_to_torch

# Each program runs a few times only: time to compile counts more than speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = S2CNNSegmenterConfig(
    input_bandlimit=5,
    features=(2, 3, 3),
    bandlimits=(4, 3, 3),
    kernel_max_beta=(0.2, 0.3, 0.4, 0.3),
    kernel_grid=KernelGrid(num_alpha=3, num_beta=2, num_gamma=2),
    num_classes=2,
    output_bandlimit=5,
)
SMALL_CLASSIFIER = S2CNNClassifierConfig(
    input_bandlimit=4,
    features=(2, 3),
    bandlimits=(3, 2),
    kernel_max_beta=(0.2, 0.3),
    kernel_grid=KernelGrid(num_alpha=3, num_beta=1, num_gamma=2),
    num_classes=3,
    head_features=(4,),
)


def images_of(config, batch=2, dtype=jnp.float32):
    size = 2 * config.input_bandlimit
    return jax.random.normal(jax.random.key(0), (batch, size, size, config.channels), dtype)


def number_of_parameters(model, plan, images):
    shapes = jax.eval_shape(model.init, jax.random.key(0), plan, images)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def points(config):
    """Of a kernel on the sphere and on SO(3)."""
    grid = config.kernel_grid
    ring = grid.num_alpha * grid.num_beta
    return ring, ring * grid.num_gamma


def test_the_published_segmenter_has_204073_parameters():
    config = S2CNNSegmenterConfig()
    sphere, group = points(config)
    widths = [*config.features, config.num_classes]
    kernels = sphere * widths[0] + group * sum(a * b for a, b in itertools.pairwise(widths))
    assert kernels + sum(widths) == 204_073
    # And the network counts so: at small bandlimits, which no parameter depends on.
    small = dataclasses.replace(config, input_bandlimit=3, bandlimits=(2,) * 7, output_bandlimit=3)
    plan = plan_s2cnn_segmenter(small)
    assert number_of_parameters(S2CNNSegmenter(small), plan, images_of(small)) == 204_073


def test_the_classifier_has_154550_parameters():
    small = dataclasses.replace(S2CNNClassifierConfig(), input_bandlimit=3, bandlimits=(2, 2))
    plan = plan_s2cnn_classifier(small)
    assert number_of_parameters(S2CNNClassifier(small), plan, images_of(small)) == 154_550


def test_a_segmenter_with_everything_learns_and_predicts():
    config = dataclasses.replace(
        SMALL,
        features=(2, 3),
        bandlimits=(3, 2),
        kernel_max_beta=(0.2, 0.3, 0.3),
        shortcuts=True,
        batch_norm=True,
        dropout_rate=0.2,
        oversampling=1.5,
        latitudes="gauss_legendre",
    )
    model, plan, images = S2CNNSegmenter(config), plan_s2cnn_segmenter(config), images_of(config)
    labels = (images[..., 0] > 0).astype(jnp.int32)
    variables = compiled(model.init)(jax.random.key(1), plan, images)
    optimiser = optax.adam(0.05)

    @compiled
    def step(params, batch_stats, state, key):
        def loss(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats},
                plan,
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated["batch_stats"]

        (value, batch_stats), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(slope, state)
        return optax.apply_updates(params, updates), batch_stats, state, value

    params, batch_stats = variables["params"], variables["batch_stats"]
    state, losses = optimiser.init(params), []
    for key in jax.random.split(jax.random.key(2), 12):
        params, batch_stats, state, value = step(params, batch_stats, state, key)
        losses.append(float(value))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert step._cache_size() == 1
    predict = compiled(model.apply)
    trained = {"params": params, "batch_stats": batch_stats}
    cached = precompute_kernels(model, trained, plan, images)
    logits = predict(trained, plan, images)
    assert logits.shape == (2, 10, 10, 2)
    np.testing.assert_allclose(predict(cached, plan, images), logits, atol=1e-5)  # float32
    # Spectra that were given are replaced, not used.
    np.testing.assert_array_equal(
        precompute_kernels(model, cached, plan, images)["spectra"]["output_layer"]["kernel"],
        cached["spectra"]["output_layer"]["kernel"],
    )


def quarter_turn(images):
    """Rotation about the axis by a quarter turn: exact on the grid."""
    return jnp.roll(images, images.shape[-2] // 4, -2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"azimuthal_limit": 1, "oversampling": 2.0, "kernel_grid": KernelGrid(kind="full")},
        {"kernel_grid": KernelGrid(4, 1, 2, 0.4, kind="equatorial")},
        {"kernel_grid": None, "azimuthal_limit": 2},
    ],
)
def test_a_segmenter_commutes_with_turns_about_the_axis(changes):
    config = dataclasses.replace(
        SMALL,
        input_bandlimit=4,
        features=(2, 2),
        bandlimits=(2, 4),
        kernel_max_beta=(0.2, 0.3, 0.3),
        output_bandlimit=4,
    )
    config = dataclasses.replace(config, **changes)
    with jax.enable_x64(True):
        model, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config, dtype=jnp.float64)
        images = images_of(config, dtype=jnp.float64)
        variables = compiled(model.init)(jax.random.key(1), plan, images)
        predict = compiled(model.apply)
        turned = predict(variables, plan, quarter_turn(images))
        # The turn is a symmetry of every grid (4 | 2b), so that even the aliases turn with it.
        np.testing.assert_allclose(turned, quarter_turn(predict(variables, plan, images)), atol=1e-12)


def test_a_classifier_is_invariant_up_to_aliases_that_oversampling_removes():
    errors = []
    for oversampling in (1.0, 3.0):
        config = dataclasses.replace(SMALL_CLASSIFIER, oversampling=oversampling)
        model, plan = S2CNNClassifier(config), plan_s2cnn_classifier(config)
        transform = plan_s2_transform(soft_grid(config.input_bandlimit))
        coefficients = jax.random.normal(jax.random.key(0), (*transform.coefficient_shape, 1))
        images = synthesis(transform, coefficients)[None]
        # Half a turn about the x axis: theta -> pi - theta, phi -> -phi, a symmetry of the sphere but not of kernels.
        flipped = jnp.roll(images[:, ::-1, ::-1], 1, -2)
        # A small turn about the polar axis, between grid points: order m gets a phase.
        dense = to_dense(transform, coefficients)
        order = np.arange(1 - config.input_bandlimit, config.input_bandlimit)
        shifted = dense * jnp.asarray(np.exp(-0.3j * order), dense.dtype)[None, :, None]
        turned = synthesis(transform, from_dense(transform, shifted))[None]
        variables = compiled(model.init)(jax.random.key(1), plan, images)
        predict = compiled(model.apply)
        logits = predict(variables, plan, images)
        np.testing.assert_allclose(predict(variables, plan, flipped), logits, atol=1e-5)  # float32; grid symmetry
        errors.append(float(jnp.linalg.norm(predict(variables, plan, turned) - logits) / jnp.linalg.norm(logits)))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    ("network", "make_plan", "config"),
    [
        (S2CNNSegmenter, plan_s2cnn_segmenter, dataclasses.replace(SMALL, shortcuts=True)),
        (S2CNNClassifier, plan_s2cnn_classifier, SMALL_CLASSIFIER),
    ],
)
def test_a_network_stays_in_32_bits_where_jax_has_64(network, make_plan, config):
    with jax.enable_x64(True):
        made = jax.eval_shape(network(config).init_with_output, jax.random.key(0), make_plan(config), images_of(config))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {np.dtype(np.float32)}


def test_spectra_can_be_learned_instead_of_kernels():
    config = dataclasses.replace(SMALL, kernel_grid=None, shortcuts=True)
    model, plan, images = S2CNNSegmenter(config), plan_s2cnn_segmenter(config), images_of(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), plan, images)["params"]
    assert shapes["output_layer"]["kernel"].shape == (9, 3, 2)
    assert shapes["trunk"]["hidden_layers_1"]["kernel"].shape == (35, 3, 3)
    assert shapes["trunk"]["skip_layers_0"]["kernel"].shape == (2, 3)
    assert "skip_layers_1" not in shapes["trunk"]  # equal features and bandlimits: the signal itself


def test_the_azimuthal_limit_holds_in_all_grids_and_coefficients():
    config = dataclasses.replace(SMALL, azimuthal_limit=2, oversampling=1.5, shortcuts=True)
    plan = plan_s2cnn_segmenter(config)
    plans = [*plan.trunk.convolutions, *plan.trunk.shortcuts, plan.projection]
    assert {one.orders for one in plans} == {2}
    for nonlinearity in plan.trunk.nonlinearities:
        for transform in (nonlinearity.to_samples, nonlinearity.to_coefficients):
            assert transform.orders == 2
            assert transform.grid_shape[2] == 6  # two samples for each order, oversampled
    logits = jax.eval_shape(S2CNNSegmenter(config).init_with_output, jax.random.key(0), plan, images_of(config))[0]
    assert logits.shape == (2, 10, 10, 2)


def test_kernel_grids_have_the_points_of_their_kind():
    full = KernelGrid(kind="full")
    assert full.s2_points(0.1, 3).shape == (36, 2)
    assert full.so3_points(0.1, 3).shape == (216, 3)
    ring = EQUATORIAL.s2_points(0.0)
    np.testing.assert_allclose(ring[:, 0], np.pi / 2)
    assert EQUATORIAL.so3_points(0.0).shape == (64, 3)
    np.testing.assert_allclose(np.ptp(KernelGrid(kind="equatorial").s2_points(0.1)[:, 0]), 0.2 * np.pi)
    with pytest.raises(ConfigError, match="num_gamma must be a whole number of at least 1, got 0"):
        KernelGrid(num_gamma=0)
    with pytest.raises((ConfigError, TypeError), match="cube"):
        KernelGrid(kind="cube")
    # A full grid follows the bandlimit of each layer's kernel.
    config = dataclasses.replace(SMALL_CLASSIFIER, kernel_grid=full)
    plan = plan_s2cnn_classifier(config)
    assert [one.kernel.num_points for one in plan.convolutions] == [36, 64]


def test_wrong_weights_are_all_named_in_one_error():
    config = dataclasses.replace(SMALL, shortcuts=True)
    model, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), plan, images_of(config))["params"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    weights = params_to_torch(zeros)
    assert weights["input_layer.kernel"].shape == (1, 2, 6)
    assert weights["hidden_layers.0.bias"].shape == (1, 3, 1, 1, 1)
    assert weights["skip_layers.0.conv.kernel"].shape == (2, 3, 1)
    assert weights["output_layer.bias"].shape == (1, 2, 1, 1)
    missing = weights.pop("output_layer.bias")
    weights["extra.kernel"] = missing
    weights["input_layer.kernel"] = weights["input_layer.kernel"][..., :5]
    with pytest.raises(InputError) as caught:
        params_from_torch(shapes, weights)
    for part in ("output_layer.bias is missing", "extra.kernel is not part", "(1, 2, 5) and needs (1, 2, 6)"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="no layer trunk/norm_0/scale"):
        params_to_torch({"trunk": {"norm_0": {"scale": jnp.ones(2)}}})


def test_a_classifier_s_weights_have_the_names_of_the_older_program():
    config = dataclasses.replace(SMALL_CLASSIFIER, head_features=())
    init = functools.partial(S2CNNClassifier(config).init, jax.random.key(0), plan_s2cnn_classifier(config))
    shapes = jax.eval_shape(init, images_of(config))["params"]
    params = jax.tree.map(lambda leaf: jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape), shapes)
    weights = params_to_torch(params)
    assert {name: value.shape for name, value in weights.items()} == {
        "conv1.kernel": (1, 2, 3),
        "conv1.bias": (1, 2, 1, 1, 1),
        "conv2.kernel": (2, 3, 6),
        "conv2.bias": (1, 3, 1, 1, 1),
        "out_layer.weight": (3, 3),
        "out_layer.bias": (3,),
    }
    np.testing.assert_array_equal(weights["out_layer.weight"], params["out_layer"]["kernel"].T)
    chex.assert_trees_all_equal(params_from_torch(shapes, weights), params)
    with pytest.raises(InputError, match="no layer head_0/kernel"):
        params_to_torch({**params, "head_0": {"kernel": jnp.ones((3, 3))}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bandlimits": (4, 3)}, "same layers"),
        ({"kernel_max_beta": (0.1,)}, "same layers"),
        ({"features": (2, 0, 3)}, "at least 1"),
        ({"num_classes": 0}, "at least 1"),
        ({"dropout_rate": 1.0}, "dropout"),
        ({"oversampling": 0.5}, "oversampling"),
        ({"oversampling": float("nan")}, "oversampling"),
        ({"upstream_backward": True}, "mode='faithful'"),
        ({"azimuthal_limit": 0}, "azimuthal limit"),
        ({"azimuthal_limit": 2, "mode": "faithful"}, "no azimuthal limit"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "wrong"}, "one of correct, faithful, got 'wrong'"),
        ({"input_grid": "cube"}, "input_grid must be one of soft, driscoll_healy, gauss_legendre, got 'cube'"),
        ({"latitudes": "driscoll_healy"}, "soft, gauss_legendre, got 'driscoll_healy'"),
        ({"features": (2.5, 3, 3)}, "features must be a tuple, each a whole number of at least 1, got"),
        ({"features": [2, 3, 3]}, "features must be a tuple"),
        ({"channels": True}, "channels must be a whole number"),
        ({"shortcuts": "no"}, "shortcuts must be True or False, got 'no'"),
        (
            {"kernel_max_beta": (-0.1, 0.3, 0.4)},
            "kernel_max_beta must be a tuple, each a finite number from 0 to 1, got",
        ),
        (
            {"kernel_max_beta": (0.2, 1.1, 0.4)},
            "kernel_max_beta must be a tuple, each a finite number from 0 to 1, got",
        ),
    ],
)
def test_unknown_words_and_values_of_another_kind_are_refused(changes, message):
    config = copy.copy(SMALL)
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=message):
        unchecked(S2CNNConfig.__post_init__)(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"bandlimits": (4, 3, 2)},
        {"mode": "faithful"},
        {"kernel_max_beta": (0.2, 0.3, 0.4, 0.5)},
        {"kernel_grid": EQUATORIAL},
        {"output_bandlimit": 4},
        {"bandlimits": (4, 3, 3, 3), "features": (2, 3, 3, 3), "kernel_max_beta": (0.2, 0.3, 0.4, 0.3, 0.3)},
    ],
)
def test_a_plan_of_another_network_is_refused(changes):
    plan = plan_s2cnn_segmenter(dataclasses.replace(SMALL, **changes))
    with pytest.raises(InputError, match=f"the configured network has {next(iter(changes))} .*, got a plan for"):
        jax.eval_shape(S2CNNSegmenter(SMALL).init, jax.random.key(0), plan, images_of(SMALL))


def test_a_segmenters_trunk_is_no_classifiers_and_classes_change_no_table():
    classifier = dataclasses.replace(SMALL_CLASSIFIER, head_features=())
    wider = plan_s2cnn_classifier(dataclasses.replace(classifier, features=(4, 5), num_classes=7))
    jax.eval_shape(S2CNNClassifier(classifier).init, jax.random.key(0), wider, images_of(classifier))
    segmenter = dataclasses.replace(
        SMALL, input_bandlimit=4, features=(2, 3), bandlimits=(3, 2), kernel_max_beta=(0.2, 0.3, 0.3)
    )
    plan = plan_s2cnn_segmenter(segmenter).trunk
    with pytest.raises(InputError, match="the configured network has"):
        jax.eval_shape(S2CNNClassifier(classifier).init, jax.random.key(0), plan, images_of(classifier))


def test_impossible_classifiers_and_images_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        dataclasses.replace(SMALL_CLASSIFIER, head_features=(0,))
    plan = plan_s2cnn_classifier(SMALL_CLASSIFIER)
    with pytest.raises(InputError, match="takes 1 channels"):
        jax.eval_shape(S2CNNClassifier(SMALL_CLASSIFIER).init, jax.random.key(0), plan, jnp.zeros((1, 8, 8, 2)))
