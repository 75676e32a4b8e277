"""Affine layers of a network, found in the function itself: what goes into each, and places to add to what comes out.

The network is traced once, for a single example. Wherever a leaf named `kernel` multiplies something (a matrix product
or a convolution, in any jitted, rematerialised or custom-derivative function), the rows that it multiplies are read,
patches of pixels included, and an offset is added to the product: with the offsets at zero the network is what it was,
and its derivatives with respect to them are those with respect to the layer's outputs. A layer that meets an example
at many places (pixels, tokens, a kernel used twice) has one row for each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import path_names
from jaxgeo.posteriors.base import Apply

_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")
_UNCHANGED = ("convert_element_type", "copy", "optimization_barrier")
_AGREE = 1e-3
"""Largest relative difference of the two ways to a layer's Jacobian, well above float32 rounding."""

Product = tuple[Float[Array, "row in"], Array]
"""the rows that a kernel multiplies, and the product with an offset added to it"""


class AffineLayer(NamedTuple):
    """One layer, by positions among the leaves of the parameter tree."""

    kernel: int
    bias: int | None
    width: int  # numbers that come in, without the one of the bias


class Place(NamedTuple):
    """One use of a layer: the shape of its product, and how its axes become (row, out)."""

    layer: int
    shape: tuple[int, ...]
    out_axes: tuple[int, ...]


class Network(NamedTuple):
    """A traced network of one example."""

    layers: tuple[AffineLayer, ...]
    places: tuple[Place, ...]
    run: Callable[[Sequence[Array], Sequence[Array], Any], tuple[Array, list[Array]]]
    """leaves, one offset for each place, inputs of one example -> predictions, and the rows at each place"""


class _Visit:
    """What is noted, and added, while the equations are gone through."""

    def __init__(self, names: Sequence[str], offsets: Sequence[Array] | None) -> None:
        self.names, self.offsets = names, offsets
        self.found: list[
            tuple[int, int, tuple[int, ...], tuple[int, ...]]
        ] = []  # leaf, contracted axes, shape, out axes
        self.rows: list[Array] = []

    def add(self, leaf: int, contracted: int, product: Array, out_axes: tuple[int, ...], rows: Array) -> Array:
        place = len(self.rows)
        self.found.append((leaf, contracted, product.shape, out_axes))
        self.rows.append(rows)
        return product if self.offsets is None else product + self.offsets[place]

    def refuse(self, leaf: int, reason: str) -> ConfigError:
        return ConfigError(
            f"{self.names[leaf]} {reason}; Kronecker factors need kernels that multiply rows or patches of one group "
            f"(dense layers and convolutions), with a bias that is added at once; diagonal_laplace takes any tree"
        )


