"""Orders of examples: every epoch has each example once, and any step can be asked for at any time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.data.order import batch_order, batch_rows
from jaxgeo.errors import ConfigError


@given(examples=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 2**31 - 1))
def test_each_epoch_has_every_example_once(examples, batch, seed):
    order = batch_order(examples, batch, seed)
    rows = np.concatenate([batch_rows(order, step) for step in range(-(-3 * examples // batch))])
    for epoch in range(3):
        part = rows[epoch * examples : (epoch + 1) * examples]
        np.testing.assert_array_equal(np.sort(part), np.arange(examples))


def test_a_step_does_not_depend_on_what_was_asked_before_and_seeds_differ():
    one, other = batch_order(50, 8, 3), batch_order(50, 8, 3)
    for step in range(30):
        batch_rows(one, step)
    np.testing.assert_array_equal(batch_rows(one, 30), batch_rows(other, 30))
    assert (batch_rows(batch_order(50, 50, 4), 0) != batch_rows(batch_order(50, 50, 3), 0)).any()
    assert (batch_rows(batch_order(50, 50, 3), 1) != batch_rows(batch_order(50, 50, 3), 0)).any()


@pytest.mark.parametrize(("examples", "batch"), [(0, 1), (3, 0)])
def test_empty_batches_are_refused(examples, batch):
    with pytest.raises(ConfigError, match="at least one"):
        batch_order(examples, batch, 0)
