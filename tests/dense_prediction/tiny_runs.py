"""Runs of dense prediction so small that a test can afford them, and runs that were never trained."""

import jax
import numpy as np

from jaxgeo import files
from jaxgeo.dense_prediction.config import DataConfig, DenseConfig, FitConfig, NetworkConfig
from jaxgeo.dense_prediction.fitting import open_run
from jaxgeo.dense_prediction.networks import make_network, model_config
from jaxgeo.dense_prediction.problems import make_problem
from jaxgeo.training.supervised import SupervisedConfig

NSIDE = 8
TINY = NetworkConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), patch_size=4, window_size=4)
STEPS = SupervisedConfig(steps=5, batch_size=2, learning_rate=1e-2, warmup_steps=1, average_decay=0.5)
EARTH = DenseConfig(DataConfig("earth", nside=NSIDE, folds=3), TINY, FitConfig(evaluate_every=2), STEPS)
SCENES = DataConfig("scenes", nside=NSIDE, faces=8, train_examples=4, test_examples=4, image_rows=16, image_columns=24)
# A folder in WoodScape's format: rows and columns of its pictures, their names, and the camera of all.
ROWS, COLUMNS = 30, 40
NAMES = tuple(f"{number:05d}_{camera}" for number, camera in enumerate(("FV", "RV", "MVL", "MVR", "FV", "RV")))
INTRINSIC = {"model": "radial_poly", "poly_order": 4, "k1": 10.3, "k2": -0.6, "k3": 1.3, "k4": -0.2}
INTRINSIC |= {"aspect_ratio": 1.0, "cx_offset": 0.1, "cy_offset": -0.2, "width": COLUMNS, "height": ROWS}


def untrained_run(folder, config, seed):
    """The folder of a run whose parameters are random."""
    open_run(folder, config)
    network = make_network(model_config(config, make_problem(config)))
    # Only the shapes: nothing is compiled.
    shapes, rng = jax.eval_shape(network.init, jax.random.key(0)), np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    files.save_tree(folder / "params.safetensors", params)
    return folder
