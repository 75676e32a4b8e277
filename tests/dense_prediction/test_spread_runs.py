"""A batch that several devices share trains as on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from spread_run import learnt

HERE = Path(__file__).parent


def test_a_batch_on_four_devices_trains_as_on_one(tmp_path):
    used, losses, params = learnt(tmp_path / "one")
    assert used == {1}
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    command = [sys.executable, str(HERE / "spread_run.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"XLA_FLAGS": flags}, timeout=300)
    with np.load(tmp_path / "found.npz") as found:
        # float32 sums over a batch in another order, and three steps of norm 0.001.
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
        for name, values in params.items():
            np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)
            assert found[name].shape == values.shape
