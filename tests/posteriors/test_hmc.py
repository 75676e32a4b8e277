"""HMC against closed forms and quadrature; cut, saved and resumed bit for bit."""

import dataclasses
import functools
import io
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.sharding import Mesh

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors import base
from jaxgeo.posteriors.hmc import (
    HmcConfig,
    HmcState,
    concatenate_traces,
    cut_short,
    hmc_posterior,
    plan_hmc,
    plan_hmc_of_density,
)
from jaxgeo.posteriors.log_joint import GaussianLikelihood, GaussianPrior, LogJoint


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


LINEAR = LogJoint(affine, GaussianPrior(1.5, bias_scale=0.7), GaussianLikelihood(0.5))
LIKE = dict(bias=jnp.zeros(1), kernel=jnp.zeros((3, 1)))


def linear_data(examples=20):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
    y = x @ np.array([[1.0], [-0.5], [0.3]]) + 0.2 + 0.5 * rng.normal(size=(examples, 1))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def closed_form(x, y):
    """Mean and covariance of (bias, kernel) under the Gaussian prior and likelihood, in float64."""
    design = np.column_stack([np.ones(len(x)), np.asarray(x, float)])
    prior_precision = np.diag(1 / np.array([0.7, *[1.5 / np.sqrt(3)] * 3]) ** 2)
    covariance = np.linalg.inv(design.T @ design / 0.25 + prior_precision)
    return covariance @ design.T @ np.asarray(y, float)[:, 0] / 0.25, covariance


def as_matrix(draws):
    return np.concatenate([np.asarray(draws["bias"], float), np.asarray(draws["kernel"], float)[..., 0]], axis=-1)


