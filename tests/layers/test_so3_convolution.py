import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from s2cnn_by_definition import (
    s2_convolution,
    s2_kernel,
    so3_convolution,
    so3_kernel,
    sum_orders,
    wigner,
)
from unchecked import unchecked

from jaxgeo.equivariance import domains, meter
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import convolution, layout, so3_layout
from jaxgeo.harmonics.wigner import euler_angles
from jaxgeo.layers import kernel_points, spherical_kernels
from jaxgeo.layers import so3_convolution as layers
from jaxgeo.models.s2cnn import KernelGrid

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

# Each program runs a few times only: time to compile counts more than speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

L, CHANNELS, FEATURES = 4, 2, 3
SPHERE_POINTS = kernel_points.s2_near_identity_points(0.5, num_alpha=3, num_beta=2)
# Rings of different sizes, and a point beyond the equator.
POINTS = np.concatenate(
    [
        kernel_points.so3_near_identity_points(0.6, num_alpha=3, num_beta=2, num_gamma=2),
        kernel_points.IDENTITY,
        [[2.5, 0.3, -1.0]],
    ]
)


def sphere_to_dense(native):
    """The family's spectrum, a list over l of [m, channel], of native coefficients."""
    dense = np.asarray(layout.native_to_dense(native))
    return [dense[l, L - 1 - l : L + l] / np.sqrt(4 * np.pi * (2 * l + 1)) for l in range(L)]


def group_to_dense(packed):
    dense = np.asarray(so3_layout.packed_to_matrices(packed, L))
    return [dense[l, L - 1 - l : L + l, L - 1 - l : L + l] for l in range(L)]


def random_sphere(seed, dtype=jnp.float64):
    """Coefficients of a real signal: the real basis has no constraints."""
    return convolution.sphere_coefficients(jax.random.normal(jax.random.key(seed), (L**2, CHANNELS), dtype))


def random_group(seed, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), (so3_layout.num_coefficients(L), CHANNELS), dtype)


def kernel_of(params, gain, fan_in):
    kernel = np.moveaxis(np.asarray(params["params"]["kernel"]), 0, -1)
    return kernel * gain / np.sqrt(kernel.shape[-1] * fan_in)


def compare(found, expected, bias):
    for l, (block, reference) in enumerate(zip(found, expected, strict=True)):
        shift = np.zeros_like(reference)
        if l == 0:
            shift[...] = bias
        # float64: sums over tens of points and orders of numbers of order one.
        np.testing.assert_allclose(block, reference + shift, atol=1e-13)


CASES = {
    "s2": (layers.S2Convolution, layers.plan_s2_convolution, SPHERE_POINTS, random_sphere),
    "so3": (layers.SO3Convolution, layers.plan_so3_convolution, POINTS, random_group),
    "to_s2": (layers.SO3ToS2, layers.plan_so3_to_s2, POINTS, random_group),
}


def with_bias(variables):
    bias = jnp.arange(1.0, FEATURES + 1, dtype=variables["params"]["kernel"].dtype)
    return {"params": {**variables["params"], "bias": bias}}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mode", ["correct", "faithful"])
def test_convolutions_are_their_definition(kind, mode):
    module, make_plan, points, draw = CASES[kind]
    with jax.enable_x64(True):
        plan, layer, x = make_plan(points, 6, L, mode=mode, dtype=jnp.float64), module(FEATURES), draw(0)
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plan, x))
        z = compiled(layer.apply)(variables, plan, x)
        gain = 2 * 6 / L if kind == "s2" else (6 / L) ** 1.5
        kernel = kernel_of(variables, gain, CHANNELS)
        bias = np.asarray(variables["params"]["bias"])
        if kind == "s2":
            compare(group_to_dense(z), s2_convolution(sphere_to_dense(x), s2_kernel(kernel, points, L, 1.0)), bias)
            return
        whole = so3_convolution(group_to_dense(x), so3_kernel(kernel, points, L))
        if kind == "so3":
            compare(group_to_dense(z), whole, bias)
            return
        if mode == "correct":
            whole = [block * np.where(np.arange(-l, l + 1) % 2, 1j, 1)[None, :, None] for l, block in enumerate(whole)]
            expected = sum_orders(whole)
        else:
            # What is left of the sum of all orders when the imaginary part of the signal is dropped.
            summed = sum_orders(whole)
            signs = [(-1.0) ** np.arange(-l, l + 1)[:, None] for l in range(L)]
            expected = [(s + sign * s[::-1].conj()) / 2 for s, sign in zip(summed, signs, strict=True)]
        compare(sphere_to_dense(z), expected, bias)


