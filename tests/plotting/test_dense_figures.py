"""Figures of dense prediction: what is drawn is what was given."""

import io

import numpy as np
from matplotlib.colors import to_rgb

from jaxgeo.plotting.dense import CLASS_COLORS, class_map_figure, fisheye_figure
from jaxgeo.plotting.style import figure_to_bytes

NAMES = ("sea", "land", "ice")


def test_a_map_of_classes_has_its_panels_and_a_legend_of_all_classes():
    probabilities = np.tile([0.2, 0.7, 0.1], (48, 1))
    labels = np.ones(48, int)
    labels[:5] = 255
    for given, panels in ((None, 2), (labels, 4)):
        figure = class_map_figure(probabilities, NAMES, given)
        assert len([axes for axes in figure.axes if axes.get_title()]) == panels
        (legend,) = figure.legends
        assert tuple(text.get_text() for text in legend.get_texts()) == NAMES
        assert tuple(patch.get_facecolor()[:3] for patch in legend.get_patches()) == tuple(
            map(to_rgb, CLASS_COLORS[:3])
        )
    decided, entropy, truth, wrong = (np.asarray(axes.images[0].get_array().filled(np.nan)) for axes in figure.axes[:4])
    assert set(np.unique(decided[np.isfinite(decided)])) == {1.0}
    np.testing.assert_allclose(entropy[np.isfinite(entropy)], -(probabilities[0] * np.log(probabilities[0])).sum())
    assert set(np.unique(truth[np.isfinite(truth)])) == {1.0}
    assert set(np.unique(wrong[np.isfinite(wrong)])) == {0.0}
    assert np.isnan(truth).sum() > np.isnan(decided).sum()  # what has no label stays background


def test_a_fisheye_picture_stands_beside_its_labels_predictions_and_errors():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    labels = np.zeros((6, 8), np.uint8)
    labels[0] = 255
    predicted = np.zeros((6, 8), int)
    predicted[:, 0] = 2
    predicted[5] = 255
    colors = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    figure = fisheye_figure(image, {"one": predicted, "two": labels}, labels, NAMES, colors=colors)
    assert [axes.get_title() for axes in figure.axes] == [
        "picture", "labels", "one", "where they differ", "two", "where they differ",
    ]  # fmt: skip
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)
    wrong = figure.axes[3].images[0].get_array().filled(np.nan)
    assert np.nansum(wrong) == 4  # one column, without the row of no label and the row of no prediction
    assert np.isnan(wrong).sum() == 16
    assert figure_to_bytes(figure, dpi=40.0).startswith(b"\x89PNG")
    assert io.BytesIO(figure_to_bytes(figure, dpi=40.0)).getbuffer().nbytes > 1000
