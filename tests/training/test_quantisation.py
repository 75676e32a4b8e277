"""Calibration against brute force, sums against their bound, and fine-tuning against what rounding cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, to_integers
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.training.quantisation import accumulator_bits, calibrate, choose_precision, finetune

CONFIG = HealpixClassifierConfig(num_classes=3, nside=2, features=(4,), patches=(4,))


def classifier(config):
    model = HealpixClassifier(config)
    return lambda params, x: model.apply({"params": params}, x)


def blobs(count: int = 240):
    """Three classes of maps: a bright third of the sphere each, under noise."""
    labels = jnp.arange(count) % 3
    bright = (jnp.arange(48)[None] // 16 == labels[:, None]).astype(jnp.float32)
    noise = jax.random.uniform(jax.random.key(0), (count, 48))
    return (0.35 * bright + 0.65 * noise)[..., None], labels


@pytest.fixture(scope="module")
def trained():
    x, labels = blobs()
    params = HealpixClassifier(CONFIG).init(jax.random.key(1), x[:1])["params"]
    params, losses = finetune(classifier(CONFIG), params, x, labels, jax.random.key(2), epochs=30, learning_rate=1e-2)
    assert losses.shape == (30,)
    assert losses[-1] < 0.5 * losses[0]
    return params


@given(seed=st.integers(0, 2**31 - 1), width=st.integers(2, 9), signed=st.booleans())
def test_calibrated_format_loses_least_of_all_integer_bits(seed, width, signed):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=200) * 2.0 ** rng.integers(-6, 7)).astype(np.float32)
    values = values if signed else np.maximum(values, 0)

    def loss(integer):
        step = 2.0 ** (integer - width)
        grid = np.arange(-(2 ** (width - 1)) if signed else 0, 2 ** (width - signed)) * step
        return float(np.sum(np.min(np.abs(values[:, None] - grid[None]), axis=1, initial=np.inf) ** 2))

    chosen = calibrate(values, width, signed)
    # The search gives up three bits at most, which is all that a normal sample of 200 asks for at 4 bits and more.
    best = min(loss(integer) for integer in range(-12, 14)) if width >= 4 else loss(chosen.integer + 1)
    assert loss(chosen.integer) <= best * (1 + 1e-12)  # float64 sums of 200 squares
    assert (chosen.width, chosen.signed, chosen.rounding, chosen.overflow) == (width, signed, "RND", "SAT")


def test_calibration_of_powers_of_two_zeros_and_a_bounded_step():
    assert calibrate(np.zeros(3), 6) == FixedPoint(6, 1, True, "RND", "SAT")
    assert calibrate(np.array([0.75, -0.9]), 6) == FixedPoint(6, 1, True, "RND", "SAT")
    assert calibrate(np.array([0.01]), 8, max_fraction=6).fraction == 6
    assert calibrate(np.array([100.0]), 8, max_fraction=6).fraction == 0  # the range comes first


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_calibration_needs_finite_values(values):
    with pytest.raises(InputError, match="calibrated on finite values, at least one"):
        calibrate(values, 8)


@given(
    inputs=st.builds(FixedPoint, st.integers(1, 9), st.integers(-2, 4), st.booleans()),
    weight=st.builds(FixedPoint, st.integers(1, 7), st.integers(-2, 4), st.booleans()),
    bias=st.builds(FixedPoint, st.integers(1, 9), st.integers(-2, 4), st.booleans()),
    fan_in=st.integers(1, 300),
)
def test_accumulator_holds_the_extreme_sums_and_one_bit_less_does_not(inputs, weight, bias, fan_in):
    finest = max(inputs.fraction + weight.fraction, bias.fraction)
    ends = [
        a * b * fan_in + c
        for a in (inputs.min, inputs.max)
        for b in (weight.min, weight.max)
        for c in (bias.min, bias.max)
    ]
    largest = max(abs(end) for end in ends) * 2.0**finest
    bits = accumulator_bits(inputs, weight, fan_in, bias)
    assert largest <= 2**bits
    # The bound adds magnitudes; signs can keep the real extremes apart from it by a bias, less than one bit each.
    assert largest > 2 ** (bits - 3)
    assert accumulator_bits(inputs, weight, fan_in) <= bits


def test_choosing_formats_keeps_accuracy_and_exactness(trained):
    x, _ = blobs()
    precision = choose_precision(CONFIG, trained, x)
    assert [layer.weight.width for layer in precision.layers] == [6, 6]
    assert [layer.result.signed for layer in precision.layers] == [False, True]
    assert not precision.input.signed
    sources = [precision.input, precision.layers[0].result]
    for source, layer, fan_in in zip(sources, precision.layers, (4, 48), strict=True):
        assert accumulator_bits(source, layer.weight, fan_in, layer.bias) <= 24
    fixed = dataclasses.replace(CONFIG, precision=precision)
    exact = np.argmax(classifier(CONFIG)(trained, x), -1)
    rounded = np.argmax(classifier(fixed)(trained, x), -1)
    assert np.mean(exact == rounded) > 0.95  # 8-bit activations on three well separated classes
    # Sums are exact: the same network in int64 NumPy gives the same words.
    words = np.asarray(to_integers(x, precision.input), np.int64).reshape(-1, 12, 4)
    head = precision.layers[1]
    for layer, tree, source in zip(
        precision.layers, (trained["conv_0"]["dense"], trained["head"]), sources, strict=True
    ):
        kernel = np.asarray(to_integers(tree["kernel"], layer.weight), np.int64)
        bias = np.asarray(to_integers(tree["bias"], layer.bias), np.int64)
        fraction = source.fraction + layer.weight.fraction
        sums = words @ kernel + bias * 2 ** (fraction - layer.bias.fraction)
        shift = fraction - layer.result.fraction
        words = (sums + 2 ** (shift - 1)) >> shift  # RND: half up
        words = np.clip(words, layer.result.min_word, layer.result.max_word)
        words = words.reshape(len(words), -1) if layer is not head else words
    np.testing.assert_array_equal(classifier(fixed)(trained, x), words * head.result.step)


def test_sums_too_wide_for_float32_are_refused(trained):
    x, _ = blobs(24)
    with pytest.raises(ConfigError, match=r"the sums of conv_0 need \d+ bits .* take \d+ bits off one of them"):
        choose_precision(CONFIG, trained, x, weight_bits=12, activation_bits=12)


def test_fine_tuning_wins_back_what_coarse_weights_lost(trained):
    x, labels = blobs()
    precision = choose_precision(CONFIG, trained, x, weight_bits=2, activation_bits=4)
    apply = classifier(dataclasses.replace(CONFIG, precision=precision))

    def loss(params):
        log_probs = jax.nn.log_softmax(apply(params, x))
        return -float(jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], -1)))

    tuned, losses = finetune(apply, trained, x, labels, jax.random.key(3), epochs=10, learning_rate=3e-3)
    assert loss(tuned) < loss(trained)
    assert np.isfinite(losses).all()


def test_members_are_tuned_together_as_one_by_one(trained):
    x, labels = blobs(60)
    fixed = dataclasses.replace(CONFIG, precision=choose_precision(CONFIG, trained, x))
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), trained)
    keys = jax.random.split(jax.random.key(4), 2)

    @jax.jit
    def tune(params, key):
        return finetune(classifier(fixed), params, x, labels, key, epochs=2, batch_size=1000)[1]

    together = jax.jit(jax.vmap(tune))(members, keys)
    alone = [tune(jax.tree.map(lambda leaf, i=i: leaf[i], members), keys[i]) for i in range(2)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)  # batched products may sum in another order


@pytest.mark.parametrize(("epochs", "batch_size"), [(0, 8), (1, 0)])
def test_fine_tuning_needs_work_to_do(trained, epochs, batch_size):
    x, labels = blobs(6)
    with pytest.raises(ConfigError, match="of fine-tuning must be a whole number of at least 1, got 0"):
        finetune(classifier(CONFIG), trained, x, labels, jax.random.key(0), epochs=epochs, batch_size=batch_size)


def test_fine_tuning_refuses_labels_that_are_no_classes(trained):
    x, labels = blobs(6)
    classes = trained["head"]["bias"].size
    with pytest.raises(InputError, match=rf"labels must lie in 0 \.\.\. {classes - 1}"):
        finetune(classifier(CONFIG), trained, x, labels + classes, jax.random.key(0), epochs=1)
