"""What is no pixel, place or direction is refused where it is known; behind a compiler it is not looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import healpix
from jaxgeo.grids.healpix_interpolation import interpolation_weights
from jaxgeo.grids.neighbours import neighbours

OUTSIDE = r"pixel numbers at nside 4 lie in 0 \.\.\. 191, got "
ZERO = "directions are vectors that are finite and not zero"
COLATITUDE = r"colatitudes lie in 0 \.\.\. pi radians, got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda f=f, pix=pix, order=order: f(4, np.array([5, pix]), *order), f"{OUTSIDE}{pix}$")
            for f, order in (
                (healpix.nest_to_ring, ()), (healpix.ring_to_nest, ()), (healpix.nest_to_xyf, ()),
                (healpix.ring_to_xyf, ()), (healpix.pixel_centers, ("ring",)), (healpix.pixel_vectors, ("nested",)),
                (neighbours, ("ring",)),
            )
            for pix in (-1, 192)
        ),
        (lambda: healpix.nest_to_ring(4, jnp.array([0, 192])), f"{OUTSIDE}192"),
        (lambda: healpix.nest_to_ring(nside=4, pix=-7), f"{OUTSIDE}-7"),
        (lambda: healpix.nest_to_ring(4, [1.5]), "whole numbers, got the type float64"),
        (lambda: healpix.xyf_to_ring(4, np.array(4), np.array(0), np.array(0)), r"nside 4 lie in 0 \.\.\. 3, got 4"),
        (lambda: healpix.xyf_to_nest(4, np.array(0), np.array(-1), np.array(0)), "face at nside 4 .* got -1"),
        (lambda: healpix.xyf_to_nest(4, np.array(0), np.array(0), np.array(12)), r"faces lie in 0 \.\.\. 11, got 12"),
        (lambda: healpix.vectors_to_pixels(4, np.zeros(3), "ring"), ZERO),
        (lambda: healpix.vectors_to_pixels(4, np.array([[1.0, 0, 0], [0, np.nan, 1]]), "ring"), ZERO),
        (lambda: healpix.angles_to_pixels(64, np.array(90.0), np.array(180.0), "ring"), f"{COLATITUDE}90 .*radians"),
        (lambda: healpix.angles_to_pixels(64, np.array([1, np.nan]), np.zeros(2), "ring"), f"{COLATITUDE}nan"),
        (lambda: healpix.angles_to_pixels(64, np.zeros(1), np.array([np.inf]), "ring"), "longitudes are finite"),
        (lambda: interpolation_weights(4, np.array([-0.1]), np.zeros(1), "ring"), f"{COLATITUDE}-0.1"),
    ],
)  # fmt: skip
def test_what_is_known_to_be_none_is_refused(call, message):
    with without_type_checks(), pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("nside", [True, 3, "x", 4.0])
def test_no_look_up_takes_another_nside(nside):
    with without_type_checks(), pytest.raises(ConfigError, match="nside must be"):
        healpix.nest_to_ring(nside, np.array([0]))


def test_rounded_poles_empty_arrays_and_lists_are_taken():
    poles = healpix.angles_to_pixels(1, jnp.array([np.pi, 0], jnp.float32), jnp.array([0.1, 1e3]), "ring")
    assert poles.tolist()[0] == 8  # float32's pi exceeds pi
    assert healpix.nest_to_ring(4, jnp.zeros(0, jnp.int32)).shape == (0,)
    with without_type_checks():
        assert healpix.nest_to_ring(4, [0, 191]).tolist() == healpix.nest_to_ring(4, np.array([0, 191])).tolist()


def test_under_compilation_nothing_is_looked_at():
    compiled = jax.jit(lambda pix: healpix.nest_to_ring(4, pix))
    assert compiled(jnp.array([5, 192]))[0] == healpix.nest_to_ring(4, jnp.array(5))
