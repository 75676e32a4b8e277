"""Depth losses with their gradients, scores and scalings against stored ones of the published program."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import EXACT, compare, compare_entries, compiled, family, golden_files, load, name, split

from jaxgeo.data.depth_scaling import DepthScaling, published_statistics, scale_depths, unscale_depths
from jaxgeo.metrics.depth import DepthMetricsConfig, accumulate, depth_scores, depth_sums
from jaxgeo.training import dense_losses

INPUTS = ("pred", "target", "total_mean", "raw")
TRANSFORMS = {"None": "none", "log": "log", "inv": "inverse"}
NORMALISATIONS = {"None": "none", "standardize": "standardise", "min-max": "min_max"}
RANGE = re.compile(r"metric/mse_range_(_neg_inf|[^_]+)_([^_]+)")  # numbers with leading zeros


@pytest.mark.parametrize("path", golden_files("depth"), ids=name)
def test_losses_scores_and_scalings_are_the_published_ones(path):
    arrays, _ = load(path)
    given, stored = split(arrays, INPUTS.__contains__)
    ours = {}
    if "pred" in given:
        with jax.enable_x64(True), jax.debug_nans(not np.isnan(given["pred"]).any()):
            ours |= losses(given, stored) | scores(given, stored)
    if "raw" in given:
        ours |= scalings(given["raw"])
    finite, others = split(stored, lambda key: bool(np.isfinite(stored[key]).all()))
    # A variance: where all ratios are alike, the rounding of the squares is left.
    variances, finite = split(finite, "metric/scale_invariant_log".__eq__)
    compare(finite, ours)  # EXACT, relative L2: float64 sums of some hundred terms in another order
    compare_entries(variances | others, ours, atol=EXACT)  # where infinities and NaN must match too
    assert ours


def losses(given, stored):
    kinds = {
        "mse": lambda p, t: dense_losses.l2_loss(p[:, 0], t),
        "l1": lambda p, t: dense_losses.l1_loss(p[:, 0], t),
    }
    if given["pred"].shape[1] > 1:
        kinds["mean_log_var"] = lambda p, t: dense_losses.gaussian_loss(p[:, 0], p[:, 1], t)
    for key in stored:
        if found := re.fullmatch(r"loss(?:_grad)?/huber_delta(.+)", key):
            delta = float(found[1])
            kinds[f"huber_delta{found[1]}"] = lambda p, t, delta=delta: dense_losses.huber_loss(p[:, 0], t, delta=delta)
    ours, nothing_counts = {}, not np.isfinite(given["target"]).any()
    for kind, loss in kinds.items():
        if {f"loss/{kind}", f"loss_grad/{kind}"} & set(stored):
            value, gradient = compiled(jax.value_and_grad(loss))(given["pred"], given["target"])
            # The original's mean of nothing is NaN, with our gradient.
            ours |= {f"loss/{kind}": np.nan if nothing_counts else value, f"loss_grad/{kind}": gradient}
    return ours


def scores(given, stored):
    predictions, targets = given["pred"], given["target"]
    bounds = {
        key: tuple(sorted(float(bound.replace("_neg_", "-")) for bound in found.groups()))
        for key in stored
        if (found := RANGE.fullmatch(key))
    }
    finite = targets[np.isfinite(targets)]
    mean = given.get("total_mean", finite.mean() if finite.size else 0.0)
    config = DepthMetricsConfig(ranges=tuple(bounds.values()), reference=float(mean))
    log_variances = predictions[:, 1] if predictions.shape[1] > 1 else None

    def sums(means, targets, log_variances):
        return depth_sums(means, targets, config=config, log_variances=log_variances)

    batch = compiled(sums)(predictions[:, 0], targets, log_variances)
    # An image at a time, as streamed.
    rows = (jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(len(targets)))
    total = accumulate(rows)
    found = depth_scores(total, mode="faithful")
    # Where the reference is every target, the original divides by its errors of 0.
    is_endless = total.squared > 0 and not total.reference_squared > 0
    return {
        "metric/mse": found.mean_squared_error,
        "metric/rel_se": np.inf if is_endless else found.relative_squared_error,
        "metric/rel_ae": np.inf if is_endless else found.relative_absolute_error,
        "metric/irmse_per_km": found.inverse_root_mean_squared_error,
        "metric/mean_std": found.mean_deviation,
        "metric/mean_std_median": found.mean_median_deviation,
        "metric/mean_pred": found.mean_prediction,
        "metric/scale_invariant_log": found.scale_invariant_log_error,
    } | dict(zip(bounds, found.ranged_mean_squared_error, strict=True))


def scalings(raw):
    ours = {}
    for (short, transform), masked, (norm, normalisation) in itertools.product(
        TRANSFORMS.items(), (False, True), NORMALISATIONS.items()
    ):
        scaling = DepthScaling(transform, normalisation, published_statistics(transform, masked), mode="faithful")
        scaled = scale_depths(scaling, raw)
        ours[f"norm/{short}/masked{int(masked)}/{norm}"] = scaled
        ours[f"unnorm/{short}/masked{int(masked)}/{norm}"] = unscale_depths(scaling, scaled)
    return ours


@pytest.fixture
def small(tmp_path):
    """A file as ours, of another size and without most arrays."""

    def store(**changes):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        target = np.array([[1.0, 3.0, np.inf]])
        arrays = {
            "pred": np.array([[[2.0, 3.0, 9.0]]]),
            "nonfinite/target": target,
            "loss/mse": np.array(0.25),
            "metric/mse_range__neg_inf_2": np.array(1.0),
            "metric/mse_range_05_10": np.array(0.0),
            "nonfinite/raw": target[0],
            "nonfinite/norm/inv/masked1/None": np.array([1, 1 / 3, 0]),
        }
        np.savez(path, **(arrays | changes))
        return path

    return store


def test_a_file_of_another_size_is_known_and_read(small):
    path = small()
    assert family(path) == "depth"
    test_losses_scores_and_scalings_are_the_published_ones(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss/mse", np.array(0.25 + 1e-9)),
        ("metric/surprise", np.zeros(1)),
        ("loss/mean_log_var", np.array(0.0)),  # needs a second channel
        ("unnorm/sqrt/masked0/None", np.zeros(3)),
        ("loss_grad/mse", np.array([[[0.5, 0.0, 1e-9]]])),  # the background has none
    ],
)
def test_what_deviates_or_is_not_known_fails_by_name(small, key, value):
    with pytest.raises(AssertionError, match=re.escape(key)):
        test_losses_scores_and_scalings_are_the_published_ones(small(**{key: value}))


def test_scaling_on_the_device_is_that_of_the_host():
    raw = np.array([0.5, 2.0, 30.0, np.inf])
    with jax.enable_x64(True):
        for transform in TRANSFORMS.values():
            scaling = DepthScaling(transform, "standardise", published_statistics(transform, False), mode="faithful")
            device = scale_depths(scaling, jnp.asarray(raw))
            np.testing.assert_allclose(device, scale_depths(scaling, raw), rtol=1e-14)  # float64
