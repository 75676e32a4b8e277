"""What `test_long_chains` kills: `chain_worker.py FOLDER ... FILE` runs the same chains in each folder."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import files
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.long_chains import sample_chains

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
y = jnp.asarray(rng.integers(0, 2, 12), jnp.int32)
joint = LogJoint(lambda params, inputs: inputs @ params["kernel"])
config = HmcConfig(
    num_chains=2, num_warmup=8, num_draws=24, thinning=2, adapt_mass=True, warmup_leapfrogs=2, max_leapfrogs=8
)
sampler = plan_hmc(joint, dict(kernel=jnp.zeros((3, 2))), config)


def say(done, total, values):
    print(f"{done} of {total} transitions, {int(values['divergences'])} divergences", flush=True)


*folders, out = sys.argv[1:]
results = {}
for folder in folders:
    run = sample_chains(Path(folder), sampler, jax.random.key(3), x, y, every=3, progress=say)
    results[Path(folder).name] = {"state": run.state._asdict(), "trace": run.trace._asdict()}
files.save_tree(Path(out), jax.device_get(results))
