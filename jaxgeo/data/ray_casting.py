"""Where rays meet boxes, spheres, cylinders and the ground: exact distances, the closest hit, shadows.

The frame is right-handed with z up. The ground is the plane z = 0; a box stands upright and is turned about z; a
cylinder is closed by two discs and has any axis. Distances are measured along unit vectors, in the unit of the
coordinates (metres), and infinite where a ray misses; a ray from inside meets the wall from inside. Everything is
pure, works in the dtype of the rays, and takes scenes of one size through `jax.vmap`: an unused primitive is switched
off.

The distances avoid the differences of large squares that the textbook's quadratic equation has: in float32 they are
good to some 1e-6 of the distance.

References:
    Kay and Kajiya, "Ray Tracing Complex Scenes", SIGGRAPH 1986: slabs.
    Haines, Guenther and Akenine-Moeller, "Precision Improvements for Ray/Sphere Intersection", Ray Tracing Gems (2019).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_PARALLEL = 1e-20  # stands for a component of a direction that is zero


class Boxes(NamedTuple):
    """Cuboids turned about z."""

    center: Float[Array, "box 3"]
    half_size: Float[Array, "box 3"]  # along the box's own axes
    yaw: Float[Array, " box"]  # radians, from x to y
    used: Bool[Array, " box"]


class Spheres(NamedTuple):
    """Balls."""

    center: Float[Array, "sphere 3"]
    radius: Float[Array, " sphere"]
    used: Bool[Array, " sphere"]


class Cylinders(NamedTuple):
    """Closed circular cylinders."""

    center: Float[Array, "cylinder 3"]
    axis: Float[Array, "cylinder 3"]  # unit vectors
    half_length: Float[Array, " cylinder"]
    radius: Float[Array, " cylinder"]
    used: Bool[Array, " cylinder"]


class Primitives(NamedTuple):
    """What stands on the ground."""

    boxes: Boxes
    spheres: Spheres
    cylinders: Cylinders


class Hit(NamedTuple):
    """What each ray meets first."""

    distance: Float[Array, " ray"]  # infinite where nothing
    primitive: Int[Array, " ray"]  # -1 the ground or nothing, then boxes, spheres and cylinders in their order


@jax.jit
def ground_distance(origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]) -> Float[Array, " ray"]:
    """Distances to the plane z = 0, from above or from below."""
    return _to_ground(origins.T, directions.T)


@jax.jit
def box_distances(
    boxes: Boxes, origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]
) -> Float[Array, "box ray"]:
    """Distances to each box, by the slabs between its opposite faces."""
    return jax.vmap(_to_box, (0, None, None))(boxes, origins.T, directions.T)


@jax.jit
def sphere_distances(
    spheres: Spheres, origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]
) -> Float[Array, "sphere ray"]:
    """Distances to each sphere."""
    return jax.vmap(_to_sphere, (0, None, None))(spheres, origins.T, directions.T)


@jax.jit
def cylinder_distances(
    cylinders: Cylinders, origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]
) -> Float[Array, "cylinder ray"]:
    """Distances to each cylinder: the endless one, cut by the slab between its discs."""
    return jax.vmap(_to_cylinder, (0, None, None))(cylinders, origins.T, directions.T)


@jax.jit
def closest_hit(primitives: Primitives, origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]) -> Hit:
    """What each ray meets first; of equal distances the ground counts, then the first primitive.

    One primitive after the other, for all rays: no array of rays times primitives is made.
    """
    origins, directions = origins.T, directions.T
    distance = _to_ground(origins, directions)
    best = Hit(distance, jnp.full(distance.shape, -1, jnp.int32))
    first = 0
    for kind, measure in _KINDS:
        shapes = getattr(primitives, kind)
        count = len(shapes.used)

        def nearer(best, numbered, measure=measure):
            index, shape = numbered
            distance = measure(shape, origins, directions)
            closer = distance < best.distance
            return Hit(jnp.where(closer, distance, best.distance), jnp.where(closer, index, best.primitive)), None

        numbers = jnp.arange(first, first + count, dtype=jnp.int32)
        best, _ = jax.lax.scan(nearer, best, (numbers, shapes))
        first += count
    return best


@jax.jit
def is_blocked(
    primitives: Primitives, origins: Float[Array, "ray 3"], directions: Float[Array, "ray 3"]
) -> Bool[Array, " ray"]:
    """Whether anything but the ground stands in a ray's way, at any distance."""
    origins, directions = origins.T, directions.T
    blocked = jnp.zeros(origins.shape[1:], bool)
    for kind, measure in _KINDS:

        def either(blocked, shape, measure=measure):
            return blocked | jnp.isfinite(measure(shape, origins, directions)), None

        blocked, _ = jax.lax.scan(either, blocked, getattr(primitives, kind))
    return blocked


