"""HEALPix maps in FITS and npz files: round trips, healpy as second reader and writer, order, gaps, damage."""

import gzip

import healpy
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, RunFolderError

ENDINGS = ("fits", "npz")
DTYPES = ("uint8", "int16", "int32", "int64", "float32", "float64")


def some_maps(seed, nside=4, count=2, dtype="float32"):
    return (100 * np.random.default_rng(seed).uniform(size=(count, 12 * nside**2))).astype(dtype)


def small_file(folder, ending):
    path = folder / f"small.{ending}"
    write_map(path, some_maps(0, nside=1), ("I", "Q"), "ring")
    return path


@given(
    seed=st.integers(0, 2**31 - 1),
    nside=st.sampled_from([1, 2, 4, 8, 16]),
    count=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["nested", "ring"]),
    ending=st.sampled_from(ENDINGS),
)
def test_maps_come_back_as_they_were_written(tmp_path_factory, seed, nside, count, dtype, order, ending):
    path = tmp_path_factory.getbasetemp() / f"maps.{ending}"
    maps = some_maps(seed, nside, count, dtype)
    if maps.dtype.kind == "f":
        maps[:, seed % 12] = np.nan
    write_map(path, maps, order=order)
    found = read_map(path)
    np.testing.assert_array_equal(found.maps, maps)
    assert found.maps.dtype == maps.dtype
    assert found.maps.dtype.isnative
    assert (found.order, found.nside) == (order, nside)
    assert found.names == tuple(f"MAP_{i + 1}" for i in range(count))


@pytest.mark.parametrize("order", ["nested", "ring"])
def test_healpy_reads_what_is_written_here(tmp_path, order):
    path = tmp_path / "map.fits"
    sky = some_maps(3, nside=16, count=1)[0]
    sky[7] = np.nan
    write_map(path, sky, ["T"], order)
    found = healpy.read_map(path, nest=order == "nested")
    assert found[7] == np.float32(healpy.UNSEEN)
    np.testing.assert_array_equal(np.delete(found, 7), np.delete(sky, 7))
    turned = healpy.read_map(path, nest=order != "nested")
    kept = sky if order == "nested" else healpy.reorder(np.nan_to_num(sky, nan=healpy.UNSEEN), r2n=True)
    expected = healpy.reorder(np.nan_to_num(kept, nan=healpy.UNSEEN), n2r=True) if order == "nested" else kept
    np.testing.assert_array_equal(turned, expected.astype(np.float32))


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_what_healpy_writes_is_read_here(tmp_path, nest, columns, compressed):
    path = tmp_path / "map.bin"  # the name says nothing
    maps = some_maps(4, nside=16, count=3)
    maps[1, 5] = healpy.UNSEEN
    healpy.write_map(
        tmp_path / "map.fits",
        list(maps),
        nest=nest,
        dtype=np.float32,
        fits_IDL=columns,
        column_names=["I", "Q", "U"],
    )
    content = (tmp_path / "map.fits").read_bytes()
    path.write_bytes(gzip.compress(content) if compressed else content)
    found = read_map(path)
    assert (found.order, found.nside, found.names) == ("nested" if nest else "ring", 16, ("I", "Q", "U"))
    assert np.argwhere(np.isnan(found.maps)).tolist() == [[1, 5]]
    np.testing.assert_array_equal(np.nan_to_num(found.maps), np.where(maps == healpy.UNSEEN, 0, maps))


def test_a_partial_map_is_filled_up_with_nan(tmp_path):
    path = tmp_path / "part.fits"
    maps = some_maps(5, nside=4)
    maps[:, :10] = healpy.UNSEEN  # not the last ones: healpy has no format for pixel numbers below 128
    healpy.write_map(path, list(maps), nest=True, partial=True, dtype=np.float32, column_names=["A", "B"])
    found = read_map(path)
    np.testing.assert_array_equal(found.maps, np.where(maps == healpy.UNSEEN, np.float32(np.nan), maps))
    assert found.names == ("A", "B")


def change_header(path, **cards):
    with fits.open(path) as hdus:
        for name, value in cards.items():
            if value is None:
                del hdus[1].header[name]
            else:
                hdus[1].header[name] = value
        hdus.writeto(path.with_name("changed.fits"), overwrite=True)
    return path.with_name("changed.fits")


def healpy_file(folder, **options):
    path = folder / "plain.fits"
    healpy.write_map(path, some_maps(6, count=1)[0], dtype=np.float32, **options)
    return path


def test_an_order_that_the_file_does_not_say_must_be_given(tmp_path):
    path = change_header(healpy_file(tmp_path), ORDERING=None)
    with pytest.raises(InputError, match=r"does not say the order of its pixels \(no ORDERING\)"):
        read_map(path)
    assert read_map(path, "nested").order == "nested"
    with pytest.raises(InputError, match="in RING order, asked for was NESTED"):
        read_map(tmp_path / "plain.fits", "nested")


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"ORDERING": "SPIRAL"}, "ORDERING 'SPIRAL'"),
        ({"NSIDE": 8}, "says nside 8, but its maps have 192 pixels"),
    ],
)
def test_headers_that_contradict_the_maps_are_named(tmp_path, cards, message):
    with pytest.raises(CorruptFileError, match=rf"changed\.fits.*{message}"):
        read_map(change_header(healpy_file(tmp_path), **cards))


