"""Domains by name: what a word and the shape and dtype of an array say about where the array lives."""

import functools
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.equivariance import domains
from jaxgeo.equivariance.domains import Domain
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix import nside_of
from jaxgeo.grids.latlon import LatLonGrid, driscoll_healy_grid, gauss_legendre_grid, soft_grid
from jaxgeo.harmonics import healpix, layout, s2, so3, so3_layout

DomainName = Literal[
    "soft",  # signals on the sphere (*batch, lat, lon, channel) on one of the three grids
    "driscoll_healy",
    "gauss_legendre",
    "native",  # their coefficients, native (`layout`, of each spin of a set too), dense, or sphere spectra
    "dense",
    "sphere_spectrum",
    "fragments",  # real ones by degree, a tuple of (*batch, 2l+1, channel)
    "so3",  # signals on SO(3) (*batch, beta, alpha, gamma, channel), on SOFT or Gauss-Legendre colatitudes
    "packed",  # their coefficients (`so3_layout`)
    "ring",  # HEALPix maps (*batch, pixel, channel)
    "nested",
    "invariant",  # numbers that rotations leave alone
]

Shape = tuple[int, ...]
Latitudes = Literal["soft", "gauss_legendre"]
_FLOATS = tuple(np.dtype(name) for name in ("float32", "float64", "complex64", "complex128"))


def resolve(domain: Domain | str, values: Any, known: dict[tuple, Domain] | None = None) -> Domain:
    """A domain as it is, or the one that a name describes for arrays of this shape and dtype.

    HEALPix maps are taken to hold degrees below 2 nside, signals on SO(3) all degrees and orders of their grid. What a
    shape does not say (another grid, an oversampled transform, one of two azimuthal limits with equally many
    coefficients) is said by building the domain from the transform: `domains.s2_signal` and its like.

    Args:
        domain: itself, or a `DomainName`.
        values: an array, or a tuple of arrays, of the domain.
        known: where the caller keeps domains, to build each only once; new ones are added.

    Raises:
        ConfigError: an unknown name.
        InputError: no domain of this name has such arrays, there are several, or arrays are no floats of 32 or 64
            bits.
    """
    if isinstance(domain, Domain):
        return domain
    if domain not in get_args(DomainName):
        raise ConfigError(f"a domain is a Domain or one of {', '.join(get_args(DomainName))}, got {domain!r}")
    known = {} if known is None else known
    _check_arrays(domain, values)
    if domain == "fragments":
        key = domain, tuple(x.shape[-2:] for x in values), np.dtype(values[0].dtype)
        if key not in known:
            known[key] = _fragments(*key[1:])
        return known[key]
    is_complex = bool(jnp.iscomplexobj(values))
    dtype = np.dtype(values.real.dtype) if is_complex else np.dtype(values.dtype)
    key = domain, values.shape, dtype, not is_complex
    if key not in known:
        known[key] = _by_shape(*key)
    return known[key]


