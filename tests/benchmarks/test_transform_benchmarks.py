"""The benchmarks of SO(3) and HEALPix transforms at toy sizes: rows are whole, figures finite, errors rounding."""

import json
import math
import warnings

import jax
import pytest

from benchmarks import timing, transforms, transforms_healpix, transforms_so3

KEYS = {"part", "grid", "bandlimit", "channels", "dtype", "cores", "direction", "ours_ms", "compile_s", "max_error"}
TINY = {"dtypes": ("float32",), "repeats": 3, "seconds": 0.01}


def check(rows):
    rows = json.loads(json.dumps(rows))
    for row in rows:
        assert row.keys() >= KEYS | {"peers", "bars"}
        # float32 sums of a few hundred terms
        assert row["max_error"] < 1e-5
        figures = [row["ours_ms"], row["compile_s"], *(peer["ratio"] for peer in row["peers"].values())]
        assert all(math.isfinite(figure) and figure >= 0 for figure in figures)
    assert all(math.isfinite(bar["worst"]) for bar in timing.worst_bars(rows).values())
    return rows


@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_healpix_rows_hold_each_direction_with_its_own_error():
    settings = timing.Settings(bandlimits=(8,), channels=(2,), **TINY)
    with jax.numpy_rank_promotion("allow"):  # for a peer
        rows = check(transforms_healpix.rows(settings))
    assert [row["direction"] for row in rows] == list(transforms_healpix.DIRECTIONS)
    assert len({row["max_error"] for row in rows}) == len(rows)
    assert rows[0]["peers"].keys() == {"healpy"}
    assert rows[1]["peers"].keys() == {"healpy", "ducc0"} | ({"s2fft"} if timing.installed("s2fft") else set())


def test_so3_rows_time_both_ways_to_call_the_peer(monkeypatch):
    monkeypatch.setitem(transforms_so3.SPEED_BARS, 4, 1.0)
    sizes = {"bandlimits": (4,), "channels": (2,), "options": {"so3_memory_bandlimit": 0}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's own
        rows = check(transforms_so3.rows(timing.Settings(grids=("gl",), **sizes, **TINY)))
    assert [row["direction"] for row in rows] == ["forward", "inverse", "gradient"]
    for row in rows[:2] if timing.installed("s2fft") else ():
        assert row["peers"].keys() == {"s2fft", "s2fft one by one"}
        faster = min(peer["ratio"] for peer in row["peers"].values())
        assert row["bars"]["so3_s2fft_4"]["ratio"] == faster
    assert rows[2]["bars"].keys() == {"so3_gradient"}
    assert {(row["bandlimit"], row["channels"]) for row in rows} == {(4, 2)}


def test_sizes_asked_for_are_those_of_every_part(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        transforms,
        "measure_in_child",
        lambda part, settings, cache: asked.append((part, settings.bandlimits, settings.channels)) or [],
    )
    assert transforms.main(["--cores", "1", "--bandlimits", "8", "--channels", "3"]) == 0
    assert asked == [(part, (8,), (3,)) for part in transforms.PARTS]
    asked.clear()
    assert transforms.main(["--cores", "1"]) == 0
    assert asked == [(part, sizes["bandlimits"], sizes["channels"]) for part, sizes in transforms.SIZES.items()]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        transforms.main(["--help"])
    assert "so3: 16 32" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--cores", "0", "--cores must be at least 1, got 0"),
        ("--cores", "100000", "--cores must be at most"),
        ("--bandlimits", "-8", "--bandlimits must be at least 1, got -8"),
        ("--channels", "0", "--channels must be at least 1, got 0"),
        ("--memory-bandlimit", "-1", "at least 0, got -1"),
        ("--out", "nowhere/rows.json", "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(flag, value, said, capsys):
    with pytest.raises(SystemExit):
        transforms.main([flag, value])
    assert said in capsys.readouterr().err


def test_a_failed_part_ends_the_run(monkeypatch):
    monkeypatch.setattr(transforms.sys, "executable", "false")
    with pytest.raises(SystemExit, match="the process that measured so3 on 1 cores ended with 1"):
        transforms.main(["--parts", "so3", "--cores", "1"])


def test_what_was_not_judged_is_neither_met_nor_missed():
    met, missed, unknown = timing.bar(2.0, 1.0), timing.bar(0.5, 1.0), timing.unjudged(1.0)
    assert timing.all_met({"a": met}) is True
    assert timing.all_met({"a": met, "b": unknown}) is None
    assert timing.all_met({"a": unknown, "b": missed}) is False
