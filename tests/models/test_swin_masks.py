"""What a pixel reaches through a whole network: only what the windows, labels and stages of its plan let through."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.models.heal_swin import HealSwin, HealSwinConfig, plan_heal_swin
from jaxgeo.models.swin_weights import parameter_shapes

CONFIG = HealSwinConfig(
    num_classes=2,
    channels=1,
    embed_dim=4,
    depths=(2, 2),
    num_heads=(1, 2),
    nside=16,
    window_size=4,
    shift="nest_roll",
    shift_size=1,
)
# The roll brings the first token into the last window, where the mask keeps it apart.
CHANGED = 1


def reached(plan, touched, *, masked):
    """The tokens whose output may depend on a touched one, by sets instead of numbers."""

    def block(windows, touched):
        order = np.arange(len(touched)) if windows.into is None else np.asarray(windows.into.indices)
        inside = touched[order].reshape(-1, windows.window_size)
        labels = np.zeros(inside.shape) if windows.labels is None or not masked else np.asarray(windows.labels)
        labels = labels.reshape(inside.shape)
        sees = labels[:, :, None] == labels[:, None, :]
        found = np.empty_like(touched)
        found[order] = (sees & inside[:, None, :]).any(-1).reshape(-1)
        return found | touched

    def stage(number, touched):
        return block(plan.stages[number].shifted, block(plan.stages[number].straight, touched))

    coarse = stage(1, stage(0, touched).reshape(-1, 4).any(1))
    return stage(0, np.repeat(coarse, 4) | touched)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_a_pixel_changes_no_bit_but_where_the_plan_lets_it_through(dtype):
    config = dataclasses.replace(CONFIG, compute_dtype=dtype)
    plan = plan_heal_swin(config)
    leaves, structure = jax.tree_util.tree_flatten_with_path(parameter_shapes(config))
    rng = np.random.default_rng(0)
    params = structure.unflatten(
        jnp.full(leaf.shape, 9.0)  # clamped to a factor of 100
        if "logit_scale" in jax.tree_util.keystr(path)
        else jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in leaves
    )
    apply = jax.jit(lambda params, plan, x: HealSwin(config).apply({"params": params}, plan, x))
    x = jnp.asarray(rng.normal(size=(config.num_pixels, 1)), jnp.float32)
    touched = np.arange(config.num_pixels // 4) == CHANGED // 4

    def changed_tokens(plan):
        before, after = (np.asarray(apply(params, plan, each)) for each in (x, x.at[CHANGED].add(30.0)))
        assert np.isfinite(before).all()
        return (before != after).any(-1).reshape(-1, 4).any(1)

    differs, may = changed_tokens(plan), reached(plan, touched, masked=True)
    assert not differs[~may].any()
    assert differs.sum() > may.sum() / 2
    without_masks = jax.tree.map(jnp.zeros_like, [stage.shifted.labels for stage in plan.stages])
    unmasked = eqx.tree_at(lambda plan: [stage.shifted.labels for stage in plan.stages], plan, without_masks)
    behind_masks = reached(plan, touched, masked=False) & ~may
    assert changed_tokens(unmasked)[behind_masks].any()
