"""Learning rates: a linear warm-up, and what follows it."""

from typing import Literal

import optax

from jaxgeo.errors import check_one_of

Schedule = Literal["constant", "cosine", "step"]


def learning_rates(schedule: Schedule, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Learning rate at each step: linear warm-up, then constant, half a cosine or two steps down.

    The cosine is 0 one step after the last. The schedule `step` is a tenth of its peak from half of all steps on
    (warm-up counted) and a hundredth from three quarters on.

    Args:
        schedule: its form.
        peak: that the warm-up reaches.
        steps: of all.
        warmup: of these, rising.

    Raises:
        ConfigError: an unknown schedule.
    """
    check_one_of("schedule", schedule, Schedule)
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, steps - warmup)
    elif schedule == "step":
        half, three_quarters = -(-steps // 2), -(-3 * steps // 4)
        after = optax.piecewise_constant_schedule(peak, {half - warmup: 0.1, three_quarters - warmup: 0.1})
    else:
        after = optax.constant_schedule(peak)
    # From peak / (w + 1) and not from 0, so that the first step is not lost.
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])