@jax.jit
def local_points(
    primitives: Primitives, index: Int[Array, " ray"], points: Float[Array, "ray 3"], heading: Float[Array, ""]
) -> tuple[Float[Array, "ray 3"], Float[Array, "ray 3"], Float[Array, "ray 3"]]:
    """(points in the frame of the primitive, its half extents, outward unit normals in the common frame).

    The frame of a box is its own; that of a sphere is turned by `heading`; in that of a cylinder a point is (distance
    from the axis, 0, place along the axis). What belongs to index -1 has no meaning.

    Args:
        primitives: the scene.
        index: of the primitive that a point lies on, as in `Hit`.
        points: on the surfaces.
        heading: of the frame of spheres, radians.
    """
    boxes, spheres, cylinders = primitives
    number_boxes, number_round = len(boxes.used), len(boxes.used) + len(spheres.used)

    def chosen(shapes, first):
        return jax.tree.map(lambda leaf: leaf[jnp.clip(index - first, 0, len(shapes.used) - 1)], shapes)

    def select(box, sphere, cylinder):
        is_box, is_sphere = (index < number_boxes)[:, None], (index < number_round)[:, None]
        return jnp.where(is_box, box, jnp.where(is_sphere, sphere, cylinder))

    box, sphere, cylinder = chosen(boxes, 0), chosen(spheres, number_boxes), chosen(cylinders, number_round)
    in_box = turn(points - box.center, -box.yaw)
    share = in_box / box.half_size
    # The face is that of the largest share; a point on an edge belongs to one of the two.
    face = jax.nn.one_hot(jnp.argmax(jnp.abs(share), axis=-1), 3, dtype=points.dtype)
    from_center = points - sphere.center
    along, radial = _along_axis(points - cylinder.center, cylinder.axis)
    distance = jnp.linalg.norm(radial, axis=-1)
    on_disc = cylinder.half_length - jnp.abs(along) < cylinder.radius - distance
    side = radial / jnp.maximum(distance, _PARALLEL)[:, None]
    cap = cylinder.axis * jnp.where(along < 0, -1, 1)[:, None]
    normals = select(
        turn(face * jnp.sign(share), box.yaw),
        from_center / sphere.radius[:, None],
        jnp.where(on_disc[:, None], cap, side),
    )
    places = select(
        in_box,
        turn(from_center, jnp.broadcast_to(-heading, index.shape)),
        jnp.stack([distance, jnp.zeros_like(distance), along], axis=-1),
    )
    extents = select(
        box.half_size,
        jnp.broadcast_to(sphere.radius[:, None], points.shape),
        jnp.stack([cylinder.radius, cylinder.radius, cylinder.half_length], axis=-1),
    )
    return places, extents, normals


def turn(vectors: Float[Array, "*batch 3"], yaw: Float[Array, "*batch"]) -> Float[Array, "*batch 3"]:
    """Vectors turned about z by angles in radians, from x to y."""
    cosine, sine = jnp.cos(yaw), jnp.sin(yaw)
    x, y, z = jnp.moveaxis(vectors, -1, 0)
    return jnp.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=-1)


@jax.jit
def move_primitives(primitives: Primitives, yaw: Float[Array, ""], shift: Float[Array, " 3"]) -> Primitives:
    """Everything turned about z by an angle in radians and then shifted."""

    def moved(points, shift):
        return turn(points, jnp.broadcast_to(yaw, points.shape[:-1])) + shift[None]

    boxes, spheres, cylinders = primitives
    return Primitives(
        boxes._replace(center=moved(boxes.center, shift), yaw=boxes.yaw + yaw),
        spheres._replace(center=moved(spheres.center, shift)),
        cylinders._replace(center=moved(cylinders.center, shift), axis=moved(cylinders.axis, jnp.zeros_like(shift))),
    )


