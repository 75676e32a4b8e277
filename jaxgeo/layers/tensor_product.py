r"""Tensor products of features that transform by irreducible representations of O(3), over e3nn-jax irreps.

Arrays hold a feature's irreps one after the other, each channel by channel with its 2l+1 components last, as
`e3nn_jax.IrrepsArray` does; signs, order and normalisation are e3nn's, so its weights give the same outputs here.

Three products share one idea: what couples three representations is constant and small, what mixes channels is a matrix
product and large. The fully connected product contracts the weights with whichever of the two inputs or their product
takes the least time, counted from the sizes (`contraction_order`).
"""

import dataclasses
import math
from typing import Literal

import e3nn_jax
import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.harmonics.clebsch_gordan import real_clebsch_gordan
from jaxgeo.harmonics.precision import check_dtype, rounded, table_dtype
from jaxgeo.harmonics.turns import in_turns
from jaxgeo.layers import tensor_product_steps as steps

Order = Literal["product", "left", "right"]

# Examples that CPUs take at a time, so that what lies between inputs and outputs stays in a core's cache. Paths of
# large weights, which each turn reads again, take all at once.
_AT_A_TIME = 16


@dataclasses.dataclass(frozen=True)
class Path:
    """One coupling: places of its irreps in the two inputs and in the output, their multiplicities and dimensions."""

    in1: int
    in2: int
    out: int
    channels: tuple[int, int, int]
    sizes: tuple[int, int, int]


def contraction_order(channels: tuple[int, int, int], sizes: tuple[int, int, int], batch: int) -> Order:
    """What the weights of a path meet first: the product of both inputs, or the left or the right input alone.

    The one of fewest multiplications; but a path whose weights meet one input takes matrix products of its own, while
    products of both inputs share theirs with other paths, so that it has to save `steps.OWN_PRODUCTS` multiplications.

    Args:
        channels: multiplicities of the two inputs and the output.
        sizes: their dimensions 2l+1.
        batch: how many examples.
    """
    (m1, m2, m3), (d1, d2, d3) = channels, sizes
    costs: dict[Order, int] = {
        "product": batch * m1 * m2 * (m3 * d3 + d3 * min(d1, d2)),
        "left": batch * m2 * m3 * (m1 * d1 + d1 * d3) + steps.OWN_PRODUCTS,
        "right": batch * m1 * m3 * (m2 * d2 + d2 * d3) + steps.OWN_PRODUCTS,
    }
    return min(costs, key=lambda order: costs[order])


class TensorProductPlan(eqx.Module):
    """Constants of a tensor product; made by `plan_tensor_product` and its sisters."""

    couplings: tuple[Float[Array, "_ _ _"], ...]  # one (i, j, k) per path, with its normalisation
    paths: tuple[Path, ...] = eqx.field(static=True)
    irreps_in1: e3nn_jax.Irreps = eqx.field(static=True)
    irreps_in2: e3nn_jax.Irreps = eqx.field(static=True)
    irreps_out: e3nn_jax.Irreps = eqx.field(static=True)


def read_irreps(irreps: e3nn_jax.Irreps | str) -> e3nn_jax.Irreps:
    """Irreps from e3nn's words for them.

    Raises:
        ConfigError: other words.
    """
    try:
        return e3nn_jax.Irreps(irreps)
    except ValueError as error:
        raise ConfigError(f"irreps are written like 16x0e + 8x1o, got {irreps!r}") from error


