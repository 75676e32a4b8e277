"""Kronecker factors: those of activations and gradients, and the whole Gauss-Newton matrix where they can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from linear_gaussian import JOINT, PRIOR, affine, regression, to_tree
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.layers.plane_convolution import PlaneConvolution
from jaxgeo.posteriors.affine_layers import trace_layers
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.laplace import full_laplace
from jaxgeo.posteriors.log_joint import GaussianLikelihood, LogJoint, pure_apply

KEY = jax.random.key(0)
NOISE = GaussianLikelihood(0.5)


def summed_noise(predictions, targets):
    """The Gaussian likelihood of predictions of any shape."""
    return jnp.sum(NOISE(predictions, targets).reshape(predictions.shape[0], -1), axis=1)


def layer_precision(factor):
    """Precision of (in, out) as a matrix in float64, without the prior."""
    root = np.kron(factor.input_vectors, factor.output_vectors).astype(float)
    values = np.outer(factor.input_values, factor.output_values).ravel()
    white = np.repeat(np.asarray(factor.prior_scale, float), len(factor.output_values))[:, None] ** -1 * root
    return (white * values[None]) @ white.T


def full_precision(joint, mode, inputs, targets, order):
    """That of `full_laplace` without the prior, the leaves in the given order of their names."""
    state = full_laplace(joint, mode, inputs, targets).init(KEY)
    root = np.asarray(state.cholesky, float)
    scale = np.asarray(state.prior_scale, float)
    precision = (root @ root.T - np.eye(len(root))) / scale[:, None] / scale[None]
    sizes = jax.tree.map(lambda leaf: leaf.size, mode)
    ends = np.cumsum([0, *jax.tree.leaves(sizes)])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mode)]
    places = [paths.index(name) for name in order]
    rows = np.concatenate([np.arange(ends[p], ends[p + 1]) for p in places])
    return precision[np.ix_(rows, rows)]


def network(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]) * params["gain"][None]
    return hidden @ params["output"]["kernel"] + params["output"]["bias"][None]


def network_params():
    rng = np.random.default_rng(7)
    tree = dict(
        gain=1.0 + 0.1 * rng.normal(size=4),
        hidden=dict(kernel=0.5 * rng.normal(size=(3, 4)), bias=0.1 * np.ones(4)),
        output=dict(kernel=rng.normal(size=(4, 2)), bias=np.zeros(2)),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def test_factors_are_those_of_the_activations_and_of_the_gradients():
    x, _ = regression()
    params, joint = network_params(), LogJoint(network, PRIOR)
    state = kronecker_laplace(joint, params, x, jnp.arange(12) % 2).init(KEY)
    w, v, gain = (
        np.asarray(p, float) for p in (params["hidden"]["kernel"], params["output"]["kernel"], params["gain"])
    )
    inputs = np.asarray(x, float)
    act = np.tanh(inputs @ w + np.asarray(params["hidden"]["bias"], float))
    logits = (act * gain) @ v + np.asarray(params["output"]["bias"], float)
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    curvature = np.einsum("nc,cd->ncd", p, np.eye(2)) - np.einsum("nc,nd->ncd", p, p)
    by_act = np.einsum("nh,ho->nho", (1 - act**2) * gain, v)  # d logits / d (hidden before tanh)
    ones = np.ones((12, 1))
    for factor, before, gradient, width in zip(
        state.layers, (inputs, act * gain), (by_act, np.eye(2)[None].repeat(12, 0)), (4, 2), strict=True
    ):
        a = np.concatenate([before, ones], axis=1)
        g = np.einsum("nho,nop,nkp->hk", gradient, curvature, gradient) / 12
        np.testing.assert_allclose(layer_precision(factor), np.kron(a.T @ a, g), atol=1e-4)  # float32, up to 20
        scales = [PRIOR.leaf_scale((a.shape[1] - 1, width))] * (a.shape[1] - 1) + [PRIOR.leaf_scale((width,))]
        np.testing.assert_allclose(factor.prior_scale, scales, rtol=1e-6)  # float32
    by_gain = np.einsum("nh,ho->nho", act, v)
    diagonal = np.einsum("nho,nop,nhp->h", by_gain, curvature, by_gain) + PRIOR.leaf_scale((4,)) ** -2.0
    np.testing.assert_allclose(state.others["gain"] ** -2.0, diagonal, rtol=1e-5)  # float32
    assert jax.tree.leaves(state.others["hidden"]) == []


def test_of_one_example_each_layer_has_its_block_of_the_whole_matrix():
    x, _ = regression()
    params, joint = network_params(), LogJoint(network, PRIOR)
    state = kronecker_laplace(joint, params, x[:1], jnp.zeros(1, int)).init(KEY)
    for name, factor in zip(("hidden", "output"), state.layers, strict=True):
        whole = full_precision(
            joint, params, x[:1], jnp.zeros(1, int), [f"['{name}']['kernel']", f"['{name}']['bias']"]
        )
        np.testing.assert_allclose(layer_precision(factor), whole, atol=1e-5)  # float32, entries below 2


class Convolutions(nn.Module):
    """One linear convolution, and if asked for a mean over its places."""

    pooled: bool
    own: bool = False
    strides: int = 1
    padding: str = "SAME"
    dilation: int = 1

    @nn.compact
    def __call__(self, x):
        if self.own:
            x = PlaneConvolution(3, 3, self.strides, name="conv")(x)
        else:
            x = nn.Conv(
                3, (3, 2), self.strides, self.padding, kernel_dilation=self.dilation, use_bias=not self.pooled,
                name="conv",
            )(x)  # fmt: skip
        return x.mean(axis=(1, 2)) if self.pooled else x


@pytest.mark.parametrize(
    ("options", "sharing"),
    [
        (dict(pooled=False, padding="VALID", dilation=2), "expand"),
        (dict(pooled=False, own=True, strides=2), "expand"),
        (dict(pooled=True, strides=2), "reduce"),
    ],
)
def test_a_linear_convolution_has_the_whole_matrix_of_gaussian_labels(options, sharing):
    images = jax.random.normal(jax.random.key(1), (3, 5, 6, 2))
    model = Convolutions(**options)
    params = model.init(KEY, images)["params"]
    joint = LogJoint(pure_apply(model, images), PRIOR, summed_noise)
    targets = jnp.zeros_like(joint.apply(params, images))
    state = kronecker_laplace(joint, params, images, targets, sharing).init(KEY)
    order = [f"['conv']['{name}']" for name in ("kernel", "bias") if name in params["conv"]]
    whole = full_precision(joint, params, images, targets, order)
    np.testing.assert_allclose(layer_precision(state.layers[0]), whole, atol=1e-3 * np.abs(whole).max())  # float32
    if sharing == "reduce":
        expanded = kronecker_laplace(joint, params, images, targets).init(KEY).layers[0]
        assert np.abs(layer_precision(expanded) - whole).max() > 0.1 * np.abs(whole).max()


class Everything(nn.Module):
    """Convolution, heads, a jitted and a rematerialised layer, a layer used twice, and a gain that is no layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="conv")(x))
        x = x.reshape(x.shape[0], -1, 4)
        x = nn.DenseGeneral((2, 2), name="heads")(x)
        x = nn.DenseGeneral(4, axis=(-2, -1), name="joined")(x)
        twice = nn.Dense(4, name="twice")
        x = twice(jnp.tanh(twice(x))) * self.param("gain", nn.initializers.ones, (4,))[None, None]
        return nn.remat(nn.Dense)(2, name="output")(x.mean(axis=1))


