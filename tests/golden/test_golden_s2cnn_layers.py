"""Single S2CNN layers with stored kernels: outputs, gradients, spectra, both backward passes; rotation, integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    by_precision,
    compare,
    compare_entries,
    compiled,
    golden_files,
    gradient_statistics,
    group,
    groups,
    inputs,
    load,
    name,
    split,
    wanted,
)

from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics import convolution, layout, rotation, so3, so3_layout
from jaxgeo.harmonics.s2 import analysis, plan_s2_transform, synthesis
from jaxgeo.layers import kernel_points, so3_convolution, so3_nonlinearity, spherical_kernels

MARKS = {np.float64: 1e-10, np.float32: 2e-6}  # the files' pass marks, relative L2
UPSTREAM = "_upstream_backward"
LAYERS = ("s2conv", "so3conv", "so3shortcut", "so3tos2")
INPUTS = ("input", "cotangent", "alpha_beta_gamma")


def cases():
    """(path, configuration of a layer) of all layers; without a description it has no kind, which the test refuses."""
    found = []
    for path in golden_files("layers"):
        arrays, config = load(path)
        described = {case["key"]: case for case in config.get("cases", ())}
        ids = {key: f"{name(path)}-{key}" for key in groups(arrays)}
        found += [pytest.param(path, described.get(key, {"key": key}), id=ids[key]) for key in ids]
    return found


@pytest.mark.parametrize(("path", "case"), cases())
def test_layer_and_its_gradients_are_those_of_the_original(path, case):
    arrays = group(load(path)[0], f"{case['key']}/")
    given, stored = split(arrays, lambda key: key in INPUTS or key.startswith("weights/"))
    compute = {"so3_integrate": integral, "so3_rotation": rotated}.get(case.get("kind"), layer)
    if compute is layer:
        assert case.get("kind") in LAYERS, f"no test knows the layer {case}; nothing computes {sorted(stored)}"
        result = given.get("cotangent", stored.get("output", given["input"]))
        case = {"b_in": given["input"].shape[-1] // 2, "b_out": result.shape[-1] // 2} | case
        stored = check_points(case, given, stored)
    for dtype, results in by_precision(stored):
        with jax.enable_x64(dtype == np.float64):
            compare(results, compute(case, inputs(given, dtype), results, dtype), mark=MARKS[dtype])


def check_points(case, given, stored):
    """Moves the kernel's points to the inputs, after a comparison with the grid that the configuration states."""
    if case["kind"] == "so3shortcut":
        given["kernel_points"] = kernel_points.IDENTITY
        return stored
    settings = {key: float(case[key]) for key in ("max_beta", "max_gamma") if key in case}
    settings |= {f"num_{angle}": case[f"n_{angle}"] for angle in ("alpha", "beta", "gamma") if f"n_{angle}" in case}
    near_identity = getattr(kernel_points, f"{'s2' if case['kind'] == 's2conv' else 'so3'}_near_identity_points")
    points = stored.get("kernel_points")
    if "max_beta" in settings and (points is None or np.isclose(points[:, 0].max(), settings["max_beta"])):
        expected = near_identity(**settings)
        if points is not None and points.shape == expected.shape:
            compare_entries({"kernel_points": points}, {"kernel_points": expected}, atol=1e-14)
        points = expected if points is None else points
    assert points is not None, f"neither points nor a grid are stated for the kernel of {case}"
    given["kernel_points"] = np.asarray(points, np.float64)
    return {key: value for key, value in stored.items() if key != "kernel_points"}


