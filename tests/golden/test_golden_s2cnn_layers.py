"""Single S2CNN layers with stored kernels: outputs, gradients, spectra, both backward passes; rotation, integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import compiled, golden_files, group, load, name, read_config, relative_l2

from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics import convolution, layout, so3, so3_layout
from jaxgeo.harmonics.s2 import analysis, plan_s2_transform, synthesis
from jaxgeo.harmonics.wigner import wigner_D
from jaxgeo.layers import so3_convolution, so3_nonlinearity, spherical_kernels

FLOAT64, FLOAT32 = 1e-10, 2e-6  # the files' pass marks


def cases():
    for path in golden_files("*/input", "*/output", where=lambda config: "cases" in config):
        for case in read_config(load(path))["cases"]:
            yield pytest.param(path, case, id=f"{name(path)}-{case['key']}")


def of_kind(*kinds):
    return [param for param in cases() if param.values[1]["kind"] in kinds]


LAYERS = of_kind("s2conv", "so3conv", "so3shortcut", "so3tos2")


def channels_last(array, dtype):
    return jnp.asarray(np.moveaxis(array, 1, -1), dtype)


def layer_of(case, arrays, dtype, upstream_backward):
    """Module, parameters and the map from signals and parameters to signals."""
    kind, b_in, b_out = case["kind"], case["b_in"], case["b_out"]
    options = {"mode": "faithful", "dtype": dtype}
    features = case["nfeature_out"]
    if kind == "s2conv":
        plan = so3_convolution.plan_s2_convolution(arrays["kernel_points"], b_in, b_out, **options)
        module, before = so3_convolution.S2Convolution(features), plan_s2_transform(soft_grid(b_in), b_out, dtype=dtype)
        to_coefficients = analysis
    else:
        before = so3_nonlinearity.plan_so3_nonlinearity(
            min(b_in, b_out), b_out, grid_bandlimit=b_in, aliased=True, upstream_backward=upstream_backward, dtype=dtype
        )
        to_coefficients = so3_nonlinearity.coefficients
    if kind == "so3conv":
        plan = so3_convolution.plan_so3_convolution(arrays["kernel_points"], b_in, b_out, **options)
        module = so3_convolution.SO3Convolution(features)
    if kind == "so3shortcut":
        plan = so3_convolution.plan_so3_shortcut(b_in, b_out, **options)
        module = so3_convolution.SO3Shortcut(features)
    if kind == "so3tos2":
        plan = so3_convolution.plan_so3_to_s2(arrays["kernel_points"], b_in, b_out, **options)
        module, after = so3_convolution.SO3ToS2(features), plan_s2_transform(soft_grid(b_out), dtype=dtype)
        to_signal = synthesis
    else:
        after, to_signal = so3.plan_so3_transform(b_out, dtype=dtype), so3.so3_synthesis
    if kind == "so3shortcut" and (case["nfeature_in"], b_in) == (features, b_out):
        return {}, plan, lambda params, signal: signal

    def apply(params, signal):
        spectrum = module.apply({"params": params}, plan, to_coefficients(before, signal))
        return to_signal(after, spectrum)

    weights = {key.removeprefix("conv."): value for key, value in group(arrays, "weights/").items()}
    kernel = np.moveaxis(weights["kernel"], -1, 0)
    params = {
        "kernel": jnp.asarray(kernel[0] if kind == "so3shortcut" else kernel, dtype),
        "bias": jnp.asarray(weights["bias"].ravel(), dtype),
    }
    return params, plan, apply


def check_gradients(case, stored, of_params, of_signal, suffix):
    expected = stored.get(f"grad_input{suffix}", stored["grad_input"])
    assert relative_l2(np.moveaxis(of_signal, -1, 1), expected) < FLOAT64
    grads = {**group(stored, "grads/"), **group(stored, f"grads{suffix}/")} if suffix else group(stored, "grads/")
    for key, value in grads.items():
        found = np.asarray(of_params[key.removeprefix("conv.")])
        found = found[None] if case["kind"] == "so3shortcut" and found.ndim == 2 else found
        found = np.moveaxis(found, 0, -1) if found.ndim == 3 else found
        assert relative_l2(found.reshape(value.shape), value) < FLOAT64, key


@pytest.mark.parametrize(("path", "case"), LAYERS)
def test_layer_and_its_gradients_are_those_of_the_original(path, case):
    stored = group(load(path), f"{case['key']}/")
    with jax.enable_x64(True):
        for upstream_backward, suffix in ((False, ""), (True, "_upstream_backward")):
            if upstream_backward and f"grad_input{suffix}" not in stored:
                continue
            params, plan, apply = layer_of(case, stored, jnp.float64, upstream_backward)
            signal, cotangent = (channels_last(stored[key], jnp.float64) for key in ("input", "cotangent"))

            @compiled
            def output_and_gradients(params, signal, cotangent, apply=apply):
                output, pull = jax.vjp(apply, params, signal)
                return output, pull(cotangent)

            output, gradients = output_and_gradients(params, signal, cotangent)
            assert relative_l2(np.moveaxis(output, -1, 1), stored["output"]) < FLOAT64
            check_gradients(case, stored, *gradients, suffix)
        if "kernel_spectrum" in stored:
            check_spectrum(case, stored, plan, params)


def check_spectrum(case, stored, plan, params):
    """The stored spectrum [l, m, n] holds the scaling, and on the sphere the factor 2 b_out."""
    bandlimit = case["b_out"]
    kernel = params["kernel"] * float(stored["scaling"])
    # Scaling by fan-in and size of the grid, as the layer has it.
    points, fan_in, _ = params["kernel"].shape
    gain = 2.0 * bandlimit if case["kind"] == "s2conv" else 1.0
    np.testing.assert_allclose(plan.gain / np.sqrt(points * fan_in), gain * float(stored["scaling"]), rtol=1e-14)
    shape = kernel.shape[1:]
    if case["kind"] == "s2conv":
        spectrum = spherical_kernels.spectrum(plan.kernel, kernel * gain)
        native = convolution.sphere_coefficients(spectrum.reshape(len(spectrum), -1))
        dense = np.asarray(layout.native_to_dense(native))
        blocks = [
            dense[l, bandlimit - 1 - l : bandlimit + l] / np.sqrt(4 * np.pi * (2 * l + 1)) for l in range(bandlimit)
        ]
    else:
        whole = spherical_kernels.plan_so3_kernel(stored["kernel_points"], bandlimit, dtype=jnp.float64)

        @compiled
        def dense_spectrum(kernel):
            spectrum = spherical_kernels.spectrum(whole, kernel)
            return so3_layout.packed_to_matrices(spectrum.reshape(len(spectrum), -1), bandlimit)

        dense = np.asarray(dense_spectrum(kernel))
        inner = [slice(bandlimit - 1 - l, bandlimit + l) for l in range(bandlimit)]
        blocks = [dense[l, inner[l], inner[l]].reshape((2 * l + 1) ** 2, -1) for l in range(bandlimit)]
    found = np.concatenate(blocks).reshape(-1, *shape)
    assert relative_l2(found, stored["kernel_spectrum"]) < FLOAT64


@pytest.mark.parametrize(("path", "case"), LAYERS)
def test_float32_agrees_with_the_unmodified_original(path, case):
    stored = group(load(path), f"{case['key']}/")
    params, _, apply = layer_of(case, stored, jnp.float32, False)
    output = compiled(apply)(params, channels_last(stored["input"], jnp.float32))
    assert relative_l2(np.moveaxis(output, -1, 1), stored["output_f32"]) < FLOAT32


@pytest.mark.parametrize(("path", "case"), of_kind("so3_integrate"))
def test_integral_and_its_gradient_are_those_of_the_original(path, case):
    stored = group(load(path), f"{case['key']}/")
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(case["b"], dtype=jnp.float64)
        signal = channels_last(stored["input"], jnp.float64)
        output, pull = jax.vjp(lambda signal: so3.so3_integral(plan, signal), signal)
        assert relative_l2(output, stored["output"]) < FLOAT64
        (gradient,) = pull(jnp.asarray(stored["cotangent"]))
        assert relative_l2(np.moveaxis(gradient, -1, 1), stored["grad_input"]) < FLOAT64
        coefficients = so3.so3_analysis(plan, signal)
        assert relative_l2(coefficients[:, 0], stored["output"]) < FLOAT64


@pytest.mark.parametrize(("path", "case"), of_kind("so3_rotation"))
def test_rotation_of_a_signal_is_that_of_the_original(path, case):
    stored = group(load(path), f"{case['key']}/")
    bandlimit = case["b"]
    alpha, beta, gamma = stored["alpha_beta_gamma"]
    with jax.enable_x64(True):
        plan = so3.plan_so3_transform(bandlimit, dtype=jnp.float64)
        signal = jnp.asarray(stored["input"])
        matrices = so3.to_matrices(plan, so3.so3_analysis(plan, signal[..., None]))
        rotated = np.zeros_like(matrices)
        for l in range(bandlimit):
            inner = slice(bandlimit - 1 - l, bandlimit + l)
            turn = wigner_D(l, alpha, beta, gamma)
            rotated[..., l, inner, :, :] = np.einsum("mk,...knc->...mnc", turn, matrices[..., l, inner, :, :])
        output = so3.so3_synthesis(plan, so3.from_matrices(plan, jnp.asarray(rotated)))
        assert relative_l2(output[..., 0], stored["output"]) < FLOAT64
