"""What a user may have got wrong in arrays, each as one `InputError`; for host arrays, before anything is compiled."""

import numpy as np
from jaxtyping import Num, Shaped
from numpy.typing import ArrayLike

from jaxgeo.errors import InputError, check_whole
from jaxgeo.grids.healpix import Order, check_nside, check_order, nside_of


def check_images(images: Shaped[ArrayLike, "..."], name: str = "images") -> None:
    """Raise unless every pixel is finite: says how many are not, and where the first is."""
    values = np.asarray(images)
    if not np.issubdtype(values.dtype, np.number):
        raise InputError(f"{name} must be numbers, got {values.dtype}")
    bad = ~np.isfinite(values)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name} must be finite, got {int(bad.sum())} NaN or infinite values of {values.size}, "
            f"the first ({values[first]}) at index {first}; mask or replace them first"
        )


def check_labels(labels: Shaped[ArrayLike, "..."], num_classes: int, num_images: int | None = None) -> None:
    """Raise unless labels are integers from 0 to num_classes - 1 in one axis, as many as there are images."""
    values = np.asarray(labels)
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"labels must be integers from 0 to {num_classes - 1}, got {values.dtype}; one-hot rows need argmax first"
        )
    if values.ndim != 1:
        raise InputError(f"labels must have one axis, one class for each image, got shape {values.shape}")
    if num_images is not None and len(values) != num_images:
        raise InputError(f"{num_images} images need as many labels, got {len(values)}")
    bad = (values < 0) | (values >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"labels must lie between 0 and {num_classes - 1} for {num_classes} classes, got {int(bad.sum())} others, "
            f"the first ({int(values[first])}) at index {first}; count classes from 0, or raise the number of classes"
        )


def check_map(maps: Num[ArrayLike, "..."], nside: int, order: Order = "nested", needed: Order = "nested") -> None:
    """Raise unless the last axis is a full map at nside, finite, and its order the needed one.

    Args:
        maps: (*batch, pixel).
        nside: what the model or plan was made for.
        order: what the maps are said to be in; the values cannot tell.
        needed: what is asked for.
    """
    check_nside(nside)
    check_order(order)
    check_order(needed)
    values = np.asarray(maps)
    length = values.shape[-1] if values.ndim else 0
    if length != 12 * nside**2:
        found = f"nside {nside_of(length)}" if _is_map_length(length) else "no HEALPix map"
        raise InputError(
            f"a map at nside {nside} has {12 * nside**2} pixels in its last axis, got shape {values.shape} ({found}); "
            f"regrade the map (healpy.ud_grade) or plan for its nside"
        )
    if order != needed:
        raise InputError(
            f"a map in {needed.upper()} order is needed, got one in {order.upper()} order; "
            f'jaxgeo.grids.healpix.reorder(map, "{order}", "{needed}") puts it right'
        )
    check_images(values, "map pixels")


def check_test_size(num_test: int, num_classes: int) -> None:
    """Raise where there are fewer test images than classes: some class could not be scored at all."""
    check_whole("the number of test images", num_test, 0, error=InputError)
    if num_test < num_classes:
        raise InputError(
            f"{num_test} test images cannot hold one of each of {num_classes} classes, so scores would be meaningless; "
            f"take at least {num_classes}, better hundreds"
        )


def _is_map_length(length: int) -> bool:
    try:
        nside_of(length)
    except InputError:
        return False
    return True
