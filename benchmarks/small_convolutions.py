"""Seconds of a training step of small convolutional networks: XLA's own convolutions and maxima beside the library's.

Each network is compiled twice, once with `jax.lax.conv_general_dilated` and `flax.linen.max_pool` and the gradients
that JAX derives of them, once as it is. Both programs run in turn, after one call to warm up; a row holds the median
seconds of the process (all its threads; a busy machine adds little to them) and by the clock, the ratio of the medians
(above 1: the library is faster), the seconds of both compilations, and the largest difference of the losses.

    python -m benchmarks.small_convolutions --networks enet svhn resnet
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgeo.layers import plane_convolution
from jaxgeo.models import enet, svhn_cnn
from jaxgeo.models.enet import ENet, ENetConfig, init_enet
from jaxgeo.models.resnet import ResNet, ResNetConfig, init_resnet
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.dense_losses import weighted_cross_entropy
from jaxgeo.training.enet_precision import choose_enet_precision, uniform_bits

Row = dict[str, Any]
Case = tuple[Callable[..., Any], tuple[Any, ...]]
RATE = 1e-3


def xla_convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """The same convolution, with the gradients that JAX derives."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@contextlib.contextmanager
def xla_alone() -> Iterator[None]:
    """Networks that are traced inside use XLA's convolution and maximum."""
    with contextlib.ExitStack() as stack:
        for module in (enet, svhn_cnn, plane_convolution):
            stack.enter_context(mock.patch.object(module, "convolve", xla_convolve))
        for module in (enet, svhn_cnn):
            stack.enter_context(mock.patch.object(module, "max_pool", lambda x: nn.max_pool(x, (2, 2), (2, 2))))
        yield


def adam_step(loss: Callable[..., jax.Array], params: Any, *data: jax.Array) -> Case:
    """A step of Adam and its first arguments."""
    optimiser = optax.adam(RATE)

    def step(params: Any, moments: Any, *data: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *data)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    return step, (params, optimiser.init(params), *data)


def enet_case(filters: int, bits: int | None, batch: int) -> Case:
    """The segmentation network at the size of the paper, with batch norms, or folded and rounded to so many bits."""
    config = ENetConfig(filters=filters)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((batch, config.rows, config.columns, config.channels)), jnp.float32)
    y = jnp.asarray(rng.integers(0, config.num_classes, x.shape[:3]), jnp.int32)
    variables = init_enet(jax.random.key(0), config)
    if bits is None:

        def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            stats = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, _ = ENet(config).apply(stats, x, train=True, mutable=["batch_stats"])  # pyright: ignore[reportAssignmentType]
            return weighted_cross_entropy(logits, y)

        return adam_step(loss, variables["params"], x, y)
    folded, params = fold_norms(config, variables)
    formats = choose_enet_precision(folded, params, x[:1], uniform_bits(folded, bits))
    network = ENet(dataclasses.replace(folded, precision=formats))

    def rounded_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return weighted_cross_entropy(network.apply({"params": params}, x), y)  # pyright: ignore[reportArgumentType]

    return adam_step(rounded_loss, params, x, y)


def svhn_case(batch: int) -> Case:
    """The published network for house numbers."""
    config = SvhnCnnConfig()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((batch, config.size, config.size, config.channels)), jnp.float32)
    y = jnp.asarray(rng.integers(0, config.num_classes, batch), jnp.int32)
    variables = jax.jit(SvhnCnn(config).init)(jax.random.key(0), x[:1])

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        stats = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = SvhnCnn(config).apply(stats, x, train=True, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return adam_step(loss, variables["params"], x, y)


def resnet_case(width: int, members: int, batch: int) -> Case:
    """ResNet-20 with filter response norms; several members see images of their own."""
    config = ResNetConfig(features=width)
    rng = np.random.default_rng(0)
    shape = (batch,) if members == 1 else (members, batch)
    x = jnp.asarray(rng.normal(size=(*shape, 32, 32, config.channels)), jnp.float32)
    y = jnp.asarray(rng.integers(0, config.num_classes, shape), jnp.int32)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = ResNet(config).apply({"params": params}, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))  # pyright: ignore[reportArgumentType]

    if members == 1:
        return adam_step(loss, init_resnet(jax.random.key(0), config), x, y)
    params = jax.vmap(lambda key: init_resnet(key, config))(jax.random.split(jax.random.key(0), members))
    return adam_step(lambda *a: jnp.sum(jax.vmap(loss)(*a)), params, x, y)


