"""Synthetic streets: what cameras and the sphere see of them, and that nothing stands in anything else."""

import dataclasses

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import unchecked

from jaxgeo.data import scene_classes as classes
from jaxgeo.data.fisheye_scenes import (
    FisheyeScenesConfig,
    camera_rays,
    fisheye_scenes,
    healpix_scenes,
    scene_camera,
)
from jaxgeo.data.ray_casting import box_distances, cylinder_distances, ground_distance, sphere_distances, turn
from jaxgeo.data.scene_layout import SceneConfig, draw_scene, move_scene
from jaxgeo.data.scene_objects import BODY, EGO_FRONT, EGO_HALF_WIDTH, EGO_REAR, Places
from jaxgeo.data.scene_places import Street, car_places, nearest
from jaxgeo.data.scene_rendering import ground_class, render
from jaxgeo.data.textures import fractal_noise, value_noise
from jaxgeo.errors import ConfigError
from jaxgeo.grids.cameras import check_camera, extrinsic_rotation
from jaxgeo.grids.fisheye_projection import point_cloud

# Where nothing else is said, tolerances bound float32 rounding, of lengths of up to a hundred metres.

SHAPE, NSIDE = (24, 32), 8  # as many pixels on both: one compiled program
RAYS = 768
CONFIG = FisheyeScenesConfig(image_shape=SHAPE, chunk=RAYS)


def rays_of(camera):
    """Rays of an image's pixels by the definition of the projection, in float64: in the camera frame."""
    v, u = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    theta = np.linspace(0, 2.5, 20001)
    radius = sum(k * theta ** (n + 1) for n, k in enumerate(camera.coefficients))
    angle, turned = np.interp(np.hypot(u, v), radius, theta), np.arctan2(v, u)
    return np.stack([np.sin(angle) * np.cos(turned), np.sin(angle) * np.sin(turned), np.cos(angle)], axis=-1)


def see(scene, origins, directions):
    """Rendering of as many rays as the pixels of an image."""
    origins, directions = (jnp.asarray(part, jnp.float32).reshape(RAYS, 3) for part in (origins, directions))
    return render(scene, origins, directions, RAYS, True)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(jax.random.key(5, impl="threefry2x32"), CONFIG.scene)


@pytest.fixture(scope="module")
def views(scene):
    """By camera: what is seen of the scene, with origins and directions of its rays in the vehicle frame."""
    found = {}
    for name in CONFIG.cameras:
        camera = scene_camera(name, SHAPE)
        rays = jnp.asarray(rays_of(camera).reshape(RAYS, 3), jnp.float32)
        origins, directions = camera_rays(camera, rays)
        found[name] = (camera, rays, origins, directions, see(scene, origins, directions))
    return found


@pytest.fixture(scope="module")
def many():
    """The arrays of 40 scenes."""
    drawn = [draw_scene(jax.random.key(seed, impl="threefry2x32"), CONFIG.scene) for seed in range(40)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)


@pytest.fixture(scope="module")
def examples():
    return list(fisheye_scenes(CONFIG, [0, 3, 8]))


def test_examples_hold_images_labels_depth_and_cameras(examples):
    made = fisheye_scenes(CONFIG, [0, 3, 8])
    assert len(made) == len(examples) == 12
    assert made.names[:5] == ("00000_FV", "00000_RV", "00000_MVL", "00000_MVR", "00003_FV")
    assert made.table is classes.SCENE_CLASSES
    for name, example in zip(made.names, examples, strict=True):
        assert (example.name, example.camera_name) == (name, name.split("_")[1])
        assert (example.image.shape, example.image.dtype) == ((*SHAPE, 3), np.uint8)
        assert (example.labels.shape, example.labels.dtype) == (SHAPE, np.uint8)
        assert (example.depth.shape, example.depth.dtype) == (SHAPE, np.float32)
        assert example.camera.image_shape == SHAPE
        assert example.image.std() > 20  # of 255: a picture and not a blank
    with pytest.raises(IndexError):
        made[12]


def test_depth_is_infinite_exactly_in_the_sky(examples):
    for example in examples:
        np.testing.assert_array_equal(np.isinf(example.depth), example.labels == classes.SKY)
        assert (example.depth > 0).all()


def test_all_classes_are_seen_in_a_few_scenes(examples):
    seen = np.unique(np.concatenate([example.labels.reshape(-1) for example in examples]))
    np.testing.assert_array_equal(seen, np.arange(classes.SCENE_CLASSES.num_classes))


