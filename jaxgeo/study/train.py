"""The deep ensemble and the MC dropout networks: all members of a family in one compiled step, saved as they go."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.layers.dropout import RowDropout
from jaxgeo.posteriors import deep_ensemble, mc_dropout
from jaxgeo.progress import Progress
from jaxgeo.study.config import DropoutConfig, EnsembleConfig
from jaxgeo.study.network import classifier, initial_params, initializer, log_joint_of
from jaxgeo.study.run_folder import RunFolder
from jaxgeo.training.ensemble import (
    EnsembleState,
    Objective,
    TrainingConfig,
    block_size,
    init_ensemble,
    steps_per_epoch,
    train_epochs,
)
from jaxgeo.training.meshes import spread

_LEAF, _LOSSES = "leaf/", "losses"
_INIT, _MASKS = range(2)


def training_config(settings: EnsembleConfig | DropoutConfig) -> TrainingConfig:
    """The training room's own configuration."""
    return TrainingConfig(epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate)


def _pack(state: EnsembleState, losses: np.ndarray) -> dict[str, Any]:
    # Copies on the host: the next epoch reuses the buffers of the state.
    leaves = enumerate(jax.tree.leaves(state._replace(keys=jax.random.key_data(state.keys))))
    return {f"{_LEAF}{i:04d}": np.array(leaf) for i, leaf in leaves} | {_LOSSES: losses}


def _unpack(arrays: dict[str, Any], like: EnsembleState) -> tuple[EnsembleState, np.ndarray]:
    leaves = [jnp.asarray(arrays[name]) for name in sorted(arrays) if name.startswith(_LEAF)]
    form = jax.tree.structure(like._replace(keys=jax.random.key_data(like.keys)))
    state: EnsembleState = jax.tree.unflatten(form, leaves)
    return state._replace(keys=jax.random.wrap_key_data(state.keys)), arrays[_LOSSES]


def train_family(
    run: RunFolder,
    name: str,
    settings: EnsembleConfig | DropoutConfig,
    objective: Objective,
    progress: Progress,
    *,
    constant: float = 0.0,
) -> tuple[Any, np.ndarray]:
    """Train one family, or go on where it was broken off.

    Args:
        run: the run, whose maps are learned.
        name: of the family.
        settings: its part of the configuration.
        objective: what each member minimises.
        progress: where to say what happens.
        constant: part of the objective that no parameter changes; left out of the losses, which are then positive.

    Returns:
        Stacked parameters and the losses (member, epoch).
    """
    config, model, maps = training_config(settings), classifier(run.config), run.tree("project", "maps")
    inputs, labels = jnp.asarray(maps["train_images"]), jnp.asarray(maps["train_labels"])
    keys = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), _INIT), settings.members)
    state = init_ensemble(keys, initializer(model.config), config)
    mesh = spread("member", settings.members // block_size(settings.members, config))
    losses = np.zeros((0, settings.members), np.float32)
    images = settings.members * steps_per_epoch(config, len(labels)) * config.batch_size
    checkpoint = run.checkpoint("train", name)
    bar = progress.bar(name.replace("_", " "), "epochs")
    with checkpoint:
        saved = checkpoint.load()
        if saved is not None:
            state, losses = _unpack(saved, state)
        done = first = int(state.epoch)
        bar(done, config.epochs, {})
        clock = time.monotonic()
        while done < config.epochs:
            # Each is waited for, so that a stop waits for no more than one.
            state, history = train_epochs(state, objective, inputs, labels, config, 1, mesh)
            losses = np.concatenate([losses, np.asarray(history.loss) - np.float32(constant)])
            done += 1
            checkpoint.offer(_pack(state, losses))
            if done % settings.chunk_epochs and done < config.epochs:
                continue
            rate = (done - first) * images / max(time.monotonic() - clock, 1e-9)
            bar(done, config.epochs, {"loss": float(losses[-1].mean()), "images/s": rate})
        # The finished state too: a run that is broken off in the next family does not train this one again.
        checkpoint.offer(_pack(state, losses), now=saved is None or first < config.epochs)
    return jax.device_get(state.params), losses.T


def dropout_of(settings: DropoutConfig) -> RowDropout:
    """Rows of every kernel but the first, whose rows are pixels."""
    return RowDropout(rate=settings.rate, fixed=("conv_0",))


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Both families, the draws of the second, and their learning curves."""
    config, joint = run.config, log_joint_of(run.config)
    number = config.data.train_images
    shapes = jax.eval_shape(lambda: initial_params(classifier(config), jax.random.key(0)))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    constant = -float(joint.log_prior(nothing)) / number
    members, curves = train_family(
        run, "ensemble", config.ensemble, deep_ensemble.objective(joint, number), progress, constant=constant
    )
    dropout = dropout_of(config.dropout)
    constant = float(mc_dropout.kl_divergence(nothing, dropout, joint.prior)) / number
    networks, dropout_curves = train_family(
        run, "dropout", config.dropout, mc_dropout.objective(joint, dropout, number), progress, constant=constant
    )
    key = jax.random.fold_in(jax.random.key(config.dropout.seed), _MASKS)
    draws = mc_dropout.draws_of_members(key, networks, dropout, config.dropout.draws)
    figures = {
        "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(members)),
        "final_losses": {"ensemble": curves[:, -1].tolist(), "dropout": dropout_curves[:, -1].tolist()},
    }
    return {
        "figures.json": figures,
        "ensemble.safetensors": members,
        "dropout.safetensors": networks,
        "dropout_draws.safetensors": jax.device_get(draws),
        "curves.safetensors": {"ensemble": curves, "dropout": dropout_curves},
    }
