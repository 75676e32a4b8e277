import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.patch import PatchConv
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig

DEFAULT = HealpixClassifier(HealpixClassifierConfig())
FORMAT = FixedPoint(10, 4)
LINEAR = LinearPrecision(FORMAT, FORMAT, FORMAT)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_default_has_the_number_of_parameters_that_its_docstring_says():
    params = DEFAULT.init(jax.random.key(0), jnp.zeros((1, 768, 1)))["params"]
    assert count(params) == 2594
    assert f"{count(params):,} parameters" in (HealpixClassifierConfig.__doc__ or "")
    assert set(params) == {"conv_0", "conv_1", "head"}


@pytest.mark.parametrize(("batch", "classes"), [((), 2), ((1,), 5), ((3,), 2), ((2, 3), 3), ((1, 2), 4)])
def test_batch_axes_come_through_and_batches_equal_single_maps(batch, classes):
    model = HealpixClassifier(HealpixClassifierConfig(num_classes=classes, nside=4, patches=(4, 4), channels=2))
    x = jax.random.normal(jax.random.key(len(batch)), (*batch, 192, 2))
    params = model.init(jax.random.key(1), x)
    logits = model.apply(params, x)
    assert logits.shape == (*batch, classes)
    alone = model.apply(params, x.reshape(-1, 192, 2)[0])
    np.testing.assert_allclose(logits.reshape(-1, classes)[0], alone, rtol=1e-4, atol=1e-5)  # float32


def test_the_convolutions_commute_with_a_quarter_turn_about_the_polar_axis():
    nside = 8
    theta, phi = healpy.pix2ang(nside, np.arange(768), nest=True)
    turned = healpy.ang2pix(nside, theta, (phi + np.pi / 2) % (2 * np.pi), nest=True)
    assert sorted(turned) == list(range(768))
    x = jax.random.normal(jax.random.key(0), (768, 1))
    convolution = PatchConv(8, 16)
    params = convolution.init(jax.random.key(1), x)
    # A quarter turn moves base pixels and leaves the order inside each alone.
    coarse = np.asarray(turned)[::16] // 16
    moved = convolution.apply(params, x[turned])
    np.testing.assert_allclose(moved, convolution.apply(params, x)[coarse], rtol=1e-5, atol=1e-6)  # float32


def test_fixed_point_keeps_the_parameters_and_lands_on_the_grid_of_its_result():
    config = HealpixClassifierConfig(nside=4, patches=(4, 4), precision=ClassifierPrecision(FORMAT, (LINEAR,) * 3))
    plain = HealpixClassifier(HealpixClassifierConfig(nside=4, patches=(4, 4)))
    x = jax.random.normal(jax.random.key(0), (3, 192, 1))
    params = plain.init(jax.random.key(1), x)
    logits = np.asarray(HealpixClassifier(config).apply(params, x))
    np.testing.assert_array_equal(logits * 2**6, np.round(logits * 2**6))
    assert np.abs(logits - plain.apply(params, x)).max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nside": 12}, "nside must be a power of two, .* got 12"),
        ({"nside": 0}, "nside must be a power of two"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"features": (8, 0)}, "features must be a tuple, each a whole number of at least 1, got"),
        ({"patches": (8, 4)}, "powers of four, .* got 8 in"),
        ({"patches": (16, 2)}, "powers of four, .* got 2 in"),
        ({"patches": (16, 0)}, "powers of four, .* got 0 in"),
        ({"patches": (-4, 4)}, "powers of four, .* got -4 in"),
        ({"patches": (12, 4)}, "powers of four, .* got 12 in"),
        ({"features": (8,)}, "features and patches describe the same layers"),
        ({"nside": 4}, "merge 64 pixels, more than the 16"),
        ({"precision": ClassifierPrecision(FORMAT, (LINEAR,))}, "3 layers need as many precisions, got 1"),
    ],
)
def test_an_impossible_config_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        HealpixClassifierConfig(**changes)


@pytest.mark.parametrize("shape", [(2, 767, 1), (2, 768, 3), (192, 1)])
def test_a_map_of_another_size_is_refused(shape):
    with pytest.raises(InputError, match=r"nside 8 needs maps of shape \(\.\.\., 768, 1\)"):
        DEFAULT.init(jax.random.key(0), jnp.zeros(shape))
