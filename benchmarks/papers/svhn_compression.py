"""Compression of a small convolutional network, after "Fast convolutional neural networks on FPGAs" (arXiv:2101.05108).

    python -m benchmarks.papers.svhn_compression --out runs/svhn_compression
    python -m benchmarks.papers.svhn_compression --size 32 --data svhn    # the published images and network
    python -m benchmarks.papers.svhn_compression --size 32 --data cifar10
    python -m benchmarks.papers.svhn_compression --quick                  # a minute, says nothing about accuracy

The published network is trained in floating point, its batch norms are folded into the layers before them, half of its
weights are pruned, and both forms are rounded to 14 ... 1 bits (weights and hidden results alike) after training and
with quantisation-aware training. Beside these uniform widths stand bits chosen layer by layer under a budget (greedy,
by the accuracy of calibrated networks) and bits learned together with the weights for two prices of a bit operation.
With --filter-shares 0.5 0.75 1 the greedy choice is of bits and of the filters of each layer together; --budget-of dsp
or lut makes the budget one of DSP slices or LUTs in place of bit operations.

For each network: accuracy on test images, effective bit operations (EBOPs, a multiplication for each weight, as where
pixels stream), wide multiplications, those with both operands of 10 bits or more, and DSP slices by the model of
`fpga_bridge.estimates.resources`, which is fitted on reports of two such designs; and LUTs, flip-flops, tiles of block
RAM, cycles of an image and between two images (latency, II) of the whole streaming design, by the same models. Networks
have exact formats: the one of 6 bits and half the weights is also computed with fixed formats, and has to agree bit for
bit. SVHN itself is read from JAXGEO_DATA/svhn; without it the study runs on FashionMNIST or CIFAR-10, and its table
says so. One program trains all widths, one after another: as arrays they need no program of their own, and on a CPU
convolutions of several networks at once are slower than one after another.

What is finished in the folder is not done again. At the end report.md, report.json and compression.png lie there, and
the last line printed is one JSON object.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.papers.command import perform, run_folder
from benchmarks.papers.prices import PRICES, PriceName
from benchmarks.papers.svhn_hardware import COLUMNS, hardware_costs
from benchmarks.papers.svhn_search import chosen_bits
from benchmarks.papers.svhn_training import (
    AT_ONCE,
    BASELINE_BITS,
    CALIBRATION_IMAGES,
    CompressionConfig,
    Images,
    Problem,
    accuracy,
    logits_of,
    make_problem,
    no_masks,
    train_float,
    train_pruned,
    tune,
    wide,
    zero_masks,
)
from jaxgeo import files, interrupts
from jaxgeo.config_files import check_same_settings, from_dict, to_dict
from jaxgeo.models.svhn_cnn import SvhnCnn
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.bit_cost import layer_cost, network_words
from jaxgeo.training.layer_precision import choose_formats, layer_sums, to_collection, to_formats


class Study:
    """The networks of one run, each a file in its folder."""

    def __init__(self, folder: Path, config: CompressionConfig, problem: Problem) -> None:
        self.folder, self.config, self.problem = folder, config, problem
        path = files.make_folder(folder) / "config.json"
        if path.exists():
            # Widths, prices, the budget and shares may be others: each network is a file of its own.
            free = ("widths", "prices", "budget", "budget_of", "filter_shares")
            check_same_settings(folder, from_dict(CompressionConfig, files.read_json(path)), config, free)
        else:
            files.write_json_atomically(path, to_dict(config))
        image = jax.ShapeDtypeStruct((1, config.size, config.size, config.network.channels), jnp.float32)
        self.like = jax.eval_shape(SvhnCnn(config.variable).init, jax.random.key(0), image)["precision"]

    def kept(self, name: str, make: Callable[[Array], Any]) -> Any:
        """A tree of arrays by name: read, or made with a key of its own and written."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            begun = time.perf_counter()
            key = jax.random.fold_in(jax.random.key(self.config.seed), zlib.crc32(name.encode()))
            files.save_tree(path, jax.tree.map(np.asarray, make(key)))
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return files.load_tree(path)

    def formats(self, params: Any, weights: Any, hidden: Any, sums: Any = None) -> Any:
        """The collection of calibrated formats."""
        config = self.config
        images = jnp.asarray(self.problem.images[:CALIBRATION_IMAGES])
        chosen = choose_formats(config.network, params, images, weights, hidden, sums=sums)
        names = config.network.names
        bits = (weights,) * len(names) if isinstance(weights, int) else weights
        binary = [name for name, width in zip(names, bits, strict=True) if width == 1]
        return wide(to_collection(chosen, names, binary), self.like)

    def row(
        self, family: str, bits: str, params: Any, collection: Any, config: CompressionConfig | None = None
    ) -> dict[str, Any]:
        """Accuracy, costs and estimated hardware of a network in fixed point; `config` where it is a smaller one."""
        problem, config = self.problem, self.config if config is None else config
        words = network_words(config.network.matrix_layers, params, collection)
        costs = [layer_cost(*layer) for layer in words]
        return {
            "family": family,
            "bits": bits,
            "accuracy": accuracy(
                config.variable, {"params": params, "precision": collection}, problem.test_images, problem.test_labels
            ),
            "zeros": 1 - sum(cost.multiplications for cost in costs)
            / sum(layer.fan_in * layer.features for layer in config.network.matrix_layers),
            "bit_operations": sum(cost.bit_operations for cost in costs),
            "wide_multiplications": sum(cost.wide for cost in costs),
            "dsp": sum(PRICES["dsp"](layer) for layer in words),
            **hardware_costs(config, params, collection),
        }  # fmt: skip


