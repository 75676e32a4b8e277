"""The two methods against each other and against all pairs, closed forms, and what is no cloud."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import point_clouds
from jaxgeo.metrics.point_clouds import chamfer_distance, directed_chamfer, nearest_squared_distances


def clouds(seed, sizes, axes=3):
    rng = np.random.default_rng(seed)
    return [30 * rng.normal(size=(size, axes)) for size in sizes]


@given(
    seed=st.integers(0, 2**31 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    measure=st.sampled_from(["squared", "plain"]),
)
@settings(max_examples=25)
def test_tree_gives_the_weighted_means_over_all_pairs(seed, sizes, measure):
    prediction, target = clouds(seed, sizes)
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(0.1, 2, size) for size in sizes]
    pairs = scipy.spatial.distance.cdist(prediction, target, "sqeuclidean" if measure == "squared" else "euclidean")
    expected = np.average(pairs.min(1), weights=weights[0]), np.average(pairs.min(0), weights=weights[1])
    options = {"prediction_weights": weights[0], "target_weights": weights[1], "measure": measure}
    found = directed_chamfer(prediction, target, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # float64
    assert chamfer_distance(prediction, target, **options) == found.to_target + found.to_prediction
    for direction in ("to_target", "to_prediction"):
        assert chamfer_distance(prediction, target, direction=direction, **options) == getattr(found, direction)


@pytest.mark.parametrize("sizes", [(1, 1), (16, 32), (17, 31), (5, 100)])
@pytest.mark.parametrize("axes", [2, 3])
def test_chunks_give_what_the_tree_gives(sizes, axes):
    prediction, target = clouds(7, sizes, axes)
    with jax.enable_x64(True):
        for measure in ("squared", "plain"):
            chunked = directed_chamfer(prediction, target, measure=measure, method="chunked", chunk_size=16)
            tree = directed_chamfer(prediction, target, measure=measure)
            np.testing.assert_allclose(chunked, tree, rtol=1e-10)  # the promise; float64 is better
    single = directed_chamfer(prediction.astype(np.float32), target.astype(np.float32), method="chunked", chunk_size=16)
    # float32: coordinates up to 100 to within 4e-6, distances from about 1 on.
    np.testing.assert_allclose(single, directed_chamfer(prediction, target), rtol=2e-4)


def test_near_points_far_from_the_origin_keep_their_distance_in_single_precision():
    prediction = np.array([[100.0, 100.0, 100.0]], np.float32)
    target = prediction + np.array([[0.0, 0.0, 0.0078125]], np.float32)  # exact in float32
    for method in ("tree", "chunked"):
        assert chamfer_distance(prediction, target, method=method) == 2 * 0.0078125**2


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 50])
def test_the_size_of_chunks_changes_nothing_and_infinite_points_are_no_neighbours(chunk_size):
    points, others = (x.astype(np.float32) for x in clouds(1, (7, 8)))
    others[::2] = np.inf
    found = nearest_squared_distances(jnp.asarray(points), jnp.asarray(others), chunk_size)
    expected = scipy.spatial.distance.cdist(points, others[1::2], "sqeuclidean").min(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32


def test_memory_is_a_few_blocks_of_distances_and_not_all_pairs():
    points = jax.ShapeDtypeStruct((4096, 3), jnp.float32)
    program = jax.jit(nearest_squared_distances, static_argnames="chunk_size").lower(points, points, chunk_size=64)
    # All pairs would be 64 MiB. Allowed: four blocks, and the padded clouds and distances four times.
    assert program.compile().memory_analysis().temp_size_in_bytes <= 4 * (64 * 64 + 2 * 4096 * 4) * 4


def test_clouds_of_nearly_one_size_share_a_program():
    point_clouds._nearest.clear_cache()
    for sizes in ((17, 20), (30, 18), (32, 32)):
        prediction, target = clouds(0, sizes)
        chamfer_distance(prediction, target, method="chunked", chunk_size=16)
    assert point_clouds._nearest._cache_size() == 1


@given(seed=st.integers(0, 2**31 - 1), shift=st.floats(0.001, 0.1))
@settings(max_examples=10)
def test_closed_forms(seed, shift):
    (cloud,) = clouds(seed, (20,))
    rotation = scipy.spatial.transform.Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    assert chamfer_distance(cloud, cloud[::-1]) == 0
    # A lattice moved by less than half its spacing: each point's nearest is its own image.
    lattice = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
    moved = lattice + np.array([shift, 0, 0])
    assert chamfer_distance(lattice, moved) == pytest.approx(2 * shift**2, rel=1e-9)
    assert chamfer_distance(lattice, moved, measure="plain") == pytest.approx(2 * shift, rel=1e-9)
    # Neither a common motion nor the order of the clouds changes the sum; a scale enters squared.
    other = cloud[:13] + shift
    expected = chamfer_distance(cloud, other)
    assert chamfer_distance(other, cloud) == pytest.approx(expected)
    assert chamfer_distance(cloud @ rotation.T + 5, other @ rotation.T + 5) == pytest.approx(expected)
    assert chamfer_distance(3 * cloud, 3 * other) == pytest.approx(9 * expected)


def test_directions_see_different_faults():
    target = np.array([[0.0, 0, 0], [10, 0, 0]])
    missing = directed_chamfer(target[:1], target)
    assert missing == (0, 50)
    spurious = directed_chamfer(target, target[:1])
    assert spurious == (50, 0)
    assert chamfer_distance(target[:1], target) == 50


@pytest.mark.parametrize("method", ["tree", "chunked"])
def test_points_of_weight_zero_are_in_no_cloud(method):
    prediction, target = (x.astype(np.float32) for x in clouds(2, (12, 15)))
    inside, weights = np.arange(15) % 3 > 0, np.ones(15)
    weights[~inside] = 0
    background = target.copy()
    background[~inside] = np.array([np.inf, np.nan, 0], np.float32)
    found = chamfer_distance(prediction, background, target_weights=weights, method=method)
    assert found == chamfer_distance(prediction, target[inside], method=method)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": np.zeros((0, 3))}, r"none of weight above 0 among the 0 of the prediction"),
        ({"target_weights": np.zeros(5)}, r"none of weight above 0 among the 5 of the target"),
        ({"target_weights": np.array([1, 1, 1, 1, -1.0])}, "at least 0, got -1.0 to 1.0"),
        ({"prediction": np.array([[0, 0, 0], [0, np.nan, 0], [np.inf, 0, 0]])}, "2 points that are not.*index 1"),
        ({"target": np.zeros((5, 2))}, "got 3 of the prediction and 2 of the target"),
        ({"target": np.zeros((5, 0))}, r"got \(5, 0\)"),
        ({"target": np.zeros(5)}, r"shape \(point, coordinate\), got \(5,\)"),
        ({"target_weights": np.ones(4)}, r"5 points of the target need as many weights, got shape \(4,\)"),
    ],
)
def test_what_is_no_cloud_is_refused(changes, message):
    # Not checked by the types of this test run, which know the number of coordinates too.
    with pytest.raises(InputError, match=message):
        unchecked(directed_chamfer)(**{"prediction": np.zeros((4, 3)), "target": np.zeros((5, 3))} | changes)


def test_unknown_options_are_refused():
    cloud = np.zeros((2, 3))
    with pytest.raises(ConfigError, match="chunk_size must be a whole number of at least 1, got 0"):
        chamfer_distance(cloud, cloud, chunk_size=0)
    with pytest.raises(ConfigError, match="direction must be one of both, to_target, to_prediction, got 'back'"):
        unchecked(chamfer_distance)(cloud, cloud, direction="back")
    for name, message in (("measure", "squared, plain, got 'other'"), ("method", "tree, chunked, got 'other'")):
        with pytest.raises(ConfigError, match=f"{name} must be one of {message}"):
            unchecked(directed_chamfer)(cloud, cloud, **{name: "other"})


@pytest.mark.parametrize("method", ["tree", "chunked"])
def test_a_mean_of_some_points_estimates_that_of_all_and_thinning_both_clouds_does_not(method):
    prediction, target = (x[:, :2] for x in clouds(3, (4000, 5000)))
    weights = np.random.default_rng(4).uniform(0.5, 2, 4000)
    options = {"prediction_weights": weights, "measure": "plain", "method": method}
    whole = directed_chamfer(prediction, target, **options)
    some = directed_chamfer(prediction, target, max_points=1000, **options)
    assert some != whole
    # Distances scatter about as much as their mean: 1 / sqrt(1000) is 3 %, four of which are allowed.
    np.testing.assert_allclose(some, whole, rtol=0.13)
    assert directed_chamfer(prediction, target, max_points=1000, **options) == some
    assert directed_chamfer(prediction, target, max_points=5000, **options) == whole
    thinned = directed_chamfer(prediction[:1000], target[:1000], measure="plain")
    assert min(thinned) > 1.5 * max(whole)  # in the plane distances grow as the root of the thinning
    with pytest.raises(ConfigError, match=r"max_points .* of at least 1, got 0"):
        directed_chamfer(prediction, target, max_points=0)