def test_layers_of_every_kind_are_found_and_draws_follow_the_density():
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    model = Everything()
    params = model.init(KEY, images)["params"]
    apply = jax.jit(pure_apply(model, images))
    network = trace_layers(apply, params, images[0])
    kernels = [name for name in ravel_names(params) if name.endswith("kernel")]
    assert len(network.layers) == len(kernels) == 5
    assert len(network.places) == 6
    assert all(layer.bias is not None for layer in network.layers)
    assert network.layers[kernels.index("joined/kernel")].width == 4  # two heads of two
    posterior = kronecker_laplace(LogJoint(apply, PRIOR), params, images, jnp.arange(3) % 2)
    state = posterior.init(KEY)
    drawn = jax.jit(jax.vmap(posterior.sample, (0, None)))(jax.random.split(KEY, 2000), state)
    densities = jax.jit(jax.vmap(posterior.log_prob, (None, 0)))(state, drawn)
    # At the mode the density is that of the mean of a Gaussian of n weights; a draw loses half a chi square of n.
    lost = np.asarray(posterior.log_prob(state, params) - densities)
    number = ravel_pytree(params)[0].size
    np.testing.assert_allclose(2 * lost.mean(), number, atol=5 * np.sqrt(2 * number / 2000))  # five standard errors
    np.testing.assert_allclose(np.std(2 * lost), np.sqrt(2 * number), rtol=0.1)  # known to 1.6 %


def ravel_names(params):
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return ["/".join(key.key for key in path) for path in paths]


def test_a_layer_that_nothing_depends_on_keeps_its_prior():
    x, y = regression()
    params = network_params()
    params["output"]["kernel"] = jnp.zeros((4, 2))
    state = kronecker_laplace(LogJoint(network, PRIOR, NOISE), params, x, y).init(KEY)
    np.testing.assert_array_equal(state.layers[0].output_values, 0.0)


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (lambda p, x: affine(p | {"kernel": p["kernel"] / 2}, x), "kernel goes through div"),
        (lambda p, x: affine(p | {"bias": 2 * p["bias"]}, x), "a bias beside it that is not simply added"),
        (lambda p, x: x[:, :2] @ p["kernel"].T, "kernel goes through transpose"),
        (lambda p, x: x + p["bias"].sum(), "got none of them"),
        (lambda p, x: affine(p, x) @ (p["kernel"].T @ p["kernel"]), "kernel goes through transpose"),
        (lambda p, x: jax.lax.scan(lambda c, _: (jnp.tanh(c), affine(p, c)), x, None, 2)[1][1], "goes through scan"),
    ],
)
def test_what_no_factor_describes_is_refused(apply, said):
    x, y = regression()
    with pytest.raises(ConfigError, match=said):
        kronecker_laplace(LogJoint(apply, PRIOR, summed_noise), to_tree(np.linspace(-1.0, 1.0, 8)), x, y)


def test_groups_of_channels_and_unknown_sharing_are_refused():
    images = jnp.ones((2, 4, 4, 2))
    model = nn.Conv(4, (3, 3), feature_group_count=2)
    params = model.init(KEY, images)["params"]
    joint = LogJoint(pure_apply(model, images), PRIOR, summed_noise)
    with pytest.raises(ConfigError, match="kernel convolves in 2 groups of channels"):
        kronecker_laplace(joint, params, images, jnp.ones((2, 4, 4, 4)))
    with pytest.raises(ConfigError, match="sharing must be one of expand, reduce, got 'sum'"):
        unchecked(kronecker_laplace)(JOINT, to_tree(np.zeros(8)), *regression(), "sum")
