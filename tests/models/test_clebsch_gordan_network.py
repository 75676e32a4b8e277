import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_signals import dense_coefficients

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import wigner
from jaxgeo.models.clebsch_gordan_network import (
    ClebschGordanNetwork,
    ClebschGordanNetworkConfig,
    plan_clebsch_gordan_network,
)

CONFIG = ClebschGordanNetworkConfig(num_classes=3, bandlimit=3, features=(4,), hidden=8)
PLAN = plan_clebsch_gordan_network(CONFIG)


def _turn(dense, rotation):
    """Coefficients of the turned signals, by Wigner matrices of NumPy."""
    out, bandlimit = np.zeros_like(dense), dense.shape[1]
    for l in range(bandlimit):
        inner = slice(bandlimit - 1 - l, bandlimit + l)
        matrix = wigner.wigner_D_of_rotations(l, rotation)
        out[:, l, inner] = np.einsum("mn,bnc->bmc", matrix, dense[:, l, inner])
    return out


@pytest.mark.parametrize("pairs", ["channelwise", "full"])
def test_logits_are_invariant_and_layers_equivariant_under_haar_rotations(pairs):
    with jax.enable_x64(True):
        config = ClebschGordanNetworkConfig(num_classes=3, bandlimit=3, features=(3, 2), hidden=8, pairs=pairs)
        model = ClebschGordanNetwork(config)
        plan, dense = plan_clebsch_gordan_network(config, dtype=jnp.float64), dense_coefficients(0, 3, batch=(2,))
        params = {"params": jax.jit(model.init)(jax.random.key(0), plan, dense)["params"]}
        apply = jax.jit(lambda p, x: model.apply(p, plan, x, mutable=["intermediates"]))
        logits, kept = apply(params, dense)
        assert logits.dtype == jnp.float64
        assert float(jnp.std(logits)) > 1e-3  # invariant, but not constant
        for rotation in np.asarray(haar_rotations(jax.random.key(1), (5,))):
            turned_logits, turned = apply(params, _turn(dense, rotation))
            np.testing.assert_allclose(turned_logits, logits, atol=1e-10)
            for before, after in zip(*(k["intermediates"]["fragments"] for k in (kept, turned)), strict=True):
                for l, (x, y) in enumerate(zip(before, after, strict=True)):
                    matrix = wigner.wigner_D_real(l, *wigner.euler_angles(rotation))
                    np.testing.assert_allclose(np.einsum("rs,bsc->brc", matrix, x), y, atol=1e-10)


def test_it_learns_to_tell_templates_apart_in_any_orientation():
    rng = np.random.default_rng(0)
    templates = dense_coefficients(7, 3, batch=(3,))

    def draw(count):
        labels = rng.integers(0, 3, count)
        with jax.enable_x64(True):
            turns = np.asarray(haar_rotations(jax.random.key(int(rng.integers(2**31))), (count,)))
        noise = 0.1 * dense_coefficients(int(rng.integers(2**31)), 3, batch=(count,))
        turned = np.concatenate([_turn(templates[k][None], r) for k, r in zip(labels, turns, strict=True)])
        return jnp.asarray(turned + noise, jnp.complex64), jnp.asarray(labels)

    train, test = draw(48), draw(48)
    model, plan = ClebschGordanNetwork(CONFIG), plan_clebsch_gordan_network(CONFIG)
    params = jax.jit(lambda key: {"params": model.init(key, plan, train[0])["params"]})(jax.random.key(0))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(params):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(p, plan, train[0]), train[1]).mean()

        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), None, 150)
        return params, losses

    params, losses = fit(params)
    assert float(losses[-1]) < 0.2 * float(losses[0])
    found = jnp.argmax(jax.jit(model.apply)(params, plan, test[0]), axis=-1)
    assert float(jnp.mean(found == test[1])) > 0.85  # chance is a third


def test_errors_say_what_would_work():
    with pytest.raises(InputError, match=r"needs coefficients \(..., 3, 5, channel\)"):
        ClebschGordanNetwork(CONFIG).init(jax.random.key(0), PLAN, jnp.zeros((1, 4, 7, 1), jnp.complex64))
    other = plan_clebsch_gordan_network(dataclasses.replace(CONFIG, pairs="full"))
    with pytest.raises(InputError, match="bandlimit 3 and channelwise pairs, got 3 and full"):
        ClebschGordanNetwork(CONFIG).init(jax.random.key(0), other, jnp.zeros((1, 3, 5, 1), jnp.complex64))
    with jax.enable_x64(True), pytest.raises(InputError, match="the plan needs complex64"):
        ClebschGordanNetwork(CONFIG).init(jax.random.key(0), PLAN, jnp.zeros((1, 3, 5, 1), jnp.complex128))
    with pytest.raises(ConfigError, match="hidden must be a whole number of at least 1, got 0"):
        ClebschGordanNetworkConfig(hidden=0)
    with pytest.raises(ConfigError, match="at least one layer"):
        ClebschGordanNetworkConfig(features=())
    with pytest.raises(ConfigError, match='"channelwise" or "full", got'):
        ClebschGordanNetworkConfig(pairs="every")
