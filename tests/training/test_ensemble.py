import copy
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.training import ensemble, losses, meshes
from jaxgeo.training.ensemble import TrainingConfig
from jaxgeo.training.shuffling import shuffled

CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-2)
DATA = np.random.default_rng(0)
INPUTS = jnp.asarray(DATA.normal(size=(30, 6)), jnp.float32)
LABELS = jnp.asarray(DATA.integers(0, 3, 30))


def init_fn(key):
    return {"kernel": 0.3 * jax.random.normal(key, (6, 3)), "bias": jnp.zeros(3)}


def objective(params, key, inputs, labels):
    kept = jax.random.bernoulli(key, 0.8, params["kernel"].shape)  # a mask on the parameters, as dropout families draw
    logits = inputs @ jnp.where(kept, params["kernel"], 0.0) + params["bias"][None]
    return losses.mean_cross_entropy(logits, labels)


def start(num_members=4, config=CONFIG, seed=0):
    return ensemble.init_ensemble(jax.random.split(jax.random.key(seed), num_members), init_fn, config)


def arrays(state):
    # Keys have a dtype of their own; their data compare as integers.
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(keys=jax.random.key_data(state.keys)))]


def assert_equal_bits(a, b):
    for one, other in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_training_in_pieces_equals_training_in_one_go_bit_for_bit(cut):
    whole, history = ensemble.train_epochs(start(), objective, INPUTS, LABELS, CONFIG, 4)
    state, first = ensemble.train_epochs(start(), objective, INPUTS, LABELS, CONFIG, cut)
    state, second = ensemble.train_epochs(state, objective, INPUTS, LABELS, CONFIG, 4 - cut)
    assert_equal_bits(state, whole)
    np.testing.assert_array_equal(np.concatenate([first.loss, second.loss]), history.loss)
    assert history.loss.shape == (4, 4)


def test_a_member_equals_a_plain_loop_over_its_own_batches():
    state = start(num_members=3)
    params = jax.tree.map(lambda leaf: leaf[1], state.params)
    key = state.keys[1]
    trained, history = ensemble.train_epochs(state, objective, INPUTS, LABELS, CONFIG, 2)
    optimizer = optax.adam(ensemble.learning_rate_schedule(CONFIG, 30))
    opt_state = optimizer.init(params)
    for epoch in range(2):
        order_key, mask_key = jax.random.split(jax.random.fold_in(key, epoch))
        order = np.asarray(shuffled(order_key, 30))
        seen = []
        for step in range(3):  # the last 6 of 30 do not fill a batch of 8
            rows = order[8 * step : 8 * step + 8]
            loss, gradients = jax.value_and_grad(objective)(
                params, jax.random.fold_in(mask_key, step), INPUTS[rows], LABELS[rows]
            )
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            seen.append(float(loss))
        # float32: another order of summation in batched products, over six steps.
        np.testing.assert_allclose(history.loss[epoch, 1], np.mean(seen), rtol=1e-5)
    for found, expected in zip(jax.tree.leaves(trained.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-6)


def test_members_differ_and_equal_keys_give_equal_members():
    keys = jax.random.split(jax.random.key(3), 2)
    state = ensemble.init_ensemble(jnp.stack([keys[0], keys[1], keys[0], keys[1]]), init_fn, CONFIG)
    trained, _ = ensemble.train_epochs(state, objective, INPUTS, LABELS, CONFIG, 2)
    kernel = np.asarray(trained.params["kernel"])
    np.testing.assert_array_equal(kernel[:2], kernel[2:])
    assert np.abs(kernel[0] - kernel[1]).max() > 0.05


def test_a_second_call_traces_nothing():
    traced = []

    def counted(*arguments):
        traced.append(arguments)
        return objective(*arguments)

    state, _ = ensemble.train_epochs(start(), counted, INPUTS, LABELS, CONFIG, 1)
    first = len(traced)
    assert first
    ensemble.train_epochs(state, counted, INPUTS, LABELS, CONFIG, 3)
    assert len(traced) == first


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_lowers_the_loss_of_every_member(optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer, epochs=30, schedule="constant")
    _, history = ensemble.fit(start(config=config), objective, INPUTS, LABELS, config)
    assert np.all(history.loss[-1] < history.loss[0])


def test_fit_reports_progress_resumes_and_stops_at_the_last_epoch():
    reports = []
    state, history = ensemble.fit(
        start(), objective, INPUTS, LABELS, CONFIG, progress=lambda *args: reports.append(args), epochs_per_report=3
    )
    assert [(done, total) for done, total, _ in reports] == [(3, 4), (4, 4)]
    assert reports[-1][2]["loss"] == pytest.approx(float(jnp.mean(history.loss[-1])))
    assert reports[-1][2]["images_per_second"] > 0
    half, _ = ensemble.train_epochs(start(), objective, INPUTS, LABELS, CONFIG, 2)
    resumed, rest = ensemble.fit(half, objective, INPUTS, LABELS, CONFIG)
    assert_equal_bits(resumed, state)
    np.testing.assert_array_equal(rest.loss, history.loss[2:])
    finished, nothing = ensemble.fit(resumed, objective, INPUTS, LABELS, CONFIG)
    assert nothing.loss.shape == (0, 4)
    assert int(finished.epoch) == 4


def test_the_schedule_rises_to_its_peak_and_ends_at_zero():
    config = TrainingConfig(epochs=10, batch_size=10, learning_rate=0.1, warmup_fraction=0.2)
    rate = ensemble.learning_rate_schedule(config, 100)
    values = np.array([float(rate(step)) for step in range(101)])
    assert np.argmax(values) == 20
    assert values[20] == pytest.approx(0.1)
    assert values[0] > 0
    assert np.all(np.diff(values[:21]) > 0)
    assert values[100] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("num_examples", "warmup"), [(64, 0.0), (64, 0.2), (37, 0.1), (8, 0.0)])
