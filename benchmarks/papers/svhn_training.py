"""Networks of the study of compression: settings, images, training in floats, pruned, and through the rounding.

The parts of `benchmarks.papers.svhn_compression`, whose text says what is compared.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from benchmarks.papers.prices import PriceName
from jaxgeo.data.cifar import load_cifar10
from jaxgeo.data.digits import load_digits
from jaxgeo.data.svhn import load_svhn
from jaxgeo.errors import ConfigError
from jaxgeo.layers.learned_precision import VariableBits
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.training.bit_cost import soft_bit_operations
from jaxgeo.training.losses import mean_cross_entropy
from jaxgeo.training.pruning import PruningConfig, keep_masks, prune

BASELINE_BITS = 14
CALIBRATION_IMAGES, AT_ONCE = 200, 500

Images = Literal["fashion_mnist", "cifar10", "svhn"]
_ROWS = {"fashion_mnist": 28, "cifar10": 32, "svhn": 32}

_ADAM = optax.scale_by_adam()


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """One run."""

    data: Images = "fashion_mnist"
    size: int = 30
    """rows of the images, with zeros around them; SVHN and CIFAR-10 have 32, FashionMNIST 28, and 30 are the least that
    leave the published 2 x 2 x 24 numbers before the dense layers"""
    images: int = 10_000
    test_images: int = 3000
    float_epochs: int = 20
    tune_epochs: int = 6
    """of pruning, and of training at each width"""
    learned_epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 3e-3
    tune_rate: float = 1e-3
    bit_rate: float = 2e-2
    """of the bits that are learned, bits for each step"""
    sparsity: float = 0.5
    widths: tuple[int, ...] = (14, 12, 10, 8, 6, 5, 4, 3, 2, 1)
    prices: tuple[float, ...] = (3e-7, 3e-6)
    """of a bit operation, nats, where bits are learned"""
    budget: float = 0.2
    """of the greedy choice, a share of the cost at 8 bits; 0 leaves it out"""
    budget_of: PriceName = "ebops"
    """what that cost is: effective bit operations, or DSP slices or LUTs of the products by the bridge's model"""
    filter_shares: tuple[float, ...] = (1.0,)
    """of the filters and units of each layer, from which the greedy choice takes one"""
    filter_epochs: int = 1
    """of each network with fewer filters before it is judged"""
    filters: tuple[int, ...] = (16, 16, 24)
    units: tuple[int, ...] = (42, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what the parts would refuse late or not at all."""
        for name in ("float_epochs", "tune_epochs", "learned_epochs", "filter_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.images < max(self.batch_size, CALIBRATION_IMAGES) or self.test_images < 10:
            raise ConfigError(
                f"images must fill a batch and the {CALIBRATION_IMAGES} of the calibration, and at least 10 test "
                f"images are needed, got {self.images} and {self.test_images}"
            )
        if not self.widths or min(self.widths) < 1 or max(self.widths) > BASELINE_BITS:
            raise ConfigError(f"widths lie in 1 ... {BASELINE_BITS}, got {self.widths}")
        if not 0 <= self.budget <= 1:
            raise ConfigError(f"budget is a share in [0, 1], got {self.budget}; 0 makes no greedy choice")
        if self.budget and self.images <= CALIBRATION_IMAGES:
            raise ConfigError(
                f"candidates are judged on images behind the {CALIBRATION_IMAGES} of the calibration, got images = "
                f"{self.images}; take more, or budget = 0"
            )
        if not self.filter_shares or not 0 < min(self.filter_shares) <= max(self.filter_shares) <= 1:
            raise ConfigError(f"shares of filters lie in (0, 1], at least one, got {self.filter_shares}")
        if self.size < _ROWS[self.data]:
            raise ConfigError(
                f"the images of {self.data} are not cut, so size {self.size} is too small; take {_ROWS[self.data]}"
            )
        PruningConfig(self.sparsity)
        _ = self.network

    @property
    def network(self) -> SvhnCnnConfig:
        """As it is trained in floating point."""
        channels = 1 if self.data == "fashion_mnist" else 3
        return SvhnCnnConfig(size=self.size, channels=channels, filters=self.filters, units=self.units)

    @property
    def variable(self) -> SvhnCnnConfig:
        """As all widths are trained: folded, bits of each output channel."""
        bits = VariableBits(granularity="channel")
        return dataclasses.replace(self.network, norm="folded", precision=bits)


class Problem(NamedTuple):
    """Images in [0, 1], channels last."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def make_problem(config: CompressionConfig, root: Path | None = None) -> Problem:
    """The images of a run.

    Raises:
        JaxgeoError: files are missing or damaged, or there are fewer images than asked for.
    """
    if config.data == "fashion_mnist":
        data = load_digits(config.data, root, seed=config.seed, num_train=config.images, num_test=config.test_images)
        images, tests = (found[..., None] for found in (data.train_images, data.test_images))
        return Problem(_padded(images, config.size), data.train_labels, _padded(tests, config.size), data.test_labels)
    found: Any = load_svhn(root) if config.data == "svhn" else load_cifar10(root=root, num_train=config.images)
    rng = np.random.default_rng(config.seed)
    parts = []
    for images, labels, count in (
        (found.train_images, found.train_labels, config.images),
        (found.test_images, found.test_labels, config.test_images),
    ):
        if count > len(images):
            raise ConfigError(f"{count} images were asked for, and the file has {len(images)}")
        chosen = rng.permutation(len(images))[:count]
        parts += [_padded(images[chosen].astype(np.float32) / np.float32(255), config.size), labels[chosen]]
    return Problem(*parts)


def _padded(images: np.ndarray, size: int) -> np.ndarray:
    """Zeros around images (image, row, column, channel), the odd ones behind."""
    around = [((size - n) // 2, size - n - (size - n) // 2) for n in images.shape[1:3]]
    return np.pad(images, ((0, 0), *around, (0, 0)))


def batches(key: Array, config: CompressionConfig, epochs: int) -> Any:
    """Places of the images of each step."""
    steps = config.images // config.batch_size
    for epoch in range(epochs):
        rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), epoch])
        yield from rng.permutation(config.images)[: steps * config.batch_size].reshape(steps, -1)