def layer(case, given, stored, dtype):
    """All results of a convolution or shortcut."""
    params, plan, apply = layer_of(case, given, dtype)
    signal, cotangent = given["input"], given.get("cotangent")
    if cotangent is None or not wanted(stored, "grad.*"):
        ours = {"output": compiled(apply)(params, signal)}
    else:
        ours = results(apply, params, signal, cotangent)
    if wanted(stored, f".*{UPSTREAM}.*"):
        _, _, apply = layer_of(case, given, dtype, upstream_backward=True)
        alike = results(apply, params, signal, cotangent)
        ours[f"grad_input{UPSTREAM}"] = alike["grad_input"]
        ours |= {f"grads{UPSTREAM}/{key}": value for key, value in group(alike, "grads/").items()}
    if params and wanted(stored, "scaling|kernel_spectrum"):
        ours["scaling"] = np.asarray(scaling(case, plan, given))
    if "kernel_spectrum" in stored:
        ours["kernel_spectrum"] = kernel_spectrum(case, plan, given, ours["scaling"], dtype)
    return ours


def results(apply, params, signal, cotangent):
    """The output and all derivatives, in the files' layout."""

    @compiled
    def output_and_gradients(params, signal, cotangent):
        output, pull = jax.vjp(apply, params, signal)
        return output, pull(cotangent)

    output, (of_params, of_signal) = output_and_gradients(params, signal, cotangent)
    ours = {"output": output, "grad_input": of_signal}
    ours |= {f"grads/{key}": value for key, value in of_params.items()}
    ours |= {f"gradstat/{key}": gradient_statistics(np.asarray(value)) for key, value in of_params.items()}
    return ours


def layer_of(case, given, dtype, *, upstream_backward=False):
    """Parameters in the files' layout, the layer's plan, and the map from parameters and signals to signals."""
    kind, b_in, b_out = case["kind"], case["b_in"], case["b_out"]
    points, weights = given["kernel_points"].astype(np.float64), group(given, "weights/")
    options = {"mode": "faithful", "dtype": dtype}
    if kind == "so3shortcut" and not weights:
        return {}, None, lambda params, signal: signal
    features = kernel_of(weights).shape[1]
    if kind == "s2conv":
        plan = so3_convolution.plan_s2_convolution(points, b_in, b_out, **options)
        module, before = so3_convolution.S2Convolution(features), plan_s2_transform(soft_grid(b_in), b_out, dtype=dtype)
        to_coefficients = analysis
    else:
        before = so3_nonlinearity.plan_so3_nonlinearity(
            min(b_in, b_out), b_out, grid_bandlimit=b_in, aliased=True, upstream_backward=upstream_backward, dtype=dtype
        )
        to_coefficients = so3_nonlinearity.coefficients
    if kind == "so3conv":
        plan = so3_convolution.plan_so3_convolution(points, b_in, b_out, **options)
        module = so3_convolution.SO3Convolution(features)
    if kind == "so3shortcut":
        plan = so3_convolution.plan_so3_shortcut(b_in, b_out, **options)
        module = so3_convolution.SO3Shortcut(features)
    if kind == "so3tos2":
        plan = so3_convolution.plan_so3_to_s2(points, b_in, b_out, **options)
        module, after = so3_convolution.SO3ToS2(features), plan_s2_transform(soft_grid(b_out), dtype=dtype)
        to_signal = synthesis
    else:
        after, to_signal = so3.plan_so3_transform(b_out, dtype=dtype), so3.so3_synthesis

    def apply(weights, signal):
        weights = {key.removeprefix("conv."): value for key, value in weights.items()}
        kernel = jnp.moveaxis(jnp.asarray(weights["kernel"]), -1, 0)
        params = {"kernel": kernel[0] if kind == "so3shortcut" else kernel, "bias": jnp.ravel(weights["bias"])}
        spectrum = module.apply({"params": params}, plan, to_coefficients(before, jnp.moveaxis(signal, 1, -1)))
        return jnp.moveaxis(to_signal(after, spectrum), -1, 1)

    return weights, plan, apply


def kernel_of(weights):
    """(in, out, point)."""
    kernels = [value for key, value in weights.items() if key.endswith("kernel")]
    assert len(kernels) == 1, f"a layer has one kernel among its weights, got {sorted(weights)}"
    return kernels[0]


