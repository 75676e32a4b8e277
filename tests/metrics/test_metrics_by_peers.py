"""Values of netcal, torchmetrics and scikit-learn on stored inputs; where their convention differs, the difference."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgeo.metrics import calibration, scores
from jaxgeo.metrics.ood import auroc
from jaxgeo.metrics.predictive import mean_log_probs

STORED = dict(np.load(pathlib.Path(__file__).parents[1] / "references" / "metrics_by_peers.npz"))
THEIRS = dict(zip(STORED["names"].tolist(), STORED["values"].tolist(), strict=True))
NAMED = {"ACE": calibration.average_calibration_error, "MCE": calibration.maximum_calibration_error}
# torchmetrics itself rounds to float32 at places. Ours of float32 are sums of 180 values of size one.
PRECISIONS = pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-6), (np.float32, 5e-6)])


def stored_log_probs(dtype):
    """Three draws of 180 images of 5 classes, from logits in sixty-fourths."""
    return jnp.asarray(scipy.special.log_softmax(STORED["logits"] / 64, axis=-1), dtype)


reliability = jax.jit(calibration.reliability, static_argnums=2)


def calibration_error(name, curve):
    if name in NAMED:
        return NAMED[name](curve)
    gaps = np.abs(np.asarray(curve.accuracy, float) - np.asarray(curve.confidence, float))
    return np.sum(gaps * np.asarray(curve.num_images)) / np.sum(curve.num_images)


@PRECISIONS
def test_scores_are_those_of_scikit_learn_and_torchmetrics(dtype, atol):
    with jax.enable_x64(dtype == np.float64):
        log_probs, labels = stored_log_probs(dtype), jnp.asarray(STORED["labels"])
        measures = {"accuracy": scores.accuracy, "NLL": scores.negative_log_likelihood, "Brier": scores.brier}
        ours = jax.jit(lambda *of: {name: measure(*of) for name, measure in measures.items()})(log_probs, labels)
        rows = [
            (peer, name) for peer in ("scikit-learn", "torchmetrics") for name in ours if f"{peer} {name}" in THEIRS
        ]
        assert len(rows) == 5  # torchmetrics has no Brier score
        for peer, name in rows:
            np.testing.assert_allclose(ours[name], THEIRS[f"{peer} {name}"], atol=atol, err_msg=f"{peer} {name}")


@jax.jit(static_argnums=(2, 3))
def calibration_errors(log_probs, labels, num_bins, binning):
    curve = calibration.reliability_curve(log_probs, labels, num_bins, binning)
    expected = calibration.expected_calibration_error(log_probs, labels, num_bins, binning)
    return {"ECE": expected} | {name: function(curve) for name, function in NAMED.items()}


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@pytest.mark.parametrize(
    ("dtype", "num_bins", "atol"),
    [(np.float64, 10, 1e-6), (np.float64, 15, 1e-6), (np.float64, 18, 1e-6), (np.float32, 15, 5e-6)],
)
def test_calibration_errors_are_those_of_netcal_and_torchmetrics_where_no_confidence_is_an_edge(
    dtype, num_bins, atol, binning
):
    with jax.enable_x64(dtype == np.float64):
        ours = calibration_errors(stored_log_probs(dtype), jnp.asarray(STORED["labels"]), num_bins, binning)
    cases = [(f"{peer} {name} {binning} {num_bins}", name) for peer in ("netcal", "torchmetrics") for name in ours]
    cases = [(case, name) for case, name in cases if case in THEIRS]
    assert len(cases) == (5 if binning == "equal_width" else 3)  # torchmetrics has two, of equal width
    for case, name in cases:
        np.testing.assert_allclose(ours[name], THEIRS[case], atol=atol, err_msg=case)


def test_equal_mass_where_the_images_do_not_fall_into_equal_bins_is_netcals_up_to_the_image_on_each_edge():
    # 180 images in 14 bins: netcal's edges are interpolated quantiles of rank 179 k / 14, ours the images of rank
    # ceil(180 k / 14). An edge moves past one image at most, whose gap goes from one bin to the next: twice 1 / 180.
    log_probs, labels = stored_log_probs(np.float32), jnp.asarray(STORED["labels"])
    ours = float(calibration.expected_calibration_error(log_probs, labels, 14, "equal_mass"))
    theirs = THEIRS["netcal ECE equal_mass 14"]
    assert 1e-4 < abs(ours - theirs) < 13 * 2 / 180
    confidence, correct = (np.asarray(x, float) for x in calibration.top_class(mean_log_probs(log_probs), labels))
    edges = np.quantile(confidence, np.linspace(0, 1, 15))
    edges[[0, -1]] = 0, 1
    sums = np.histogram(confidence, edges, weights=correct - confidence)[0]
    np.testing.assert_allclose(np.abs(sums).sum() / 180, theirs, atol=5e-6)  # float32 confidences


@pytest.mark.parametrize("name", ["ECE", "ACE", "MCE"])
def test_on_edges_the_peers_close_their_bins_below_and_ours_above(name):
    confidence, correct = jnp.asarray(STORED["eighths"] / 8, jnp.float32), jnp.asarray(STORED["right"], jnp.float32)
    reflected = 1 - confidence, 1 - correct  # exact for eighths
    # [low, high), and 1 in the last bin: this module's bins seen from the other end.
    theirs = calibration_error(name, reliability(*reflected, 8))
    np.testing.assert_allclose(theirs, THEIRS[f"netcal {name} on edges"], atol=1e-6)
    ours = calibration_error(name, reliability(confidence, correct, 8))
    if name == "MCE":  # of the bin of confidence 1/2, which shares its bin with nothing
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    else:
        assert abs(float(ours) - float(theirs)) > 1e-3
    if name != "ACE":  # which torchmetrics does not have
        # Its ninth bin holds confidence 1, so that each eighth is alone in its bin, as in ours of half the width.
        alone = reliability(confidence, correct, 16)
        assert np.count_nonzero(alone.num_images) == 9
        np.testing.assert_allclose(calibration_error(name, alone), THEIRS[f"torchmetrics {name} on edges"], atol=1e-6)


def test_the_area_under_the_curve_with_ties_is_that_of_both():
    inside, outside = STORED["inside"] / 32, STORED["outside"] / 32
    assert np.intersect1d(inside, outside).size > 10
    np.testing.assert_allclose(auroc(inside, outside), THEIRS["scikit-learn AUROC"], atol=1e-12)  # float64
    np.testing.assert_allclose(auroc(inside, outside), THEIRS["torchmetrics AUROC"], atol=1e-6)  # theirs: float32
