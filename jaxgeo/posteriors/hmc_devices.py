"""Where the chains of an HMC run and the examples that each sees lie: on one device, or spread over a mesh.

Chains are shared out along the mesh axis `chain`. Along `data` every chain has a copy on each device, and the devices
have equal shares of the examples: log likelihood, gradient and the change of energy are sums over them, so that all
copies take the same steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.training.meshes import put

CHAIN = PartitionSpec("chain")
EVERYWHERE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Devices:
    """The mesh of a run, None for the default device; `check` it before use."""

    mesh: Mesh | None

    def check(self, config: HmcConfig, is_sum: bool) -> None:
        """Refuse a mesh that does not suit the run (`ConfigError`).

        Args:
            config: of the run.
            is_sum: whether the log density is known as a sum over examples.
        """
        mesh = self.mesh
        if mesh is None:
            return
        if "chain" not in mesh.shape:
            raise ConfigError(
                f"chains are spread over a mesh axis 'chain', got axes {tuple(mesh.shape)}; spread('chain', "
                f"{config.num_chains}) gives a mesh that works"
            )
        if config.num_chains % mesh.shape["chain"]:
            raise ConfigError(
                f"{config.num_chains} chains cannot be shared evenly by the {mesh.shape['chain']} devices along the "
                f"mesh axis 'chain'; its size must divide the number of chains"
            )
        if self.shares > 1 and not is_sum:
            raise ConfigError(
                f"a density that is not known to be a sum over examples cannot be spread over the {self.shares} "
                f"devices along the mesh axis 'data'; give that axis one device, or sample a LogJoint (plan_hmc)"
            )

    @property
    def shares(self) -> int:
        """Parts into which the examples are divided."""
        return 1 if self.mesh is None else self.mesh.shape.get("data", 1)

    @property
    def examples(self) -> PartitionSpec:
        """How the examples lie."""
        return PartitionSpec("data") if self.shares > 1 else EVERYWHERE

    def place(self, tree: Any, per_chain: bool) -> Any:
        """Arrays that are one per chain, or the same for all."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return put(tree, self.mesh, CHAIN if per_chain else EVERYWHERE)

    def place_data(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """The training examples.

        Raises:
            ConfigError: the devices along `data` cannot share them evenly.
        """
        number = jax.tree.leaves(targets)[0].shape[0] if self.shares > 1 else 0
        if number % self.shares:
            raise ConfigError(
                f"{number} examples cannot be shared evenly by the {self.shares} devices along the mesh axis 'data'; "
                f"its size must divide their number"
            )
        if self.mesh is None or self.shares == 1:
            return self.place((inputs, targets), False)
        return put((inputs, targets), self.mesh, self.examples)

    def shared(self, tree: Any) -> Any:
        """Sums over the examples of all devices, of such over each device's own; within `over_chains`."""
        return tree if self.shares == 1 else jax.lax.psum(tree, "data")

    def total(self, pieces: Array) -> Float[Array, ""]:
        """The sum of what belongs to the examples of all devices; within `over_chains`."""
        return self.shared(jnp.sum(pieces))

    def over_chains(self, function: Callable, specs: tuple[PartitionSpec, ...], chains_at_once: int | None) -> Callable:
        """Map a function of one chain over the arguments that are one per chain, shared out among the devices."""

        def mapped(*arguments: Any) -> Any:
            if chains_at_once is None:
                return jax.vmap(function, in_axes=tuple(0 if spec == CHAIN else None for spec in specs))(*arguments)

            def one(own: tuple[Any, ...]) -> Any:
                rest = iter(own)
                return function(*(next(rest) if s == CHAIN else x for s, x in zip(specs, arguments, strict=True)))

            own = tuple(x for s, x in zip(specs, arguments, strict=True) if s == CHAIN)
            return jax.lax.map(one, own, batch_size=chains_at_once)

        if self.mesh is None:
            return mapped
        return jax.shard_map(mapped, mesh=self.mesh, in_specs=specs, out_specs=CHAIN, check_vma=False)


def spread_energy(
    likelihood: Callable[[Array, Any, Any], Array], prior: Callable[[Array], Array]
) -> Callable[[Array, Any, Any], Array]:
    """Minus the log joint of a position where each device along the axis `data` has a share of the examples.

    Value and gradient are summed over the devices outright: what JAX makes of the derivative of such a sum depends on
    whether it knows that its result is the same everywhere.

    Args:
        likelihood: log likelihood of a position, of the examples given.
        prior: log prior of a position.
    """

    def value_and_gradient(position: Array, inputs: Any, targets: Any) -> tuple[Array, Array]:
        own = jax.value_and_grad(lambda x: -likelihood(x, inputs, targets))(position)
        shared = jax.value_and_grad(lambda x: -prior(x))(position)
        return jax.tree.map(jnp.add, jax.lax.psum(own, "data"), shared)

    @jax.custom_vjp
    def energy(position: Array, inputs: Any, targets: Any) -> Array:
        return value_and_gradient(position, inputs, targets)[0]

    energy.defvjp(value_and_gradient, lambda gradient, cotangent: (cotangent * gradient, None, None))
    return energy
