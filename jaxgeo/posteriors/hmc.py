"""Hamiltonian Monte Carlo (of fixed length, or NumPyro's NUTS) on the log joint that the other families share.

Several chains run at once: one compiled transition, vmapped over the chains of a device and sharded over the
mesh axis `chain`; over the axis `data` the examples are shared out (`hmc_devices`). Positions are whitened: parameters
divided by the standard deviation of their prior and laid out as one vector, so that one trajectory length suits wide
and narrow layers alike and pi / 2 turns a momentum fully into a position. The state is a flat tuple of arrays; a run
may be cut anywhere, saved and resumed, bit for bit.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_whole
from jaxgeo.posteriors.base import Posterior, draws_posterior, num_stacked
from jaxgeo.posteriors.hmc_adaptation import adapt, start_averaging
from jaxgeo.posteriors.hmc_density import LogDensity, Target, of_all_chains, whiten
from jaxgeo.posteriors.hmc_devices import Devices
from jaxgeo.posteriors.hmc_state import HmcConfig, HmcState, HmcTrace, check_gradient, check_state
from jaxgeo.posteriors.log_joint import LogJoint, check_only_params
from jaxgeo.training.ensemble import Params, Progress
from jaxgeo.training.processes import to_host


def cut_short(config: HmcConfig, trace: HmcTrace) -> Bool[np.ndarray, "chain transition"]:
    """Which trajectories after the warm-up ended at `max_leapfrogs` before they had the length that they should have.

    Of NUTS those whose tree reached `max_tree_depth`. False during the warm-up, where trajectories are meant to be
    short.

    Args:
        config: of the run.
        trace: of the run from its first transition on.
    """
    iteration = np.arange(trace.num_leapfrogs.shape[1])
    if config.kernel == "nuts":
        cut = trace.num_leapfrogs >= 2**config.max_tree_depth - 1
    else:
        wanted = config.trajectory_length * np.asarray(_jitter(config, jnp.asarray(iteration)))
        # A trajectory that is not cut has its length up to rounding.
        cut = trace.step_size * trace.num_leapfrogs < wanted[None] * (1 - 1e-5)
    return cut & (iteration >= config.num_warmup)[None]


def concatenate_traces(traces: Sequence[HmcTrace]) -> HmcTrace:
    """The trace of consecutive stretches as one."""
    return HmcTrace(*(np.concatenate(parts, axis=1) for parts in zip(*traces, strict=True)))


@dataclasses.dataclass(frozen=True)
class Hmc:
    """A sampler ready to run: made by `plan_hmc`; its methods are functions of the state and the data."""

    config: HmcConfig
    dim: int
    dtype: Any  # of the whitened parameters
    check_data: Callable[[Any, Any], None]  # (inputs, targets): raises `InputError`
    flatten: Callable[[Any], Array]  # parameter tree -> whitened vector
    unflatten: Callable[[Array], Any]
    start_state: Callable[[Array, Array, Any, Any], HmcState]
    transition: Callable[[HmcState, Any, Any], tuple[HmcState, dict[str, Array]]]
    place: Callable[[Any, bool], Any]
    place_data: Callable[[Any, Any], tuple[Any, Any]]

    def init(self, key: PRNGKeyArray, inputs: Any, targets: Any, start: Params | None = None) -> HmcState:
        """The state before the first transition.

        Args:
            key: of starting points, momenta and acceptance.
            inputs: all inputs, as the network takes them.
            targets: all targets.
            start: a stack of at least `num_chains` parameter trees, such as optimised members (a warm start: the
                chains still have to find the typical set, but not a mode). Without it chains start at prior draws.

        Raises:
            ConfigError: fewer starting points than chains.
            InputError: what `LogJoint.check_data` refuses, or a start where the log joint or its gradient is not
                finite: a chain would stay there for ever.
        """
        self.check_data(inputs, targets)
        chains = self.config.num_chains
        start_key, chain_key = jax.random.split(key)
        if start is None:
            position = jax.random.normal(start_key, (chains, self.dim))
        else:
            if num_stacked(start) < chains:
                raise ConfigError(f"{chains} chains need as many starting points, got {num_stacked(start)}")
            position = jax.vmap(self.flatten)(jax.tree.map(lambda leaf: leaf[:chains], start))
        key_data = jax.random.key_data(jax.random.split(chain_key, chains))
        inputs, targets = self.place_data(inputs, targets)
        state = self.start_state(self.place(position, True), self.place(key_data, True), inputs, targets)
        _check_start(state)
        return state

    def run(
        self, state: HmcState, inputs: Any, targets: Any, num: int | None = None, progress: Progress | None = None
    ) -> tuple[HmcState, HmcTrace]:
        """Go on for `num` transitions (None: to the end of the run) or until the run is complete.

        The result does not depend on how a run is cut into calls, nor on a detour of the state through a file. That
        the state is of these data and this log joint is asked of its gradients, which are computed anew once in each
        call: data, a prior or a likelihood that are others as a whole are found, a single label that differs is not.
        `progress` is called after each transition with the `acceptance`, `step_size` and `num_leapfrogs` of that
        transition (means over the chains) and the number of `divergences` of all chains that this call has seen after
        the warm-up.

        Raises:
            ConfigError: `num` is no whole number of at least 0.
            InputError: what `LogJoint.check_data` refuses, or a state that is not of this plan and these data.
        """
        if num is not None:
            check_whole("the number of transitions", num, 0)
        self.check_data(inputs, targets)
        check_state(state, self.config, self.dim, self.dtype)
        config, rows, kept, divergences = self.config, [], [], 0
        done = int(to_host(state.iteration))
        stop = config.num_transitions if num is None else min(config.num_transitions, done + num)
        inputs, targets = self.place_data(inputs, targets)
        state = self.place_state(state)
        if done < stop:
            anew = self.start_state(state.position, state.key_data, inputs, targets)
            check_gradient(state.gradient, anew.gradient)
        while done < stop:
            # One compiled call for one transition: cutting a compiled loop differently could change its rounding.
            state, row = self.transition(state, inputs, targets)
            rows.append(to_host(row))
            done += 1
            if done > config.num_warmup:
                divergences += int(rows[-1]["diverging"].sum())
                if (done - config.num_warmup) % config.thinning == 0:
                    kept.append(to_host(state.position))
            if progress is not None:
                values = {name: float(np.mean(rows[-1][name])) for name in ("acceptance", "step_size", "num_leapfrogs")}
                progress(done, config.num_transitions, values | {"divergences": float(divergences)})
        dtype = np.dtype(state.potential_energy.dtype)
        none = np.zeros((config.num_chains, 0), dtype)
        position = np.stack(kept, axis=1) if kept else np.zeros((config.num_chains, 0, self.dim), dtype)
        columns = (
            {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
            if rows
            else {
                name: none.astype({"diverging": bool, "num_leapfrogs": np.int32}.get(name, dtype))
                for name in HmcTrace._fields[1:]
            }
        )
        return state, HmcTrace(position=position, **columns)

    def draws(self, position: Float[ArrayLike, "*batch dim"]) -> Params:
        """Parameter trees of whitened positions; the leading axes come first on every leaf.

        Raises:
            InputError: positions of another number of coordinates than the network has parameters.
        """
        position = jnp.asarray(position)
        if position.shape[-1:] != (self.dim,):
            raise InputError(f"positions have {self.dim} coordinates on their last axis, got shape {position.shape}")
        flat = jax.vmap(self.unflatten)(position.reshape(-1, self.dim))
        return jax.tree.map(lambda leaf: leaf.reshape(*position.shape[:-1], *leaf.shape[1:]), flat)

    def place_state(self, state: HmcState) -> HmcState:
        """A state, perhaps of NumPy arrays, with every array where the plan's devices want it."""
        per_chain = ("key_data", "position", "gradient", "potential_energy")
        return HmcState(**{name: self.place(value, name in per_chain) for name, value in state._asdict().items()})


