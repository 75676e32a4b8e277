"""Classification of signals on the sphere by a spherical CNN: invariant features are integrals over SO(3).

The defaults are the network of the older program for digits on the sphere (Cohen et al.), with 154,550 parameters. The
classifier of the newer study (Gerken et al.) is another one, whose sizes its published program, for segmentation only,
does not contain; nothing here claims to be it.

References:
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130.
    Gerken, Carlsson, Linander, Ohlsson, Petersson, Persson, "Equivariance versus Augmentation for Spherical Images",
    arXiv:2202.03990.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import check_whole, check_whole_tuple
from jaxgeo.layers.so3_pooling import integrate
from jaxgeo.models.plan_layout import Layout
from jaxgeo.models.s2cnn import S2CNNConfig, S2CNNTrunk, TrunkPlan, plan_trunk


@dataclasses.dataclass(frozen=True)
class S2CNNClassifierConfig(S2CNNConfig):
    """A trunk, the integral over SO(3), and affine layers; the defaults are the older program's 154,550 parameters.

    Raises:
        ConfigError: as the trunk's, or no class, or a size below 1.
    """

    input_bandlimit: int = 30
    features: tuple[int, ...] = (20, 40)
    bandlimits: tuple[int, ...] = (10, 6)
    kernel_max_beta: tuple[float, ...] = (0.125, 0.125)
    num_classes: int = 10
    head_features: tuple[int, ...] = ()  # rectified affine layers before the last one

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_classes", self.num_classes)
        check_whole_tuple("head_features", self.head_features)

    @property
    def layout(self) -> Layout:
        """What the tables depend on."""
        return *super().layout, ("output_bandlimit", 1)


def plan_s2cnn_classifier(config: S2CNNClassifierConfig, *, dtype: DTypeLike = jnp.float32) -> TrunkPlan:
    """Tables of the network; of the last nonlinearity only the mean is kept.

    Raises:
        ConfigError: impossible sizes or dtype.
    """
    return plan_trunk(config, 1, dtype)


class S2CNNClassifier(nn.Module):
    """Logits of a signal, invariant under rotations up to the nonlinearity's aliases.

    Submodules `trunk`, `head_i` and `out_layer`.
    """

    config: S2CNNClassifierConfig

    @nn.compact
    def __call__(
        self, plan: TrunkPlan, images: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits.

        Args:
            plan: from `plan_s2cnn_classifier`.
            images: signals on the input's grid, of the plan's dtype.
            train: use the batch's statistics and drop channels, where the configuration has batch norm and dropout.

        Raises:
            InputError: images of another shape or dtype, or a plan of another network.
        """
        x = integrate(S2CNNTrunk(self.config, name="trunk")(plan, images, train=train))
        options: dict[str, Any] = {"param_dtype": images.dtype, "precision": jax.lax.Precision.HIGHEST}
        for i, features in enumerate(self.config.head_features):
            x = jax.nn.relu(nn.Dense(features, name=f"head_{i}", **options)(x))
        return nn.Dense(self.config.num_classes, name="out_layer", **options)(x)