def whitened_spectrum(draws, covariance):
    """Variance ratios of the draws to the covariance in its principal directions: 1 everywhere if they are equal."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    return np.linalg.eigvalsh(whiten @ np.cov(draws.T) @ whiten.T)


@pytest.mark.parametrize(
    ("kernel", "adapt_mass"), [("hmc", False), ("hmc", True), ("nuts", True)], ids=["hmc", "hmc+mass", "nuts+mass"]
)
def test_a_conjugate_gaussian_posterior_has_its_closed_form(kernel, adapt_mass):
    x, y = linear_data()
    # In whitened units this posterior is about 0.1 wide, hence a shorter trajectory where the mass stays 1.
    length = np.pi / 2 if adapt_mass else 0.3
    config = HmcConfig(
        num_chains=96, num_warmup=120, num_draws=150, kernel=kernel, adapt_mass=adapt_mass,
        trajectory_length=length, warmup_leapfrogs=8, step_size=0.1,
    )  # fmt: skip
    sampler = plan_hmc(LINEAR, LIKE, config)
    _, trace = sampler.run(sampler.init(jax.random.key(1), x, y), x, y)
    draws = as_matrix(sampler.draws(trace.position)).reshape(-1, 4)
    mean, covariance = closed_form(x, y)
    # 14,400 draws, at least half of them effective: means scatter by 0.012 sd, and the whitened spectrum of 4
    # directions spreads by 2 sqrt(4 / 7,200) = 5 %.
    assert np.all(np.abs(draws.mean(0) - mean) < 0.1 * np.sqrt(np.diag(covariance)))
    spectrum = whitened_spectrum(draws, covariance)
    assert np.all(np.abs(spectrum - 1) < 0.1), spectrum
    assert not trace.diverging[:, 120:].any()
    assert trace.acceptance[:, 120:].mean() > 0.6  # the target is 0.7; few leapfrogs fit into a trajectory exactly


def regression_reference(x, y):
    """Moments of (beta, log sigma) by quadrature over sigma; given sigma the rest is conjugate."""
    grid = np.linspace(np.log(0.3), np.log(3.0), 2001)
    log_weight, means, seconds = [], [], []
    for log_sigma in grid:
        sigma2 = np.exp(2 * log_sigma)
        marginal = sigma2 * np.eye(len(y)) + 100.0 * x @ x.T
        log_evidence = scipy.stats.multivariate_normal.logpdf(y, np.zeros(len(y)), marginal)
        # half-normal(1) on sigma, times the Jacobian of the logarithm
        log_weight.append(log_evidence + scipy.stats.halfnorm.logpdf(np.exp(log_sigma)) + log_sigma)
        covariance = np.linalg.inv(x.T @ x / sigma2 + np.eye(3) / 100.0)
        mean = covariance @ x.T @ y / sigma2
        means.append(mean)
        seconds.append(covariance + np.outer(mean, mean))
    weight = scipy.special.softmax(log_weight)
    mean = np.tensordot(weight, means, 1)
    covariance = np.tensordot(weight, seconds, 1) - np.outer(mean, mean)
    center = weight @ grid
    cross = (weight * (grid - center)) @ np.array(means)
    return np.append(mean, center), np.block([[covariance, cross[:, None]], [cross, weight @ (grid - center) ** 2]])


def test_a_regression_with_unknown_noise_matches_quadrature():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.8 * rng.normal(size=40)

    def log_density(params, inputs, targets):
        sigma = jnp.exp(params["log_sigma"])
        residual = (targets - inputs @ params["beta"]) / sigma
        log_prior = -0.5 * jnp.sum(params["beta"] ** 2) / 100.0 - 0.5 * sigma**2 + params["log_sigma"]
        return -0.5 * jnp.sum(residual**2) - len(y) * params["log_sigma"] + log_prior

    like = dict(beta=jnp.zeros(3), log_sigma=jnp.zeros(()))
    config = HmcConfig(
        num_chains=64, num_warmup=200, num_draws=200, adapt_mass=True, warmup_leapfrogs=12, step_size=0.01
    )
    sampler = plan_hmc_of_density(log_density, like, dict(beta=10.0, log_sigma=1.0), config)
    data = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    _, trace = sampler.run(sampler.init(jax.random.key(0), *data), *data)
    draws = sampler.draws(trace.position.reshape(-1, 4))
    table = np.column_stack([draws["beta"], draws["log_sigma"]]).astype(float)
    mean, covariance = regression_reference(x, y)
    # 12,800 draws, at least half of them effective: means scatter by 0.013 sd, and the whitened spectrum of 4
    # directions spreads by 2 sqrt(4 / 6,400) = 5 %.
    assert np.all(np.abs(table.mean(0) - mean) < 0.1 * np.sqrt(np.diag(covariance)))
    spectrum = whitened_spectrum(table, covariance)
    assert np.all(np.abs(spectrum - 1) < 0.1), spectrum
    # The posterior is 100 times narrower than the prior of beta: the mass matrix has to have found that.
    assert np.asarray(trace.num_leapfrogs)[:, 200:].max() < 30


def test_a_regression_of_posteriordb_has_its_reference_moments():
    with np.load(pathlib.Path(__file__).parents[1] / "references" / "posteriordb_sblri_blr.npz") as stored:
        reference = dict(stored)
    x, y = (jnp.asarray(reference[name], jnp.float32) for name in ("inputs", "targets"))

    def log_density(params, inputs, targets):
        # N(0, 10) on the coefficients, half-normal(10) on sigma, and the Jacobian of its logarithm.
        sigma = jnp.exp(params["log_sigma"])
        residual = (targets - inputs @ params["beta"]) / sigma
        log_prior = -0.5 * (jnp.sum(params["beta"] ** 2) + sigma**2) / 100.0 + params["log_sigma"]
        return -0.5 * jnp.sum(residual**2) - len(targets) * params["log_sigma"] + log_prior

    # Coefficients are known to a thousandth: chains start where least squares ends, in float64.
    found, squares, *_ = np.linalg.lstsq(reference["inputs"], reference["targets"], rcond=None)
    start = dict(
        beta=jnp.tile(jnp.asarray(found, jnp.float32)[None], (64, 1)),
        log_sigma=jnp.full(64, 0.5 * np.log(squares[0] / len(y)), jnp.float32),
    )
    like = jax.tree.map(lambda leaf: leaf[0], start)
    config = HmcConfig(num_chains=64, num_warmup=150, num_draws=150, trajectory_length=1.5, step_size=0.1)
    sampler = plan_hmc_of_density(log_density, like, dict(beta=1e-3, log_sigma=0.07), config)
    _, trace = sampler.run(sampler.init(jax.random.key(0), x, y, start), x, y)
    draws = sampler.draws(trace.position.reshape(-1, 6))
    table = np.column_stack([draws["beta"], np.exp(draws["log_sigma"])]).astype(float)
    deviations = np.sqrt(np.diag(reference["covariance"]))
    # 9,600 draws here, 10,000 there: means scatter by about 0.015 sd each.
    assert np.all(np.abs(table.mean(0) - reference["mean"]) < 0.1 * deviations)
    spectrum = whitened_spectrum(table, reference["covariance"])
    assert np.all(np.abs(spectrum - 1) < 0.1), spectrum


SHORT = HmcConfig(num_chains=3, num_warmup=24, num_draws=5, thinning=2, adapt_mass=True, warmup_leapfrogs=4)


@functools.cache
def short_sampler():
    """One compiled sampler for all tests that look at its bookkeeping."""
    return plan_hmc(LINEAR, LIKE, SHORT)


def through_a_file(state):
    """The state as it comes back from disk: plain arrays by name."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in state._asdict().items()})
    buffer.seek(0)
    with np.load(buffer) as arrays:
        return HmcState(**{name: arrays[name] for name in arrays.files})


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_results_do_not_depend_on_where_a_run_is_cut_and_saved(kernel):
    x, y = linear_data()
    config = dataclasses.replace(SHORT, kernel=kernel)
    sampler = short_sampler() if kernel == "hmc" else plan_hmc(LINEAR, LIKE, config)
    start = sampler.init(jax.random.key(5), x, y)
    whole_state, whole = sampler.run(start, x, y)
    # For HMC compiled anew, as in another process.
    resumed = plan_hmc(LINEAR, LIKE, config) if kernel == "hmc" else sampler
    state, traces = start, []
    for num in (1, 7, 0, 16, 3, 100):  # one cut exactly at the end of the warm-up
        state, trace = resumed.run(through_a_file(state), x, y, num)
        traces.append(trace)
    chex.assert_trees_all_equal(whole_state, state)
    chex.assert_trees_all_equal(whole, concatenate_traces(traces))
    assert whole.position.shape == (3, 5, 4)
    assert whole.energy.shape == (3, 34)
    assert int(state.iteration) == config.num_transitions == 34
    _, nothing = sampler.run(state, x, y)
    assert nothing.position.shape == (3, 0, 4)


