r"""Batch norm and invariants of sets of spin-weighted signals, from their coefficients: exact, no grid is seen.

The mean of a signal of spin 0 is $f_{00} / \sqrt{4\pi}$, and by Parseval the mean of $|f|^2$ is
$\sum_{lm} |f_{lm}|^2 / 4\pi$ for every spin. A signal of another spin has no mean: at each point its phase depends on
the frame there.

References:
    Esteves, Makadia, Daniilidis, "Spin-Weighted Spherical CNNs", arXiv:2006.10731.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.layers.spin_weighted_convolution import Spectra

_SQRT_AREA = float(np.sqrt(4 * np.pi))


def mean_power(coefficients: Spectra) -> Float[Array, "*batch spin channel"]:
    """Mean of |f|^2 over the sphere."""
    return jnp.sum(coefficients**2, (-5, -4, -3, -2)) / _SQRT_AREA**2


def scalar_means(coefficients: Spectra, spins: tuple[int, ...]) -> Float[Array, "*batch channel"]:
    """Mean over the sphere of the signals of spin 0, which must be among the spins."""
    return coefficients[_constant(coefficients, spins)] / _SQRT_AREA


def invariants(
    coefficients: Spectra, spins: tuple[int, ...], *, epsilon: float = 1e-6
) -> Float[Array, "*batch spin channel"]:
    r"""Numbers that no rotation changes: the mean at spin 0, the root mean square $\sqrt{\overline{|f|^2}}$ elsewhere.

    The paper averages |f| over samples; the root mean square needs none and is invariant to rounding.

    Args:
        coefficients: of the set.
        spins: of the set.
        epsilon: its square is added under the root, so that a signal of zeros has a derivative.
    """
    roots = jnp.sqrt(mean_power(coefficients) + epsilon**2)
    if 0 not in spins:
        return roots
    return roots.at[..., spins.index(0), :].set(scalar_means(coefficients, spins))


class SpinBatchNorm(nn.Module):
    """Batch norm of every spin and channel: spin 0 is centred, all are divided by their root mean square.

    Statistics are means over examples and sphere, so that the layer commutes with rotations to rounding. Parameters:
    `scale` (spin, channel); there is no bias, which the nonlinearity that follows has. Collection `batch_stats` with
    the running `mean` (channel,) of spin 0 and `var` (spin, channel).
    """

    spins: tuple[int, ...]
    momentum: float = 0.9
    """share of the running statistics that an update keeps"""
    epsilon: float = 1e-5
    """added to the variance"""

    @nn.compact
    def __call__(self, coefficients: Spectra, *, use_running_average: bool) -> Spectra:
        """Normalise and scale.

        Args:
            coefficients: of a set with the layer's spins.
            use_running_average: take the running statistics (prediction) instead of the batch's (training).
        """
        shape, dtype = (len(self.spins), coefficients.shape[-1]), coefficients.dtype
        examples = tuple(range(coefficients.ndim - 6))
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        if 0 in self.spins:
            running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape[1:], dtype)
            mean = running_mean.value
            if not use_running_average:
                mean = scalar_means(coefficients, self.spins).mean(examples)
                self._update(running_mean, mean)
            place = _constant(coefficients, self.spins)
            change = jnp.broadcast_to(-_SQRT_AREA * mean, coefficients[place].shape)
            coefficients = coefficients.at[place].add(change)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        var = running_var.value
        if not use_running_average:
            var = mean_power(coefficients).mean(examples)
            self._update(running_var, var)
        factor = (scale / jnp.sqrt(var + self.epsilon))[:, None, None, None, None, :]
        return coefficients * factor.reshape((1,) * len(examples) + factor.shape)

    def _update(self, running: nn.Variable, value: Array) -> None:
        if not self.is_initializing():
            running.value = self.momentum * running.value + (1 - self.momentum) * value


def _constant(coefficients: Array, spins: tuple[int, ...]) -> tuple:
    """Place of the real part of f_00 at spin 0."""
    return (..., spins.index(0), 0, coefficients.shape[-4] // 2, 0, 0, slice(None))
