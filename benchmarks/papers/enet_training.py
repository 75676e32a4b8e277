"""Training for `benchmarks.papers.enet`: fits that resume, quantised variants, scores of held-out frames."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgeo import files
from jaxgeo.config_files import check_same_settings
from jaxgeo.data.driving import DRIVING_CLASSES, SegmentationSet, network_input
from jaxgeo.errors import ConfigError, CorruptFileError
from jaxgeo.metrics import segmentation
from jaxgeo.models.enet import ENet, ENetConfig, init_enet
from jaxgeo.progress import Callback
from jaxgeo.training import enet_precision as precision
from jaxgeo.training.dense_losses import weighted_cross_entropy
from jaxgeo.training.pruning import apply_masks, keep_masks, magnitude_masks, zero_share

CLASSES = len(DRIVING_CLASSES)
CALIBRATION_IMAGES, SENSITIVITY_IMAGES = 16, 8
LOW, HIGH, LOW_SHARE = 4, 8, 0.7  # of the heterogeneous network
SPARSITY = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """How networks are trained; what a folder was begun with is what it goes on with.

    Raises:
        ConfigError: a number out of its range.
    """

    epochs: int = 30
    """passes over the training frames in floating point"""
    tune_epochs: float = 4.0
    """passes of each fixed-point network; parts of one are allowed"""
    batch: int = 4
    rate: float = 5e-3
    """of Adam at its peak"""
    tune_rate: float = 1e-3
    crop: tuple[int, int] = (152, 240)
    """rows and columns of the random part of a frame that a step takes, divisible by 8"""
    images: int = 0
    """training frames; 0 takes all"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.epochs < 1 or self.batch < 1 or self.images < 0 or not self.tune_epochs > 0:
            raise ConfigError(
                f"epochs, batch and passes of fine-tuning must be above 0 and images not negative, got {self.epochs}, "
                f"{self.batch}, {self.tune_epochs} and {self.images}"
            )
        if not (self.rate > 0 and self.tune_rate > 0):
            raise ConfigError(f"learning rates must be above 0, got {self.rate} and {self.tune_rate}")
        if min(self.crop) < 8 or self.crop[0] > 152 or self.crop[1] > 240 or self.crop[0] % 8 or self.crop[1] % 8:
            raise ConfigError(f"a crop has rows and columns divisible by 8, up to 152 x 240, got {self.crop}")


class Fitted(NamedTuple):
    """Parameters, running statistics (empty where norms are folded) and the mean loss of each part of a pass."""

    params: Any
    stats: Any
    losses: list[float]


Loss = Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


def class_weights(labels: np.ndarray) -> np.ndarray:
    """1 / ln(1.02 + share) of each class, as ENet is trained (arXiv:1606.02147, section 5.2)."""
    counts = np.bincount(labels[labels < CLASSES].ravel(), minlength=CLASSES)
    return (1 / np.log(1.02 + counts / counts.sum())).astype(np.float32)


def batches(data: SegmentationSet, settings: Settings, epoch: int, steps: int) -> Any:
    """Random crops, half of them mirrored, of frames in an order drawn anew: equal arguments give equal batches."""
    generator = np.random.default_rng((settings.seed, epoch))
    order = np.resize(generator.permutation(len(data.images)), steps * settings.batch)
    rows, columns = settings.crop
    for chosen in order.reshape(steps, settings.batch):
        x, y = [], []
        for frame in chosen:
            top = generator.integers(0, data.images.shape[1] - rows + 1)
            left = generator.integers(0, data.images.shape[2] - columns + 1)
            step = -1 if generator.random() < 0.5 else 1
            window = slice(top, top + rows), slice(left, left + columns)
            x.append(data.images[frame][window][:, ::step])
            y.append(data.labels[frame][window][:, ::step])
        yield network_input(np.stack(x)), np.stack(y).astype(np.int32)


