"""HEALPix maps in files: FITS as healpy and the HEALPix programs write it, and npz.

Missing pixels are NaN in arrays. FITS files hold -1.6375e30 there (healpy's UNSEEN), which becomes NaN when read and
is put in NaN's place when written; npz files hold NaN itself. Maps of integers have no missing pixels. A FITS file that
lists the pixels it covers is filled up with NaN.

Files are written whole or not at all, FITS with the checksums of its standard, so that damage is noticed; files of
others are read with or without them.

References:
    Gorski et al., "The HEALPix Primer", arXiv:astro-ph/9905275, and healpy's documentation of `write_map`.
    Pence et al., "Definition of the Flexible Image Transport System (FITS)", version 3.0, A&A 524 (2010) A42.
"""

import gzip
import io
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.errors import CorruptFileError, InputError
from jaxgeo.files import write_bytes_atomically
from jaxgeo.grids.healpix import Order, check_order, nside_of

_DTYPES = ("uint8", "int16", "int32", "int64", "float32", "float64")  # that FITS tables have and healpy writes
_GZIP_MAGIC, _ZIP_MAGIC, _FITS_MAGIC = b"\x1f\x8b", b"PK", b"SIMPLE"
_ADVICE = "an unbroken copy of it is needed"
_NAME_LENGTH = 68  # characters of a FITS card's text
# What astropy raises on headers that make no sense.
_FITS_ERRORS = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, AttributeError, AssertionError)


class HealpixMaps(NamedTuple):
    """Maps of one file; (maps, order, nside) and what they are called."""

    maps: Num[np.ndarray, "map pixel"]  # NaN where missing
    order: Order
    nside: int
    names: tuple[str, ...]


def write_map(
    path: Path,
    maps: Num[np.ndarray, "*map pixel"],
    names: Sequence[str] | None = None,
    order: Order = "nested",
) -> str:
    """Write one map or several, in one step, and return the file's SHA-256.

    Args:
        path: ends in .fits or .npz, which says the format.
        maps: (pixel,) or (map, pixel); unsigned bytes, integers of 16 to 64 bits, or floats of 32 or 64.
        names: one for each map, in ASCII, different also without regard to case; by default MAP_1, MAP_2, ...
        order: of the pixels; they are written as they are.

    Raises:
        ConfigError: unknown order.
        InputError: another ending, shape, type or names.
        RunFolderError: the disk is full or the folder cannot be written; a former file is untouched.
    """
    path = Path(path)
    check_order(order)
    if maps.ndim not in (1, 2) or not maps.size:
        raise InputError(f"maps must be (pixel,) or (map, pixel), got shape {maps.shape}")
    if maps.dtype.name not in _DTYPES:
        raise InputError(
            f"maps of {maps.dtype} have no form in FITS; there are {', '.join(_DTYPES)}: convert them first"
        )
    rows = np.atleast_2d(maps)
    nside = nside_of(rows.shape[-1])
    names = _checked_names(names, len(rows))
    if path.suffix == ".fits":
        return write_bytes_atomically(path, _fits_bytes(rows, names, order))
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, maps=rows, names=np.array(names), order=np.array(order), nside=np.array(nside))
        return write_bytes_atomically(path, buffer.getvalue())
    raise InputError(f"maps are written to .fits or .npz, got {path.name!r}")


def read_map(path: Path, order: Order | None = None, arrays: Sequence[str] = ()) -> HealpixMaps:
    """All maps of a FITS file (also compressed by gzip) or an npz file; the format is told by content, not by name.

    Args:
        path: the file.
        order: only for files that do not say theirs (FITS by the keyword ORDERING); elsewhere it must agree.
        arrays: of an npz file that `write_map` did not write, (pixel,) or (map, pixel), in the order of the maps.

    Raises:
        ConfigError: unknown order.
        InputError: there is no such file, or no order is known, or it contradicts the file's; arrays that are not there
            or no maps, or asked for of a FITS file.
        CorruptFileError: truncated, altered, or no HEALPix map.
    """
    path = Path(path)
    if order is not None:
        check_order(order)
    content = read_file(path, "HEALPix maps")
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise CorruptFileError(f"{path} is a damaged gzip file ({error}); {_ADVICE}") from error
    if content.startswith(_ZIP_MAGIC):
        found = _named_arrays(content, path, order, arrays) if arrays else _parse_npz_maps(content, path)
    elif content.startswith(_FITS_MAGIC):
        if arrays:
            raise InputError(
                f"{path} is a FITS file, all of whose columns are maps, got the arrays {', '.join(arrays)}"
            )
        found = _parse_fits(content, path, order)
    else:
        raise CorruptFileError(
            f"{path} is neither FITS nor npz: it starts with {content[:6].hex(' ') or 'nothing'}; {_ADVICE}"
        )
    if order is not None and order != found.order:
        raise InputError(
            f"{path} says that its pixels are in {found.order.upper()} order, asked for was {order.upper()}"
        )
    return found


