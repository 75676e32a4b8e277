"""Device meshes over the axes `member`, `chain`, `data` and `model`.

The meshes are built from `jax.devices()`, which lists the devices of all processes after
`jax.distributed.initialize`; nothing here assumes that they are all local.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxgeo.errors import ConfigError

AXES = ("member", "chain", "data", "model")


def largest_divisor(count: int, most: int) -> int:
    """The largest number up to `most` that divides `count`; both at least 1."""
    return max(n for n in range(1, min(count, most) + 1) if count % n == 0)


def make_mesh(
    *, member: int = 1, chain: int = 1, data: int = 1, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with all four axes on the first `member * chain * data * model` devices, by default of all processes.

    Raises:
        ConfigError: a size below 1, or more devices asked for than there are.
    """
    sizes = (member, chain, data, model)
    available = list(jax.devices() if devices is None else devices)
    if min(sizes) < 1:
        raise ConfigError(f"mesh axes need sizes of at least 1, got {dict(zip(AXES, sizes, strict=True))}")
    needed = math.prod(sizes)
    if needed > len(available):
        raise ConfigError(
            f"a mesh of {' x '.join(map(str, sizes))} ({', '.join(AXES)}) needs {needed} devices but there are "
            f"{len(available)}; JAX_NUM_CPU_DEVICES={needed} in the environment makes that many on a CPU"
        )
    grid = np.array(available[:needed], dtype=object).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spread(axis: str, count: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that spreads `count` equal pieces of work along `axis` over as many devices as divide it evenly.

    With 8 devices, 6 pieces use 6 of them, 7 use 7 and 9 use 3: work is never padded, so results cannot depend on
    padding.

    Raises:
        ConfigError: an unknown axis, or no work.
    """
    if axis not in AXES:
        raise ConfigError(f"mesh axes are {', '.join(AXES)}, got {axis!r}")
    if count < 1:
        raise ConfigError(f"there must be at least one piece of work to spread over {axis!r}, got {count}")
    available = list(jax.devices() if devices is None else devices)
    size = largest_divisor(count, len(available))
    return make_mesh(**{axis: size}, devices=available)


def put(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Every array of a tree spread over a mesh, also over devices of other processes.

    Across processes each must bring the same values, or arrays that are spread so already.
    """
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def spread_out(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(spread_out(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(spread_out, tree)
