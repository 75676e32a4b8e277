"""The flat baseline of HEAL-SWIN: a U-shaped network of window attention on pictures.

Tokens are kept in the order of a tree, not of a picture's rows: the four tokens that merge are consecutive, and so are
the tokens of a window wherever they can be. So blocks, merging and expanding are those of HEALPix tokens, and pictures
are reordered once on the way in and once on the way out.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, section 4.
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030.
"""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgeo.errors import ConfigError, InputError, check_fields, check_one_of, check_whole
from jaxgeo.layers.window_plan import Permutation, plan_permutation, plan_windows
from jaxgeo.models.plan_layout import Layout
from jaxgeo.models.swin_unet import Decoder, Encoder, StagePlan, SwinUNetConfig, check_stages

Pair: TypeAlias = tuple[int, int]
"""Along rows and along columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinConfig(SwinUNetConfig):
    """Defaults: the published baseline for pictures of 640 x 768 pixels, 41 million parameters.

    In mode `correct` a window is no larger than the tokens, side by side, and a picture is shifted along those sides
    that hold several windows; it comes back as it went. `faithful` makes one unshifted window of all tokens as soon as
    one of its sides holds one window, moves both axes by the shift of rows and moves each back by its own.

    Raises:
        ConfigError: see `SwinUNetConfig`; or patches, stages and windows do not divide the picture, or an impossible
            shift.
    """

    size: Pair = (640, 768)
    """pixels"""
    patch_size: Pair = (2, 2)
    """pixels of a token"""
    window_size: Pair = (8, 8)
    """tokens of a window"""
    shift_size: Pair | None = (2, 2)
    """tokens; None: half a window"""
    position_bias: Literal["none", "window"] = "window"
    masking: bool = True
    """tokens that a shift brings together from opposite sides of the picture do not attend to each other"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("position_bias", self.position_bias, ("none", "window"))
        for name, least in (("size", 1), ("patch_size", 1), ("window_size", 1), ("shift_size", 0)):
            value = getattr(self, name)
            if name == "shift_size" and value is None:
                continue
            if not isinstance(value, tuple) or len(value) != 2:
                raise ConfigError(f"{name} is a pair, along rows and along columns, got {value!r}")
            for side in value:
                check_whole(f"each of {name}", side, least)
        check_fields(self)
        for axis, name in enumerate(("rows", "columns")):
            self._check_axis(axis, name)
        if self.mode == "faithful" and self.position_bias != "none":
            for grid in self.grids:
                if self.window_of(grid) != self.window_size:
                    raise ConfigError(
                        f"the published program makes one window of {grid[0]} x {grid[1]} tokens where one of their "
                        f"sides is no longer than that of the window {self.window_size}, and then has no position "
                        f"bias; take mode 'correct', a smaller window or position_bias 'none'"
                    )

    def _check_axis(self, axis: int, name: str) -> None:
        pixels, patch, window = self.size[axis], self.patch_size[axis], self.window_size[axis]
        coarsest = patch << (len(self.depths) - 1)
        if pixels % coarsest or (pixels // coarsest % window and (pixels // coarsest > window or self._is_published)):
            raise ConfigError(
                f"{name} must be divisible by patch, merging and window, {coarsest} * {window}, so that all windows "
                f"are full, got {pixels} {name}; {-(-pixels // (coarsest * window)) * coarsest * window} would work"
            )
        for grid in self.grids:
            if grid[axis] % min(window, grid[axis]):
                raise ConfigError(f"windows of {window} {name} do not divide a stage of {grid[axis]} {name} of tokens")
        if self.shift[axis] >= window > 1:
            raise ConfigError(f"shift_size must be less than window_size, got {self.shift} and {self.window_size}")

    @property
    def _is_published(self) -> bool:
        return self.mode == "faithful"

    @property
    def shift(self) -> Pair:
        """Tokens by which odd blocks move."""
        return self.shift_size or (self.window_size[0] // 2, self.window_size[1] // 2)

    @property
    def grids(self) -> tuple[Pair, ...]:
        """Tokens of all stages, along rows and columns."""
        (rows, columns), (high, wide) = self.size, self.patch_size
        return tuple((rows // high >> stage, columns // wide >> stage) for stage in range(len(self.depths)))

    def window_of(self, grid: Pair) -> Pair:
        """The window of a stage of so many tokens along rows and columns."""
        if self.mode == "faithful":
            return grid if grid[0] <= self.window_size[0] or grid[1] <= self.window_size[1] else self.window_size
        return min(self.window_size[0], grid[0]), min(self.window_size[1], grid[1])

    @property
    def patch_pixels(self) -> int:
        """Pixels of a token."""
        return self.patch_size[0] * self.patch_size[1]

    @property
    def bias_rows(self) -> int:
        """Rows of the tables of position biases; the published program has them also where it does not use them."""
        if self.position_bias == "none" and self.mode == "correct":
            return 0
        return (2 * self.window_size[0] - 1) * (2 * self.window_size[1] - 1)

    @property
    def layout(self) -> Layout:
        """What `plan_swin` depends on."""
        names = ("size", "patch_size", "window_size", "position_bias", "masking", "mode")
        return (*((name, getattr(self, name)) for name in names), ("shift", self.shift))


class SwinPlan(eqx.Module):
    """Windows and shifts of all stages, and the order of the tokens."""

    stages: tuple[StagePlan, ...]
    order: Permutation | None
    """from a picture's rows to the tree; None: the same"""
    layout: Layout = eqx.field(static=True)
    """that it was made for"""


class _Places(NamedTuple):
    row: Int[np.ndarray, " token"]
    column: Int[np.ndarray, " token"]


def plan_swin(config: SwinConfig) -> SwinPlan:
    """The windows, shifts and order of a network."""
    places = token_places(config)
    stages = tuple(_plan_stage(config, *each) for each in zip(config.grids, places, strict=True))
    return SwinPlan(stages, plan_permutation(picture_order(config)), config.layout)


def picture_order(config: SwinConfig) -> Int[np.ndarray, " token"]:
    """Of each token of the first stage, its number in a picture's rows."""
    finest = token_places(config)[0]
    return finest.row * config.grids[0][1] + finest.column


def token_places(config: SwinConfig) -> list[_Places]:
    """Row and column of the tokens of all stages, in the order of the tree.

    The coarsest tokens are ordered by window, and in it along a Z-curve, so that windows stay together in finer stages
    too where their sides are powers of two.
    """
    grid = config.grids[-1]
    high, wide = config.window_of(grid)
    row, column = (axis.reshape(-1) for axis in np.indices(grid))
    inner = np.zeros_like(row)
    for bit in range(max(high, wide).bit_length()):
        inner |= ((column % wide >> bit) & 1) << (2 * bit)
        inner |= ((row % high >> bit) & 1) << (2 * bit + 1)
    order = np.lexsort((inner, column // wide, row // high))
    places = [_Places(row[order], column[order])]
    for _ in config.grids[1:]:
        row, column = places[0]
        finer_row = 2 * row[:, None] + np.array([[0, 0, 1, 1]])
        finer_column = 2 * column[:, None] + np.array([[0, 1, 0, 1]])
        places.insert(0, _Places(finer_row.reshape(-1), finer_column.reshape(-1)))
    return places


def _plan_stage(config: SwinConfig, grid: Pair, places: _Places) -> StagePlan:
    window = config.window_of(grid)
    order = _window_order(grid, window, places)
    row, column = (axis[order] for axis in places)
    size = window[0] * window[1]
    index = None
    if config.bias_rows:
        index = picture_bias_index(row[:size] % window[0], column[:size] % window[1], config.window_size)
        if config.position_bias == "none":
            index = None
    tokens = grid[0] * grid[1]
    straight = plan_windows(tokens, size, source=order, bias_index=index)
    into, back = _shifts(config, grid, window)
    if not any(into) and not any(back):
        return StagePlan(straight, straight)
    number, windowed = np.zeros((2, *grid), np.int64)
    number[places] = np.arange(tokens)
    windowed[row, column] = np.arange(tokens)
    source = number[(row + into[0]) % grid[0], (column + into[1]) % grid[1]]
    target = windowed[(places.row - back[0]) % grid[0], (places.column - back[1]) % grid[1]]
    cut = (_parts(*each) for each in zip(grid, window, back, (row, column), strict=True))
    labels = next(cut) * 3 + next(cut) if config.masking else None
    shifted = plan_windows(tokens, size, source=source, target=target, labels=labels, bias_index=index)
    return StagePlan(straight, shifted)


def _shifts(config: SwinConfig, grid: Pair, window: Pair) -> tuple[Pair, Pair]:
    """Tokens by which a picture moves before the windows, and back after them."""
    if config.mode == "faithful":
        if (window == grid and window != config.window_size) or grid[0] <= window[0] or grid[1] <= window[1]:
            return (0, 0), (0, 0)
        return (config.shift[0], config.shift[0]), config.shift
    shift = tuple(by if side > part else 0 for by, side, part in zip(config.shift, grid, window, strict=True))
    return (shift[0], shift[1]), (shift[0], shift[1])


def _parts(side: int, window: int, shift: int, place: Int[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    """0, or in the last window along an axis 1, or 2 for what came from the other side."""
    if not shift:
        return np.zeros_like(place)
    return (place >= side - window).astype(np.int64) + (place >= side - shift)


def _window_order(grid: Pair, window: Pair, places: _Places) -> Int[np.ndarray, " token"]:
    """Tokens in the order of windows, all windows laid out alike; as they come where that is so already."""
    row, column = places
    number = (row // window[0]) * (grid[1] // window[1]) + column // window[1]
    inner = (row % window[0]) * window[1] + column % window[1]
    size = window[0] * window[1]
    numbers, inners = number.reshape(-1, size), inner.reshape(-1, size)
    if (numbers == numbers[:, :1]).all() and (inners == inners[:1]).all():
        return np.arange(len(row))
    return np.lexsort((inner, number))


def picture_bias_index(
    row: Int[np.ndarray, " token"], column: Int[np.ndarray, " token"], window: Pair
) -> Int[np.ndarray, "query key"]:
    """Rows of the table of position biases of a window, for tokens at some rows and columns.

    (row difference + height - 1)(2 width - 1) + column difference + width - 1, query minus key.
    """
    rows = row[:, None] - row[None, :] + window[0] - 1
    return rows * (2 * window[1] - 1) + column[:, None] - column[None, :] + window[1] - 1


class Swin(nn.Module):
    """Logits (or depths) for each pixel of a picture."""

    config: SwinConfig

    @nn.compact
    def __call__(
        self, plan: SwinPlan, x: Float[Array, "*batch row column channel"], *, train: bool = False
    ) -> Float[Array, "*batch row column class"]:
        """Logits in natural units: float32, or float64 where inputs of float64 meet no `compute_dtype`.

        Args:
            plan: from `plan_swin` with the same config.
            x: pictures.
            train: with dropout and stochastic depth, which take the rngs `dropout` and `stochastic_depth`.

        Raises:
            InputError: not a picture of the configured size and channels, or a plan of another network.
        """
        config = self.config
        if x.ndim < 3 or x.shape[-3:] != (*config.size, config.channels):
            needed = ", ".join(map(str, (*config.size, config.channels)))
            raise InputError(f"the configured network needs pictures of shape (..., {needed}), got {x.shape}")
        (rows, columns), (high, wide) = config.grids[0], config.patch_size
        check_stages(config, plan.stages, plan.layout, rows * columns)
        batch = x.shape[:-3]
        patches = jnp.swapaxes(x.reshape(*batch, rows, high, columns, wide * config.channels), -3, -2)
        patches = patches.reshape(*batch, rows * columns, high * wide * config.channels)
        patches = patches if plan.order is None else plan.order(patches)
        x, skipped = Encoder(config, not train, name="encoder")(plan.stages, patches)
        logits = Decoder(config, not train, name="decoder")(plan.stages, x, skipped)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        logits = logits.reshape(*batch, rows * columns, high * wide * config.num_classes)
        logits = logits if plan.order is None else plan.order.reversed()(logits)
        logits = logits.reshape(*batch, rows, columns, high, wide * config.num_classes)
        return jnp.swapaxes(logits, -3, -2).reshape(*batch, *config.size, config.num_classes)
