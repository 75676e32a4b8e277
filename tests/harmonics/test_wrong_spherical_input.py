"""What the sphere's functions cannot take is refused with one clear error, by the library itself.

The checks of types that the test run adds are switched off here: what is refused, the library refuses by itself.
"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from random_signals import dense_coefficients

from jaxgeo.errors import ConfigError, InputError, check_whole, check_whole_tuple
from jaxgeo.grids import latlon, rotations
from jaxgeo.harmonics import clebsch_gordan, layout, rotation, s2, so3, so3_layout, spectra, wigner
from jaxgeo.harmonics.precision import table_dtype
from jaxgeo.layers import coefficient_product, kernel_points, so3_pooling
from jaxgeo.layers.so3_convolution import SO3Convolution, SO3Shortcut, plan_so3_convolution
from jaxgeo.models.clebsch_gordan_network import ClebschGordanNetworkConfig
from jaxgeo.models.s2cnn import KernelGrid

GRID = latlon.soft_grid(2)
S2 = s2.plan_s2_transform(GRID)
SO3 = so3.plan_so3_transform(2)
TURNS = rotation.plan_rotation(2)
DENSE = jnp.asarray(dense_coefficients(0, 2), jnp.complex64)
WIDE = jnp.asarray(dense_coefficients(0, 3), jnp.complex64)


@pytest.fixture(autouse=True)
def _unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("value", [0, 2.0, True, "3", None, np.float64(1), (1,)])
def test_whole_numbers_are_neither_fractions_nor_truth_values(value):
    for error in (ConfigError, InputError):
        with pytest.raises(error, match="the size must be a whole number of at least 1, got"):
            check_whole("the size", value, error=error)
    with pytest.raises(ConfigError, match="each of sizes must be a whole number"):
        check_whole_tuple("sizes", (1, value))
    with pytest.raises(ConfigError, match="sizes must be a tuple"):
        check_whole_tuple("sizes", [1])
    check_whole("the size", np.int32(1))
    check_whole("the size", -3, None)


CONFIGURATIONS = {
    "a grid of True": (lambda: latlon.soft_grid(True), "whole number of at least 1, got True"),
    "half a longitude": (lambda: latlon.gauss_legendre_grid(4, 9.5), "longitudes must be a whole number .* got 9.5"),
    "a plan of True": (lambda: s2.plan_s2_transform(GRID, True), "bandlimit .* got True"),
    "a plan of half a spin": (lambda: s2.plan_s2_transform(GRID, spin=0.5, real=False), "spin must be a whole number"),
    "a plan without a grid": (lambda: s2.plan_s2_transform(8), "needs a grid, such as .* got 8"),
    "no type": (lambda: table_dtype("foo"), "'foo', which is no type"),
    "a kernel of half a point": (lambda: KernelGrid(num_alpha=1.5), "num_alpha.* whole number of at least 1, got 1.5"),
    "an endless twist": (lambda: KernelGrid(max_gamma=float("inf")), "max_gamma must be a finite number"),
    "half a degree of points": (lambda: kernel_points.s2_full_points(1.5), "bandlimit must be a whole number"),
    "no extent": (lambda: kernel_points.s2_near_identity_points(float("nan")), "finite angle, got nan"),
    "half a degree": (lambda: ClebschGordanNetworkConfig(bandlimit=3.0), "bandlimit must be a whole number.* got 3.0"),
    "a word for a degree": (lambda: ClebschGordanNetworkConfig(bandlimit="3"), "bandlimit must be a whole.* got '3'"),
    "half a channel": (
        lambda: ClebschGordanNetworkConfig(features=(2.5,)),
        "a tuple, each a whole number of at least 1",
    ),
    "a shape that is a number": (lambda: rotations.haar_rotations(jax.random.key(0), 3), "must be a tuple"),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_impossible_sizes_are_refused(name):
    make, message = CONFIGURATIONS[name]
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("layer", [SO3Convolution, SO3Shortcut])
def test_a_layer_without_features_is_refused(layer):
    plan = plan_so3_convolution(None, 2, 2)
    with pytest.raises(ConfigError, match="features must be a whole number of at least 1, got 0"):
        layer(0).init(jax.random.key(0), plan, jnp.zeros((10, 1)))


ARRAYS = {
    "half a spin": (lambda: wigner.spherical_harmonics(1, 0.3, 0.1, spin=0.5), "the spin must be a whole number"),
    "no longitude": (lambda: wigner.spherical_harmonics(1, 0.3, np.nan), "angles must be finite, got 1"),
    "half an order": (lambda: clebsch_gordan.exact_clebsch_gordan(1, 0.5, 1, 0, 1, 0), "an order must be a whole"),
    "coefficients of another bandlimit": (lambda: s2.from_dense(S2, WIDE), "bandlimit 2, got 3"),
    "real coefficients": (lambda: s2.from_dense(S2, DENSE.real), "needs complex64"),
    "native ones of another": (lambda: s2.to_dense(S2, layout.dense_to_native(WIDE)), "native coefficients have axes"),
    "matrices of another": (lambda: so3.from_matrices(SO3, jnp.zeros((3, 5, 5, 1), jnp.complex64)), "here .* 3, 3"),
    "real matrices": (lambda: so3.from_matrices(SO3, jnp.zeros((2, 3, 3, 1))), "needs complex64"),
    "complex packed ones": (lambda: so3.to_matrices(SO3, jnp.zeros((10, 1), jnp.complex64)), "needs float32"),
    "real dense ones": (lambda: layout.dense_to_native(DENSE.real), "must be complex, got float32"),
    "power of reals": (lambda: spectra.power_spectrum(DENSE.real), "must be complex, got float32"),
    "no bandlimit's length": (lambda: so3_pooling.integrate(jnp.zeros((34, 1))), r"got \(34, 1\)"),
    "a vector": (lambda: so3_pooling.integrate(jnp.zeros(35)), r"got \(35,\)"),
    "a packed vector": (lambda: layout.healpy_to_native(jnp.zeros(3, jnp.complex64)), r"got \(3,\)"),
    "a native vector": (lambda: layout.native_to_dense(jnp.zeros(3)), r"got \(3,\)"),
    "half a bandlimit": (lambda: layout.change_bandlimit(jnp.zeros((2, 1, 2, 1, 1)), 2.0), "whole number .* got 2.0"),
    "a list for a signal": (lambda: s2.analysis(S2, [[[0.0]]]), "must be an array, got list"),
    "a list for a spectrum": (lambda: s2.synthesis(S2, [[[0.0]]]), "must be an array, got list"),
    "a list of packed ones": (lambda: so3_layout.split_degrees([[0.0]], 1), "must be an array, got list"),
    "a list of powers": (lambda: spectra.power_spectrum([[[0.0]]]), "must be an array, got list"),
    "a stretched sphere": (lambda: rotation.rotate_coefficients(TURNS, DENSE, 2 * jnp.eye(3)), "R R.T = 1"),
    "a reflection": (lambda: rotation.rotate_coefficients(TURNS, DENSE, -jnp.eye(3)), "a reflection"),
    "four dimensions": (
        lambda: rotation.rotate_coefficients(TURNS, DENSE, jnp.eye(4)),
        r"\(\.\.\., 3, 3\), got \(4, 4",
    ),
    "an axis": (lambda: rotation.rotate_coefficients(TURNS, DENSE, jnp.ones(3)), r"\(\.\.\., 3, 3\), got \(3,"),
    "angles of two shapes": (
        lambda: rotation.rotate_by_euler(TURNS, DENSE, jnp.zeros(2), jnp.zeros(2), 0.0),
        "need one shape",
    ),
    "no quaternion": (lambda: rotations.from_quaternions(jnp.zeros(4)), "quaternions of rotations are .* not zero"),
    "no axis": (lambda: rotations.axis_angle(jnp.zeros(3), jnp.ones(())), "axes of rotations are .* not zero"),
    "a complex signal": (lambda: coefficient_product.real_fragments(1j * DENSE), "are those of real signals"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_impossible_arrays_are_refused(name):
    make, message = ARRAYS[name]
    with pytest.raises(InputError, match=message):
        make()


def test_products_of_rotations_in_single_precision_are_rotations():
    turns = rotations.haar_rotations(jax.random.key(1), (50,))
    product = jnp.linalg.multi_dot(list(turns))
    rotations.check_rotations(product)
    with pytest.raises(InputError, match="orthogonal"):
        rotations.check_rotations(product * 1.0001)


def test_angles_may_be_numbers():
    found = rotation.rotate_by_euler(TURNS, DENSE, 0.3, 1, -0.7)
    expected = rotation.rotate_by_euler(TURNS, DENSE, *(jnp.float32(angle) for angle in (0.3, 1.0, -0.7)))
    np.testing.assert_array_equal(found, expected)


def test_every_number_of_packed_coefficients_is_known():
    lengths = {so3_layout.num_coefficients(L, N) for L in range(1, 9) for N in range(1, L + 1)}
    # Beyond 64 = 8^2 coefficients bandlimits above 8 would come in.
    assert {n for n in range(65) if so3_layout.packed_sizes(n)} == {n for n in lengths if n < 65}
