"""Training, evaluation and timing of single cells of the study of equivariance against augmentation."""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.papers.augmentation_grid import Cell, DataSet, Grid, Task, Training, Trial
from jaxgeo.data.spherical_digits import NUM_CLASSES, SphericalDigits, load_spherical_digits
from jaxgeo.grids.latlon import pixel_areas
from jaxgeo.metrics import segmentation
from jaxgeo.models.planar_cnn import (
    CnnClassifier,
    CnnClassifierConfig,
    CnnSegmenter,
    CnnSegmenterConfig,
    count_parameters,
)
from jaxgeo.models.s2cnn_classifier import S2CNNClassifier, plan_s2cnn_classifier
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.training.losses import mean_cross_entropy

TEST_SEED = 20220203  # the same test images for all cells
TUNING_SEED = 19  # of trials: no seed of a cell
_CHUNK = 25  # steps in one compiled loop
_TEST_BATCH = 50

Progress = Callable[[int, int, float], None]
"""`progress(steps done, steps in all, loss)`."""


class Network(NamedTuple):
    """A model as pure functions; tables are an argument, and running statistics go in and come out."""

    init: Callable[[jax.Array], Any]  # key -> (params, statistics)
    apply: Callable[..., tuple[jax.Array, Any]]  # (params, statistics, plan, images, train) -> (logits, statistics)
    plan: Any


@functools.lru_cache(maxsize=8)
def network_of(config: Any) -> Network:
    """The network of a configuration; the same object for the same configuration, so that it is compiled once."""
    planar = isinstance(config, (CnnSegmenterConfig, CnnClassifierConfig))
    plan: Any = None
    if isinstance(config, CnnSegmenterConfig):
        module: Any = CnnSegmenter(config)
    elif isinstance(config, CnnClassifierConfig):
        module = CnnClassifier(config)
    elif isinstance(config, S2CNNSegmenterConfig):
        module, plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config)
    else:
        module, plan = S2CNNClassifier(config), plan_s2cnn_classifier(config)

    def apply(params, statistics, plan, images, train=False):
        arguments = (images[..., None],) if planar else (plan, images[..., None])
        variables = {"params": params, **statistics}
        if train and statistics:
            return module.apply(variables, *arguments, train=True, mutable=["batch_stats"])
        return module.apply(variables, *arguments, train=train), statistics

    def init(key, plan):
        image = jnp.zeros((side_of(config),) * 2 + (1,))
        variables = module.init(key, image) if planar else module.init(key, plan, image)
        return variables["params"], {name: value for name, value in variables.items() if name == "batch_stats"}

    return Network(functools.partial(jax.jit(init), plan=plan), apply, plan)


def side_of(config: Any) -> int:
    """Rows (= columns) of the images that a configuration's network takes."""
    return config.size if hasattr(config, "size") else 2 * config.input_bandlimit


@functools.lru_cache(maxsize=1)
def _largest_set(data: DataSet, count: int, rotated: bool, seed: int) -> SphericalDigits:
    config = dataclasses.replace(data.digits, rotated=rotated)
    return load_spherical_digits(data.source, config, count, 1, seed=seed)[0]


def images_of(grid: Grid, data: str, num_train: int, rotated: bool, seed: int) -> SphericalDigits:
    """Training images of one data set: the first ones of the grid's largest such set, which is made once."""
    sizes = [cell.num_train for cell in grid.cells if (cell.data, cell.augmented) == (data, rotated)]
    full = _largest_set(grid.data[data], max(sizes, default=num_train), rotated, seed)
    return SphericalDigits(*(part[:num_train] for part in full))


@functools.lru_cache(maxsize=6)
def test_images_of(data: DataSet, count: int, rotated: bool) -> SphericalDigits:
    """Test images of one data set: the same digits, rotated or not."""
    config = dataclasses.replace(data.digits, rotated=rotated)
    return load_spherical_digits(data.source, config, 1, count, seed=TEST_SEED)[1]


def targets_of(task: Task, images: SphericalDigits) -> np.ndarray:
    """What is to be predicted: classes of pixels, or of the (first) digit."""
    return images.masks if task == "segmentation" else images.labels[:, 0].astype(np.uint8)


def parameters_of(config: Any) -> int:
    """Number of parameters of a configuration's network."""
    return count_parameters(jax.eval_shape(network_of(config).init, jax.random.key(0))[0])


