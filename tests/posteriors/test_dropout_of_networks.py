"""Dropout and DropConnect of every network of the library: no matrix is left out, and the divergences count the masks.

Draws of each family are predicted with; the rest looks at shapes alone.
"""

import functools
import importlib
import inspect
import math
import pkgutil

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn
from unchecked import unchecked

from jaxgeo import models
from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import (
    RowDropout,
    WeightDropout,
    draw_masks,
    draw_weight_masks,
    dropped_rows,
    dropped_weights,
    path_names,
)
from jaxgeo.layers.plane_convolution import convolve
from jaxgeo.layers.tensor_product import FullyConnectedTensorProduct, TensorProductConfig
from jaxgeo.layers.unit_choice import units
from jaxgeo.models import (
    batch_norm_resnet,
    clebsch_gordan_network,
    deepsphere,
    enet,
    heal_swin,
    healpix_classifier,
    mlp,
    planar_cnn,
    resnet,
    s2cnn,
    s2cnn_classifier,
    s2cnn_segmenter,
    spin_weighted_network,
    svhn_cnn,
    swin,
)
from jaxgeo.posteriors import drop_connect, mc_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, pure_apply
from jaxgeo.posteriors.non_parametric_dropout import non_parametric_dropout

# Not whole networks, but parts of those below.
PARTS = {
    "batch_norm_resnet": {"Convolution", "ResidualBlock"},
    "enet": {"Convolution", "Block", "Bottleneck"},
    "planar_cnn": {"Convolution", "TransposedConvolution"},
    "resnet": {"ConvolutionNorm", "ResidualBlock"},
    "s2cnn": {"S2CNNTrunk"},
    "svhn_cnn": {"KernelLayer"},
    "swin_unet": {"Stage", "PatchEmbedding", "Encoder", "Decoder"},
}
# By name: whatever has two axes and is none of them is a matrix.
NAMES = (
    "batch_norm_resnet", "clebsch_gordan", "cnn_classifier", "cnn_segmenter", "deepsphere_classifier",
    "deepsphere_segmenter", "enet", "heal_swin", "heal_swin_classifier", "healpix_classifier", "mlp", "resnet",
    "s2cnn_classifier", "s2cnn_segmenter", "spin_weighted", "svhn_cnn", "swin",
)  # fmt: skip
NO_MATRICES = {"bias", "scale", "threshold", "logit_scale", "relative_position_bias_table", "absolute_pos_embed"}


