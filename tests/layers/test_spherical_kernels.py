"""Spectra of kernels on SO(3) against sums of Wigner matrices, and their adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.harmonics.convolution import kernel_sizes
from jaxgeo.harmonics.wigner import wigner_D_real
from jaxgeo.layers.spherical_kernels import RINGS, plan_so3_kernel, spectrum

EXACT = 1e-13  # of the norm: float64 sums of some ten terms, and Wigner functions to 1e-14


def points_on_rings(counts: list[int], seed: int) -> np.ndarray:
    """So many points for each ring, in random order."""
    generator = np.random.default_rng(seed)
    beta = np.repeat(generator.uniform(0, np.pi, len(counts)), counts)
    points = np.stack([beta, *generator.uniform(-7, 7, (2, len(beta)))], 1)
    return generator.permutation(points)


@settings(max_examples=12)  # each compiles its own programs
@given(
    bandlimit=st.integers(1, 6),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=2 * RINGS + 1),
    cut=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_spectrum_sums_wigner_matrices_over_the_points(bandlimit, counts, cut, seed):
    orders = max(1, bandlimit - cut)
    points = points_on_rings(counts, seed)
    kernel = np.random.default_rng(seed).normal(size=(len(points), 2, 3))
    with jax.enable_x64(True):
        found = np.asarray(
            spectrum(plan_so3_kernel(points, bandlimit, orders=orders, dtype=jnp.float64), jnp.asarray(kernel))
        )
    expected = []
    for l in range(bandlimit):
        edge = l - min(l, orders - 1)
        matrices = wigner_D_real(l, points[:, 1], points[:, 0], points[:, 2])
        inner = matrices[:, edge : 2 * l + 1 - edge, edge : 2 * l + 1 - edge]
        expected.append(np.einsum("pio,pnk->nkio", kernel, inner).reshape(-1, 2, 3))
    assert [len(y) for y in expected] == kernel_sizes(bandlimit, orders)
    expected = np.concatenate(expected)
    assert np.linalg.norm(found - expected) <= EXACT * np.linalg.norm(expected)


@pytest.mark.parametrize("rings", [1, RINGS, RINGS + 1])
@pytest.mark.parametrize("orders", [None, 3])
def test_gradient_is_the_adjoint_for_members_too(rings, orders):
    points = points_on_rings([3] * rings, rings)
    with jax.enable_x64(True):
        plan = plan_so3_kernel(points, 5, orders=orders, dtype=jnp.float64)
        kernels, other = jax.random.normal(jax.random.key(0), (2, 4, len(points), 2, 1), jnp.float64)
        found, transpose = jax.vjp(jax.vmap(lambda k: spectrum(plan, k)), kernels)
        direction = jax.random.normal(jax.random.key(1), found.shape, jnp.float64)
        left, right = jnp.sum(found * direction), jnp.sum(kernels * transpose(direction)[0])
        assert abs(left - right) <= EXACT * jnp.linalg.norm(found) * jnp.linalg.norm(direction)
        # Linear: the directional derivative is the spectrum of the direction.
        _, tangent = jax.jvp(lambda k: spectrum(plan, k), (kernels[0],), (other[0],))
        np.testing.assert_array_equal(tangent, spectrum(plan, other[0]))
