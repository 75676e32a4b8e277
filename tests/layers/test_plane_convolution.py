"""Convolution of images against XLA's own: values, both gradients, forward and second derivatives, mapping, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers import plane_convolution
from jaxgeo.layers.plane_convolution import PlaneConvolution, convolve


def plain(x, kernel, stride=1, padding="SAME"):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# float32: sums of up to 63 products of about 1, in another order.
def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("rows", "columns", "kernel_rows", "kernel_columns", "stride"),
    [(5, 4, 3, 3, 1), (6, 7, 3, 3, 2), (7, 6, 1, 1, 2), (5, 8, 2, 5, 3), (2, 1, 3, 3, 2), (4, 4, 1, 1, 5)],
)
def test_values_and_gradients_are_those_of_xla_with_same_padding(rows, columns, kernel_rows, kernel_columns, stride):
    x, kernel = draw((3, rows, columns, 2)), draw((kernel_rows, kernel_columns, 2, 4), 1)

    def all_of(f):
        def both(x, kernel, weights):
            value, pull = jax.vjp(lambda *a: f(*a, stride), x, kernel)
            return value, pull(weights)

        return both

    weights = draw((3, -(-rows // stride), -(-columns // stride), 4), 2)
    found, expected = (jax.jit(all_of(f))(x, kernel, weights) for f in (convolve, plain))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        assert_close(one, other)


@settings(max_examples=6)
@given(
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 19)),
    channels=st.sampled_from([1, 2, 3, 8, 17]),
    features=st.sampled_from([1, 3, 4, 8, 16, 40]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID"]),
)
def test_in_float64_values_and_gradients_are_those_of_xla(window, more, channels, features, stride, padding):
    sizes = (k + extra for k, extra in zip(window, more, strict=True))
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = jnp.asarray(rng.normal(size=(2, *sizes, channels))), rng.normal(size=(*window, channels, features))

        @jax.jit
        def both(x, kernel):
            results = []
            for f in (convolve, plain):
                value, pull = jax.vjp(lambda *a, f=f: f(*a, stride, padding), x, kernel)
                results.append((value, pull(jnp.cos(value))))
            return results

        found, expected = both(x, jnp.asarray(kernel))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.shape == other.shape
            # Sums of up to 2 * 13 * 23 products of about 1 in another order.
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_forward_and_second_derivatives_are_those_of_xla():
    x, kernel = draw((2, 4, 4, 2)), draw((3, 3, 2, 2), 1)
    directions = draw(x.shape, 2), draw(kernel.shape, 3)

    def products(f):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(f(x, kernel, 2)))

        def gradients(x, kernel):
            return jax.grad(loss, (0, 1))(x, kernel)

        return jax.jit(lambda: (jax.jvp(loss, (x, kernel), directions), jax.jvp(gradients, (x, kernel), directions)))()

    for one, other in zip(jax.tree.leaves(products(convolve)), jax.tree.leaves(products(plain)), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 3)])
def test_mapping_over_images_and_kernels_is_a_loop(members, axes):
    images = (2, 4, 4, 2) if axes[0] is None else (members, 2, 4, 4, 2)
    kernels = (3, 3, 2, 2)
    if axes[1] is not None:
        kernels = (*kernels[: axes[1]], members, *kernels[axes[1] :])
    x, kernel = draw(images), draw(kernels, 1)

    def gradients(x, kernel):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a))), (0, 1))(x, kernel)

    found = jax.jit(jax.vmap(gradients, axes))(x, kernel)
    alone = jax.jit(gradients)
    for member in range(members):
        pair = (a if axis is None else jnp.take(a, member, axis) for a, axis in zip((x, kernel), axes, strict=True))
        for one, other in zip(found, alone(*pair), strict=True):
            assert_close(one[member], other)


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("axes", [(0, None), (None, 0)])
def test_gradients_of_kernels_over_images_or_cotangents_alone_are_a_loop(members, axes):
    # Three channels to six features: places of both in the result are told apart.
    x, kernel, cotangent = draw((members, 2, 4, 5, 3)), draw((3, 3, 3, 6), 1), draw((members, 2, 4, 5, 6), 2)

    def gradient(x, cotangent):
        return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](cotangent)[0]

    pair = tuple(a if axis == 0 else a[0] for a, axis in zip((x, cotangent), axes, strict=True))
    found = jax.jit(jax.vmap(gradient, axes))(*pair)
    alone = jax.jit(gradient)
    for member in range(members):
        one = (a if axis is None else a[member] for a, axis in zip(pair, axes, strict=True))
        assert_close(found[member], alone(*one))


def test_inside_a_loop_gradients_ask_for_the_orders_that_xla_is_quick_in():
    kernel = draw((3, 3, 2, 4))

    def steps(kernel, batches):
        def step(kernel, x):
            return kernel - jax.grad(lambda k: jnp.sum(convolve(convolve(x, k), k[..., :2, :2].repeat(2, 2)) ** 2))(
                kernel
            ), None

        return jax.lax.scan(step, kernel, batches)[0]

    text = jax.jit(jax.vmap(steps)).lower(kernel[None], draw((1, 3, 2, 8, 8, 2))).compile().as_text()
    orders = {part.split(",")[0] for line in text.splitlines() for part in line.split("dim_labels=")[1:]}
    assert orders == {"b01f_01io->b01f"}


def test_the_layer_adds_its_bias_and_keeps_any_batch_axes():
    layer = PlaneConvolution(4, 3, 2)
    params = {"kernel": draw((3, 3, 2, 4)), "bias": draw((4,), 1)}
    x = draw((2, 3, 6, 6, 2), 2)
    found = layer.apply({"params": params}, x)
    expected = plain(x.reshape(6, 6, 6, 2), params["kernel"], 2).reshape(2, 3, 3, 3, 4) + params["bias"][(None,) * 4]
    assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_mapping_twice_and_over_what_is_shared_is_a_loop(stride):
    x, kernels = draw((2, 5, 6, 3)), draw((2, 3, 3, 2, 3, 4), 1)

    def gradients(x, kernel):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a, stride))), (0, 1))(x, kernel)

    over = jax.vmap(jax.vmap(gradients, (None, 0)), (None, 0))
    found = jax.jit(over)(x, kernels.transpose(0, 3, 1, 2, 4, 5))
    alone = jax.jit(gradients)
    for i in range(2):
        for j in range(2):
            for one, other in zip(found, alone(x, kernels[i, :, :, j]), strict=True):
                assert_close(one[i, j], other)


def test_off_the_cpu_the_compiler_sees_plain_convolutions_of_the_same_sums():
    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel)))

    shapes = jax.ShapeDtypeStruct((2, 3, 6, 8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 3, 3, 3, 4), jnp.float32)
    gradients = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))
    text = {
        platform: gradients.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda")
    }
    # Columns at once need a product of matrices for the gradient of the kernel, and a step per member.
    for part in ("dot_general", "while"):
        assert part in text["cpu"]
        assert part not in text["cuda"]
    assert text["cuda"].count("stablehlo.convolution") == 3


@pytest.mark.parametrize("stride", [1, 2])
def test_the_forms_for_other_platforms_have_the_same_values(stride):
    x, kernel = draw((2, 7, 6, 3)), draw((3, 2, 3, 4), 1)
    pads = ((1, 1), (0, 1))
    y = plane_convolution.by_xla(x, kernel, stride=stride, pads=pads)
    assert_close(plane_convolution.on_cpu(x, kernel, stride=stride, pads=pads), y)
    kernel_gradients = (
        f(x, y, window=(3, 2), stride=stride, pads=pads)
        for f in (plane_convolution.kernel_on_cpu, plane_convolution.kernel_by_xla)
    )
    pull = jax.vjp(functools.partial(plane_convolution.by_xla, stride=stride, pads=pads), x, kernel)[1]
    expected = pull(y)
    for found in kernel_gradients:
        np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-3)  # float32, sums of 84 products of about 50
    images = plane_convolution.images_by_xla(y, kernel, sizes=(7, 6), stride=stride, pads=pads)
    assert_close(images, expected[0])


def test_what_cannot_be_convolved_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        convolve(draw((1, 4, 4, 2)), draw((3, 3, 2, 1)), 0)
    with pytest.raises(InputError, match=r"for as many channels.*got \(1, 4, 4, 2\) and \(3, 3, 3, 1\)"):
        convolve(draw((1, 4, 4, 2)), draw((3, 3, 3, 1)))
    with pytest.raises(ConfigError, match="SAME, VALID, got 'FULL'"):
        unchecked(convolve)(draw((1, 4, 4, 2)), draw((3, 3, 2, 1)), 1, "FULL")
    with pytest.raises(InputError, match="3 x 5 needs images of at least as many rows and columns, got 4 x 4"):
        convolve(draw((1, 4, 4, 2)), draw((3, 5, 2, 1)), padding="VALID")
    with pytest.raises(InputError, match="must have one dtype, got float32 and bfloat16"):
        convolve(draw((1, 4, 4, 2)), draw((3, 3, 2, 1)).astype(jnp.bfloat16))
