"""64 perceptrons of the half disc trained at once: one program here, a PyTorch loop over members, and torch.func.

    python -m benchmarks.toy_ensemble [--members 64] [--epochs 10] [--rounds 5]

Equal work for all: a perceptron 2-10-10-2 (ReLU), 2000 points, batches of 100, Adam 0.01, cross-entropy with the prior
N(0, 1), each member its own order of the points. `torch loop` trains one member after the other with `torch.optim`;
`torch.func` takes stacked parameters through `vmap(grad)` and an Adam written on the stack, the quickest that PyTorch
offers without compiling. Rounds alternate, medians count, compilation and warm-up are apart. Ours has one device for
each core. The last loss, without the constants of the prior, says that all learn alike: of ours it is the mean over the
last epoch, of the others that of its last batch. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.timing import timed
from jaxgeo.data.half_disc import half_disc
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training.ensemble import TrainingConfig, block_size, init_ensemble, train_epochs
from jaxgeo.training.meshes import spread

BARS = {"torch loop": 10.0, "torch.func": 1.0}
BATCH, RATE = 100, 1e-2


class Ours:
    """The library's own training."""

    def __init__(self, members: int, epochs: int) -> None:
        points, labels = half_disc(2000, 0)
        self.inputs, self.labels, self.epochs = jnp.asarray(points), jnp.asarray(labels), epochs
        model = Mlp(MlpConfig())
        joint = LogJoint(pure_apply(model, self.inputs[:1]), GaussianPrior(1.0, fan_in=False))
        self.objective = deep_ensemble.objective(joint, len(labels))
        self.config = TrainingConfig(
            epochs=10**6, batch_size=BATCH, learning_rate=RATE, schedule="constant", warmup_fraction=0.0,
            members_per_block=16,
        )  # fmt: skip
        keys = jax.random.split(jax.random.key(0), members)
        self.state = init_ensemble(keys, lambda key: model.init(key, self.inputs[:1])["params"], self.config)
        self.mesh = spread("member", members // block_size(members, self.config))
        origin = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), self.state.params)
        self.constant = -float(joint.log_prior(origin)) / len(labels)

    def run(self) -> float:
        """Train all members for some epochs; their last loss."""
        self.state, history = train_epochs(
            self.state, self.objective, self.inputs, self.labels, self.config, self.epochs, self.mesh
        )
        return float(jnp.mean(history.loss[-1])) - self.constant


class TorchLoop:
    """One member after the other, as it is usually written."""

    def __init__(self, members: int, epochs: int) -> None:
        import torch

        points, labels = half_disc(2000, 0)
        self.torch, self.epochs = torch, epochs
        self.inputs, self.labels = torch.from_numpy(points), torch.from_numpy(labels).long()
        self.networks = [
            torch.nn.Sequential(
                torch.nn.Linear(2, 10), torch.nn.ReLU(), torch.nn.Linear(10, 10), torch.nn.ReLU(),
                torch.nn.Linear(10, 2),
            )
            for _ in range(members)
        ]  # fmt: skip
        self.optimizers = [torch.optim.Adam(network.parameters(), RATE) for network in self.networks]

    def run(self) -> float:
        """Train all members for some epochs; their last loss."""
        torch, losses = self.torch, []
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            loss = torch.zeros(())
            for _ in range(self.epochs):
                for rows in torch.randperm(len(self.labels)).split(BATCH):
                    optimizer.zero_grad()
                    squares = sum(parameter.square().sum() for parameter in network.parameters())
                    likelihood = torch.nn.functional.cross_entropy(network(self.inputs[rows]), self.labels[rows])
                    loss = likelihood + squares / (2 * len(self.labels))
                    loss.backward()
                    optimizer.step()
            losses.append(float(loss.detach()))
        return statistics.fmean(losses)


class TorchFunc:
    """All members stacked, by `torch.func`."""

    def __init__(self, members: int, epochs: int) -> None:
        import torch

        loop = TorchLoop(members, epochs)
        self.torch, self.epochs, self.members = torch, epochs, members
        self.inputs, self.labels = loop.inputs, loop.labels
        base = loop.networks[0]
        stacked, _ = torch.func.stack_module_state(loop.networks)
        self.params = {name: value.detach() for name, value in stacked.items()}
        self.first = {name: torch.zeros_like(value) for name, value in self.params.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.params.items()}
        self.step = 0

        def objective(params: Any, inputs: Any, labels: Any) -> Any:
            logits = torch.func.functional_call(base, params, (inputs,))
            squares = sum(value.square().sum() for value in params.values())
            return torch.nn.functional.cross_entropy(logits, labels) + squares / (2 * len(self.labels))

        self.gradients = torch.func.vmap(torch.func.grad_and_value(objective))

    def run(self) -> float:
        """Train all members for some epochs; their last loss."""
        torch, loss = self.torch, self.torch.zeros(())
        with torch.no_grad():
            for _ in range(self.epochs):
                orders = torch.rand(self.members, len(self.labels)).argsort(dim=1)
                for rows in orders.split(BATCH, dim=1):
                    self.step += 1
                    gradients, loss = self.gradients(self.params, self.inputs[rows], self.labels[rows])
                    for name, gradient in gradients.items():
                        self.first[name].mul_(0.9).add_(gradient, alpha=0.1)
                        self.second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                        first = self.first[name] / (1 - 0.9**self.step)
                        second = self.second[name] / (1 - 0.999**self.step)
                        self.params[name] = self.params[name] - RATE * first / (second.sqrt() + 1e-8)
        return float(loss.mean())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.toy_ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10, help="of every timed run")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    if min(args.members, args.epochs, args.rounds) < 1:
        parser.error("--members, --epochs and --rounds must be at least 1")
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    contenders: dict[str, Any] = {"ours": Ours(args.members, args.epochs)}
    contenders["torch loop"] = TorchLoop(args.members, args.epochs)
    contenders["torch.func"] = TorchFunc(args.members, args.epochs)
    first = {name: timed(contender.run)[1] for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, contender in contenders.items():
            losses[name], taken = timed(contender.run)
            seconds[name].append(taken)
    steps = args.epochs * (2000 // BATCH) * args.members
    table = Table(title=f"{args.members} perceptrons, {args.epochs} epochs of 20 steps")
    for column in ("who", "first run s", "median s", "member steps/s", "ours is faster by", "last loss"):
        table.add_column(column, justify="left" if column == "who" else "right")
    rows: dict[str, dict[str, float]] = {}
    for name, taken in seconds.items():
        ratio = statistics.median(other / own for other, own in zip(taken, seconds["ours"], strict=True))
        median = statistics.median(taken)
        rows[name] = {"first_s": first[name], "median_s": median, "ratio": ratio, "loss": losses[name]}
        table.add_row(
            name, f"{first[name]:.2f}", f"{median:.3f}", f"{steps / median:.0f}", f"{ratio:.2f}", f"{losses[name]:.3f}"
        )
    Console().print(table)
    met = {name: bool(rows[name]["ratio"] >= bar) for name, bar in BARS.items()}
    print(json.dumps({"bench": "toy_ensemble", "members": args.members, "rows": rows, "bars": BARS, "met": met}))
    return 0 if np.isfinite(list(losses.values())).all() else 1


if __name__ == "__main__":
    raise SystemExit(main())
