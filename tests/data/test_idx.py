"""IDX files written here byte by byte, whole and damaged in every way."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.data.idx import read_idx
from jaxgeo.errors import CorruptFileError, RunFolderError

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array):
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.name], array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    name=st.sampled_from(sorted(CODES)),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 2**31 - 1),
    compressed=st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, name, shape, seed, compressed):
    array = np.random.default_rng(seed).normal(0, 40, shape).clip(0, 120).astype(name)
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(gzip.compress(idx_bytes(array)) if compressed else idx_bytes(array))
    found = read_idx(path, (None,) * array.ndim, np.dtype(name))
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_every_cut_and_every_broken_byte_of_a_gzip_file_is_found(tmp_path):
    whole = gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), mtime=0)
    path = tmp_path / "images.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match=r"images\.gz"):
            read_idx(path)
    # Bytes 4-9 of a gzip header (time, level, system) carry nothing.
    for position in [0, 1, 2, *range(10, len(whole))]:
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(CorruptFileError, match=r"images\.gz"):
            read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG\r\n", "not an IDX file: it starts with 89 50 4e 47, expected 00 00"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "not an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x01", "a header of 3 dimensions has 16 bytes, the file 8"),
        (b"\0\0\x08\x01\0\0\0\x04abc", r"truncated: shape \(4,\) of uint8 needs 12 bytes, the file has 11"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "longer than its header says"),
        (b"\0\0\x08\x01\xff\xff\xff\xffabc", "truncated"),
    ],
)
def test_damaged_files_are_named_with_what_was_expected(tmp_path, content, message):
    path = tmp_path / "labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_unexpected_type_and_shape_are_refused(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(idx_bytes(np.zeros((2, 3), np.int16)))
    with pytest.raises(CorruptFileError, match="holds int16, expected uint8"):
        read_idx(path, None, np.dtype(np.uint8))
    with pytest.raises(CorruptFileError, match=r"shape \(2, 3\), expected \(any, 28, 28\)"):
        read_idx(path, (None, 28, 28))
    with pytest.raises(CorruptFileError, match=r"shape \(2, 3\), expected \(any, 4\)"):
        read_idx(path, (None, 4))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"nothing cannot be read \(No such file or directory\)"):
        read_idx(tmp_path / "nothing")
