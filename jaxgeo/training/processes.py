"""Several processes as one machine: `jax.distributed`, joined by what the environment says.

    jaxgeo launch --processes 2 -- python train.py     # two processes on this machine
    srun --ntasks=8 python train.py                    # SLURM tells each task which one it is

`connect` is the first line of `train.py`. After it `jax.devices()` lists the devices of all processes, and the meshes
of `jaxgeo.training.meshes` spread members, chains and data over them. Every process runs the same program on the same
inputs; only process 0 speaks and writes what is not a checkpoint.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxgeo import locks
from jaxgeo.errors import ConfigError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CLUSTERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")


def connect() -> int:
    """Join the other processes, where there are any; call it before anything that touches a device.

    The three variables that `jaxgeo launch` sets are taken where they are there; else, in a job of several tasks of
    SLURM, of Open MPI, or of a Kubernetes job with an index, what JAX finds there; else this process stays alone.

    Returns:
        The number of processes.

    Raises:
        ConfigError: some of the variables are missing or no numbers.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if given:
        address, number, index = (given.get(name) for name in VARIABLES)
        if address is None or not (number or "").isdigit() or not (index or "").isdigit():
            raise ConfigError(
                f"processes find each other by all of {', '.join(VARIABLES)} (an address and two numbers), got "
                f"{given}; `jaxgeo launch` sets them"
            )
        jax.distributed.initialize(address, int(number or ""), int(index or ""))
    elif _in_a_cluster():
        jax.distributed.initialize()
    return jax.process_count()


def _in_a_cluster() -> bool:
    tasks = os.environ.get("SLURM_NTASKS") or os.environ.get("OMPI_COMM_WORLD_SIZE") or "1"
    indexed = "JOB_COMPLETION_INDEX" in os.environ
    return any(name in os.environ for name in _CLUSTERS) and (indexed or int(tasks) > 1)


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return jax.process_index() == 0


def held(folder: Path) -> contextlib.AbstractContextManager[None]:
    """`locks.held` of a folder that all processes work in together: process 0 holds it for them."""
    return locks.held(folder) if is_first() else contextlib.nullcontext()


def to_host(tree: PyTree) -> Any:
    """All of every array as NumPy arrays, on every process, also of arrays spread over processes.

    Typed keys are refused by JAX: convert them before.
    """

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)