# The functions below measure one primitive; rays have their components first, so that each is one vector in memory.


def _to_ground(origins: Array, directions: Array) -> Array:
    down = directions[2]
    distance = -origins[2] / jnp.where(down == 0, _PARALLEL, down)
    return jnp.where((down != 0) & (distance > 0), distance, jnp.inf)


def _to_box(box: Boxes, origins: Array, directions: Array) -> Array:
    cosine, sine = jnp.cos(box.yaw), jnp.sin(box.yaw)
    entry, leave = jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf)
    x, y, z = (origins[axis] - box.center[axis] for axis in range(3))
    u, v, w = directions
    places = cosine * x + sine * y, cosine * y - sine * x, z
    steps = cosine * u + sine * v, cosine * v - sine * u, w
    for place, step, half in zip(places, steps, box.half_size, strict=True):
        inverse = 1 / jnp.where(jnp.abs(step) < _PARALLEL, _PARALLEL, step)
        low, high = (-half - place) * inverse, (half - place) * inverse
        entry = jnp.maximum(entry, jnp.minimum(low, high))
        leave = jnp.minimum(leave, jnp.maximum(low, high))
    return _first(entry, leave, box.used)


def _to_sphere(sphere: Spheres, origins: Array, directions: Array) -> Array:
    offset = origins - sphere.center[:, None]
    along = _dot(offset, directions)
    # The squared distance of the ray's line from the centre, from the vector itself and not from squares of the offset.
    foot = offset - along[None] * directions
    rest = sphere.radius**2 - _dot(foot, foot)
    half = jnp.sqrt(jnp.maximum(rest, 0))
    return _first(-along - half, -along + half, sphere.used & (rest >= 0))


def _to_cylinder(cylinder: Cylinders, origins: Array, directions: Array) -> Array:
    offset = origins - cylinder.center[:, None]
    axis = cylinder.axis
    slope = _dot(axis, directions)
    height = _dot(axis, offset)
    # |d x a|^2 t^2 + 2 (...) t + ... = 0; its discriminant from the distance (o . d x a) / |d x a| of the two lines.
    normal = _cross(directions, axis)
    square = _dot(normal, normal)
    parallel = square < _PARALLEL
    middle = (slope * height - _dot(offset, directions)) / jnp.where(parallel, 1, square)
    rest = cylinder.radius**2 * square - _dot(offset, normal) ** 2
    half = jnp.sqrt(jnp.maximum(rest, 0)) / jnp.where(parallel, 1, square)
    foot = offset - height[None] * axis[:, None]
    inside = jnp.where(parallel, _dot(foot, foot) <= cylinder.radius**2, rest >= 0)
    inverse = 1 / jnp.where(jnp.abs(slope) < _PARALLEL, _PARALLEL, slope)
    low, high = (-cylinder.half_length - height) * inverse, (cylinder.half_length - height) * inverse
    entry = jnp.maximum(jnp.where(parallel, -jnp.inf, middle - half), jnp.minimum(low, high))
    leave = jnp.minimum(jnp.where(parallel, jnp.inf, middle + half), jnp.maximum(low, high))
    return _first(entry, leave, cylinder.used & inside)


_KINDS = (("boxes", _to_box), ("spheres", _to_sphere), ("cylinders", _to_cylinder))


def _first(entry: Array, leave: Array, possible: Array) -> Array:
    """The first place ahead of the two ends of a stretch inside of a convex body."""
    ahead = possible & (entry <= leave) & (leave > 0)
    return jnp.where(ahead, jnp.where(entry > 0, entry, leave), jnp.inf)


def _along_axis(offset: Array, axis: Array) -> tuple[Array, Array]:
    along = jnp.sum(offset * axis, axis=-1)
    return along, offset - along[:, None] * axis


def _dot(first: Array, second: Array) -> Array:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _cross(first: Array, second: Array) -> Array:
    return jnp.stack(
        [
            first[1] * second[2] - first[2] * second[1],
            first[2] * second[0] - first[0] * second[2],
            first[0] * second[1] - first[1] * second[0],
        ]
    )