def test_thinning_keeps_every_second_position_of_the_same_chain():
    x, y = linear_data()
    thin, full = (dataclasses.replace(SHORT, thinning=t, num_draws=s) for t, s in ((2, 5), (1, 10)))
    positions = []
    for config in (thin, full):
        sampler = short_sampler() if config == SHORT else plan_hmc(LINEAR, LIKE, config)
        positions.append(sampler.run(sampler.init(jax.random.key(5), x, y), x, y)[1].position)
    np.testing.assert_array_equal(positions[0], positions[1][:, 1::2])


def test_a_mesh_of_one_device_and_no_mesh_agree():
    x, y = linear_data()
    traces = []
    for mesh in (None, Mesh(np.array(jax.devices()[:1]), ("chain",))):
        sampler = short_sampler() if mesh is None else plan_hmc(LINEAR, LIKE, SHORT, mesh)
        traces.append(sampler.run(sampler.init(jax.random.key(5), x, y), x, y, 10)[1])
    # Ten transitions of 4 leapfrogs in float32: rounding grows by a few bits each.
    np.testing.assert_allclose(traces[0].potential_energy, traces[1].potential_energy, rtol=1e-3)


@pytest.mark.parametrize("changes", [dict(chains_at_once=1), dict(chains_at_once=2), dict(likelihood_batches=4)])
def test_chains_in_turn_and_likelihoods_in_parts_are_the_same_run(changes):
    x, y = linear_data()
    sampler = plan_hmc(LINEAR, LIKE, dataclasses.replace(SHORT, **changes))
    traces = [s.run(s.init(jax.random.key(5), x, y), x, y, 10)[1] for s in (short_sampler(), sampler)]
    # Ten transitions of 4 leapfrogs in float32: rounding grows by a few bits each.
    np.testing.assert_allclose(traces[0].potential_energy, traces[1].potential_energy, rtol=1e-3)


