"""Networks that learned the same classes of the same map: their mean prediction, and how far they agree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxgeo.dense_prediction.fitting import load_params, read_run_config
from jaxgeo.dense_prediction.networks import model_of
from jaxgeo.dense_prediction.problems import Meaning, form_of, meaning_of
from jaxgeo.errors import InputError
from jaxgeo.metrics import predictive, uncertainty
from jaxgeo.models.heal_swin import HealSwinConfig


class Member(NamedTuple):
    """A finished run, read."""

    model: HealSwinConfig
    params: Any
    meaning: Meaning


class Ensemble(NamedTuple):
    """Of every pixel; entropies and information in nats, predictive = expected + mutual information."""

    probabilities: Float[np.ndarray, "*pixel class"]  # mean of the members'
    predictive_entropy: Float[np.ndarray, "*pixel"]  # of the mean
    expected_entropy: Float[np.ndarray, "*pixel"]  # mean of the members'
    mutual_information: Float[np.ndarray, "*pixel"]  # what the members disagree on; 0 of a single one


def load_members(folders: Sequence[Path]) -> tuple[Member, ...]:
    """The runs of some folders, which must segment the same classes on the same faces at the same resolution.

    Their folds, seeds, sizes and training may differ. Of what they learnt from no example is made.

    Raises:
        RunFolderError: a folder without a finished run.
        InputError: a run that does not segment the sphere, or does not belong to the first; or one comes twice.
        ConfigError, CorruptFileError: as `form_of`.
    """
    configs = [read_run_config(folder) for folder in folders]
    repeated = [folder for i, folder in enumerate(folders) if folder.resolve() in [f.resolve() for f in folders[:i]]]
    if repeated:
        raise InputError(f"{repeated[0]} is given twice and would count double; name every member once")
    for folder, config in zip(folders, configs, strict=True):
        if config.network.kind != "heal_swin" or config.data.task != "segmentation":
            raise InputError(
                f"{folder} holds a {config.network.kind} for {config.data.task}, but maps of classes come from runs of "
                f"network.kind heal_swin and data.task segmentation"
            )
        _check_same(folders[0], folder, "data.nside", configs[0].data.nside, config.data.nside)
        faces = [" ".join(map(str, one.data.used_base_pixels)) for one in (configs[0], config)]
        _check_same(folders[0], folder, "faces in the same order", *faces)
    members = []
    for folder, config in zip(folders, configs, strict=True):
        params, meaning = load_params(folder), meaning_of(config)
        model = model_of(config, form_of(config))
        assert isinstance(model, HealSwinConfig)  # of kind heal_swin, see above
        members.append(Member(model, params, meaning))
        _check_same(folders[0], folder, "classes", members[0].meaning.class_names, meaning.class_names)
        channels = (len(one.means) for one in (members[0].meaning, meaning))
        _check_same(folders[0], folder, "number of input maps", *channels)
    return tuple(members)


def average(log_probs: Float[np.ndarray, "member *pixel class"]) -> Ensemble:
    """The mean prediction of at least one member and its uncertainty, from the members' log-probabilities."""
    return Ensemble(*(np.asarray(part) for part in _average(jnp.asarray(log_probs))))


@jax.jit
def _average(log_probs: jax.Array) -> tuple[jax.Array, ...]:
    return (
        jnp.exp(predictive.mean_log_probs(log_probs)),
        uncertainty.predictive_entropy(log_probs),
        uncertainty.expected_entropy(log_probs),
        uncertainty.mutual_information(log_probs),
    )


def _check_same(first: Path, other: Path, what: str, expected: Any, found: Any) -> None:
    if found != expected:
        if isinstance(expected, tuple):
            expected, found = ", ".join(expected), ", ".join(found)
        raise InputError(
            f"members of an ensemble need the same {what}, but {first} has {expected} and {other} has {found}; predict "
            f"with each by itself"
        )
