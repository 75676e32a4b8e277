"""Fisheye cameras and resampling against stored places, directions, images, masks, depth maps and point clouds."""

import json
import re

import equinox as eqx
import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from golden_files import compare_entries, load, name, split, wanted

from jaxgeo.grids import fisheye_projection as projection
from jaxgeo.grids.cameras import pole_rotation, read_calibration
from jaxgeo.grids.directions import angle_vectors, vector_angles
from jaxgeo.grids.resample import (
    ALL_BASE_PIXELS,
    face_angles,
    fisheye_to_healpix,
    healpix_rays,
    healpix_stencil,
    image_stencil,
)
from jaxgeo.grids.rotations import inverse, rotate
from jaxgeo.grids.stencils import interpolate, take_nearest, to_uint8

# The files' own marks.
PLACE, EXACT_ANGLE, FLOAT, EQUAL_SHARE = 1e-9, 1e-10, 1e-6, 0.999
TABLE_ANGLE = 3e-5  # between the published table and the root
# The table itself: the original solves for its entries to 6e-6 pixels, and rho' is not much below k1.
TABLE_RESIDUAL = 3e-5
INPUTS = r"img|mask|depth|unit/(signal|rx|ry)|pc/(hp|flat)_depth"


def is_input(key):
    return bool(re.fullmatch(INPUTS, key))


@pytest.mark.parametrize("path", golden_files.golden_files("fisheye"), ids=name)
def test_projection_and_sampling_are_the_published_ones(path):
    arrays, config = load(path)
    given, stored = split(arrays, is_input)
    described = config.get("calibrations") or [config[key] for key in ("calibration",) if key in config]
    with jax.enable_x64(True):
        cameras = {one["name"]: read_calibration(one) for one in described}
        if "calibrations" not in config:  # the keys of a single camera do not begin with its name
            cameras |= dict.fromkeys([""] if cameras else [], *cameras.values())
        check(config, cameras, given, stored)


def check(config, cameras, given, stored):
    """Every stored result, taken away as it is met; what is left is computed by nothing."""
    left = dict(stored)
    faces = tuple(range(config.get("base_pix", 8)))
    if wanted(left, "hp_(theta|phi)"):
        take(left, dict(zip(("hp_theta", "hp_phi"), face_angles(config["nside"], faces), strict=True)), EXACT_ANGLE)
    for label, camera in cameras.items():
        prefix = f"{label}/" if label else ""
        check_camera_files(config, camera, prefix, faces, left)
        if not label:
            check_maps(config, camera, faces, given, left)
            check_points(config, camera, faces, given, left)
    if wanted(left, "unit/out"):
        places = (np.asarray(given[f"unit/{key}"], np.float64) for key in ("ry", "rx"))
        signal = np.trunc(np.asarray(given["unit/signal"], np.float64))  # the original samples into whole numbers
        stencil = image_stencil(*places, signal.shape[-2:], mode="faithful")
        take(left, {"unit/out": interpolate(stencil, signal)}, FLOAT)
    assert not left, f"nothing computes {sorted(left)}"


def check_camera_files(config, camera, prefix, faces, left):
    """Directions to places and back, of one camera."""
    if wanted(left, f"{prefix}(rot_grid_|.*s2_to_img_).*"):
        theta, phi = face_angles(config["nside"], faces)
    if f"{prefix}rot_grid_theta" in left:
        turn = jnp.broadcast_to(pole_rotation(camera), (len(theta), 3, 3))
        turned = vector_angles(rotate(turn, angle_vectors(theta, phi)))
        compare_directions(left, f"{prefix}rot_grid_", turned, EXACT_ANGLE)
    grid = None
    if "grid_hw" in config:
        grid = projection.pixel_grid(camera.image_shape, tuple(config["grid_hw"]), "corners")
        take(left, {f"{prefix}grid_u": grid[0], f"{prefix}grid_v": grid[1]}, PLACE)
    elif f"{prefix}grid_u" in left:  # any places
        grid = tuple(np.asarray(left.pop(f"{prefix}grid_{key}"), np.float64) for key in "uv")
    for key in ("rotate_pole0", "rotate_pole1"):
        part, pole = f"{prefix}{key}/", key.endswith("1")
        if wanted(left, f"{part}s2_to_img_[uv]"):
            u, v, _ = projection.angles_to_image(camera, theta, phi, pole)
            take(left, {f"{part}s2_to_img_u": u, f"{part}s2_to_img_v": v}, PLACE)
        if f"{part}exact_theta" in left:
            exact, _, valid = projection.image_to_angles(camera, *grid, pole)
            assert valid.all()
            take(left, {f"{part}exact_theta": exact}, EXACT_ANGLE)
        if f"{part}img_to_s2_theta" in left:
            check_inverse(camera, grid, pole, left, f"{part}img_to_s2_")


