"""A small run on as many devices as this process has: says how many of them held a batch, and what was learnt."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
from tiny_runs import SCENES, STEPS, TINY

from jaxgeo.dense_prediction import fitting
from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.files import flatten_tree

# Without Adam, which divides by gradients however small, rounding errors stay what they are.
TRAINING = dataclasses.replace(STEPS, batch_size=4, optimizer="sgd", learning_rate=1e-3, clip_norm=1.0, steps=3)
NETWORK = dataclasses.replace(TINY, depths=(1, 1), shift="grid")
CONFIG = DenseConfig(SCENES, NETWORK, FitConfig(evaluate_every=2, figures=0), TRAINING)


def learnt(folder):
    """(devices of the batches, losses, parameters) of a run."""
    used, put = set(), fitting.put

    def watched(tree, mesh, spec):
        found = put(tree, mesh, spec)
        if "data" in spec:
            used.update(len(leaf.addressable_shards) for leaf in jax.tree.leaves(found))
            assert all(shard.data.shape[0] == 4 // mesh.size for shard in found[0].addressable_shards)
        return found

    fitting.put = watched
    try:
        fitted = fitting.fit(folder, CONFIG)
    finally:
        fitting.put = put
    losses = [entry["loss"] for entry in fitted.scores["history"]]
    return used, np.array(losses), flatten_tree(jax.device_get(fitted.params))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    used, losses, params = learnt(folder / "run")
    assert used == {4}, used
    np.savez(folder / "found.npz", losses=losses, **params)
