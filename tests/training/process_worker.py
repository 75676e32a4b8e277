"""What the processes of `test_distributed` run: `process_worker.py FOLDER EPOCHS OUT` trains and samples together."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import files
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.hmc import plan_hmc
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.log_joint import LogJoint, pure_apply
from jaxgeo.posteriors.long_chains import sample_chains
from jaxgeo.training import long_runs, meshes, processes
from jaxgeo.training.ensemble import TrainingConfig

processes.connect()
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(64, 2)), jnp.float32)
y = jnp.asarray(x[:, 0] * x[:, 1] > 0, jnp.int32)
model = Mlp(MlpConfig(features=(4,)))
joint = LogJoint(pure_apply(model, x[:1]))


def init(key):
    return model.init(key, x[:1])["params"]


def said(what):
    return lambda done, total, values: print(f"{what} {done}", flush=True)


devices = jax.device_count()
members, losses = long_runs.train_ensemble(
    Path(sys.argv[1]),
    long_runs.seeds(0, 0, 4),
    init,
    deep_ensemble.objective(joint, 64),
    x,
    y,
    TrainingConfig(epochs=int(sys.argv[2]), batch_size=16),
    mesh=meshes.make_mesh(member=2, data=devices // 2),
    epochs_per_checkpoint=1,
    progress=said("epoch"),
)
for draws in (2, 21):  # the second goes on where the first ended, from a checkpoint of all processes
    sampler = plan_hmc(
        joint,
        jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), members),
        HmcConfig(num_chains=2, num_warmup=3, num_draws=draws, warmup_leapfrogs=4, max_leapfrogs=4),
        meshes.make_mesh(chain=2),
    )
    start = jax.tree.map(jnp.asarray, members)
    chains = Path(sys.argv[1]).with_name(Path(sys.argv[1]).name + "-chains")
    run = sample_chains(chains, sampler, jax.random.key(1), x, y, start, every=3, progress=said("transition"))
assert run.trace.energy.shape == (2, 24)
state = processes.to_host(run.state)._asdict()  # by all processes together
if processes.is_first():
    results = {"members": members, "losses": losses, "state": state, "trace": run.trace._asdict()}
    files.save_tree(Path(sys.argv[3]), results)
