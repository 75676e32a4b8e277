"""No signals, or none of a signal's channels: transforms give nothing, in the right shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.grids.latlon import latlon_grid
from jaxgeo.harmonics import healpix, layout, rotation, s2, so3, spectra
from jaxgeo.harmonics.linear_map import linear_map

EMPTY = [((0,), 3), ((2, 0), 1), ((), 0), ((2,), 0), ((0,), 0)]


def shape_of(function, *arrays):
    return jax.eval_shape(function, *arrays).shape


@pytest.mark.parametrize(("batch", "channels"), EMPTY)
@pytest.mark.parametrize(("spin", "real"), [(0, True), (0, False), (2, False)])
def test_transforms_on_the_sphere(batch, channels, spin, real):
    plan = s2.plan_s2_transform(latlon_grid("soft", 4), spin=spin, real=real)
    signal = jnp.zeros((*batch, *plan.grid_shape, channels), jnp.float32 if real else jnp.complex64)
    coefficients = s2.analysis(plan, signal)
    assert coefficients.shape == (*batch, *plan.coefficient_shape, channels)
    assert s2.synthesis(plan, coefficients).shape == signal.shape
    back = jax.grad(lambda f: jnp.sum(jnp.abs(s2.analysis(plan, f)) ** 2))(signal)
    assert (back.shape, back.dtype) == (signal.shape, signal.dtype)
    dense = s2.to_dense(plan, coefficients)
    assert dense.shape == (*batch, 4, 7, channels)
    assert s2.from_dense(plan, dense).shape == coefficients.shape


@pytest.mark.parametrize(("batch", "channels"), EMPTY)
@pytest.mark.parametrize("real", [True, False])
def test_transforms_on_the_rotations(batch, channels, real):
    plan = so3.plan_so3_transform(3, real=real)
    signal = jnp.zeros((*batch, *plan.grid_shape, channels), jnp.float32 if real else jnp.complex64)
    spectrum = so3.so3_analysis(plan, signal)
    assert spectrum.shape == (*batch, plan.num_coefficients, channels)
    assert so3.so3_synthesis(plan, spectrum).shape == signal.shape
    matrices = so3.to_matrices(plan, spectrum)
    assert matrices.shape == (*batch, 3, 5, 5, channels)
    assert so3.from_matrices(plan, matrices).shape == spectrum.shape
    assert so3.so3_integral(plan, signal).shape == (*batch, channels)


@pytest.mark.parametrize(("batch", "channels"), EMPTY)
def test_transforms_on_healpix_maps(batch, channels):
    plan = healpix.plan_healpix_transform(2, 4)
    maps = jnp.zeros((*batch, 48, channels))
    coefficients = healpix.healpix_analysis(plan, maps)
    assert coefficients.shape == (*batch, *layout.native_shape(4), channels)
    assert healpix.healpix_synthesis(plan, coefficients).shape == maps.shape


@pytest.mark.parametrize(("batch", "channels"), EMPTY)
def test_what_is_done_with_coefficients(batch, channels):
    dense = jnp.zeros((*batch, 3, 5, channels), jnp.complex64)
    turn = rotation.plan_rotation(3)
    assert shape_of(lambda c: rotation.rotate_coefficients(turn, c, jnp.eye(3)), dense) == dense.shape
    assert shape_of(spectra.power_spectrum, dense) == (*batch, 3, channels)
    triples = spectra.plan_bispectrum(3)
    assert shape_of(lambda c: spectra.bispectrum(triples, c), dense) == (*batch, len(triples.triples), channels)


def test_a_map_of_nothing_is_told_from_one_and_two():
    def doubled(table, x):
        return jnp.concatenate([x, x], -1).reshape(-1, 4, 2 * x.shape[-1]) * table

    def halved(table, y):
        return (y[..., : y.shape[-1] // 2] + y[..., y.shape[-1] // 2 :]) * table

    for shape, expected in (((0, 4, 3), (0, 4, 6)), ((5, 4, 0), (5, 4, 0)), ((0, 4, 0), (0, 4, 0))):
        found = linear_map(doubled, halved, jnp.asarray(2.0), jnp.zeros(shape))
        assert found.shape == expected
    np.testing.assert_array_equal(linear_map(doubled, halved, jnp.asarray(2.0), jnp.ones((1, 4, 1))), 2.0)
