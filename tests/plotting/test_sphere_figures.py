"""Mollweide figures: the projection's own laws, and what is seen where."""

import io

import healpy
import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.plotting.sphere import BACKGROUND, forward_mollweide, inverse_mollweide, mollweide, mollweide_grid


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60, facecolor=figure.get_facecolor())
    buffer.seek(0)
    return matplotlib.image.imread(buffer)


def drawn(sphere_map, **settings):
    axes = matplotlib.figure.Figure().add_subplot()
    return mollweide(axes, sphere_map, **settings), axes


@given(latitude=st.floats(-1.57, 1.57), longitude=st.floats(-3.1, 3.1))
def test_forward_projection_solves_mollweides_equation(latitude, longitude):
    x, y = forward_mollweide(np.array([latitude]), np.array([longitude]))
    auxiliary = np.arcsin(y)
    # arcsin near a pole turns a rounding of y into its square root, which the equation's flat slope takes back.
    np.testing.assert_allclose(2 * auxiliary + np.sin(2 * auxiliary), np.pi * np.sin(latitude), atol=1e-12)
    np.testing.assert_allclose(x, 2 / np.pi * longitude * np.cos(auxiliary), atol=1e-12)


def test_known_places_of_the_projection():
    latitude = np.array([0, 0, 0, np.pi / 2, -np.pi / 2])
    longitude = np.array([0, np.pi, -np.pi / 2, 1.0, -2.0])
    x, y = forward_mollweide(latitude, longitude)
    np.testing.assert_allclose(x, [0, 2, -1, 0, 0], atol=2e-5)  # the equation is cubic at the poles: 1e-16^(1/3)
    np.testing.assert_allclose(y, [0, 0, 0, 1, -1], atol=1e-12)


def test_inverse_undoes_the_forward_projection_and_equal_areas_stay_equal():
    columns = 400
    vectors, inside = inverse_mollweide(columns, 0.0)
    across = (np.arange(columns) + 0.5) * 4 / columns - 2
    up = (np.arange(columns // 2) + 0.5) * 4 / columns - 1
    x, y = np.meshgrid(across, up)
    strictly = x**2 / 4 + y**2 < 1
    assert inside[strictly].all()
    v = vectors[strictly]
    np.testing.assert_allclose((v**2).sum(-1), 1, atol=1e-12)
    again = forward_mollweide(np.arcsin(v[:, 2]), np.arctan2(v[:, 1], v[:, 0]))
    np.testing.assert_allclose(again, [x[strictly], y[strictly]], atol=1e-6)
    # Each of the 12 base pixels fills a twelfth of the ellipse, to the width of its edge in picture points.
    counts = np.bincount(healpy.vec2pix(1, *v.T, nest=True), minlength=12) / strictly.sum()
    np.testing.assert_allclose(counts, 1 / 12, rtol=0.01)


def test_value_at_each_point_is_that_of_the_pixel_under_it():
    values = np.arange(768.0)
    image, _ = drawn(values, columns=200, central_longitude_deg=70.0)
    picture = np.ma.filled(image.get_array(), np.nan)
    vectors, inside = inverse_mollweide(200, np.radians(70.0))
    np.testing.assert_array_equal(np.isfinite(picture), inside)
    expected = healpy.vec2pix(8, *vectors[inside].T, nest=True)
    # A few points lie on an edge between two pixels, where float32 may choose the other one.
    assert (picture[inside] == expected).mean() > 0.999


def test_east_is_right_and_north_is_up():
    x, y, z = np.stack(healpy.pix2vec(8, np.arange(768), nest=True))
    image, _ = drawn(z, columns=100)
    picture = np.ma.filled(image.get_array(), np.nan)
    assert np.nanmean(picture[30:]) > 0 > np.nanmean(picture[:20])  # origin of the picture: lower left
    image, _ = drawn(np.where(x > 0, y, 0), columns=100)
    picture = np.ma.filled(image.get_array(), np.nan)
    assert np.nanmean(picture[:, 50:75]) > 0 > np.nanmean(picture[:, 25:50])


def test_limits_fit_the_map_and_survive_a_constant_one():
    assert drawn(np.linspace(-1, 3, 12))[0].get_clim() == (-1, 3)
    assert drawn(np.full(12, 2.0))[0].get_clim() == (1.5, 2.5)
    assert drawn(np.full(12, np.nan))[0].get_clim() == (0, 1)
    assert drawn(np.zeros(12), limits=(0.0, 5.0))[0].get_clim() == (0, 5)


def test_graticule_has_its_meridians_and_parallels_or_none():
    assert len(drawn(np.zeros(12), graticule_deg=30.0)[1].lines) == 11 + 5
    assert len(drawn(np.zeros(12), graticule_deg=0.0)[1].lines) == 0


def test_gallery_is_drawn_with_titles_one_scale_and_a_dark_ground():
    maps = np.random.default_rng(0).uniform(size=(5, 48))
    figure = mollweide_grid(maps, [f"map {i}" for i in range(5)], columns=3, title="Five", colorbar_label="unit")
    panels = [a for a in figure.axes if a.images]
    assert [a.get_title() for a in panels] == [f"map {i}" for i in range(5)]
    assert {a.images[0].get_clim() for a in panels} == {(maps.min(), maps.max())}
    assert len(figure.axes) == 6  # the colorbar
    picture = rendered(figure)
    ground = np.array([int(BACKGROUND[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    np.testing.assert_allclose(picture[[0, -1], [0, -1], :3], np.stack([ground, ground]), atol=1 / 255)
    assert np.unique(picture[..., :3].reshape(-1, 3), axis=0).shape[0] > 50


def test_gallery_with_own_scales_has_no_colorbar():
    figure = mollweide_grid(np.stack([np.arange(12.0), 10 * np.arange(12.0)]), shared_limits=False)
    assert [a.images[0].get_clim() for a in figure.axes] == [(0, 11), (0, 110)]
    assert rendered(figure).shape[2] == 4


def test_wrong_galleries_and_maps_are_refused():
    with pytest.raises(InputError, match="at least one map"):
        mollweide_grid(np.zeros((0, 12)))
    with pytest.raises(InputError, match="2 maps need as many titles"):
        mollweide_grid(np.zeros((2, 12)), ["one"])
    with pytest.raises(InputError, match=r"12 nside\^2"):
        drawn(np.zeros(13))
