"""Unit vectors and the angles of directions: colatitude and longitude, in radians."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.jit
def vector_angles(vectors: Float[Array, "*point 3"]) -> tuple[Float[Array, "*point"], Float[Array, "*point"]]:
    """Colatitude and longitude in [0, 2 pi) of non-zero vectors; longitude 0 on the axis, with derivatives 0 there."""
    x, y, z = jnp.moveaxis(vectors, -1, 0)
    flat = x**2 + y**2
    off_axis = flat > 0
    theta = jnp.arctan2(jnp.where(off_axis, jnp.sqrt(jnp.where(off_axis, flat, 1)), 0), z)
    phi = jnp.arctan2(jnp.where(off_axis, y, 0), jnp.where(off_axis, x, 1))
    phi = jnp.where(phi < 0, phi + 2 * math.pi, phi)
    # 2 pi minus less than its rounding is 2 pi.
    return theta, jnp.where(phi >= 2 * math.pi, 0, phi)


@jax.jit
def angle_vectors(theta: Float[Array, "*point"], phi: Float[Array, "*point"]) -> Float[Array, "*point 3"]:
    """Unit vectors at colatitudes and longitudes."""
    sine = jnp.sin(theta)
    return jnp.stack([sine * jnp.cos(phi), sine * jnp.sin(phi), jnp.cos(theta)], axis=-1)