def rotate(spectrum, matrix):
    """The rotated signal's spectrum, in the family's complex matrices."""
    angles = [float(angle) for angle in euler_angles(np.asarray(matrix))]
    return [np.einsum("mk,k...->m...", wigner(l, *angles), block) for l, block in enumerate(spectrum)]


def to_layer_input(kind, spectrum, dtype):
    if kind == "s2":
        dense = np.zeros((L, 2 * L - 1, CHANNELS), complex)
        for l, block in enumerate(spectrum):
            dense[l, L - 1 - l : L + l] = block * np.sqrt(4 * np.pi * (2 * l + 1))
        return layout.dense_to_native(jnp.asarray(dense)).astype(dtype)
    dense = np.zeros((L, 2 * L - 1, 2 * L - 1, CHANNELS), complex)
    for l, block in enumerate(spectrum):
        dense[l, L - 1 - l : L + l, L - 1 - l : L + l] = block
    return so3_layout.matrices_to_packed(jnp.asarray(dense)).astype(dtype)


# float64: a hundred roundings; float32: the bar of the linear layers.
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-6)])
@pytest.mark.parametrize("kind", CASES)
def test_linear_layers_commute_with_haar_random_rotations(kind, dtype, tolerance):
    module, make_plan, points, draw = CASES[kind]
    read_in = sphere_to_dense if kind == "s2" else group_to_dense
    read_out = sphere_to_dense if kind == "to_s2" else group_to_dense
    with jax.enable_x64(True):
        plan, layer, x = make_plan(points, L, L, dtype=dtype), module(FEATURES), draw(2, dtype)
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plan, x))
        apply = compiled(layer.apply)
        output = apply(variables, plan, x)
        assert output.dtype == dtype
        straight = read_out(output)
        for matrix in haar_rotations(jax.random.key(3), (4,)):
            turned = read_out(apply(variables, plan, to_layer_input(kind, rotate(read_in(x), matrix), dtype)))
            expected = rotate(straight, matrix)
            error = sum(np.linalg.norm(a - b) ** 2 for a, b in zip(turned, expected, strict=True)) ** 0.5
            assert error <= tolerance * sum(np.linalg.norm(b) ** 2 for b in expected) ** 0.5


def test_the_azimuthal_limit_leaves_the_inner_orders_as_they_are():
    orders = 2
    _, row, column = so3_layout.packed_indices(L, L)
    inside = np.abs(column) < orders
    with jax.enable_x64(True):
        kernel = jax.random.normal(jax.random.key(0), (len(POINTS), CHANNELS, FEATURES), jnp.float64)
        plans = [spherical_kernels.plan_so3_kernel(POINTS, L, orders=n, dtype=jnp.float64) for n in (None, orders)]
        whole, limited = (np.asarray(spherical_kernels.spectrum(plan, kernel)) for plan in plans)
        np.testing.assert_allclose(limited, whole[inside & (np.abs(row) < orders)], atol=1e-13)
        x = np.asarray(random_group(1))
        # An input without outer orders gives an output without, whose inner orders see inner ones only.
        plans = [layers.plan_so3_convolution(POINTS, L, L, orders=n, dtype=jnp.float64) for n in (None, orders)]
        layer = layers.SO3Convolution(FEATURES)
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plans[0], jnp.asarray(x)))
        unlimited = compiled(layer.apply)(variables, plans[0], jnp.asarray(np.where(inside[:, None], x, 0)))
        found = compiled(layer.apply)(variables, plans[1], jnp.asarray(x[inside]))
        np.testing.assert_allclose(found, np.asarray(unlimited)[inside], atol=1e-13)
        # From the sphere the limit cuts the output.
        plans = [layers.plan_s2_convolution(SPHERE_POINTS, L, L, orders=n, dtype=jnp.float64) for n in (None, orders)]
        layer, x = layers.S2Convolution(FEATURES), random_sphere(1)
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plans[0], x))
        expected = np.asarray(compiled(layer.apply)(variables, plans[0], x))[inside]
        np.testing.assert_allclose(compiled(layer.apply)(variables, plans[1], x), expected, atol=1e-13)
        # To the sphere: the product that is written down for spectra at hand.
        plan = layers.plan_so3_to_s2(POINTS, L, L, orders=orders, dtype=jnp.float64)
        layer, x = layers.SO3ToS2(FEATURES), random_group(2)[inside]
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plan, x))
        kernel = variables["params"]["kernel"] / np.sqrt(len(POINTS) * CHANNELS)
        spectrum = spherical_kernels.spectrum(
            spherical_kernels.plan_so3_kernel(POINTS, L, orders=orders, dtype=jnp.float64), kernel
        )
        summed = convolution.convolve_to_sphere(x, spectrum, L, orders=orders)
        expected = convolution.sphere_coefficients(layers.add_constant(summed, variables["params"]["bias"]))
        np.testing.assert_allclose(compiled(layer.apply)(variables, plan, x), expected, atol=1e-13)