def _checked_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"MAP_{i + 1}" for i in range(count))
    if len(names) != count:
        raise InputError(f"{count} maps need as many names, got {len(names)}")
    for name in names:
        if not (name.strip() == name and 0 < len(name) <= _NAME_LENGTH and name.isascii() and name.isprintable()):
            raise InputError(
                f"names of maps must be 1 to {_NAME_LENGTH} printable ASCII characters without blanks at the ends, "
                f"got {name!r}"
            )
    if len({name.lower() for name in names}) != count:
        raise InputError(f"names of maps must differ, also without regard to case, got {', '.join(names)}")
    return tuple(names)


def _fits_bytes(rows: np.ndarray, names: tuple[str, ...], order: Order) -> bytes:
    import healpy
    from astropy.io import fits

    if np.issubdtype(rows.dtype, np.floating):
        rows = np.where(np.isnan(rows), np.asarray(healpy.UNSEEN, rows.dtype), rows)
    # healpy writes to names only, and not in one step: it writes aside, and the bytes go to their place at once.
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "maps.fits"
        healpy.write_map(aside, list(rows), nest=order == "nested", dtype=rows.dtype, column_names=list(names))
        with fits.open(aside) as hdus:
            tables: list[Any] = list(hdus)  # astropy's annotations know the list, not what is in it
            for hdu in tables:
                # By default the comment is the time, and equal maps would give different files.
                hdu.add_checksum(when="of the HDU as written")
            buffer = io.BytesIO()
            hdus.writeto(buffer)
    return buffer.getvalue()


def _named_arrays(content: bytes, path: Path, order: Order | None, names: Sequence[str]) -> HealpixMaps:
    if order is None:
        raise InputError(f"arrays of {path} do not say the order of their pixels; give it: order='ring' or 'nested'")
    there = _arrays_of(content, path)
    unknown = [name for name in names if name not in there]
    if unknown:
        raise InputError(f"{path} has no array {unknown[0]!r}; there are {', '.join(there)}")
    found = parse_npz(content, path, names)
    bad = [name for name in names if found[name].ndim not in (1, 2) or found[name].dtype.kind not in "iufb"]
    rows = [] if bad else [np.atleast_2d(found[name]) for name in names]
    if bad or len({part.shape[1] for part in rows}) != 1:
        shapes = ", ".join(f"{name} {found[name].dtype} {found[name].shape}" for name in names)
        raise InputError(f"arrays of {path} must be numbers (pixel,) or (map, pixel), all of one nside, got {shapes}")
    maps = np.concatenate(rows).astype(np.float64)
    labels = [f"{name}_{row}" for name, part in zip(names, rows, strict=True) for row in range(len(part))]
    return HealpixMaps(_with_nan(maps), order, _known_nside(maps.shape[1], path), tuple(labels))