def scaling(case, plan, given):
    """The factor of the kernel, as the plan has it; on the sphere that holds the factor 2 b_out of its spectrum too."""
    points, fan_in = len(given["kernel_points"]), given["input"].shape[1]
    return plan.gain / np.sqrt(points * fan_in) / (2 * case["b_out"] if case["kind"] == "s2conv" else 1)


def kernel_spectrum(case, plan, given, scaling, dtype):
    """(coefficient, in, out): on the sphere with its factor 2 b_out."""
    bandlimit, points = case["b_out"], given["kernel_points"].astype(np.float64)
    kernel = np.moveaxis(kernel_of(group(given, "weights/")), -1, 0) * scaling.astype(dtype)
    shape = kernel.shape[1:]
    degrees = range(bandlimit)
    if case["kind"] == "s2conv":
        spectrum = compiled(spherical_kernels.spectrum)(plan.kernel, kernel * (2 * bandlimit))
        native = convolution.sphere_coefficients(spectrum.reshape(len(spectrum), -1))
        dense = np.asarray(layout.native_to_dense(native))
        norms = np.sqrt(4 * np.pi * (2 * np.arange(bandlimit) + 1))
        blocks = [dense[l, bandlimit - 1 - l : bandlimit + l] / norms[l] for l in degrees]
    else:
        whole = spherical_kernels.plan_so3_kernel(points, bandlimit, dtype=dtype)

        @compiled
        def dense_spectrum(kernel):
            spectrum = spherical_kernels.spectrum(whole, kernel)
            return so3_layout.packed_to_matrices(spectrum.reshape(len(spectrum), -1), bandlimit)

        dense = np.asarray(dense_spectrum(kernel))
        inner = [slice(bandlimit - 1 - l, bandlimit + l) for l in degrees]
        blocks = [dense[l, inner[l], inner[l]].reshape((2 * l + 1) ** 2, -1) for l in degrees]
    return np.concatenate(blocks).reshape(-1, *shape)


def integral(case, given, stored, dtype):
    """The mean over SO(3): by the weights of the grid, which the first coefficient must equal."""
    signal = given["input"]
    plan = so3.plan_so3_transform(signal.shape[-1] // 2, dtype=dtype)

    def apply(_, signal):
        return so3.so3_integral(plan, signal[..., None])[..., 0]

    ours = linear_results(apply, given)
    first = compiled(so3.so3_analysis)(plan, jnp.asarray(signal)[..., None])[..., 0, 0]
    if "output" in stored:
        compare({"output": stored["output"]}, {"output": first}, mark=MARKS[dtype])
    return ours


def rotated(case, given, stored, dtype):
    """The signal turned by Euler angles."""
    signal = given["input"]
    bandlimit = signal.shape[-1] // 2
    plan = so3.plan_so3_transform(bandlimit, dtype=dtype)
    turn = rotation.plan_rotation(bandlimit, dtype=dtype)
    matrix = rotation_matrix(*given["alpha_beta_gamma"].astype(np.float64))

    def apply(_, signal):
        matrices = so3.to_matrices(plan, so3.so3_analysis(plan, signal[..., None]))
        turned = rotation.rotate_so3_coefficients(turn, matrices, jnp.asarray(matrix, dtype))
        return so3.so3_synthesis(plan, so3.from_matrices(plan, turned))[..., 0]

    return linear_results(apply, given)


def linear_results(apply, given):
    if "cotangent" not in given:
        return {"output": compiled(apply)({}, given["input"])}
    return results(apply, {}, given["input"], given["cotangent"])


def rotation_matrix(alpha, beta, gamma):
    def about(angle, i, j):
        matrix = np.eye(3)
        matrix[[i, j], [i, j]] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
        return matrix

    return about(alpha, 0, 1) @ about(beta, 2, 0) @ about(gamma, 0, 1)
