"""Shifts as mathematics: permutations, neighbours by healpy, ring order by healpy, and counts of corners by Euler."""

import functools
import itertools

import chex
import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.grids.healpix_windows import window_positions
from jaxgeo.grids.window_shifts import ShiftPlan, plan_shift, window_masks

SPHERE = tuple(range(12))
KINDS = ["grid", "spiral", "nest_roll", "seamless"]
SIZES = [(n, w) for n in (2, 4, 8, 16) for w in (4, 16, 64) if n * n >= w]
sizes = st.sampled_from(SIZES)
faces_in_any_order = st.lists(st.sampled_from(SPHERE), min_size=1, unique=True).map(tuple)


@functools.cache
def neighbours(nside):
    return healpy.get_all_neighbours(nside, np.arange(12 * nside**2), nest=True)


def pixels_of(plan, nside, faces):
    """NESTED pixels of the sphere by shifted place."""
    source = np.asarray(plan.source)
    return np.asarray(faces)[source // nside**2] * nside**2 + source % nside**2


def squares(values, window_size):
    """(window, row, column) of values by shifted place."""
    row, column = window_positions(window_size)
    side = round(window_size**0.5)
    laid = np.empty((len(values) // window_size, side, side), np.asarray(values).dtype)
    laid[:, row, column] = np.asarray(values).reshape(-1, window_size)
    return laid


def false_neighbours(plan, nside, faces):
    """How many pairs side by side or corner to corner in a window may attend, but do not touch on the sphere."""
    pixels, labels = (squares(v, plan.window_size) for v in (pixels_of(plan, nside, faces), plan.labels))
    wrong = 0
    for here, there in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:, :, 1:], np.s_[:, :, :-1]),
        (np.s_[:, 1:, 1:], np.s_[:, :-1, :-1]),
        (np.s_[:, 1:, :-1], np.s_[:, :-1, 1:]),
    ):
        agree = labels[here] == labels[there]
        touch = (neighbours(nside)[:, pixels[here]] == pixels[there][None]).any(0)
        wrong += int((agree & ~touch).sum())
    return wrong


def shift_sizes(kind, nside, window_size):
    return st.integers(1, {"spiral": 12 * nside**2 - 1, "nest_roll": window_size - 1}.get(kind, window_size))