def run(folder: Path, config: CompressionConfig, problem: Problem) -> dict[str, Any]:
    """Everything; what is finished is read."""
    study, network = Study(folder, config, problem), config.network
    trained = study.kept("float", functools.partial(train_float, config, problem))
    folded_network, params = fold_norms(network, trained)
    pruned = study.kept("pruned", lambda key: train_pruned(config, problem, key, params))
    plain = {
        "float": accuracy(network, trained, problem.test_images, problem.test_labels),
        "float, folded": accuracy(folded_network, {"params": params}, problem.test_images, problem.test_labels),
        "float, pruned": accuracy(folded_network, {"params": pruned}, problem.test_images, problem.test_labels),
    }
    print(json.dumps(plain), file=sys.stderr, flush=True)
    rows = []
    start = {"": (params, no_masks(params)), " pruned": (pruned, zero_masks(pruned))}
    images = jnp.asarray(problem.images[:CALIBRATION_IMAGES])
    for ending, (weights, masks) in start.items():
        sums = layer_sums(network, weights, images)
        for width in sorted(config.widths, reverse=True):
            collection = study.formats(weights, width, width, sums)
            rows.append(study.row(f"rounded{ending}", str(width), weights, collection))

            def make(key: Array, weights=weights, masks=masks, collection=collection) -> Any:
                state = tune(config, problem, key, weights, collection, masks, epochs=config.tune_epochs)
                return {"params": state.params, "precision": state.bits}

            found = study.kept(f"trained{ending.replace(' ', '_')}_{width}", make)
            rows.append(study.row(f"trained{ending}", str(width), found["params"], found["precision"]))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    rows += chosen_bits(study, pruned) if config.budget else []
    rows += learned_bits(study, pruned)
    exact = agreement(study)
    report = summary(config, plain, rows, exact)
    files.write_json_atomically(folder / "report.json", report)
    page = markdown(config, report)
    files.write_bytes_atomically(folder / "report.md", page.encode())
    draw(folder, report)
    print(page)
    return report


