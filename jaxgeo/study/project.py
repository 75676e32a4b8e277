"""The first stage: digits onto NESTED HEALPix maps, in the poses of training and turned away from them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.data.checks import check_images, check_labels, check_map, check_test_size
from jaxgeo.data.digits import NUM_CLASSES, load_digits
from jaxgeo.grids import projection, rotations
from jaxgeo.progress import Progress
from jaxgeo.study.run_folder import RunFolder

_DESCRIPTIONS = {
    "sklearn": "The handwritten digits that come with scikit-learn (8 x 8 pixels, from the UCI repository).",
    "mnist": "MNIST's handwritten digits (28 x 28 pixels).",
    "fashion_mnist": "FashionMNIST's pieces of clothing (28 x 28 pixels).",
}
_ROTATION, _TRAIN, _TEST = range(3)


def poses(key: PRNGKeyArray, count: int, tilt_degrees: float) -> Float[Array, "image 3 3"]:
    """Rotations that carry pictures to the equator at longitude 0, each turned a little further.

    Args:
        key: of the turns.
        count: how many.
        tilt_degrees: largest angle, drawn evenly, about an axis drawn evenly; 180 means Haar-uniform in SO(3).
    """
    if tilt_degrees >= 180:
        return rotations.haar_rotations(key, (count,))
    axis_key, angle_key = jax.random.split(key)
    axes = jax.random.normal(axis_key, (count, 3))
    angles = jax.random.uniform(angle_key, (count,), maxval=math.radians(tilt_degrees))
    upright = rotations.about_y(jnp.full((count,), math.pi / 2))
    return rotations.axis_angle(axes, angles) @ upright


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Maps of the training and test images, and of test images turned by each angle of the study of rotation."""
    config, settings = run.config, run.config.data
    check_test_size(settings.test_images, NUM_CLASSES)
    digits = load_digits(
        settings.source, seed=settings.seed, num_train=settings.train_images, num_test=settings.test_images
    )
    plan = projection.plan_stereographic(settings.nside, digits.train_images.shape[1:], settings.radius_degrees)
    keys = [jax.random.fold_in(jax.random.key(settings.seed), part) for part in (_TRAIN, _TEST)]
    test_poses = poses(keys[1], len(digits.test_images), settings.tilt_degrees)
    # Further axes about which a growing number of degrees leads away from each test image's own pose.
    count, angles = config.score.rotation_images, np.radians(config.score.angles)
    axes = jax.random.normal(jax.random.fold_in(jax.random.key(config.score.seed), _ROTATION), (count, 3))
    jobs = [
        (digits.train_images, poses(keys[0], len(digits.train_images), settings.tilt_degrees)),
        (digits.test_images, test_poses),
        *(
            (digits.test_images[:count], rotations.axis_angle(axes, jnp.full((count,), angle)) @ test_poses[:count])
            for angle in angles
        ),
    ]
    bar, total, done, maps = progress.bar("maps", "images"), sum(len(images) for images, _ in jobs), 0, []
    bar(done, total, {})
    for images, turned in jobs:
        maps.append(np.asarray(projection.project(plan, jnp.asarray(images), turned)))
        check_map(maps[-1], settings.nside)
        check_images(maps[-1])
        done += len(images)
        bar(done, total, {})
    for labels in (digits.train_labels, digits.test_labels):
        check_labels(labels, NUM_CLASSES)
    figures = {
        "description": _DESCRIPTIONS[settings.source],
        "train_images": len(maps[0]),
        "test_images": len(maps[1]),
        "classes": NUM_CLASSES,
        "nside": settings.nside,
        "pixels": 12 * settings.nside**2,
        "radius_degrees": settings.radius_degrees,
        "tilt_degrees": settings.tilt_degrees,
        "lit_share": float(np.mean(maps[0] > 0)),
    }
    return {
        "figures.json": figures,
        "maps.safetensors": {
            "train_images": maps[0][..., None],
            "train_labels": digits.train_labels,
            "test_images": maps[1][..., None],
            "test_labels": digits.test_labels,
        },
        "rotated.safetensors": {"images": np.stack(maps[2:])[..., None], "labels": digits.test_labels[:count]},
    }
