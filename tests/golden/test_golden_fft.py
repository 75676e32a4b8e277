"""Transforms on S2 and SO(3) against those of the S2CNN family, forward, inverse and their gradients.

Its spectra are l-major, coefficients first and batch axes last. Its sphere spectrum is f_lm / sqrt(4 pi (2l + 1)). For
more degrees than the grid has it keeps the orders of the grid (`aliased`); the backward pass that it trains with is
then that of zero padding.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import by_precision, compare, compiled, golden_files, groups, inputs, load, name, split, wanted

from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics import layout, s2, so3
from jaxgeo.harmonics.so3_layout import packed_to_matrices

MARKS = {np.float64: 1e-10, np.float32: 2e-6}  # the files' pass marks, relative L2
ROUND_TRIP = "roundtrip_band_err"
FORWARD = re.compile(r"(?P<what>X|grad_x)(_bout(?P<size>\d+))?(?P<upstream>_upstream_backward)?")
INVERSE = re.compile(r"inv_(?P<what>y|ycomplex|grad_X)(_bout(?P<size>\d+))?(?P<upstream>_upstream_backward)?")


def cases():
    """(path, name of the case) of all transforms."""
    paths = [(path, case) for path in golden_files("fft") for case in groups(load(path)[0])]
    return [pytest.param(path, case, id=f"{name(path)}-{case}") for path, case in paths]


def is_input(key):
    return key == "x" or key.startswith(("cot_X", "inv_X", "inv_cot"))


@pytest.mark.parametrize(("path", "case"), cases())
def test_transforms_and_their_gradients_are_those_of_the_original(path, case):
    given, stored = split(groups(load(path)[0])[case], is_input)
    space, _, _ = case.lower().partition("_")
    assert space in ("s2", "so3"), f"{case} is on neither sphere nor rotations; nothing computes {sorted(stored)}"
    for dtype, results in by_precision(stored):
        with jax.enable_x64(dtype == np.float64):
            given_here, ours = inputs(given, dtype), {}
            for key in results:
                if key in ours:
                    continue
                if match := FORWARD.fullmatch(key):
                    ours |= forward_results(space, given_here, match, wanted(results, "grad_.*"))
                if match := INVERSE.fullmatch(key):
                    ours |= inverse_results(space, given_here, match, wanted(results, "inv_grad_.*"))
                if key == ROUND_TRIP:
                    ours[key] = results[key]  # an error of theirs, which ours need not equal
                    assert (
                        max(float(results[key]), round_trip(space, given_here["x"]))
                        <= MARKS[given["x"].real.dtype.type]
                    )
            compare(results, ours, mark=MARKS[dtype])


def forward_results(space, given, match, with_gradient):
    """The key's result and its companion. An `aliased` plan fills degrees above the grid's, the other with zeros."""
    suffix, upstream = f"_bout{match['size']}" if match["size"] else "", match["upstream"] or ""
    x = given["x"]
    grid, axes = x.shape[-1] // 2, {"s2": 2, "so3": 3}[space]
    batch = x.shape[:-axes]
    plan = make_plan(space, int(match["size"] or grid), grid, x.dtype, aliased=not upstream)
    signal, cotangent = x.reshape(-1, *x.shape[-axes:]), given.get(f"cot_X{suffix}")
    if cotangent is None or not with_gradient:
        return {f"X{suffix}": np.reshape(result(forward, space, plan, signal), (-1, *batch))}
    spectrum, gradient = result_and_gradient(forward, space, plan, signal, cotangent.reshape(len(cotangent), -1))
    found = {f"grad_x{suffix}{upstream}": np.reshape(gradient, x.shape)}
    return found if upstream else found | {f"X{suffix}": np.reshape(spectrum, (-1, *batch))}


def inverse_results(space, given, match, with_gradient):
    """Likewise of an inverse transform. Below the bandlimit it leaves degrees out, which the backward pass forgets."""
    suffix, upstream = f"_bout{match['size']}" if match["size"] else "", match["upstream"] or ""
    spectrum = given[f"inv_X{suffix}"]
    batch, num = spectrum.shape[1:], len(spectrum)
    degrees = round(num**0.5) if space == "s2" else round((num * 3 / 4) ** (1 / 3))
    plan = make_plan(space, degrees, int(match["size"] or degrees), spectrum.dtype, aliased=bool(upstream))
    flat, cotangent, found = spectrum.reshape(num, -1), given.get(f"inv_cot{suffix}"), {}
    if cotangent is None or not with_gradient:
        signal = result(inverse, space, plan, flat)
    else:
        cotangent = cotangent.reshape(-1, *cotangent.shape[len(batch) :])
        signal, gradient = result_and_gradient(inverse, space, plan, flat, cotangent)
        found[f"inv_grad_X{suffix}{upstream}"] = np.reshape(gradient, spectrum.shape)
    signal = np.reshape(signal, (*batch, *signal.shape[1:]))
    return found if upstream else found | {f"inv_ycomplex{suffix}": signal, f"inv_y{suffix}": signal.real}


def round_trip(space, x):
    """Relative error of the first signal, which is band-limited, after both transforms."""
    grid, axes = x.shape[-1] // 2, {"s2": 2, "so3": 3}[space]
    first = jnp.asarray(x.reshape(-1, *x.shape[-axes:])[:1])

    @compiled
    def there_and_back(x):
        return inverse(space, back, forward(space, plan, x))

    plan, back = make_plan(space, grid, grid, x.dtype), make_plan(space, grid, grid, np.result_type(x, 1j))
    return float(jnp.linalg.norm(there_and_back(first) - first) / jnp.linalg.norm(first))


def make_plan(space, bandlimit, grid, dtype, *, aliased=False):
    options = {"real": dtype.kind == "f", "dtype": np.zeros((), dtype).real.dtype, "aliased": aliased}
    if space == "so3":
        return so3.plan_so3_transform(bandlimit, grid_bandlimit=grid, **options)
    return s2.plan_s2_transform(soft_grid(grid), bandlimit, **options)


@partial(compiled, static_argnums=(0, 1))
def result(transform, space, plan, x):
    """A transform alone."""
    return transform(space, plan, x)


@partial(compiled, static_argnums=(0, 1))
def result_and_gradient(transform, space, plan, x, cotangent):
    """A transform, and the derivative of its inner product with a cotangent by real + i imaginary part."""

    def loss(x):
        y = transform(space, plan, x)
        return jnp.sum(y.real * cotangent.real + y.imag * cotangent.imag), y

    (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(x)
    return y, gradient.conj()  # JAX's gradient by a complex array is the conjugate of the files'


def forward(space, plan, signal):
    """The family's spectrum (coefficient, batch) of signals (batch, ...)."""
    if space == "so3":
        spectrum = so3.so3_analysis(plan, signal[..., None])
        return l_major(packed_to_matrices(spectrum, plan.bandlimit))
    packed = layout.dense_to_l_major(s2.to_dense(plan, s2.analysis(plan, signal[..., None])))[..., 0].T
    return packed / sphere_norm(plan.bandlimit).astype(plan.dtype)


def inverse(space, plan, spectrum):
    """Complex signals (batch, ...) of the family's spectrum."""
    if space == "so3":
        return so3.so3_synthesis(plan, so3.from_matrices(plan, from_l_major(spectrum, plan.bandlimit)))[..., 0]
    scaled = spectrum * sphere_norm(plan.bandlimit).astype(plan.dtype)
    return s2.synthesis(plan, s2.from_dense(plan, layout.l_major_to_dense(scaled.T[..., None])))[..., 0]


def sphere_norm(bandlimit):
    degree, _ = layout.l_major_indices(bandlimit)
    return np.sqrt(4 * np.pi * (2 * degree + 1))[:, None]


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