def test_progress_sees_every_transition():
    x, y = linear_data()
    seen = []
    sampler = short_sampler()
    sampler.run(sampler.init(jax.random.key(5), x, y), x, y, 3, lambda *event: seen.append(event))
    assert [(done, total) for done, total, _ in seen] == [(1, 34), (2, 34), (3, 34)]
    assert set(seen[0][2]) == {"acceptance", "step_size", "num_leapfrogs", "divergences"}


def test_progress_counts_the_divergences_after_the_warm_up_only():
    x, y = linear_data()
    for warmup in (0, 1):
        config = HmcConfig(num_chains=2, num_warmup=warmup, num_draws=3, step_size=1.5, warmup_leapfrogs=2)
        sampler, counts = plan_hmc(LINEAR, LIKE, config), []
        _, trace = sampler.run(
            sampler.init(jax.random.key(2), x, y),
            x,
            y,
            None,
            lambda *event, c=counts: c.append(event[2]["divergences"]),
        )
        assert trace.diverging[:, 0].any()
        np.testing.assert_array_equal(counts[warmup:], trace.diverging[:, warmup:].sum(0).cumsum())
        assert counts[:warmup] == [0.0] * warmup


def test_energy_is_potential_plus_kinetic_and_the_trajectory_has_its_length():
    x, y = linear_data()
    config = HmcConfig(num_chains=2, num_warmup=0, num_draws=20, trajectory_length=0.5, step_size=0.03, jitter=0.0)
    sampler = plan_hmc(LINEAR, LIKE, config)
    state = sampler.init(jax.random.key(2), x, y)
    state, trace = sampler.run(state, x, y)
    np.testing.assert_array_equal(trace.num_leapfrogs, 17)  # ceil(0.5 / 0.03)
    np.testing.assert_allclose(trace.step_size, 0.5 / 17, rtol=1e-6)  # float32
    assert np.all(trace.energy >= trace.potential_energy)
    params = sampler.draws(state.position)
    joint = jax.vmap(LINEAR.log_joint, in_axes=(0, None, None))(params, x, y)
    np.testing.assert_allclose(trace.potential_energy[:, -1], -joint, rtol=1e-5)  # float32


def test_jitter_frees_a_direction_that_the_length_would_freeze():
    def log_density(params, inputs, targets):
        return -0.5 * jnp.sum(params["w"] ** 2) / 0.25  # sd 1/2: half a period is pi / 2

    spreads = []
    for jitter in (0.0, 0.3):
        config = HmcConfig(num_chains=64, num_warmup=0, num_draws=40, step_size=0.02, jitter=jitter)
        sampler = plan_hmc_of_density(log_density, dict(w=jnp.zeros(2)), dict(w=1.0), config)
        start = dict(w=jnp.full((64, 2), 3.0))
        _, trace = sampler.run(sampler.init(jax.random.key(0), 0.0, 0.0, start), 0.0, 0.0)
        spreads.append(np.abs(trace.position[:, 30:]).mean())
        if jitter:
            assert trace.num_leapfrogs.min() >= 55  # 0.7 and 1.3 of 78.5
            assert trace.num_leapfrogs.max() <= 103
    # |w| of a Gaussian of sd 1/2 is 0.4 on average; without jitter the start at 3 is hardly forgotten.
    assert spreads[0] > 2.0
    assert abs(spreads[1] - 0.4) < 0.1


def test_a_long_trajectory_is_cut_at_its_cap():
    x, y = linear_data()
    config = HmcConfig(num_chains=1, num_warmup=0, num_draws=2, step_size=0.01, max_leapfrogs=5)
    sampler = plan_hmc(LINEAR, LIKE, config)
    _, trace = sampler.run(sampler.init(jax.random.key(2), x, y), x, y)
    np.testing.assert_array_equal(trace.num_leapfrogs, 5)
    np.testing.assert_allclose(trace.step_size, 0.01, rtol=1e-6)  # float32
    assert cut_short(config, trace).all()