VARIANTS = {
    "equatorial": (KernelGrid(6, 2, 2, 0.4, kind="equatorial"), None),
    "full, azimuthal limit": (KernelGrid(kind="full"), 2),
    "learned spectra": (None, None),
    "learned spectra, azimuthal limit": (None, 3),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_kernel_commutes_with_rotations(kind, variant):
    grid, orders = VARIANTS[variant]
    module, make_plan, _, _ = CASES[kind]
    points = None
    if grid is not None:
        points = grid.s2_points(0.1, 3) if kind == "s2" else grid.so3_points(0.1, 3)
    with jax.enable_x64(True):
        plan, layer = make_plan(points, 3, 3, orders=orders, dtype=jnp.float64), module(FEATURES)
        group = domains.so3_coefficients(3, orders, dtype=jnp.float64)
        sphere = domains.sphere_coefficients(3, "native", dtype=jnp.float64)
        source, target = (sphere if kind == "s2" else group), (sphere if kind == "to_s2" else group)
        x = meter.drawn(source, jax.random.key(0), (), CHANNELS)
        variables = with_bias(compiled(layer.init)(jax.random.key(1), plan, x))
        apply = functools.partial(layer.apply, variables, plan)
        result = meter.measure(apply, x, source, target, key=jax.random.key(2), angles_deg=(100,), draws=1)
    assert result.worst < 1e-12  # float64: sums over hundreds of orders and points


@pytest.mark.parametrize("kind", CASES)
def test_cached_spectra_and_learned_spectra(kind):
    module, make_plan, points, draw = CASES[kind]
    layer, x = module(FEATURES), draw(4, jnp.float32)
    for chosen in (points, None):
        plan = make_plan(chosen, L, L)
        variables = compiled(layer.init)(jax.random.key(5), plan, x)
        assert set(variables) == {"params"}
        z, spectra = layer.apply(variables, plan, x, mutable=["spectra"])
        # Without the kernel, so that nothing can be computed from it.
        bias_only = {"params": {"bias": variables["params"]["bias"]}, **spectra}
        np.testing.assert_allclose(layer.apply(bias_only, plan, x), z, rtol=1e-6, atol=1e-6)


def test_learned_spectra_keep_the_variance_of_a_signal():
    wide = 64
    degree = so3_layout.packed_indices(L, L)[0]
    white = jax.random.normal(jax.random.key(0), (len(degree), wide))
    layer, plan = layers.SO3Convolution(wide), layers.plan_so3_convolution(None, L, L)
    z = layer.apply(layer.init(jax.random.key(1), plan, white), plan, white)
    weight = (2 * degree + 1)[:, None]
    ratio = (weight * z[:, :] ** 2).sum() / (weight * white**2).sum()
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)  # thousands of draws


def test_a_shortcut_is_a_convolution_with_one_point_at_the_identity():
    x = random_group(0, jnp.float32)
    shortcut, plan = layers.SO3Shortcut(FEATURES), layers.plan_so3_shortcut(L, 6)
    variables = shortcut.init(jax.random.key(1), plan, x)
    whole = layers.SO3Convolution(FEATURES)
    whole_plan = layers.plan_so3_convolution(kernel_points.IDENTITY, L, 6)
    kernel = variables["params"]["kernel"][None]
    expected = whole.apply({"params": {**variables["params"], "kernel": kernel}}, whole_plan, x)
    np.testing.assert_allclose(shortcut.apply(variables, plan, x), expected, atol=1e-6)  # float32


