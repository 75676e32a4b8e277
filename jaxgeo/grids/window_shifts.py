"""Shifted windows on the HEALPix sphere, as permutations of the tokens and labels that say who may attend to whom.

Attention inside fixed windows never looks over their borders; so every second block moves the tokens first, attends
and moves them back. A shift is a permutation of the tokens; where it brings tokens together that do not lie side by
side on the sphere, labels keep them apart.

- `grid`: by half a window side along both axes of each face; on whole faces, any of them. Right wherever the lattice
  goes on over the edge of a face, labelled elsewhere.
- `spiral`: a number of places on along the rings; any faces. Windows are a little distorted everywhere.
- `nest_roll`: a number of places back in the order of the tokens. Neighbours only where NESTED order is.
- `seamless`: by half a window side like `grid`, right over all edges of the full sphere; not in the paper.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, section 3.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxgeo.errors import ConfigError, check_one_of, check_whole
from jaxgeo.grids.grid_shift import grid_shift
from jaxgeo.grids.healpix_windows import check_token_nside, check_window
from jaxgeo.grids.seamless_shift import seamless_shift
from jaxgeo.grids.spiral_shift import spiral_shift
from jaxgeo.modes import Mode

ShiftKind = Literal["grid", "spiral", "nest_roll", "seamless"]


class ShiftPlan(eqx.Module):
    """Where the tokens of shifted windows come from, and which of them may see each other."""

    source: Int[Array, " token"]  # shifted[i] = tokens[source[i]]
    target: Int[Array, " token"]  # tokens[i] = shifted[target[i]]: the inverse permutation
    labels: Int[Array, " token"]  # of shifted places: two tokens of one window attend iff their labels agree
    window_size: int = eqx.field(static=True)  # tokens


def plan_shift(
    kind: ShiftKind,
    nside: int,
    window_size: int,
    shift_size: int,
    base_pixels: Sequence[int] = tuple(range(8)),
    mode: Mode = "correct",
) -> ShiftPlan:
    """Plan a shift of tokens that are whole faces, one after the other, each in NESTED order.

    Args:
        kind: which shift.
        nside: of the token grid; each face has nside^2 tokens.
        window_size: tokens, a power of four; see `mode`.
        shift_size: `spiral`: places along the rings, 1 to 12 nside^2 - 1; `nest_roll`: tokens, 1 to window_size - 1;
            in mode `faithful` longer ones too, which go on around.
            `grid` and `seamless` always move by half a window side, so that it only has to be positive.
        base_pixels: faces in the order of the tokens; all twelve for `seamless`.
        mode: `faithful` is as published also where that is doubtful: `spiral` and `nest_roll` take windows that are
            no squares or larger than a face, as long as they fill the tokens, and shifts of any length, of which
            `nest_roll` keeps apart only the last `shift_size` places from the rest; and `spiral` keeps apart neither
            the tokens that it moves from the south pole to the north pole nor those of different faces that it fills
            the places of one with, which may come from opposite ends of the sphere. On the published faces, 0-7,
            both modes have the same masks for shifts up to 4.

    Raises:
        ConfigError: nside is no power of two or beyond int32; the window is no power of four or larger than a face; a
            face is repeated or does not exist, or there is none, or `seamless` lacks some; the shift or mode is
            unknown or its size out of range.
    """
    check_one_of("kind of a window shift", kind, ShiftKind)
    check_one_of("mode of a window shift", mode, Mode)
    check_token_nside(nside)
    faces = _checked_faces(base_pixels)
    _check_window_fits(kind, nside, window_size, len(faces), mode)
    _check_shift_size(kind, nside, window_size, shift_size, mode)
    if kind == "nest_roll":
        source, labels = _nest_roll(len(faces) * nside**2, window_size, shift_size)
        return _checked_plan(source, labels, window_size)
    if kind == "grid":
        pixels, labels = grid_shift(nside, window_size, faces)
    elif kind == "spiral":
        pixels, labels = spiral_shift(nside, shift_size % (12 * nside**2), faces, part_strangers=mode == "correct")
    else:
        if len(faces) < 12:
            raise ConfigError(
                f"the seamless shift needs the full sphere, base pixels 0 to 11, got {sorted(faces.tolist())}; "
                f"on some of the faces use the grid shift"
            )
        pixels, labels = (by_face[faces] for by_face in seamless_shift(nside, window_size))
    block = np.zeros(12, np.int64)
    block[faces] = np.arange(len(faces))
    source = block[pixels // nside**2] * nside**2 + pixels % nside**2
    return _checked_plan(source.reshape(-1), labels.reshape(-1), window_size)


def window_masks(plan: ShiftPlan) -> Bool[np.ndarray, "window query key"]:
    """True where a token of a shifted window may attend to another: where their labels agree."""
    labels = np.asarray(plan.labels).reshape(-1, plan.window_size)
    return labels[:, :, None] == labels[:, None, :]


def _nest_roll(
    tokens: int, window_size: int, shift_size: int
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """Tokens moved back by some places; those that leave at the start come in at the end."""
    labels = np.zeros(tokens, np.int64)
    labels[-window_size:] = 1
    labels[-shift_size:] = 2
    return (np.arange(tokens, dtype=np.int64) + shift_size) % tokens, labels


def _checked_faces(base_pixels: Sequence) -> Int[np.ndarray, " face"]:
    faces = [check_whole("each base pixel", face, None) for face in base_pixels]
    if not faces or len(set(faces)) < len(faces) or not all(0 <= face < 12 for face in faces):
        raise ConfigError(f"base_pixels must be one to twelve different numbers of faces, 0 to 11, got {faces}")
    return np.array(faces, np.int64)


def _check_window_fits(kind: ShiftKind, nside: int, window_size: int, num_faces: int, mode: Mode) -> None:
    tokens = num_faces * nside**2
    if mode == "faithful" and kind in ("spiral", "nest_roll"):
        if check_whole("window_size", window_size, None) > 0 and tokens % window_size == 0:
            return
        raise ConfigError(f"windows of {window_size} must fill the {tokens} tokens exactly; take a smaller window")
    check_window(window_size)
    if window_size <= nside**2:
        return
    raise ConfigError(
        f"a window must fit into a face, so that it is a square: window_size {window_size} needs nside "
        f"{math.isqrt(window_size)} or more, got nside {nside} with {nside**2} tokens a face"
    )


def _check_shift_size(kind: ShiftKind, nside: int, window_size: int, shift_size: Any, mode: Mode) -> None:
    value = check_whole("shift_size", shift_size, None)
    if value < 1:
        raise ConfigError(f"shift_size must be positive, got {value}; for windows that stay make no plan")
    if mode == "faithful":
        return
    if kind == "spiral" and value >= 12 * nside**2:
        raise ConfigError(
            f"the spiral at nside {nside} has {12 * nside**2} places, so shift_size must be less, got {value}"
        )
    if kind == "nest_roll" and value >= window_size:
        raise ConfigError(
            f"the NEST roll moves tokens by a part of the window of {window_size}, so shift_size must be less, "
            f"got {value}; {window_size // 2} is half a window"
        )


def _checked_plan(source: Int[np.ndarray, " token"], labels: Int[np.ndarray, " token"], window_size: int) -> ShiftPlan:
    tokens = len(source)
    target = np.full(tokens, -1, np.int64)
    target[source] = np.arange(tokens)
    if target.min() < 0 or labels.shape != source.shape or tokens % window_size:
        raise AssertionError("a shift must move every token to one place of one window")  # pragma: no cover
    # Concrete also while a caller is being traced: the masks are made from the labels in NumPy.
    with jax.ensure_compile_time_eval():
        tables = [jnp.asarray(table, jnp.int32) for table in (source, target, labels)]
    return ShiftPlan(tables[0], tables[1], tables[2], window_size)