def test_equal_seeds_give_equal_bits_and_others_other_scenes(examples):
    again = fisheye_scenes(CONFIG, [3, 0])
    for first, second in ((examples[4], again[0]), (examples[3], again[-1])):
        assert first.name == second.name
        for one, other in zip(first[2:5], second[2:5], strict=True):
            np.testing.assert_array_equal(one, other)
    assert (examples[0].labels != examples[4].labels).mean() > 0.05
    assert (examples[0].image != examples[4].image).mean() > 0.5


def test_an_example_is_the_scene_along_the_rays_of_its_camera(scene, views):
    for number, example in enumerate(fisheye_scenes(CONFIG, [5])):
        *_, seen = views[CONFIG.cameras[number]]
        # Rays from two implementations differ by some 1e-7: at an edge they may meet different things.
        same = example.labels.reshape(-1) == np.asarray(seen.semantic)
        assert same.mean() > 0.99
        depth, expected = example.depth.reshape(-1), np.asarray(seen.depth)
        known = same & np.isfinite(expected) & np.isfinite(depth)
        assert np.mean(np.abs(depth[known] / expected[known] - 1) < 1e-3) > 0.99


def test_sky_is_above_and_the_car_below(examples):
    for example in examples:
        rows = np.arange(SHAPE[0])[:, None] * np.ones(SHAPE)
        average = [rows[example.labels == label].mean() for label in (classes.SKY, classes.ROAD, classes.EGO_VEHICLE)]
        assert average == sorted(average)


def test_class_is_that_of_the_least_distance(scene, views):
    _, _, origins, directions, seen = views["FV"]
    shapes = scene.primitives
    each = np.concatenate(
        [
            np.asarray(ground_distance(origins, directions))[None],
            box_distances(shapes.boxes, origins, directions),
            sphere_distances(shapes.spheres, origins, directions),
            cylinder_distances(shapes.cylinders, origins, directions),
        ]
    )
    nearest = each.min(axis=0)
    known = np.isfinite(nearest)
    np.testing.assert_array_equal(np.isfinite(seen.depth), known)
    np.testing.assert_allclose(np.asarray(seen.depth)[known], nearest[known], rtol=1e-5)  # float32
    ground = ground_class(scene.street, (origins + jnp.where(known, nearest, 0)[:, None] * directions)[:, :2])
    labels = np.concatenate([[-1], scene.surfaces.label])[each.argmin(axis=0)]
    expected = np.where(known, np.where(labels < 0, ground, labels), classes.SKY)
    # Where two things touch, either may come first by rounding.
    assert (expected == np.asarray(seen.semantic)).mean() > 0.995


def test_two_cameras_agree_on_a_point_or_one_of_them_cannot_see_it(scene, views):
    camera, rays, _, _, first = views["FV"]
    other = np.asarray(views["MVR"][2][0], np.float64)
    known = np.isfinite(first.depth)
    points = np.asarray(point_cloud(camera, rays, first.depth, origin="vehicle"), np.float64)
    away = np.where(known[:, None], points - other, [0, 0, 1])
    distance = np.linalg.norm(away, axis=1)
    second = see(scene, np.broadcast_to(other, away.shape), away / distance[:, None])
    found = np.asarray(second.depth)
    # No look goes through what the first camera saw. A thousandth: surfaces seen at a grazing angle, in float32.
    through = known & (found > distance * 1.001 + 1e-3)
    assert through.sum() <= 0.005 * RAYS
    both = known & (np.abs(found - distance) < 1e-3 * distance)
    assert both.sum() > 0.2 * RAYS
    assert (np.asarray(first.semantic)[both] == np.asarray(second.semantic)[both]).mean() > 0.98


def test_what_is_seen_is_invariant_under_joint_motion_of_scene_and_rays(scene, views):
    *_, origins, directions, still = views["RV"]
    yaw, shift = jnp.float32(2.1), jnp.asarray([31.0, -17.0])
    yaws = jnp.full(RAYS, yaw)
    moved = see(
        move_scene(scene, yaw, shift), turn(origins, yaws) + jnp.asarray([[31.0, -17.0, 0]]), turn(directions, yaws)
    )
    # Edges move by the rounding of coordinates, some 1e-5 m, and noise with them.
    same = np.asarray(moved.semantic) == np.asarray(still.semantic)
    assert same.mean() > 0.99
    known = same & np.isfinite(still.depth)
    assert np.mean(np.abs(np.asarray(moved.depth)[known] / np.asarray(still.depth)[known] - 1) < 1e-4) > 0.99
    assert np.mean(np.abs(np.asarray(moved.color) - np.asarray(still.color)).max(axis=-1) < 0.02) > 0.97


