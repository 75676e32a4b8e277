"""Domains: rotations that are a group, keep the norm, and agree between layouts of one signal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.equivariance import domains
from jaxgeo.equivariance.domain_names import resolve
from jaxgeo.equivariance.meter import drawn, is_affine, measure, spectrum_of, turned, values_of
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import latlon, rotations
from jaxgeo.harmonics import healpix, layout, s2, so3_layout, wigner

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of sums of some ten products, signals up to 4.

BATCH = 2
rotate = eqx.filter_jit(lambda domain, values, matrix: domain.rotate(values, matrix))
NATIVE = layout.native_shape(3)
SHAPES = {
    "soft": (6, 6),
    "native": NATIVE,
    "sphere_spectrum": (9,),
    "so3": (4, 4, 4),
    "packed": (so3_layout.num_coefficients(2),),
    "nested": (48,),
}


@pytest.mark.parametrize("name", SHAPES)
def test_rotations_are_unitary_and_invertible_in_every_domain(name):
    domain = resolve(name, jnp.zeros((BATCH, *SHAPES[name], 1)))
    values = drawn(domain, jax.random.key(0), (BATCH,), 3)
    assert values.shape == (BATCH, *SHAPES[name], 3)
    spectrum = spectrum_of(domain, values)
    matrix = rotations.haar_rotations(jax.random.key(1))
    there = turned(domain, spectrum, matrix)
    # float32; iterated quadrature of HEALPix leaves 1e-6.
    np.testing.assert_allclose(jnp.linalg.norm(there), jnp.linalg.norm(spectrum), rtol=1e-6)
    np.testing.assert_allclose(turned(domain, there, matrix.T), spectrum, atol=5e-5)
    np.testing.assert_allclose(values_of(domain, spectrum), values, atol=5e-5)
    if name in ("soft", "native", "sphere_spectrum"):
        assert abs(there - spectrum).max() > 0.1


def test_one_signal_turns_alike_in_all_layouts():
    transform = s2.plan_s2_transform(latlon.soft_grid(4))
    signal = domains.s2_signal(transform)
    values = drawn(signal, jax.random.key(0))
    matrix = rotations.haar_rotations(jax.random.key(1))
    expected = rotate(signal, values, matrix)
    native = resolve("native", s2.analysis(transform, values))
    turned_native = rotate(native, s2.analysis(transform, values), matrix)
    np.testing.assert_allclose(s2.synthesis(transform, turned_native), expected, atol=1e-5)
    dense = s2.to_dense(transform, s2.analysis(transform, values))
    turned_dense = rotate(resolve("dense", dense), dense, matrix)
    np.testing.assert_allclose(s2.synthesis(transform, s2.from_dense(transform, turned_dense)), expected, atol=1e-5)


def test_a_signal_on_so3_turns_with_the_sphere_it_came_from():
    # f(R) = g(R e_z) for g on the sphere has only the order n = 0; both turn alike.
    sphere = resolve("native", jnp.zeros((*layout.native_shape(3), 1)))
    dense = sphere.spectrum(drawn(sphere, jax.random.key(0)))
    sizes = jnp.sqrt(2 * jnp.arange(3.0) + 1)[:, None, None]
    matrix = rotations.haar_rotations(jax.random.key(1))
    group = domains.so3_coefficients(3, dtype=jnp.float32)
    lifted = jnp.zeros((3, 5, 5, 1), dense.dtype).at[:, :, 2].set(dense / sizes)
    np.testing.assert_allclose(
        group.turn(lifted, matrix)[:, :, 2], sphere.turn(dense, matrix) / sizes, atol=1e-6
    )  # float32


def test_complex_signals_have_domains():
    transform = s2.plan_s2_transform(latlon.gauss_legendre_grid(3), real=False)
    domain = resolve("gauss_legendre", jnp.zeros((3, 5, 1), jnp.complex64))
    values = drawn(domain, jax.random.key(0))
    assert values.dtype == jnp.complex64
    native = s2.analysis(transform, values)
    assert resolve("native", native).real is False
    np.testing.assert_allclose(resolve("native", native).spectrum(native), domain.spectrum(values), atol=1e-6)
    dense = drawn(resolve("dense", jnp.zeros((3, 5, 1), jnp.complex64)), jax.random.key(0))
    assert dense.shape == (3, 5, 1)


def test_fragments_of_unequal_width_turn_by_real_wigner_matrices():
    shapes = [(2, 1, 3), (2, 3, 1), (2, 5, 2)]
    values = tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    domain = resolve("fragments", values)
    known = {}
    assert resolve("fragments", values, known) is resolve("fragments", values, known)
    matrix = rotations.haar_rotations(jax.random.key(9))
    angles = wigner.euler_angles(np.asarray(matrix))
    for degree, (x, turned_x) in enumerate(zip(values, rotate(domain, values, matrix), strict=True)):
        expected = np.einsum("mn,bnc->bmc", wigner.wigner_D_real(degree, *angles), x)
        np.testing.assert_allclose(turned_x, expected, atol=5e-6)  # float32


def test_fragments_are_measured_like_arrays():
    values = tuple(jax.random.normal(jax.random.key(degree), (2 * degree + 1, 2)) for degree in range(3))

    def double(fragments):
        return tuple(2.0 * x for x in fragments)

    result = measure(double, values, "fragments", "fragments", key=jax.random.key(0), angles_deg=(100,), draws=1)
    assert result.worst < 1e-6  # float32
    assert is_affine(double, values)
    for others in (values[1:], (jnp.zeros(3),)):
        with pytest.raises(InputError, match="1, 3, 5"):
            resolve("fragments", others)


def test_names_give_the_same_domain_again():
    assert resolve("driscoll_healy", jnp.zeros((8, 8, 1))).transform.has_pole
    # Each is built once where the caller keeps them, and nothing is kept elsewhere.
    known, signal = {}, jnp.zeros((8, 8, 1))
    assert resolve("soft", signal, known) is resolve("soft", signal, known)
    assert resolve("soft", signal) is not resolve("soft", signal)
    invariant = resolve("invariant", jnp.zeros((3, 4)))
    assert resolve(invariant, jnp.zeros(5)) is invariant
    assert invariant.rotate(jnp.ones(2), jnp.eye(3)).shape == (2,)
    assert invariant.draw(jax.random.key(0), (2,), 3).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("soft", (8, 7, 1), jnp.float32),
        ("driscoll_healy", (7, 7, 1), jnp.float32),
        ("gauss_legendre", (4, 6, 1), jnp.float32),
        ("native", (2, 4, 2, 3, 1), jnp.float32),
        ("dense", (3, 5, 1), jnp.float32),
        ("sphere_spectrum", (15, 1), jnp.float32),
        ("so3", (6, 6, 5, 1), jnp.float32),
        ("so3", (6, 6, 8, 1), jnp.float32),
        ("so3", (4, 6, 6, 1), jnp.float32),
        ("packed", (11, 1), jnp.float32),
        ("packed", (25, 1), jnp.float32),  # of bandlimit 3 under a limit of 2, and of 5 under 1
        ("packed", (1,), jnp.float32),
        ("nested", (47, 1), jnp.float32),
    ],
)
def test_arrays_of_another_shape_are_refused(name, shape, dtype):
    needed = "nside" if name == "nested" else r"is none of the domain .* axes are \(\*batch, .*channel\)"
    with pytest.raises(InputError, match=needed):
        resolve(name, jnp.zeros(shape, dtype))


@pytest.mark.parametrize("several", [(jnp.zeros(3), jnp.zeros(2)), {"logits": jnp.zeros(3)}, [1.0, 2.0], None])
def test_results_that_are_not_one_array_are_refused(several):
    with pytest.raises(InputError, match=f"'invariant' holds one array, got {type(several).__name__}; wrap a function"):
        resolve("invariant", several)
    with pytest.raises(InputError, match="'soft' holds one array"):
        measure(lambda x: several, jnp.zeros((4, 4, 1)), "soft", "soft", key=jax.random.key(0), draws=1)
    with pytest.raises(InputError, match="'fragments' holds a tuple of arrays, got float"):
        resolve("fragments", 1.0)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="one of soft, driscoll_healy"):
        resolve("torus", jnp.zeros((8, 8, 1)))


@pytest.mark.parametrize("spin", [1, -2])
def test_the_modulus_of_a_spinning_signal_is_a_scalar(spin):
    # Its square has degrees below 2 L - 1 = 5, which the grids hold.
    def square(values):
        return jnp.abs(values) ** 2

    grid = latlon.gauss_legendre_grid(5)
    source = domains.s2_signal(s2.plan_s2_transform(grid, 3, spin=spin, real=False))
    target = domains.s2_signal(s2.plan_s2_transform(grid, 5))
    values = drawn(source, jax.random.key(0), (2,), 2)
    assert measure(square, values, source, target, key=jax.random.key(1), angles_deg=(40, 130)).worst < 1e-5  # float32
    maps = domains.healpix_map(healpix.plan_healpix_transform(4, 3, spin=spin), 15)
    scalars = domains.healpix_map(healpix.plan_healpix_transform(4, 5), 15)
    values = drawn(maps, jax.random.key(0), (2,), 2)
    assert measure(square, values, maps, scalars, key=jax.random.key(1), angles_deg=(40, 130)).worst < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("so3", (8, 8, 4), (4, 2)),
        ("so3", (4, 8, 8), (4, 4)),
        ("packed", (so3_layout.num_coefficients(4, 2),), (4, 2)),
        ("packed", (16,), (4, 1)),
    ],
)
def test_shapes_say_azimuthal_limits(name, shape, sizes):
    domain = resolve(name, jnp.zeros((*shape, 1)))
    assert (domain.turns.bandlimit, domain.orders) == sizes
    values, matrix = drawn(domain, jax.random.key(0)), rotations.haar_rotations(jax.random.key(1))
    assert values.shape == (*shape, 1)
    np.testing.assert_allclose(rotate(domain, rotate(domain, values, matrix), matrix.T), values, atol=1e-4)  # float32


def test_packed_coefficients_of_the_limit_one_are_sphere_spectra():
    x, matrix = jax.random.normal(jax.random.key(0), (16, 2)), rotations.haar_rotations(jax.random.key(1))
    packed, sphere = (rotate(resolve(name, x), x, matrix) for name in ("packed", "sphere_spectrum"))
    np.testing.assert_allclose(packed, sphere, atol=1e-5)  # float32
