"""DeepSphere networks: symmetry of the grid, sizes, learning, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.graph_convolution import plan_healpix_graph
from jaxgeo.models.deepsphere import DeepSphereClassifier, DeepSphereConfig, DeepSphereSegmenter, plan_deepsphere

TINY = DeepSphereConfig(num_classes=2, nside=2, features=(6,), terms=3)


def quarter_turn(x):
    faces = x.reshape(*x.shape[:-2], 3, 4, -1, x.shape[-1])
    return jnp.roll(faces, 1, axis=-3).reshape(x.shape)


@pytest.fixture(scope="module")
def plans():
    return plan_deepsphere(TINY)


def test_the_classifier_is_invariant_and_the_segmenter_equivariant_under_quarter_turns(plans):
    x = jax.random.normal(jax.random.key(0), (2, 48, 1))
    classifier, segmenter = DeepSphereClassifier(TINY), DeepSphereSegmenter(TINY)
    params = classifier.init(jax.random.key(1), plans, x)
    logits = classifier.apply(params, plans, x)
    assert logits.shape == (2, 2)
    # float32, other order of summation
    np.testing.assert_allclose(classifier.apply(params, plans, quarter_turn(x)), logits, atol=1e-5)
    params = segmenter.init(jax.random.key(1), plans, x)
    logits = segmenter.apply(params, plans, x)
    assert logits.shape == (2, 48, 2)
    np.testing.assert_allclose(segmenter.apply(params, plans, quarter_turn(x)), quarter_turn(logits), atol=1e-5)


def test_default_sizes():
    config = DeepSphereConfig()
    assert config.nsides == (32, 16, 8, 4, 2)
    widths, terms = (1, *config.features), config.terms
    convolutions = sum(terms * a * b for a, b in itertools.pairwise(widths))
    assert convolutions + 2 * sum(config.features) + 64 * 10 + 10 == 54_970


@pytest.mark.parametrize("network", [DeepSphereClassifier, DeepSphereSegmenter])
def test_it_overfits_a_tiny_problem(network, plans):
    x = jax.random.normal(jax.random.key(2), (4, 48, 1))
    model = network(TINY)
    variables = model.init(jax.random.key(3), plans, x)
    shape = model.apply(variables, plans, x).shape[:-1]
    # Neighbouring pixels agree for the segmenter: regions, as real labels have.
    labels = jax.random.randint(jax.random.key(4), (*shape[:1], *(12 for _ in shape[1:])), 0, 2)
    labels = jnp.repeat(labels, 4, axis=-1) if len(shape) > 1 else jnp.array([0, 1, 1, 0])
    if len(shape) > 1:
        x = x + 2 * labels[..., None] - 1
    optimizer = optax.adam(2e-2)

    @jax.jit
    def step(carry, _):
        params, statistics, state = carry

        def loss(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": statistics}, plans, x, train=True, mutable=["batch_stats"]
            )
            value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return value, updates["batch_stats"]

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), statistics, state), value

    start = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
    _, losses = jax.lax.scan(step, start, length=150)
    assert losses[0] > 0.3
    assert losses[-1] < 0.1


def test_without_normalisation_there_are_only_parameters(plans):
    config = DeepSphereConfig(num_classes=3, nside=2, features=(2,), batch_norm=False, pooling="mean")
    model = DeepSphereClassifier(config)
    variables = model.init(jax.random.key(0), plans, jnp.ones((48, 1)))
    assert set(variables) == {"params"}
    assert "bias" in variables["params"]["block_0"]["conv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nside": 5}, "power of two"),
        ({"features": ()}, "at least one level"),
        ({"terms": 0}, "at least 1"),
        ({"pooling": "sum"}, "max, mean, got 'sum'"),
        ({"nside": 2, "features": (1, 1)}, "nside 4 or 1 levels would work"),
    ],
)
def test_impossible_configs_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DeepSphereConfig(**arguments)


def test_a_map_of_another_size_is_refused(plans):
    with pytest.raises(InputError, match=r"nside 2 needs maps of shape \(..., 48, 1\), got \(49, 1\)"):
        DeepSphereClassifier(TINY).init(jax.random.key(0), plans, jnp.ones((49, 1)))


def test_graphs_of_other_maps_are_refused(plans):
    x = jnp.ones((48, 1))
    ring = (plan_healpix_graph(2, order="ring"), *plans[1:])
    for wrong in (ring, plans[1:], plans[::-1]):
        with pytest.raises(InputError, match="from `plan_deepsphere`"):
            DeepSphereClassifier(TINY).init(jax.random.key(0), wrong, x)
