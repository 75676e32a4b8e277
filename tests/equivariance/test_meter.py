"""The meter reads zero for what is equivariant, the right number for what is not, and less with more samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import unchecked, without_type_checks

from jaxgeo.equivariance import meter
from jaxgeo.equivariance.domain_names import resolve
from jaxgeo.equivariance.report import report_equivariance
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations

KEY = jax.random.key(3)


def dense(bandlimit=4):
    domain = resolve("dense", jnp.zeros((bandlimit, 2 * bandlimit - 1, 1), jnp.complex64))
    return domain, meter.drawn(domain, KEY, (2,), 2)


def test_a_filter_over_degrees_is_equivariant():
    domain, values = dense()
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])[:, None, None]
    result = meter.measure(lambda x: weights[None] * x, values, domain, domain, key=KEY, angles_deg=(30, 180))
    assert result.errors.shape == (2, 4)
    assert result.worst < 2e-6  # float32, the bar of linear layers


def test_a_filter_over_orders_is_not():
    domain, values = dense()
    keep = (jnp.arange(-3, 4) >= 0)[None, None, :, None]
    result = meter.measure(lambda x: x * keep, values, domain, "dense", key=KEY, angles_deg=(0.1, 120))
    assert result.errors[1].min() > 0.3
    # To first order the error is the angle times the commutator with the generator.
    assert result.errors[0].max() < 0.02


def test_the_power_of_a_degree_is_invariant_and_one_coefficient_is_not():
    domain, values = dense()
    power = meter.measure(lambda x: jnp.abs(x[:, 2] ** 2).sum(1), values, domain, "invariant", key=KEY, draws=1)
    one = meter.measure(lambda x: jnp.abs(x[:, 2, 3]), values, domain, "invariant", key=KEY, draws=1)
    assert power.worst < 1e-5  # sums of squares in float32
    assert one.worst > 0.1


def test_error_of_a_known_defect_is_its_size():
    # f(x) = x + c e_z-dependent field: f(R x) - R f(x) = c (y - R y) with y the fixed field Y_10.
    domain, values = dense(2)
    field = jnp.zeros_like(values[:1]).at[:, 1, 1].set(1.0)
    size = 0.3
    half_turn = meter.measure(lambda x: 0 * x + size * field, values, domain, domain, key=KEY, angles_deg=(180,))
    pole = meter.rotations_by_angle(KEY, (180,), 4)[..., 2]
    # |Y_10 - R Y_10| / |Y_10| = |e_z - R e_z|: degree 1 turns as a vector.
    expected = jnp.linalg.norm(pole - jnp.array([0.0, 0.0, 1.0])[None, None], axis=-1)
    np.testing.assert_allclose(half_turn.errors, expected, atol=1e-5)


def test_rectifier_falls_with_the_third_power_of_the_oversampling():
    # A white spectrum at L = 8 on the SOFT grid; means over many draws, 10 % between draws.
    factors = (1, 2, 4, 8)
    by_factor = meter.measure_oversampling(jax.nn.relu, 8, factors, key=KEY, angles_deg=(60, 120), draws=1, examples=16)
    errors = np.array([by_factor[factor].mean for factor in factors])
    np.testing.assert_allclose(errors, [0.14, 0.014, 0.0024, 0.00042], rtol=0.3)
    # As reported for a white spectrum without a word on grid, angles and norm, each of which moves the error by tens of
    # per cent: the size and the fall are the same, to a factor of two.
    reported = np.array([1.8e-1, 1.6e-2, 2.3e-3, 5.1e-4])
    assert np.all((errors > reported / 2) & (errors < 2 * reported))


def test_a_square_is_exact_once_its_band_fits():
    # Degrees of a square reach 2 (L - 1): analysis below L is free of aliases from a grid of bandlimit 3 L / 2 - 1 on.
    by_factor = meter.measure_oversampling(
        jnp.square, 3, (1, 2), key=KEY, space="so3", angles_deg=(100,), draws=1, examples=2
    )
    assert by_factor[1].mean > 1e-2
    assert by_factor[2].worst < 1e-5  # float32


def test_what_an_output_hides_outside_of_its_band_is_seen():
    domain = resolve("soft", jnp.zeros((8, 8, 1)))
    values = meter.drawn(domain, KEY, (2,), 1)
    # The grid's fastest wave along a parallel: no signal of degrees below 4 has it.
    wave = jnp.cos(jnp.pi * jnp.arange(8.0))[None, None, :, None]

    def hidden(x):
        return x + 100 * wave * jnp.sum(jnp.abs(x[:, :1, :1]), axis=(1, 2, 3), keepdims=True)

    settings = {"key": KEY, "angles_deg": (70,), "draws": 2}
    found = meter.measure(hidden, values, domain, "soft", **settings)
    assert found.worst < 1e-4  # float32, of numbers that are a hundred times as large
    assert found.out_of_band.min() > 0.9
    honest = meter.measure(lambda x: 2 * x, values, domain, "soft", **settings)
    assert honest.out_of_band.max() < 2e-6


def test_rotations_have_the_angles_asked_for():
    matrices = meter.rotations_by_angle(KEY, (0, 30, 180), 3)
    identity = jnp.broadcast_to(jnp.eye(3), matrices.shape)
    angles = jnp.degrees(rotations.angle_between(identity, matrices))
    np.testing.assert_allclose(angles, np.repeat([[0.0], [30.0], [180.0]], 3, axis=1), atol=1e-3)  # float32 degrees


def test_affine_functions_are_told_from_others():
    x = jax.random.normal(KEY, (5, 3))
    assert meter.is_affine(lambda x: 2 * x[::-1] + 1, x)
    assert meter.is_affine(jnp.zeros_like, x)
    assert not meter.is_affine(jax.nn.relu, x)
    assert not meter.is_affine(jnp.tanh, x)


def test_a_measurement_becomes_plain_numbers():
    result = meter.Measurement(
        np.array([10.0, 20.0]), np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[0.0, 0.5], [0.0, 0.0]])
    )
    assert result.to_dict() == {
        "mean": 1.0,
        "worst": 3.0,
        "angles_deg": [10.0, 20.0],
        "mean_by_angle": [2.0, 0.0],
        "worst_by_angle": [3.0, 0.0],
        "out_of_band": 0.5,
    }
    unknown = meter.Measurement(np.array([10.0]), np.array([[np.nan]]), np.array([[0.5]])).to_dict()
    assert unknown["mean"] is unknown["worst_by_angle"][0] is None
    assert unknown["out_of_band"] == 0.5
    assert unknown["reason"].startswith("1 of 2 errors are not finite")


def test_impossible_measurements_are_refused():
    with pytest.raises(ConfigError, match="at least one angle, got none"):
        meter.rotations_by_angle(KEY, (), 1)
    with pytest.raises(ConfigError, match="each angle, in degrees, must be a finite number, got nan"):
        meter.measure(jnp.abs, jnp.ones(1), "invariant", "invariant", key=KEY, angles_deg=(10.0, np.nan))
    with pytest.raises(ConfigError, match=r"at least 1 on the grid.*, got 0\.5"):
        meter.measure_oversampling(jax.nn.relu, 4, (0.5,), key=KEY)
    with pytest.raises(ConfigError, match="two grids"):
        meter.measure_oversampling(jax.nn.relu, 4, (1,), key=KEY, space="so3", grid="driscoll_healy")


def test_an_output_of_lower_precision_is_measured():
    with jax.enable_x64(True):
        domain = resolve("dense", jnp.ones((3, 5, 1), complex))
        values = meter.drawn(domain, jax.random.key(0))
        found = meter.measure(
            lambda x: 2 * x.astype(jnp.complex64), values, domain, "dense", key=jax.random.key(1), draws=1
        )
    assert 1e-12 < found.worst < 1e-6  # float32 rounding, not float64's


def test_impossible_draws_angles_and_types_are_told_by_name():
    key = jax.random.key(0)
    with without_type_checks():
        with pytest.raises(ConfigError, match=r"draws for each angle must be a whole number .* got 1\.5"):
            meter.rotations_by_angle(key, (45.0,), 1.5)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="each angle, in degrees, must be a finite number, got '4'"):
            meter.rotations_by_angle(key, "45", 1)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="floats of 32 or 64 bits, real or complex, got int32"):
            meter.measure(lambda x: x, jnp.ones((4, 4, 1), jnp.int32), "soft", "soft", key=key)
        with pytest.raises(InputError, match=r"are a tuple, got one array of shape \(4, 4, 1\)"):
            report_equivariance(lambda x: x, jnp.ones((4, 4, 1)), "soft", "soft", key=key)  # pyright: ignore


def test_what_is_not_a_number_does_not_pass_for_equivariant():
    with jax.debug_nans(False):
        error = meter.relative_error(jnp.array([jnp.nan, 1.0]), jnp.ones(2))
    assert np.isnan(error)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_relative_errors_have_no_scale(size):
    # Rounding in float32; squares of the values leave its range.
    np.testing.assert_allclose(meter.relative_error(jnp.full(3, size), jnp.full(3, 2 * size)), 0.5, rtol=1e-6)


def test_an_unknown_grid_is_refused_as_every_configuration():
    # A literal type is checked before the grid's function where types are checked.
    with pytest.raises((ConfigError, TypeError), match="cube"):
        unchecked(meter.measure_oversampling)(jax.nn.relu, 4, (1,), key=KEY, grid="cube")
