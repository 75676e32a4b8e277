r"""Microcanonical Langevin Monte Carlo, unadjusted: chains at constant speed, usually begun at trained members.

A position x in d dimensions moves along a unit vector u, which the gradient $g = \nabla \log p(x)$ turns towards itself
and noise turns at random:

$$dx = u\,dt, \qquad du = (1 - u u^T) \left( \frac{g}{d - 1}\,dt + \eta\,dW \right).$$

Its stationary law is p(x) times the uniform law of directions, whatever the noise. With g held fixed u has a closed
form (`turn`), which shrinks the volume of directions by $e^{-\Delta K}$; drifts in between keep it. A step (`leapfrog`)
would therefore be accepted with probability $\min(1, e^{-\Delta E})$, $\Delta E = \Delta K - \Delta \log p$. It is not
asked: all steps are taken, and what they are off is bounded by the step size, for which the mean of $\Delta E^2 / d$ is
held at a small value. $\Delta E$ is of third order in the step, so that the square grows with its sixth power; that
law is what the tuning follows.

Noise forgets a direction over the length L. The tuning first takes the root of the summed variances of the positions
that it saw, and then, from a stretch of steps at that L, 0.4 times the length after which positions are independent
again (integrated autocorrelation time times step, mean over the parameters). On a Gaussian of many dimensions each
parameter is a damped oscillator whose integrated autocorrelation length is on average $2 \sum \sigma^2 / L$, so the
first guess becomes 0.8 of itself; where chains diffuse slowly along some directions L comes out longer.

Positions are whitened as those of `jaxgeo.posteriors.hmc`: parameters in units of their prior's standard deviations.
Steps and L are lengths in all d dimensions together: on a standard normal of d dimensions they grow as $\sqrt d$.

References:
    Robnik, De Luca, Silverstein and Seljak, "Microcanonical Hamiltonian Monte Carlo", arXiv:2212.08549 (tuning).
    Robnik and Seljak, "Fluctuation without dissipation: Microcanonical Langevin Monte Carlo", arXiv:2303.18221.
    Ver Steeg and Galstyan, "Hamiltonian dynamics with non-Newtonian momentum ...", arXiv:2111.02434 (`turn`).
    Sommer et al., "Microcanonical Langevin ensembles ...", arXiv:2502.06335 (chains begun at a deep ensemble).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_fields, check_real
from jaxgeo.posteriors.base import Posterior, draws_posterior, num_stacked
from jaxgeo.posteriors.deep_ensemble import init_and_train
from jaxgeo.posteriors.log_joint import LogJoint

_MEMORY = 150.0  # effective number of steps that the first estimates of the energy's growth remember
_BLOCKS = 2  # of one step size each, in the third quarter of the tuning
_BATCHES = 10  # into which the last quarter is cut, to tell how far apart independent positions are
_LENGTH_SHARE = 0.4  # L over that distance; BlackJAX's default too
_TRUST = 1.5  # how far, in factors e of the step, a step may be from the wanted one and still tell of it
_SLOWER = 0.8  # on the largest step still allowed, after one that ended at no finite energy
_FASTEST = 2.0  # growth of the step from one to the next: one step that happens to err little must not end the chain

ValueAndGradient = Callable[[Array], tuple[Array, Array]]
"""Log density in nats, and its gradient, at a position."""


@dataclasses.dataclass(frozen=True)
class MicrocanonicalConfig:
    """Chains, steps and tuning; lengths are in whitened units (prior standard deviations)."""

    num_chains: int = 4
    num_tuning: int = 2000
    """steps that tune step size and L, not kept: half of them find the typical set, a quarter measures it, and the last
    quarter, where it is at least 20, the autocorrelation"""
    num_draws: int = 100
    """kept of each chain"""
    thinning: int = 20
    """steps before each draw"""
    energy_variance: float = 5e-4
    """mean squared energy error of a step divided by the dimension; smaller is less biased and slower"""
    step_size: float | None = None
    """where the tuning starts (the step size itself where there is none); None: a hundredth of sqrt(d)"""
    decoherence_length: float | None = None
    """L, over which a direction is forgotten; None: tuned"""
    chains_at_once: int | None = None
    """chains that go together, the others after them; None: all"""

    def __post_init__(self) -> None:
        """Refuse numbers below one, and tolerances and lengths that are not positive."""
        check_fields(self, num_chains=1, num_tuning=0, num_draws=1, thinning=1, chains_at_once=1)
        check_real("energy_variance", self.energy_variance, above=0.0)
        for name in ("step_size", "decoherence_length"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), above=0.0)
        if not self.num_tuning and (self.step_size is None or self.decoherence_length is None):
            raise ConfigError(
                "without tuning steps, step_size and decoherence_length must both be given; num_tuning of some "
                "hundreds finds them"
            )


class Point(NamedTuple):
    """Where a chain is, and whither it goes."""

    position: Float[Array, " dim"]
    direction: Float[Array, " dim"]  # of length 1
    log_density: Float[Array, ""]
    gradient: Float[Array, " dim"]


class MicrocanonicalTrace(NamedTuple):
    """What the tuning came to, and whether the steps kept to it."""

    step_size: Float[Array, ""]
    decoherence_length: Float[Array, ""]
    energy_variance: Float[Array, ""]  # mean of (energy error)^2 / d over the steps after the tuning
    lost: Int[Array, ""]  # those steps that ended at no finite energy and were taken back


def turn(
    direction: Float[Array, " dim"], gradient: Float[Array, " dim"], time: Float[Array, ""]
) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
    r"""The direction after a time in which the gradient stays the same, and the rise $\Delta K$ of the kinetic energy.

    With the unit vector e along the gradient, c = e.u and $\delta = t |g| / (d - 1)$,

    $$u' = \frac{u + e\,(\sinh \delta + c\,(\cosh \delta - 1))}{\cosh \delta + c \sinh \delta}, \qquad
    \Delta K = (d - 1) \log(\cosh \delta + c \sinh \delta);$$

    the map shrinks the volume of directions (d - 1 dimensions) by $e^{-\Delta K}$.
    """
    rest = direction.size - 1
    norm = jnp.linalg.norm(gradient)
    towards = gradient / jnp.maximum(norm, jnp.finfo(gradient.dtype).tiny)
    cosine = jnp.clip(jnp.dot(towards, direction), -1.0, 1.0)
    delta = time * norm / rest
    # All divided by exp(delta) / 2, which overflows where the gradient is steep.
    decay, lack = jnp.exp(-delta), -jnp.expm1(-delta)
    turned = 2.0 * decay * direction + lack * (1.0 + decay + cosine * lack) * towards
    rise = rest * (delta + jnp.log1p(0.5 * (1.0 - cosine) * jnp.expm1(-2.0 * delta)))
    # Rounding would let the length drift over many steps.
    return turned / jnp.linalg.norm(turned), rise


def leapfrog(
    value_and_gradient: ValueAndGradient, start: Point, step_size: Float[Array, ""]
) -> tuple[Point, Float[Array, ""]]:
    """Half a turn, a drift, half a turn: where it leads, and the energy error in nats. Reversible, of second order."""
    direction, first = turn(start.direction, start.gradient, 0.5 * step_size)
    position = start.position + step_size * direction
    log_density, gradient = value_and_gradient(position)
    direction, second = turn(direction, gradient, 0.5 * step_size)
    error = first + second - (log_density - start.log_density)
    return Point(position, direction, log_density, gradient), error


def refresh(
    noise: Float[Array, " dim"],
    direction: Float[Array, " dim"],
    time: Float[Array, ""],
    length: Float[Array, ""],
) -> Float[Array, " dim"]:
    """The direction after standard normal noise of that time: its mean is shorter by about exp(-time / length)."""
    turned = direction + jnp.sqrt(jnp.expm1(2.0 * time / length) / direction.size) * noise
    return turned / jnp.linalg.norm(turned)


def step(
    key: PRNGKeyArray,
    value_and_gradient: ValueAndGradient,
    start: Point,
    step_size: Float[Array, ""],
    length: Float[Array, ""],
) -> tuple[Point, Float[Array, ""], Bool[Array, ""]]:
    """Noise, a leapfrog, noise: where it leads, the energy error, and whether that is finite.

    Where it is not, the chain stays and turns back, and the error counts as zero.
    """
    # One draw for both: random numbers take longer to compile than the rest of a step.
    before, after = jax.random.normal(key, (2, start.position.size), start.position.dtype)
    half = 0.5 * step_size
    moved, error = leapfrog(
        value_and_gradient, start._replace(direction=refresh(before, start.direction, half, length)), step_size
    )
    moved = moved._replace(direction=refresh(after, moved.direction, half, length))
    fine = jnp.isfinite(error) & jnp.all(jnp.isfinite(moved.gradient))
    stay = start._replace(direction=-start.direction)
    point = jax.tree.map(lambda new, old: jnp.where(fine, new, old), moved, stay)
    return point, jnp.where(fine, error, 0.0), fine


def _phases(config: MicrocanonicalConfig) -> tuple[int, int, int]:
    """Steps that find the typical set, that measure it, and of each batch for the autocorrelation (0: too few)."""
    batch = config.num_tuning // 4 // _BATCHES
    if batch < 2 or config.decoherence_length is not None:
        batch = 0
    search = config.num_tuning // 2
    return search, config.num_tuning - search - batch * _BATCHES, batch


class _Tuning(NamedTuple):
    """Step size and what it is estimated from."""

    step_size: Float[Array, ""]
    largest: Float[Array, ""]  # that did not end at an infinite energy
    growth: Float[Array, ""]  # weighted sum of (squared energy error over the wanted one) / step^6
    weight: Float[Array, ""]
    seen: Float[Array, ""]  # time over which mean and squares are taken
    mean: Float[Array, " dim"]
    squares: Float[Array, " dim"]  # sums over time of squared deviations


def _tune_step(
    config: MicrocanonicalConfig, tuning: _Tuning, error: Array, fine: Array, index: Array, dim: int
) -> _Tuning:
    """The step size at which the squared error, growing as the sixth power, would be the wanted one.

    In the first half of the tuning it changes with every step, and errors far from the wanted one, for which the law
    of the sixth power does not hold, count little. That leaves out the rare large errors; so in the third quarter it
    changes after each of two blocks, to what the plain mean over the block asks for.
    """
    ratio = error**2 / (dim * config.energy_variance) + 1e-8
    search, measure, _ = _phases(config)
    since = index - search
    second = since >= 0
    block = max(1, measure // _BLOCKS)
    begins, ends = second & (since % block == 0), second & (since % block == block - 1)
    decay = jnp.where(second, jnp.where(begins, 0.0, 1.0), (_MEMORY - 1.0) / (_MEMORY + 1.0))
    trust = jnp.where(second, 1.0, jnp.exp(-0.5 * (jnp.log(ratio) / (6.0 * _TRUST)) ** 2))
    weight = jnp.where(fine, trust, 0.0)
    growth = decay * tuning.growth + weight * ratio / tuning.step_size**6
    total = decay * tuning.weight + weight
    largest = jnp.where(fine, tuning.largest, _SLOWER * tuning.step_size)
    changes = (~second | ends) & (total > 0)
    wanted = jnp.where(changes, growth / jnp.where(changes, total, 1.0), tuning.step_size**-6) ** (-1.0 / 6.0)
    step_size = jnp.minimum(wanted, jnp.minimum(largest, _FASTEST * tuning.step_size))
    return tuning._replace(step_size=step_size, largest=largest, growth=growth, weight=total)


def _measure(tuning: _Tuning, position: Array, time: Array) -> _Tuning:
    """Mean and spread of the positions, each weighing the time of its step; Welford's update."""
    seen = tuning.seen + time
    before = position - tuning.mean
    mean = tuning.mean + before * (time / jnp.maximum(seen, jnp.finfo(seen.dtype).tiny))
    return tuning._replace(seen=seen, mean=mean, squares=tuning.squares + time * before * (position - mean))