@pytest.mark.parametrize("rotate_pole", [False, True])
def test_sphere_shows_the_scene_along_the_centres_of_its_pixels(scene, rotate_pole):
    (example,) = healpix_scenes(dataclasses.replace(CONFIG, cameras=("FV",)), [5], NSIDE, rotate_pole=rotate_pole)
    camera = scene_camera("FV", SHAPE)
    rays = np.stack(healpy.pix2vec(NSIDE, np.arange(RAYS), nest=True), axis=-1)
    turned = np.asarray(extrinsic_rotation(camera), np.float64)
    if rotate_pole:  # the pole of the front camera looks ahead, where its frame has theta about x and phi = -pi / 2
        axis = turned.T @ [1, 0, 0]
        theta, phi = np.arccos(axis[2]), np.arctan2(axis[1], axis[0])
        about_y = [[np.cos(theta), 0, np.sin(theta)], [0, 1, 0], [-np.sin(theta), 0, np.cos(theta)]]
        about_z = [[np.cos(phi), -np.sin(phi), 0], [np.sin(phi), np.cos(phi), 0], [0, 0, 1]]
        turned = turned @ about_z @ about_y
        np.testing.assert_allclose(turned @ [0, 0, 1], [1, 0, 0], atol=1e-6)  # float32
    seen = see(scene, np.broadcast_to(camera.translation, rays.shape), rays @ turned.T)
    same = example.labels == np.asarray(seen.semantic)
    assert same.mean() > 0.99
    known = same & np.isfinite(example.depth)
    assert np.mean(np.abs(example.depth[known] / np.asarray(seen.depth)[known] - 1) < 1e-3) > 0.99
    np.testing.assert_array_equal(np.isinf(example.depth), example.labels == classes.SKY)
    # The image's diagonal spans 224 degrees, its shorter side less: more than half of the sphere and less than all.
    assert 0.4 < example.on_image.mean() < 0.72
    assert example.name == "00005_FV"


def test_sphere_and_image_agree_in_a_pixel_that_both_see(scene, views):
    _, rays, _, _, seen = views["MVL"]
    (example,) = healpix_scenes(dataclasses.replace(CONFIG, cameras=("MVL",)), [5], NSIDE)
    pixel = healpy.vec2pix(NSIDE, *np.asarray(rays, np.float64).T, nest=True)
    # Directions within a pixel of 7 degrees: inside of large regions they see the same.
    assert (example.labels[pixel] == np.asarray(seen.semantic)).mean() > 0.75


def test_cars_stand_in_nothing_else(many):
    """Separating axes: two rectangles are apart where the corners of one are beyond a side of the other."""
    boxes, labels = many.primitives.boxes, many.surfaces.label[:, : many.primitives.boxes.used.shape[1]]
    body = boxes.used & (many.surfaces.texture[:, : boxes.used.shape[1]] == BODY)
    solid = body | (boxes.used & np.isin(labels, [classes.BUILDING, classes.PERSON, classes.PAVEMENT, classes.KERB]))
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    pairs = 0
    for number in range(len(body)):
        chosen = np.flatnonzero(solid[number])
        axes = np.stack([np.cos(boxes.yaw[number]), np.sin(boxes.yaw[number])], axis=-1)[chosen]
        axes = np.stack([axes, axes[:, ::-1] * [-1, 1]], axis=1)  # (box, axis, 2)
        half, center = boxes.half_size[number, chosen, :2], boxes.center[number, chosen, :2]
        corners = center[:, None] + np.einsum("ca,ba,bax->bcx", signs, half, axes)
        offset = corners[None] - center[:, None, None]  # (box, other, corner, 2)
        local = np.einsum("bocx,bax->boca", offset, axes)
        beyond = (local.min(axis=2) > half[:, None]) | (local.max(axis=2) < -half[:, None])
        apart = beyond.any(axis=-1)
        apart |= apart.T
        is_car = body[number, chosen]
        wrong = ~apart & is_car[:, None] & ~np.eye(len(chosen), dtype=bool)
        assert not wrong.any(), (number, labels[number, chosen][np.nonzero(wrong)[1]])
        pairs += is_car.sum()
    assert pairs > 40 * 4  # cars in 40 scenes