def compiled(case: Case) -> tuple[Callable[[], Any], float]:
    """A call of the step that waits for its loss, and the processor's seconds of compiling."""
    step, arguments = case
    start = time.process_time()
    program = jax.jit(step).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments)), time.process_time() - start


def measure(name: str, make: Callable[[], Case], repeats: int) -> Row:
    """One row."""
    with xla_alone():
        theirs, theirs_compile = compiled(make())
    ours, ours_compile = compiled(make())
    programs = {"xla": theirs, "ours": ours}
    losses = {key: float(call()[-1]) for key, call in programs.items()}
    cpu: dict[str, list[float]] = {key: [] for key in programs}
    clock: dict[str, list[float]] = {key: [] for key in programs}
    for turn in range(repeats):
        for key in programs if turn % 2 == 0 else reversed(programs):
            began, wall = time.process_time(), time.perf_counter()
            programs[key]()
            cpu[key].append(time.process_time() - began)
            clock[key].append(time.perf_counter() - wall)
    row: Row = {"network": name}
    for key in programs:
        row[f"{key}_cpu_s"], row[f"{key}_s"] = statistics.median(cpu[key]), statistics.median(clock[key])
    row["ratio"] = row["xla_cpu_s"] / row["ours_cpu_s"]
    row |= {"xla_compile_s": theirs_compile, "ours_compile_s": ours_compile}
    row["loss_difference"] = abs(losses["xla"] - losses["ours"])
    return row


def cases(args: argparse.Namespace) -> dict[str, Callable[[], Case]]:
    """What is asked for, by name."""
    made: dict[str, Callable[[], Case]] = {}
    if "enet" in args.networks:
        for filters in args.filters:
            for bits in (None, 8):
                kind = "float" if bits is None else f"{bits} bits"
                made[f"ENet, {filters} filters, {kind}"] = lambda f=filters, b=bits: enet_case(f, b, args.enet_batch)
    if "svhn" in args.networks:
        made["SVHN"] = lambda: svhn_case(args.svhn_batch)
    if "resnet" in args.networks:
        for width in args.widths:
            for members in (1, args.members):
                made[f"ResNet-20, width {width}, {members} members"] = lambda w=width, m=members: resnet_case(
                    w, m, args.resnet_batch
                )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.small_convolutions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ("enet", "svhn", "resnet")
    parser.add_argument("--networks", nargs="+", choices=known, default=known, help="which to measure (all)")
    parser.add_argument("--filters", nargs="+", type=int, default=(16, 8, 4), help="of ENet (16 8 4)")
    parser.add_argument("--widths", nargs="+", type=int, default=(8, 16), help="of ResNet-20 (8 16)")
    parser.add_argument("--members", type=int, default=4, help="of the mapped ResNet-20 (4)")
    parser.add_argument("--enet-batch", type=int, default=4, help="pictures of 152 x 240 in a step (4)")
    parser.add_argument("--svhn-batch", type=int, default=128, help="pictures of 32 x 32 in a step (128)")
    parser.add_argument("--resnet-batch", type=int, default=64, help="pictures of 32 x 32 in a step of a member (64)")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each program that are timed (7)")
    args = parser.parse_args(argv)
    if min(args.repeats, args.members, args.enet_batch, args.svhn_batch, args.resnet_batch) < 1:
        parser.error("repeats, members and batches must be at least 1")
    print(f"{'network':36} {'XLA':>9} {'ours':>9} {'ratio':>6} {'compile':>15} {'loss diff.':>10}", flush=True)
    rows = []
    for name, make in cases(args).items():
        row = measure(name, make, args.repeats)
        rows.append(row)
        print(
            f"{name:36} {row['xla_cpu_s']:8.3f}s {row['ours_cpu_s']:8.3f}s {row['ratio']:6.2f} "
            f"{row['xla_compile_s']:6.1f}s {row['ours_compile_s']:6.1f}s {row['loss_difference']:10.1e}",
            flush=True,
        )
    print(json.dumps({"platform": jax.default_backend(), "repeats": args.repeats, "rows": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
