"""The error ladder: what each step from float64 to gates changes in the outputs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxgeo.errors import InputError
from jaxgeo.plotting.style import GOOD, GRID, INK, MUTED, add_title, color, new_figure, style_axes, tint

BIT_FOR_BIT = "equal bit for bit"


class Rung(NamedTuple):
    """One step of the ladder, compared with an earlier one."""

    name: str
    compared_with: str
    max_abs_error: float
    mean_abs_error: float
    top1_agreement: float  # share of images
    num_values: int  # outputs compared


def error_ladder(rungs: Sequence[Rung], *, title: str = "Error ladder", unit: str = "logit") -> Figure:
    """Largest and mean absolute error per rung on a logarithmic scale, and the share of unchanged decisions.

    An error of exactly zero has no place on a logarithmic scale: such a rung stands on a green strip below it,
    marked as equal bit for bit. A rung whose error is only small never does.

    Args:
        rungs: from the first comparison to the last.
        title: over the figure.
        unit: of the outputs.

    Raises:
        InputError: no rung, or an error that is negative or not finite.
    """
    if not rungs:
        raise InputError("an error ladder needs at least one rung, got none")
    for rung in rungs:
        if not (np.isfinite(rung.max_abs_error) and 0 <= rung.mean_abs_error <= rung.max_abs_error):
            raise InputError(
                f"errors of {rung.name} must be finite with 0 <= mean <= max, got mean {rung.mean_abs_error} and max "
                f"{rung.max_abs_error}"
            )
    figure = new_figure(1.45 * len(rungs) + 2.2, 4.9)
    table, errors, strip = figure.subplots(3, 1, sharex=True, height_ratios=(0.8, 5, 1.35))
    positions = np.arange(len(rungs))
    inexact = [(x, r) for x, r in zip(positions, rungs, strict=True) if r.max_abs_error > 0]
    for x, rung in inexact:
        # A mean can underflow to zero where the largest error does not; a logarithmic scale has no place for it.
        low = rung.mean_abs_error or rung.max_abs_error
        errors.vlines(x, low, rung.max_abs_error, color=tint(color(0), 0.4), linewidth=5)
        for value, tone, below in ((rung.max_abs_error, color(1), False), (low, color(0), True)):
            errors.annotate(f"{value:.1e}", (x, value), xytext=(0, -8 if below else 8), textcoords="offset points",
                            ha="center", va="top" if below else "bottom", fontsize=8.5, color=tone)  # fmt: skip
    for name, shape, tone in (("max_abs_error", "^", color(1)), ("mean_abs_error", "o", color(0))):
        label = "largest error" if name == "max_abs_error" else "mean error"
        heights = [getattr(rung, name) or np.nan for _, rung in inexact]
        errors.plot([x for x, _ in inexact], heights, shape, color=tone, markersize=8, label=label, zorder=4)
    errors.set_yscale("log")
    if inexact:
        smallest = min(r.mean_abs_error or r.max_abs_error for _, r in inexact)
        errors.set_ylim(smallest / 12, 12 * max(r.max_abs_error for _, r in inexact))
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False, labelcolor=INK)
    style_axes(errors, y=f"absolute error, {unit}")
    errors.spines["bottom"].set_visible(False)
    errors.tick_params(bottom=False)

    strip.set_facecolor(tint(GOOD, 0.1))
    for side in strip.spines.values():
        side.set_visible(False)
    for x, rung in zip(positions, rungs, strict=True):
        if rung.max_abs_error == 0:
            strip.plot(x, 0.78, "D", color=GOOD, markersize=8)
            strip.text(x, 0.32, f"{BIT_FOR_BIT}\n{rung.num_values:,} values", ha="center", va="center", fontsize=8,
                       color=GOOD, linespacing=1.2)  # fmt: skip
    strip.set(ylim=(0, 1), yticks=[0.5], xlim=(-0.6, len(rungs) - 0.4), xticks=positions)
    strip.set_yticklabels(["exactly 0"], fontsize=9, color=GOOD, fontweight="bold")
    names = [f"{rung.name}\nagainst {rung.compared_with}" for rung in rungs]
    strip.set_xticklabels(names, fontsize=9, color=INK, linespacing=1.4)
    strip.tick_params(length=0, pad=6)

    table.set_facecolor("none")
    for side in table.spines.values():
        side.set_visible(False)
    table.axhline(0, color=GRID)
    table.set(ylim=(0, 1), yticks=[0.5])
    table.set_yticklabels(["same top class"], fontsize=9, color=INK)
    table.tick_params(length=0)
    for x, rung in zip(positions, rungs, strict=True):
        tone, text = (GOOD, "100 %") if rung.top1_agreement == 1 else (INK, _below_all(rung.top1_agreement))
        table.text(x, 0.5, text, ha="center", va="center", fontsize=10.5, color=tone, fontweight="bold")
    table.tick_params(labelbottom=False)
    errors.tick_params(labelbottom=False)
    add_title(figure, title)
    figure.align_ylabels([errors])
    strip.axhline(1, color=MUTED, linewidth=0.6)
    return figure


def _below_all(share: float) -> str:
    """A percentage that never rounds up to 100."""
    return f"{np.floor(share * 10_000) / 100:.2f} %"