def _arrays_of(content: bytes, path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise CorruptFileError(f"{path} is no whole npz file ({error}); {_ADVICE}") from error


def _parse_npz_maps(content: bytes, path: Path) -> HealpixMaps:
    there = _arrays_of(content, path)
    if "maps" not in there:
        raise CorruptFileError(
            f"{path} was not written by write_map: it holds {', '.join(there)} and no maps; name those of its arrays "
            f"that are maps, and the order of their pixels"
        )
    arrays = parse_npz(content, path, ("maps", "names", "order", "nside"))
    maps, names, order, nside = (arrays[key] for key in ("maps", "names", "order", "nside"))
    whole = (
        maps.ndim == 2
        and maps.dtype.name in _DTYPES
        and names.shape == maps.shape[:1]
        and names.dtype.kind == "U"
        and order.shape == nside.shape == ()
        and str(order) in ("nested", "ring")
        and nside.dtype.kind in "iu"
        and maps.shape[1] == 12 * int(nside) ** 2
    )
    if not whole:
        raise CorruptFileError(
            f"{path} does not hold maps (map, pixel) with names, order and nside to fit, as write_map does: maps are "
            f"{maps.dtype} {maps.shape}, names {names.shape}, order {order}, nside {nside}"
        )
    return HealpixMaps(
        maps, "nested" if str(order) == "nested" else "ring", _known_nside(maps.shape[1], path), tuple(names.tolist())
    )


def _parse_fits(content: bytes, path: Path, order: Order | None) -> HealpixMaps:
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        # astropy warns of what is damage here, and of many headers that are merely old.
        warnings.simplefilter("ignore", AstropyWarning)
        for message in ("File may have been truncated", ".*verification failed", "Error validating header"):
            warnings.filterwarnings("error", message=message, category=AstropyWarning)
        try:
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False, checksum=True) as hdus:
                table: Any = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
                if table is None:
                    raise ValueError("it has no table of maps")
                header: dict[str, Any] = dict(table.header)
                names: tuple[str, ...] = tuple(table.columns.names)
                columns = [_native(np.asarray(table.data.field(i)).ravel()) for i in range(len(names))]
        except (AstropyWarning, fits.VerifyError, *_FITS_ERRORS) as error:
            raise CorruptFileError(f"{path} is no whole FITS file of maps ({error}); {_ADVICE}") from error
    listed = str(header.get("INDXSCHM", "")).strip() == "EXPLICIT" or str(header.get("OBJECT", "")).strip() == "PARTIAL"
    if listed:
        maps, names = _filled_up(columns, header, path), names[1:]
    else:
        if not columns or len({len(column) for column in columns}) != 1:
            raise CorruptFileError(f"{path} must hold columns of one length, got {[len(c) for c in columns]}")
        maps = np.stack(columns)
    if maps.dtype.kind not in "iuf":
        raise CorruptFileError(f"{path} must hold numbers, got {maps.dtype}")
    nside = _known_nside(maps.shape[-1], path)
    if header.get("NSIDE", nside) != nside:
        raise CorruptFileError(f"{path} says nside {header['NSIDE']}, but its maps have {maps.shape[-1]} pixels")
    return HealpixMaps(_with_nan(maps), _fits_order(header, path, order), nside, names)


def _fits_order(header: dict[str, Any], path: Path, order: Order | None) -> Order:
    said = str(header.get("ORDERING", "")).strip().upper()
    if said in ("NESTED", "NEST"):
        return "nested"
    if said == "RING":
        return "ring"
    if said:
        raise CorruptFileError(f"{path} has ORDERING {said!r}; RING and NESTED are known")
    if order is None:
        raise InputError(
            f"{path} does not say the order of its pixels (no ORDERING); give it: order='ring' or 'nested'"
        )
    return order


def _filled_up(columns: list[np.ndarray], header: dict[str, Any], path: Path) -> np.ndarray:
    """Full maps from a column of pixel numbers and columns of their values."""
    try:
        nside = int(header["NSIDE"])
        maps = np.full((len(columns) - 1, 12 * nside**2), np.nan, np.result_type(np.float32, *columns[1:]))
        pixels = columns[0].astype(np.int64)
        if not len(maps) or len(np.unique(pixels)) != len(pixels) or pixels.min() < 0:
            raise ValueError("pixels come twice, are negative, or have no values")
        maps[:, pixels] = np.stack(columns[1:])
    except (ValueError, KeyError, IndexError, TypeError, MemoryError) as error:
        raise CorruptFileError(f"{path} lists pixels with values, but not as it should ({error}); {_ADVICE}") from error
    return maps


def _with_nan(maps: np.ndarray) -> np.ndarray:
    import healpy

    if np.issubdtype(maps.dtype, np.floating):
        return np.where(healpy.mask_bad(maps), np.asarray(np.nan, maps.dtype), maps)
    return maps


def _native(column: np.ndarray) -> np.ndarray:
    return column.astype(column.dtype.newbyteorder("="))


def _known_nside(pixels: int, path: Path) -> int:
    try:
        return nside_of(pixels)
    except InputError as error:
        raise CorruptFileError(f"{path}: {error}") from error
