import json
import math
import warnings

import jax
import pytest

from benchmarks import timing, transforms_s2


@pytest.fixture(scope="module")
def rows():
    tiny = timing.Settings(
        bandlimits=(4,), channels=(2,), dtypes=("float32",), directions=("forward",), grids=("soft",), seconds=0.01
    )
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"), jax.debug_nans(False):
        warnings.simplefilter("ignore")  # the peers' own
        return transforms_s2.rows(tiny)


def test_every_row_holds_finite_times_and_ratios(rows):
    (row,) = json.loads(json.dumps(rows))
    assert (row["part"], row["grid"], row["bandlimit"], row["channels"]) == ("s2", "soft", 4, 2)
    packages = {"s2fft": "s2fft", "torch-harmonics": "torch_harmonics", "ducc0": "ducc0"}
    assert set(row["peers"]) == {peer for peer, package in packages.items() if timing.installed(package)}
    assert row["bars"].keys() >= {"floor", "round trip", "ducc0"}
    figures = [row[key] for key in ("ours_ms", "compile_s", "plan_s", "floor_ms", "floor_fraction")]
    figures += [peer[key] for peer in row["peers"].values() for key in ("ms", "ratio")]
    figures += [bar["ratio"] for bar in row["bars"].values()]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures), row
    assert row["bars"]["round trip"]["met"]


def test_a_verdict_names_the_rows_that_miss_it(rows):
    missed = timing.worst_bars([{**rows[0], "bars": {"speed": timing.bar(0.5, 1.0)}}])["speed"]
    assert not missed["met"]
    assert missed["missed"] == [missed["where"] + ": 0.5"]
    met = timing.worst_bars([{**rows[0], "bars": {"speed": timing.bar(2.0, 1.0)}}])["speed"]
    assert met["met"]
    assert met["missed"] == []


def test_processors_are_not_chosen_after_jax_was_imported():
    with pytest.raises(RuntimeError, match="before JAX is imported"):
        timing.pin(1)