def plan_tensor_product(
    irreps_in1: e3nn_jax.Irreps | str,
    irreps_in2: e3nn_jax.Irreps | str,
    irreps_out: e3nn_jax.Irreps | str,
    *,
    dtype: DTypeLike = jnp.float32,
) -> TensorProductPlan:
    """All paths from two features to the wanted output, for `fully_connected_tensor_product`.

    Normalised as e3nn's "component" and path normalisation "element": with independent weights and components of unit
    variance the output has unit variance.

    Raises:
        ConfigError: no irreps, an output that no path reaches, or float64 without `jax.enable_x64(True)`.
    """
    irreps1, irreps2, wanted = (read_irreps(i).simplify() for i in (irreps_in1, irreps_in2, irreps_out))
    paths = tuple(
        Path(a, b, c, (m1, m2, m3), (ir1.dim, ir2.dim, ir3.dim))
        for a, (m1, ir1) in enumerate(irreps1)
        for b, (m2, ir2) in enumerate(irreps2)
        for c, (m3, ir3) in enumerate(wanted)
        if ir3 in ir1 * ir2
    )
    terms = [sum(p.channels[0] * p.channels[1] for p in paths if p.out == c) for c in range(len(wanted))]
    for c, count in enumerate(terms):
        if not count:
            raise ConfigError(
                f"no product of {irreps1} and {irreps2} contains {list(wanted)[c].ir}; "
                f"leave it out of irreps_out {wanted}"
            )
    scales = [math.sqrt(p.sizes[2] / terms[p.out]) for p in paths]
    return _plan(irreps1, irreps2, wanted, paths, scales, dtype)


def plan_full_tensor_product(
    irreps_in1: e3nn_jax.Irreps | str, irreps_in2: e3nn_jax.Irreps | str, *, dtype: DTypeLike = jnp.float32
) -> TensorProductPlan:
    """Every product of every channel with every other, for `full_tensor_product`; output irreps are sorted.

    Raises:
        ConfigError: no irreps, or float64 without `jax.enable_x64(True)`.
    """
    return _plan_sorted(irreps_in1, irreps_in2, lambda m1, m2: m1 * m2, dtype)


def plan_channelwise_tensor_product(
    irreps_in1: e3nn_jax.Irreps | str, irreps_in2: e3nn_jax.Irreps | str, *, dtype: DTypeLike = jnp.float32
) -> TensorProductPlan:
    """Each channel of the first input with a weighted sum over channels of the second, e3nn's "uvu".

    Outputs are sorted by irrep; each path keeps the channels of the first input.

    Raises:
        ConfigError: no irreps, or float64 without `jax.enable_x64(True)`.
    """
    return _plan_sorted(irreps_in1, irreps_in2, lambda m1, m2: m1, dtype, mixes_second=True)


def _plan_sorted(irreps_in1, irreps_in2, channels, dtype, mixes_second=False) -> TensorProductPlan:
    irreps1, irreps2 = read_irreps(irreps_in1).simplify(), read_irreps(irreps_in2).simplify()
    found = [
        (ir3, a, b, m1, m2, ir1.dim, ir2.dim)
        for a, (m1, ir1) in enumerate(irreps1)
        for b, (m2, ir2) in enumerate(irreps2)
        for ir3 in ir1 * ir2
    ]
    found.sort(key=lambda path: path[0])
    paths = tuple(
        Path(a, b, c, (m1, m2, channels(m1, m2)), (d1, d2, ir3.dim))
        for c, (ir3, a, b, m1, m2, d1, d2) in enumerate(found)
    )
    irreps_out = e3nn_jax.Irreps([(path.channels[2], entry[0]) for path, entry in zip(paths, found, strict=True)])
    scales = [math.sqrt(path.sizes[2] / (path.channels[1] if mixes_second else 1)) for path in paths]
    return _plan(irreps1, irreps2, irreps_out, paths, scales, dtype)


