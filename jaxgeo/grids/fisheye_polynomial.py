"""The radial polynomial of a fisheye lens, rho(theta) = k1 theta + k2 theta^2 + ..., both ways.

A direction at the angle theta to the optical axis is seen at the distance rho from the image's centre. A fitted
polynomial grows only up to some angle; beyond it two directions would share a radius, and so nothing here goes farther.

References:
    Yogamani et al., "WoodScape: A multi-task, multi-camera fisheye dataset for autonomous driving", ICCV 2019,
    arXiv:1905.01489: the model with four coefficients.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_HALVINGS = 64  # of a bracket no longer than pi: to the last bit of float64
_MAX_STEPS = 100  # each second one at the latest halves the error, so that the last bit of float64 is long reached


@jax.jit
def radius_of_angle(coefficients: Float[Array, " order"], theta: Float[Array, "*point"]) -> Float[Array, "*point"]:
    """rho(theta), by Horner's rule, in the unit of the coefficients (k1 first, no constant term)."""
    theta = _floats(theta)
    return theta * _horner(coefficients, theta)


@jax.jit
def slope_of_angle(coefficients: Float[Array, " order"], theta: Float[Array, "*point"]) -> Float[Array, "*point"]:
    """d rho / d theta."""
    return _horner(coefficients * np.arange(1, len(coefficients) + 1), _floats(theta))


@jax.jit
def largest_angle(coefficients: Float[Array, " order"]) -> Float[Array, ""]:
    """Angle in [0, pi] up to which rho grows; 0 where it does not grow from the start.

    Between neighbouring zeros of its derivative a polynomial is monotone, so that bisection finds every zero of
    rho': from its linear derivative upwards, each level is cut at the zeros of the one before. Not differentiated: the
    limit only marks what is valid.
    """
    slope = jax.lax.stop_gradient(_floats(coefficients)) * np.arange(1, len(coefficients) + 1)
    degree = len(coefficients) - 1
    pi = jnp.asarray(math.pi, slope.dtype)
    if degree == 0:
        return jnp.where(slope[0] > 0, pi, 0)
    levels = [slope]
    for _ in range(degree - 1):
        levels.insert(0, jnp.concatenate([levels[0][1:] * np.arange(1, degree + 1), jnp.zeros_like(slope[:1])]))
    stacked = jnp.stack(levels)

    def cut(level, ends):
        # At first there are too few zeros; the places behind them hold empty intervals at pi.
        zeros = ends[2][:-1]
        low, high = jnp.concatenate([slope[:1] * 0, zeros]), jnp.concatenate([zeros, pi[None]])
        return low, high, _bisect(stacked[level], low, high)

    whole = jnp.full(degree, pi)
    low, high, zeros = jax.lax.fori_loop(0, degree, cut, (whole, whole, whole))
    falls = (_horner(slope, low) > 0) & (_horner(slope, high) <= 0)
    return jnp.where(slope[0] > 0, jnp.min(jnp.where(falls, zeros, pi)), 0)


@jax.jit
def angle_of_radius(
    coefficients: Float[Array, " order"], radius: Float[Array, "*point"], largest: Float[Array, ""]
) -> Float[Array, "*point"]:
    """theta in [0, largest] with rho(theta) = radius, where rho grows on [0, largest]; `largest` beyond its radius.

    Newton's method in a bracket; a step that leaves the bracket or does not halve the one before becomes a bisection.
    To the rounding of the type, except close to an angle where rho' = 0, where the root itself is ill conditioned.
    Derivatives, of any order, are those of the implicit function: d theta = (d rho - sum_n theta^n d k_n) / rho'.
    """
    dtype = jnp.result_type(coefficients, radius, jnp.float32)
    return _inverse(jnp.asarray(coefficients, dtype), jnp.asarray(radius, dtype), jnp.asarray(largest, dtype))


@jax.custom_jvp
def _inverse(coefficients: Array, radius: Array, largest: Array) -> Array:
    wanted = jnp.clip(radius, 0, radius_of_angle(coefficients, largest))
    rounding = 4 * jnp.finfo(wanted.dtype).eps

    def unfinished(state):
        return (state[0] < _MAX_STEPS) & ~jnp.all(state[-1])

    def step(state):
        count, theta, low, high, last, done = state
        excess = radius_of_angle(coefficients, theta) - wanted
        slope = slope_of_angle(coefficients, theta)
        low, high = jnp.where(excess < 0, theta, low), jnp.where(excess < 0, high, theta)
        newton = -excess / jnp.where(slope > 0, slope, 1)
        safe = (slope > 0) & (theta + newton >= low) & (theta + newton <= high)
        # The error of the last step bounds this one: otherwise a flat stretch would be crossed in very many.
        safe &= jnp.abs(newton) <= jnp.abs(last) / 2
        # What is left of the excess may be rounding, and a step that obeys it would lead anywhere.
        done |= jnp.abs(excess) <= rounding * radius_of_angle(jnp.abs(coefficients), theta)
        move = jnp.where(done, 0, jnp.where(safe, newton, (low + high) / 2 - theta))
        return count + 1, theta + move, low, high, move, done | (jnp.abs(move) <= rounding * largest)

    start = jnp.clip(wanted / jnp.where(coefficients[0] > 0, coefficients[0], 1), 0, largest)
    ends = jnp.zeros_like(wanted), jnp.broadcast_to(largest, wanted.shape)
    state = (0, start, *ends, ends[1], jnp.zeros(wanted.shape, bool))
    return jax.lax.while_loop(unfinished, step, state)[1]


def _implicit_derivative(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    coefficients, radius, largest = primals
    coefficient_tangents, radius_tangent, _ = tangents
    theta = _inverse(coefficients, radius, largest)
    slope = slope_of_angle(coefficients, theta)
    # Beyond the last radius the angle stays what it is.
    moves = (radius <= radius_of_angle(coefficients, largest)) & (slope > 0)
    change = (radius_tangent - radius_of_angle(coefficient_tangents, theta)) / jnp.where(moves, slope, 1)
    return theta, jnp.where(moves, change, 0)


_inverse.defjvp(_implicit_derivative)


def _floats(values: Array) -> Array:
    return jnp.asarray(values, jnp.result_type(values, jnp.float32))


def _horner(coefficients: Array, theta: Array) -> Array:
    value = jnp.broadcast_to(coefficients[-1], theta.shape)
    for k in reversed(range(len(coefficients) - 1)):
        value = value * theta + coefficients[k]
    return value


def _bisect(coefficients: Array, low: Array, high: Array) -> Array:
    """Last places in [low, high] where a polynomial has the sign that it has at low; it changes sign at most once."""
    positive = _horner(coefficients, low) > 0

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        same = (_horner(coefficients, middle) > 0) == positive
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    return jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))[0]
