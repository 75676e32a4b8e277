"""The network of a configuration as pure functions, and the loss that it is trained by."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgeo.dense_prediction.config import DenseConfig, FitConfig
from jaxgeo.dense_prediction.problems import Form, Problem
from jaxgeo.errors import ConfigError
from jaxgeo.models.heal_swin import HealSwin, HealSwinConfig, plan_heal_swin
from jaxgeo.models.swin import Swin, SwinConfig, plan_swin
from jaxgeo.training import dense_losses
from jaxgeo.training.supervised import SumLoss, SupervisedConfig, supervised_step


class Network(NamedTuple):
    """A model as pure functions; its plan is an argument."""

    module: Any
    plan: Any
    init: Callable[[jax.Array], Any]  # key -> params
    apply: Callable[..., Any]  # (params, plan, inputs, key or None) -> outputs


def model_config(config: DenseConfig, problem: Problem) -> HealSwinConfig | SwinConfig:
    """The model's own configuration, of a problem that is there; errors as of `model_of`."""
    shape = problem.test[0].targets.shape if config.network.kind == "swin" else None
    return model_of(config, Form(problem.class_names, problem.channels, shape))


def model_of(config: DenseConfig, form: Form) -> HealSwinConfig | SwinConfig:
    """The model's own configuration, of which no example need be there.

    Raises:
        ConfigError: sizes that no network has, see `HealSwinConfig` and `SwinConfig`; or a flat network whose patches
            or windows are no squares, or without the shape of its pictures.
    """
    network, data = config.network, config.data
    shared: dict[str, Any] = {
        "num_classes": len(form.class_names) or (2 if config.fit.loss == "gaussian" else 1),
        "channels": form.channels,
        "embed_dim": network.embed_dim,
        "depths": network.depths,
        "num_heads": network.num_heads,
        "attention": network.attention,
        "qkv_bias": network.qkv_bias,
        "qk_scale": network.qk_scale,
        "absolute_position": network.absolute_position,
        "patch_norm": network.patch_norm,
        "norm_placement": network.norm_placement,
        "mlp_ratio": network.mlp_ratio,
        "dropout_rate": network.dropout_rate,
        "attention_dropout_rate": network.attention_dropout_rate,
        "stochastic_depth_rate": network.stochastic_depth_rate,
        "compute_dtype": network.compute_dtype,
        "remat": network.remat,
        "attention_chunk": network.attention_chunk,
        "mode": network.mode,
    }
    if network.kind == "heal_swin":
        return HealSwinConfig(
            nside=data.nside,
            base_pixels=data.used_base_pixels,
            patch_size=network.patch_size,
            window_size=network.window_size,
            shift=network.shift,
            shift_size=network.shift_size,
            position_bias=network.position_bias,
            latitude=network.latitude,
            pixel_width=network.pixel_width,
            context_dropout_rate=network.context_dropout_rate,
            **shared,
        )
    patch, window = (_side(name, getattr(network, name)) for name in ("patch_size", "window_size"))
    if form.image_shape is None:
        raise ConfigError("a flat network needs pictures, and there are none; take network.kind heal_swin")
    return SwinConfig(
        size=form.image_shape,
        patch_size=(patch, patch),
        window_size=(window, window),
        shift_size=(network.shift_size, network.shift_size),
        position_bias="none" if network.position_bias == "none" else "window",
        masking=network.masking,
        **shared,
    )


def _side(name: str, pixels: int) -> int:
    """Of a square of so many pixels or tokens."""
    side = math.isqrt(max(pixels, 0))
    if side**2 != pixels:
        raise ConfigError(
            f"network.{name} of a flat network is a square number, as its patches and windows are squares, got {pixels}"
        )
    return side


@functools.lru_cache(maxsize=8)
def make_network(model: HealSwinConfig | SwinConfig) -> Network:
    """Pure functions of a model.

    Raises:
        ConfigError: windows or shifts that the map does not allow.
    """
    if isinstance(model, HealSwinConfig):
        module, plan = HealSwin(model), plan_heal_swin(model)
        shape = (1, model.num_pixels, model.channels)
    else:
        module, plan = Swin(model), plan_swin(model)
        shape = (1, *model.size, model.channels)

    def init(key: jax.Array) -> Any:
        return module.init(key, plan, jnp.zeros(shape, jnp.float32))["params"]

    def apply(params: Any, plan: Any, inputs: jax.Array, key: jax.Array | None = None) -> Any:
        if key is None:
            return module.apply({"params": params}, plan, inputs)
        masks, depths = jax.random.split(key)
        rngs = {"dropout": masks, "stochastic_depth": depths}
        return module.apply({"params": params}, plan, inputs, train=True, rngs=rngs)

    return Network(module, plan, init, apply)


def make_step(model: HealSwinConfig | SwinConfig, fit: FitConfig, training: SupervisedConfig) -> Callable[..., Any]:
    """`step(state, plan, class weights or None, batch)` -> (state, loss); gives the state away.

    The same function for equal arguments, and for those that differ in seeds only, so that the members of an ensemble
    are compiled once.
    """
    return _make_step(model, FitConfig(loss=fit.loss, huber_delta=fit.huber_delta), training)


@functools.lru_cache(maxsize=8)
def _make_step(model: HealSwinConfig | SwinConfig, fit: FitConfig, training: SupervisedConfig) -> Callable[..., Any]:
    network = make_network(model)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, plan: Any, classes: jax.Array | None, batch: Any) -> Any:
        return supervised_step(state, make_loss(fit, network, plan, classes), batch, training)

    return step


@functools.lru_cache(maxsize=8)
def make_apply(model: HealSwinConfig | SwinConfig) -> Callable[..., jax.Array]:
    """`apply(params, plan, inputs)` -> outputs of one example, without dropout; compiled once for equal models."""
    network = make_network(model)
    return jax.jit(lambda params, plan, inputs: network.apply(params, plan, inputs[None])[0])


def make_loss(fit: FitConfig, network: Network, plan: Any, classes: jax.Array | None) -> SumLoss:
    """Sum and weight of the loss on a batch (inputs, targets, weights); `classes` are their weights."""

    def loss(params: Any, key: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        inputs, targets, weights = batch
        outputs = network.apply(params, plan, inputs, key)
        if fit.loss == "cross_entropy":
            mean = dense_losses.weighted_cross_entropy(outputs, targets, class_weights=classes, weights=weights)
            known = (targets >= 0) & (targets < outputs.shape[-1])
            each = jnp.where(known, weights, 0)
            if classes is not None:
                each = each * jnp.take(classes, jnp.where(known, targets, 0))
            return mean * jnp.sum(each), jnp.sum(each)
        predictions = outputs[..., 0]
        if fit.loss == "gaussian":
            mean = dense_losses.gaussian_loss(predictions, outputs[..., 1], targets, weights)
        elif fit.loss == "huber":
            mean = dense_losses.huber_loss(predictions, targets, weights, delta=fit.huber_delta)
        else:
            one = {"l1": dense_losses.l1_loss, "l2": dense_losses.l2_loss}[fit.loss]
            mean = one(predictions, targets, weights)
        total = jnp.sum(jnp.where(jnp.isfinite(targets), weights, 0))
        return mean * total, total

    return loss