def sample_chain(
    key: PRNGKeyArray, start: Any, log_joint: LogJoint, inputs: Any, targets: Any, config: MicrocanonicalConfig
) -> tuple[Any, MicrocanonicalTrace]:
    """The draws of one chain, stacked in the order of time, and how it went.

    Args:
        key: draws directions and noise.
        start: parameter tree to start from.
        log_joint: what is sampled; its prior also whitens.
        inputs: all training inputs: each step takes the gradient of the whole data set.
        targets: one for each.
        config: steps and tuning.

    Raises:
        ConfigError: fewer than two parameters, on which there is no direction to turn.
        InputError: what `LogJoint.check_data` refuses.
    """
    flat, unravel = ravel_pytree(start)
    if flat.size < 2:
        raise ConfigError(f"microcanonical dynamics turn in at least 2 dimensions, got {flat.size} parameter")
    log_joint.check_data(start, inputs, targets)
    scales = jax.tree.map(lambda leaf, s: jnp.full(leaf.shape, s, leaf.dtype), start, log_joint.prior.scales(start))
    whitener = ravel_pytree(scales)[0]
    value_and_gradient = jax.value_and_grad(
        lambda position: log_joint.log_joint(unravel(position * whitener), inputs, targets)
    )
    first_key, tune_key, draw_key = jax.random.split(key, 3)
    position = flat / whitener
    noise = jax.random.normal(first_key, position.shape, position.dtype)
    point = Point(position, noise / jnp.linalg.norm(noise), *value_and_gradient(position))
    point, step_size, length = _tuned(tune_key, value_and_gradient, point, config)

    def one(point: Point, key: PRNGKeyArray) -> tuple[Point, tuple[Array, Array]]:
        point, error, fine = step(key, value_and_gradient, point, step_size, length)
        return point, (error**2 / flat.size, fine)

    def draw(point: Point, key: PRNGKeyArray) -> tuple[Point, tuple[Array, Array, Array]]:
        point, (squares, fine) = jax.lax.scan(one, point, jax.random.split(key, config.thinning))
        return point, (point.position, jnp.mean(squares), jnp.sum(~fine))

    _, (positions, squares, lost) = jax.lax.scan(draw, point, jax.random.split(draw_key, config.num_draws))
    draws = jax.vmap(lambda position: unravel(position * whitener))(positions)
    return draws, MicrocanonicalTrace(step_size, length, jnp.mean(squares), jnp.sum(lost))