def trace_layers(apply: Apply, params: Any, example: Any) -> Network:
    """The affine layers of a network.

    Args:
        apply: the network.
        params: its parameters; only names and shapes are used.
        example: inputs of one example, without the example axis.

    Raises:
        ConfigError: no kernel multiplies anything, or one is used otherwise than by a product: in groups, in a loop,
            transposed, or normalised first.
    """
    paths = [path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = ["/".join(path) for path in paths]
    leaves, treedef = jax.tree.flatten(params)
    kernels = {i: i for i, path in enumerate(paths) if path[-1:] == ("kernel",) and leaves[i].ndim >= 2}
    closed = jax.make_jaxpr(
        lambda leaves, x: apply(treedef.unflatten(leaves), jax.tree.map(lambda leaf: leaf[None], x))
    )(leaves, example)

    def run(visit: _Visit, leaves: Sequence[Array], x: Any) -> tuple[Array, list[Array]]:
        (output,), _ = _evaluate(closed, [*leaves, *jax.tree.leaves(x)], kernels, visit)
        return output, visit.rows

    first = _Visit(names, None)
    jax.eval_shape(lambda leaves, x: run(first, leaves, x), leaves, example)
    if not first.found:
        raise ConfigError(
            "Kronecker factors need affine layers, each a kernel (..., in, out) that multiplies something, got none of "
            "them; diagonal_laplace takes any tree"
        )
    contracted: dict[int, int] = {}
    for leaf, axes, *_ in first.found:
        if contracted.setdefault(leaf, axes) != axes:
            raise first.refuse(leaf, f"is summed over {contracted[leaf]} of its axes here and over {axes} there")
    position = {path: i for i, path in enumerate(paths)}

    def bias_of(kernel: int) -> int | None:
        bias = position.get((*paths[kernel][:-1], "bias"))
        fits = bias is not None and leaves[bias].shape == leaves[kernel].shape[contracted[kernel] :]
        return bias if fits else None

    layers = tuple(
        AffineLayer(kernel, bias_of(kernel), math.prod(leaves[kernel].shape[: contracted[kernel]]))
        for kernel in sorted(contracted)
    )
    order = {layer.kernel: i for i, layer in enumerate(layers)}
    places = tuple(Place(order[leaf], shape, out_axes) for leaf, _, shape, out_axes in first.found)
    return Network(layers, places, lambda leaves, offsets, x: run(_Visit(names, offsets), leaves, x))


def zero_offsets(network: Network, dtype: Any) -> list[Array]:
    """Offsets that change nothing."""
    return [jnp.zeros(place.shape, dtype) for place in network.places]


def layer_rows(
    network: Network, rows: Sequence[Array], by_offset: Sequence[Array]
) -> list[tuple[Float[Array, "row in"], Float[Array, "output row out"]]]:
    """For each layer: its inputs at all its places, and the Jacobian of the predictions in its outputs there.

    Args:
        network: as traced.
        rows: of `Network.run`.
        by_offset: the predictions' Jacobian in each offset, (output, *shape of the place).
    """
    found: list[tuple[list[Array], list[Array]]] = [([], []) for _ in network.layers]
    for place, row, jacobian in zip(network.places, rows, by_offset, strict=True):
        out = [axis + 1 for axis in place.out_axes]
        last = jnp.moveaxis(jacobian, out, range(jacobian.ndim - len(out), jacobian.ndim))
        width = math.prod(place.shape[axis] for axis in place.out_axes)
        found[place.layer][0].append(row)
        found[place.layer][1].append(last.reshape(jacobian.shape[0], -1, width))
    return [(jnp.concatenate(a, axis=0), jnp.concatenate(g, axis=1)) for a, g in found]


def check_layers(network: Network, apply: Apply, params: Any, inputs: Any) -> None:
    """Hold the products of inputs and gradients against the Jacobian in the parameters, for up to four examples.

    Args:
        network: traced from `apply`.
        apply: the network.
        params: where.
        inputs: example axis first.

    Raises:
        ConfigError: they differ for a layer, because its bias is not simply added to its product.
    """
    names = ["/".join(path_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves, treedef = jax.tree.flatten(params)
    zeros = zero_offsets(network, leaves[0].dtype)

    def misfits(x: Any) -> list[tuple[Array, Array]]:
        def by_parts(offsets: list[Array]) -> tuple[Array, list[Array]]:
            output, rows = network.run(leaves, offsets, x)
            return output.reshape(-1), rows

        def whole(leaves: list[Array]) -> Array:
            return apply(treedef.unflatten(leaves), jax.tree.map(lambda leaf: leaf[None], x)).reshape(-1)

        by_offset, rows = jax.jacrev(by_parts, has_aux=True)(zeros)
        jacobian, found = jax.jacrev(whole)(leaves), []
        for layer, (a, g) in zip(network.layers, layer_rows(network, rows, by_offset), strict=True):
            pairs = [(jnp.einsum("ri,cro->cio", a, g), jacobian[layer.kernel])]
            if layer.bias is not None:
                pairs.append((jnp.sum(g, axis=1), jacobian[layer.bias]))
            rest = jnp.stack([jnp.max(jnp.abs(one.ravel() - other.ravel())) for one, other in pairs])
            found.append((jnp.max(rest), jnp.max(jnp.stack([jnp.max(jnp.abs(other)) for _, other in pairs]))))
        return found

    few = jax.tree.map(lambda leaf: leaf[:4], inputs)  # one example may happen not to reach a layer
    for layer, (rest, size) in zip(network.layers, jax.jit(jax.vmap(misfits))(few), strict=True):
        if np.any(np.asarray(rest) > _AGREE * np.asarray(size)):
            raise _Visit(names, None).refuse(
                layer.kernel, "has a bias beside it that is not simply added to its product"
            )


def _evaluate(
    closed: ClosedJaxpr, values: Sequence[Any], origins: dict[int, int], visit: _Visit
) -> tuple[list[Any], list[int | None]]:
    """Results of a traced function, and for each of them which kernel it is, if any; `origins` says so of `values`."""
    jaxpr: Jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))
    kernel: dict[Var, int] = {jaxpr.invars[i]: leaf for i, leaf in origins.items()}

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    def leaf_of(atom: Any) -> int | None:
        return None if isinstance(atom, Literal) else kernel.get(atom)

    for eqn in jaxpr.eqns:
        arguments, leaves = [value(v) for v in eqn.invars], [leaf_of(v) for v in eqn.invars]
        name = eqn.primitive.name
        is_of: list[int | None] = [None] * len(eqn.outvars)
        if all(leaf is None for leaf in leaves):
            results = _bind(eqn, arguments)
        elif name in _CALLS:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
            inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            passed = {i: leaf for i, leaf in enumerate(leaves) if leaf is not None}
            results, is_of = _evaluate(inner, arguments, passed, visit)
        elif name in _UNCHANGED:
            results, is_of = _bind(eqn, arguments), leaves
        else:
            results = [_product(eqn, arguments, leaves, visit)]
        for variable, result, leaf in zip(eqn.outvars, results, is_of, strict=True):
            known[variable] = result
            if leaf is not None:
                kernel[variable] = leaf
    return [value(v) for v in jaxpr.outvars], [leaf_of(v) for v in jaxpr.outvars]


def _bind(eqn: JaxprEqn, arguments: Sequence[Any]) -> list[Any]:
    result = eqn.primitive.bind(*arguments, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


def _product(eqn: JaxprEqn, arguments: Sequence[Any], leaves: Sequence[int | None], visit: _Visit) -> Array:
    """What an equation computes from a kernel; the kernel's rows are noted."""
    at = next(i for i, leaf in enumerate(leaves) if leaf is not None)
    leaf = leaves[at]
    assert leaf is not None
    name = eqn.primitive.name
    if sum(other is not None for other in leaves) > 1:
        raise visit.refuse(leaf, f"meets another kernel in {name}")
    kernel = arguments[at]
    if name == "dot_general":
        (left, right), batch = eqn.params["dimension_numbers"]
        pairs = sorted(zip(left, right, strict=True), key=lambda pair: pair[at])
        if any(batch) or [pair[at] for pair in pairs] != list(range(len(pairs))):
            raise visit.refuse(leaf, "is multiplied along axes that are not its first, or in a batch")
        other, summed = arguments[1 - at], [pair[1 - at] for pair in pairs]
        free = [axis for axis in range(other.ndim) if axis not in summed]
        rows = jnp.transpose(other, (*free, *summed)).reshape(-1, math.prod(kernel.shape[: len(pairs)]))
        num_out = kernel.ndim - len(pairs)
        out_axes = tuple(range(num_out)) if at == 0 else tuple(range(len(free), len(free) + num_out))
        return visit.add(leaf, len(pairs), _bind(eqn, arguments)[0], out_axes, rows)
    if name == "plane_convolution" and at == 1:
        stride = (eqn.params["stride"],) * 2
        rows = _patches(arguments[0], kernel, stride, "SAME", None, None)
        return visit.add(leaf, kernel.ndim - 1, _bind(eqn, arguments)[0], (3,), rows)
    if name == "conv_general_dilated" and at == 1:
        params, numbers = eqn.params, eqn.params["dimension_numbers"]
        if (params["feature_group_count"], params["batch_group_count"]) != (1, 1):
            raise visit.refuse(leaf, f"convolves in {params['feature_group_count']} groups of channels")
        dim = kernel.ndim
        if tuple(numbers.rhs_spec) != (dim - 1, dim - 2, *range(dim - 2)):
            raise visit.refuse(leaf, "convolves with other axes than (space ..., in, out)")
        image, channel, *space = numbers.lhs_spec
        images = jnp.transpose(arguments[0], (image, *space, channel))
        rows = _patches(
            images, kernel, params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"]
        )
        # Rows are in the order (image, space ...); the product's other axes are brought into it.
        image, channel, *space = numbers.out_spec
        if [image, *space] != sorted([image, *space]):
            raise visit.refuse(leaf, "convolves into axes that are not in the order (image, space ...)")
        return visit.add(leaf, dim - 1, _bind(eqn, arguments)[0], (channel,), rows)
    raise visit.refuse(leaf, f"goes through {name}")


def _patches(
    images: Array, kernel: Array, strides: Sequence[int], padding: Any, before: Any, between: Any
) -> Float[Array, "row in"]:
    """(image and place, space ... and channel) from images (image, space ..., channel), in the order of the kernel."""
    sizes, channels = kernel.shape[:-2], kernel.shape[-2]
    found = jax.lax.conv_general_dilated_patches(
        jnp.moveaxis(images, -1, 1), sizes, strides, padding, before, between, precision=jax.lax.Precision.HIGHEST
    )
    found = jnp.moveaxis(found, 1, -1).reshape(-1, channels, math.prod(sizes))
    return jnp.swapaxes(found, 1, 2).reshape(-1, channels * math.prod(sizes))