def cosine(rate: float, step: int, steps: int) -> float:
    """The learning rate of a step."""
    return rate * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


@functools.partial(jax.jit, static_argnums=0)
def _float_step(network: SvhnCnnConfig, variables: Any, moments: Any, images: Array, labels: Array, rate: Array) -> Any:
    def loss(params: Any) -> tuple[Array, Any]:
        result: Any = SvhnCnn(network).apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        logits, changed = result
        return mean_cross_entropy(logits, labels), changed

    params = variables["params"]
    found: Any = jax.value_and_grad(loss, has_aux=True)(params)
    (_, changed), gradient = found
    updates, moments = _ADAM.update(gradient, moments)
    params = jax.tree.map(lambda leaf, update: leaf - rate * update, params, updates)
    return {"params": params, **changed}, moments


def train_float(config: CompressionConfig, problem: Problem, key: Array) -> Any:
    """Variables of the network with batch norms."""
    network = config.network
    like = jnp.zeros((1, config.size, config.size, network.channels))
    variables = jax.jit(SvhnCnn(network).init)(key, like)
    moments = _ADAM.init(variables["params"])
    steps = config.float_epochs * (config.images // config.batch_size)
    for step, rows in enumerate(batches(key, config, config.float_epochs)):
        variables, moments = _float_step(
            network, variables, moments, problem.images[rows], problem.labels[rows],
            jnp.asarray(cosine(config.learning_rate, step, steps), jnp.float32),
        )  # fmt: skip
    return variables


class TuningState(NamedTuple):
    """Parameters and bits, with Adam's moments of both."""

    params: Any
    bits: Any
    moments: Any
    masks: Any


@functools.partial(jax.jit, static_argnums=0)
def _tune_step(
    network: SvhnCnnConfig, state: TuningState, images: Array, labels: Array, rate: Array, bit_rate: Array, price: Array
) -> TuningState:
    def loss(trained: Any) -> Array:
        params, bits = trained
        logits: Any = SvhnCnn(network).apply({"params": params, "precision": bits}, images)
        operations = soft_bit_operations(network.matrix_layers, params, bits)
        return mean_cross_entropy(logits, labels) + price * operations

    gradient = jax.grad(loss)((state.params, state.bits))
    found: Any = _ADAM.update(gradient, state.moments)
    (updates, bit_updates), moments = found
    scaled = jax.tree.map(lambda update: -rate * update, updates)
    held, _ = keep_masks(state.masks).update(scaled, optax.EmptyState(), state.params)
    return TuningState(
        optax.apply_updates(state.params, held), _moved(state.bits, bit_updates, bit_rate), moments, state.masks
    )


def _moved(bits: Any, updates: Any, rate: Array) -> Any:
    """Bits of kernels and of hidden results after a step; those of the input, of biases and logits stay."""

    def move(path: Any, leaf: Array, update: Array) -> Array:
        names = [key.key for key in path]
        if names[-1] != "bits" or "input_bits" in names or "bias_bits" in names or "head_result" in names:
            return leaf
        # A channel of a kernel may go, a whole result may not.
        return jnp.clip(leaf - rate * update, 0.0 if "kernel_bits" in names else 1.0, 16.0)

    return jax.tree_util.tree_map_with_path(move, bits, updates)


def tune(
    config: CompressionConfig, problem: Problem, key: Array, params: Any, bits: Any, masks: Any, *,
    epochs: int, bit_rate: float = 0.0, price: float = 0.0,
) -> TuningState:  # fmt: skip
    """Quantisation-aware training, with masked weights held at zero."""
    state = TuningState(params, bits, _ADAM.init((params, bits)), masks)
    steps = epochs * (config.images // config.batch_size)
    for step, rows in enumerate(batches(key, config, epochs)):
        rate = cosine(config.tune_rate, step, steps)
        state = _tune_step(
            config.variable, state, problem.images[rows], problem.labels[rows], jnp.asarray(rate, jnp.float32),
            jnp.asarray(bit_rate, jnp.float32), jnp.asarray(price, jnp.float32),
        )  # fmt: skip
    return state


def train_pruned(config: CompressionConfig, problem: Problem, key: Array, params: Any) -> Any:
    """The folded network in floating point, pruned by the schedule in the first half and trained on in the second."""
    steps = config.tune_epochs * (config.images // config.batch_size)
    interval = max(steps // 40, 1)
    schedule = PruningConfig(
        config.sparsity, updates=min(20, (steps - 1) // interval), interval=interval, exclude=("head",)
    )
    rule = optax.chain(optax.adam(optax.cosine_decay_schedule(config.tune_rate, steps)), prune(schedule))
    network = dataclasses.replace(config.network, norm="folded")

    @jax.jit
    def one(params: Any, state: Any, images: Array, labels: Array) -> Any:
        def loss(params: Any) -> Array:
            logits: Any = SvhnCnn(network).apply({"params": params}, images)
            return mean_cross_entropy(logits, labels)

        updates, state = rule.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = rule.init(params)
    for rows in batches(key, config, config.tune_epochs):
        params, state = one(params, state, problem.images[rows], problem.labels[rows])
    return params


@functools.partial(jax.jit, static_argnums=0)
def _logits(network: SvhnCnnConfig, variables: Any, images: Array) -> Any:
    return SvhnCnn(network).apply(variables, images)


def logits_of(network: SvhnCnnConfig, variables: Any, images: np.ndarray) -> np.ndarray:
    """Logits of many images, some at a time."""
    return np.concatenate(
        [np.asarray(_logits(network, variables, images[i : i + AT_ONCE])) for i in range(0, len(images), AT_ONCE)]
    )


def accuracy(network: SvhnCnnConfig, variables: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is at their label."""
    return float(np.mean(logits_of(network, variables, images).argmax(-1) == labels))


def no_masks(params: Any) -> Any:
    """Nothing is held at zero."""
    return jax.tree.map(lambda leaf: jnp.asarray(True), params)


def zero_masks(params: Any) -> Any:
    """What is zero stays zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(leaf != 0) if path[-1].key == "kernel" else jnp.asarray(True), params
    )


def wide(collection: Any, like: Any) -> Any:
    """A collection with one number for a layer as one with a number for each channel."""
    return jax.tree.map(lambda leaf, other: jnp.broadcast_to(leaf, other.shape), collection, like)
