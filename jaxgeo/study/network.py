"""The study's network as pure functions, the log joint that all methods share, and predictions of stacked trees."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.data.digits import NUM_CLASSES
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.study.config import StudyConfig


def classifier_config(config: StudyConfig) -> HealpixClassifierConfig:
    """What the classifier is told, in floating point."""
    return HealpixClassifierConfig(
        num_classes=NUM_CLASSES,
        nside=config.data.nside,
        features=config.model.features,
        patches=config.model.patches,
    )


def classifier(config: StudyConfig) -> HealpixClassifier:
    """The Flax module that every method shares."""
    return HealpixClassifier(classifier_config(config))


def _example(model: HealpixClassifier) -> Float[Array, "1 pixel channel"]:
    return jnp.zeros((1, 12 * model.config.nside**2, model.config.channels))


def log_joint_of(config: StudyConfig) -> LogJoint:
    """One prior and one likelihood: training, HMC and dropout all take this."""
    model = classifier(config)
    return LogJoint(pure_apply(model, _example(model)), GaussianPrior(config.model.prior_scale))


def initial_params(model: HealpixClassifier, key: PRNGKeyArray) -> Any:
    """A params tree drawn from the layers' own initial distributions."""
    return model.init(key, _example(model))["params"]


@functools.cache
def initializer(config: HealpixClassifierConfig) -> Callable[[PRNGKeyArray], Any]:
    """`initial_params` of one classifier as a function of the key: the same object at each call, compiled once."""
    return functools.partial(initial_params, HealpixClassifier(config))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _log_probs(model: HealpixClassifier, stacked: Any, images: Array, at_once: int) -> Array:
    def one(params: Any) -> Array:
        logits: Any = model.apply({"params": params}, images)
        return jax.nn.log_softmax(logits)

    return jax.lax.map(one, stacked, batch_size=at_once)


def log_probs_of(
    model: HealpixClassifier, stacked: Any, images: Float[Array, "image pixel channel"], at_once: int = 16
) -> Float[Array, "draw image class"]:
    """Log-softmax outputs of every draw of a stacked params tree, so many draws at a time."""
    return _log_probs(model, stacked, images, min(at_once, jax.tree.leaves(stacked)[0].shape[0]))