def real(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@functools.cache
def networks():
    """Each network of `jaxgeo.models` with the arguments of its `init`, tiny."""
    swins = {"num_classes": 3, "channels": 2, "embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2)}
    healpix = heal_swin.HealSwinConfig(
        **swins, nside=8, window_size=4, shift="grid", shift_size=1, absolute_position=True
    )
    plane = swin.SwinConfig(**swins, size=(16, 32), window_size=(2, 4), shift_size=(1, 2))
    coefficients = clebsch_gordan_network.ClebschGordanNetworkConfig(3, bandlimit=3, features=(4,), hidden=8)
    graphs = deepsphere.DeepSphereConfig(num_classes=2, nside=2, features=(6,), terms=3)
    grid = s2cnn.KernelGrid(num_alpha=3, num_beta=1, num_gamma=2)
    classifier = s2cnn_classifier.S2CNNClassifierConfig(
        input_bandlimit=4, features=(2, 3), bandlimits=(3, 2), kernel_max_beta=(0.2, 0.3), kernel_grid=grid,
        num_classes=3, head_features=(4,),
    )  # fmt: skip
    segmenter = s2cnn_segmenter.S2CNNSegmenterConfig(
        input_bandlimit=4, features=(2, 3), bandlimits=(3, 2), kernel_max_beta=(0.2, 0.3, 0.3), kernel_grid=grid,
        num_classes=2, output_bandlimit=4,
    )  # fmt: skip
    spins = spin_weighted_network.SpinWeightedNetworkConfig(
        num_classes=3, input_bandlimit=4, features=(3, 4), bandlimits=(4, 4), anchors=None
    )
    dense_map, image = real(healpix.num_pixels, 2), real(1, 8, 8, 1)
    pictures = enet.ENetConfig(rows=8, columns=16, filters=4, encoder=(1,), decoder=(1,), upsampling="transposed")
    return {
        "batch_norm_resnet": (
            batch_norm_resnet.BatchNormResNet(
                batch_norm_resnet.BatchNormResNetConfig(depth=8, filters=2, size=8, num_classes=4)
            ),
            real(1, 8, 8, 3),
        ),
        "clebsch_gordan": (
            clebsch_gordan_network.ClebschGordanNetwork(coefficients),
            clebsch_gordan_network.plan_clebsch_gordan_network(coefficients),
            jax.ShapeDtypeStruct((1, 3, 5, 1), jnp.complex64),
        ),
        "deepsphere_classifier": (
            deepsphere.DeepSphereClassifier(graphs), deepsphere.plan_deepsphere(graphs), real(1, 48, 1)
        ),
        "deepsphere_segmenter": (
            deepsphere.DeepSphereSegmenter(graphs), deepsphere.plan_deepsphere(graphs), real(1, 48, 1)
        ),
        "enet": (enet.ENet(pictures), real(1, 8, 16, 3)),
        "heal_swin": (heal_swin.HealSwin(healpix), heal_swin.plan_heal_swin(healpix), dense_map),
        "heal_swin_classifier": (heal_swin.HealSwinClassifier(healpix), heal_swin.plan_heal_swin(healpix), dense_map),
        "healpix_classifier": (
            healpix_classifier.HealpixClassifier(
                healpix_classifier.HealpixClassifierConfig(nside=2, features=(3,), patches=(4,), num_classes=5)
            ),
            real(1, 48, 1),
        ),
        "mlp": (mlp.Mlp(mlp.MlpConfig()), real(1, 2)),
        "cnn_segmenter": (
            planar_cnn.CnnSegmenter(
                planar_cnn.CnnSegmenterConfig((3, 4), (3, 3), (1, 2), True, True, size=9, num_classes=2)
            ),
            real(1, 9, 9, 1),
        ),
        "cnn_classifier": (
            planar_cnn.CnnClassifier(planar_cnn.CnnClassifierConfig((3,), (3,), (2,), True, size=9)), real(1, 9, 9, 1)
        ),
        "resnet": (resnet.ResNet(resnet.ResNetConfig(depth=8, features=2)), real(1, 8, 8, 3)),
        "s2cnn_classifier": (
            s2cnn_classifier.S2CNNClassifier(classifier), s2cnn_classifier.plan_s2cnn_classifier(classifier), image
        ),
        "s2cnn_segmenter": (
            s2cnn_segmenter.S2CNNSegmenter(segmenter), s2cnn_segmenter.plan_s2cnn_segmenter(segmenter), image
        ),
        "spin_weighted": (
            spin_weighted_network.SpinWeightedNetwork(spins), spin_weighted_network.plan_spin_weighted_network(spins),
            image,
        ),
        "svhn_cnn": (
            svhn_cnn.SvhnCnn(svhn_cnn.SvhnCnnConfig(size=22, channels=1, filters=(3, 4, 5), units=(6, 7))),
            real(1, 22, 22, 1),
        ),
        "swin": (swin.Swin(plane), swin.plan_swin(plane), real(16, 32, 2)),
    }  # fmt: skip


def shapes_of(module, *arguments):
    return jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]


@pytest.fixture(scope="module")
def trees():
    """Shapes of the parameters of all networks, and of the two layers of the library that no network has."""
    found = {name: shapes_of(*arguments) for name, arguments in networks().items()}
    scalars = e3nn_jax.IrrepsArray("2x0e + 3x1o", jnp.ones(11))
    product = FullyConnectedTensorProduct(TensorProductConfig("4x0e"))
    return found | {"tensor_product": shapes_of(product, scalars, scalars)}


def test_the_walk_has_every_network():
    assert set(networks()) == set(NAMES)
    walked = {type(arguments[0]) for arguments in networks().values()}
    for info in pkgutil.iter_modules(models.__path__):
        module = importlib.import_module(f"jaxgeo.models.{info.name}")
        own = {
            kind
            for name, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, nn.Module) and kind.__module__ == module.__name__ and not name.startswith("_")
        }
        assert {kind.__name__ for kind in own - walked} == PARTS.get(info.name, set())


