"""Chains, and the examples of each, on several devices: the same draws as on one, up to rounding."""

import os
import subprocess
import sys

import numpy as np

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc, plan_hmc_of_density
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.training.meshes import make_mesh

x = jax.random.normal(jax.random.key(0), (32, 3))
y = jnp.argmax(x, axis=1)
like = dict(kernel=jnp.zeros((3, 3)))
joint = LogJoint(lambda p, x: x @ p["kernel"])
results = {}
in_parts = dict(kernel="nuts", max_tree_depth=3, likelihood_batches=2)
for name, settings, sizes in (("hmc", dict(adapt_mass=True), ((8, 1), (2, 4))), ("nuts", in_parts, ((4, 2),))):
    config = HmcConfig(num_chains=8, num_warmup=6, num_draws=6, warmup_leapfrogs=5, step_size=0.1, **settings)
    for chain, data in ((1, 1), *sizes):
        mesh = make_mesh(chain=chain, data=data) if chain * data > 1 else None
        sampler = plan_hmc(joint, like, config, mesh)
        state, trace = sampler.run(sampler.init(jax.random.key(1), x, y), x, y)
        results[f"{name} {chain} {data}"] = trace.position
        results[f"{name} {chain} {data} energy"] = trace.energy
        assert len(state.position.sharding.device_set) == chain * data
refused = (
    (lambda: sampler.init(jax.random.key(1), x[:31], y[:31]), "31 examples cannot be shared evenly by the 2 devices"),
    (lambda: plan_hmc_of_density(joint.log_joint, like, dict(kernel=1.0), config, mesh), "not known to be a sum"),
)
for call, message in refused:
    try:
        call()
    except ConfigError as error:
        assert message in str(error)
    else:
        raise AssertionError(message)
np.savez(sys.argv[1], **results)
"""


def test_eight_devices_draw_what_one_draws_however_chains_and_examples_are_spread(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    }
    out = tmp_path / "draws.npz"
    subprocess.run([sys.executable, "-c", PROGRAM, str(out)], env=environment, check=True, timeout=300)
    with np.load(out) as draws:
        assert len(draws.files) == 2 * (3 + 2)
        for name in draws.files:
            kernel, _, _, *energy = name.split()
            one = draws[" ".join([kernel, "1", "1", *energy])]
            assert one.shape == ((8, 12) if energy else (8, 6, 9))
            # float64 roundings of sums in another order, grown over 12 transitions of a smooth posterior
            np.testing.assert_allclose(draws[name], one, atol=1e-8, err_msg=name)
