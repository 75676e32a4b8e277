"""A plan is an argument like any other: what was traced once serves other values and other plans of the same sizes."""

import jax
import jax.numpy as jnp
import pytest

from jaxgeo.harmonics import layout, rotation, so3_layout, spectra
from jaxgeo.harmonics.healpix import plan_healpix_transform
from jaxgeo.layers import kernel_points, so3_convolution, so3_nonlinearity, spin_weighted_nonlinearity
from jaxgeo.layers.coefficient_product import coefficient_product, plan_coefficient_product
from jaxgeo.layers.graph_convolution import ChebyshevConv, plan_healpix_graph
from jaxgeo.layers.spin_weighted_convolution import SpinConvolution, plan_spin_convolution
from jaxgeo.layers.zonal import HealpixZonalConv, ZonalConfig

L, FEATURES = 3, 2
POINTS = kernel_points.so3_near_identity_points(num_alpha=2, num_beta=1, num_gamma=2)
GROUP = (so3_layout.num_coefficients(L), FEATURES)
LIMITED = (so3_layout.num_coefficients(L, 2), FEATURES)
SPINS = (2, *layout.native_shape(L, real=False), FEATURES)
MATRIX = jnp.eye(3)


def fragments():
    return tuple(jnp.ones((2 * degree + 1, FEATURES)) for degree in range(L))


# How a plan is built, the layer (None: a function of the plan and the arrays) and the arrays.
LAYERS = {
    "sphere to rotations": (
        lambda: so3_convolution.plan_s2_convolution(POINTS[:, :2], L, L),
        so3_convolution.S2Convolution(FEATURES),
        (jnp.ones((*layout.native_shape(L), FEATURES)),),
    ),
    "rotations": (
        lambda: so3_convolution.plan_so3_convolution(POINTS, L, L),
        so3_convolution.SO3Convolution(FEATURES),
        (jnp.ones(GROUP),),
    ),
    "rotations, azimuthal limit": (
        lambda: so3_convolution.plan_so3_convolution(POINTS, L, L, orders=2),
        so3_convolution.SO3Convolution(FEATURES),
        (jnp.ones(LIMITED),),
    ),
    "rotations, learned spectra": (
        lambda: so3_convolution.plan_so3_convolution(None, L, L),
        so3_convolution.SO3Convolution(FEATURES),
        (jnp.ones(GROUP),),
    ),
    "rotations to sphere": (
        lambda: so3_convolution.plan_so3_to_s2(POINTS, L, L),
        so3_convolution.SO3ToS2(FEATURES),
        (jnp.ones(GROUP),),
    ),
    "shortcut": (
        lambda: so3_convolution.plan_so3_shortcut(L, L),
        so3_convolution.SO3Shortcut(FEATURES),
        (jnp.ones(GROUP),),
    ),
    "spin-weighted convolution": (
        lambda: plan_spin_convolution(L, (0, 1), (0, 1), anchors=2),
        SpinConvolution(FEATURES),
        (jnp.ones(SPINS),),
    ),
    "spin-weighted nonlinearity": (
        lambda: spin_weighted_nonlinearity.plan_spin_nonlinearity(L, (0, 1)),
        spin_weighted_nonlinearity.SpinNonlinearity(),
        (jnp.ones(SPINS),),
    ),
    "graph": (lambda: plan_healpix_graph(2), ChebyshevConv(FEATURES, 2), (jnp.ones((48, 1)),)),
    "zonal": (lambda: plan_healpix_transform(2, L), HealpixZonalConv(ZonalConfig(FEATURES)), (jnp.ones((48, 1)),)),
}
FUNCTIONS = {
    "nonlinearity": (
        lambda: so3_nonlinearity.plan_so3_nonlinearity(L, 2, oversampling=1.5),
        lambda plan, x: so3_nonlinearity.pointwise(plan, jax.nn.relu, x),
        (jnp.ones(GROUP),),
    ),
    "coefficient product": (lambda: plan_coefficient_product(L), coefficient_product, (fragments(), fragments())),
    "rotation on the sphere": (
        lambda: rotation.plan_rotation(L),
        rotation.rotate_coefficients,
        (jnp.ones((L, 2 * L - 1, 1), jnp.complex64), MATRIX),
    ),
    "rotation on SO(3)": (
        lambda: rotation.plan_rotation(L),
        rotation.rotate_so3_coefficients,
        (jnp.ones((L, 2 * L - 1, 2 * L - 1, 1), jnp.complex64), MATRIX),
    ),
    "bispectrum": (
        lambda: spectra.plan_bispectrum(L),
        spectra.bispectrum,
        (jnp.ones((L, 2 * L - 1, 1), jnp.complex64),),
    ),
}


def count_traces(function, *calls):
    """How often a compiled function is traced for several lists of arguments."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return function(*arguments)

    program = jax.jit(counted)
    for arguments in calls:
        program.trace(*arguments)
    return len(traces)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_traced_once_for_all_plans_of_one_size(name):
    make_plan, layer, arrays = LAYERS[name]
    plan, again = make_plan(), make_plan()
    variables = jax.eval_shape(layer.init, jax.random.key(0), plan, *arrays)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, (variables, arrays))
    assert count_traces(layer.apply, (variables, plan, *arrays), (doubled[0], again, *doubled[1])) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_traced_once_for_all_plans_of_one_size(name):
    make_plan, function, arrays = FUNCTIONS[name]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, arrays)
    assert count_traces(function, (make_plan(), *arrays), (make_plan(), *doubled)) == 1


def test_a_plan_of_another_size_is_traced_anew():
    # So that the tests above count something.
    plans = [so3_convolution.plan_so3_shortcut(L, L, orders=orders) for orders in (None, 2)]
    layer = so3_convolution.SO3Shortcut(FEATURES)
    variables = layer.init(jax.random.key(0), plans[0], jnp.ones(GROUP))
    calls = [(variables, plans[0], jnp.ones(GROUP)), (variables, plans[1], jnp.ones(LIMITED))]
    assert count_traces(layer.apply, *calls) == 2
