"""One run in one folder: trained, checkpointed, gone on with to the same numbers, and judged.

RUN/config.json           what was asked for
RUN/checkpoints/...       the state of training, by Orbax
RUN/params.safetensors    once finished; the last parameters, or the best by validation (fit.keep_best, fit.patience)
RUN/figures/...           test examples with predictions, labels and errors, on the sphere and in their pictures
RUN/scores.json           their scores, and the history of training

Where there are several devices, as many of them as divide a batch (or each of its micro-batches) share it along the
`data` axis of a mesh, with the parameters on all: a batch of 8 is 2 examples on each of four GPUs. A step is the same
function of the whole batch, so that runs differ by the rounding of sums alone.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxgeo import files, locks
from jaxgeo.config_files import check_same_settings, from_dict, to_dict
from jaxgeo.data.order import batch_order, batch_rows
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.dense_prediction.figures import draw_examples
from jaxgeo.dense_prediction.networks import make_apply, make_network, make_step, model_config, model_of
from jaxgeo.dense_prediction.problems import Form, Predict, Problem, batch_of, form_of, make_problem, view_of
from jaxgeo.dense_prediction.scoring import headline, score, score_spaces
from jaxgeo.errors import ConfigError, RunFolderError
from jaxgeo.models.heal_swin import HealSwinConfig
from jaxgeo.models.swin import SwinConfig
from jaxgeo.models.swin_weights import heal_swin_from_torch, swin_from_torch
from jaxgeo.torch_files import read_state_dict
from jaxgeo.training.checkpoints import Checkpoints
from jaxgeo.training.meshes import put, spread
from jaxgeo.training.supervised import SupervisedConfig, init_supervised

Callback = Callable[[int, int, Mapping[str, float]], None]
_PARAMS, _SCORES, _CONFIG = "params.safetensors", "scores.json", "config.json"
_WEIGHTS = "weights"  # in the scores: where parameters come from that were not trained here


class Fitted(NamedTuple):
    """A finished run."""

    params: Any
    scores: dict[str, Any]


def predictor(model: HealSwinConfig | SwinConfig, params: Any) -> Predict:
    """Outputs of one example."""
    plan, apply = make_network(model).plan, make_apply(model)
    return lambda inputs: np.asarray(apply(params, plan, jnp.asarray(inputs)))


def check_run(folder: Path, config: DenseConfig) -> bool:
    """Whether a run of these settings lies in a folder already; where not, it is empty or does not exist.

    Raises:
        ConfigError: it was begun with other settings.
        RunFolderError: it holds something else.
    """
    if (folder / _CONFIG).exists():
        check_same_settings(folder, read_run_config(folder), config)
        return True
    if folder.exists() and (not folder.is_dir() or any(entry.name != locks.NAME for entry in folder.iterdir())):
        raise RunFolderError(f"{folder} is not empty and no run; choose a folder that is empty or does not exist")
    return False


def open_run(folder: Path, config: DenseConfig) -> None:
    """Make the folder of a run, unless one of the same settings lies there.

    Raises:
        ConfigError: it was begun with other settings.
        RunFolderError: it cannot be written, or holds something else.
    """
    if not check_run(folder, config):
        files.write_json_atomically(files.make_folder(folder) / _CONFIG, to_dict(config))


def read_run_config(folder: Path) -> DenseConfig:
    """The settings of a run.

    Raises:
        RunFolderError: no run lies there.
        CorruptFileError: its settings are damaged.
    """
    path = folder / _CONFIG
    if not path.is_file():
        raise RunFolderError(f"{folder} holds no run of dense prediction: there is no {_CONFIG} in it")
    return from_dict(DenseConfig, files.read_json(path))


def load_params(folder: Path) -> Any:
    """Parameters of a finished run.

    Raises:
        RunFolderError: it is not finished.
        CorruptFileError: the file is damaged.
    """
    if not (folder / _PARAMS).is_file():
        raise RunFolderError(f"{folder} holds no finished training; go on with it by the command that began it")
    return files.load_tree(folder / _PARAMS)


def fit(
    folder: Path,
    config: DenseConfig,
    progress: Callback = lambda done, total, values: None,
    problem: Problem | None = None,
) -> Fitted:
    """Train, or go on where the run in this folder was broken off; a finished run is read.

    Args:
        folder: of the run.
        config: of the run.
        progress: called after every step, and with the score after every evaluation.
        problem: the configuration's examples, where they are there already.

    Raises:
        ConfigError: the folder was begun with other settings, or settings that do not go together.
        RunFolderError: the folder cannot be written, or another process works in it.
        CorruptFileError: a damaged checkpoint or data file.
    """
    return _finished(
        folder, config, problem, None, lambda model, problem: _train(folder, config, problem, model, progress)
    )


def evaluate(folder: Path, config: DenseConfig, weights: Path, problem: Problem | None = None) -> Fitted:
    """The scores of a network whose weights are given, as a finished run of its own.

    Args:
        folder: of the run.
        config: of the run; what is said there of training has no influence.
        weights: PyTorch's or safetensors, by the published program's names (`jaxgeo.models.swin_weights`).
        problem: the configuration's examples, where they are there already.

    Raises:
        InputError: weights that do not fit the configured network; all that is wrong is named.
        ConfigError, RunFolderError, CorruptFileError: as `fit`, and of the file of weights.
    """
    weights = Path(weights)
    state, source = read_state_dict(weights), {"file": weights.name, "sha256": files.file_sha256(weights)}
    model = _model(config, problem)
    params = heal_swin_from_torch(model, state) if isinstance(model, HealSwinConfig) else swin_from_torch(model, state)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    return _finished(folder, config, problem, source, lambda model, problem: (params, []))


def _model(config: DenseConfig, problem: Problem | None) -> HealSwinConfig | SwinConfig:
    if problem is not None:
        return model_config(config, problem)
    # First as of any classes and channels: what no network can be is said also where there are no data.
    if config.network.kind == "heal_swin" or config.data.image_shape:
        model_of(config, Form(("any",), 1, config.data.image_shape))
    return model_of(config, form_of(config))


Make = Callable[[Any, Problem], tuple[Any, list[dict[str, Any]]]]
"""Model and problem to parameters, and the history of their training."""


def _finished(
    folder: Path, config: DenseConfig, problem: Problem | None, source: dict[str, str] | None, make: Make
) -> Fitted:
    """A run that lies finished in a folder, or else is made there."""
    folder = Path(folder)
    check_run(folder, config)
    if (folder / _SCORES).is_file() and (folder / _PARAMS).is_file():
        scores = files.read_json(folder / _SCORES)
        if scores.get(_WEIGHTS) != source:
            described = [
                f"weights of {each['file']}" if each else "training" for each in (scores.get(_WEIGHTS), source)
            ]
            raise ConfigError(f"{folder} holds scores after {described[0]}, not {described[1]}; take another folder")
        return Fitted(load_params(folder), scores)
    # What no network can be is refused before examples are made, which may take minutes, and leaves no folder.
    make_network(_model(config, problem))
    with locks.held(files.make_folder(folder)):
        problem = make_problem(config) if problem is None else problem
        model = model_config(config, problem)
        make_network(model)
        open_run(folder, config)
        params, history = make(model, problem)
        predict = predictor(model, params)
        scores = {
            "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(params))),
            "steps": history[-1]["step"] if history else 0,
            "spaces": score_spaces(problem, predict, view_of(config.data)),
            "history": history,
        } | ({_WEIGHTS: source} if source else {})
        files.save_tree(folder / _PARAMS, jax.device_get(params))
        draw_examples(folder / "figures", config, problem, predict)
        files.write_json_atomically(folder / _SCORES, scores)
        return Fitted(params, scores)


def training_of(config: DenseConfig, num_examples: int) -> SupervisedConfig:
    """The training of a run on so many examples: its steps are those of `fit.epochs`, where that is given.

    Raises:
        ConfigError: no fewer steps of warming up than steps.
    """
    if config.fit.epochs is None:
        return config.training
    steps = math.ceil(config.fit.epochs * num_examples / config.training.batch_size)
    return dataclasses.replace(config.training, steps=steps)


def _train(
    folder: Path, config: DenseConfig, problem: Problem, model: HealSwinConfig | SwinConfig, progress: Callback
) -> tuple[Any, list[dict[str, Any]]]:
    settings, network = training_of(config, len(problem.train)), make_network(model)
    step = make_step(model, config.fit, settings)
    classes = None if problem.class_weights is None else jnp.asarray(problem.class_weights)
    init_key, mask_key = jax.random.split(jax.random.key(config.fit.seed))
    mesh = spread("data", settings.batch_size // settings.micro_batches, jax.local_devices())
    # A copy on the first device is judged; the state lies on all, and only a batch is shared.
    first = jax.local_devices()[0]
    best, history = jax.device_put(jax.jit(network.init)(init_key), first), []
    state = put(init_supervised(mask_key, jax.tree.map(jnp.copy, best), settings), mesh, PartitionSpec())

    order = batch_order(len(problem.train), settings.batch_size, config.fit.seed)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        saved = checkpoints.restore((state, best))
        if saved is not None:
            (state, best), notes = saved
            history = notes["history"]
        done, begun, losses = int(state.step), time.monotonic(), []
        while done < settings.steps and not _stopped(history, config.fit.patience):
            batch = put(batch_of(problem, batch_rows(order, done)), mesh, PartitionSpec("data"))
            # A copy of the state is given away: what the best parameters share with it must live on.
            state, loss = step(state, network.plan, classes, batch)
            losses.append(float(loss))
            done += 1
            if not math.isfinite(losses[-1]):
                raise ConfigError(
                    f"the loss became {losses[-1]} at step {done}; what was saved before is still there. Take a lower "
                    f"training.learning_rate, or training.clip_norm above 0"
                )
            progress(done, settings.steps, {"loss": losses[-1]})
            if done % config.fit.evaluate_every == 0 or done == settings.steps:
                judged = jax.device_put(jax.tree.map(jnp.copy, state.judged), first)
                entry = {"step": done, "loss": float(np.mean(losses))}
                if problem.validation is not None:
                    scores = score(problem, predictor(model, judged), problem.validation)
                    entry["score"] = headline(problem, scores)
                if "score" not in entry or all(entry["score"] > former["score"] for former in history):
                    best = judged
                history = [*history, entry]
                losses = []
                progress(done, settings.steps, {key: value for key, value in entry.items() if key != "step"})
                checkpoints.save(done, (state, best), {"history": history, "seconds": time.monotonic() - begun})
    return best, history


def _stopped(history: list[dict[str, Any]], patience: int) -> bool:
    scores = [entry["score"] for entry in history] if patience else []
    return bool(patience) and len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def report_line(folder: Path, fitted: Fitted) -> str:
    """The figures of a run as one JSON object."""
    return json.dumps({"run": str(folder)} | {key: value for key, value in fitted.scores.items() if key != "history"})
