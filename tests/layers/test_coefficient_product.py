import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics import wigner
from jaxgeo.harmonics.real_basis import real_from_complex
from jaxgeo.layers import coefficient_product as cp

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.


def _fragments(seed, bandlimit, channels, dtype=jnp.float64, batch=(2,)):
    keys = jax.random.split(jax.random.key(seed), bandlimit)
    return tuple(jax.random.normal(k, (*batch, 2 * l + 1, channels), dtype) for l, k in enumerate(keys))


def _turn(fragments, angles):
    matrices = [jnp.asarray(wigner.wigner_D_real(l, *angles)) for l in range(len(fragments))]
    return tuple(jnp.einsum("rs,...sc->...rc", d, x) for d, x in zip(matrices, fragments, strict=True))


@pytest.mark.parametrize("pairs", ["channelwise", "full"])
def test_products_commute_with_rotations(pairs):
    with jax.enable_x64(True):
        plan = cp.plan_coefficient_product(4, pairs, dtype=jnp.float64)
        product = jax.jit(lambda x, y: cp.coefficient_product(plan, x, y))
        x, y = _fragments(0, 4, 2), _fragments(1, 4, 2)
        angles = (0.3, 1.9, -2.2)
        found, expected = product(_turn(x, angles), _turn(y, angles)), _turn(product(x, y), angles)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)  # sums of up to 49 terms
        assert [a.shape[-1] for a in found] == [n * (4 if pairs == "full" else 2) for n in (4, 9, 11, 10)]


def test_degree_zero_of_the_product_holds_the_scalar_products_of_the_fragments():
    with jax.enable_x64(True):
        plan = cp.plan_coefficient_product(3, dtype=jnp.float64)
        x, y = _fragments(2, 3, 1), _fragments(3, 3, 1)
        scalars = jax.jit(lambda x, y: cp.coefficient_product(plan, x, y))(x, y)[0][:, 0]
        expected = [
            np.sum(a * b, axis=(-2, -1)) / np.sqrt(2 * l + 1) for l, (a, b) in enumerate(zip(x, y, strict=True))
        ]
        np.testing.assert_allclose(np.abs(scalars.T), np.abs(expected), atol=1e-13)


def test_real_fragments_are_the_coefficients_in_real_harmonics():
    with jax.enable_x64(True):
        g = _fragments(4, 3, 1, batch=())
        dense = np.zeros((3, 5, 1), complex)
        for l, x in enumerate(g):
            dense[l, 2 - l : 3 + l] = real_from_complex(l).T @ np.asarray(x)
        for a, b in zip(cp.real_fragments(jnp.asarray(dense)), g, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-15)
        theta, phi = 0.8, 2.1
        value = sum(
            dense[l, 2 + m, 0] * scipy.special.sph_harm_y(l, m, theta, phi) for l in range(3) for m in range(-l, l + 1)
        )
        assert abs(value.imag) < 1e-14


def test_normalised_fragments_have_unit_mean_square_and_zero_stays_zero():
    with jax.enable_x64(True):
        x = cp.normalize_fragments((*_fragments(5, 2, 7), jnp.zeros((2, 5, 7))))
        for fragment in x[:2]:
            np.testing.assert_allclose(jnp.mean(fragment**2, axis=(-2, -1)), 1, atol=1e-5)  # the epsilon of 1e-6
        assert not x[2].any()
        gradient = jax.jit(jax.grad(lambda z: jnp.sum(cp.normalize_fragments((z,))[0])))(x[2])
        assert np.isfinite(gradient).all()


def test_errors_say_what_would_work():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        cp.plan_coefficient_product(0)
    with pytest.raises(ConfigError, match='"channelwise" or "full", got'):
        cp.plan_coefficient_product(1, "all")
    with pytest.raises(ConfigError, match="float64"):
        cp.plan_coefficient_product(1, dtype=jnp.float64)
    x = (jnp.ones((1, 1)),)
    with pytest.raises(InputError, match="planned for 2 degrees, got signals of 1 and 1"):
        cp.coefficient_product(cp.plan_coefficient_product(2), x, x)