@functools.lru_cache(maxsize=8)
def _trainer(config: Any) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    network, optimizer = network_of(config), optax.scale_by_adam()

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state, plan, images, targets, weights, rates):
        def loss_of(params, statistics, images, truth):
            logits, statistics = network.apply(params, statistics, plan, images, train=True)
            return mean_cross_entropy(logits, truth, jnp.broadcast_to(weights, truth.shape)), statistics

        def step(state, batch):
            params, statistics, moments = state
            *examples, rate = batch
            (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, statistics, *examples)
            updates, moments = optimizer.update(gradient, moments, params)
            params = jax.tree.map(lambda value, update: value - rate * update, params, updates)
            return (params, statistics, moments), loss

        state, losses = jax.lax.scan(step, state, (images, targets.astype(jnp.int32), rates))
        return state, jnp.mean(losses)

    return optimizer, steps


def learning_rates(peak: float, steps: int) -> np.ndarray:
    """Of each step: a twentieth of them from nearly nothing to the peak, then along a cosine to a hundredth of it."""
    warmup = max(1, steps // 20)
    rising = peak / warmup + (peak - peak / warmup) * np.arange(steps) / warmup
    share = np.clip((np.arange(steps) - warmup) / max(steps - warmup, 1), 0, 1)
    falling = peak * (0.01 + 0.99 * (1 + np.cos(np.pi * share)) / 2)
    return np.where(np.arange(steps) < warmup, rising, falling).astype(np.float32)


def train(
    config: Any,
    training: Training,
    images: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    seed: int,
    progress: Progress = lambda done, total, loss: None,
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Parameters and statistics of a trained network, and what training was like.

    Args:
        config: of the model.
        training: passes, batches, learning rate.
        images: (example, lat, lon).
        targets: (example, lat, lon) or (example,).
        weights: in the loss; as many axes as the targets, of length 1 or theirs.
        seed: of initialisation and order.
        progress: called now and then.
    """
    network = network_of(config)
    optimizer, steps = _trainer(config)
    rates = learning_rates(training.learning_rate, training.steps(len(images)))
    params, statistics = network.init(jax.random.key(seed))
    state = params, statistics, optimizer.init(params)
    each = jnp.asarray(weights, jnp.float32)
    rng, order = np.random.default_rng(seed), np.zeros(0, np.int64)
    done, loss, seconds, cpu, timed = 0, float("nan"), 0.0, 0.0, 0
    while done < len(rates):
        count = min(_CHUNK, len(rates) - done)
        while len(order) < count * training.batch_size:
            order = np.concatenate([order, rng.permutation(len(images))])
        rows, order = np.split(order, [count * training.batch_size])
        rows = rows.reshape(count, training.batch_size)
        start, start_cpu = time.perf_counter(), time.process_time()
        # Gathered on the host: one compiled program serves training sets of all sizes, and these need no device memory.
        batches = jnp.asarray(images[rows]), jnp.asarray(targets[rows])
        state, mean = steps(state, network.plan, *batches, each, jnp.asarray(rates[done : done + count]))
        loss = float(mean)
        if done:  # the first chunk may have compiled
            seconds, timed = seconds + time.perf_counter() - start, timed + count
            cpu += time.process_time() - start_cpu
        done += count
        progress(done, len(rates), loss)
    figures: dict[str, Any] = {"final_loss": loss if math.isfinite(loss) else None, "steps": done}
    if timed:
        figures |= {"seconds_per_step": seconds / timed, "cpu_seconds_per_step": cpu / timed}
    return state[:2], figures


@functools.lru_cache(maxsize=8)
def _predictor(config: Any) -> Callable[..., jax.Array]:
    network = network_of(config)
    return jax.jit(lambda state, plan, images: jnp.argmax(network.apply(*state, plan, images)[0], axis=-1))


def predict(config: Any, state: tuple[Any, Any], images: np.ndarray) -> np.ndarray:
    """Classes (example, ...) of all images, batch by batch."""
    network, predictor = network_of(config), _predictor(config)
    found = []
    for start in range(0, len(images), _TEST_BATCH):
        rows = np.arange(start, start + _TEST_BATCH) % len(images)
        found.append(np.asarray(predictor(state, network.plan, jnp.asarray(images[rows]))))
    return np.concatenate(found)[: len(images)]


def segmentation_scores(predictions: np.ndarray, masks: np.ndarray, areas: np.ndarray) -> dict[str, float]:
    """Intersection over union and accuracies in percent, with pixels or areas as weights.

    `miou` is the mean over digits without background, as published; `miou_all` has background.
    """
    scores = {}
    for name, weights in (("pixel", np.ones_like(areas)), ("area", areas)):
        matrices = [
            segmentation.confusion_matrix(
                jnp.asarray(predictions[rows]),
                jnp.asarray(masks[rows]),
                NUM_CLASSES,
                jnp.broadcast_to(jnp.asarray(weights, jnp.float32)[None], masks[rows].shape),
            )
            for rows in np.array_split(np.arange(len(masks)), max(1, len(masks) // 100))
        ]
        confusion = segmentation.accumulate(matrices)
        scores[f"{name}_miou"] = 100 * segmentation.mean_iou(confusion, background=0)
        scores[f"{name}_miou_all"] = 100 * segmentation.mean_iou(confusion)
        scores[f"{name}_accuracy"] = 100 * segmentation.accuracy(confusion)
        scores[f"{name}_foreground_accuracy"] = 100 * segmentation.foreground_accuracy(confusion)
    return scores


def run_cell(grid: Grid, cell: Cell, progress: Progress = lambda done, total, loss: None) -> dict[str, Any]:
    """Train one cell and test it on unrotated and rotated images; a row of plain numbers."""
    start, start_cpu = time.perf_counter(), time.process_time()
    data = grid.data[cell.data]
    config, training = grid.networks[cell.task, cell.network], grid.training[cell.task, cell.network]
    train_set = images_of(grid, cell.data, cell.num_train, cell.augmented, cell.seed)
    state, figures = _fit(config, training, cell.task, data, train_set, cell.seed, progress)
    row: dict[str, Any] = dataclasses.asdict(cell) | {"parameters": count_parameters(state[0])} | figures
    for pose, rotated in (("unrotated", False), ("rotated", True)):
        row[pose] = _scores(config, state, cell.task, data, test_images_of(data, grid.num_test, rotated))
    return row | {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}


def run_trial(grid: Grid, trial: Trial, progress: Progress = lambda done, total, loss: None) -> dict[str, Any]:
    """Train with one learning rate and score on held-out training images, unrotated; test images are not looked at."""
    start, start_cpu = time.perf_counter(), time.process_time()
    data, count = grid.data[trial.data], grid.num_tuning
    config = grid.networks[trial.task, trial.network]
    training = dataclasses.replace(grid.training[trial.task, trial.network], learning_rate=trial.learning_rate)
    # Until every image of the source has been taken once, those after the first `count` are different ones.
    both = _largest_set(data, count + count // 4, False, TUNING_SEED)
    train_set, held_out = (
        SphericalDigits(*(part[rows] for part in both)) for rows in (slice(count), slice(count, None))
    )
    state, figures = _fit(config, training, trial.task, data, train_set, TUNING_SEED, progress)
    row: dict[str, Any] = dataclasses.asdict(trial) | {"parameters": count_parameters(state[0])} | figures
    row["held_out"] = _scores(config, state, trial.task, data, held_out)
    return row | {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}


def _fit(
    config: Any, training: Training, task: Task, data: DataSet, images: SphericalDigits, seed: int, progress: Progress
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    weights = pixel_areas(data.digits.grid)[None] if task == "segmentation" else np.ones(1)
    return train(config, training, images.images, targets_of(task, images), weights, seed, progress)


def _scores(config: Any, state: tuple[Any, Any], task: Task, data: DataSet, test: SphericalDigits) -> dict[str, float]:
    predictions, truth = predict(config, state, test.images), targets_of(task, test)
    if task == "segmentation":
        return segmentation_scores(predictions, truth, pixel_areas(data.digits.grid))
    return {"accuracy": 100 * float(np.mean(predictions == truth))}


def _wait(function: Callable[..., jax.Array], *arguments: Any) -> jax.Array:
    return jax.block_until_ready(function(*arguments))


def latencies(configs: dict[str, Any], repeats: int = 7) -> dict[str, dict[str, float]]:
    """Milliseconds to predict one image, networks in turn, medians; and their parameters."""
    calls = {}
    for name, config in configs.items():
        network, predictor = network_of(config), _predictor(config)
        state, image = network.init(jax.random.key(0)), jnp.zeros((1, side_of(config), side_of(config)))
        calls[name] = functools.partial(_wait, predictor, state, network.plan, image)
        calls[name]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"milliseconds": statistics.median(values), "parameters": parameters_of(configs[name])}
        for name, values in times.items()
    }
