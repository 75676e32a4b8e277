"""The peers of `benchmarks.heal_swin`, each to be made in a process of its own from a checkout of its sources.

The original imports timm and a data module that pull in much that a network does not need: stand-ins for two helpers of
timm are put in their place. Nothing else of the sources is changed.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


def original(
    config: Any, folder: Path, checkout: str, images: np.ndarray, labels: np.ndarray, device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The published program in PyTorch, with the weights in the folder; `output` compares with what ours left there.

    On the CPU as it stands; on a GPU compiled, and waited for.
    """
    import os

    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    _stand_in_for_timm(torch)
    sys.path.insert(0, checkout)
    from heal_swin.data.segmentation.data_spec import DataSpec
    from heal_swin.models_torch.swin_hp_transformer import SwinHPTransformerConfig, SwinHPTransformerSys

    spec = DataSpec(
        dim_in=config.num_pixels, f_in=config.channels, f_out=config.num_classes, base_pix=len(config.base_pixels),
        class_names=[str(i) for i in range(config.num_classes)],
    )  # fmt: skip
    model = SwinHPTransformerSys(
        SwinHPTransformerConfig(
            patch_size=config.patch_size, window_size=config.window_size, shift_size=config.shift_size,
            shift_strategy="ring_shift", rel_pos_bias="flat", embed_dim=config.embed_dim, depths=list(config.depths),
            num_heads=list(config.num_heads), mlp_ratio=config.mlp_ratio, qkv_bias=config.qkv_bias, use_cos_attn=True,
            drop_rate=config.dropout_rate, attn_drop_rate=config.attention_dropout_rate,
            drop_path_rate=config.stochastic_depth_rate, use_v2_norm_placement=True, ape=False,
            patch_norm=config.patch_norm,
        ),
        spec,
    )  # fmt: skip
    with np.load(folder / "weights.npz", allow_pickle=False) as archive:
        state = {name: torch.from_numpy(archive[name]) for name in archive.files}
    missing, unexpected = model.load_state_dict(state, strict=False)
    lacking = [name for name in missing if name in dict(model.named_parameters())]
    if lacking or unexpected:
        raise SystemExit(f"the original's weights do not match ours: {lacking} {unexpected}")
    model = model.to(device)
    run = model if device == "cpu" else torch.compile(model)
    x, y = (torch.from_numpy(part).to(device) for part in (np.moveaxis(images, -1, 1).copy(), labels))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def done(value: Any = None) -> Any:
        if device != "cpu":
            torch.cuda.synchronize()
        return value

    def forward() -> Any:
        model.eval()
        with torch.no_grad():
            return done(run(x))

    def training() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(run(x), y).backward()
        optimizer.step()
        done()

    def difference() -> float:
        ours = np.moveaxis(np.load(folder / "output.npy"), -1, 1)
        return float(np.linalg.norm(forward().cpu().numpy() - ours) / np.linalg.norm(ours))

    def peak_gib() -> float:
        return torch.cuda.max_memory_allocated() / 2**30

    calls = {"forward": forward, "training": training, "output": difference, "peak": peak_gib}
    return calls, {"torch": torch.__version__}


def nnx_port(
    config: Any, folder: Path, checkout: str, images: np.ndarray, labels: np.ndarray, device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The port to Flax NNX in float32, with the same windows, shift and biases, compiled as its users would."""
    sys.path.insert(0, str(Path(checkout) / "src"))
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from heal_swin_nnx import HealSwin, HealSwinParams

    params = HealSwinParams(
        nside=config.nside, in_channels=config.channels, out_channels=config.num_classes,
        base_pixels=config.base_pixels, patch_size=config.patch_size, window_size=config.window_size,
        embed_dim=config.embed_dim, depths=config.depths, num_heads=config.num_heads, mlp_ratio=config.mlp_ratio,
        pos_embed="rel_bias", shift_strategy="ring_shift", drop_rate=config.dropout_rate,
        attn_drop_rate=config.attention_dropout_rate, drop_path_rate=config.stochastic_depth_rate, dtype="float32",
    )  # fmt: skip
    model = HealSwin(params, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    x, y = jnp.asarray(images), jnp.asarray(labels)

    @nnx.jit
    def predict(model: Any, x: Any) -> Any:
        return model(x)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    def forward() -> None:
        model.eval()
        predict(model, x).block_until_ready()

    def training() -> None:
        model.train()
        step(model, optimizer, x, y).block_until_ready()

    def peak_gib() -> float:
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30

    return {"forward": forward, "training": training, "peak": peak_gib}, {"device": device}


def _stand_in_for_timm(torch: Any) -> None:
    class DropPath(torch.nn.Module):
        """Stochastic depth: an example's branch is dropped whole, the others are scaled up."""

        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()
            self.drop_prob = drop_prob

        def forward(self, x: Any) -> Any:
            if not self.drop_prob or not self.training:
                return x
            kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), dtype=x.dtype) >= self.drop_prob
            return x * kept / (1 - self.drop_prob)

    layers = types.ModuleType("timm.models.layers")
    layers.__dict__.update(
        DropPath=DropPath,
        trunc_normal_=torch.nn.init.trunc_normal_,
        to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x),
    )
    for name in ("timm", "timm.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["timm.models.layers"] = layers
