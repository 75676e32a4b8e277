"""Steps per second of an ensemble of ResNet-20 with filter response normalisation: one program, and a PyTorch loop.

    python -m benchmarks.resnet_ensemble [--members 4] [--width 16] [--repeats 5] [--quick]

Both train the same number of members for one epoch of equal batches, each member with its own order of images, by
Nesterov momentum, to the same loss: the likelihood and the Gaussian prior of precision 5. JAX runs them in one program,
blocks of `--block` members vmapped and spread over the devices; PyTorch trains one member after another, in the
quickest of its forms (memory order, threads). Before anything is timed, logits of both networks with the same weights
are compared. Timed runs alternate within one process; medians count, ratios are medians of the ratios within a round,
and compile time is apart. The last line is one JSON object. The `bench` extra installs PyTorch; without it JAX alone is
timed.
"""

import argparse
import json
import os
import random
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.timing import installed, timed
from jaxgeo.errors import ConfigError
from jaxgeo.files import flatten_tree
from jaxgeo.models.resnet import ResNet, ResNetConfig, init_resnet
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training import ensemble, meshes

PRECISION = 5.0
LOGIT_BAR = 1e-2  # of logits of order one, after twenty normalised layers in float32


class Work(NamedTuple):
    """What is trained on, by both."""

    config: ResNetConfig
    training: ensemble.TrainingConfig
    images: np.ndarray
    labels: np.ndarray
    members: int

    @property
    def steps(self) -> int:
        """Steps of all members together in one run."""
        return self.members * ensemble.steps_per_epoch(self.training, len(self.labels))


def make_work(members: int, width: int, depth: int, batches: int, block: int) -> Work:
    config = ResNetConfig(depth=depth, features=width)
    training = ensemble.TrainingConfig(
        epochs=1000, batch_size=64, learning_rate=0.1, schedule="step", warmup_fraction=0.0, optimizer="sgd",
        nesterov=True, members_per_block=block,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batches * training.batch_size, 32, 32, 3)).astype(np.float32)
    return Work(config, training, images, rng.integers(0, 10, len(images)).astype(np.int32), members)