def recognised(values: Any, example: Any, source: Domain, known: dict[tuple, Domain]) -> Domain | None:
    """The domain of what a layer takes or gives, as far as its shape and the model's own signal say it.

    An array has the batch axes of the signal, then the axes of a domain, then channels. Those of pictures and maps are
    of the same kind as the source; others tell themselves: coefficients in every layout and of sets of spins, signals
    on SO(3), fragments, and, without axes between batch and channels, features that rotations should leave alone.
    Packed coefficients of an azimuthal limit of 1 and sphere spectra are the same numbers.

    Args:
        values: array or tuple of arrays, or their shapes.
        example: the model's signal.
        source: its domain.
        known: where domains are kept, see `resolve`.

    Returns:
        None where no domain fits, or the numbers are no floats of 32 or 64 bits.
    """
    first = example[0] if isinstance(example, tuple) else example
    one = jax.tree.leaves(jax.eval_shape(lambda: source.draw(jax.random.key(0), (), 1)))[0]
    batch = first.shape[: first.ndim - len(one.shape)]
    parts = values if isinstance(values, tuple | list) else (values,)
    if any(x.shape[: len(batch)] != batch or np.dtype(x.dtype) not in _FLOATS for x in parts):
        return None
    if isinstance(values, tuple | list):
        rows = [x.shape[len(batch) : -1] for x in parts]
        return resolve("fragments", values, known) if rows == [(2 * l + 1,) for l in range(len(rows))] else None
    if not isinstance(example, tuple) and (values.shape[:-1], values.dtype) == (first.shape[:-1], first.dtype):
        return source
    axes = values.ndim - len(batch) - 1
    names: tuple[str, ...] = _BY_AXES.get(axes, ())
    if isinstance(source, domains.HealpixMap) and axes == 1:
        nside = math.isqrt(values.shape[-2] // 12)
        is_map = nside and 12 * nside**2 == values.shape[-2] and nside & (nside - 1) == 0
        names = (source.transform.order,) if is_map else ()
    elif isinstance(source, domains.S2Signal) and axes == 2:
        lat, lon = source.transform.grid_shape
        names = ("driscoll_healy" if source.transform.has_pole else "soft" if lat == lon else "gauss_legendre", "dense")
    for name in names:
        real = not np.issubdtype(values.dtype, np.complexfloating)
        key = name, values.shape, np.finfo(values.dtype).dtype, real
        if key not in known and (found := _build(*key)) is not None:
            known[key] = found
        if key in known:
            return known[key]
    return None


def _check_arrays(name: str, values: Any) -> None:
    parts = values if name == "fragments" and isinstance(values, tuple | list) else (values,)
    if not all(hasattr(part, "dtype") for part in parts):
        raise InputError(
            f"the domain {name!r} holds {'a tuple of arrays' if name == 'fragments' else 'one array'}, got "
            f"{type(values).__name__}; wrap a function that returns several results so that it returns one of them"
        )
    kinds = sorted({str(part.dtype) for part in parts if np.dtype(part.dtype) not in _FLOATS})
    if kinds and name != "invariant":
        raise InputError(
            f"the domain {name!r} holds floats of 32 or 64 bits, real or complex, got {', '.join(kinds)}; cast the "
            f"array, and of classes take the scores that they are chosen by"
        )


def _by_shape(name: str, shape: Shape, dtype: np.dtype, real: bool) -> Domain:
    found = _build(name, shape, dtype, real)
    if found is None:
        raise InputError(
            f"{'a real' if real else 'a complex'} array of shape {shape} is none of the domain {name!r}, or could be "
            f"of two: axes are {_AXES_OF[name]}; give the domain itself, made from its transform or sizes "
            f"(`domains.so3_coefficients` and its like)"
        )
    return found


def _build(name: str, shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    with jax.ensure_compile_time_eval():
        return _BUILDERS[name](shape, dtype, real)


def _fragments(shapes: tuple[Shape, ...], dtype: np.dtype) -> Domain:
    if [shape[:-1] for shape in shapes] != [(2 * degree + 1,) for degree in range(len(shapes))]:
        raise InputError(f"fragments have axes (order, channel) with 1, 3, 5, ... orders, got {list(shapes)}")
    with jax.ensure_compile_time_eval():
        return domains.fragment_coefficients(tuple(width for _, width in shapes), dtype=dtype)


def _invariant(shape: Shape, dtype: np.dtype, real: bool) -> Domain:
    return domains.Invariant()


def _s2(grid: LatLonGrid, dtype: np.dtype, real: bool) -> Domain:
    return domains.s2_signal(s2.plan_s2_transform(grid, real=real, dtype=dtype))


def _axes(shape: Shape, count: int) -> Shape:
    """The last axes of a shape, zeros where it has fewer."""
    return ((0,) * count + shape)[-count:]


def _soft(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    lat, lon, _ = _axes(shape, 3)
    return _s2(soft_grid(lat // 2), dtype, real) if lat == lon and lat and lat % 2 == 0 else None


def _driscoll_healy(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    lat, lon, _ = _axes(shape, 3)
    return _s2(driscoll_healy_grid(lat // 2), dtype, real) if lat == lon and lat and lat % 2 == 0 else None


def _gauss_legendre(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    lat, lon, _ = _axes(shape, 3)
    return _s2(gauss_legendre_grid(lat, lon), dtype, real) if lat and lon >= 2 * lat - 1 else None


def _so3(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    beta, alpha, gamma, _ = _axes(shape, 4)
    latitudes: Latitudes = "soft" if beta == alpha else "gauss_legendre"
    if not gamma or alpha % 2 or gamma % 2 or gamma > alpha or beta not in (alpha, alpha // 2):
        return None
    orders = gamma // 2  # fewer angles gamma than alpha hold fewer orders n
    return domains.so3_signal(
        so3.plan_so3_transform(alpha // 2, orders=orders, latitudes=latitudes, real=real, dtype=dtype)
    )


def _packed(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    count, _ = _axes(shape, 2)
    sizes = so3_layout.packed_sizes(count)
    return domains.so3_coefficients(*sizes[0], real=real, dtype=dtype) if len(sizes) == 1 else None


def _sphere_spectrum(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    count, _ = _axes(shape, 2)
    bandlimit = math.isqrt(count)
    if not count or bandlimit**2 != count or not real:
        return None
    return domains.sphere_coefficients(bandlimit, "sphere_spectrum", dtype=dtype)


def _dense(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    degrees, orders, _ = _axes(shape, 3)
    if real or not degrees or orders != 2 * degrees - 1:
        return None
    # Whether the signal is real cannot be told; all orders are kept as they are.
    return domains.sphere_coefficients(degrees, "dense", real=False, dtype=dtype)


def _native(shape: Shape, dtype: np.dtype, real: bool) -> Domain | None:
    axes = _axes(shape, 5)[:-1]
    for is_real, bandlimit in ((True, axes[1]), (False, (axes[1] + 1) // 2)):
        if real and bandlimit and axes == layout.native_shape(bandlimit, real=is_real):
            return domains.sphere_coefficients(bandlimit, "native", real=is_real, dtype=dtype)
    return None


def _healpix(shape: Shape, dtype: np.dtype, real: bool, order: Literal["ring", "nested"]) -> Domain:
    pixels, _ = _axes(shape, 2)
    nside = nside_of(pixels)
    transform = healpix.plan_healpix_transform(nside, 2 * nside, real=real, order=order, dtype=dtype)
    return domains.healpix_map(transform)


_AXES_OF = {
    "soft": "(*batch, 2 L, 2 L, channel)",
    "driscoll_healy": "(*batch, 2 L, 2 L, channel)",
    "gauss_legendre": "(*batch, lat, lon, channel) with at least 2 lat - 1 longitudes",
    "native": "(*batch, 2, order, 2, (L + 1) // 2, channel) with L or 2 L - 1 orders, real",
    "dense": "(*batch, L, 2 L - 1, channel), complex",
    "sphere_spectrum": "(*batch, L^2, channel), real",
    "so3": "(*batch, 2 L or L, 2 L, 2 N, channel) with N <= L",
    "packed": "(*batch, coefficient, channel) with as many coefficients as one L and one N have (`so3_layout`)",
}
_BY_AXES = {
    0: ("invariant",),
    1: ("packed",),
    2: ("dense",),
    3: ("so3",),
    4: ("native",),
    5: ("native",),  # each spin of a set; coefficients of all spins turn alike
}
_BUILDERS = {
    "soft": _soft,
    "driscoll_healy": _driscoll_healy,
    "gauss_legendre": _gauss_legendre,
    "native": _native,
    "dense": _dense,
    "sphere_spectrum": _sphere_spectrum,
    "so3": _so3,
    "packed": _packed,
    "ring": functools.partial(_healpix, order="ring"),
    "nested": functools.partial(_healpix, order="nested"),
    "invariant": _invariant,
}