@pytest.mark.parametrize("name", NAMES)
def test_every_family_draws_networks_that_predict(name):
    module, *plans, inputs = networks()[name]
    rng, shapes = np.random.default_rng(0), jax.eval_shape(module.init, jax.random.key(0), *networks()[name][1:])
    # Numbers of NumPy: the initialisation of a network takes longer to compile than the network.
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=(2, *leaf.shape)), leaf.dtype), shapes["params"]
    )
    statistics = {kind: tree for kind, tree in shapes.items() if kind != "params"}
    frozen = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2.0, leaf.shape), leaf.dtype), statistics)
    apply = pure_apply(module, inputs, plans=tuple(plans), frozen=frozen)
    first = jax.tree.map(lambda leaf: leaf[:1], params)
    pair = {"first": first, "second": jax.tree.map(lambda leaf: leaf[1:], params)}
    families = (
        (mc_dropout.mc_dropout(lambda key: None, RowDropout(rate=0.3)), first),
        (mc_dropout.mc_dropout(lambda key: None, RowDropout(rate=0.3, unit="channel")), first),
        (drop_connect.drop_connect(lambda key: None, WeightDropout(rate=0.3)), first),
        (non_parametric_dropout(lambda key: None), pair),
    )
    x = jnp.asarray(rng.normal(size=inputs.shape), inputs.dtype)

    # It runs once: what it gains by optimisation is less than that takes.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def predictions(keys, states):
        draws = [family.sample(key, state) for key, (family, _), state in zip(keys, families, states, strict=True)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
        return jax.vmap(apply, in_axes=(0, None))(stacked, x)

    # A generator that is one operation: threefry is written out for every leaf and takes long to compile.
    keys = jax.random.split(jax.random.key(4, impl="unsafe_rbg"), len(families))
    found = predictions(keys, [state for _, state in families])
    rows = np.asarray(found).reshape(len(families), -1)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == len(families)  # other networks, family by family


def leaves(tree):
    return [(path_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_every_matrix_of_every_network_is_dropped_and_nothing_else(trees):
    # Exact integers: rows are all axes but the last, channels the next to last, weights all.
    expected = {
        "row": lambda shape: math.prod(shape[:-1]),
        "channel": lambda shape: shape[-2],
        "weight": math.prod,
    }
    counts = {
        "row": dropped_rows(trees, RowDropout()),
        "channel": dropped_rows(trees, RowDropout(unit="channel")),
        "weight": dropped_weights(trees, WeightDropout()),
    }
    seen = set()
    for unit, counted in counts.items():
        for (names, leaf), count in zip(leaves(trees), jax.tree.leaves(counted), strict=True):
            is_matrix = leaf.ndim >= 2 and names[-1] not in NO_MATRICES
            assert count == (expected[unit](leaf.shape) if is_matrix else 0), names
            seen |= {names[-1]} if is_matrix else set()
    assert seen == {"kernel", *(f"degree_{l}" for l in range(3)), "path_0", "path_1"}


def test_masks_toss_as_many_coins_as_are_counted_and_the_divergences_count_the_same(trees):
    # At the centre 0 only constants are left: width^2 / 2 - 1 / 2 - log width for each weight, less the coins' entropy.
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), trees["clebsch_gordan"])
    some = {name: trees[name] for name in ("clebsch_gordan", "spin_weighted", "resnet", "swin")}
    size, width = sum(leaf.size for leaf in jax.tree.leaves(zeros)), 0.1
    constant = (width**2 - 1) / 2 - np.log(width)
    for family, dropout, draw, count in (
        (mc_dropout, RowDropout(rate=0.3), draw_masks, dropped_rows),
        (mc_dropout, RowDropout(rate=0.3, unit="channel"), draw_masks, dropped_rows),
        (drop_connect, WeightDropout(rate=0.3), draw_weight_masks, dropped_weights),
    ):
        masks = jax.eval_shape(lambda tree, d=dropout, f=draw: f(jax.random.key(0), tree, d), some)
        for mask, leaf, coins in zip(*map(jax.tree.leaves, (masks, some, count(some, dropout))), strict=True):
            assert mask.size == max(coins, 1)
            assert np.broadcast_shapes(mask.shape, leaf.shape) == leaf.shape
        coins = sum(jax.tree.leaves(count(trees["clebsch_gordan"], dropout)))
        expected = size * constant - coins * scipy.stats.bernoulli(0.3).entropy()
        # float32 sums of a few hundred nats
        np.testing.assert_allclose(
            family.kl_divergence(zeros, dropout, GaussianPrior(), width=width), expected, rtol=1e-5
        )


def test_a_draw_of_a_clebsch_gordan_network_is_random_in_every_degree(trees):
    masks = jax.jit(lambda key: draw_weight_masks(key, trees["clebsch_gordan"], WeightDropout(rate=0.5)))
    drawn = jax.vmap(masks)(jax.random.split(jax.random.key(0), 40))
    for names, mask in leaves(drawn):
        if names[-1] != "bias":
            # 40 coins of one weight all alike: once in 5e11.
            assert set(np.unique(mask)) == {0.0, 2.0}, names


def test_non_parametric_dropout_chooses_every_parameter_of_every_network(trees):
    coins = units(trees)
    for names, leaf in leaves(trees):
        assert coins[*names[:-1], str(leaf.shape[-1])] == leaf.shape[-1]


def test_a_zonal_spectrum_is_dropped_at_all_degrees_of_a_channel():
    tree = {"spectrum": real(5, 3, 4), "bias": real(4)}
    assert dropped_rows(tree, RowDropout()) == {"spectrum": 15, "bias": 0}
    assert dropped_rows(tree, RowDropout(unit="channel")) == {"spectrum": 3, "bias": 0}
    assert dropped_weights(tree, WeightDropout()) == {"spectrum": 60, "bias": 0}


def test_dropping_a_channel_is_dropping_the_feature_map_and_a_row_is_a_tap_of_it():
    tree = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 6, 2))}
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, 6))
    channel = draw_masks(jax.random.key(2), tree, RowDropout(rate=0.5, unit="channel"))["kernel"]
    assert 0 < np.count_nonzero(channel) < 6
    # Sums of 54 products in another order, float32.
    np.testing.assert_allclose(
        convolve(x, tree["kernel"] * channel), convolve(x * channel[:, :, None, :, 0], tree["kernel"]), atol=1e-5
    )
    row = draw_masks(jax.random.key(2), tree, RowDropout(rate=0.5))["kernel"]
    assert row.shape == (3, 3, 6, 1)
    assert np.any(np.asarray(row) != np.asarray(row)[:1, :1])  # 54 coins, not 6


