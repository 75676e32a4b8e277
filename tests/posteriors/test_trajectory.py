"""Trajectories: reversible, second order, and with changes of energy that float32 does not lose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.posteriors.trajectory import energy_change, leapfrog, transition

ONES = jnp.ones(3)


def quartic(x):
    return jnp.sum(x**4 / 4 + x**2 / 2)


def run(step_size, steps, position, momentum):
    return leapfrog(
        jax.grad(quartic), position, momentum, jax.grad(quartic)(position), jnp.asarray(step_size),
        jnp.asarray(steps), ONES,
    )  # fmt: skip


def test_a_trajectory_run_backwards_ends_where_it_began():
    position, momentum = jnp.asarray([0.5, -1.0, 0.2]), jnp.asarray([1.0, 0.3, -0.7])
    end, last, _ = run(0.05, 40, position, momentum)
    back, turned, _ = run(0.05, 40, end, -last)
    np.testing.assert_allclose(back, position, atol=1e-5)  # float32, 80 steps
    np.testing.assert_allclose(-turned, momentum, atol=1e-5)


def test_the_energy_error_falls_with_the_square_of_the_step():
    position, momentum = jnp.asarray([0.5, -1.0, 0.2]), jnp.asarray([1.0, 0.3, -0.7])

    def error(step_size, steps):
        end, last, _ = run(step_size, steps, position, momentum)
        return abs(float(energy_change(-quartic(end)[None], -quartic(position)[None], None, (last, momentum), ONES)))

    # The same time in half the steps; higher orders leave the ratio a little off 4.
    assert 3.5 < error(0.1, 10) / error(0.05, 20) < 4.5


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_large_energies_is_known_to_a_hundredth(seed):
    rng = np.random.default_rng(seed)
    dim, examples = 250_000, 50_000
    old, momentum = rng.normal(size=(2, dim)).astype(np.float32)
    new, last = (x + 0.002 * rng.normal(size=dim).astype(np.float32) for x in (old, momentum))
    pieces = -np.abs(rng.normal(size=examples)).astype(np.float32)
    moved = pieces + 0.01 * rng.normal(size=examples).astype(np.float32)

    def energy(position, momentum, pieces, dtype):
        squares = (np.sum(x.astype(dtype) ** 2, dtype=dtype) for x in (position, momentum))
        return sum(dtype(0.5) * square for square in squares) - np.sum(pieces.astype(dtype), dtype=dtype)

    exact, rounded = (
        energy(new, last, moved, dtype) - energy(old, momentum, pieces, dtype) for dtype in (np.float64, np.float32)
    )
    arrays = [jnp.asarray(x) for x in (moved, pieces, new, old, last, momentum)]
    found = energy_change(arrays[0], arrays[1], (arrays[2], arrays[3]), (arrays[4], arrays[5]), jnp.ones(dim))
    assert abs(float(found) - exact) < 0.002
    # What the detour over sums costs: energies of 290,000 nats have a last digit of 0.03.
    assert abs(float(rounded) - exact) < 0.5
    assert abs(float(found) - exact) < max(abs(float(rounded) - exact), 0.002)


def test_what_is_recorded_belongs_to_where_the_chain_is():
    def likelihoods(x):
        return -(x**4) / 4

    def gradient(x):
        return x**3 + x

    position = jnp.asarray([0.5, -1.0, 0.2])
    start = quartic(position) + 7.0
    seen = set()
    for seed in range(40):
        moved, row = transition(
            likelihoods, True, 7.0, gradient, jax.random.key(seed), position, gradient(position), start,
            jnp.asarray(1.1), jnp.asarray(2), ONES,
        )  # fmt: skip
        stayed = bool(jnp.all(moved["position"] == position))
        seen.add(stayed)
        np.testing.assert_allclose(moved["potential_energy"], quartic(moved["position"]) + 7.0, rtol=1e-6)
        np.testing.assert_allclose(moved["gradient"], gradient(moved["position"]), rtol=1e-5, atol=1e-6)
        assert float(row["energy"]) >= float(row["potential_energy"])
        assert 0.0 <= float(row["acceptance"]) <= 1.0
        if float(row["acceptance"]) == 1.0:
            assert not stayed
    assert seen == {True, False}  # steps so long that some are refused


def test_a_trajectory_to_nowhere_is_refused_and_diverges():
    def likelihoods(x):
        return -jnp.exp(50 * x)

    def gradient(x):
        return 50 * jnp.exp(50 * x) + x

    position = jnp.asarray([0.5, 0.5, 0.5])
    with jax.debug_nans(False):
        moved, row = transition(
            likelihoods, True, 0.0, gradient, jax.random.key(0), position, gradient(position), jnp.asarray(0.0),
            jnp.asarray(1.0), jnp.asarray(3), ONES,
        )  # fmt: skip
    np.testing.assert_array_equal(moved["position"], position)
    assert bool(row["diverging"])
    assert float(row["acceptance"]) == 0.0
