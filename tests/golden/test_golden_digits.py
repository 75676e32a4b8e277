"""The published projection of images onto the sphere against stored samples, pictures, masks and rotations."""

import re

import numpy as np
import pytest
from golden_files import Held, compare_entries, golden_files, load, name, split

from jaxgeo.data import published_projection as published
from jaxgeo.grids.latlon import driscoll_healy_grid, pixel_vectors

TOLERANCE = 1e-10  # float64; samples reach 1000, and 1 / (distance to the eye) of nearly 2000 multiplies rounding
THRESHOLD = 150  # the published program's default


@pytest.mark.parametrize("path", golden_files("digits"), ids=name)
def test_projection_and_rotations_are_the_published_ones(path):
    arrays, config = load(path)
    given, stored = split(arrays, lambda key: key in ("images", "labels") or key.startswith("randnums"))
    ours = Held()
    for key in (key for key in given if key.startswith("randnums")):
        suffix = key.removeprefix("randnums")
        deflection = float(suffix.removeprefix("_deflection") or 1)
        ours[f"rotation_matrix{suffix}"] = published.published_rotation(np.asarray(arrays[key], float), deflection)
    # A rotation without its numbers is an input.
    ours |= {key: stored[key] for key in stored if key.startswith("rotation_matrix") and key not in ours}

    parts = {key.partition("/")[0] for key in stored if "/" in key}
    if parts or any(key.startswith("grid_") for key in stored):
        grids = (value for key, value in stored.items() if key.startswith("grid_") or "/" in key)
        vectors = pixel_vectors(driscoll_healy_grid(config["b"] if "b" in config else next(grids).shape[-1] // 2))
        ours |= {f"grid_{axis}": vectors[..., i] for i, axis in enumerate("xyz")}
    for part in parts:
        match = re.fullmatch(r"(un)?rotated(.*)", part)
        assert match, f"nothing computes {part}, which is neither rotated nor unrotated"
        key = f"rotation_matrix{match[2]}"
        turn = np.eye(3) if match[1] else np.asarray(arrays[key] if key in arrays else ours[key], float)
        ours |= projection(part, vectors @ turn.T, given, arrays, config.get("threshold", THRESHOLD))

    pictures = {key: stored.pop(key) for key in list(stored) if key.endswith("/projected")}
    compare_entries(pictures, {key: value.astype(int) for key, value in ours.items() if key in pictures}, atol=1)
    compare_entries(stored, ours, atol=TOLERANCE)


def projection(part, vectors, given, stored, threshold):
    """All results of one set of directions."""
    rows, columns = published.published_picture_coordinates(vectors)
    found = {f"{part}/rx": rows, f"{part}/ry": columns}
    if "images" not in given:
        return found
    # The sampler jumps where a coordinate is whole: it is compared at the stored coordinates, to the last bit.
    rows = np.asarray(stored.get(f"{part}/rx", rows), np.float64)
    columns = np.asarray(stored.get(f"{part}/ry", columns), np.float64)
    samples = published.published_samples(given["images"].astype(np.float64), rows, columns)
    # Above 1 by rounding, which happens at a pole that stays where it is, a height is not seen.
    picture = published.published_quantised(samples * (vectors[..., 2] <= 1))
    found |= {f"{part}/bilinear_raw": samples, f"{part}/projected": picture}
    if f"{part}/mask" in stored:
        seen = stored.get(f"{part}/projected", picture).astype(int)
        mask = (picture > threshold) * (given["labels"].astype(int)[:, None, None] + 1)
        # A value truncated to the other side of the threshold may move a pixel of the mask.
        uncertain = np.abs(seen - threshold - 0.5) < 1
        found[f"{part}/mask"] = np.where(uncertain, stored[f"{part}/mask"], mask)
    return found