@pytest.mark.parametrize("inverted", [True, False])
def test_the_divergence_of_channels_is_that_of_their_mixture_by_monte_carlo(inverted):
    dropout, prior, width = RowDropout(rate=0.25, inverted=inverted, unit="channel"), GaussianPrior(1.5), 0.05
    kernel = jax.random.normal(jax.random.key(3), (2, 2, 5, 2))
    rng, draws, total = np.random.default_rng(0), 20_000, np.zeros(20_000)
    # A channel is 2 x 2 taps and 2 outputs: 8 weights and one coin.
    channels = np.moveaxis(np.asarray(kernel, float), 2, 0).reshape(5, 8) / prior.leaf_scale(kernel.shape)
    for centre in channels * dropout.survivor_scale:
        kept = rng.random(draws) < 0.75
        w = kept[:, None] * centre[None] + width * rng.normal(size=(draws, 8))
        log_q = np.logaddexp(
            np.log(0.75) + scipy.stats.norm.logpdf(w, centre[None], width).sum(1),
            np.log(0.25) + scipy.stats.norm.logpdf(w, 0.0, width).sum(1),
        )
        total += log_q - scipy.stats.norm.logpdf(w).sum(1)
    # Each of these channels is more than 40 widths from zero, so the components share nothing.
    assert np.linalg.norm(channels, axis=1).min() > 40 * width
    found = mc_dropout.kl_divergence({"kernel": kernel}, dropout, prior, width=width)
    assert abs(found - total.mean()) < 3 * total.std() / np.sqrt(draws)


def test_a_leaf_that_no_rule_covers_is_named_and_fixed_or_extra_settles_it():
    tree = {"dense": {"kernel": real(3, 2)}, "gate": {"alpha": real(2)}, "words": {"embedding": real(7, 2)}}
    with pytest.raises(ConfigError, match=r"gate/alpha of shape \(2,\) .* in fixed to leave it alone, or in extra"):
        dropped_rows(tree, RowDropout())
    found = dropped_rows(tree, RowDropout(fixed=("gate",)))
    assert found == {"dense": {"kernel": 3}, "gate": {"alpha": 0}, "words": {"embedding": 0}}
    found = dropped_rows(tree, RowDropout(extra=("alpha", "embedding"), unit="channel"))
    assert found == {"dense": {"kernel": 3}, "gate": {"alpha": 2}, "words": {"embedding": 7}}
    found = dropped_weights(tree, WeightDropout(fixed=("dense",), extra=("alpha", "words")))
    assert found == {"dense": {"kernel": 0}, "gate": {"alpha": 2}, "words": {"embedding": 14}}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RowDropout(fixed=("a", "b"), extra=("b",)), r"\['b'\] in fixed .* and in extra"),
        (
            lambda: unchecked(RowDropout.__init__)(object.__new__(RowDropout), unit="pixel"),
            r"one of row, channel, got 'pixel'",
        ),
        (lambda: dropped_rows({"kernel": real(2, 2)}, RowDropout(extra=("gate",))), r"dropout\.extra names \['gate'\]"),
    ],
)
def test_impossible_names_and_units_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
