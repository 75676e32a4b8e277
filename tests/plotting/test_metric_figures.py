"""The figures' artists hold the numbers that were given, and their labels say what they are."""

import base64
import subprocess
import sys
import xml.etree.ElementTree

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from jaxgeo.errors import InputError
from jaxgeo.metrics.calibration import reliability
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.plotting.calibration import reliability_diagram
from jaxgeo.plotting.comparison import Comparison, method_against_reference
from jaxgeo.plotting.ladder import BIT_FOR_BIT, Rung, error_ladder
from jaxgeo.plotting.style import PALETTE, add_title, color, figure_to_bytes, figure_to_data_uri, new_figure, tint
from jaxgeo.plotting.trace import chain_diagnostics
from jaxgeo.plotting.training import learning_curves
from jaxgeo.plotting.uncertainty import Band, UncertaintyCurve, uncertainty_under_rotation

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of means of a few numbers.

rng = np.random.default_rng(0)
LADDER = [
    Rung("float32", "float64", 3e-6, 4e-7, 1.0, 5400),
    Rung("fixed point", "float32", 6e-2, 9e-3, 0.99999, 5400),
    Rung("Keras", "fixed point", 0.0, 0.0, 1.0, 5400),
    Rung("hls4ml C++", "Keras", 0.0, 0.0, 1.0, 1234567),
]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend_labels(holder):
    return [text.get_text() for text in holder.get_legend().get_texts()]


def overlapping(boxes):
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


def test_learning_curves_hold_every_member_and_the_median():
    losses, held_out = np.exp(rng.normal(size=(5, 12))), np.exp(rng.normal(size=(5, 12)))
    figure = learning_curves(losses, held_out, title="Sixteen at once")
    for ax, values in zip(figure.axes, (losses, held_out), strict=True):
        *members, median = ax.lines
        np.testing.assert_array_equal([line.get_ydata() for line in members], values)
        np.testing.assert_array_equal(median.get_ydata(), np.median(values, axis=0))
        np.testing.assert_array_equal(median.get_xdata(), np.arange(1, 13))
        assert ax.get_yscale() == "log"
        assert legend_labels(ax) == ["5 members", f"median (last: {np.median(values[:, -1]):.3g})"]
    assert [ax.get_title("left") for ax in figure.axes] == ["Sixteen at once", "Held-out images"]
    assert figure.axes[0].get_ylabel() == "loss per image, nats"


def test_a_single_epoch_is_seen_as_points_and_no_member_is_refused():
    (ax,) = learning_curves(np.ones((2, 1))).axes
    assert ax.lines[0].get_marker() == "o"
    with pytest.raises(InputError, match="at least one member"):
        learning_curves(np.ones((0, 3)))


def test_reliability_diagram_shows_filled_bins_their_counts_and_hollow_markers_for_few_images():
    confidence = np.concatenate([np.full(30, 0.55), np.full(5, 0.25)]).astype(np.float32)
    correct = np.concatenate([np.ones(15), np.zeros(15), np.ones(1), np.zeros(4)]).astype(np.float32)
    curve = reliability(jnp.asarray(confidence), jnp.asarray(correct), 10)
    figure = reliability_diagram({"ensemble": curve, "HMC": curve}, {"ensemble": Measure(0.0512, 0.01)})
    top, bottom = figure.axes
    assert legend_labels(top) == ["ensemble  (ECE 5.1 %)", "HMC"]
    many, few = [c for c in top.collections if isinstance(c, PathCollection)][:2]
    np.testing.assert_allclose(many.get_offsets(), [[0.55, 0.5]], atol=1e-6)
    np.testing.assert_allclose(few.get_offsets(), [[0.25, 0.2]], atol=1e-6)
    np.testing.assert_array_equal(few.get_facecolors()[0], [1, 1, 1, 1])
    counts = bottom.patches[0].get_data()
    np.testing.assert_array_equal(counts.values, curve.num_images)
    np.testing.assert_allclose(counts.edges, curve.edges)
    np.testing.assert_array_equal(top.lines[0].get_xydata(), [[0, 0], [1, 1]])
    with pytest.raises(InputError, match="at least one curve"):
        reliability_diagram({})