def _plan(irreps1, irreps2, irreps_out, paths, scales, dtype) -> TensorProductPlan:
    precision = table_dtype(dtype)
    if not paths:
        raise ConfigError(
            f"a product of {irreps1} and {irreps2} in {irreps_out} is empty; give each at least one irrep"
        )
    couplings = tuple(
        rounded(scale * real_clebsch_gordan(d1 // 2, d2 // 2, d3 // 2, "e3nn"), precision)
        for (d1, d2, d3), scale in zip((path.sizes for path in paths), scales, strict=True)
    )
    return TensorProductPlan(couplings, paths, irreps1, irreps2, irreps_out)


def fully_connected_tensor_product(
    plan: TensorProductPlan,
    weights: tuple[Float[Array, "_ _ _"], ...],
    x1: Float[Array, "*#batch dim1"],
    x2: Float[Array, "*#batch dim2"],
) -> Float[Array, "*batch dim3"]:
    r"""$y_{wk} = \sum_{paths} \sum_{uvij} W_{uvw} C_{ijk} x^1_{ui} x^2_{vj}$.

    Args:
        plan: from `plan_tensor_product`.
        weights: one array (channels of x1, of x2, of the output) per path, in the order of `plan.paths`.
        x1: first feature; leading axes of both broadcast.
        x2: second feature.

    Raises:
        InputError: features or weights that are not of the planned sizes, or features of another precision.
    """
    _check_weights(weights, [path.channels for path in plan.paths])
    left, right, batch = _flat(plan, x1, x2)
    y = _by_examples(plan, weights, left, right)
    return y.reshape(*batch, y.shape[-1])


@jax.custom_jvp
def _by_examples(plan: TensorProductPlan, weights: tuple[Array, ...], x1: Array, x2: Array) -> Array:
    """The product of features (b, dim); on CPUs a few examples at a time where that is quicker."""
    large = any(weight.size > steps.MOST_JOINED for weight in weights)
    most = len(x1) if large or jax.default_backend() != "cpu" else _AT_A_TIME
    return in_turns(lambda x1, x2: _all_examples(plan, weights, x1, x2), (x1, x2), most, 0)


@_by_examples.defjvp
def _by_examples_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """All at once: a gradient keeps what it needs of every example anyway, and adds up weights' once."""
    return jax.jvp(_all_examples, primals, tangents)


def _all_examples(plan: TensorProductPlan, weights: tuple[Array, ...], x1: Array, x2: Array) -> Array:
    left, right = _irreps(x1, plan.irreps_in1), _irreps(x2, plan.irreps_in2)
    outputs: list = [0.0] * len(plan.irreps_out)
    products = []
    for path, coupling, weight in zip(plan.paths, plan.couplings, weights, strict=True):
        x, y = left[path.in1], right[path.in2]
        order = contraction_order(path.channels, path.sizes, len(x1))
        if order == "product":
            products.append(steps.Product(path.in1, path.in2, path.out, coupling, weight))
        elif order == "left":
            turned = steps.einsum("bvj,ijk->bkiv", y, coupling)
            outputs[path.out] += steps.single_first(turned, x, weight)
        else:
            turned = steps.einsum("bui,ijk->bkju", x, coupling)
            outputs[path.out] += steps.single_first(turned, y, jnp.swapaxes(weight, 0, 1))
    for out, mixed in steps.mixed_products(products, left, right):
        outputs[out] += mixed
    return _join(outputs)


def _turn(x: Array, coupling: Array) -> Array:
    """sum_i C[i, j, k] x[b, u, i] as (b, k, u, j)."""
    return steps.einsum("bui,ijk->bkuj", x, coupling)


def full_tensor_product(
    plan: TensorProductPlan, x1: Float[Array, "*#batch dim1"], x2: Float[Array, "*#batch dim2"]
) -> Float[Array, "*batch dim3"]:
    """All products of all channels, without weights: (u v) channels per path, u slower.

    Args:
        plan: from `plan_full_tensor_product`.
        x1: first feature; leading axes of both broadcast.
        x2: second feature.

    Raises:
        InputError: features that are not of the planned sizes and precision.
    """
    x1, x2, batch = _flat(plan, x1, x2)
    left, right = _irreps(x1, plan.irreps_in1), _irreps(x2, plan.irreps_in2)
    outputs = []
    for path, coupling in zip(plan.paths, plan.couplings, strict=True):
        turned = _turn(left[path.in1], coupling)  # (b, k, u, j)
        products = steps.einsum("bkuj,bvj->bkuv", turned, right[path.in2])
        b, k, u, v = products.shape
        outputs.append(products.reshape(b, k, u * v))
    y = _join(outputs)
    return y.reshape(*batch, y.shape[-1])


def channelwise_tensor_product(
    plan: TensorProductPlan,
    weights: tuple[Float[Array, "_ _"], ...],
    x1: Float[Array, "*#batch dim1"],
    x2: Float[Array, "*#batch dim2"],
) -> Float[Array, "*batch dim3"]:
    r"""$y_{uk} = \sum_{vij} W_{uv} C_{ijk} x^1_{ui} x^2_{vj}$ for each path: as many channels as the first input has.

    Args:
        plan: from `plan_channelwise_tensor_product`.
        weights: one array (channels of x1, of x2) per path, in the order of `plan.paths`.
        x1: first feature; leading axes of both broadcast.
        x2: second feature.

    Raises:
        InputError: features or weights that are not of the planned sizes, or features of another precision.
    """
    _check_weights(weights, [path.channels[:2] for path in plan.paths])
    x1, x2, batch = _flat(plan, x1, x2)
    left, right = _irreps(x1, plan.irreps_in1), _irreps(x2, plan.irreps_in2)
    outputs = []
    for path, coupling, weight in zip(plan.paths, plan.couplings, weights, strict=True):
        mixed = steps.einsum("uv,bvj->buj", weight, right[path.in2])
        turned = _turn(left[path.in1], coupling)  # (b, k, u, j)
        outputs.append(jnp.sum(turned * mixed[:, None], axis=-1))
    y = _join(outputs)
    return y.reshape(*batch, y.shape[-1])


def _flat(plan: TensorProductPlan, x1: Array, x2: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Both features (b, dim), and the leading axes that b stands for."""
    for name, x, irreps in (("first", x1, plan.irreps_in1), ("second", x2, plan.irreps_in2)):
        check_dtype(f"the {name} feature", x, plan.couplings[0].dtype)
        if x.shape[-1] != irreps.dim:
            raise InputError(f"the {name} feature has {x.shape[-1]} components, {irreps} has {irreps.dim}")
    batch = jnp.broadcast_shapes(x1.shape[:-1], x2.shape[:-1])
    left, right = (jnp.broadcast_to(x, (*batch, x.shape[-1])).reshape(math.prod(batch), x.shape[-1]) for x in (x1, x2))
    return left, right, batch


def _irreps(x: Array, irreps: e3nn_jax.Irreps) -> list[Array]:
    """Each irrep of a feature (b, dim) as (b, channel, component)."""
    return [x[:, s].reshape(len(x), mul, ir.dim) for s, (mul, ir) in zip(irreps.slices(), irreps, strict=True)]


def _join(outputs: list[Array]) -> Array:
    """(b, k, w) arrays as one feature (b, dim) with components last."""
    return jnp.concatenate([jnp.swapaxes(y, 1, 2).reshape(len(y), math.prod(y.shape[1:])) for y in outputs], axis=-1)


def _check_weights(weights: tuple[Array, ...], shapes: list[tuple[int, ...]]) -> None:
    found = [weight.shape for weight in weights]
    if found != shapes:
        raise InputError(f"the planned paths need weights of shapes {shapes}, got {found}")


@dataclasses.dataclass(frozen=True)
class TensorProductConfig:
    """Output irreps of a fully connected product, as e3nn writes them ("16x0e + 8x1o"); inputs come with the data."""

    irreps_out: str

    def __post_init__(self) -> None:
        check_fields(self)
        read_irreps(self.irreps_out)


class FullyConnectedTensorProduct(nn.Module):
    """Learned fully connected product; weights `path_0`, `path_1`, ... start as unit normals, in e3nn's order."""

    config: TensorProductConfig

    @nn.compact
    def __call__(self, x1: e3nn_jax.IrrepsArray, x2: e3nn_jax.IrrepsArray) -> e3nn_jax.IrrepsArray:
        """The product of two features, in the dtype of the first; leading axes broadcast.

        Raises:
            ConfigError: an output that no path reaches, or a first feature that is neither float32 nor float64.
            InputError: a second feature of another type than the first.
        """
        with jax.ensure_compile_time_eval():
            plan = plan_tensor_product(x1.irreps, x2.irreps, self.config.irreps_out, dtype=x1.dtype)
        weights = tuple(
            self.param(f"path_{i}", nn.initializers.normal(1.0), path.channels, jnp.float32).astype(x1.dtype)
            for i, path in enumerate(plan.paths)
        )
        y = fully_connected_tensor_product(plan, weights, x1.array, x2.array)
        return e3nn_jax.IrrepsArray(e3nn_jax.Irreps(self.config.irreps_out), y)
