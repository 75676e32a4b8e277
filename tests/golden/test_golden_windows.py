"""Window layouts, shifts, labels and masks against those of the published program, integer by integer.

A key is a path of sizes, like `nside8/base_pix12/window4/shift1`, in any order and with or without each of them, and
the name of an array; masks may name their window at the end.
"""

import functools
import re

import numpy as np
import pytest
from golden_files import compare_entries, golden_files, load, name

from jaxgeo.errors import ConfigError
from jaxgeo.grids.healpix_windows import relative_position_index, window_positions
from jaxgeo.grids.window_shifts import plan_shift, window_masks

KINDS = {"spiral|ring_?shift": "spiral", "roll": "nest_roll", "grid": "grid"}
SIZE = re.compile(r"(nside|base_pix|window|shift)(?:_size)?(\d+)")


def kind_of(stated, sizes):
    """The shift that a file is about: stated, or else told by the sizes that its keys have."""
    for pattern, kind in KINDS.items():
        if re.search(pattern, stated.get("kind", ""), re.IGNORECASE):
            return kind
    if "shift" not in sizes:
        return "grid"
    return "nest_roll" if "window" in sizes else "spiral"


@functools.cache
def planned(kind, nside, window, shift, base_pix):
    return plan_shift(kind, nside, window, shift, tuple(range(base_pix)), mode="faithful")


def computed(key, stated):
    """Our array for a key; None where there is none of that name."""
    *path, array = key.split("/")
    sizes = {found[1]: int(found[2]) for part in path if (found := SIZE.fullmatch(part))}
    assert len(sizes) == len(path), f"{key} has sizes of no known name"
    if (ending := re.fullmatch(r"(.+)_window(\d+)", array)) is not None:
        array = ending[1]
    if array in ("nest_win_idcs", "relative_position_index"):
        return layout(sizes["window"], array)
    if array not in ("shift_idcs", "mask_label", "attn_mask", "attn_mask_last_window"):
        return None
    kind = kind_of(stated, sizes)
    # Index lists do not depend on what is not in their keys: the grid shift on its size, the spiral on the window.
    window = int(ending[2]) if ending is not None else sizes.get("window", 4)
    base_pix = sizes.get("base_pix", stated.get("base_pix", 8))
    plan = planned(kind, sizes["nside"], window, sizes.get("shift", 1), base_pix)
    if array == "shift_idcs":
        return np.asarray(plan.source)
    if array == "mask_label":
        return np.asarray(plan.labels)
    masks = np.where(window_masks(plan), 0, -100)
    return masks if array == "attn_mask" else masks[-1]


def layout(window, array):
    if array == "relative_position_index":
        return relative_position_index(window)
    side = round(window**0.5)
    numbers = np.zeros((side, side), int)
    numbers[window_positions(window)] = np.arange(window)
    return numbers


@pytest.mark.parametrize("path", golden_files("windows"), ids=name)
def test_windows_and_shifts_are_those_of_the_original(path):
    stored, stated = load(path)
    ours = {key: value for key in stored if (value := computed(key, stated)) is not None}
    compare_entries(stored, ours, atol=0)
    # What the original cannot build: (nside, window) of the grid shift, or else (nside, shift).
    for *sizes, _ in stated.get("upstream_raises", ()):
        assert refused_or_built(kind_of(stated, ()), *sizes)


def refused_or_built(kind, nside, size):
    """Whether a plan either stands or is refused for a stated reason."""
    window, shift = (size, 1) if kind == "grid" else (4, size)
    try:
        plan = plan_shift(kind, nside, window, shift, mode="faithful")
    except ConfigError as error:
        return str(size) in str(error)
    return len(plan.source) == 8 * nside**2


@pytest.mark.parametrize("altered", golden_files("windows"), ids=name)
def test_wrong_integers_and_unknown_arrays_fail_by_name(altered):
    stored, stated = load(altered)
    key = next(iter(stored))
    wrong = stored[key].copy()
    wrong.flat[-1] += 1
    with pytest.raises(AssertionError, match=key):
        compare_entries({key: wrong}, {key: computed(key, stated)}, atol=0)
    assert computed(f"{key}_else", stated) is None
