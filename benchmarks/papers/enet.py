"""ENet on an FPGA (arXiv:2205.07690): segmentation of 240 x 152 frames from floating point down to four bits.

    JAXGEO_DATA=<folder> python -m benchmarks.papers.enet --out runs/enet [--filters 16 8 4] [--quick]
    python -m benchmarks.papers.enet --data cityscapes --folder <folder> --out runs/enet-cityscapes

For each number of filters a network is trained in floating point, its batch norms are folded, and each variant is
fine-tuned from it: 8 bits, 4 bits, heterogeneous bits by measured sensitivities, those of the published network of 4
and 8 bits, 8 bits with half of the weights zero, and, to tell rounding from further training, floating point with as
many more passes. With --reduced 16 8 there is also a network of 8 filters made of the strongest of the one with 16 and
trained on, with the same variants. With --budget 0.2 there is one more network for each: 2, 4, 6 or 8 bits of weights
and of results of each convolution and filters of each block, chosen together (`benchmarks.papers.enet_search`) within a
fifth of the effective bit operations of 8 bits and all filters, and trained on like the others.

Judged are frames of sequences that nothing was trained or chosen on: of CamVid its val and test parts together, of
Cityscapes its val part. Bits are those of the circuit: the fixed-point network that is scored is the one that
`benchmarks.enet_frame` holds against compiled C++ word for word. Then cycles of a frame and of ten for some reuse
factors, from the model in `fpga_bridge.estimates.latency`, which no synthesis has confirmed.

Everything finished lies in the folder and is not done again; each pass over the data is written when it ends. At the
end report.md, report.json and a picture for each number of filters are there; the last line printed is one JSON object.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.papers import enet_training as training
from benchmarks.papers.command import perform, run_folder
from benchmarks.papers.enet_search import Candidates, SearchSettings, search_network
from benchmarks.papers.prices import PriceName
from jaxgeo import files, interrupts
from jaxgeo.data.camvid import load_camvid
from jaxgeo.data.cityscapes import open_cityscapes
from jaxgeo.data.driving import DRIVING_CLASSES, DRIVING_COLORS, SegmentationSet
from jaxgeo.errors import ConfigError
from jaxgeo.models.enet import ENetConfig, enet_multiplications
from jaxgeo.plotting.dense import fisheye_figure
from jaxgeo.plotting.style import figure_to_bytes
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.filter_reduction import reduce_filters

VARIANTS = ("float", "float tuned", "8 bits", "4 bits", "heterogeneous", "published bits", "8 bits pruned")
REUSE_FACTORS = (1, 2, 4, 8, 16, 32)
BATCHES = (1, 10)
PICTURED = ("float", "8 bits", "4 bits")


def load_data(kind: str, folder: Path | None, images: int) -> tuple[SegmentationSet, SegmentationSet]:
    """Frames to train on, and frames to judge on."""
    if kind == "camvid":
        train = load_camvid("train", folder)
        held = joined(load_camvid("val", folder), load_camvid("test", folder))
    else:
        if folder is None:
            raise ConfigError("Cityscapes is read from its folders: give --folder")
        train, held = open_cityscapes(folder, "train").load(), open_cityscapes(folder, "val").load()
    if images:
        # Spread over all sequences: neighbours look alike.
        chosen = np.linspace(0, len(train.images) - 1, min(images, len(train.images))).astype(int)
        train = SegmentationSet(tuple(train.names[k] for k in chosen), train.images[chosen], train.labels[chosen])
    return train, held


def joined(first: SegmentationSet, second: SegmentationSet) -> SegmentationSet:
    return SegmentationSet(
        (*first.names, *second.names),
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
    )


def latencies(config: ENetConfig, params: Any, clock_ns: float) -> list[dict[str, Any]]:
    """Cycles of one frame and of a batch for each reuse factor, by the model of the bridge."""
    from fpga_bridge.estimates.dataflow import simulate
    from fpga_bridge.estimates.latency import HardwareConfig, plan_design
    from fpga_bridge.tracing.trace import trace
    from jaxgeo.models.enet import ENet

    network = ENet(config)
    graph = trace(lambda p, x: network.apply({"params": p}, x), params, (config.rows, config.columns, config.channels))
    rows = []
    for reuse in REUSE_FACTORS:
        plan = plan_design(graph, HardwareConfig("Resource", reuse, clock_period_ns=clock_ns))
        run = simulate(plan.design, frames=3)
        cycles = {str(batch): run.batch_cycles(batch) for batch in BATCHES}
        milliseconds = {batch: count * clock_ns * 1e-6 / int(batch) for batch, count in cycles.items()}
        used = sorted({one.used for one in plan.reuse.values()})
        rows.append({"reuse": reuse, "used": used, "cycles": cycles, "ms_per_frame": milliseconds})
    return rows


def draw(path: Path, held: SegmentationSet, networks: dict[str, tuple[ENetConfig, Any]], label: str) -> None:
    """The held-out frame with the most pixels of persons: frame, labels, predictions and where they differ."""
    frame = int(np.argmax((held.labels == DRIVING_CLASSES.index("person")).sum((1, 2))))
    titles = {"float": f"floating point, {label} filters"} | {name: f"on chip, {name}" for name in PICTURED[1:]}
    predictions = {
        titles[name]: training.predictor(*networks[name])(held.images[frame : frame + 1])[0]
        for name in PICTURED
        if name in networks
    }
    figure = fisheye_figure(held.images[frame], predictions, held.labels[frame], DRIVING_CLASSES, colors=DRIVING_COLORS)
    files.write_bytes_atomically(path, figure_to_bytes(figure))


def network_folder(out: Path, filters: int, source: int | None) -> Path:
    """Of all variants of a network."""
    return files.make_folder(out / (f"filters_{filters}" + ("" if source is None else f"_of_{source}")))


def float_network(
    args: argparse.Namespace, filters: int, source: int | None, data: SegmentationSet, settings: Any, progress: Any
) -> tuple[ENetConfig, training.Fitted]:
    """A network in floating point: trained from random variables, or made of the strongest filters of a larger one."""
    config = ENetConfig(filters=filters)
    path = network_folder(args.out, filters, source) / "float.state"
    if source is None:
        return config, training.train_float(path, config, data, settings, progress.bar(f"{filters} filters", "steps"))
    larger, fitted = float_network(args, source, None, data, settings, progress)
    variables = {"params": fitted.params, "batch_stats": fitted.stats}
    config, start = reduce_filters(larger, variables, larger.proportional(filters))
    bar, passes = progress.bar(f"{filters} of {source} filters", "steps"), args.reduced_epochs
    return config, training.train_float(path, config, data, settings, bar, start=start, passes=passes)


def search_settings(args: argparse.Namespace) -> SearchSettings:
    """What --budget and its options ask for."""
    shares = tuple(args.filter_shares)
    return SearchSettings(args.budget, shares, args.search_steps, args.search_images, args.budget_of)


def check_requests(args: argparse.Namespace) -> None:
    """Refuse before hours of training what would be refused after them."""
    if args.budget is not None:
        search_settings(args)
    if args.reduced is not None:
        larger, fewer = args.reduced
        ENetConfig(filters=larger).proportional(fewer)
        if fewer > larger:
            raise ConfigError(f"filters are taken out of a larger network, got --reduced {larger} {fewer}")


def searched(
    args: argparse.Namespace,
    folder: Path,
    config: ENetConfig,
    params: Any,
    train: SegmentationSet,
    held: SegmentationSet,
    settings: training.Settings,
    progress: Any,
    label: str,
) -> dict[str, Any]:
    """The row of the network whose bits and filters are chosen under the budget, and what was chosen."""
    candidates = Candidates(folder / "search", config, params, train, settings, search_settings(args))
    smaller, start, bits, chosen = search_network(candidates, progress.bar(f"{label} filters, search", "candidates"))
    name = f"searched at {args.budget:g}" + ("" if args.budget_of == "ebops" else f" by {args.budget_of}")
    bar = progress.bar(f"{label} filters, {name}", "steps")
    row, *_ = training.run_variant(name, folder, smaller, start, train, held, settings, bar, bits)
    progress.note(f"{label} filters, {name}: mean IoU {row['mean_iou']:.1f} % with {chosen['counts']}")
    return row | {"search": chosen, "multiplications": sum(enet_multiplications(smaller).values())}


def study(args: argparse.Namespace, settings: training.Settings, progress: Any) -> dict[str, Any]:
    """All rows, in the order in which they are finished."""
    train, held = load_data(args.data, args.folder, settings.images)
    rows, latency = [], {}
    sources: list[tuple[int, int | None]] = [(filters, None) for filters in args.filters]
    if args.reduced is not None:
        sources.append((args.reduced[1], args.reduced[0]))
    for filters, source in sources:
        label = str(filters) if source is None else f"{filters} of {source}"
        folder = network_folder(args.out, filters, source)
        config, fitted = float_network(args, filters, source, train, settings, progress)
        folded, params = fold_norms(config, {"params": fitted.params, "batch_stats": fitted.stats})
        networks: dict[str, tuple[ENetConfig, Any]] = {}
        for variant in args.variants:
            bar = progress.bar(f"{label} filters, {variant}", "steps")
            row, *network = training.run_variant(variant, folder, folded, params, train, held, settings, bar)
            networks[variant] = (network[0], network[1])
            rows.append(row | {"network": label, "multiplications": sum(enet_multiplications(config).values())})
            progress.note(f"{label} filters, {variant}: mean IoU {row['mean_iou']:.1f} %")
        if args.budget is not None:
            row = searched(args, folder, folded, params, train, held, settings, progress, label)
            rows.append(row | {"network": label})
        draw(folder / "frame.png", held, networks, label)
        quantised = next((networks[name] for name in args.variants if networks[name][0].precision is not None), None)
        if quantised is not None:
            latency[label] = latencies(*quantised, args.clock)
        write_report(args, settings, rows, latency, len(train.images), len(held.images))
    return {"rows": rows, "latency": latency, "train_frames": len(train.images), "held_frames": len(held.images)}


def write_report(
    args: argparse.Namespace, settings: training.Settings, rows: list[Any], latency: Any, train: int, held: int
) -> str:
    """Tables of what is finished so far."""
    lines = [
        f"# ENet at 240 x 152 on {args.data}",
        "",
        f"{train} training frames, {settings.epochs} passes in floating point, {settings.tune_epochs:g} passes of "
        f"fine-tuning each; judged on {held} held-out frames.",
        "",
        "| filters | variant | bits of a weight | zeros | mean IoU | pixel accuracy | "
        + " | ".join(DRIVING_CLASSES)
        + " |",
        "|" + " --- |" * (6 + len(DRIVING_CLASSES)),
    ]
    for row in rows:
        bits = f"{row['mean_weight_bits']:.1f}" if "mean_weight_bits" in row else "32 (float)"
        each = " | ".join(f"{row['iou'][name]:.1f}" for name in DRIVING_CLASSES)
        lines.append(
            f"| {row['network']} | {row['variant']} | {bits} | {100 * row['zero_share']:.0f} % | "
            f"{row['mean_iou']:.1f} | {row['pixel_accuracy']:.1f} | {each} |"
        )
    lines += ["", f"Latency by the model, strategy Resource, {args.clock:g} ns; no synthesis has confirmed it.", ""]
    lines += ["| filters | reuse factor | cycles, 1 frame | ms, 1 frame | ms a frame, 10 frames |", "|" + " --- |" * 5]
    for filters, found in latency.items():
        for row in found:
            lines.append(
                f"| {filters} | {row['reuse']} | {row['cycles']['1']} | {row['ms_per_frame']['1']:.2f} | "
                f"{row['ms_per_frame']['10']:.2f} |"
            )
    text = "\n".join([*lines, ""])
    files.write_bytes_atomically(args.out / "report.md", text.encode())
    return text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers.enet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = training.Settings()
    parser.add_argument("--out", type=Path, default=Path("runs/enet"), help="folder of all runs; goes on there")
    parser.add_argument("--data", choices=("camvid", "cityscapes"), default="camvid")
    parser.add_argument("--folder", type=Path, help="of the data; by default JAXGEO_DATA, for camvid")
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 8, 4])
    parser.add_argument(
        "--reduced",
        type=int,
        nargs=2,
        metavar=("FROM", "TO"),
        help="also TO filters, the strongest of FROM, trained on",
    )
    parser.add_argument(
        "--reduced-epochs", type=float, default=defaults.tune_epochs, help="passes of that one; %(default)g"
    )
    search = SearchSettings()
    parser.add_argument(
        "--budget",
        type=float,
        help="also bits and filters chosen together, within this share of the cost of 8 bits and all filters",
    )
    parser.add_argument(
        "--budget-of",
        choices=get_args(PriceName),
        default=search.budget_of,
        help="what --budget bounds: effective bit operations, or DSP slices or LUTs by the bridge's model",
    )
    parser.add_argument("--filter-shares", type=float, nargs="+", default=list(search.shares), help="to choose from")
    parser.add_argument("--search-steps", type=int, default=search.steps, help="of training for each choice of filters")
    parser.add_argument("--search-images", type=int, default=search.images, help="on which candidates are judged")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="passes in floating point")
    parser.add_argument("--tune-epochs", type=float, default=defaults.tune_epochs, help="passes of each variant")
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--rate", type=float, default=defaults.rate, help="of Adam in floating point, at its peak")
    parser.add_argument("--tune-rate", type=float, default=defaults.tune_rate)
    parser.add_argument("--crop", type=int, nargs=2, default=list(defaults.crop), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--images", type=int, default=0, help="training frames; 0 takes all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", type=float, default=7.0, help="period in ns, for the latency")
    parser.add_argument("--quick", action="store_true", help="4 filters, 32 frames, one pass: whether it runs at all")
    args = parser.parse_args(argv)
    if args.quick:
        args.filters, args.epochs, args.tune_epochs, args.images, args.crop = [4], 1, 0.5, 32, [80, 120]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; 0 where it went through."""
    args = parse(argv)
    start = time.monotonic()

    def work() -> dict[str, Any]:
        names = ("epochs", "tune_epochs", "batch", "rate", "tune_rate", "images", "seed")
        settings = training.Settings(**{name: getattr(args, name) for name in names}, crop=(args.crop[0], args.crop[1]))
        check_requests(args)
        with run_folder(args.out) as progress:
            found = study(args, settings, progress)
            found = {"study": "enet", "data": args.data, "settings": dataclasses.asdict(settings)} | found
            found["minutes"] = (time.monotonic() - start) / 60
            files.write_json_atomically(args.out / "report.json", found)
        print(files.read_bytes(args.out / "report.md").decode())
        return found

    return perform(args.out, work)


if __name__ == "__main__":
    interrupts.leave(main())
