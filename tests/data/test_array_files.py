"""JSON, npy and npz files of data sets: read back, or one error that names the file."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.data.array_files import parse_npz, read_file, read_json_file, read_npy
from jaxgeo.errors import CorruptFileError, InputError

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


NPZ = npz_bytes(a=ARRAY, b=np.array(["x", "yz"]), c=np.arange(3))


def test_arrays_come_back(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", "depth"), ARRAY)
    found = parse_npz(NPZ, tmp_path, ("a", "b"))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], ARRAY)
    assert found["b"].tolist() == ["x", "yz"]


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"0", lambda b: b"x" + b, lambda b: b""])
def test_npy_files_of_another_length_are_refused(tmp_path, change):
    path = tmp_path / "a.npy"
    np.save(path, ARRAY)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=r"a\.npy, which should hold the depth, is no whole npy file"):
        read_npy(path, "depth")


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], object))
    with pytest.raises(CorruptFileError, match="no whole npy file of numbers"):
        read_npy(path, "depth")
    with pytest.raises(CorruptFileError, match="no whole npz file of numbers"):
        parse_npz(npz_bytes(a=np.array([{}], object)), path, ("a",))


@given(length=st.integers(0, len(NPZ) - 1))
def test_any_truncation_of_an_npz_file_is_noticed(tmp_path_factory, length):
    with pytest.raises(CorruptFileError, match=r"maps\.npz"):
        parse_npz(NPZ[:length], tmp_path_factory.getbasetemp() / "maps.npz", ("a", "b", "c"))


@given(bit=st.integers(0, 8 * len(NPZ) - 1))
def test_a_flipped_bit_of_an_npz_file_is_noticed_or_harmless(tmp_path_factory, bit):
    content = bytearray(NPZ)
    content[bit // 8] ^= 1 << bit % 8
    try:
        found = parse_npz(bytes(content), tmp_path_factory.getbasetemp() / "maps.npz", ("a", "b", "c"))
    except CorruptFileError:
        return  # noticed
    # The times and versions of a zip archive's members bear no weight.
    np.testing.assert_array_equal(found["a"], ARRAY)
    assert found["b"].tolist() == ["x", "yz"]
    assert found["c"].tolist() == [0, 1, 2]


def test_missing_arrays_and_single_arrays_are_named(tmp_path):
    with pytest.raises(CorruptFileError, match="lacks d, e; it has a, b, c"):
        parse_npz(NPZ, tmp_path, ("a", "d", "e"))
    buffer = io.BytesIO()
    np.save(buffer, ARRAY)
    with pytest.raises(CorruptFileError, match="no npz file but a single array"):
        parse_npz(buffer.getvalue(), tmp_path, ("a",))


def test_absent_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none, which should hold the moon, cannot be read \(No such file"):
        read_file(tmp_path / "none", "moon")
    (tmp_path / "a.json").write_text('{"a": [1, 2')
    with pytest.raises(CorruptFileError, match=r"a\.json, which should hold the moon, is not whole JSON"):
        read_json_file(tmp_path / "a.json", "moon")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CorruptFileError, match="not whole JSON"):
        read_json_file(tmp_path / "a.json", "moon")