def test_the_ego_car_stands_at_the_origin_and_nothing_floats(many):
    boxes = many.primitives.boxes
    labels = many.surfaces.label[:, : boxes.used.shape[1]]
    ego = labels == classes.EGO_VEHICLE
    body = ego & (many.surfaces.texture[:, : boxes.used.shape[1]] == BODY)
    assert (body.sum(axis=1) == 1).all()
    # Float32, through the frame of the street and back.
    middle = np.broadcast_to([(EGO_FRONT + EGO_REAR) / 2, 0], (len(body), 2))
    np.testing.assert_allclose(boxes.center[body][:, :2], middle, atol=1e-5)
    half = np.broadcast_to([(EGO_FRONT - EGO_REAR) / 2, EGO_HALF_WIDTH], (len(body), 2))
    np.testing.assert_allclose(boxes.half_size[body][:, :2], half, atol=1e-5)
    np.testing.assert_allclose(boxes.yaw[body], 0, atol=1e-6)
    bottom = boxes.center[..., 2] - boxes.half_size[..., 2]
    np.testing.assert_allclose(bottom[boxes.used & (labels == classes.BUILDING)], 0, atol=1e-5)
    cylinders = many.primitives.cylinders
    wheels = cylinders.used & np.isin(
        many.surfaces.label[:, -cylinders.used.shape[1] :], [classes.CAR, classes.EGO_VEHICLE]
    )
    np.testing.assert_allclose((cylinders.center[..., 2] - cylinders.radius)[wheels], 0, atol=1e-5)


def test_the_nearest_used_places_are_kept_and_the_rest_switched_off():
    x, used = jnp.asarray([30.0, 4.0, -2.0, 9.0]), jnp.asarray([True, False, True, True])
    places = Places(jnp.stack([x, x], axis=-1), x, used, x, jnp.stack([x, x], axis=-1))
    counts = {2: [-2.0, 9.0], 3: [-2.0, 9.0, 30.0], 6: [-2.0, 9.0, 30.0]}
    chosen = jax.jit(lambda places: {count: nearest(places, count) for count in counts})(places)
    for count, kept in counts.items():
        found = jax.tree.map(np.asarray, chosen[count])
        assert found.position.shape == (count, 2)
        np.testing.assert_array_equal(found.heading[found.used], kept)
        np.testing.assert_array_equal(found.numbers[found.used][:, 1], kept)


def test_things_are_as_many_as_the_densities_say(many, scene):
    numbers = jax.random.uniform(jax.random.key(0), (38, 12))
    count_cars = lambda *args: [car_places(*args, density).used.sum() for density in (0, 0.5, 1)]  # noqa: E731
    used = [int(count) for count in jax.jit(count_cars)(scene.street, numbers)]
    assert used[0] == 0 < used[1] < used[2]
    count = many.primitives.spheres.used.shape[1]
    start = many.primitives.boxes.used.shape[1]
    spheres = many.surfaces.label[:, start : start + count]
    assert ((spheres == classes.TREE).sum(axis=1) == 3 * CONFIG.scene.num_trees).all()
    trees = (many.primitives.spheres.used & (spheres == classes.TREE)).sum(axis=1)
    assert trees.min() >= 9  # at least three trees of three balls in each of 40 scenes
    sides = many.street.side_half_width > 0
    assert 0.35 < sides.mean() < 0.85  # 40 draws with probability 0.6: three standard deviations


def test_drawing_and_rendering_map_over_keys():
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    rays = jax.ShapeDtypeStruct((*SHAPE, 3), jnp.float32)
    see_keys = jax.vmap(lambda key, rays: render(draw_scene(key, CONFIG.scene), rays, rays), (0, None))
    found = jax.eval_shape(see_keys, keys, rays)
    assert (found.color.shape, found.depth.shape, found.semantic.shape) == ((2, *SHAPE, 3), (2, *SHAPE), (2, *SHAPE))


