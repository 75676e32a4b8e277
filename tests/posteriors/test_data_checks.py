"""Wrong labels, missing rows, other states and half chains are refused, wherever data or settings come in."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.layers.unit_choice import UnitChoice
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, mean_field, non_parametric_dropout
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc, plan_hmc_of_density
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.langevin import LangevinConfig, langevin
from jaxgeo.posteriors.langevin_step import stiffness
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, last_layer_laplace
from jaxgeo.posteriors.log_joint import GaussianLikelihood, GaussianPrior, LogJoint
from jaxgeo.posteriors.microcanonical import MicrocanonicalConfig, microcanonical
from jaxgeo.posteriors.swag import SwagConfig, collect_snapshots, swag
from jaxgeo.training import ensemble, long_runs
from jaxgeo.training.ensemble import TrainingConfig
from jaxgeo.training.examples import CheckedObjective, check_labels, check_rows


def affine(params, x):
    return x @ params["kernel"] + params["bias"][None]


def init_member(key):
    return dict(kernel=jax.random.normal(key, (3, 2)), bias=jnp.zeros(2))


JOINT, LIKE = LogJoint(affine), init_member(jax.random.key(0))
X, Y = jax.random.normal(jax.random.key(5), (12, 3)), jnp.arange(12) % 2
SHORT = HmcConfig(num_chains=2, num_warmup=1, num_draws=2, warmup_leapfrogs=2, max_leapfrogs=2)
SNAPSHOTS = SwagConfig(num_snapshots=2, rank=2, steps_between=1, batch_size=4)
TURNS = MicrocanonicalConfig(num_chains=2, num_tuning=2, num_draws=1, thinning=1)
STEPS = LangevinConfig(num_chains=2, num_cycles=1, steps_per_cycle=2, draws_per_cycle=1, steps_between=1, batch_size=4)
EPOCHS = TrainingConfig(epochs=1, batch_size=4)
DROPOUT = RowDropout(rate=0.25)
NO_KEY = jax.random.key(0)
OBJECTIVES = {
    "deep_ensemble": (deep_ensemble.objective(JOINT, 12), init_member),
    "mc_dropout": (mc_dropout.objective(JOINT, DROPOUT, 12), init_member),
    "mean_field": (mean_field.objective(JOINT, 12), mean_field.init_gaussian(init_member)),
    "pairs": (non_parametric_dropout.objective(JOINT, 12), lambda key: dict.fromkeys(("first", "second"), LIKE)),
}


def train(name, x, y, folder):
    objective, init = OBJECTIVES[name]
    keys = long_runs.seeds(0, 0, 2)
    if folder is not None:
        return long_runs.train_ensemble(folder, keys, init, objective, x, y, EPOCHS)
    return ensemble.fit(ensemble.init_ensemble(keys, init, EPOCHS), objective, x, y, EPOCHS)


def hmc(kernel="hmc"):
    return plan_hmc(JOINT, LIKE, dataclasses.replace(SHORT, kernel=kernel))


@functools.cache
def begun():
    """A sampler and its state."""
    sampler = hmc()
    return sampler, sampler.init(NO_KEY, X, Y)


def hmc_run(x, y, folder):
    sampler, state = begun()
    return sampler.run(state, x, y)


ENTRANCES = {
    **{name: lambda x, y, folder, name=name: train(name, x, y, None) for name in OBJECTIVES},
    "train_ensemble": lambda x, y, folder: train("deep_ensemble", x, y, folder),
    "Hmc.init": lambda x, y, folder: hmc().init(NO_KEY, x, y),
    "Hmc.run": hmc_run,
    "NUTS": lambda x, y, folder: hmc("nuts").init(NO_KEY, x, y),
    "full_laplace": lambda x, y, folder: full_laplace(JOINT, LIKE, x, y),
    "last_layer_laplace": lambda x, y, folder: last_layer_laplace(JOINT, LIKE, x, y, "kernel"),
    "diagonal_laplace": lambda x, y, folder: diagonal_laplace(JOINT, LIKE, x, y),
    "kronecker_laplace": lambda x, y, folder: kronecker_laplace(JOINT, LIKE, x, y),
    "stiffness": lambda x, y, folder: stiffness(NO_KEY, JOINT, LIKE, x, y, 4),
    "swag": lambda x, y, folder: swag(init_member, JOINT, x, y, SNAPSHOTS).init(NO_KEY),
    "collect_snapshots": lambda x, y, folder: collect_snapshots(NO_KEY, JOINT.objective(12), LIKE, x, y, SNAPSHOTS),
    "langevin": lambda x, y, folder: langevin(init_member, JOINT, x, y, STEPS).init(NO_KEY),
    "microcanonical": lambda x, y, folder: microcanonical(init_member, JOINT, x, y, TURNS).init(NO_KEY),
}
WRONG = {
    "one-based": (X, Y + 1, r"0 \.\.\. 1, as the network predicts 2 classes, got values from 1 to 2; subtract 1"),
    "negative": (X, Y - 1, "got values from -1 to 0"),
    "real": (X, Y.astype(jnp.float32), "need an integer dtype, got float32"),
    "fewer": (X[:1], Y, "as many"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_wrong_labels_are_refused_wherever_data_come_in(entrance, wrong, tmp_path):
    x, y, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        ENTRANCES[entrance](x, y, tmp_path / "run")


def test_a_checked_objective_is_called_and_looked_up_like_a_function():
    objective = JOINT.objective(12)
    assert isinstance(objective, CheckedObjective)
    np.testing.assert_array_equal(objective(LIKE, NO_KEY, X, Y), objective.loss(LIKE, NO_KEY, X, Y))
    # By what it is made of: what XLA compiled for one is found again when it is asked for again, and for no other.
    assert {objective: 1}[JOINT.objective(12)] == 1
    assert objective != JOINT.objective(13)
    assert objective != dataclasses.replace(JOINT, prior=GaussianPrior(3.0)).objective(12)


def test_training_with_an_objective_that_is_asked_for_anew_traces_nothing():
    traced = []

    def apply(params, inputs):
        traced.append(inputs.shape)
        return affine(params, inputs)

    joint, config = LogJoint(apply), TrainingConfig(epochs=1, batch_size=6)
    state = ensemble.init_ensemble(jax.random.split(NO_KEY, 2), lambda key: LIKE, config)
    ensemble.fit(state, joint.objective(12), X, Y, config)
    first = len(traced)
    ensemble.fit(state, joint.objective(12), X, Y, config)
    assert (6, 3) in traced  # a step; checking the data asks for the shape of all predictions
    assert len(traced) == first


def test_a_likelihood_of_ones_own_says_itself_what_its_targets_must_be():
    silent = LogJoint(affine, likelihood=lambda predictions, targets: -jnp.abs(predictions[:, 0] - targets))
    assert silent.check_data(LIKE, X, Y + 0.5) == 12  # nothing is known of them but their number
    with pytest.raises(InputError, match=r"inputs \(1, 3\) and targets \(12,\)"):
        silent.check_data(LIKE, X[:1], Y)
    regression = LogJoint(affine, likelihood=GaussianLikelihood(1.0))
    assert regression.check_data(LIKE, X, jnp.zeros((12, 2))) == 12
    # (12, 1) would be broadcast against (12, 2), and each prediction be held against one target.
    with pytest.raises(InputError, match=r"must have the shape \(12, 2\).*got \(12, 1\)"):
        regression.check_data(LIKE, X, jnp.zeros((12, 1)))
    with pytest.raises(InputError, match=r"targets must be finite, got nan at index \(1, 1\)"):
        regression.check_data(LIKE, X, np.where(np.arange(24).reshape(12, 2) == 3, np.nan, 0.0))
    # A density that is not known to be a sum over examples takes what it likes.
    free = plan_hmc_of_density(
        lambda params, x, y: -jnp.sum(params["w"] ** 2), dict(w=jnp.zeros(2)), dict(w=1.0), SHORT
    )
    assert free.init(NO_KEY, 0.0, jnp.zeros(3)).position.shape == (2, 2)


def test_labels_of_pixels_and_traced_labels_are_checked_as_far_as_they_are_known():
    check_labels(np.array([[0, 3], [1, 2]], np.uint8), (2, 2), 4)
    with pytest.raises(InputError, match=r"shape \(2, 2\).*got \(4,\)"):
        check_labels(np.zeros(4, np.int32), (2, 2), 4)
    with pytest.raises(InputError, match="one-hot"):
        check_labels(jax.nn.one_hot(Y, 2), (12,), 2)
    traced = jax.jit(lambda y: JOINT.check_data(LIKE, X, y) + jnp.sum(y))
    assert traced(Y) == 18
    with pytest.raises(InputError, match="integer dtype"):
        traced(Y.astype(jnp.float32))
    with pytest.raises(InputError, match="as many targets"):
        traced(Y[:-1])


def test_trees_of_inputs_have_one_number_of_rows():
    assert check_rows({"a": X, "b": X[:, 0]}, Y) == 12
    for inputs, targets in (({"a": X, "b": X[:3]}, Y), (X[:0], Y[:0]), (X, 1.0), ({}, Y)):
        with pytest.raises(InputError, match="at least one example, and as many targets as inputs"):
            check_rows(inputs, targets)


def test_a_state_of_other_chains_another_network_or_precision_is_refused():
    sampler, state = begun()
    three = plan_hmc(JOINT, LIKE, dataclasses.replace(SHORT, num_chains=3))
    narrow = plan_hmc(LogJoint(affine), dict(kernel=jnp.zeros((3, 1)), bias=jnp.zeros(2)), SHORT)
    half = state._replace(position=state.position.astype(jnp.float16))
    for plan, other, message in (
        (three, state, "key_data of 3 chains of 8 parameters has the shape .3,., got .2,."),
        (three, state._replace(key_data=np.zeros((3, 2), np.uint32)), "position of 3 chains of 8 parameters"),
        (narrow, state, r"position of 2 chains of 5 parameters has the shape \(2, 5\), got \(2, 8\)"),
        (sampler, half, "positions are float16, but the network's parameters are float32"),
    ):
        with pytest.raises(InputError, match=message):
            plan.run(other, X, Y)


def test_a_state_of_other_data_or_another_log_joint_is_refused_and_its_own_goes_on():
    sampler, state = begun()
    moved, _ = sampler.run(state, X, Y, 1)
    wide = plan_hmc(dataclasses.replace(JOINT, prior=GaussianPrior(30.0)), LIKE, SHORT)
    for plan, inputs, targets in ((sampler, X[::-1], Y), (sampler, X, (Y + 1) % 2), (wide, X, Y)):
        with pytest.raises(InputError, match=r"of other data or another log joint: where chain \d is, the gradient"):
            plan.run(moved, inputs, targets)
    with jax.debug_nans(False), pytest.raises(InputError, match="differs by nan"):
        sampler.run(moved._replace(gradient=jnp.full_like(moved.gradient, jnp.nan)), X, Y)
    # Nothing is asked where nothing is done.
    assert sampler.run(moved, X[::-1], Y, 0)[1].position.shape == (2, 0, 8)
    assert int(sampler.run(moved, X, Y)[0].iteration) == SHORT.num_transitions


def test_a_chain_is_not_begun_where_it_would_stay_for_ever():
    start = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), LIKE)
    with jax.debug_nans(False):
        start["bias"] = jnp.asarray(np.array([[0, 0], [np.nan, 0]], np.float32))
        with pytest.raises(InputError, match=r"the log joint is nan where chain 1 starts \(1 of 2 chains"):
            hmc().init(NO_KEY, X, Y, start)


def test_a_chain_is_not_begun_where_the_gradient_has_no_value():
    # |p| as a square root of p^2: of value 0 and without a derivative at 0.
    density = plan_hmc_of_density(
        lambda params, x, y: -jnp.sum(jnp.sqrt(params["w"] ** 2)), dict(w=jnp.zeros(2)), dict(w=1.0), SHORT
    )
    with jax.debug_nans(False), pytest.raises(InputError, match="the gradient of the log joint is nan where chain 1"):
        density.init(NO_KEY, 0.0, jnp.zeros(3), dict(w=jnp.asarray([[1.0, 2.0], [0.0, 1.0]])))


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_inputs_that_are_not_finite_are_refused_wherever_data_come_in(entrance, tmp_path):
    with jax.debug_nans(False):
        x = jnp.asarray(np.where(np.arange(36).reshape(12, 3) == 7, np.nan, 1.0), jnp.float32)
        with pytest.raises(InputError, match=r"inputs must be finite, got nan at index \(2, 1\)"):
            ENTRANCES[entrance](x, Y, tmp_path / "run")


@pytest.mark.parametrize("family", [full_laplace, diagonal_laplace, kronecker_laplace])
def test_a_mode_that_is_not_finite_is_refused(family):
    mode = LIKE | dict(bias=np.array([0.0, np.inf], np.float32))
    with pytest.raises(InputError, match=r"the parameters must be finite, got inf at index \(1,\)"):
        family(JOINT, mode, X, Y)


CONFIGS = {
    SHORT: (
        "num_chains", "num_warmup", "num_draws", "thinning", "warmup_leapfrogs", "max_leapfrogs", "max_tree_depth",
        "chains_at_once", "likelihood_batches",
    ),
    SNAPSHOTS: ("num_snapshots", "rank", "steps_between", "batch_size"),
    TURNS: ("num_chains", "num_tuning", "num_draws", "thinning", "chains_at_once"),
    STEPS: ("num_chains", "num_cycles", "steps_per_cycle", "draws_per_cycle", "steps_between", "batch_size"),
    EPOCHS: ("epochs", "batch_size", "members_per_block"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "name"), [(c, name) for c, names in CONFIGS.items() for name in names])
def test_counts_are_whole_numbers(config, name):
    # Past the type checks of the test run, which users do not have.
    made = object.__new__(type(config))
    for field in dataclasses.fields(config):
        object.__setattr__(made, field.name, 2.5 if field.name == name else getattr(config, field.name))
    with pytest.raises(ConfigError, match=rf"{name}.* must be a whole number .* got 2\.5"):
        made.__post_init__()


MADE_ANEW = {
    "deep ensemble": lambda joint, rate: deep_ensemble.objective(joint, 12),
    "dropout": lambda joint, rate: mc_dropout.objective(joint, RowDropout(rate), 12),
    "drop connect": lambda joint, rate: drop_connect.objective(joint, WeightDropout(rate), 12),
    "non-parametric": lambda joint, rate: non_parametric_dropout.objective(joint, 12, UnitChoice(("last",))),
    "mean field": lambda joint, rate: mean_field.objective(joint, 12),
}


@pytest.mark.parametrize("family", MADE_ANEW)
def test_objectives_made_anew_of_equal_parts_are_equal_and_of_others_are_not(family):
    make = MADE_ANEW[family]
    one, again = make(JOINT, 0.25), make(dataclasses.replace(JOINT), 0.25)
    assert one == again
    assert hash(one) == hash(again)
    assert one != make(dataclasses.replace(JOINT, prior=GaussianPrior(3.0)), 0.25)
    assert (one == make(JOINT, 0.5)) == (family not in ("dropout", "drop connect"))
