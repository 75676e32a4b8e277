"""The published projection of images onto the sphere against stored samples, pictures, masks and rotations."""

import numpy as np
import pytest
from golden_files import golden_files, group, load, name, read_config

from jaxgeo.data import published_projection as published
from jaxgeo.grids.latlon import driscoll_healy_grid, pixel_vectors

FILES = golden_files("unrotated/bilinear_raw", "unrotated/projected", "grid_z", "images")
TOLERANCE = 1e-10  # float64; samples reach 1000, and 1 / (distance to the eye) of nearly 2000 multiplies rounding


@pytest.mark.parametrize("path", FILES, ids=name)
def test_projection_is_the_published_one(path):
    arrays = load(path)
    config = read_config(arrays)
    vectors = pixel_vectors(driscoll_healy_grid(config["b"]))
    np.testing.assert_allclose(vectors, np.stack([arrays[f"grid_{axis}"] for axis in "xyz"], -1), atol=TOLERANCE)
    images = arrays["images"].astype(np.float64)
    for part in ("unrotated", "rotated"):
        if f"{part}/rx" not in arrays:
            continue
        seen = vectors if part == "unrotated" else vectors @ arrays["rotation_matrix"].T
        stored = group(arrays, f"{part}/")
        rows, columns = published.published_picture_coordinates(seen)
        np.testing.assert_allclose(rows, stored["rx"], atol=TOLERANCE)
        np.testing.assert_allclose(columns, stored["ry"], atol=TOLERANCE)
        samples = published.published_samples(images, rows, columns)
        np.testing.assert_allclose(samples, stored["bilinear_raw"], atol=TOLERANCE)
        projected = published.published_quantised(samples)
        assert np.abs(projected.astype(int) - stored["projected"]).max() <= 1
        # A value truncated to the other side of the threshold may move a pixel of the mask.
        certain = np.abs(stored["projected"].astype(int) - config["threshold"] - 0.5) > 1
        mask = (projected > config["threshold"]) * (arrays["labels"][:, None, None] + 1)
        np.testing.assert_array_equal(mask[certain], stored["mask"][certain])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_rotations_are_the_published_ones(path):
    arrays = load(path)
    for key in [key for key in arrays if key.startswith("randnums")]:
        _, _, deflection = key.partition("_deflection")
        found = published.published_rotation(arrays[key], float(deflection or 1))
        np.testing.assert_allclose(found, arrays[f"rotation_matrix{key.removeprefix('randnums')}"], atol=TOLERANCE)
