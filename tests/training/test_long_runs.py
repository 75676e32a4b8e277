"""A run goes on only as what it was begun as: settings, data and seeds, and the message names what differs."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo import interrupts, locks
from jaxgeo.errors import ConfigError, RunFolderError
from jaxgeo.training import ensemble, long_runs
from jaxgeo.training.ensemble import TrainingConfig
from jaxgeo.training.fingerprints import digest

CONFIG = TrainingConfig(epochs=2, batch_size=4, schedule="constant", warmup_fraction=0.0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
Y = jnp.asarray(X[:, 0] > 0, jnp.int32)
KEYS = long_runs.seeds(0, 0, 2)


def init(key):
    return {"kernel": jax.random.normal(key, (3,))}


def objective(params, key, inputs, labels):
    return jnp.mean((inputs @ params["kernel"] - labels) ** 2)


def train(folder, config=CONFIG, inputs=X, labels=Y, keys=KEYS):
    return long_runs.train_ensemble(folder, keys, init, objective, inputs, labels, config, epochs_per_checkpoint=1)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": dataclasses.replace(CONFIG, learning_rate=1e-3)}, "begun with learning_rate = 0.005, not 0.001"),
        ({"config": dataclasses.replace(CONFIG, optimizer="sgd")}, "begun with optimizer = 'adam', not 'sgd'"),
        ({"config": dataclasses.replace(CONFIG, epochs=3, schedule="cosine")}, "not 3"),
        ({"inputs": X.at[7, 2].add(1e-6)}, "begun with other training inputs"),
        ({"inputs": X.astype(jnp.float16)}, "begun with other training inputs"),
        ({"labels": Y[::-1]}, "begun with other labels"),
        ({"keys": long_runs.seeds(1, 0, 2)}, "begun with other seeds of the members"),
    ],
)
def test_what_differs_is_named_and_nothing_is_changed(begun, changes, said):
    folder, (params, losses) = begun
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ConfigError, match=said):
        train(folder, **changes)
    assert sorted(path.name for path in folder.iterdir()) == before
    again = train(folder)
    np.testing.assert_array_equal(again[0]["kernel"], params["kernel"])
    np.testing.assert_array_equal(again[1], losses)


def test_a_constant_rate_goes_on_to_more_epochs_in_other_blocks_as_if_never_stopped(begun, tmp_path):
    longer = dataclasses.replace(CONFIG, epochs=4)
    begun_shorter = tmp_path / "shorter"
    train(begun_shorter)
    went_on = train(begun_shorter, dataclasses.replace(longer, members_per_block=1))
    at_once = train(tmp_path / "at_once", longer)
    np.testing.assert_allclose(went_on[0]["kernel"], at_once[0]["kernel"], rtol=1e-5)  # float32, vmapped otherwise
    np.testing.assert_allclose(went_on[1], at_once[1], rtol=1e-5)
    assert went_on[1].shape == (4, 2)


def test_bfloat16_and_nested_inputs_have_a_fingerprint_of_values_names_and_types():
    tree = {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": jnp.zeros((2, 0))}
    assert digest(tree) == digest(jax.tree.map(np.asarray, tree))
    others = [
        {"a": tree["a"].at[0].set(1), "b": tree["b"]},
        {"a": tree["a"], "c": tree["b"]},
        {"a": tree["a"].astype(jnp.float16), "b": tree["b"]},
        {"a": tree["a"], "b": jnp.zeros((0, 2))},
    ]
    assert len({digest(other) for other in [tree, *others]}) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_an_epoch_loses_no_step_and_the_end_is_the_same_bits(tmp_path, monkeypatch, number):
    config = dataclasses.replace(CONFIG, epochs=3, batch_size=2)  # four steps an epoch
    whole = train(tmp_path / "whole", config)
    monkeypatch.setattr(long_runs, "next_steps", lambda steps, seconds: 1)
    done, plan = [], long_runs.plan_steps

    def told_to_stop(*arguments):
        steps = plan(*arguments)

        def run(state, totals, first, stop):
            done.extend(range(first, stop))
            if len(done) in (2, 7):
                os.kill(os.getpid(), number)
            return steps.run(state, totals, first, stop)

        return steps._replace(run=run)

    monkeypatch.setattr(long_runs, "plan_steps", told_to_stop)
    broken = tmp_path / "broken"
    for saved in ("2", "7"):
        with interrupts.heeded(), pytest.raises((interrupts.Terminated, KeyboardInterrupt)):
            train(broken, config)
        assert max(int(path.name) for path in broken.iterdir() if path.name.isdigit()) == int(saved)
    params, losses = train(broken, config)
    assert done == 3 * [0, 1, 2, 3]
    np.testing.assert_array_equal(params["kernel"], whole[0]["kernel"])
    np.testing.assert_array_equal(losses, whole[1])


def test_calls_grow_until_they_take_seconds_and_shrink_where_a_machine_slows_down():
    steps, taken = 1, []
    for step_s in [0.1] * 8 + [10.0] * 8:
        taken.append(steps * step_s)
        steps = long_runs.next_steps(steps, taken[-1])
    assert long_runs.CALL_S / 2 <= taken[7] <= long_runs.CALL_S
    assert taken[-1] == 10.0  # one step a call
    assert long_runs.next_steps(1, 1e3) == 1


def test_an_epoch_in_any_stretches_is_the_same_bits():
    def trained(*stops):
        state = ensemble.init_ensemble(KEYS, init, CONFIG)
        steps = ensemble.plan_steps(state, objective, X, Y, config)
        totals = steps.no_losses()
        for first, stop in zip((0, *stops[:-1]), stops, strict=True):
            state, totals = steps.run(state, totals, first, stop)
            assert int(state.epoch) == (stop == steps.number == 8)
        return np.asarray(state.params["kernel"]), np.asarray(totals)

    config = dataclasses.replace(CONFIG, batch_size=1)
    whole = trained(8)
    for stops in ((1, 8), (3, 4, 8), range(1, 9)):
        for one, other in zip(trained(*stops), whole, strict=True):
            np.testing.assert_array_equal(one, other)


def test_checkpoints_are_no_nearer_than_was_asked_for_but_the_last_is_there(tmp_path):
    told = []
    long_runs.train_ensemble(
        tmp_path, KEYS, init, objective, X, Y, dataclasses.replace(CONFIG, epochs=5), epochs_per_checkpoint=1,
        at_least_s=1e9, progress=lambda done, *_: told.append((done, sorted(tmp_path.glob("[0-9]*")))),
    )  # fmt: skip
    assert told == [*((epoch, []) for epoch in range(1, 5)), (5, [tmp_path / "10"])]


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    with locks.held(tmp_path), pytest.raises(RunFolderError, match="is in use by another process"):
        train(tmp_path)
