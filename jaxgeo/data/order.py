"""Which examples make up which batch: a function of the seed and the step alone, so that training resumes anywhere."""

import grain
import numpy as np
from jaxtyping import Int

from jaxgeo.errors import ConfigError


def batch_order(num_examples: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Batches of example numbers without end; `order[step]` is the batch of a step, whatever was asked before.

    Every epoch has an order of its own. Epochs follow each other without a gap: where the batches do not divide the
    examples, one batch holds the last of one epoch and the first of the next, and no example is left out.

    Args:
        num_examples: examples are 0 ... num_examples - 1.
        batch_size: examples in each batch; may exceed their number.
        seed: of all orders.

    Raises:
        ConfigError: no examples, or an empty batch.
    """
    if num_examples < 1 or batch_size < 1:
        raise ConfigError(
            f"batches need at least one example each, out of at least one, got batches of {batch_size} out of "
            f"{num_examples}"
        )
    order = grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat()
    return order.batch(batch_size)


def batch_rows(order: grain.MapDataset, step: int) -> Int[np.ndarray, " example"]:
    """Example numbers of one step."""
    return np.asarray(order[step], np.int64)