def check_maps(config, camera, faces, given, left):
    """Images, masks and depth to the sphere, and images and masks back."""
    for part, pole in (("rotate_pole0/", False), ("rotate_pole1/", True)):
        if not wanted(left, f"{part}.*"):
            continue
        maps = sphere_maps(config, camera, faces, given, pole)
        # What goes back is what was stored, so that one deviation is counted once.
        mask, image = (left.get(f"{part}{kind}", maps.get(kind)) for kind in ("hp_mask", "hp_img"))
        take(left, {f"{part}{key}": value for key, value in maps.items()}, FLOAT)
        back = [key for key in left if re.fullmatch(f"{part}(mask_back|img_back|back_theta|nearest_pix)", key)]
        if not back:
            continue
        grid = projection.pixel_grid(camera.image_shape, left[back[0]].shape[-2:], "corners")
        angles = published_inverse(camera, grid, pole, left, f"{part}back_")
        stencil = healpix_stencil(*angles, config["nside"], faces, mode="faithful")
        whole = healpix_stencil(*angles, config["nside"], ALL_BASE_PIXELS, mode="faithful")
        found = {f"{part}nearest_pix": settled(whole, left.get(f"{part}nearest_pix", whole.nearest))}
        inside = np.where(found[f"{part}nearest_pix"] < stencil.source_shape[0], found[f"{part}nearest_pix"], -1)
        stencil = eqx.tree_at(lambda stencil: stencil.nearest, stencil, inside)
        if mask is not None:
            found[f"{part}mask_back"] = take_nearest(stencil, mask, config.get("mask_back_background", 0))
        if image is not None:
            found[f"{part}img_back"] = interpolate(stencil, image, 255.0)
        take(left, found, FLOAT)


def settled(stencil, stored):
    """The nearest pixels; of several whose weights are equal to rounding, the stored one."""
    weights = np.asarray(stencil.weights)
    tied = (weights > weights.max(-1, keepdims=True) - 1e-12) & (np.asarray(stencil.pixels) == stored[..., None])
    return np.where(tied.any(-1), stored, stencil.nearest)


def sphere_maps(config, camera, faces, given, pole):
    stencil = fisheye_to_healpix(camera, config["nside"], faces, rotate_pole=pole, mode="faithful")
    found = {}
    if "img" in given:
        sphere = interpolate(stencil, given["img"])
        found |= {"hp_img_float": sphere, "hp_img": np.asarray(to_uint8(sphere, "faithful"))}
    if "mask" in given:
        found["hp_mask"] = np.asarray(take_nearest(stencil, given["mask"], config.get("s2_bkgd_class", 0)))
    if "depth" in given:
        found["hp_depth_bkgd_inf"] = take_nearest(stencil, given["depth"], np.inf)
    return found


def check_points(config, camera, faces, given, left):
    """Point clouds of maps and of images."""
    if "pc/hp_points" in left:
        rays = healpix_rays(camera, config["nside"], faces, mode="faithful")
        points = [projection.point_cloud(camera, rays, np.asarray(depth, np.float64)) for depth in given["pc/hp_depth"]]
        take(left, {"pc/hp_points": without_place(np.stack(points), left["pc/hp_points"])}, FLOAT)
    if wanted(left, "pc/flat_.*"):
        shape = given["pc/flat_depth"].shape[-2:]
        grid = projection.pixel_grid(camera.image_shape, shape, "origin")
        rays = angle_vectors(*published_inverse(camera, grid, False, left, "pc/flat_ray_"))
        points = [
            projection.point_cloud(camera, rays, np.asarray(depth, np.float64)).reshape(-1, 3)
            for depth in given["pc/flat_depth"]
        ]
        take(left, {"pc/flat_points": without_place(np.stack(points), left["pc/flat_points"])}, FLOAT)


def without_place(points, stored):
    """Ours; where both are not finite, as of background, stored: whether it is NaN hangs on the signs of a rotation."""
    return np.where(np.isfinite(points) | np.isfinite(stored), points, stored)


def published_inverse(camera, grid, pole, left, prefix):
    """(theta, phi) of places, to which ours are held: the stored ones, or else those of the original's own table.

    What is made of the angles is compared at these, because images multiply deviations of angles by their steepness.
    """
    if f"{prefix}theta" not in left:
        left |= dict(zip((f"{prefix}theta", f"{prefix}phi"), original_inverse(camera, *grid, pole), strict=True))
    angles = tuple(np.asarray(left[f"{prefix}{angle}"], np.float64) for angle in ("theta", "phi"))
    check_inverse(camera, grid, pole, left, prefix)
    return angles


def original_inverse(camera, u, v, pole):
    """(theta, phi) by a table that is solved as the original's is, whose 100 entries are no exact roots."""
    rows, columns = camera.image_shape
    x = u - camera.center_offset[0] - columns / 2 + 0.5
    y = (v - camera.center_offset[1] - rows / 2 + 0.5) / camera.aspect
    radius, powers = np.hypot(x, y), np.arange(1, len(camera.coefficients) + 1)
    table = np.linspace(0, radius.max(), 100)
    roots = [
        scipy.optimize.newton_krylov(lambda t, r=r: r - sum(camera.coefficients * t**powers), np.pi / 2).item()
        for r in table
    ]
    theta, phi = np.interp(radius, table, roots), np.arctan2(y, x) % (2 * np.pi)
    if not pole:
        return theta, phi
    turn = jnp.broadcast_to(inverse(pole_rotation(camera)), (*theta.shape, 3, 3))
    return vector_angles(rotate(turn, angle_vectors(theta, phi)))