def plan_hmc(log_joint: LogJoint, like: Params, config: HmcConfig, mesh: Mesh | None = None) -> Hmc:
    """A sampler of the posterior of a network.

    Args:
        log_joint: what is sampled; its prior also whitens.
        like: a parameter tree with the shapes and dtypes of the network's.
        config: chains, lengths and adaptation.
        mesh: devices with an axis `chain` whose size divides the number of chains and perhaps an axis `data` whose
            size divides the number of examples, each device then having its share of them (which
            `likelihood_batches` divides further); None: the default device.

    Raises:
        ConfigError: `like` has other collections of a Flax module than its parameters, or the mesh has no axis `chain`,
            or the chains cannot be shared evenly along it. (That the examples cannot be shared evenly, or that the
            network needs a random key, is said where data are first seen, by `Hmc.init` or `Hmc.run`.)
    """
    check_only_params(like)
    density, likelihood = log_joint.log_joint, log_joint.log_likelihood
    if config.likelihood_batches > 1:
        density = functools.partial(log_joint.log_joint_in_batches, config.likelihood_batches)
        likelihood = functools.partial(log_joint.log_likelihood_in_batches, config.likelihood_batches)
    pieces = functools.partial(log_joint.log_likelihoods, config.likelihood_batches)
    scales = log_joint.prior.scales(like)
    constant = sum(
        leaf.size * (math.log(scale) + 0.5 * math.log(2 * math.pi))
        for leaf, scale in zip(jax.tree.leaves(like), jax.tree.leaves(scales), strict=True)
    )
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def check_data(inputs: Any, targets: Any) -> None:
        log_joint.check_data(shapes, inputs, targets)

    parts = likelihood, log_joint.log_prior
    target = Target(density, pieces, True, float(constant), check_data, parts)
    return _plan(target, like, scales, config, mesh)


def plan_hmc_of_density(
    log_density: LogDensity, like: Params, scales: Params, config: HmcConfig, mesh: Mesh | None = None
) -> Hmc:
    """A sampler of any `log_density(params, inputs, targets)`; each leaf is measured in units of its `scales`.

    `likelihood_batches` of the configuration is the density's own affair and not looked at.

    Raises:
        ConfigError: the mesh has no axis `chain`, the chains cannot be shared evenly along it, or it has an axis `data`
            of more than one device: how a density is made up of examples is known of a `LogJoint` only.
    """
    return _plan(
        Target(log_density, lambda *arguments: log_density(*arguments)[None], False, 0.0, lambda *data: None),
        like, scales, config, mesh,
    )  # fmt: skip


