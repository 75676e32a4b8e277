"""The study's network as pure functions, and the predictions of stacked parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.study.config import StudyConfig

NUM_CLASSES = 10


def classifier(config: StudyConfig) -> HealpixClassifier:
    """The Flax module that every method shares."""
    return HealpixClassifier(
        HealpixClassifierConfig(
            num_classes=NUM_CLASSES,
            nside=config.data.nside,
            widths=config.model.widths,
            patches=config.model.patches,
        )
    )


def pure_apply(model: HealpixClassifier) -> Any:
    """`apply(params, x) -> logits`, the function that training, HMC and export all take."""

    def apply(params: Any, x: Float[Array, "*batch pixel channel"]) -> Float[Array, "*batch classes"]:
        return model.apply({"params": params}, x)  # pyright: ignore[reportReturnType] -- one output, no variables

    return apply


def initial_params(model: HealpixClassifier, key: Any) -> Any:
    """A params tree drawn from the layers' own initial distributions."""
    shape = (1, 12 * model.config.nside**2, model.config.channels)
    return model.init(key, jnp.zeros(shape))["params"]


def log_probs_of(
    apply: Any, stacked: Any, images: Float[Array, "image pixel channel"], at_once: int = 16
) -> Float[Array, "draw image classes"]:
    """Log-softmax outputs of every draw of a stacked params tree, so many draws at a time."""

    def one(params: Any) -> Float[Array, "image classes"]:
        return jax.nn.log_softmax(apply(params, images))

    return jax.jit(lambda tree: jax.lax.map(one, tree, batch_size=at_once))(stacked)
