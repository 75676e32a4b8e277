"""The checks of single settings that all rooms share."""

import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError, check_real, check_whole


@pytest.mark.parametrize("value", [1, 20, np.int64(7), np.uint8(7)])
def test_a_whole_number_comes_back_as_pythons_own(value):
    found = check_whole("n", value, 1, 20)
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize("value", [0, 21, 2.0, np.float32(2), True, np.True_, "2", None, float("nan"), np.arange(2)])
def test_what_is_no_whole_number_of_the_range_is_refused(value):
    with pytest.raises(ConfigError, match=r"^n must be a whole number from 1 to 20, got "):
        check_whole("n", value, 1, 20)


def test_a_bound_is_named_where_there_is_one():
    with pytest.raises(InputError, match=r"^n must be a whole number of at least 1, got 0$"):
        check_whole("n", 0, error=InputError)
    assert check_whole("n", -3, None) == -3
    with pytest.raises(ConfigError, match=r"^n must be a whole number, got 0\.5$"):
        check_whole("n", 0.5, None)


@pytest.mark.parametrize("value", [0.0, 0, 2, -0.5, np.float32(0.5), np.int64(3)])
def test_numbers_of_any_kind_are_real(value):
    check_real("x", value, -0.5)


@pytest.mark.parametrize("value", ["0.1", None, True, np.True_, 1j, np.inf, -np.inf, np.nan, [1.0], np.ones(1)])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"^x must be a finite number, got "):
        check_real("x", value)


def test_the_end_of_a_range_belongs_to_it_or_does_not():
    check_real("x", 0.0, 0.0)
    check_real("x", 1e-300, above=0.0)
    with pytest.raises(ConfigError, match=r"^x must be a finite number above 0, got 0\.0$"):
        check_real("x", 0.0, above=0.0)
    with pytest.raises(ConfigError, match=r"^x must be a finite number of at least 0, got -1e-300$"):
        check_real("x", -1e-300, 0.0)
