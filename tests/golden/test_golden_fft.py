"""Transforms on S2 and SO(3) against those of the S2CNN family, forward, inverse and their gradients.

Its spectra are l-major, coefficients first and batch last. Its sphere spectrum is f_lm / sqrt(4 pi (2l + 1)). For more
degrees than the grid has it keeps the orders of the grid (`aliased`); the backward pass that it trains with is then
that of zero padding.
"""

import fnmatch
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import golden_files, group, load, name, relative_l2

from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics import layout, s2, so3
from jaxgeo.harmonics.precision import complex_dtype
from jaxgeo.harmonics.so3_layout import packed_to_matrices

EXACT = 1e-10  # the files' pass marks, relative L2
SINGLE = 2e-6


def cases(pattern):
    """(path, case prefix) of all transforms whose keys match, as test parameters."""
    found = []
    for path in golden_files(pattern):
        prefixes = sorted({key.split("/")[0] + "/" for key in load(path) if fnmatch.fnmatch(key, pattern)})
        found += [pytest.param(path, prefix, id=f"{name(path)}-{prefix[:-1]}") for prefix in prefixes]
    return found


def sizes(arrays, start):
    """Bandlimits b_out of the keys start + b_out."""
    return [int(key.removeprefix(start)) for key in arrays if key.startswith(start) and key[len(start) :].isdigit()]


def l_major(matrices):
    """(coefficient, batch) from (batch, degree, m, n, 1)."""
    bandlimit = matrices.shape[1]
    blocks = []
    for l in range(bandlimit):
        inner = slice(bandlimit - 1 - l, bandlimit + l)
        blocks.append(matrices[:, l, inner, inner, 0].reshape(len(matrices), -1).T)
    return jnp.concatenate(blocks)


def from_l_major(spectrum, bandlimit):
    """The inverse of `l_major`."""
    batch, start, degrees = spectrum.shape[1], 0, []
    for l in range(bandlimit):
        size, margin = 2 * l + 1, bandlimit - 1 - l
        block = spectrum[start : start + size**2].T.reshape(batch, size, size, 1)
        degrees.append(jnp.pad(block, [(0, 0), (margin, margin), (margin, margin), (0, 0)]))
        start += size**2
    return jnp.stack(degrees, 1)


def forward(space, plan, signal):
    """The family's spectrum (coefficient, batch) of real signals (batch, ...)."""
    if space == "so3":
        spectrum = so3.so3_analysis(plan, signal[..., None])
        return l_major(packed_to_matrices(spectrum, plan.bandlimit))
    packed = layout.dense_to_l_major(s2.to_dense(plan, s2.analysis(plan, signal[..., None])))[..., 0].T
    return packed / sphere_norm(plan.bandlimit).astype(signal.dtype)


def inverse(space, plan, spectrum):
    """Complex signals (batch, ...) of the family's spectrum."""
    if space == "so3":
        return so3.so3_synthesis(plan, so3.from_matrices(plan, from_l_major(spectrum, plan.bandlimit)))[..., 0]
    scaled = spectrum * sphere_norm(plan.bandlimit)
    return s2.synthesis(plan, s2.from_dense(plan, layout.l_major_to_dense(scaled.T[..., None])))[..., 0]


def sphere_norm(bandlimit):
    degree, _ = layout.l_major_indices(bandlimit)
    return np.sqrt(4 * np.pi * (2 * degree + 1))[:, None]


def make_plan(space, bandlimit, grid, *, real=True, dtype=np.float64, aliased=True):
    options = {"real": real, "dtype": dtype, "aliased": aliased}
    if space == "so3":
        return so3.plan_so3_transform(bandlimit, grid_bandlimit=grid, **options)
    return s2.plan_s2_transform(soft_grid(grid), bandlimit, **options)


@partial(jax.jit, static_argnums=(0, 1))
def with_gradient(transform, space, plan, x, cotangent):
    """A transform, and the derivative of its inner product with a cotangent by real + i imaginary part."""

    def loss(x):
        y = transform(space, plan, x)
        return jnp.sum(y.real * cotangent.real + y.imag * cotangent.imag), y

    (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(x)
    return y, gradient.conj()  # JAX's gradient by a complex array is the conjugate of the files'


@pytest.mark.parametrize(("path", "prefix"), cases("s2_*/x") + cases("so3_*/x"))
def test_forward_transforms_and_their_gradients(path, prefix):
    arrays = group(load(path), prefix)
    space, x = prefix.split("_")[0], arrays["x"]
    with jax.enable_x64(True):
        for degrees in sizes(arrays, "X_bout"):
            arguments = jnp.asarray(x), jnp.asarray(arrays[f"cot_X_bout{degrees}"])
            plan = make_plan(space, degrees, x.shape[-1] // 2)
            spectrum, gradient = with_gradient(forward, space, plan, *arguments)
            assert relative_l2(spectrum, arrays[f"X_bout{degrees}"]) <= EXACT
            assert relative_l2(gradient, arrays[f"grad_x_bout{degrees}"]) <= EXACT
            upstream = f"grad_x_bout{degrees}_upstream_backward"
            if upstream in arrays:
                padded = make_plan(space, degrees, x.shape[-1] // 2, aliased=False)
                assert relative_l2(with_gradient(forward, space, padded, *arguments)[1], arrays[upstream]) <= EXACT


@pytest.mark.parametrize(("path", "prefix"), cases("s2_*/X_bout*_f32") + cases("so3_*/X_bout*_f32"))
def test_forward_transforms_in_float32(path, prefix):
    arrays = group(load(path), prefix)
    space, x = prefix.split("_")[0], jnp.asarray(arrays["x"].astype(np.float32))
    for degrees in sizes({key.removesuffix("_f32"): 0 for key in arrays if key.endswith("_f32")}, "X_bout"):
        plan = make_plan(space, degrees, x.shape[-1] // 2, dtype=np.float32)
        ours = jax.jit(forward, static_argnums=0)(space, plan, x)
        assert ours.dtype == complex_dtype(np.float32)
        assert relative_l2(ours, arrays[f"X_bout{degrees}_f32"]) <= SINGLE


@pytest.mark.parametrize(("path", "prefix"), cases("s2_*/inv_X*") + cases("so3_*/inv_X*"))
def test_inverse_transforms_and_their_gradients(path, prefix):
    arrays = group(load(path), prefix)
    space = prefix.split("_")[0]
    with jax.enable_x64(True):
        for key in (key for key in arrays if key == "inv_X" or key.startswith("inv_X_bout")):
            suffix = key.removeprefix("inv_X")
            spectrum, signal = jnp.asarray(arrays[key]), arrays[f"inv_y{suffix}"]
            power = 1 / 3 if space == "so3" else 1 / 2
            degrees = round((len(spectrum) * (3 / 4 if space == "so3" else 1)) ** power)
            plan = make_plan(space, degrees, signal.shape[-1] // 2, real=False, aliased=False)
            cotangent = jnp.asarray(arrays[f"inv_cot{suffix}"])
            ours, gradient = with_gradient(inverse, space, plan, spectrum, cotangent)
            assert relative_l2(ours.real, signal) <= EXACT
            if f"inv_ycomplex{suffix}" in arrays:
                assert relative_l2(ours, arrays[f"inv_ycomplex{suffix}"]) <= EXACT
            assert relative_l2(gradient, arrays[f"inv_grad_X{suffix}"]) <= EXACT
