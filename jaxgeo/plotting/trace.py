"""Whether the chains of the reference have met: diagnostics of Hamiltonian Monte Carlo."""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgeo.errors import InputError
from jaxgeo.plotting.style import INK, MUTED, WARNING, add_legend, color, marker, new_figure, style_axes


def chain_diagnostics(
    function_r_hat: Float[np.ndarray, "..."],
    weight_r_hat: Float[np.ndarray, "..."],
    energy: Float[np.ndarray, "chain draw"],
    divergent: Bool[np.ndarray, "chain draw"] | None = None,
    *,
    limits: tuple[float, float] = (1.05, 1.2),
) -> Figure:
    """Split R-hat of outputs and of weights, and the energy of every chain along its draws.

    Weights of a network have symmetries, so their R-hat may be large where that of the outputs is fine: the
    outputs are what is compared.

    Args:
        function_r_hat: of each test output, any shape; infinite where the chains are stuck at different values. Those
            count in the share and in the largest, and are named in words since no bin can hold them.
        weight_r_hat: of each parameter, likewise.
        energy: Hamiltonian of each draw, in nats.
        divergent: True where the integrator diverged, marked in the traces.
        limits: drawn in the histograms: what 95 % of the outputs, and all of them, should keep to.

    Raises:
        InputError: an R-hat that is NaN, an energy that is not finite, or nothing to draw.
    """
    for name, values in (("function_r_hat", function_r_hat), ("weight_r_hat", weight_r_hat)):
        if values.size == 0 or np.any(np.isnan(values)):
            raise InputError(f"{name} must hold at least one number and no NaN; look for NaN in the draws")
    if energy.size == 0 or not np.all(np.isfinite(energy)):
        raise InputError("energy must hold at least one number and only finite ones; look for NaN in the draws")
    figure = new_figure(10.4, 4.6)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.5))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    traces = figure.add_subplot(grid[:, 1])
    everything = np.concatenate([np.ravel(function_r_hat), np.ravel(weight_r_hat)])
    # R-hat - 1 spans decades; the few outliers must not squeeze all others into one bin.
    finite = np.append(everything[np.isfinite(everything)], 1.0)
    low, high = min(0.97, float(finite.min())), max(1.25 * limits[1], 1.05 * float(finite.max()))
    bins = np.geomspace(low, high, 61) if high > 2 else np.linspace(low, high, 61)
    for ax, values, tone, what in (
        (upper, function_r_hat, color(0), "outputs"),
        (lower, weight_r_hat, color(3), "weights"),
    ):
        ax.hist(values[np.isfinite(values)], bins=bins.tolist(), color=tone, alpha=0.85)
        style_axes(ax, title=f"Split R-hat of the {what}", y="count")
        ax.set_yscale("symlog", linthresh=1)
        ax.set_ylim(0, 8 * ax.get_ylim()[1])
        _draw_limits(ax, values, limits)
    lower.set_xlabel("split R-hat (1: the chains agree)", fontsize=9.5, color=INK)
    upper.tick_params(labelbottom=False)
    if high > 2:
        upper.set_xscale("log")
        for axis in (upper.xaxis, lower.xaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        lower.tick_params(which="minor", labelsize=8)
    _draw_traces(traces, energy, divergent)
    return figure


def _draw_limits(ax: Axes, values: Float[np.ndarray, "..."], limits: tuple[float, float]) -> None:
    for limit, style in zip(limits, ((0, (4, 2)), "-"), strict=True):
        ax.axvline(limit, color=WARNING, linewidth=1, linestyle=style)
        # On either side, so that limits close together can both be read.
        side = "right" if limit == limits[0] else "left"
        ax.text(limit, 1.0, f" {limit:g} ", transform=ax.get_xaxis_transform(), fontsize=8.5, color=WARNING, va="top",
                ha=side)  # fmt: skip
    share = float(np.mean(values <= limits[0]))
    stuck, largest = int(np.sum(np.isinf(values))), float(np.max(values))
    found = f"{100 * share:.1f} % at most {limits[0]:g}\nlargest {'infinite' if stuck else f'{largest:.3f}'}"
    if stuck:
        found += f"\n{stuck} stuck (infinite)"
    ax.text(0.985, 0.8, found,
            transform=ax.transAxes, ha="right", va="top", fontsize=8.5, color=INK, linespacing=1.35)  # fmt: skip


def _draw_traces(
    ax: Axes, energy: Float[np.ndarray, "chain draw"], divergent: Bool[np.ndarray, "chain draw"] | None
) -> None:
    draws = np.arange(1, energy.shape[1] + 1)
    for i, chain in enumerate(energy):
        ax.plot(draws, chain, color=color(i), linewidth=0.9, alpha=0.8, label=f"chain {i + 1}",
                marker=marker(i) if len(draws) == 1 else "")  # fmt: skip
    style_axes(ax, title="Energy along the chains", x="draw", y="Hamiltonian, nats")
    if divergent is not None:
        chains, steps = np.nonzero(divergent)
        if len(steps):
            ax.scatter(draws[steps], energy[chains, steps], marker="x", s=36, color=WARNING, zorder=5,
                       label=f"divergent ({len(steps)})")  # fmt: skip
        else:
            ax.text(0.985, 0.02, "no divergent transition", transform=ax.transAxes, ha="right", va="bottom",
                    fontsize=8.5, color=MUTED)  # fmt: skip
    add_legend(ax, "upper right", columns=min(len(energy), 4))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.15 * (high - low))