def curve_of(level, accuracy=True):
    band = Band(np.full(5, level), np.full(5, 0.1))
    return UncertaintyCurve(band, Band(band.value / 2, band.error), band if accuracy else None)


def test_uncertainty_under_rotation_draws_lines_with_bands_of_one_error():
    angles = np.linspace(0, 180, 5)
    figure = uncertainty_under_rotation(
        angles, {"ensemble": curve_of(0.5), "HMC": curve_of(0.75)}, trained_up_to=20.0, num_classes=10
    )
    entropy, information, accuracy = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == ["Predictive entropy", "Mutual information", "Accuracy"]
    np.testing.assert_array_equal(entropy.lines[1].get_ydata(), np.full(5, 0.75))
    np.testing.assert_array_equal(information.lines[1].get_ydata(), np.full(5, 0.375))
    np.testing.assert_array_equal(entropy.lines[1].get_xdata(), angles)
    edge = entropy.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([edge.min(), edge.max()], [0.65, 0.85])
    np.testing.assert_allclose(entropy.lines[2].get_ydata(), np.log(10))
    np.testing.assert_allclose(accuracy.lines[2].get_ydata(), 0.1)
    assert texts(entropy) == ["log 10: knows nothing"]
    assert texts(information) == [" trained"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ensemble", "HMC"]
    assert entropy.get_ylim()[1] > np.log(10)


def test_accuracy_panel_needs_the_accuracy_of_every_method():
    angles = np.linspace(0, 60, 5)
    figure = uncertainty_under_rotation(angles, {"a": curve_of(0.5), "b": curve_of(0.5, accuracy=False)})
    assert len(figure.axes) == 2
    assert not texts(figure.axes[1])


def test_uncertainties_of_another_length_or_none_are_refused():
    with pytest.raises(InputError, match="ensemble has 5 values and 5 errors, but there are 3 angles"):
        uncertainty_under_rotation(np.arange(3.0), {"ensemble": curve_of(0.5)})
    with pytest.raises(InputError, match="at least one curve"):
        uncertainty_under_rotation(np.arange(3.0), {})


def comparison(images=30, error=0.004):
    return Comparison(rng.uniform(size=images), rng.uniform(size=images), Measure(0.953, error), Measure(0.0314, error))


def test_comparison_has_a_panel_per_method_with_its_numbers_and_the_noise_floor_last():
    methods = {"ensemble": comparison(), "one network": comparison(error=None)}
    halves = comparison()
    figure = method_against_reference(methods, halves, quantity="entropy, nats")
    assert figure.get_suptitle() == "Each test image: entropy, nats"
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == ["ensemble", "one network", "HMC against itself (noise floor)"]
    for ax, shown in zip(figure.axes, (*methods.values(), halves), strict=True):
        points = next(c for c in ax.collections if isinstance(c, PathCollection))
        np.testing.assert_array_equal(points.get_offsets(), np.stack([shown.reference, shown.method], axis=1))
        assert ax.get_xlim() == ax.get_ylim() == figure.axes[0].get_xlim()
    assert texts(figure.axes[0]) == ["agreement 0.953 ± 0.004\ntotal variation 0.031 ± 0.004"]
    assert texts(figure.axes[1]) == ["agreement 0.953\ntotal variation 0.031"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("HMC", "ensemble")
    assert figure.axes[2].get_ylabel() == "HMC, other half"


def test_five_panels_take_two_rows_and_the_sixth_place_stays_empty():
    figure = method_against_reference({str(i): comparison() for i in range(5)})
    assert [ax.get_visible() for ax in figure.axes] == [True] * 5 + [False]


def test_comparisons_of_other_images_or_none_are_refused():
    one = comparison()
    with pytest.raises(InputError, match="compares 29 images with 30"):
        method_against_reference({"ensemble": one._replace(method=one.method[1:])})
    with pytest.raises(InputError, match="at least one method"):
        method_against_reference({})


def test_ladder_puts_errors_on_a_logarithmic_scale_and_exact_zeros_below_it():
    figure = error_ladder(LADDER, title="From float64 to C++")
    table, errors, strip = figure.axes
    assert errors.get_yscale() == "log"
    largest, mean = errors.lines
    np.testing.assert_array_equal(largest.get_xydata(), [[0, 3e-6], [1, 6e-2]])
    np.testing.assert_array_equal(mean.get_xydata(), [[0, 4e-7], [1, 9e-3]])
    assert [t for t in texts(strip) if BIT_FOR_BIT in t] == [
        f"{BIT_FOR_BIT}\n5,400 values",
        f"{BIT_FOR_BIT}\n1,234,567 values",
    ]
    assert [t.get_position()[0] for t in strip.texts] == [2, 3]
    # A share just below one never reads 100 %.
    assert texts(table) == ["100 %", "99.99 %", "100 %", "100 %"]
    assert [t.get_text() for t in strip.get_xticklabels()][1] == "fixed point\nagainst float32"
    assert texts(errors) == ["3.0e-06", "4.0e-07", "6.0e-02", "9.0e-03"]


def test_the_smallest_error_is_not_called_equal():
    figure = error_ladder([LADDER[0]._replace(max_abs_error=1.4e-45, mean_abs_error=0.0)])
    assert not any(BIT_FOR_BIT in text for ax in figure.axes for text in texts(ax))
    assert len(figure_to_bytes(figure)) > 3000
    assert figure.axes[1].lines[0].get_ydata()[0] == 1.4e-45


def test_a_ladder_of_zeros_only_and_impossible_errors():
    assert len(error_ladder(LADDER[2:]).axes[2].texts) == 2
    with pytest.raises(InputError, match="at least one rung"):
        error_ladder([])
    with pytest.raises(InputError, match="errors of float32 must be finite with 0 <= mean <= max"):
        error_ladder([LADDER[0]._replace(max_abs_error=np.nan)])
    with pytest.raises(InputError, match=r"mean 1\.0 and max"):
        error_ladder([LADDER[0]._replace(mean_abs_error=1.0)])


@pytest.mark.parametrize("rungs", [LADDER, LADDER[2:], LADDER[:1]])
def test_ladder_texts_do_not_overlap(rungs):
    figure = error_ladder(rungs)
    figure_to_bytes(figure)  # lays it out
    boxes = [text.get_window_extent() for ax in figure.axes for text in (*ax.texts, *ax.get_xticklabels())
             if text.get_text() and (ax is figure.axes[2] or text in ax.texts)]  # fmt: skip
    assert overlapping(boxes) == []


def test_chain_diagnostics_show_every_chain_its_divergences_and_the_limits():
    energy = rng.normal(size=(3, 40))
    divergent = np.zeros((3, 40), bool)
    divergent[1, 7] = True
    outputs, weights = 1 + 0.02 * rng.uniform(size=(20, 10)), 1 + rng.uniform(size=50)
    upper, lower, traces = chain_diagnostics(outputs, weights, energy, divergent).axes
    assert sum(patch.get_height() for patch in upper.patches) == 200
    assert sum(patch.get_height() for patch in lower.patches) == 50
    assert [line.get_xdata()[0] for line in upper.lines] == [1.05, 1.2]
    assert "100.0 % at most 1.05" in texts(upper)[-1]
    assert f"largest {weights.max():.3f}" in texts(lower)[-1]
    np.testing.assert_array_equal([line.get_ydata() for line in traces.lines], energy)
    np.testing.assert_array_equal(traces.collections[0].get_offsets(), [[8, energy[1, 7]]])
    assert legend_labels(traces) == ["chain 1", "chain 2", "chain 3", "divergent (1)"]


def test_chain_diagnostics_say_so_when_nothing_diverged_and_stretch_for_chains_that_never_met():
    energy = rng.normal(size=(2, 1))
    figure = chain_diagnostics(np.ones(3), np.array([1.0, 40.0]), energy, np.zeros((2, 1), bool))
    assert figure.axes[0].get_xscale() == "log"
    assert texts(figure.axes[2]) == ["no divergent transition"]
    assert texts(chain_diagnostics(np.ones(3), np.ones(2), energy).axes[2]) == []
    with pytest.raises(InputError, match="function_r_hat must hold at least one number and no NaN"):
        chain_diagnostics(np.array([np.nan]), np.ones(2), energy)
    with pytest.raises(InputError, match="energy must hold at least one number and only finite ones"):
        chain_diagnostics(np.ones(3), np.ones(2), np.full((2, 1), np.inf))


def test_chain_diagnostics_count_chains_that_are_stuck_and_draw_the_others():
    energy = rng.normal(size=(2, 5))
    outputs, weights = np.array([[1.0, np.inf], [1.01, 3.0]]), np.full(6, np.inf)
    figure = chain_diagnostics(outputs, weights, energy)
    upper, lower = figure.axes[:2]
    assert sum(patch.get_height() for patch in upper.patches) == 3
    assert sum(patch.get_height() for patch in lower.patches) == 0
    assert texts(upper)[-1] == "50.0 % at most 1.05\nlargest infinite\n1 stuck (infinite)"
    assert texts(lower)[-1] == "0.0 % at most 1.05\nlargest infinite\n6 stuck (infinite)"
    assert len(figure_to_bytes(figure, dpi=50.0)) > 3000
    assert len(figure_to_bytes(chain_diagnostics(weights, weights, energy), dpi=50.0)) > 3000


def test_figures_become_images_in_a_page_the_same_bytes_each_time():
    def figure():
        made = learning_curves(np.exp(np.arange(6.0)).reshape(2, 3))
        add_title(made, "Over all")
        return made

    settings = dict(matplotlib.rcParams)
    png, svg = figure_to_data_uri(figure()), figure_to_data_uri(figure(), "svg")
    assert base64.b64decode(png.removeprefix("data:image/png;base64,"), validate=True).startswith(b"\x89PNG\r\n")
    root = xml.etree.ElementTree.fromstring(base64.b64decode(svg.removeprefix("data:image/svg+xml;base64,")))
    assert root.tag.endswith("svg")
    assert figure_to_bytes(figure(), "svg") == base64.b64decode(svg.split(",")[1])
    assert figure_to_bytes(figure()) == base64.b64decode(png.split(",")[1])
    assert dict(matplotlib.rcParams) == settings


def test_every_figure_can_be_rendered_without_a_warning():
    angles = np.linspace(0, 180, 5)
    curve = reliability(jnp.asarray(rng.uniform(size=40), jnp.float32), jnp.ones(40), 5)
    for figure in (
        learning_curves(np.exp(rng.normal(scale=4, size=(2, 9)))),
        reliability_diagram({"a": curve}),
        uncertainty_under_rotation(angles, {"a": curve_of(0.5)}),
        method_against_reference({"a": comparison(2500)}, comparison()),
        chain_diagnostics(np.ones(3), np.ones(3), rng.normal(size=(2, 30))),
    ):
        assert len(figure_to_bytes(figure, dpi=50.0)) > 3000


def test_palette_repeats_and_tints_reach_white():
    assert color(len(PALETTE)) == color(0) == PALETTE[0]
    np.testing.assert_allclose(tint("#000000", 0.25), 0.75)
    assert tint(PALETTE[1], 0.0) == (1, 1, 1)
    assert new_figure(3.0, 2.0).get_size_inches().tolist() == [3, 2]


def test_figures_leave_pyplot_out():
    code = "import sys; import jaxgeo.plotting.comparison; print('matplotlib.pyplot' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.strip() == "False"
