"""Files are whole or absent, and a damaged one is always noticed."""

import errno
import os
import resource
import string
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from jaxgeo import files
from jaxgeo.errors import CorruptFileError, InputError, RunFolderError

NAMES = st.text(string.ascii_letters + string.digits + "_. ", min_size=1, max_size=8)
ARRAYS = numpy_strategies.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
    numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
TREES = st.recursive(ARRAYS, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "state.safetensors"
    tree = {"a": {"b": np.arange(12.0).reshape(3, 4), "n": np.int32(7)}, "key": jax.random.key(5)}
    files.save_tree(path, tree, {"step": 3})
    return path, path.read_bytes()


@given(tree=st.dictionaries(NAMES, TREES, min_size=1, max_size=3))
def test_a_tree_comes_back_as_it_was_written(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    files.save_tree(path, tree)
    back = files.load_tree(path)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(back), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_prng_key_continues_its_stream_after_a_round_trip(saved):
    key = files.load_tree(saved[0])["key"]
    np.testing.assert_array_equal(jax.random.normal(key, (4,)), jax.random.normal(jax.random.key(5), (4,)))
    assert files.load_note(saved[0]) == {"step": 3}


def test_the_same_content_gives_the_same_bytes(saved, tmp_path):
    files.save_tree(tmp_path / "again", files.load_tree(saved[0]), files.load_note(saved[0]))
    assert (tmp_path / "again").read_bytes() == saved[1]


@given(data=st.data())
def test_any_flipped_bit_is_noticed(saved, tmp_path_factory, data):
    _, whole = saved
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flip") / "state.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match=r"state\.safetensors .*(truncated or altered|was altered)"):
        files.load_tree(path)


@given(data=st.data())
def test_any_truncation_is_noticed(saved, tmp_path_factory, data):
    _, whole = saved
    path = tmp_path_factory.mktemp("cut") / "state.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CorruptFileError, match=r"state\.safetensors"):
        files.load_tree(path)


def test_a_crash_before_the_rename_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    files.write_json_atomically(path, {"a": 1})

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        files.write_json_atomically(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in (".value.json.123.part", "value.json", "notes.part"):
        (tmp_path / name).write_text("{}")
    files.remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["notes.part", "value.json"]


def test_a_file_too_large_for_its_place_is_one_sentence_and_the_former_file_stays(tmp_path):
    path = tmp_path / "state.safetensors"
    files.save_arrays(path, {"x": np.zeros(4)})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunFolderError, match=r"^no space left to write .*state\.safetensors .*still there"):
            files.save_arrays(path, {"x": np.zeros(4096)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left to write"),
        (errno.EDQUOT, "no space left to write"),
        (errno.EROFS, "cannot be written .*make it writable or choose another folder"),
        (errno.EACCES, "cannot be written .*make it writable or choose another folder"),
        (errno.EIO, "cannot be written or read .*still there"),
    ],
)
def test_errors_of_the_disk_become_one_sentence(tmp_path, monkeypatch, number, message):
    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunFolderError, match=message):
        files.write_bytes_atomically(tmp_path / "file", b"x")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_is_said_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be written"):
        files.make_folder(tmp_path / "file" / "deeper")
    with pytest.raises(RunFolderError, match="cannot be read"):
        files.read_bytes(tmp_path / "missing")


def test_half_a_json_file_is_noticed(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(CorruptFileError, match=r"x\.json is not whole JSON"):
        files.read_json(tmp_path / "x.json")


def test_json_without_a_standard_value_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"x\.json cannot be written as JSON"):
        files.write_json_atomically(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a/b": np.zeros(1)}, "names in a tree must be non-empty and without '/', which joins them, got 'a/b'"),
        ({"": np.zeros(1)}, "non-empty"),
        ({"a": {}}, "a is an empty branch"),
        ({"a": np.array(["text"])}, "a is no array of numbers but ndarray"),
        ({"a": {"b": [np.zeros(1), np.ones(1)]}}, "a/b is a list, .* name its parts in a dictionary"),
        ({"a": (np.zeros(1),)}, "a is a tuple"),
    ],
)
def test_what_a_flat_file_cannot_hold_is_refused(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        files.save_tree(tmp_path / "x", tree)
    assert not list(tmp_path.iterdir())


def test_the_checksum_is_that_of_the_bytes(tmp_path):
    path = Path(tmp_path / "x")
    assert files.write_bytes_atomically(path, b"abc") == files.file_sha256(path)
    # FIPS 180-4, the standard's own example.
    assert files.file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b/c", "a"), ("a/b", "a/b/c")])
def test_names_that_are_a_leaf_and_a_branch_are_neither_written_nor_read_as_a_tree(tmp_path, monkeypatch, names):
    flat, both = {name: np.ones(3) for name in names}, min(names, key=len)
    with pytest.raises(InputError, match=f"^{both} would be an array and a branch"):
        files.save_arrays(tmp_path / "x", flat)
    with pytest.raises(InputError, match=f"^{both} is a leaf and a branch"):
        files.unflatten_tree(flat)
    with monkeypatch.context() as patched:  # as those are who write without looking
        patched.setattr(files, "_leaf_and_branch", lambda names: None)
        files.save_arrays(tmp_path / "x", flat)
    assert set(files.load_arrays(tmp_path / "x")) == set(names)
    with pytest.raises(CorruptFileError, match=f"x holds no tree: {both} is a leaf and a branch"):
        files.load_tree(tmp_path / "x")
