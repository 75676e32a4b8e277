"""Segmentation scores against stored ones of the published program (percentages, `faithful` mode)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import golden_files, group, load, name

from jaxgeo.metrics import segmentation
from jaxgeo.training.losses import mean_cross_entropy

FILES = golden_files("confusion_percent_rows_pred_cols_true", "logits", "labels", "metric/iou")
# Ratios of exact counts in float64; the stored file's own mark.
TOLERANCE = 1e-10


@pytest.mark.parametrize("path", FILES, ids=name)
def test_confusion_matrix_and_every_score_are_the_published_ones(path):
    arrays = load(path)
    stored = group(arrays, "metric/")
    with jax.enable_x64(True):
        # Stored batch by batch with classes before pixels.
        logits = jnp.moveaxis(jnp.asarray(arrays["logits"]), 2, -1)
        labels = jnp.asarray(arrays["labels"])
        classes = logits.shape[-1]
        confusion = segmentation.accumulate(
            segmentation.confusion_matrix(jnp.argmax(batch, -1), truth, classes)
            for batch, truth in zip(logits, labels, strict=True)
        )
        loss = float(mean_cross_entropy(logits, labels))
    np.testing.assert_allclose(
        100 * confusion / confusion.sum(), arrays["confusion_percent_rows_pred_cols_true"], atol=TOLERANCE
    )
    ious = segmentation.intersection_over_union(confusion)
    found = {
        "loss": loss,
        "mean_accuracy": 100 * segmentation.accuracy(confusion),
        "non_bkgd_accuracy": 100 * segmentation.foreground_accuracy(confusion, mode="faithful"),
        "iou": 100 * segmentation.mean_iou(confusion, mode="faithful"),
        "non_bkgd_iou": 100 * segmentation.mean_iou(confusion, background=0, mode="faithful"),
    } | {f"iou_class_{i}": 100 * iou for i, iou in enumerate(ious)}
    assert set(stored) <= set(found)
    for key, value in stored.items():
        # Upstream divides integers in float32, to whose rounding this number alone is stored.
        tolerance = 1e-6 * abs(float(value)) if key == "mean_accuracy" else TOLERANCE
        assert found[key] == pytest.approx(float(value), abs=tolerance, nan_ok=True), key