def _tuned(
    key: PRNGKeyArray, value_and_gradient: ValueAndGradient, point: Point, config: MicrocanonicalConfig
) -> tuple[Point, Float[Array, ""], Float[Array, ""]]:
    """Where the chain is after the tuning, step size and L."""
    dim, dtype = point.position.size, point.position.dtype
    root = math.sqrt(dim)
    step_size = jnp.asarray(0.01 * root if config.step_size is None else config.step_size, dtype)
    length = jnp.asarray(root if config.decoherence_length is None else config.decoherence_length, dtype)
    if not config.num_tuning:
        return point, step_size, length
    zero, zeros = jnp.zeros((), dtype), jnp.zeros_like(point.position)
    tuning = _Tuning(step_size, jnp.asarray(jnp.finfo(dtype).max, dtype), zero, zero, zero, zeros, zeros)

    def one(carry: tuple[Point, _Tuning], at: tuple[Array, PRNGKeyArray]) -> tuple[tuple[Point, _Tuning], None]:
        (point, tuning), (index, key) = carry, at
        point, error, fine = step(key, value_and_gradient, point, tuning.step_size, length)
        counts = fine & (index >= search)
        tuning = _measure(tuning, point.position, jnp.where(counts, tuning.step_size, 0.0))
        return (point, _tune_step(config, tuning, error, fine, index, dim)), None

    search, measure, batch = _phases(config)
    key, batch_key = jax.random.split(key)
    steps = jnp.arange(search + measure), jax.random.split(key, search + measure)
    (point, tuning), _ = jax.lax.scan(one, (point, tuning), steps)
    if config.decoherence_length is None:
        spread = jnp.sqrt(jnp.sum(tuning.squares) / jnp.maximum(tuning.seen, jnp.finfo(dtype).tiny))
        # Shorter than a step it would be a random walk.
        length = jnp.maximum(spread, tuning.step_size)
    if batch:
        point, apart = _autocorrelation(batch_key, value_and_gradient, point, tuning.step_size, length, batch)
        length = jnp.maximum(_LENGTH_SHARE * tuning.step_size * apart, tuning.step_size)
    return point, tuning.step_size, length


