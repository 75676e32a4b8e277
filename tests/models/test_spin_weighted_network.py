import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.latlon import colatitude_mesh, longitude_mesh, soft_grid
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import wigner
from jaxgeo.models.spin_weighted_network import (
    SpinWeightedNetwork,
    SpinWeightedNetworkConfig,
    plan_spin_weighted_network,
)

# Each program runs a few times only: time to compile counts more than speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

L = 4
GRID = soft_grid(L)
SMALL = {
    "num_classes": 3,
    "input_bandlimit": L,
    "features": (3, 4),
    "bandlimits": (L, L),
    "anchors": None,
}
HARMONICS = [wigner.spherical_harmonics(l, colatitude_mesh(GRID), longitude_mesh(GRID)) for l in range(L)]


def random_spectra(seed, count):
    """Lists over l of coefficients of real signals (example, order), orders from -l to l."""
    rng = np.random.default_rng(seed)
    spectra = []
    for l in range(L):
        values = rng.normal(size=(count, 2 * l + 1)) + 1j * rng.normal(size=(count, 2 * l + 1))
        spectra.append((values + (-1.0) ** np.arange(-l, l + 1) * values[:, ::-1].conj()) / 2)
    return spectra


def draw(spectra):
    """Images (example, lat, lon, 1)."""
    values = sum(np.einsum("tpm,em->etp", table, c) for table, c in zip(HARMONICS, spectra, strict=True))
    return np.real(values)[..., None]


def rotate(spectra, matrices):
    """Example by example."""
    return [
        np.einsum("emn,en->em", wigner.wigner_D_of_rotations(l, np.asarray(matrices)), c) for l, c in enumerate(spectra)
    ]


@functools.partial(compiled, static_argnames=("model", "real"))
def trained_looking(model, plan, images, *, real=False):
    """Variables with thresholds at every nonlinearity, as if some training had been done."""
    variables = model.init(jax.random.key(0), plan, images)

    def change(path, value):
        name = path[-1].key
        if name == "bias" and "nonlinearity" in path[-2].key:
            return jnp.linspace(-0.5, 0.1, value.size).reshape(value.shape)
        if name == "kernel" and real and "convolution" in path[-2].key:
            return value.at[1].set(0.0)
        return value

    return jax.tree_util.tree_map_with_path(change, variables)


def test_logits_are_invariant_up_to_aliases_which_fall_with_oversampling():
    with jax.enable_x64(True):
        spectra = random_spectra(0, 1)
        matrices = np.asarray(haar_rotations(jax.random.key(1), (6,)))
        turned = rotate([np.repeat(c, len(matrices), 0) for c in spectra], matrices)
        images = jnp.asarray(np.concatenate([draw(spectra), draw(turned)]))
        errors = []
        for oversampling in (1.0, 3.0):
            config = SpinWeightedNetworkConfig(**SMALL, oversampling=oversampling)
            model, plan = SpinWeightedNetwork(config), plan_spin_weighted_network(config, dtype=jnp.float64)
            if not errors:
                variables = trained_looking(model, plan, images)
            logits = np.asarray(compiled(model.apply)(variables, plan, images))
            assert logits.dtype == np.float64
            errors.append(np.abs(logits[1:] - logits[:1]).mean() / np.abs(logits[0]).mean())
    assert errors[0] > 1e-4  # the plain form has aliases
    # Aliases of kinks fall with the square of the grid's bandlimit or faster; constants differ between rotations.
    assert errors[1] < errors[0] / 6, errors


def test_real_spectra_are_blind_to_mirror_images_complex_ones_are_not_and_no_step_of_longitude_counts():
    with jax.enable_x64(True):
        # Layers act on the input's meridians: turns by a step and phi -> -phi map the grids onto themselves.
        config = SpinWeightedNetworkConfig(**SMALL, grid="soft", batch_norm=False)
        model, plan = SpinWeightedNetwork(config), plan_spin_weighted_network(config, dtype=jnp.float64)
        images = np.random.default_rng(2).normal(size=(1, *GRID.shape, 1))
        mirrored, turned = images[:, :, -np.arange(images.shape[2])], np.roll(images, 3, 2)
        images = jnp.asarray(np.concatenate([images, mirrored, turned]))
        apply = compiled(model.apply)
        for real in (True, False):
            straight, mirror, turn = np.asarray(apply(trained_looking(model, plan, images, real=real), plan, images))
            np.testing.assert_allclose(turn, straight, atol=1e-12)  # float64, two layers
            difference = np.abs(mirror - straight).max()
            assert difference < 1e-12 if real else difference > 1e-3


