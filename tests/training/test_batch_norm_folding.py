"""A folded network is the network with batch norms: an identity of affine maps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgeo.errors import InputError
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.training.batch_norm_folding import fold_affine, fold_network, norms_to_affine

CONFIG = SvhnCnnConfig(size=22, channels=1, filters=(3, 4, 5), units=(6, 7))


def drawn(shapes, seed=0):
    """Arrays away from 0 and 1; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        low = -0.5 if path[-1].key in ("kernel", "mean", "bias") else 0.2
        return jnp.asarray(rng.uniform(low, 0.9, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def network():
    x = jax.random.uniform(jax.random.key(1), (4, 22, 22, 1))
    variables = drawn(jax.eval_shape(SvhnCnn(CONFIG).init, jax.random.key(0), x))
    return variables, x, jax.jit(SvhnCnn(CONFIG).apply)(variables, x)


@pytest.mark.parametrize(("norm", "fold"), [("folded", fold_network), ("affine", norms_to_affine)])
def test_the_network_without_its_batch_norms_gives_the_same_logits(network, norm, fold):
    variables, x, expected = network
    other = SvhnCnn(dataclasses.replace(CONFIG, norm=norm))
    rewritten = fold(variables, CONFIG.epsilon)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(other.init, jax.random.key(0), x))
    assert jax.tree.map(jnp.shape, rewritten) == shapes
    np.testing.assert_allclose(jax.jit(other.apply)(rewritten, x), expected, rtol=1e-4, atol=1e-5)  # float32


class Block(nn.Module):
    """A layer with its norm, deeper in the tree and with a bias of its own."""

    norm: bool

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3, name="mix")(x[None])[0]
        if not self.norm:
            return y
        return nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False, name="mix_norm")(y)


class Tower(nn.Module):
    """Two blocks."""

    norm: bool

    @nn.compact
    def __call__(self, x):
        return Block(self.norm, name="second")(Block(self.norm, name="first")(x))


def test_norms_deep_in_the_tree_without_parameters_fold_into_layers_with_a_bias():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)), jnp.float32)
    with jax.numpy_rank_promotion("allow"):
        variables = drawn(jax.eval_shape(Tower(True).init, jax.random.key(0), x), 3)
        expected = Tower(True).apply(variables, x)
        found = Tower(False).apply(fold_network(variables), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32


def test_what_cannot_be_folded_is_refused(network):
    variables, _, _ = network
    with pytest.raises(InputError, match=r"got \['params'\]; a network without batch_stats has no batch norm"):
        fold_network({"params": variables["params"]})
    orphan = {"batch_stats": {"conv_9_norm": variables["batch_stats"]["conv_0_norm"]}, "params": variables["params"]}
    with pytest.raises(InputError, match=r"the batch norm conv_9_norm .* but conv_9 is not there"):
        fold_network(orphan)
    with pytest.raises(InputError, match=r"a kernel of shape \(2, 3\), a scale of shape \(4,\)"):
        fold_affine({"kernel": np.ones((2, 3))}, np.ones(4), np.ones(4))