def check_inverse(camera, grid, pole, left, prefix):
    """Directions of places: near the root, and the table that the original makes of it."""
    kept = {key: left[key] for key in (f"{prefix}theta", f"{prefix}phi")}
    for mode, mark in (("correct", TABLE_ANGLE), ("faithful", table_angle(camera))):
        left |= kept
        theta, phi, valid = projection.image_to_angles(camera, *grid, pole, mode=mode)
        assert valid.all()
        compare_directions(left, prefix, (theta, phi), mark)


def table_angle(camera):
    """How far the published table may be from one of exact roots, in radians."""
    return TABLE_RESIDUAL / float(camera.coefficients[0])


def compare_directions(left, prefix, angles, mark):
    """Angles on the sphere, because the longitude of a point near the pole says little."""
    stored = tuple(left.pop(f"{prefix}{angle}") for angle in ("theta", "phi"))
    mark = max(mark, 2 * np.pi * float(np.finfo(stored[0].dtype).eps))  # a file of less digits is met to its rounding
    stored = tuple(angle.astype(np.float64) for angle in stored)
    assert stored[0].shape == angles[0].shape, prefix
    distance = np.linalg.norm(angle_vectors(*angles) - angle_vectors(*stored), axis=-1)
    golden_files.met(f"{prefix}theta", np.max(np.abs(angles[0] - stored[0]), initial=0.0) / mark)
    golden_files.met(f"{prefix}phi", np.max(distance, initial=0.0) / (2 * mark))
    np.testing.assert_allclose(angles[0], stored[0], atol=mark, rtol=0, err_msg=prefix)
    np.testing.assert_allclose(distance, 0, atol=2 * mark, err_msg=prefix)


def take(left, ours, mark):
    """Compares what is stored of ours: floats entry by entry, bytes and pixel numbers by the share that is equal."""
    for key in [key for key in ours if key in left]:
        value, found = left.pop(key), np.asarray(ours[key])
        assert found.shape == value.shape, key
        if value.dtype.kind == "f":
            compare_entries({key: value}, {key: found}, atol=mark)
        else:
            share = (found == value).mean()
            golden_files.met(key, (1 - share) / (1 - EQUAL_SHARE))
            assert share >= EQUAL_SHARE, f"{key}: only {share:.2%} are equal"


@pytest.mark.parametrize(
    ("keys", "config"),
    [
        (["hp_theta", "FV/rotate_pole0/s2_to_img_u"], None),
        (["img", "rotate_pole1/hp_img"], {}),
        (["unit/signal", "unit/rx", "unit/out"], {}),
        (["anything"], {"kind": "fisheye projection"}),
        (["anything"], {"kind": "sampling between plane and sphere"}),
    ],
)
def test_a_fisheye_file_is_known_by_its_content(tmp_path, keys, config):
    stated = {} if config is None else {"config_json": np.array(json.dumps(config))}
    np.savez(tmp_path / "file.npz", **{key: np.zeros(1) for key in keys}, **stated)
    assert golden_files.family(tmp_path / "file.npz") == "fisheye"


@pytest.mark.parametrize("altered", golden_files.golden_files("fisheye"), ids=name)
def test_results_of_angles_that_are_not_stored_are_held_to_the_same_mark(altered, tmp_path):
    with np.load(altered, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files if not re.search("(back|flat_ray)_(theta|phi)$", key)}
    np.savez(tmp_path / "file.npz", **arrays)
    test_projection_and_sampling_are_the_published_ones(tmp_path / "file.npz")
    for key in [key for key in arrays if re.search("(img_back|flat_points)$", key)]:
        wrong = arrays[key].copy()
        wrong.flat[0] += 2 * FLOAT
        np.savez(tmp_path / "file.npz", **(arrays | {key: wrong}))
        with pytest.raises(AssertionError, match=key):
            test_projection_and_sampling_are_the_published_ones(tmp_path / "file.npz")


def test_arrays_that_nothing_computes_and_wrong_numbers_fail_by_name():
    signal = np.arange(4.0).reshape(1, 2, 2)
    given = {"unit/signal": signal, "unit/rx": np.array([0.5]), "unit/ry": np.array([0.5])}
    check({}, {}, given, {"unit/out": np.array([[1.5]])})
    with pytest.raises(AssertionError, match="unit/more"):
        check({}, {}, given, {"unit/out": np.array([[1.5]]), "unit/more": np.zeros(1)})
    with pytest.raises(AssertionError, match="unit/out"):
        check({}, {}, given, {"unit/out": np.array([[1.50001]])})
    with pytest.raises(AssertionError, match="only 50"):
        take({"mask": np.array([1, 2])}, {"mask": np.array([1, 3])}, 0)