def test_the_step_schedule_is_a_tenth_from_half_and_a_hundredth_from_three_quarters_of_all_steps(num_examples, warmup):
    config = TrainingConfig(
        epochs=3, batch_size=8, learning_rate=0.1, schedule="step", warmup_fraction=warmup, optimizer="sgd"
    )
    steps = 3 * (num_examples // 8)
    rate = ensemble.learning_rate_schedule(config, num_examples)
    for step in range(int(warmup * steps), steps + 2):
        expected = 0.1 * 0.1 ** ((step >= steps / 2) + (step >= 3 * steps / 4))
        assert float(rate(step)) == pytest.approx(expected, rel=1e-6)  # float32


def test_nesterov_steps_are_those_written_out_and_plain_momentum_is_the_default():
    config = dataclasses.replace(
        CONFIG, optimizer="sgd", schedule="constant", warmup_fraction=0.0, batch_size=30, learning_rate=0.1
    )

    def quadratic(params, key, inputs, labels):
        return 0.5 * jnp.sum(params["kernel"] ** 2) + 0.0 * jnp.sum(params["bias"])

    for nesterov in (False, True):
        config = dataclasses.replace(config, nesterov=nesterov)
        state = start(num_members=1, config=config)
        weight, trace = np.asarray(state.params["kernel"], np.float64), 0.0
        state, _ = ensemble.train_epochs(state, quadratic, INPUTS, LABELS, config, 3)
        for _ in range(3):
            gradient = weight
            trace = 0.9 * trace + gradient
            weight = weight - 0.1 * (gradient + 0.9 * trace if nesterov else trace)
        np.testing.assert_allclose(state.params["kernel"], weight, rtol=1e-5, atol=1e-6)  # float32, three steps
    assert TrainingConfig().nesterov is False


def test_no_warm_up_starts_at_the_peak():
    config = TrainingConfig(schedule="constant", warmup_fraction=0.0, learning_rate=0.1)
    assert float(ensemble.learning_rate_schedule(config, 100)(0)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"members_per_block": 0}, "members_per_block must be"),
        ({"learning_rate": -1.0}, r"learning_rate must be a finite number above 0, got -1\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"learning_rate": "0.1"}, r"learning_rate must be a finite number, got '0\.1'"),
        ({"warmup_fraction": "0.1"}, r"warmup_fraction must be a finite number, got '0\.1'"),
        ({"weight_decay": True}, "weight_decay must be a finite number of at least 0, got True"),
        ({"warmup_fraction": 1.0}, "warmup_fraction"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, step, got 'linear'"),
        ({"schedule": "step", "warmup_fraction": 0.5}, "warmup_fraction must be below 0.5, got 0.5"),
        ({"nesterov": True}, "momentum of 'sgd', got optimizer 'adam'"),
        ({"optimizer": "lion"}, "got 'lion'"),
        ({"weight_decay": -0.1, "optimizer": "adamw"}, "weight_decay must be a finite number of at least 0"),
        ({"weight_decay": 0.1}, "needs optimizer 'adamw'"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    config = copy.copy(CONFIG)
    for name, value in changes.items():
        object.__setattr__(config, name, value)  # past beartype, which users do not have switched on
    with pytest.raises(ConfigError, match=message):
        config.__post_init__()


@pytest.mark.parametrize(
    "keys", [jax.random.key(0), jax.random.split(jax.random.key(0), (2, 2)), jax.random.PRNGKey(0)]
)
def test_other_than_one_key_for_each_member_is_refused(keys):
    with (
        without_type_checks(),
        pytest.raises(InputError, match=rf"jax\.random\.split.* got .* {re.escape(str(keys.shape))}"),
    ):
        ensemble.init_ensemble(keys, init_fn, CONFIG)


def test_zero_members_are_refused():
    with pytest.raises(ConfigError, match="at least 1 member, got 0"):
        start(num_members=0)


def test_a_batch_larger_than_the_data_is_refused_with_a_size_that_works():
    with pytest.raises(ConfigError, match=r"batch_size 8 is larger than the 5 .* at most 5"):
        ensemble.train_epochs(start(), objective, INPUTS[:5], LABELS[:5], CONFIG, 1)


def test_inputs_and_labels_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="as many targets as inputs"):
        ensemble.train_epochs(start(), objective, INPUTS, LABELS[:-1], CONFIG, 1)


def test_one_label_for_all_inputs_is_refused():
    for train in (ensemble.fit, lambda *arguments: ensemble.train_epochs(*arguments, 1)):
        with pytest.raises(InputError, match=r"as many targets as inputs .* got inputs \(30, 6\) and targets \(\)"):
            train(start(), objective, INPUTS, jnp.asarray(1), CONFIG)


def test_no_epochs_per_report_is_refused():
    with pytest.raises(ConfigError, match="epochs_per_report"):
        ensemble.fit(start(), objective, INPUTS, LABELS, CONFIG, epochs_per_report=0)


@pytest.mark.parametrize(("members", "size"), [(1, 1), (2, 2), (3, 1), (16, 2)])
def test_blocks_divide_the_members(members, size):
    assert ensemble.block_size(members, CONFIG) == size


def test_a_mesh_without_members_is_refused():
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ConfigError, match=r"axis 'member', got axes \('rows',\)"):
        ensemble.train_epochs(start(), objective, INPUTS, LABELS, CONFIG, 1, mesh)


def test_one_device_in_a_mesh_equals_no_mesh_bit_for_bit():
    plain, _ = ensemble.train_epochs(start(), objective, INPUTS, LABELS, CONFIG, 2)
    meshed, _ = ensemble.fit(
        start(), objective, INPUTS, LABELS, dataclasses.replace(CONFIG, epochs=4), meshes.make_mesh()
    )
    rest, _ = ensemble.train_epochs(plain, objective, INPUTS, LABELS, CONFIG, 2, meshes.make_mesh())
    assert_equal_bits(meshed, rest)


SHARDED = """
import hashlib, json
import jax, jax.numpy as jnp, numpy as np
from jaxgeo.errors import ConfigError
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.training import ensemble, losses, meshes

model = HealpixClassifier(HealpixClassifierConfig(nside=4, patches=(4, 4)))
def objective(params, key, inputs, labels):
    return losses.mean_cross_entropy(model.apply({"params": params}, inputs), labels)
rng = np.random.default_rng(0)
inputs = jnp.asarray(rng.normal(size=(70, 192, 1)), jnp.float32)
labels = jnp.asarray(rng.integers(0, 10, 70))
config = ensemble.TrainingConfig(epochs=3, batch_size=16)
init = lambda key: model.init(key, inputs[:1])["params"]
def train(devices, data=1):
    mesh = meshes.make_mesh(member=devices, data=data)
    state = ensemble.init_ensemble(jax.random.split(jax.random.key(0), 16), init, config)
    state, history = ensemble.train_epochs(state, objective, inputs, labels, config, 3, mesh)
    used = len(jax.tree.leaves(state.params)[0].sharding.device_set)
    return used, np.concatenate([np.asarray(l).ravel() for l in jax.tree.leaves((state.params, history))])
one, two, eight = train(1), train(2), train(8)
both = train(2, data=4)
messages = []
for sizes in ((3, 1), (1, 3)):
    try:
        train(*sizes)
    except ConfigError as error:
        messages.append(str(error))
print(json.dumps({"used": [one[0], two[0], eight[0]], "one": float(np.abs(one[1] - eight[1]).max()),
                  "two": float(np.abs(two[1] - eight[1]).max()),
                  "both": float(np.abs(both[1] - eight[1]).max()), "all": both[0],
                  "finite": bool(np.isfinite(one[1]).all()), "messages": messages}))
"""


def test_two_and_eight_devices_agree_bit_for_bit_and_with_one_up_to_rounding():
    root = pathlib.Path(ensemble.__file__).parents[2]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["used"] == [1, 2, 8]
    assert found["finite"]
    # Both run the same program on blocks of the same two members.
    assert found["two"] == 0.0
    # XLA compiles a program for one device by other passes, so the optimiser's arithmetic differs in the last bit of
    # values below 1 (6e-8 after one epoch); twelve steps may add that up.
    assert found["one"] <= 2e-6
    # Members over two devices, each batch over four: sums of gradients in another order, scaled by Adam.
    assert found["all"] == 8
    assert found["both"] <= 2e-5
    assert "16 members in blocks of 2 cannot be shared evenly by 3 devices" in found["messages"][0]
    assert "a batch of 16 cannot be shared evenly by the 3 devices along the mesh axis 'data'" in found["messages"][1]