class JaxMembers:
    """All members in one program."""

    def __init__(self, work: Work) -> None:
        self.apply = pure_apply(ResNet(work.config), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
        joint = LogJoint(self.apply, GaussianPrior(PRECISION**-0.5, fan_in=False))
        self._objective = deep_ensemble.objective(joint, len(work.labels))
        self._work = work
        self._mesh = meshes.spread("member", work.members // ensemble.block_size(work.members, work.training))
        self._data = jnp.asarray(work.images), jnp.asarray(work.labels)
        keys = jax.random.split(jax.random.key(0), work.members)
        self.state = ensemble.init_ensemble(keys, lambda key: init_resnet(key, work.config), work.training)
        self.first_weights = jax.device_get(jax.tree.map(lambda leaf: leaf[0], self.state.params))

    def run(self) -> None:
        """One epoch of every member."""
        self.state, history = ensemble.train_epochs(
            self.state, self._objective, *self._data, self._work.training, 1, self._mesh
        )
        jax.block_until_ready(history.loss)


def torch_network(config: ResNetConfig) -> Any:
    """The same network as a PyTorch module; its parameters have the names of ours, joined by "/"."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        """Convolution padded as XLA's SAME, and the norm with its threshold."""

        def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
            super().__init__()
            self.behind = kernel == 3 and stride == 2
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=int(kernel == 3 and stride == 1))
            nn.init.kaiming_normal_(self.conv.weight)
            one = (1, outputs, 1, 1)
            self.scale, self.bias = nn.Parameter(torch.ones(one)), nn.Parameter(torch.zeros(one))
            self.threshold = nn.Parameter(torch.zeros(one))

        def forward(self, x: Any) -> Any:
            y = self.conv(functional.pad(x, (0, 1, 0, 1)) if self.behind else x)
            y = y * torch.rsqrt(y.square().mean((2, 3), keepdim=True) + 1e-6)
            return torch.maximum(self.scale * y + self.bias, self.threshold)

    class Network(nn.Module):
        """Stem, three stages of blocks, head."""

        def __init__(self) -> None:
            super().__init__()
            layers, inputs = {"stem": Layer(config.channels, config.features)}, config.features
            for stage in range(3):
                for block in range(config.blocks):
                    name, outputs, stride = (
                        f"stage_{stage}_block_{block}",
                        config.features << stage,
                        2 if stage and not block else 1,
                    )
                    layers[f"{name}/layer_0"] = Layer(inputs, outputs, 3, stride)
                    layers[f"{name}/layer_1"] = Layer(outputs, outputs)
                    if stride == 2:
                        layers[f"{name}/projection"] = Layer(inputs, outputs, 1, 2)
                    inputs = outputs
            self.layers, self.head = nn.ModuleDict(layers), nn.Linear(inputs, config.num_classes)

        def forward(self, x: Any) -> Any:
            x = functional.silu(self.layers["stem"](x))
            for stage in range(3):
                for block in range(config.blocks):
                    name = f"stage_{stage}_block_{block}"
                    y = self.layers[f"{name}/layer_1"](functional.silu(self.layers[f"{name}/layer_0"](x)))
                    shortcut = f"{name}/projection"
                    x = functional.silu(y + (self.layers[shortcut](x) if shortcut in self.layers else x))
            return self.head(x.mean((2, 3)))

    return Network()


def load_weights(network: Any, params: Any) -> None:
    """Give a PyTorch network the weights of ours.

    Raises:
        ConfigError: weights are left over.
    """
    import torch

    used = 0
    flat = {name: torch.from_numpy(np.array(value)) for name, value in flatten_tree(params).items()}
    with torch.no_grad():
        for name, layer in network.layers.items():
            layer.conv.weight.copy_(flat[f"{name}/conv/kernel"].permute(3, 2, 0, 1))
            layer.conv.bias.copy_(flat[f"{name}/conv/bias"])
            for part in ("scale", "bias", "threshold"):
                getattr(layer, part).copy_(flat[f"{name}/norm/{part}"][None, :, None, None])
            used += 5
        network.head.weight.copy_(flat["head/kernel"].T)
        network.head.bias.copy_(flat["head/bias"])
    if used + 2 != len(flat):
        raise ConfigError(f"the PyTorch network took {used + 2} of {len(flat)} weights")


class TorchMembers:
    """Members one after another."""

    def __init__(self, work: Work, channels_last: bool, threads: int) -> None:
        import torch

        self._work, self._threads = work, threads
        self._order = torch.channels_last if channels_last else torch.contiguous_format
        images = torch.from_numpy(np.ascontiguousarray(work.images.transpose(0, 3, 1, 2)))
        self._images = images.to(memory_format=self._order)
        self._labels = torch.from_numpy(work.labels).long()
        self.networks = [torch_network(work.config).to(memory_format=self._order) for _ in range(work.members)]
        self._optimizers = [
            torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True) for network in self.networks
        ]

    def run(self, members: int | None = None) -> None:
        """One epoch of the first so many members, by default of all."""
        import torch
        from torch.nn import functional

        torch.set_num_threads(self._threads)
        count, size = len(self._labels), self._work.training.batch_size
        for network, optimizer in list(zip(self.networks, self._optimizers, strict=True))[:members]:
            for rows in torch.randperm(count).split(size):
                images = self._images[rows].contiguous(memory_format=self._order)
                loss = functional.cross_entropy(network(images), self._labels[rows])
                squares = sum(parameter.square().sum() for parameter in network.parameters())
                optimizer.zero_grad()
                (loss + PRECISION / 2 / count * squares).backward()
                optimizer.step()


def logit_difference(ours: JaxMembers, theirs: TorchMembers, work: Work) -> float:
    """Largest difference of the logits of both networks with the same weights."""
    import torch

    some = work.images[:8]
    load_weights(theirs.networks[0], ours.first_weights)
    with torch.no_grad():
        found = theirs.networks[0](torch.from_numpy(np.ascontiguousarray(some.transpose(0, 3, 1, 2)))).numpy()
    return float(np.abs(np.asarray(jax.jit(ours.apply)(ours.first_weights, some)) - found).max())