def test_paint_and_grass_lie_where_the_street_says():
    street = Street(*map(jnp.asarray, ([5.0, 2.0], np.pi / 2, 5.5, 3.25, 3.0, 20.0, 3.0, 1.0)))
    along = {  # (x, y) in the frame of the street
        (-29.0, 0.0): classes.LANE_MARKING,  # a dash of the middle line: multiples of 6 m and 3 m on
        (-26.0, 0.0): classes.ROAD,
        (-29.0, 1.0): classes.ROAD,
        (-25.0, 4.5): classes.LANE_MARKING,  # between bays: 1 - 4 * 6.5
        (-23.0, 4.5): classes.ROAD,
        (-25.0, 6.0): classes.GRASS,
        (20.0, 30.0): classes.LANE_MARKING,  # middle of the side street
        (21.0, 30.0): classes.ROAD,
        (23.5, 30.0): classes.GRASS,
        (25.5, 0.5): classes.LANE_MARKING,  # stripes of the crossing: 0.25 + whole metres, half a metre wide
        (25.5, 1.0): classes.ROAD,
        (20.0, 0.0): classes.ROAD,
    }
    places = np.asarray(list(along), np.float32)
    # The street's x axis points along y of the scene, its y axis against x.
    points = np.stack([5 - places[:, 1], 2 + places[:, 0]], axis=-1)
    np.testing.assert_array_equal(ground_class(street, jnp.asarray(points)), list(along.values()))


@pytest.mark.parametrize(("name", "ahead"), [("FV", [1, 0]), ("RV", [-1, 0]), ("MVL", [0, 1]), ("MVR", [0, -1])])
def test_cameras_are_level_and_look_where_they_should(name, ahead):
    camera = scene_camera(name, SHAPE)
    right, down, axis = np.asarray(extrinsic_rotation(camera), np.float64).T
    np.testing.assert_allclose(axis[:2] / np.hypot(*axis[:2]), ahead, atol=1e-6)  # float32
    assert -np.sin(np.radians(45)) < axis[2] < 0
    np.testing.assert_allclose(right, [ahead[1], -ahead[0], 0], atol=1e-6)
    assert down[2] < 0
    assert camera.translation[2] > 0


@pytest.mark.parametrize("shape", [(1, 1), (24, 32), (64, 8), (7, 300), (966, 1280)])
def test_every_pixel_of_any_image_has_a_ray(shape):
    camera = scene_camera("MVL", shape)
    check_camera(camera)
    published = scene_camera("MVL", (966, 1280))
    # The diagonal, and with it the largest angle, is the same.
    np.testing.assert_allclose(camera.coefficients / np.hypot(*shape), published.coefficients / np.hypot(966, 1280))


def test_noise_is_smooth_and_spreads_over_the_unit_interval():
    points = np.random.default_rng(0).uniform(-40, 40, (4000, 2))
    noise = np.asarray(value_noise(jnp.asarray(points, jnp.float32), 3))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.std() > 0.1
    assert abs(noise.mean() - 0.5) < 0.03  # 4000 draws
    near = np.asarray(value_noise(jnp.asarray(points + 1e-3, jnp.float32), 3))
    assert np.abs(near - noise).max() < 5e-3  # the steepest cubic has slope 1.5, along two axes
    assert np.abs(np.asarray(value_noise(jnp.asarray(points, jnp.float32), 4)) - noise).mean() > 0.1
    total = np.asarray(fractal_noise(jnp.asarray(points, jnp.float32), 3, octaves=3))
    fine, finer = (np.asarray(value_noise(jnp.asarray(points * s, jnp.float32), 3)) for s in (2, 4))
    np.testing.assert_allclose(total, (noise + fine / 2 + finer / 4) / 1.75, atol=1e-4)  # float32 coordinates of 160


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SceneConfig(num_cars=0), "num_cars must be a whole number of at least 1"),
        (lambda: SceneConfig(car_density=1.5), "car_density must be a finite number from 0 to 1"),
        (
            lambda: SceneConfig(junction_probability=float("nan")),
            "junction_probability must be a finite number from 0 to 1",
        ),
        (lambda: FisheyeScenesConfig(image_shape=(0, 8)), "at least one row"),
        (lambda: FisheyeScenesConfig(cameras=()), "cameras are some of FV"),
        (lambda: FisheyeScenesConfig(cameras=("FV", "FV")), "each once"),
        (lambda: FisheyeScenesConfig(chunk=0), "chunk must be a whole number of at least 1"),
        (lambda: fisheye_scenes(CONFIG, []), "one or more whole numbers"),
        (lambda: fisheye_scenes(CONFIG, [-1]), "one or more whole numbers"),
        (lambda: fisheye_scenes(CONFIG, [2**32]), "one or more whole numbers"),
        (lambda: healpix_scenes(CONFIG, [0], 6), "power of two"),
        (lambda: healpix_scenes(CONFIG, [0], 4, (12,)), "faces"),
        (lambda: unchecked(scene_camera)("TOP", (8, 8)), "there are the cameras FV, RV, MVL, MVR"),
    ],
)
def test_impossible_configurations_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
