"""What `test_killed_training` runs: `ensemble_worker.py KILLED WHOLE OUT` trains the same members in two folders."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxgeo import files
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import LogJoint, pure_apply
from jaxgeo.training import long_runs
from jaxgeo.training.ensemble import TrainingConfig

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(64, 2)), jnp.float32)
y = jnp.asarray(x[:, 0] * x[:, 1] > 0, jnp.int32)
model = Mlp(MlpConfig(features=(4,)))
objective = deep_ensemble.objective(LogJoint(pure_apply(model, x[:1])), 64)


def init(key):
    return model.init(key, x[:1])["params"]


results = {}
for name, folder, every in (("killed", sys.argv[1], 1), ("whole", sys.argv[2], 40)):
    members, losses = long_runs.train_ensemble(
        Path(folder), long_runs.seeds(0, 0, 4), init, objective, x, y, TrainingConfig(epochs=40, batch_size=16),
        epochs_per_checkpoint=every, progress=lambda done, *_, name=name: print(name, done, flush=True),
    )  # fmt: skip
    results[name] = {"members": members, "losses": losses}
files.save_tree(Path(sys.argv[3]), results)
