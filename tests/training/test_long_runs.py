"""A run goes on only as what it was begun as: settings, data and seeds, and the message names what differs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo import locks
from jaxgeo.errors import ConfigError, RunFolderError
from jaxgeo.training import long_runs
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


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    with locks.held(tmp_path), pytest.raises(RunFolderError, match="is in use by another process"):
        train(tmp_path)
