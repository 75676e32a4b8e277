"""Masks and index tables of HEAL-SWIN and its flat baseline as the published program keeps them beside its weights.

It numbers a picture's windows, and the tokens of a window, by rows; here both follow the tree of `models.swin`. On the
sphere both are in the order of the tokens.
"""

import numpy as np
from jaxtyping import Float32, Int, Int64

from jaxgeo.layers.window_attention import PUBLISHED_MASK
from jaxgeo.models.heal_swin import HealSwinConfig, HealSwinPlan
from jaxgeo.models.swin import SwinConfig, SwinPlan, picture_bias_index, token_places
from jaxgeo.models.swin_unet import StagePlan

MASK, INDEX = "attn_mask", "attn.relative_position_index"


def published_buffers(
    config: HealSwinConfig | SwinConfig, plan: HealSwinPlan | SwinPlan
) -> dict[str, Float32[np.ndarray, "_window _token _token"] | Int64[np.ndarray, "_token _token"]]:
    """Arrays by state-dict name: what the published program adds to logits, and its rows of the bias tables.

    Every shifted block has a mask, also one that hides nothing; and every block an index if it has a table, in the flat
    network always. Blocks of one stage share their arrays.
    """
    last, decoder = len(config.depths) - 1, "decoder." if isinstance(config, HealSwinConfig) else ""
    found = {}
    for number, stage in enumerate(plan.stages):
        index, mask = _index(config, stage, number), _mask(config, stage, number)
        halves = [f"layers.{number}"] + [f"{decoder}layers_up.{last - number}"] * (number < last)
        for block in (f"{half}.blocks.{i}" for half in halves for i in range(config.depths[number])):
            if index is not None:
                found[f"{block}.{INDEX}"] = index
            if mask is not None and int(block.rpartition(".")[2]) % 2:
                found[f"{block}.{MASK}"] = mask
    return found


def _index(
    config: HealSwinConfig | SwinConfig, stage: StagePlan, number: int
) -> Int64[np.ndarray, "token token"] | None:
    if isinstance(config, SwinConfig):
        # The flat program has one also where nothing looks it up.
        window = config.window_size if config.position_bias == "none" else config.window_of(config.grids[number])
        return picture_bias_index(*np.divmod(np.arange(window[0] * window[1]), window[1]), config.window_size)
    index = stage.straight.bias_index
    return None if index is None else np.asarray(index[0], np.int64)


def _mask(
    config: HealSwinConfig | SwinConfig, stage: StagePlan, number: int
) -> Float32[np.ndarray, "window token token"] | None:
    shifted = stage.shifted
    if shifted is stage.straight or (isinstance(config, SwinConfig) and not config.masking):
        return None
    labels = np.zeros(shifted.num_tokens, np.int32) if shifted.labels is None else np.asarray(shifted.labels)
    if isinstance(config, SwinConfig):
        labels = labels[_by_rows(config, stage, number)]
    labels = labels.reshape(-1, shifted.window_size)
    differs = labels[:, :, None] != labels[:, None, :]
    return np.where(differs, np.float32(PUBLISHED_MASK), np.float32(0))


def _by_rows(config: SwinConfig, stage: StagePlan, number: int) -> Int[np.ndarray, " place"]:
    """Places in our windows, windows by rows and in them places by rows."""
    row, column = token_places(config)[number]
    if stage.straight.into is not None:
        order = np.asarray(stage.straight.into.indices)
        row, column = row[order], column[order]
    high, wide = config.window_of(config.grids[number])
    return np.lexsort((column % wide, row % high, column // wide, row // high))
