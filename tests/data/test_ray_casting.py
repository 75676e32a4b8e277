"""Distances along rays beside closed forms, and beside a march in float64 that only knows what is inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.data.ray_casting import (
    Boxes,
    Cylinders,
    Primitives,
    Spheres,
    box_distances,
    closest_hit,
    cylinder_distances,
    ground_distance,
    is_blocked,
    local_points,
    move_primitives,
    sphere_distances,
    turn,
)

COUNT, RAYS = 5, 256


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def rays(*pairs):
    """Float32 origins and directions of pairs of vectors."""
    origins, directions = (np.asarray(part, np.float64) for part in zip(*pairs, strict=True))
    return jnp.asarray(origins, jnp.float32), jnp.asarray(unit(directions), jnp.float32)


def one_box(center, half_size, yaw=0.0):
    used = jnp.ones(1, bool)
    return Boxes(jnp.asarray([center], float), jnp.asarray([half_size], float), jnp.asarray([yaw]), used)


def random_scene(seed):
    rng = np.random.default_rng(seed)
    draw = lambda shape, low, high: jnp.asarray(rng.uniform(low, high, shape), jnp.float32)  # noqa: E731
    axis = jnp.asarray(unit(rng.normal(size=(COUNT, 3))), jnp.float32)
    used = jnp.asarray(np.arange(COUNT) != 3)
    return Primitives(
        Boxes(draw((COUNT, 3), -8, 8), draw((COUNT, 3), 0.3, 2.5), draw(COUNT, -4, 4), used),
        Spheres(draw((COUNT, 3), -8, 8), draw(COUNT, 0.3, 2.5), used),
        Cylinders(draw((COUNT, 3), -8, 8), axis, draw(COUNT, 0.3, 3), draw(COUNT, 0.3, 2), used),
    )


def random_rays(seed):
    rng = np.random.default_rng(seed + 1000)
    origins = rng.uniform(-9, 9, (RAYS, 3))
    # Rays at random would meet few of the bodies: these go to places near their centres.
    centers = np.concatenate([shapes.center for shapes in random_scene(seed)])
    directions = unit(centers[rng.integers(0, len(centers), RAYS)] + rng.normal(size=(RAYS, 3)) - origins)
    # Zero components are the case that slabs divide by.
    directions[:8] = np.repeat([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]], 2, axis=0)
    directions[8:16] = unit(directions[8:16] * [1, 1, 0])
    return jnp.asarray(origins, jnp.float32), jnp.asarray(directions, jnp.float32)


def signed_gaps(primitives, points):
    """How far points are outside (negative: inside) of each body, up to a factor: float64, (primitive, *point)."""
    boxes, spheres, cylinders = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), primitives)
    gaps = []
    for center, half, yaw in zip(boxes.center, boxes.half_size, boxes.yaw, strict=True):
        turned = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        gaps.append(np.max(np.abs((points - center) @ turned.T) - half, axis=-1))
    for center, radius in zip(spheres.center, spheres.radius, strict=True):
        gaps.append(np.linalg.norm(points - center, axis=-1) - radius)
    for center, axis, half, radius in zip(*cylinders[:4], strict=True):
        along = (points - center) @ axis
        away = np.linalg.norm(points - center - along[..., None] * axis, axis=-1)
        gaps.append(np.maximum(np.abs(along) - half, away - radius))
    return np.stack(gaps)


def all_distances(primitives, origins, directions):
    return np.concatenate(
        [
            measure(shapes, origins, directions)
            for measure, shapes in zip((box_distances, sphere_distances, cylinder_distances), primitives, strict=True)
        ]
    )


def test_ground_is_met_from_above_and_from_below_only_ahead():
    found = ground_distance(*rays(([3, 4, 2], [0, 0, -1]), ([0, 0, 2], [3, 0, -4]), ([0, 0, 2], [1, 0, 0])))
    np.testing.assert_allclose(found, [2, 2.5, np.inf], rtol=1e-6)  # float32
    found = ground_distance(*rays(([0, 0, 2], [0, 0, 1]), ([0, 0, -3], [0, 0, 1]), ([0, 0, -3], [0, 3, 4])))
    np.testing.assert_allclose(found, [np.inf, 3, 3.75], rtol=1e-6)


def test_sphere_is_met_at_its_radius_before_its_centre():
    sphere = Spheres(jnp.asarray([[30.0, 40.0, 0.0]]), jnp.asarray([2.0]), jnp.ones(1, bool))
    found = sphere_distances(
        sphere,
        *rays(
            ([0, 0, 0], [3, 4, 0]),
            ([0, 0, 0], [-3, -4, 0]),
            ([30, 40, 0], [0, 1, 1]),
            ([0, 41, 0], [1, 0, 0]),
            ([0, 42.5, 0], [1, 0, 0]),
        ),
    )
    np.testing.assert_allclose(found[0], [48, np.inf, 2, 30 - np.sqrt(3), np.inf], rtol=1e-6)  # float32


def test_axis_aligned_box_is_met_at_its_nearest_face():
    box = one_box([10.0, 0.0, 1.0], [2.0, 3.0, 1.0])
    found = box_distances(
        box,
        *rays(
            ([0, 0, 1], [1, 0, 0]),
            ([0, 2.9, 1], [1, 0, 0]),
            ([0, 3.1, 1], [1, 0, 0]),
            ([10, 9, 0.5], [0, -1, 0]),
            ([9, 0, 7], [0, 0, -1]),
            ([10, 0, 1], [1, 0, 0]),
            ([20, 0, 1], [1, 0, 0]),
        ),
    )
    np.testing.assert_allclose(found[0], [8, 8, np.inf, 6, 5, 2, np.inf], rtol=1e-6)  # float32


def test_box_turned_by_an_eighth_shows_its_edge():
    box = one_box([10.0, 0.0, 0.0], [1.0, 1.0, 5.0], np.pi / 4)
    found = box_distances(box, *rays(([0, 0, 0], [1, 0, 0]), ([0, 0.5, 0], [1, 0, 0]), ([0, 1.42, 0], [1, 0, 0])))
    expected = [10 - np.sqrt(2), 10 - np.sqrt(2) + 0.5, np.inf]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)  # float32


def test_cylinder_is_met_at_its_side_or_its_disc():
    cylinder = Cylinders(
        jnp.asarray([[5.0, 0, 0]]), jnp.asarray([[0, 0, 1.0]]), *jnp.asarray([[2.0], [1.0]]), jnp.ones(1, bool)
    )
    found = cylinder_distances(
        cylinder,
        *rays(
            ([0, 0, 0], [1, 0, 0]),
            ([5, 0.5, 9], [0, 0, -1]),
            ([5, 1.5, 9], [0, 0, -1]),
            ([0, 0.6, 1], [1, 0, 0]),
            ([0, 0, 2.5], [1, 0, 0]),
            ([5, 0, 0], [0, 0, 1]),
        ),
    )
    np.testing.assert_allclose(found[0], [4, 7, np.inf, 4.2, np.inf, 2], rtol=1e-6)  # float32


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_lie_on_the_bodies_and_nothing_lies_before_them(seed):
    primitives, (origins, directions) = random_scene(seed), random_rays(seed)
    found = all_distances(primitives, origins, directions)
    used = np.tile(np.asarray(primitives.boxes.used), 3)
    assert np.isinf(found[~used]).all()
    found = found[used]
    assert np.isfinite(found).sum() > 100  # so that what follows means something
    origins, directions = (np.asarray(part, np.float64) for part in (origins, directions))
    points = origins + np.where(np.isfinite(found), found, 0)[..., None] * directions
    number, ray = np.nonzero(np.isfinite(found))
    on_surface = np.stack([signed_gaps(primitives, p)[used][n] for n, p in enumerate(points)])
    # Some 20 m in float32; a ray that grazes a side is off it by the root of that.
    assert np.abs(on_surface[number, ray]).max() < 2e-4

    step = 0.02
    places = origins[:, None] + (np.arange(1600) * step)[:, None] * directions[:, None]
    inside = signed_gaps(primitives, places)[used] < 0
    starts_inside = inside[..., :1]
    changed = inside != starts_inside
    marched = np.where(changed.any(axis=-1), np.argmax(changed, axis=-1) * step, np.inf)
    # The march sees a change at most a step late, and misses chords shorter than a step altogether.
    seen = np.isfinite(marched)
    assert np.isfinite(found[seen]).all()
    late = marched[seen] - found[seen]
    assert late.min() > -1e-4
    assert (late > step + 1e-4).mean() < 0.02
    assert (np.isfinite(found) & ~seen).sum() < 0.05 * seen.sum()


@pytest.mark.parametrize("seed", [3, 4])
def test_closest_hit_is_the_least_distance_of_all(seed):
    primitives, (origins, directions) = random_scene(seed), random_rays(seed)
    hit = closest_hit(primitives, origins, directions)
    each = all_distances(primitives, origins, directions)
    everything = np.concatenate([np.asarray(ground_distance(origins, directions))[None], each])
    # The compiler may round the same formula differently in a loop.
    np.testing.assert_allclose(hit.distance, everything.min(axis=0), rtol=1e-5, atol=1e-5)
    index = np.asarray(hit.primitive)
    assert (np.where(np.isfinite(hit.distance), everything.argmin(axis=0) - 1, -1) == index).all()
    assert len(np.unique(index)) > 6
    np.testing.assert_array_equal(is_blocked(primitives, origins, directions), np.isfinite(each).any(axis=0))


@given(seed=st.integers(0, 2**31 - 1), yaw=st.floats(-7, 7), shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
def test_distances_are_invariant_under_motions_of_the_ground(seed, yaw, shift):
    primitives, (origins, directions) = random_scene(seed), random_rays(seed)
    angle, shift = jnp.float32(yaw), jnp.asarray([*shift, 0.0], jnp.float32)
    angles = jnp.full(RAYS, angle)
    moved = closest_hit(
        move_primitives(primitives, angle, shift), turn(origins, angles) + shift[None], turn(directions, angles)
    )
    still = closest_hit(primitives, origins, directions)
    # Rounding moves an edge by some 1e-5, so that a ray in a hundred may at most pass on its other side.
    same = np.asarray(moved.primitive) == np.asarray(still.primitive)
    assert same.mean() > 0.98
    known = same & np.isfinite(still.distance)
    close = np.abs(np.asarray(moved.distance)[known] - np.asarray(still.distance)[known]) < 1e-3
    assert close.mean() > 0.99  # rays that graze a body are worse conditioned than any tolerance


def test_normals_point_out_of_the_bodies():
    primitives, (origins, directions) = random_scene(7), random_rays(7)
    hit = closest_hit(primitives, origins, directions)
    chosen = np.flatnonzero(np.asarray(hit.primitive) >= 0)
    points = (origins + jnp.where(jnp.isfinite(hit.distance), hit.distance, 0)[:, None] * directions)[chosen]
    index = hit.primitive[chosen]
    _, extent, normals = local_points(primitives, index, points, jnp.float32(0.4))
    assert (np.asarray(extent) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)  # float32
    out, inside = (
        signed_gaps(primitives, np.asarray(points + sign * 1e-3 * normals, np.float64))[index, np.arange(len(chosen))]
        for sign in (1, -1)
    )
    # At an edge either face will do, of which each point is still outside of the body one step out.
    assert (out > 5e-4).all()
    assert (inside < 0).mean() > 0.98