def bench(work: Work, repeats: int, with_torch: bool) -> dict[str, Any]:
    ours = JaxMembers(work)
    row: dict[str, Any] = {"jax_first_call_s": timed(ours.run)[1]}
    runs: dict[str, Callable[[], Any]] = {"jax": ours.run}
    if with_torch:
        import torch

        cores = len(os.sched_getaffinity(0))
        forms = {
            f"{'channels last' if last else 'channels first'}, {threads} threads": TorchMembers(work, last, threads)
            for last in (False, True)
            for threads in sorted({1, cores})
        }
        row["logit_difference"] = logit_difference(ours, next(iter(forms.values())), work)
        row["same_network"] = row["logit_difference"] < LOGIT_BAR
        seconds = {}
        for name, form in forms.items():
            form.run(1)
            seconds[name] = timed(lambda form=form: form.run(1))[1]
        best = min(seconds, key=lambda name: seconds[name])
        row |= {"torch": torch.__version__, "torch_form": best, "torch_forms_one_member_s": seconds}
        runs["torch"] = forms[best].run
        runs["torch"]()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        for name in random.Random(i).sample(sorted(runs), len(runs)):
            times[name].append(timed(runs[name])[1])
    for name, values in times.items():
        row[f"{name}_s"] = statistics.median(values)
        row[f"{name}_steps_per_s"] = work.steps / row[f"{name}_s"]
    if "torch" in times:
        ratios = [slow / quick for slow, quick in zip(times["torch"], times["jax"], strict=True)]
        row["speedup_over_torch"] = statistics.median(ratios)
    return row


def table(figures: dict[str, Any]) -> Table:
    """A row for each program that was timed."""
    title = f"{figures['members']} members of ResNet-{figures['depth']}-FRN, width {figures['width']}, batches of 64"
    caption = None
    if "logit_difference" in figures:
        caption = f"logits of the same weights differ by {figures['logit_difference']:.1e}"
    shown = Table(title=title, caption=caption)
    for heading in ("program", "steps per second", "an epoch, s", "first call, s", "JAX is quicker by"):
        shown.add_column(heading, justify="left" if heading == "program" else "right")
    first = f"{figures['jax_first_call_s']:.1f}"
    shown.add_row("JAX, all members", f"{figures['jax_steps_per_s']:.2f}", f"{figures['jax_s']:.2f}", first, "")
    if "torch_s" in figures:
        steps, seconds = f"{figures['torch_steps_per_s']:.2f}", f"{figures['torch_s']:.2f}"
        name = f"PyTorch, one after another ({figures['torch_form']})"
        shown.add_row(name, steps, seconds, "", f"{figures['speedup_over_torch']:.2f}")
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resnet_ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batches", type=int, default=4, help="of 64 images, in one run of each member")
    parser.add_argument("--block", type=int, default=1, help="members vmapped")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, alternating")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--devices", type=int, default=cores, help="virtual CPU devices; default: the cores at hand")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--quick", action="store_true", help="2 members of depth 8 and width 8, 2 runs of one batch")
    args = parser.parse_args(argv)
    if min(args.members, args.batches, args.block, args.repeats, args.devices) < 1:
        parser.error("--members, --batches, --block, --repeats and --devices must be at least 1")
    if args.quick:
        args.members, args.depth, args.width, args.batches, args.repeats = 2, 8, 8, 1, 2
    jax.config.update("jax_num_cpu_devices", args.devices)
    with_torch = not args.no_torch and installed("torch")
    if with_torch and args.width % 8:
        # PyTorch 2.13 ended with a segmentation fault in its convolutions' gradients at width 4.
        parser.error(f"PyTorch is timed at widths that are multiples of 8, got {args.width}; --no-torch takes any")
    if not args.no_torch and not with_torch:
        print("PyTorch is not installed, so only JAX is timed; the bench extra (pip install torch) adds the comparison")
    try:
        work = make_work(args.members, args.width, args.depth, args.batches, args.block)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = {"benchmark": "resnet_ensemble", "jax": jax.__version__, "devices": len(jax.devices())}
    figures |= {name: getattr(args, name) for name in ("members", "depth", "width", "batches", "block", "repeats")}
    figures |= bench(work, args.repeats, with_torch)
    figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Console(width=120).print(table(figures))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
