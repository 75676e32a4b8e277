"""Segmentation scores against stored ones of the published program (percentages, `faithful` mode)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import compare_entries, golden_files, load, name, split

from jaxgeo.metrics import segmentation
from jaxgeo.training.losses import mean_cross_entropy

# Ratios of exact counts in float64; the stored file's own mark.
TOLERANCE = 1e-10


@pytest.mark.parametrize("path", golden_files("metrics"), ids=name)
def test_confusion_matrix_and_every_score_are_the_published_ones(path):
    arrays, _ = load(path)
    given, stored = split(arrays, {"logits", "labels"}.__contains__)
    with jax.enable_x64(True):
        # (*batch, class, row, column)
        logits = jnp.moveaxis(jnp.asarray(given["logits"], jnp.float64), -3, -1)
        labels = jnp.asarray(given["labels"], jnp.int32)
        confusion = np.asarray(
            segmentation.confusion_matrix(jnp.argmax(logits, -1), labels, logits.shape[-1]), np.float64
        )
        loss = float(mean_cross_entropy(logits, labels))
    ious = segmentation.intersection_over_union(confusion)
    found = {
        "confusion_percent_rows_pred_cols_true": 100 * confusion / confusion.sum(),
        "metric/loss": loss,
        "metric/mean_accuracy": 100 * segmentation.accuracy(confusion),
        "metric/non_bkgd_accuracy": 100 * segmentation.foreground_accuracy(confusion, mode="faithful"),
        "metric/iou": 100 * segmentation.mean_iou(confusion, mode="faithful"),
        "metric/non_bkgd_iou": 100 * segmentation.mean_iou(confusion, background=0, mode="faithful"),
    } | {f"metric/iou_class_{i}": 100 * iou for i, iou in enumerate(ious)}
    # Upstream divides integers in float32, to whose rounding this number alone is stored.
    for key in {"metric/mean_accuracy"} & set(stored):
        stored[key] = stored[key].astype(np.float32)
    compare_entries(stored, found, atol=TOLERANCE)
