"""DropConnect and non-parametric dropout as families: their divergences by Monte Carlo and by quadrature, the two
divergences of an objective, and training through the ensemble engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import RowDropout, WeightDropout, drop_weights
from jaxgeo.layers.unit_choice import UnitChoice, choose, init_pair
from jaxgeo.posteriors import base, deep_ensemble, drop_connect, mc_dropout, non_parametric_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.posteriors.stochastic_ensemble import WIDTH
from jaxgeo.training.ensemble import TrainingConfig, fit, init_ensemble

DROPOUT = WeightDropout(rate=0.25)
PRIOR = GaussianPrior(1.5, bias_scale=0.5)


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def init_member(key):
    return dict(kernel=jax.random.normal(key, (6, 3)), bias=jnp.zeros(3))


def apart(key):
    """Centres at least 0.4 from zero: 0.8 of the smallest prior scale or more."""
    return jax.tree.map(lambda leaf: leaf + jnp.where(leaf < 0, -0.4, 0.4), init_member(key))


X, Y = jax.random.normal(jax.random.key(5), (10, 6)), jnp.arange(10) % 3


def monte_carlo_kl(mixtures, width, draws=20_000):
    """E_q[log q - log p] and its standard error, in units where the prior is standard: a list of (centres, shares)."""
    rng, total = np.random.default_rng(0), np.zeros(draws)
    for centres, shares in mixtures:
        which = rng.choice(len(shares), draws, p=shares)
        w = centres[which] + width * rng.normal(size=(draws, centres.shape[1]))
        logs = [
            np.log(share) + scipy.stats.norm.logpdf(w, c, width).sum(1)
            for c, share in zip(centres, shares, strict=True)
        ]
        total += np.logaddexp.reduce(logs) - scipy.stats.norm.logpdf(w).sum(1)
    return total.mean(), total.std() / np.sqrt(draws)


@pytest.mark.parametrize("width", [0.05, WIDTH])
@pytest.mark.parametrize("inverted", [True, False])
def test_kl_of_drop_connect_is_the_monte_carlo_divergence_where_the_components_are_apart(inverted, width):
    dropout, params = WeightDropout(rate=0.25, inverted=inverted), apart(jax.random.key(1))
    kernel = np.asarray(params["kernel"], float) / PRIOR.leaf_scale((6, 3)) * dropout.survivor_scale
    bias = np.asarray(params["bias"], float) / 0.5
    mixtures = [(np.array([[m], [0.0]]), [0.75, 0.25]) for m in kernel.ravel()] + [(bias[None], [1.0])]
    expected, error = monte_carlo_kl(mixtures, width)
    # Centres lie more than 12 widths from zero, so what the components share is below 1e-8 nats.
    assert abs(drop_connect.kl_divergence(params, dropout, PRIOR, width=width) - expected) < 3 * error


def test_at_the_width_of_the_objectives_the_kl_of_weights_near_zero_is_the_monte_carlo_divergence_too():
    # As networks begin: many weights far below the prior's scale, but none within ten widths of zero.
    params = jax.tree.map(lambda leaf: 0.1 * leaf, init_member(jax.random.key(1)))
    kernel = np.asarray(params["kernel"], float) / PRIOR.leaf_scale((6, 3)) / 0.75
    assert 10 * WIDTH < np.abs(kernel).min() < 0.05
    mixtures = [(np.array([[m], [0.0]]), [0.75, 0.25]) for m in kernel.ravel()] + [(np.zeros((1, 3)), [1.0])]
    expected, error = monte_carlo_kl(mixtures, WIDTH)
    assert abs(drop_connect.kl_divergence(params, DROPOUT, PRIOR, width=WIDTH) - expected) < 3 * error
    # The objective's gradients do not depend on the width, but at a larger one the value is only a lower bound.
    expected, error = monte_carlo_kl(mixtures, 0.05)
    assert drop_connect.kl_divergence(params, DROPOUT, PRIOR, width=0.05) < expected - 10 * error


@pytest.mark.parametrize("width", [0.05, WIDTH])
@pytest.mark.parametrize("fixed", [(), ("bias",)])
def test_kl_of_non_parametric_dropout_is_the_monte_carlo_divergence(fixed, width):
    pair = {"first": apart(jax.random.key(1)), "second": jax.tree.map(lambda m: -m, apart(jax.random.key(2)))}
    kernels = [np.asarray(p["kernel"], float) / PRIOR.leaf_scale((6, 3)) for p in pair.values()]
    biases = [np.asarray(p["bias"], float) / 0.5 for p in pair.values()]
    if fixed:
        mixtures = [(np.stack([k[:, u] for k in kernels]), [0.5, 0.5]) for u in range(3)] + [(biases[0][None], [1.0])]
    else:
        units = [np.concatenate([k, b[None]]) for k, b in zip(kernels, biases, strict=True)]
        mixtures = [(np.stack([m[:, u] for m in units]), [0.5, 0.5]) for u in range(3)]
    expected, error = monte_carlo_kl(mixtures, width)
    formula = non_parametric_dropout.kl_divergence(pair, PRIOR, UnitChoice(fixed), width=width)
    assert abs(formula - expected) < 3 * error


def quadrature_kl(centres, shares, width):
    """KL of a mixture of one weight from N(0, 1), by the trapezoidal rule in float64."""
    w = np.linspace(-6.0, 6.0, 40_001)
    q = sum(share * scipy.stats.norm.pdf(w, c, width) for c, share in zip(centres, shares, strict=True))
    # Where q underflows its integrand is 0, like q log q.
    return np.trapezoid(np.where(q > 0, q * (np.log(np.maximum(q, 1e-300)) - scipy.stats.norm.logpdf(w)), 0.0), w)


def test_the_gradients_are_those_of_the_mixtures_by_quadrature():
    s, m, other, h = GaussianPrior(1.5).leaf_scale((1, 1)), 0.9, -0.6, 1e-4
    params, prior = {"kernel": jnp.full((1, 1), m)}, GaussianPrior(1.5)
    pair = {"first": params, "second": {"kernel": jnp.full((1, 1), other)}}
    dropped = jax.grad(lambda p: drop_connect.kl_divergence(p, DROPOUT, prior))(params)["kernel"]
    chosen = jax.grad(lambda p: non_parametric_dropout.kl_divergence(p, prior))(pair)["first"]["kernel"]
    for found, mixture in (
        (dropped, lambda m: quadrature_kl([m / 0.75 / s, 0.0], [0.75, 0.25], 0.05)),
        (chosen, lambda m: quadrature_kl([m / s, other / s], [0.5, 0.5], 0.05)),
    ):
        # The trapezoidal rule is exact to rounding here and the divergence a square in m, so is its difference.
        np.testing.assert_allclose(found[0, 0], (mixture(m + h) - mixture(m - h)) / (2 * h), rtol=1e-5)


def test_rows_and_weights_differ_in_the_entropy_of_the_coins_alone():
    params = init_member(jax.random.key(1))
    rows = mc_dropout.kl_divergence(params, RowDropout(rate=0.25), PRIOR)
    weights = drop_connect.kl_divergence(params, DROPOUT, PRIOR)
    np.testing.assert_allclose(rows - weights, 12 * scipy.stats.bernoulli(0.25).entropy(), rtol=1e-4)  # float32 of 200


@pytest.mark.parametrize(
    ("family", "dropout"), [(mc_dropout, RowDropout(rate=0.25)), (drop_connect, WeightDropout(rate=0.25))]
)
def test_the_published_divergence_weighs_the_squares_of_the_family_that_is_not_scaled(family, dropout):
    joint, params, key = LogJoint(affine, PRIOR), apart(jax.random.key(3)), jax.random.key(9)
    exact, published = (
        family.objective(joint, dropout, 50, name)(params, key, X, Y) for name in ("exact", "published")
    )
    # (1 - p) c^2 = 4 / 3 against 1 - p = 3 / 4, on kernels alone
    squares = np.sum(np.square(params["kernel"])) / PRIOR.leaf_scale((6, 3)) ** 2 / 2
    np.testing.assert_allclose((exact - published) * 50, (4 / 3 - 3 / 4) * squares, rtol=1e-4)  # float32 of 200 nats
    unscaled = type(dropout)(rate=0.25, inverted=False)
    np.testing.assert_array_equal(
        *(family.objective(joint, unscaled, 50, name)(params, key, X, Y) for name in ("exact", "published"))
    )
    np.testing.assert_array_equal(exact, family.objective(joint, dropout, 50)(params, key, X, Y))


def test_objectives_are_one_drawn_batch_plus_the_divergence():
    joint, params, key = LogJoint(affine, PRIOR), init_member(jax.random.key(3)), jax.random.key(9)
    pair = init_pair(init_member)(jax.random.key(4))
    for loss, drawn, kl in (
        (
            drop_connect.objective(joint, DROPOUT, 50)(params, key, X, Y),
            drop_weights(key, params, DROPOUT),
            drop_connect.kl_divergence(params, DROPOUT, PRIOR),
        ),
        (
            non_parametric_dropout.objective(joint, 50)(pair, key, X, Y),
            choose(key, pair),
            non_parametric_dropout.kl_divergence(pair, PRIOR),
        ),
    ):
        np.testing.assert_allclose(loss, -joint.log_likelihood(drawn, X, Y) / 10 + kl / 50, rtol=1e-5)  # float32
    published = non_parametric_dropout.objective(joint, 50, divergence="published")(pair, key, X, Y)
    np.testing.assert_array_equal(published, loss)


@pytest.mark.parametrize(
    "build",
    [
        lambda n, d: unchecked(mc_dropout.objective)(LogJoint(affine), RowDropout(), n, d),
        lambda n, d: unchecked(drop_connect.objective)(LogJoint(affine), DROPOUT, n, d),
        lambda n, d: unchecked(non_parametric_dropout.objective)(LogJoint(affine), n, divergence=d),
    ],
)
def test_no_examples_and_an_unknown_divergence_are_refused(build):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        build(0, "exact")
    with pytest.raises(ConfigError, match=r"one of exact, published, got 'neither'"):
        build(10, "neither")


def test_members_times_draws_are_stacked_member_slowest():
    pairs = deep_ensemble.init_members(init_pair(init_member), jax.random.key(0), 3)
    chosen = np.asarray(non_parametric_dropout.draws_of_members(jax.random.key(1), pairs, 7)["kernel"])
    chosen = chosen.reshape(3, 7, 6, 3)
    first, second = (np.asarray(pairs[name]["kernel"])[:, None] for name in ("first", "second"))
    from_first = chosen == first
    np.testing.assert_array_equal(chosen, np.where(from_first, first, second))
    assert len(np.unique(from_first[0, :, 0], axis=0)) > 1  # choices differ from draw to draw
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        non_parametric_dropout.draws_of_members(jax.random.key(1), pairs, 0)


def test_pairs_train_in_the_ensemble_engine_like_any_tree():
    labels = jnp.asarray(np.asarray(X)[:, 0] > 0).astype(jnp.int32)
    config = TrainingConfig(epochs=30, batch_size=10, learning_rate=0.1, members_per_block=2)
    state = init_ensemble(jax.random.split(jax.random.key(0), 2), init_pair(init_member), config)
    objective = non_parametric_dropout.objective(LogJoint(affine), 10)
    trained, history = fit(state, objective, X, labels, config)
    assert (history.loss[-5:].mean(0) < history.loss[:5].mean(0)).all()
    posterior = non_parametric_dropout.non_parametric_dropout(init_member, 2)
    drawn = base.sample_many(posterior, jax.random.key(1), trained.params, 20)
    right = jnp.argmax(jax.vmap(affine, (0, None))(drawn, X), -1) == labels[None]
    assert right.mean() > 0.8  # a linear problem of 10 examples in 6 dimensions


def test_an_ensemble_of_none_is_refused():
    for build in (
        lambda: drop_connect.drop_connect(init_member, DROPOUT, 0),
        lambda: non_parametric_dropout.non_parametric_dropout(init_member, 0),
    ):
        with pytest.raises(ConfigError, match="number of members must be a whole number of at least 1, got 0"):
            build()