def fit(
    path: Path,
    loss: Loss,
    start: Fitted,
    data: SegmentationSet,
    settings: Settings,
    *,
    passes: float,
    rate: float,
    masks: Any = None,
    report: Callback | None = None,
) -> Fitted:
    """Adam with a warm-up and a cosine, written after each pass, so that a run that broke off goes on with the next.

    Args:
        path: of the state.
        loss: `(params, stats, x, y) -> (loss, new stats)`.
        start: first parameters and statistics.
        data: training frames.
        settings: of the study.
        passes: over the data; of the last one a part may be taken.
        rate: of learning, at its peak.
        masks: of weights that stay zero.
        report: told of each step.

    Raises:
        ConfigError: the state on disk is of other settings.
    """
    whole = max(1, len(data.images) // settings.batch)
    total = max(1, round(passes * whole))
    warm = max(1, total // 10)
    schedule = optax.join_schedules(
        [optax.linear_schedule(rate / warm, rate, warm), optax.cosine_decay_schedule(rate, max(1, total - warm))],
        [warm],
    )
    parts = [optax.adam(schedule)] + ([keep_masks(masks)] if masks is not None else [])
    optimiser = optax.chain(*parts)
    state = (start.params, start.stats, optimiser.init(start.params))
    done, losses = 0, []
    said = {**dataclasses.asdict(settings), "crop": list(settings.crop), "passes": passes}
    if path.exists():
        arrays, note = files.load_arrays_and_note(path)
        check_same_settings(path, note["settings"], said)
        leaves = [jnp.asarray(arrays[f"{k:04}"]) for k in range(len(arrays))]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        done, losses = int(note["done"]), list(note["losses"])  # pyright: ignore[reportArgumentType]

    @jax.jit
    def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
        params, stats, moments = state
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats, x, y)
        updates, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), stats, moments), value

    while done < total:
        steps = min(whole, total - done)
        values = []
        for x, y in batches(data, settings, done // whole, steps):
            state, value = step(state, x, y)
            values.append(float(value))
            if report is not None:
                report(done + len(values), total, {"loss": values[-1]})
        done += steps
        losses.append(float(np.mean(values)))
        leaves = {f"{k:04}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(state))}
        files.save_arrays(path, leaves, {"settings": said, "done": done, "losses": losses})
    return Fitted(*jax.device_get(state[:2]), losses)


def stored_variables(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and statistics of a fit with batch norms; `like` gives their names.

    Raises:
        RunFolderError: there is no such file.
        CorruptFileError: it is damaged, or of another network.
    """
    return dict(zip(("params", "batch_stats"), _stored(path, (like["params"], like["batch_stats"])), strict=True))


def stored_params(path: Path, like: Any) -> Any:
    """Parameters of a fit without norms; errors as of `stored_variables`."""
    return _stored(path, (like,))[0]


def _stored(path: Path, like: Any) -> Any:
    arrays = files.load_arrays(path)
    wanted = jax.tree.leaves(like)
    # Parameters and statistics come first, the optimiser's moments behind them.
    found = [arrays.get(f"{k:04}", np.zeros(0)) for k in range(len(wanted))]
    if any(np.shape(a) != np.shape(b) for a, b in zip(found, wanted, strict=True)):
        raise CorruptFileError(f"{path} is of another network; give the folder of the same number of filters")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in found])


def cropped(config: ENetConfig, settings: Settings) -> ENet:
    """The network at the size of the crops."""
    return ENet(dataclasses.replace(config, rows=settings.crop[0], columns=settings.crop[1]))


def train_float(
    path: Path,
    config: ENetConfig,
    data: SegmentationSet,
    settings: Settings,
    report: Callback | None = None,
    *,
    start: Mapping[str, Any] | None = None,
    passes: float | None = None,
) -> Fitted:
    """The network with batch norms, in floating point; by default from random variables for `settings.epochs`."""
    network, weights = cropped(config, settings), jnp.asarray(class_weights(data.labels))
    variables = init_enet(jax.random.key(settings.seed), config) if start is None else start

    def loss(params: Any, stats: Any, x: jax.Array, y: jax.Array) -> Any:
        logits, new = network.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return weighted_cross_entropy(logits, y, class_weights=weights), new["batch_stats"]

    first = Fitted(variables["params"], variables["batch_stats"], [])
    passes = settings.epochs if passes is None else passes
    return fit(path, loss, first, data, settings, passes=passes, rate=settings.rate, report=report)


def tune(
    path: Path,
    config: ENetConfig,
    params: Any,
    data: SegmentationSet,
    settings: Settings,
    *,
    masks: Any = None,
    report: Callback | None = None,
) -> Fitted:
    """A folded network trained on through its rounding (or without, where it has no precision)."""
    network, weights = cropped(config, settings), jnp.asarray(class_weights(data.labels))

    def loss(params: Any, stats: Any, x: jax.Array, y: jax.Array) -> Any:
        logits = network.apply({"params": params}, x)
        return weighted_cross_entropy(logits, y, class_weights=weights), stats

    start = Fitted(jax.tree.map(jnp.asarray, params), {}, [])
    passes, rate = settings.tune_epochs, settings.tune_rate
    return fit(path, loss, start, data, settings, passes=passes, rate=rate, masks=masks, report=report)


def predictor(config: ENetConfig, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Classes of bytes (image, row, col, 3)."""
    network = ENet(config)
    compiled = jax.jit(lambda x: jnp.argmax(network.apply({"params": params}, x), -1).astype(jnp.uint8))
    return lambda images: np.asarray(compiled(network_input(images)))


def score(predict: Callable[[np.ndarray], np.ndarray], data: SegmentationSet, batch: int) -> dict[str, Any]:
    """Pixel accuracy, mean IoU and the IoU of each class over all labelled pixels of a set, in percent."""
    matrices = []
    for begin in range(0, len(data.images), batch):
        images, labels = data.images[begin : begin + batch], data.labels[begin : begin + batch]
        missing = batch - len(images)
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))  # one shape, one program
        decided = predict(padded)[: len(images)]
        matrices.append(segmentation.confusion_matrix(jnp.asarray(decided), jnp.asarray(labels), CLASSES))
    total = segmentation.accumulate(matrices)
    each = 100 * segmentation.intersection_over_union(total)
    return {
        "pixel_accuracy": 100 * segmentation.accuracy(total),
        "mean_iou": 100 * segmentation.mean_iou(total),
        "iou": dict(zip(DRIVING_CLASSES, map(float, each), strict=True)),
    }


def heterogeneous(
    path: Path, config: ENetConfig, params: Mapping[str, Any], data: SegmentationSet
) -> precision.ENetBits:
    """Bits by measured sensitivities on training frames; measured once and kept in the file."""
    if path.exists():
        kept = files.read_json(path)
        return precision.ENetBits(kept["weights"], kept["results"])
    chosen = np.linspace(0, len(data.images) - 1, SENSITIVITY_IMAGES).astype(int)
    x, y = jnp.asarray(network_input(data.images[chosen])), jnp.asarray(data.labels[chosen].astype(np.int32))
    weights = jnp.asarray(class_weights(data.labels))

    @jax.jit
    def loss(params: Any) -> jax.Array:
        return weighted_cross_entropy(ENet(config).apply({"params": params}, x), y, class_weights=weights)  # pyright: ignore[reportArgumentType]

    rises = precision.sensitivities(config, params, lambda params: float(loss(params)), low=LOW)
    sizes = precision.kernel_sizes(config, params)
    bits = precision.heterogeneous_bits(config, rises, sizes, high=HIGH, low=LOW, share=LOW_SHARE)
    kept = {"weights": dict(bits.weights), "results": dict(bits.results), "rises": rises}
    files.write_json_atomically(path, kept)
    return bits


def variant_config(
    name: str, folder: Path, config: ENetConfig, params: Any, data: SegmentationSet
) -> tuple[ENetConfig, Any]:
    """The folded network of a variant, and the masks of its zero weights (None where there are none)."""
    masks = magnitude_masks(params, SPARSITY) if "pruned" in name else None
    if masks is not None:
        params = apply_masks(params, masks)
    kind = name.removesuffix(" pruned")
    if kind in ("float", "float tuned"):
        return config, masks
    if kind == "heterogeneous":
        bits = heterogeneous(folder / "bits.json", config, params, data)
    elif kind == "published bits":
        bits = precision.published_bits(config)
    else:
        bits = precision.uniform_bits(config, int(kind.removesuffix(" bits")))
    return with_bits(config, params, data, bits), masks


def with_bits(config: ENetConfig, params: Any, data: SegmentationSet, bits: precision.ENetBits) -> ENetConfig:
    """The folded network with formats of so many bits, calibrated on training frames."""
    chosen = np.linspace(0, len(data.images) - 1, CALIBRATION_IMAGES).astype(int)
    formats = precision.choose_enet_precision(config, params, jnp.asarray(network_input(data.images[chosen])), bits)
    return dataclasses.replace(config, precision=formats)


def run_variant(
    name: str,
    folder: Path,
    config: ENetConfig,
    params: Any,
    data: SegmentationSet,
    held: SegmentationSet,
    settings: Settings,
    report: Callback | None,
    bits: precision.ENetBits | None = None,
) -> tuple[dict[str, Any], ENetConfig, Any]:
    """Scores of one variant of a folded network, its config and parameters; finished ones are read from the folder.

    `float` is judged as it was trained; all others are fine-tuned first. Bits that are given are those of the variant,
    whatever its name.
    """
    start = time.monotonic()
    stem = name.replace(" ", "_")
    if bits is None:
        quantised, masks = variant_config(name, folder, config, params, data)
    else:
        quantised, masks = with_bits(config, params, data, bits), None
    if masks is not None:
        params = apply_masks(params, masks)
    row_path = folder / f"{stem}.json"
    tuned = params
    if name != "float":
        path = folder / f"{stem}.state"
        tuned = tune(path, quantised, params, data, settings, masks=masks, report=report).params
    if row_path.exists():
        return files.read_json(row_path), quantised, tuned
    row: dict[str, Any] = {"filters": config.filters, "variant": name, "zero_share": zero_share(tuned)}
    if quantised.precision is not None:
        sizes = precision.kernel_sizes(config, tuned)
        widths = [layer.weight.width for layer in quantised.precision.convolutions]
        row["mean_weight_bits"] = sum(map(int.__mul__, sizes.values(), widths)) / sum(sizes.values())
    row |= score(predictor(quantised, tuned), held, settings.batch)
    row["minutes"] = (time.monotonic() - start) / 60
    files.write_json_atomically(row_path, row)
    return row, quantised, tuned