def _autocorrelation(
    key: PRNGKeyArray, value_and_gradient: ValueAndGradient, point: Point, step_size: Array, length: Array, batch: int
) -> tuple[Point, Float[Array, ""]]:
    """Where the chain is after so many batches, and its integrated autocorrelation time in steps, the parameters' mean.

    By the variance of the batches' means: that of independent positions would be smaller by the number of steps in a
    batch. No position is kept, and what takes longer than a batch counts as a batch at most.
    """
    origin = point.position  # whose distances are summed, not positions: less is cancelled in the variance

    def one(carry: tuple[Point, Array, Array], key: PRNGKeyArray) -> tuple[tuple[Point, Array, Array], None]:
        point, total, squares = carry
        point, _, _ = step(key, value_and_gradient, point, step_size, length)
        moved = point.position - origin
        return (point, total + moved, squares + moved**2), None

    def all_of(point: Point, key: PRNGKeyArray) -> tuple[Point, tuple[Array, Array]]:
        start = point, jnp.zeros_like(origin), jnp.zeros_like(origin)
        (point, total, squares), _ = jax.lax.scan(one, start, jax.random.split(key, batch))
        return point, (total / batch, squares / batch)

    point, (means, squares) = jax.lax.scan(all_of, point, jax.random.split(key, _BATCHES))
    variance = jnp.mean(squares, axis=0) - jnp.mean(means, axis=0) ** 2
    moves = variance > 0
    ratio = batch * jnp.var(means, axis=0, ddof=1) / jnp.where(moves, variance, 1.0)
    return point, jnp.sum(jnp.where(moves, ratio, 0.0)) / jnp.maximum(jnp.sum(moves), 1)