@given(data=st.data(), kind=st.sampled_from(KINDS), size=sizes, faces=faces_in_any_order)
def test_shift_is_a_permutation_and_moving_back_undoes_it(data, kind, size, faces):
    nside, window_size = size
    faces = tuple(data.draw(st.permutations(SPHERE))) if kind == "seamless" else faces
    plan = plan_shift(kind, nside, window_size, data.draw(shift_sizes(kind, nside, window_size)), faces)
    tokens = len(faces) * nside**2
    assert plan.window_size == window_size
    assert {v.dtype for v in (plan.source, plan.target, plan.labels)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(np.sort(plan.source), np.arange(tokens))
    source, target = np.asarray(plan.source), np.asarray(plan.target)
    np.testing.assert_array_equal(source[target], np.arange(tokens))
    np.testing.assert_array_equal(target[source], np.arange(tokens))


@given(data=st.data(), kind=st.sampled_from(KINDS), size=sizes, faces=faces_in_any_order)
def test_masks_are_equivalence_relations_of_the_labels(data, kind, size, faces):
    nside, window_size = size
    faces = SPHERE if kind == "seamless" else faces
    plan = plan_shift(kind, nside, window_size, data.draw(shift_sizes(kind, nside, window_size)), faces)
    masks = window_masks(plan)
    assert masks.shape == (len(faces) * nside**2 // window_size, window_size, window_size)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, masks.transpose(0, 2, 1))
    assert masks[:, np.arange(window_size), np.arange(window_size)].all()
    # Nobody sees more than the group of its own label, and all of that: a row has as many as the window has of it.
    labels = np.asarray(plan.labels).reshape(-1, window_size)
    for window in range(0, len(labels), max(1, len(labels) // 7)):
        counts = {label: int((labels[window] == label).sum()) for label in labels[window].tolist()}
        np.testing.assert_array_equal(masks[window].sum(-1), [counts[label] for label in labels[window].tolist()])


@given(size=sizes, kind=st.sampled_from(["grid", "spiral"]), faces=faces_in_any_order, shift=st.integers(1, 11))
def test_order_in_which_faces_are_listed_does_not_matter(size, kind, faces, shift):
    nside, window_size = size
    listed, ascending = (plan_shift(kind, nside, window_size, shift, f) for f in (faces, tuple(sorted(faces))))
    order = np.argsort(faces)
    pixels, labels = (v.reshape(len(faces), -1) for v in (pixels_of(listed, nside, faces), np.asarray(listed.labels)))
    np.testing.assert_array_equal(pixels[order].ravel(), pixels_of(ascending, nside, sorted(faces)))
    np.testing.assert_array_equal(labels[order].ravel(), ascending.labels)


@pytest.mark.parametrize("nside", [2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("window_size", [4, 16, 64])
def test_who_may_attend_side_by_side_touches_on_the_sphere(nside, window_size):
    if nside**2 < window_size:
        with pytest.raises(ConfigError, match="must fit into a face"):
            plan_shift("grid", nside, window_size, 1)
        return
    assert false_neighbours(plan_shift("grid", nside, window_size, 1), nside, range(8)) == 0
    assert false_neighbours(plan_shift("seamless", nside, window_size, 1, SPHERE), nside, SPHERE) == 0


@given(size=sizes, faces=faces_in_any_order)
def test_grid_shift_of_any_faces_lets_no_strangers_attend(size, faces):
    nside, window_size = size
    assert false_neighbours(plan_shift("grid", nside, window_size, 1, faces), nside, faces) == 0


def test_grid_shift_of_few_and_of_nearly_all_faces_lets_no_strangers_attend():
    for number in (1, 2, 11, 12):
        for faces in itertools.combinations(SPHERE, number):
            assert false_neighbours(plan_shift("grid", 4, 4, 1, faces), 4, faces) == 0, faces


@given(size=sizes, faces=faces_in_any_order, shift=st.integers(1, 64))
def test_grid_shift_is_half_a_side_to_the_north_inside_a_face_whatever_the_size_says(size, faces, shift):
    nside, window_size = size
    plan = plan_shift("grid", nside, window_size, shift, faces)
    half = round(window_size**0.5) // 2
    x, y, _ = healpy.pix2xyf(nside, np.arange(nside**2), nest=True)
    inside = (x >= half) & (y >= half)
    expected = healpy.xyf2pix(nside, x[inside] - half, y[inside] - half, 0, nest=True)
    for index, source in enumerate(np.asarray(plan.source).reshape(len(faces), -1)):
        np.testing.assert_array_equal(source[inside], index * nside**2 + expected)
        assert (np.asarray(plan.labels).reshape(len(faces), -1)[index, inside] == 0).all()


@given(size=sizes, faces=faces_in_any_order)
def test_grid_shift_masks_no_edge_that_two_of_its_faces_share_unturned(size, faces):
    nside, window_size = size
    half = round(window_size**0.5) // 2
    labels = np.asarray(plan_shift("grid", nside, window_size, 1, faces).labels).reshape(len(faces), -1)
    x, y, _ = healpy.pix2xyf(nside, np.arange(nside**2), nest=True)
    for index, face in enumerate(faces):
        for over, along, direction in ((x, y, 0), (y, x, 6)):  # healpy's neighbours to the south-west and south-east
            edge = (over < half) & (along >= half)
            outermost = neighbours(nside)[direction, face * nside**2 + np.flatnonzero((over == 0) & (along >= half))]
            beyond = set((outermost // nside**2).tolist())
            # South of the equator's faces the lattice goes on, between polar faces it turns.
            if len(beyond) == 1 and beyond <= set(faces) and face < 8:
                assert (labels[index, edge] == 0).all()
            else:
                assert (labels[index, edge] != 0).all()


@given(nside=st.sampled_from([2, 4, 8]), data=st.data())
def test_spiral_on_the_sphere_is_a_roll_of_the_map_in_ring_order(nside, data):
    shift = data.draw(shift_sizes("spiral", nside, 4))
    plan = plan_shift("spiral", nside, 4, shift, SPHERE)
    values = np.random.default_rng(shift).normal(size=12 * nside**2)
    moved = healpy.reorder(values[np.asarray(plan.source)], n2r=True)
    np.testing.assert_array_equal(moved, np.roll(healpy.reorder(values, n2r=True), shift))
    # What came from the end of the spiral to its start is kept apart, and nothing else.
    np.testing.assert_array_equal(
        healpy.reorder(np.asarray(plan.labels, float), n2r=True) != 0, np.arange(12 * nside**2) < shift
    )
    assert not np.asarray(plan_shift("spiral", nside, 4, shift, SPHERE, "faithful").labels).any()


@given(size=sizes, faces=faces_in_any_order, data=st.data())
def test_spiral_on_some_faces_is_the_roll_where_source_and_place_are_there(size, faces, data):
    nside, window_size = size
    shift = data.draw(shift_sizes("spiral", nside, 4))
    plan = plan_shift("spiral", nside, window_size, shift, faces)
    place = (np.asarray(faces)[:, None] * nside**2 + np.arange(nside**2)[None]).ravel()
    ring = healpy.nest2ring(nside, place) - shift
    wanted = healpy.ring2nest(nside, ring % (12 * nside**2))
    there = np.isin(wanted // nside**2, faces)
    pixels, labels = pixels_of(plan, nside, faces), np.asarray(plan.labels)
    np.testing.assert_array_equal(pixels[there], wanted[there])
    np.testing.assert_array_equal(labels[there] == 0, ring[there] >= 0)
    # The others see those of one face, put into one face, and no token of the roll nor of the other pole.
    assert set(pixels[~there]) == set(place) - set(wanted)
    by_label = {}
    for label, journey in zip(labels[~there], (pixels // nside**2 * 12 + place // nside**2)[~there], strict=True):
        by_label.setdefault(int(label), set()).add(int(journey))
    assert all(len(journeys) == 1 for journeys in by_label.values())
    assert not set(by_label) & set(labels[there].tolist())
    # As published they see all that is put into their face.
    published = np.asarray(plan_shift("spiral", nside, window_size, shift, faces, "faithful").labels)
    np.testing.assert_array_equal(published[~there], place[~there] // nside**2 + 1)


@pytest.mark.parametrize("faces", [(0, 1, 4, 10), (3, 4, 6, 11, 8), (10, 9, 5, 4), (4, 6, 8, 1, 5, 7, 3, 2, 0, 10, 9)])
def test_spiral_of_few_faces_lets_nobody_attend_to_the_far_side_of_the_sphere(faces):
    nside, window_size = 16, 16
    vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True), -1)

    def widest(mode):
        plan = plan_shift("spiral", nside, window_size, 4, faces, mode)
        windows = vectors[pixels_of(plan, nside, faces)].reshape(-1, window_size, 3)
        return np.where(window_masks(plan), np.linalg.norm(windows[:, :, None] - windows[:, None], axis=-1), 0).max()

    # Of 2 for opposite places; a face's edges are about 0.8 long, and what fills a face lies along one.
    assert widest("correct") < 0.8
    assert widest("faithful") > 1.6


def test_spiral_fills_a_gap_from_the_far_side_of_it():
    # Faces 4-7 with gaps between them below the equator: what face 7 loses in the east comes in in the west of face 4.
    nside = 8
    plan = plan_shift("spiral", nside, 4, 2)
    source, labels = (np.asarray(v).reshape(8, -1) for v in (plan.source, plan.labels))
    for face, western in ((4, 7), (5, 4), (6, 5), (7, 6)):
        filled = source[face][labels[face] != 0]
        assert len(filled) > 0
        assert set(filled // nside**2) == {western}
        assert (np.diff(filled) > 0).all()


@given(size=sizes, data=st.data())
def test_spiral_of_the_published_faces_has_one_form_for_short_shifts(size, data):
    nside, window_size = size
    shift = data.draw(st.integers(1, 4))  # of more, several come into one window at the pole
    ours, published = (plan_shift("spiral", nside, window_size, shift, mode=m) for m in ("correct", "faithful"))
    np.testing.assert_array_equal(ours.source, published.source)
    np.testing.assert_array_equal(window_masks(ours), window_masks(published))
    if nside > 4:
        plans = [plan_shift("spiral", nside, window_size, 7, mode=m) for m in ("correct", "faithful")]
        assert (window_masks(plans[0]) < window_masks(plans[1])).any()


@given(size=sizes, faces=faces_in_any_order, data=st.data())
def test_nest_roll_is_numpys_roll_and_parts_only_the_last_window(size, faces, data):
    nside, window_size = size
    shift = data.draw(shift_sizes("nest_roll", nside, window_size))
    plan = plan_shift("nest_roll", nside, window_size, shift, faces)
    tokens = np.random.default_rng(shift).normal(size=len(faces) * nside**2)
    np.testing.assert_array_equal(tokens[np.asarray(plan.source)], np.roll(tokens, -shift))
    masks = window_masks(plan)
    assert masks[:-1].all()
    kept = np.arange(window_size) < window_size - shift
    np.testing.assert_array_equal(masks[-1], kept[:, None] == kept[None, :])


@given(size=sizes, faces=faces_in_any_order, data=st.data())
def test_published_shifts_go_on_around_with_the_labels_of_three_slices(size, faces, data):
    nside, window_size = size
    tokens = len(faces) * nside**2
    shift = data.draw(st.integers(window_size, 2 * tokens))
    with pytest.raises(ConfigError, match=f"got {shift}"):
        plan_shift("nest_roll", nside, window_size, shift, faces)
    plan = plan_shift("nest_roll", nside, window_size, shift, faces, "faithful")
    np.testing.assert_array_equal(plan.source, np.roll(np.arange(tokens), -shift))
    labels = np.zeros(tokens)
    for label, part in enumerate(
        (slice(0, -window_size), slice(-window_size, -shift), slice(-shift, None))  # the second one is empty
    ):
        labels[part] = label
    np.testing.assert_array_equal(plan.labels, labels)
    around = shift % (12 * nside**2)
    if around:
        plans = (plan_shift("spiral", nside, window_size, each, faces, "faithful") for each in (shift, around))
        chex.assert_trees_all_equal(*plans)
    plan = plan_shift("spiral", nside, window_size, 12 * nside**2, faces, "faithful")
    np.testing.assert_array_equal(plan.source, np.arange(tokens))
    assert not np.asarray(plan.labels).any()


@given(size=sizes, faces=faces_in_any_order, shift=st.integers(1, 15))
def test_windows_larger_than_a_face_are_planned_as_published_only(size, faces, shift):
    nside, _ = size
    window_size = 4 * nside**2
    for kind in ("spiral", "nest_roll"):
        with pytest.raises(ConfigError, match="must fit into a face"):
            plan_shift(kind, nside, window_size, shift, faces)
        if len(faces) % 4:
            with pytest.raises(ConfigError, match="must fill the"):
                plan_shift(kind, nside, window_size, shift, faces, "faithful")
        else:
            assert len(window_masks(plan_shift(kind, nside, window_size, shift, faces, "faithful"))) == len(faces) // 4
        # Nor need they be squares.
        halves = window_masks(plan_shift(kind, nside, nside**2 // 2, shift, faces, "faithful"))
        assert halves.shape == (2 * len(faces), nside**2 // 2, nside**2 // 2)
    with pytest.raises(ConfigError, match="must fit into a face"):
        plan_shift("grid", nside, window_size, shift, faces, "faithful")


@pytest.mark.parametrize(("nside", "window_size"), SIZES)
def test_seamless_windows_join_four_old_ones_at_all_but_the_eight_corners_of_three(nside, window_size):
    plan = plan_shift("seamless", nside, window_size, 1, SPHERE)
    pixels, labels = (np.asarray(v).reshape(-1, window_size) for v in (plan.source, plan.labels))
    parted = (labels != 0).any(-1)
    num_windows = 12 * nside**2 // window_size
    num_corners = num_windows + 2  # Euler: corners = edges - windows + 2, and each window has two edges of its own
    assert (~parted).sum() == num_corners - 8
    quarter = window_size // 4
    for window, (old, label) in enumerate(zip(pixels // window_size, labels, strict=True)):
        if parted[window]:
            assert sorted(label) == [0] * (3 * quarter) + [1] * quarter
            assert len(set(old[label == 0])) == 3
        else:
            assert np.unique(old, return_counts=True)[1].tolist() == [quarter] * 4


@pytest.mark.parametrize(("nside", "window_size"), SIZES)
def test_seamless_shift_masks_less_than_any_window_of_single_quarters_would(nside, window_size):
    masks = window_masks(plan_shift("seamless", nside, window_size, 1, SPHERE))
    # Six windows are parted 3 : 1, which hides 6 of the 16 pairs of quarters in each.
    assert (~masks).sum() == 6 * 6 * (window_size // 4) ** 2
    grid = window_masks(plan_shift("grid", nside, window_size, 1, SPHERE))
    assert (~grid).sum() > (~masks).sum()


@given(size=sizes)
def test_seamless_shift_is_the_grid_shift_wherever_the_lattice_goes_on(size):
    nside, window_size = size
    grid, seamless = (plan_shift(kind, nside, window_size, 1, SPHERE) for kind in ("grid", "seamless"))
    whole = (np.asarray(grid.labels).reshape(-1, window_size) == 0).all(-1)
    sources = (np.asarray(plan.source).reshape(-1, window_size) for plan in (grid, seamless))
    np.testing.assert_array_equal(*(source[whole] for source in sources))
    # The grid shift parts the south edges of four faces and the south corners of four others.
    per_side = nside // round(window_size**0.5)
    assert (~whole).sum() == 4 * (2 * per_side - 1) + 4


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("grid", dict(nside=3), "nside must be a power of two"),
        ("grid", dict(nside=0), "nside must be a power of two"),
        ("seamless", dict(nside=2**14), "int32, which reaches nside 8192"),
        ("spiral", dict(window_size=8), "nearest are 4 and 16"),
        ("grid", dict(window_size=1), "smallest is 4"),
        (
            "nest_roll",
            dict(window_size=256),
            "window_size 256 needs nside 16 or more, got nside 8 with 64 tokens a face",
        ),
        ("seamless", dict(window_size=256, base_pixels=SPHERE), "window_size 256 needs nside 16"),
        ("grid", dict(nside=2), "window_size 16 needs nside 4"),  # a division by zero in the published program
        ("grid", dict(nside=4, window_size=64), "window_size 64 needs nside 8"),  # likewise
        ("grid", dict(shift_size=0), "must be positive, got 0"),
        ("seamless", dict(shift_size=-1), "must be positive, got -1"),
        ("spiral", dict(shift_size=768), "has 768 places, so shift_size must be less, got 768"),
        ("nest_roll", dict(shift_size=16), "less, got 16; 8 is half a window"),
        ("grid", dict(base_pixels=()), r"one to twelve different numbers of faces, 0 to 11, got \[\]"),
        ("grid", dict(base_pixels=(1, 2, 1)), r"different numbers of faces, 0 to 11, got \[1, 2, 1\]"),
        ("spiral", dict(base_pixels=(12,)), r"0 to 11, got \[12\]"),
        ("nest_roll", dict(base_pixels=(-1, 0)), r"0 to 11, got \[-1, 0\]"),
        (
            "seamless",
            dict(),
            r"full sphere, base pixels 0 to 11, got \[0, 1, 2, 3, 4, 5, 6, 7\]; .* use the grid shift",
        ),
        ("ring", dict(), "kind of a window shift must be one of grid, spiral, nest_roll, seamless, got 'ring'"),
        ("grid", dict(mode="upstream"), "mode of a window shift must be one of correct, faithful, got 'upstream'"),
    ],
)
def test_impossible_shifts_are_refused(kind, change, message):
    arguments = dict(nside=8, window_size=16, shift_size=2) | change
    with pytest.raises(ConfigError, match=message):
        unchecked(plan_shift)(kind, **arguments)


@pytest.mark.parametrize("change", [dict(shift_size=1.5), dict(shift_size="4"), dict(base_pixels=(0.5,))])
def test_sizes_of_no_whole_number_are_refused(change):
    with pytest.raises(ConfigError, match="must be a whole number"):
        unchecked(plan_shift)("grid", **(dict(nside=8, window_size=16, shift_size=2) | change))


def test_plans_made_while_tracing_are_constants_and_pass_through_compiled_functions():
    @jax.jit
    def there_and_back(tokens, plan: ShiftPlan):
        made_inside = plan_shift("grid", 4, 4, 1)
        masks = window_masks(made_inside)  # NumPy: would fail on traced labels
        return tokens[plan.source][plan.target], tokens[made_inside.source][made_inside.target] * masks.all()

    tokens = jnp.arange(128.0)
    same, zero = there_and_back(tokens, plan_shift("spiral", 4, 4, 3))
    np.testing.assert_array_equal(same, tokens)
    np.testing.assert_array_equal(zero, 0 * tokens)