def learned_bits(study: Study, pruned: Any) -> list[dict[str, Any]]:
    """Bits of each channel and result learned with the weights of the pruned network, for each price."""
    config, problem, masks = study.config, study.problem, zero_masks(pruned)
    start, rows = study.formats(pruned, 8, 8), []
    for price in config.prices:

        def learned(key: Array, price=price) -> Any:
            # The first half moves bits, the second trains with what they came to.
            half = max(config.learned_epochs // 2, 1)
            state = tune(config, problem, key, pruned, start, masks, epochs=half, bit_rate=config.bit_rate, price=price)
            bits = jax.tree.map(jnp.round, state.bits)
            state = tune(config, problem, key, state.params, bits, masks, epochs=max(config.learned_epochs - half, 1))
            return {"params": state.params, "precision": state.bits}

        found = study.kept(f"learned_at_{price:g}", learned)
        bits = f"learned at {price:g}"
        rows.append(study.row("learned pruned", bits, found["params"], found["precision"]))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def agreement(study: Study) -> dict[str, Any] | None:
    """The network of 6 bits and half the weights with fixed formats, against the same with bits in arrays."""
    path = study.folder / "trained_pruned_6.safetensors"
    if not path.exists():
        return None
    found, config, images = files.load_tree(path), study.config, study.problem.test_images[:AT_ONCE]
    precision, rounded = to_formats(config.variable, found["params"], found["precision"])
    fixed = dataclasses.replace(config.network, norm="folded", precision=precision)
    expected = logits_of(config.variable, found, images)
    equal = logits_of(fixed, {"params": rounded}, images) == expected
    return {"logits": int(equal.size), "equal": int(equal.sum()), "precision": to_dict(precision)}


def summary(
    config: CompressionConfig, plain: dict[str, float], rows: list[dict[str, Any]], exact: dict[str, Any] | None
) -> dict[str, Any]:
    """All figures, and whether 6 bits with half the weights keep the accuracy without the DSP slices."""
    found = {
        "study": "svhn_compression", "config": to_dict(config), "floating_point": plain, "rows": rows,
        "agreement_of_fixed_formats": exact,
    }  # fmt: skip
    by_name = {(row["family"], row["bits"]): row for row in rows}
    base, six = by_name.get(("rounded", str(BASELINE_BITS))), by_name.get(("trained pruned", "6"))
    if base is not None and six is not None:
        found["claim"] = {
            "accuracy_lost": plain["float"] - six["accuracy"],
            "dsp_saved": 1 - six["dsp"] / base["dsp"],
            "bit_operations_saved": 1 - six["bit_operations"] / base["bit_operations"],
        }
    return found


def markdown(config: CompressionConfig, report: dict[str, Any]) -> str:
    """The table."""
    name = {"svhn": "SVHN", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR-10"}[config.data]
    source = name if config.data == "svhn" else f"{name} ({config.size} x {config.size}), not SVHN"
    lines = [
        f"# Compression of the SVHN network, on {source}", "",
        f"{config.images} training and {config.test_images} test images; {config.float_epochs} epochs in floating "
        f"point, {config.tune_epochs} more for pruning and for each width. The standard error of an accuracy is about "
        f"{np.sqrt(0.1 * 0.9 / config.test_images):.4f}. In floating point: "
        + ", ".join(f"{name} {value:.4f}" for name, value in report["floating_point"].items()) + ".", "",
        "| network | bits | accuracy | zeros | EBOPs | wide multiplications | DSP | "
        + " | ".join(COLUMNS.values()) + " |",
        "| --- | --- |" + " ---: |" * (5 + len(COLUMNS)),
    ]  # fmt: skip
    lines += [
        f"| {row['family']} | {row['bits']} | {row['accuracy']:.4f} | {row['zeros']:.1%} | "
        f"{row['bit_operations']:,} | {row['wide_multiplications']:,} | {row['dsp']:,.0f} | "
        + " | ".join(f"{row[key]:,}" for key in COLUMNS)
        + " |"
        for row in report["rows"]
    ]
    if "claim" in report:
        claim = report["claim"]
        kept = claim["accuracy_lost"] <= 0.01 and claim["dsp_saved"] >= 0.9
        lines += [
            "",
            f"That 6 bits with {config.sparsity:.0%} of the weights pruned stay within one percentage point of "
            f"floating point with 90 % fewer DSP slices is {'confirmed' if kept else 'refuted'} here, by the model: "
            f"{100 * claim['accuracy_lost']:.2f} points lost, {claim['dsp_saved']:.1%} of the DSP slices and "
            f"{claim['bit_operations_saved']:.1%} of the bit operations of {BASELINE_BITS} bits saved.",
        ]
    exact = report["agreement_of_fixed_formats"]
    if exact is not None:
        lines += ["", f"Its fixed formats give {exact['equal']} of {exact['logits']} logits bit for bit."]
    return "\n".join([*lines, ""])


def draw(folder: Path, report: dict[str, Any]) -> None:
    """Accuracy, DSP slices and bit operations against bits; chosen and learned bits at their mean cost."""
    from matplotlib.figure import Figure

    from jaxgeo.plotting import style

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = report["rows"]
    for color, family in enumerate(("rounded", "trained", "rounded pruned", "trained pruned")):
        own = [row for row in rows if row["family"] == family]
        bits = [int(row["bits"]) for row in own]
        dash = "--" if family.startswith("rounded") else "-"
        look = {"marker": "o", "label": family, "color": f"C{color}"}  # one colour in all three
        left.plot(bits, [row["accuracy"] for row in own], dash, **look)
        if family.startswith("trained"):
            middle.plot(bits, [row["dsp"] for row in own], **look)
            right.plot([row["bit_operations"] for row in own], [row["accuracy"] for row in own], **look)
    for color, family in enumerate(("greedy pruned", "learned pruned"), 4):
        own = [row for row in rows if row["family"] == family]
        right.plot(
            [row["bit_operations"] for row in own],
            [row["accuracy"] for row in own],
            "D",
            label=family,
            color=f"C{color}",
        )
    left.axhline(report["floating_point"]["float"], color="0.5", linewidth=1)
    right.axhline(report["floating_point"]["float"], color="0.5", linewidth=1)
    right.set_xscale("log")
    for axes, x, y in (
        (left, "bits of weights and results", "accuracy"),
        (middle, "bits of weights and results", "DSP slices, by the model"),
        (right, "effective bit operations", "accuracy"),
    ):
        axes.set(xlabel=x, ylabel=y)
        axes.legend(fontsize="small")
    files.write_bytes_atomically(folder / "compression.png", style.figure_to_bytes(figure))


QUICK = CompressionConfig(
    images=256, test_images=100, float_epochs=1, tune_epochs=1, learned_epochs=2, widths=(14, 6, 1), prices=(3e-6,)
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.svhn_compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/svhn_compression"), help="goes on in this folder")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.images} images and one epoch of each")
    for field in dataclasses.fields(CompressionConfig):
        option, text = (
            f"--{field.name.replace('_', '-')}",
            f"{field.default}; with --quick {getattr(QUICK, field.name)}",
        )
        if isinstance(field.default, tuple):
            parser.add_argument(option, type=type(field.default[0]), nargs="*", help=text)
        else:
            choices = {"data": get_args(Images), "budget_of": get_args(PriceName)}.get(field.name)
            parser.add_argument(option, type=type(field.default), choices=choices, help=text)
    args = vars(parser.parse_args(argv))
    folder, quick = args.pop("out"), args.pop("quick")
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in args.items() if value is not None
    }

    def work() -> dict[str, Any]:
        config = dataclasses.replace(QUICK if quick else CompressionConfig(), **given)
        problem = make_problem(config)
        with run_folder(folder):
            return run(folder, config, problem)

    return perform(folder, work)


if __name__ == "__main__":
    interrupts.leave(main())