def test_only_trajectories_that_end_early_after_the_warm_up_count_as_cut_short():
    x, y = linear_data()
    _, trace = short_sampler().run(short_sampler().init(jax.random.key(5), x, y), x, y)
    assert not cut_short(SHORT, trace).any()
    # What took 0.1 of the way with as many leapfrogs as were allowed is cut, but not in the warm-up.
    shorter = trace._replace(step_size=0.1 * trace.step_size)
    np.testing.assert_array_equal(cut_short(SHORT, shorter), np.broadcast_to(np.arange(34) >= 24, (3, 34)))
    nuts = dataclasses.replace(SHORT, kernel="nuts", max_tree_depth=3)
    leapfrogs = np.full((3, 34), 6, np.int32)
    leapfrogs[1, [3, 30]] = 7
    assert np.argwhere(cut_short(nuts, trace._replace(num_leapfrogs=leapfrogs))).tolist() == [[1, 30]]


def test_a_wild_step_size_diverges_and_is_recorded():
    x, y = linear_data()
    config = HmcConfig(num_chains=2, num_warmup=0, num_draws=3, step_size=1.5)
    sampler = plan_hmc(LINEAR, LIKE, config)
    _, trace = sampler.run(sampler.init(jax.random.key(2), x, y), x, y)
    assert trace.diverging.any()
    assert trace.acceptance[trace.diverging].max() == 0.0


def test_chains_start_at_the_members_they_are_given():
    x, y = linear_data()
    sampler = short_sampler()
    members = dict(bias=jnp.arange(4.0)[:, None], kernel=jnp.ones((4, 3, 1)))
    state = sampler.init(jax.random.key(0), x, y, start=members)
    back = sampler.draws(state.position)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:3], rtol=1e-6), back, members)  # float32
    with pytest.raises(ConfigError, match="3 chains need as many starting points, got 2"):
        sampler.init(jax.random.key(0), x, y, start=jax.tree.map(lambda leaf: leaf[:2], members))


def test_a_draw_of_hmc_is_one_of_all_positions_of_all_chains():
    x, y = linear_data()
    posterior = hmc_posterior(short_sampler(), x, y)
    state = posterior.init(jax.random.key(0))
    assert base.num_stacked(state) == 15
    drawn = posterior.sample(jax.random.key(1), state)
    assert any(np.array_equal(drawn["kernel"], kernel) for kernel in state["kernel"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(num_chains=0), "num_chains must be a whole number of at least 1, got 0"),
        (dict(num_warmup=-1), "num_warmup must be a whole number of at least 0, got -1"),
        (dict(num_draws=0), "num_draws must be a whole number of at least 1, got 0"),
        (dict(thinning=0), "thinning must be a whole number of at least 1"),
        (dict(likelihood_batches=0), "likelihood_batches must be a whole number of at least 1, got 0"),
        (dict(chains_at_once=0), "chains_at_once must be a whole number of at least 1 or None, got 0"),
        (dict(thinning=True), "thinning must be a whole number of at least 1, got True"),
        (dict(max_tree_depth=40), "max_tree_depth must be a whole number from 1 to 20, got 40"),
        (dict(max_leapfrogs=2**40), "max_leapfrogs must be a whole number from 1 to 16777216"),
        (dict(trajectory_length=0.0), "trajectory_length of HMC must be a finite number above 0"),
        (dict(step_size=float("nan")), "step_size must be a finite number, got nan"),
        (dict(jitter=1.0), "jitter must be at least 0 and below 1"),
        (dict(target_acceptance=1.0), "target_acceptance must lie between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        HmcConfig(**setting)


def test_chains_that_devices_cannot_share_are_refused():
    with pytest.raises(ConfigError, match="3 chains cannot be shared evenly by the 2 devices"):
        plan_hmc(LINEAR, LIKE, SHORT, Mesh(np.array(jax.devices()[:1] * 2), ("chain",)))


def test_a_mesh_without_chains_is_refused():
    with pytest.raises(ConfigError, match=r"mesh axis 'chain', got axes \('member',\)"):
        plan_hmc(LINEAR, LIKE, SHORT, Mesh(np.array(jax.devices()[:1]), ("member",)))
