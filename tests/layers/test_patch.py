import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.patch import PatchConv


@given(
    seed=st.integers(0, 2**31 - 1),
    patch=st.sampled_from([1, 4, 16]),
    channels=st.sampled_from([1, 3]),
    features=st.sampled_from([1, 5]),
)
def test_a_patch_convolution_is_a_convolution_with_kernel_equal_to_stride(seed, patch, channels, features):
    key = jax.random.key(seed)
    x = jax.random.normal(key, (2, 48, channels))
    dense = PatchConv(features, patch).init(key, x)["params"]["dense"]
    dense["bias"] = jax.random.normal(key, (features,))
    found = PatchConv(features, patch).apply({"params": {"dense": dense}}, x)
    convolution = nn.Conv(features, (patch,), strides=(patch,), padding="VALID")
    kernel = dense["kernel"].reshape(patch, channels, features)
    with jax.numpy_rank_promotion("allow"):  # flax adds its bias so
        expected = convolution.apply({"params": {"kernel": kernel, "bias": dense["bias"]}}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32, sums of up to 48 products


@given(seed=st.integers(0, 2**31 - 1))
def test_it_commutes_with_every_permutation_of_whole_patches(seed):
    key = jax.random.key(seed)
    x = jax.random.normal(key, (48, 2))
    order = np.random.default_rng(seed).permutation(12)
    moved = x.reshape(12, 4, 2)[order].reshape(48, 2)
    params = PatchConv(3, 4).init(key, x)
    found, expected = PatchConv(3, 4).apply(params, moved), PatchConv(3, 4).apply(params, x)[order]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # rows of one product, summed in float32


@pytest.mark.parametrize("patch", [0, 2, 8, 12, -4])
def test_a_patch_that_is_not_a_pixel_is_refused(patch):
    with pytest.raises(ConfigError, match=f"power of four .* got {patch}"):
        PatchConv(3, patch).init(jax.random.key(0), jnp.zeros((48, 1)))


def test_pixels_that_do_not_fill_the_patches_are_refused():
    with pytest.raises(InputError, match="50 pixels cannot be cut into patches of 4"):
        PatchConv(3, 4).init(jax.random.key(0), jnp.zeros((50, 1)))