def test_raising_the_bandlimit_adds_no_degrees_in_correct_mode_only():
    assert layers.plan_so3_convolution(POINTS, 3, 5).bandlimit == 3
    assert layers.plan_so3_convolution(POINTS, 3, 5, mode="faithful").bandlimit == 5
    assert layers.plan_so3_to_s2(POINTS, 5, 3).bandlimit == 3
    with pytest.raises(ConfigError, match="cannot raise the bandlimit"):
        layers.plan_s2_convolution(SPHERE_POINTS, 3, 5, mode="faithful")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((POINTS, 0, 3), "at least 1"),
        ((POINTS[:, :2], 3, 3), "3 finite angles"),
        ((POINTS[:0], 3, 3), "at least one row"),
        ((POINTS * np.nan, 3, 3), "finite"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        layers.plan_so3_convolution(*arguments)


def test_a_signal_that_was_not_analysed_at_the_bandlimit_of_the_plan_is_refused():
    plan = layers.plan_s2_convolution(SPHERE_POINTS, 5, 3)
    coefficients = jnp.zeros((2, *layout.native_shape(5), CHANNELS))
    with pytest.raises(InputError, match=r"bandlimit 3, the smaller one .* of bandlimit 5; .* bandlimit=3"):
        layers.S2Convolution(FEATURES).init(jax.random.key(0), plan, coefficients)


def test_projection_kernels_are_the_sum_of_rows_of_the_whole_kernel():
    with jax.enable_x64(True):
        kernel = jax.random.normal(jax.random.key(0), (len(POINTS), CHANNELS, FEATURES), jnp.float64)
        whole = spherical_kernels.spectrum(spherical_kernels.plan_so3_kernel(POINTS, L, dtype=jnp.float64), kernel)
        for mode in ("correct", "faithful"):
            plan = spherical_kernels.plan_projection_kernel(POINTS, L, even_only=mode == "faithful", dtype=jnp.float64)
            x = random_group(1)
            expected = convolution.convolve_to_sphere(x, whole, L, mode=mode)
            vectors = jax.lax.split(spherical_kernels.spectrum(plan, kernel), [2 * l + 1 for l in range(L)], 0)
            products = zip(so3_layout.split_degrees(x, L), vectors, strict=True)
            found = jnp.concatenate([jnp.einsum("mki,kio->mo", x_l, y_l) for x_l, y_l in products])
            np.testing.assert_allclose(found, expected, atol=1e-12)  # float64 sums over 14 points and 49 orders


@pytest.mark.parametrize(
    "make_plan",
    [layers.plan_s2_convolution, layers.plan_so3_convolution, layers.plan_so3_to_s2],
)
def test_plans_refuse_an_unknown_mode(make_plan):
    with pytest.raises(ConfigError, match="one of correct, faithful, got 'Faithful'"):
        unchecked(make_plan)(None, 3, 3, mode="Faithful")
    with pytest.raises(ConfigError, match=r"whole number of at least 1, got 2\.5"):
        unchecked(make_plan)(None, 2.5, 3)
    with pytest.raises(ConfigError, match="the azimuthal limit"):
        make_plan(None, 3, 3, orders=0)


def test_a_plan_of_a_shortcut_refuses_an_unknown_mode():
    with pytest.raises(ConfigError, match="one of correct, faithful, got 'other'"):
        unchecked(layers.plan_so3_shortcut)(3, 3, mode="other")


@pytest.mark.parametrize("kind", CASES)
def test_kept_spectra_cannot_be_trained(kind):
    module, make_plan, points, draw = CASES[kind]
    layer, x, plan = module(FEATURES), draw(4, jnp.float32), make_plan(points, L, L)
    variables = layer.init(jax.random.key(5), plan, x)
    _, spectra = layer.apply(variables, plan, x, mutable=["spectra"])

    def total(params, x):
        return layer.apply({"params": params, **spectra}, plan, x).sum()

    # Derivatives by the signal do not need the kernel.
    by_signal = jax.grad(total, 1)(variables["params"], x)
    expected = jax.grad(lambda x: layer.apply(variables, plan, x).sum())(x)
    np.testing.assert_allclose(by_signal, expected, atol=1e-5)  # float32
    for differentiated in (jax.grad(total), jax.jit(jax.grad(jax.jit(total)))):
        with pytest.raises(InputError, match="train without this collection"):
            differentiated(variables["params"], x)
