# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A class for every pixel of the sphere
#
# A street drawn for a fisheye camera goes onto the sphere, two small HEAL-SWINs learn to name its pixels, and a map of
# their entropy says where they are in doubt. Open as a notebook with jupytext, or run as a script.

# %%
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.data.fisheye_scenes import FisheyeScenesConfig, fisheye_scenes
from jaxgeo.dense_prediction.config import DataConfig, DenseConfig, FitConfig, NetworkConfig
from jaxgeo.dense_prediction.ensembles import average
from jaxgeo.dense_prediction.figures import example_figures
from jaxgeo.dense_prediction.fitting import fit, predictor
from jaxgeo.dense_prediction.networks import model_config
from jaxgeo.dense_prediction.problems import make_problem
from jaxgeo.grids.resample import fisheye_to_healpix, healpix_to_fisheye
from jaxgeo.grids.stencils import take_nearest
from jaxgeo.plotting.dense import class_map_figure, fisheye_figure
from jaxgeo.training.supervised import SupervisedConfig

# %% [markdown]
# ## From a fisheye picture to the sphere and back
# The camera sees more than half of the sphere: nearly all of the first eight of HEALPix's twelve faces. A stencil says
# for every pixel of the map where to look in the picture, and another one the way back. What differs after both is the
# cost of a map of this resolution: thin poles and markings, and corners beyond the eight faces.

# %%
NSIDE, FACES, SHAPE = 32, tuple(range(8)), (64, 80)
scenes = fisheye_scenes(FisheyeScenesConfig(image_shape=SHAPE), seeds=(7,))
street = scenes[0]
to_sphere, to_picture = (way(street.camera, NSIDE, FACES) for way in (fisheye_to_healpix, healpix_to_fisheye))
on_sphere = take_nearest(to_sphere, jnp.asarray(street.labels, jnp.int32), 255)  # (pixel,), NESTED
there_and_back = np.asarray(take_nearest(to_picture, on_sphere, 255))
seen = there_and_back != 255
kept = float(np.mean(there_and_back[seen] == street.labels[seen]))
print(f"{kept:.0%} of the pixels keep their class on the way to the sphere and back")
table = scenes.table
way_figure = fisheye_figure(
    street.image, {"from the sphere": there_and_back}, street.labels, table.names, colors=table.colors
)

# %% [markdown]
# ## Two networks
# `jaxgeo train heal-swin --preset scenes` does this at a useful size; here are a few pictures, small networks and few
# steps. A run lives in a folder, and the same call goes on with it where it was broken off.

# %%
config = DenseConfig(
    DataConfig(
        "scenes", nside=NSIDE, faces=8, train_examples=12, test_examples=2, image_rows=SHAPE[0], image_columns=SHAPE[1]
    ),
    NetworkConfig(embed_dim=16, depths=(1, 1), num_heads=(2, 4), patch_size=4, window_size=16, shift="grid"),
    FitConfig(balance=0.0, figures=0),
    SupervisedConfig(steps=80, batch_size=4, learning_rate=1e-2, warmup_steps=6, clip_norm=1.0),
)
problem = make_problem(config)
seeded = [dataclasses.replace(config, fit=dataclasses.replace(config.fit, seed=seed)) for seed in (0, 1)]
with tempfile.TemporaryDirectory() as folder:
    members = [fit(Path(folder) / f"member-{seed}", one, problem=problem) for seed, one in enumerate(seeded)]
accuracies = [member.scores["spaces"]["sphere"]["area_accuracy"] for member in members]
print(f"{members[0].scores['parameters']:,} parameters each; right on new streets: {accuracies[0]:.0f} % of the area, "
      f"{accuracies[1]:.0f} %")  # fmt: skip

# %% [markdown]
# ## Prediction and error
# On the sphere, and back in the picture. The large classes come first; what is thin or rare takes longer.

# %%
model = model_config(config, problem)
predictors = [predictor(model, member.params) for member in members]
figures = example_figures(config, problem, predictors[0], 0)

# %% [markdown]
# ## What an ensemble doubts
# The entropy of the mean prediction has two parts: the members' own entropy, and how far they disagree, which is the
# mutual information between the class and the network. `jaxgeo predict RUN RUN MAP` writes the same for maps in files.

# %%
example = problem.test[0]
log_probs = np.stack([np.asarray(jax.nn.log_softmax(predict(example.inputs))) for predict in predictors])
ensemble = average(log_probs)
wrong = ensemble.probabilities.argmax(-1) != example.targets
in_view = example.weights > 0
doubt_where_right, doubt_where_wrong = (
    float(ensemble.predictive_entropy[in_view & part].mean()) for part in (~wrong, wrong)
)
print(
    f"mean entropy where the ensemble is right {doubt_where_right:.2f} nats, where it is wrong {doubt_where_wrong:.2f}"
)


def whole(values):
    """On all twelve faces, with NaN where the camera does not see or the network has no faces."""
    shown = np.where(in_view.reshape(-1, *(1,) * (values.ndim - 1)), values, np.nan)
    return np.pad(shown, [(0, 4 * NSIDE**2), *[(0, 0)] * (values.ndim - 1)], constant_values=np.nan)


doubts = {
    "entropy of the mean": whole(ensemble.predictive_entropy),
    "mean entropy of the members": whole(ensemble.expected_entropy),
    "mutual information": whole(ensemble.mutual_information),
}
entropy_figure = class_map_figure(whole(ensemble.probabilities), table.names, doubts=doubts, colors=table.colors)