def test_it_learns_to_tell_templates_apart_in_any_orientation():
    with jax.enable_x64(True):
        templates = random_spectra(5, 3)
        labels = np.arange(96) % 3
        matrices = np.asarray(haar_rotations(jax.random.key(0), (96,)))
        noise = random_spectra(6, 96)
        turned = rotate([c[labels] for c in templates], matrices)
        images = draw([c + 0.1 * e for c, e in zip(turned, noise, strict=True)])
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    config = SpinWeightedNetworkConfig(**{**SMALL, "features": (6,), "bandlimits": (L,)})
    model, plan = SpinWeightedNetwork(config), plan_spin_weighted_network(config)
    variables = compiled(model.init)(jax.random.key(1), plan, images[:2])
    optimizer = optax.adam(2e-2)
    train, test = (images[:48], labels[:48]), (images[48:], labels[48:])

    @compiled
    def fit(plan, variables):
        def loss(params, stats):
            logits, state = model.apply(
                {"params": params, "batch_stats": stats}, plan, train[0], train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, train[1]).mean(), state["batch_stats"]

        def step(carry, _):
            params, stats, state = carry
            (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), stats, state), value

        start = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])
        (params, stats, _), losses = jax.lax.scan(step, start, None, 60)
        return (
            {"params": params, "batch_stats": stats},
            losses,
            model.apply({"params": params, "batch_stats": stats}, plan, test[0]),
        )

    fitted, losses, logits = fit(plan, variables)
    assert float(losses[-1]) < 0.2 * float(losses[0])
    assert float(jnp.mean(jnp.argmax(logits, -1) == test[1])) > 0.85  # chance is a third
    moved = fitted["batch_stats"]["norm_0"]["var"] != variables["batch_stats"]["norm_0"]["var"]
    assert bool(moved.all())


def test_defaults_are_those_of_the_program_for_digits():
    config = SpinWeightedNetworkConfig()
    plan = plan_spin_weighted_network(config)
    assert [transform.grid_shape for transform in plan.nonlinearities[0].to_samples] == [(32, 63)] * 2
    images = jnp.zeros((1, 64, 64, 1))
    shapes = jax.eval_shape(SpinWeightedNetwork(config).init, jax.random.key(0), plan, images)["params"]
    kernels = [shapes[f"convolution_{i}"]["kernel"].shape for i in range(6)]
    assert kernels[0] == (2, 6, 1, 2, 1, 16)
    assert kernels[5] == (2, 3, 2, 2, 28, 32)
    # Convolutions 75,904, batch norms and nonlinearities 272 each, the affine layer 650.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 75904 + 2 * 272 + 650


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (3,)}, r"describe the same layers, got lengths \[1, 2\]"),
        ({"features": (), "bandlimits": ()}, "describe the same layers"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
        ({"spins": (0, 4)}, "need a bandlimit above 4"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        SpinWeightedNetworkConfig(**{**SMALL, **changes})


def test_other_images_and_grids_are_refused():
    with without_type_checks(), pytest.raises(ConfigError, match=r"grid must be one of .*, got 'other'"):
        SpinWeightedNetworkConfig(grid="other")
    config = SpinWeightedNetworkConfig(**SMALL)
    plan = plan_spin_weighted_network(config)
    with pytest.raises(InputError, match="takes 1 channels"):
        SpinWeightedNetwork(config).init(jax.random.key(0), plan, jnp.zeros((1, 8, 8, 2)))


def test_a_plan_of_another_network_is_refused():
    config = SpinWeightedNetworkConfig(**SMALL)
    images = jnp.zeros((1, 2 * config.input_bandlimit, 2 * config.input_bandlimit, 1))
    for changes in ({"oversampling": 2.0}, {"bandlimits": (*config.bandlimits, config.bandlimits[-1])}):
        longer = {"features": (*config.features, 2)} if "bandlimits" in changes else {}
        other = dataclasses.replace(config, **changes, **longer)
        with pytest.raises(InputError, match=f"the configured network has {next(iter(changes))}"):
            jax.eval_shape(
                SpinWeightedNetwork(config).init, jax.random.key(0), plan_spin_weighted_network(other), images
            )
