"""Methods against the reference, image by image."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgeo.errors import InputError
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.style import INK, MUTED, add_title, color, new_figure, style_axes


class Comparison(NamedTuple):
    """A quantity of each test image by two predictives, and how near the two are over all images."""

    reference: Float[np.ndarray, " image"]
    method: Float[np.ndarray, " image"]
    agreement: Measure
    total_variation: Measure


def method_against_reference(
    methods: Mapping[str, Comparison],
    halves: Comparison | None = None,
    *,
    quantity: str = "predictive entropy, nats",
    reference_name: str = "HMC",
) -> Figure:
    """One scatter panel per method against the reference, and the reference's halves as the noise floor.

    All panels share their axes; a method as near as the last panel cannot be told from the reference.

    Args:
        methods: by name.
        halves: one half of the reference's draws (as `reference`) against the other (as `method`), or None.
        quantity: what is compared, with its unit.
        reference_name: for axes and titles.

    Raises:
        InputError: no method, or two predictives of different numbers of images.
    """
    panels = {name: (c, f"{reference_name}", name, color(i)) for i, (name, c) in enumerate(methods.items())}
    if not panels:
        raise InputError("a comparison needs at least one method, got none")
    if halves is not None:
        panels[f"{reference_name} against itself"] = (
            halves, f"{reference_name}, one half", f"{reference_name}, other half", INK
        )  # fmt: skip
    for name, (comparison, *_) in panels.items():
        if len(comparison.reference) != len(comparison.method):
            raise InputError(
                f"{name} compares {len(comparison.method)} images with {len(comparison.reference)} of the reference; "
                f"both need the same images"
            )
    columns = min(len(panels), 4 if len(panels) != 5 else 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(3.0 * columns + 0.3, 3.65 * rows + 0.35)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    values = np.concatenate([np.concatenate([c.reference, c.method]) for c, *_ in panels.values()])
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.04 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    for ax, (name, (comparison, x, y, tone)) in zip(axes, panels.items(), strict=False):
        _draw_panel(ax, comparison, tone, limits)
        style_axes(ax, x=x, y=y, grid="both")
        # The halves are not a method: their panel says so in its title.
        suffix = " (noise floor)" if tone == INK else ""
        ax.set_title(f"{name}{suffix}", loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=31)
        ax.text(0, 1.025, f"agreement {_with_error(comparison.agreement)}\n"
                f"total variation {_with_error(comparison.total_variation)}",
                transform=ax.transAxes, fontsize=8.5, color=MUTED, va="bottom", linespacing=1.35)  # fmt: skip
        ax.tick_params(labelbottom=True)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    add_title(figure, f"Each test image: {quantity}")
    return figure


def _draw_panel(ax: Axes, comparison: Comparison, tone: str, limits: tuple[float, float]) -> None:
    num_images = len(comparison.reference)
    ax.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=2, label="_same")
    # So many points that they overlap become translucent; drawn as pixels to keep an SVG small.
    ax.scatter(comparison.reference, comparison.method, s=13 if num_images < 2000 else 6, color=tone, linewidths=0,
               alpha=float(np.clip(150 / num_images, 0.12, 0.6)), zorder=3, rasterized=True)  # fmt: skip
    ax.set(xlim=limits, ylim=limits)
    ax.set_aspect("equal", adjustable="box")


def _with_error(measure: Measure) -> str:
    if measure.standard_error is None:
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} ± {measure.standard_error:.3f}"