def _plan(target: Target, like: Params, scales: Params, config: HmcConfig, mesh: Mesh | None) -> Hmc:
    devices = Devices(mesh)
    devices.check(config, target.parts is not None)
    whitened = whiten(like, scales)
    origin = whitened.origin
    move, energies = of_all_chains(target, whitened, config, devices)
    return Hmc(
        config=config,
        dim=origin.size,
        dtype=origin.dtype,
        check_data=target.check_data,
        flatten=whitened.flatten,
        unflatten=whitened.unflatten,
        start_state=_starter(config, origin, energies),
        transition=_transition(config, origin.dtype, move),
        place=devices.place,
        place_data=devices.place_data,
    )


def _starter(
    config: HmcConfig, origin: Array, energies: Callable[..., tuple[Array, Array]]
) -> Callable[[Array, Array, Any, Any], HmcState]:
    """What makes the state before the first transition of positions and keys."""

    @jax.jit
    def start_state(position: Array, key_data: Array, inputs: Any, targets: Any) -> HmcState:
        position = position.astype(origin.dtype)
        potential_energy, gradient = energies(position, inputs, targets)
        step_size = jnp.asarray(config.step_size, origin.dtype)
        zero = jnp.zeros_like(origin)
        return HmcState(
            iteration=jnp.asarray(0, jnp.int32),
            key_data=key_data,
            position=position,
            gradient=gradient,
            potential_energy=potential_energy,
            step_size=step_size,
            averaging=start_averaging(step_size),
            inverse_mass=jnp.ones_like(origin),
            welford_mean=zero,
            welford_m2=zero,
            welford_count=jnp.asarray(0, jnp.int32),
        )

    return start_state


def _transition(
    config: HmcConfig, dtype: Any, move: Callable[..., Any]
) -> Callable[[HmcState, Any, Any], tuple[HmcState, dict[str, Array]]]:
    """One trajectory of all chains, of the length and step size that the state has come to, and its adaptation."""

    @jax.jit
    def transition(state: HmcState, inputs: Any, targets: Any) -> tuple[HmcState, dict[str, Array]]:
        burning = state.iteration < config.num_burn_in
        whole = burning | (state.iteration >= config.num_warmup)
        length = config.trajectory_length * _jitter(config, state.iteration).astype(dtype)
        needed = jnp.clip(jnp.ceil(length / state.step_size), 1, config.max_leapfrogs)
        leapfrogs = jnp.where(whole, needed, config.warmup_leapfrogs).astype(jnp.int32)
        step_size = jnp.where(
            whole & (config.kernel == "hmc"), jnp.minimum(length / needed, state.step_size), state.step_size
        )
        moved, row = move(
            state.key_data,
            state.position,
            state.gradient,
            state.potential_energy,
            step_size,
            leapfrogs,
            state.inverse_mass,
            burning,
            inputs,
            targets,
        )
        row["step_size"] = jnp.broadcast_to(step_size, (config.num_chains,))
        state = adapt(config, state._replace(**moved), row["acceptance"])
        return state._replace(iteration=state.iteration + 1), row

    return transition


def _jitter(config: HmcConfig, iteration: Array) -> Array:
    """Factor on the length of this transition's trajectory: 1 +- jitter, evenly spread by the golden ratio."""
    # 2^32 / golden ratio; the product wraps, which is the fractional part in exact arithmetic.
    spread = (iteration.astype(jnp.uint32) * jnp.uint32(2654435769)).astype(jnp.float32) / 2.0**32
    return 1.0 + config.jitter * (2.0 * spread - 1.0)


def _check_start(state: HmcState) -> None:
    if isinstance(state.potential_energy, Tracer):
        return
    energy, gradient = to_host(state.potential_energy), to_host(state.gradient)
    finite = np.isfinite(energy) & np.isfinite(gradient).all(axis=-1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        first = bad[0]
        what = "log joint" if not np.isfinite(energy[first]) else "gradient of the log joint"
        value = -energy[first] if what == "log joint" else -gradient[first][~np.isfinite(gradient[first])][0]
        raise InputError(
            f"the {what} is {value} where chain {first} starts ({len(bad)} of {len(energy)} chains have none that is "
            f"finite), a point that no chain would ever leave; look for NaN in the starting points, inputs and targets"
        )


def hmc_posterior(sampler: Hmc, inputs: Any, targets: Any, start: Params | None = None) -> Posterior:
    """HMC as a posterior: `init` runs all chains, and its state is the stack of all draws, chain slowest."""

    def init(key: PRNGKeyArray) -> Params:
        _, trace = sampler.run(sampler.init(key, inputs, targets, start), inputs, targets)
        return sampler.draws(trace.position.reshape(-1, sampler.dim))

    return draws_posterior(init, "an HMC run", "it is a finite set of draws, known up to a constant only")
