"""PNG files come back as the arrays that were put in; damage and pictures of another kind are noticed."""

import io
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxgeo.data.picture_files import read_color_png, read_depth_png, read_index_png
from jaxgeo.errors import CorruptFileError, InputError, ToolMissingError

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
INDEX = RNG.integers(0, 4, (5, 7), dtype=np.uint8)
DEPTH = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


def png_bytes(picture, **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_palette():
    picture = Image.fromarray(INDEX).convert("P")
    picture.putdata(INDEX.ravel().tolist())
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    return picture


@pytest.mark.parametrize(
    ("read", "picture", "expected", "options"),
    [
        (read_color_png, COLOR, COLOR, {}),
        (read_color_png, np.dstack([COLOR, INDEX]), COLOR, {}),
        (read_index_png, INDEX, INDEX, {}),
        (read_index_png, with_palette(), INDEX, {}),
        (read_index_png, with_palette(), INDEX, {"bits": 2}),
        (read_depth_png, DEPTH, DEPTH, {}),
    ],
)
def test_arrays_come_back(tmp_path, read, picture, expected, options):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture, **options))
    found = read(path)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("read", "picture", "message"),
    [
        (read_color_png, INDEX, r"8 bits of grey, needed is 8-bit colour"),
        (read_index_png, COLOR, r"8 bits of colour, needed is one channel of 8 bits"),
        (read_index_png, DEPTH, r"16 bits of grey"),
        (read_depth_png, INDEX, r"needed is one channel of 16 bits"),
    ],
)
def test_pictures_of_another_kind_are_refused(tmp_path, read, picture, message):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture))
    with pytest.raises(CorruptFileError, match=message):
        read(path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "picture.png"


@given(length=st.integers(0, len(png_bytes(COLOR)) - 1))
def test_any_truncation_is_noticed(damaged, length):
    damaged.write_bytes(png_bytes(COLOR)[:length])
    with pytest.raises(CorruptFileError, match=r"picture\.png"):
        read_color_png(damaged)


@given(bit=st.integers(0, 8 * len(png_bytes(COLOR)) - 1))
def test_any_flipped_bit_is_noticed(damaged, bit):
    content = bytearray(png_bytes(COLOR))
    content[bit // 8] ^= 1 << bit % 8
    damaged.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match=r"picture\.png"):
        read_color_png(damaged)


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(b"IDAT", b""), (b"IEND", b"")], "without a header"),
        ([(b"IHDR", bytes(7)), (b"IEND", b"")], "without a header"),
        ([(b"IHDR", b"\0\0\0\7\0\0\0\5\10\2\0\0\0"), (b"IDAT", b"no zlib stream"), (b"IEND", b"")], "is damaged"),
        ([(b"IHDR", b"\0\0\0\7\0\0\0\5\10\2\0\0\0"), (b"IEND", b"")], "is damaged"),
        ([(b"IHDR", b"\177\0\0\0\177\0\0\0\10\2\0\0\0"), (b"IDAT", b""), (b"IEND", b"")], "is damaged"),
    ],
)
def test_parts_with_right_sums_that_make_no_picture_are_noticed(tmp_path, chunks, message):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks))
    with pytest.raises(CorruptFileError, match=message):
        read_color_png(path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png, which should hold the image, cannot be read"):
        read_color_png(tmp_path / "none.png")


def test_without_pillow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolMissingError, match="pip install pillow"):
        read_color_png(tmp_path / "none.png")