def sample_chains(
    key: PRNGKeyArray, starts: Any, log_joint: LogJoint, inputs: Any, targets: Any, config: MicrocanonicalConfig
) -> tuple[Any, MicrocanonicalTrace]:
    """`sample_chain` from each of `config.num_chains` stacked parameter trees; leading axes (chain, draw) and (chain).

    Raises:
        ConfigError: fewer than two parameters, or another number of starts than of chains.
        InputError: what `LogJoint.check_data` refuses.
    """
    if num_stacked(starts) != config.num_chains:
        raise ConfigError(f"{config.num_chains} chains need as many starting points, got {num_stacked(starts)}")

    def chain(of_chain: tuple[Any, Any]) -> tuple[Any, MicrocanonicalTrace]:
        return sample_chain(*of_chain, log_joint, inputs, targets, config)

    @jax.jit
    def all_chains(keys: Any, starts: Any) -> tuple[Any, MicrocanonicalTrace]:
        if config.chains_at_once is None:
            return jax.vmap(lambda k, s: chain((k, s)))(keys, starts)
        return jax.lax.map(chain, (keys, starts), batch_size=config.chains_at_once)

    return all_chains(jax.random.split(key, config.num_chains), starts)


def microcanonical(
    init_member: Callable[[PRNGKeyArray], Any],
    log_joint: LogJoint,
    inputs: Any,
    targets: Any,
    config: MicrocanonicalConfig,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
) -> Posterior:
    """The draws of several chains in equal shares; the state is their stack, chain slowest.

    Args:
        init_member: initial parameters of one network from a key.
        log_joint: what is sampled.
        inputs: all training inputs, example axis first.
        targets: one for each.
        config: chains, steps and tuning.
        train: as in `deep_ensemble`, on the stack of `num_chains` networks: the warm start. Without it chains start at
            the initial parameters.
    """
    begin = init_and_train(init_member, config.num_chains, train)

    def init(key: PRNGKeyArray) -> Any:
        start_key, chain_key = jax.random.split(key)
        draws, _ = sample_chains(chain_key, begin(start_key), log_joint, inputs, targets, config)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)

    return draws_posterior(init, "microcanonical Langevin dynamics", "its draws are a finite list")
