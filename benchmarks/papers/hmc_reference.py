"""The HMC reference of a study in its folder: saved while it runs, and only read once it is finished."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxgeo import files
from jaxgeo.posteriors.hmc import Hmc
from jaxgeo.posteriors.hmc_state import HmcTrace
from jaxgeo.posteriors.long_chains import sample_chains
from jaxgeo.progress import Callback

FILE = "hmc.safetensors"


def reference_trace(
    folder: Path,
    sampler: Hmc,
    key: Array,
    inputs: Array,
    targets: Array,
    start: Callable[[], tuple[Any, float]],
    every: int,
    bar: Callback,
) -> tuple[HmcTrace, float]:
    """The trace of the whole run, and the processor seconds that it and its start took.

    Args:
        folder: of the study; unfinished chains lie in `checkpoints/hmc` of it, finished ones in `hmc.safetensors`.
        sampler: what runs.
        key: of the chains.
        inputs: all training inputs.
        targets: all training targets.
        start: the stacked starting points and the processor seconds that they took; called where there is work to do.
        every: transitions between two savings.
        bar: told after each.
    """
    path = folder / FILE
    saved = files.load_tree(path) if path.exists() else None
    # Earlier versions kept unfinished runs there too.
    if saved is None or int(saved["state"]["iteration"]) < sampler.config.num_transitions:
        points, seconds = start()
        run = sample_chains(
            folder / "checkpoints" / "hmc", sampler, key, inputs, targets, points, every=every, progress=bar
        )
        saved = {"state": run.state._asdict(), "trace": run.trace._asdict(), "seconds": run.cpu_seconds + seconds}
        files.save_tree(path, jax.tree.map(np.asarray, saved))
    return HmcTrace(**saved["trace"]), float(saved["seconds"])
