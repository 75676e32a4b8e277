"""Chains on several devices: the same draws as on one, up to rounding."""

import os
import subprocess
import sys

import numpy as np

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint

x = jax.random.normal(jax.random.key(0), (30, 3))
y = jnp.argmax(x, axis=1)
like = dict(kernel=jnp.zeros((3, 3)))
config = HmcConfig(num_chains=8, num_warmup=6, num_samples=6, warmup_leapfrogs=5, step_size=0.1)
results = {}
for devices in (0, 8):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("chain",)) if devices else None
    sampler = plan_hmc(LogJoint(lambda p, x: x @ p["kernel"]), like, config, mesh)
    state, trace = sampler.run(sampler.init(jax.random.key(1), x, y), x, y)
    results[str(devices)] = trace.position
    assert len(state.position.sharding.device_set) == max(devices, 1)
np.savez(sys.argv[1], **results)
"""


def test_eight_devices_draw_what_one_draws(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    }
    out = tmp_path / "draws.npz"
    subprocess.run([sys.executable, "-c", PROGRAM, str(out)], env=environment, check=True, timeout=300)
    with np.load(out) as draws:
        assert draws["0"].shape == (8, 6, 9)
        # float64 roundings of differently batched products, grown over 12 transitions of a smooth posterior
        np.testing.assert_allclose(draws["8"], draws["0"], atol=1e-8)