def test_partial_maps_with_impossible_pixels_are_named(tmp_path):
    sky = some_maps(7, count=1)[0]
    sky[:100] = healpy.UNSEEN
    path = tmp_path / "part.fits"
    healpy.write_map(path, sky, nest=True, partial=True, dtype=np.float32)
    with pytest.raises(CorruptFileError, match="lists pixels with values, but not as it should"):
        read_map(change_header(path, NSIDE=2))


def test_tables_of_other_things_are_refused(tmp_path):
    path = tmp_path / "table.fits"
    for columns, message in [
        ([fits.Column("A", "E", array=np.zeros(13, np.float32))], "full HEALPix map"),
        (
            [fits.Column("A", "E", array=np.zeros(12)), fits.Column("B", "2E", array=np.zeros((12, 2)))],
            r"columns of one length, got \[12, 24\]",
        ),
        ([fits.Column("A", "3A", array=np.array(["abc"] * 12))], "must hold numbers"),
    ]:
        fits.BinTableHDU.from_columns(columns).writeto(path, overwrite=True)
        with pytest.raises(CorruptFileError, match=message):
            read_map(path, "ring")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(path, overwrite=True)
    with pytest.raises(CorruptFileError, match="no table of maps"):
        read_map(path, "ring")


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_maps_give_equal_files(tmp_path, ending):
    first = write_map(tmp_path / f"a.{ending}", some_maps(1))
    assert write_map(tmp_path / f"b.{ending}", some_maps(1)) == first
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]


@given(data=st.data(), ending=st.sampled_from(ENDINGS))
def test_any_truncation_is_noticed(tmp_path_factory, data, ending):
    folder = tmp_path_factory.mktemp("cut")
    path = small_file(folder, ending)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CorruptFileError, match=rf"small\.{ending}"):
        read_map(path)


@given(data=st.data(), ending=st.sampled_from(ENDINGS))
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path_factory, data, ending):
    folder = tmp_path_factory.mktemp("flip")
    path = small_file(folder, ending)
    expected = read_map(path)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))
    try:
        found = read_map(path)
    except CorruptFileError:
        found = expected  # noticed
    # Blanks of a header and times of a zip archive bear no weight.
    np.testing.assert_array_equal(found.maps, expected.maps)
    assert found[1:] == expected[1:]


def test_every_flipped_bit_of_the_values_in_a_fits_file_is_noticed(tmp_path):
    path = small_file(tmp_path, "fits")
    whole = path.read_bytes()
    start = len(whole) - 2880  # the last block, of which 96 bytes are values
    for byte in range(start, start + 96, 5):
        content = bytearray(whole)
        content[byte] ^= 4
        path.write_bytes(bytes(content))
        with pytest.raises(CorruptFileError, match="verification failed"):
            read_map(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"maps": np.zeros((1, 12))}, "lacks names, order, nside"),
        (
            {"maps": np.zeros((1, 12)), "names": np.array(["a"]), "order": np.array("ring"), "nside": np.array(2)},
            "nside 2",
        ),
        (
            {"maps": np.zeros((1, 12)), "names": np.array(["a"]), "order": np.array("up"), "nside": np.array(1)},
            "order up",
        ),
        ({"maps": np.zeros((1, 12)), "names": np.array([1]), "order": np.array("ring"), "nside": np.array(1)}, "names"),
    ],
)
def test_npz_files_of_other_things_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CorruptFileError, match=message):
        read_map(tmp_path / "a.npz")


def test_files_that_are_none_of_both_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.fits, which should hold the HEALPix maps, cannot be read"):
        read_map(tmp_path / "none.fits")
    for content, message in [
        (b"", "starts with nothing"),
        (b"hello!!", "neither FITS nor npz"),
        (b"\x1f\x8b1", "gzip"),
    ]:
        (tmp_path / "a.fits").write_bytes(content)
        with pytest.raises(CorruptFileError, match=message):
            read_map(tmp_path / "a.fits")


@pytest.mark.parametrize(
    ("name", "maps", "names", "message"),
    [
        ("a.txt", np.zeros(12), None, r"written to \.fits or \.npz, got 'a\.txt'"),
        ("a.fits", np.zeros((1, 1, 12)), None, r"\(pixel,\) or \(map, pixel\), got shape \(1, 1, 12\)"),
        ("a.fits", np.zeros((0, 12)), None, "got shape"),
        ("a.fits", np.zeros(13), None, "full HEALPix map"),
        ("a.fits", np.zeros(12, np.float16), None, "float16 have no form in FITS"),
        ("a.fits", np.zeros((2, 12)), ["a"], "2 maps need as many names, got 1"),
        ("a.fits", np.zeros((2, 12)), ["a", "A"], "differ, also without regard to case"),
        ("a.npz", np.zeros(12), ["é"], "printable ASCII"),
        ("a.npz", np.zeros(12), [" a"], "printable ASCII"),
        ("a.npz", np.zeros(12), [""], "printable ASCII"),
    ],
)
def test_what_has_no_form_in_a_file_is_refused(tmp_path, name, maps, names, message):
    with pytest.raises(InputError, match=message):
        write_map(tmp_path / name, maps, names)
    assert list(tmp_path.iterdir()) == []


def test_unknown_orders_and_absent_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="must be one of nested, ring"):
        unchecked(write_map)(tmp_path / "a.fits", np.zeros(12), order="spiral")
    with pytest.raises(RunFolderError, match=r"none/a\.fits"):
        write_map(tmp_path / "none" / "a.fits", np.zeros(12))
    path = small_file(tmp_path, "fits")
    with pytest.raises(ConfigError, match="must be one of nested, ring"):
        unchecked(read_map)(path, order="spiral")
