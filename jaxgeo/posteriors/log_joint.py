r"""The one log joint $\log p(D \mid \theta) + \log p(\theta)$ that training, every family and HMC share.

What is compared with the HMC reference is then the approximation, never a different prior, temperature or loss.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import flax.core
import flax.errors
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_fields, check_real, check_whole
from jaxgeo.posteriors.base import Apply, normal_like
from jaxgeo.training.ensemble import Objective
from jaxgeo.training.examples import (
    CheckedObjective,
    check_finite,
    check_labels,
    check_regression_targets,
    check_rows,
)
from jaxgeo.training.losses import cross_entropy

Likelihood: TypeAlias = Callable[[Array, Array], Array]
"""`likelihood(predictions, targets)`: log-probability of each single prediction, in nats, example axis first.

Further axes, such as pixels, are independent given the parameters: an example's log-probability is the sum over them.

One that `ChecksTargets` is asked wherever data come in."""


@runtime_checkable
class ChecksTargets(Protocol):
    """A likelihood that knows which targets it has a meaning for."""

    def check_targets(self, predictions: jax.ShapeDtypeStruct, targets: Any) -> None:
        """Refuse other targets of predictions of this shape (`InputError`)."""
        ...


@dataclasses.dataclass(frozen=True)
class GaussianPrior:
    r"""Independent $N(0, s^2)$ on every weight, with one $s$ per leaf.

    With `fan_in`, a kernel (two or more axes, the last one being the output) gets `scale` / sqrt(product of its
    other axes), so that the prior of the activations does not grow with the width; vectors and scalars get
    `bias_scale`. Without it every leaf gets `scale`, and there must be no `bias_scale`.
    """

    scale: float = 1.0
    fan_in: bool = True
    bias_scale: float | None = None  # None: as `scale`

    def __post_init__(self) -> None:
        """Refuse scales that are not finite and positive, or would not be looked at."""
        check_fields(self)
        check_real("the scale of the Gaussian prior", self.scale, above=0.0)
        if self.bias_scale is not None:
            check_real("bias_scale of the Gaussian prior", self.bias_scale, above=0.0)
            if not self.fan_in:
                raise ConfigError(
                    f"without fan_in every parameter of the Gaussian prior has the scale {self.scale:g}, got "
                    f"bias_scale {self.bias_scale:g} too; leave it out, or take fan_in=True"
                )

    def leaf_scale(self, shape: tuple[int, ...]) -> float:
        """Standard deviation of each entry of a leaf of this shape."""
        if not self.fan_in:
            return self.scale
        if len(shape) < 2:
            return self.scale if self.bias_scale is None else self.bias_scale
        return self.scale / math.sqrt(math.prod(shape[:-1]))

    def scales(self, params: Any) -> Any:
        """A tree like `params` with the standard deviation of each leaf as a Python number."""
        return jax.tree.map(lambda leaf: self.leaf_scale(tuple(leaf.shape)), params)

    def log_prob(self, params: Any) -> Float[Array, ""]:
        """Normalised log-density of one parameter tree, in nats."""
        terms = jax.tree.map(
            lambda leaf, s: jnp.sum(jax.scipy.stats.norm.logpdf(leaf, 0.0, s)), params, self.scales(params)
        )
        return jnp.sum(jnp.stack(jax.tree.leaves(terms)))

    def sample(self, key: PRNGKeyArray, like: Any) -> Any:
        """A draw with the shapes and dtypes of `like`."""
        return jax.tree.map(lambda noise: self.leaf_scale(tuple(noise.shape)) * noise, normal_like(key, like))


@dataclasses.dataclass(frozen=True)
class CategoricalLikelihood:
    """Classification: the softmax of the logits, untempered. `categorical` is the one there is."""

    def __call__(
        self, logits: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Log-probability of each label, in nats."""
        return -cross_entropy(logits, labels)

    def check_targets(self, predictions: jax.ShapeDtypeStruct, targets: Any) -> None:
        """Refuse targets that are no labels of the classes that are predicted (`InputError`)."""
        check_labels(targets, predictions.shape[:-1], predictions.shape[-1])


categorical = CategoricalLikelihood()


@dataclasses.dataclass(frozen=True)
class GaussianLikelihood:
    """Regression with known noise: log N(target; prediction, scale^2), summed over the last axis."""

    scale: float

    def __post_init__(self) -> None:
        """Refuse scales that are not finite and positive."""
        check_real("the noise scale of the Gaussian likelihood", self.scale, above=0.0)

    def __call__(
        self, predictions: Float[Array, "*batch out"], targets: Float[Array, "*batch out"]
    ) -> Float[Array, "*batch"]:
        """Log-density of each target, in nats."""
        return jnp.sum(jax.scipy.stats.norm.logpdf(targets, predictions, self.scale), axis=-1)

    def check_targets(self, predictions: jax.ShapeDtypeStruct, targets: Any) -> None:
        """Refuse targets that are not finite or would be broadcast against the predictions (`InputError`)."""
        check_regression_targets(targets, predictions.shape)


@dataclasses.dataclass(frozen=True)
class LogJoint:
    """A network, a prior on its parameters and a likelihood of its predictions; no temperature anywhere.

    Every method but `check_data` is a pure function of its arguments and can be jitted, differentiated and vmapped.
    """

    apply: Apply
    prior: GaussianPrior = GaussianPrior()
    likelihood: Likelihood = categorical

    def check_data(self, params: Any, inputs: Any, targets: Any) -> int:
        """Refuse data whose log likelihood would be a number without a meaning.

        What takes data calls this. Values are looked at where they are known, which is outside of traced functions.

        Args:
            params: of one network, arrays or their shapes.
            inputs: all inputs, example axis first.
            targets: one for each.

        Returns:
            The number of examples.

        Raises:
            InputError: no examples, inputs and targets of different numbers, parameters or inputs that are NaN or
                infinite, or targets that the likelihood refuses: labels that are no classes of the network, regression
                targets of another shape than its predictions.
            ConfigError: the network needs a random key or changes a running state to predict, or `params` are all the
                collections of a Flax module: it is no function of parameters alone (`pure_apply`); or they are those of
                another Flax module than the network.
        """
        number = check_rows(inputs, targets)
        check_only_params(params)
        check_finite("the parameters", params)
        check_finite("the inputs", inputs)
        with _function_of_parameters("the network"):
            predictions = jax.eval_shape(self.apply, params, inputs)
        if isinstance(self.likelihood, ChecksTargets):
            self.likelihood.check_targets(predictions, targets)
        return number

    def log_likelihood(self, params: Any, inputs: Any, targets: Any) -> Float[Array, ""]:
        """Sum over all examples of the log-probability of the target, in nats."""
        return jnp.sum(self.likelihood(self.apply(params, inputs), targets))

    def log_likelihoods_of_examples(self, params: Any, inputs: Any, targets: Any) -> Float[Array, " example"]:
        """Log-probability of each example's targets, in nats: a sum over all that is predicted of it, such as pixels.

        Sums of this, and means, are those of examples, whose number is that of the rows of the data.
        """
        each = self.likelihood(self.apply(params, inputs), targets)
        return jnp.sum(each, axis=tuple(range(1, each.ndim)))

    def log_likelihoods(self, num_batches: int, params: Any, inputs: Any, targets: Any) -> Float[Array, " prediction"]:
        """Log-probability of each single prediction's target, in nats, for equal parts of the examples in turn.

        As many for an example as the likelihood gives, such as one for each pixel: the finest pieces of their sum,
        whose changes keep the most digits.

        Raises:
            ConfigError: the examples do not fall into so many equal parts.
        """
        parts = _in_parts(num_batches, inputs, targets)

        def of_part(part: tuple[Any, Any]) -> Array:
            return self.likelihood(self.apply(params, part[0]), part[1])

        # Derivatives go through the parts again, so that no part's activations outlive it.
        each = jax.lax.map(jax.checkpoint(of_part) if num_batches > 1 else of_part, parts)
        return each.reshape(-1)

    def log_prior(self, params: Any) -> Float[Array, ""]:
        """Normalised log prior, in nats."""
        return self.prior.log_prob(params)

    def log_joint(self, params: Any, inputs: Any, targets: Any) -> Float[Array, ""]:
        """Log likelihood of the whole data set plus log prior, in nats."""
        return self.log_likelihood(params, inputs, targets) + self.log_prior(params)

    def log_likelihood_in_batches(self, num_batches: int, params: Any, inputs: Any, targets: Any) -> Float[Array, ""]:
        """The log likelihood summed over equal parts of the examples, one part in memory at a time.

        Its derivatives go through the parts again, so that no part's activations outlive it.

        Raises:
            ConfigError: the examples do not fall into so many equal parts.
        """
        parts = _in_parts(num_batches, inputs, targets)

        @jax.checkpoint
        def add(total: Array, part: tuple[Any, Any]) -> tuple[Array, None]:
            return total + self.log_likelihood(params, *part), None

        return jax.lax.scan(add, jnp.zeros_like(self.log_prior(params)), parts)[0]

    def log_joint_in_batches(self, num_batches: int, params: Any, inputs: Any, targets: Any) -> Float[Array, ""]:
        """The log joint by `log_likelihood_in_batches`.

        Raises:
            ConfigError: the examples do not fall into so many equal parts.
        """
        return self.log_prior(params) + self.log_likelihood_in_batches(num_batches, params, inputs, targets)

    def objective(self, num_train: int) -> Objective:
        """Minus the log joint per training example, estimated on a batch.

        The mean over a batch of the examples' negative log-likelihoods, each summed over all that is predicted of it,
        plus (minus log prior) / N: an unbiased estimate of -log_joint / N when each batch is a uniform sample of the N
        training examples. Its minimum is the MAP. Asked for again it is equal, so training with it is not compiled
        again.

        Raises:
            ConfigError: `num_train` is below one.
        """
        check_whole("the number of training examples", num_train)
        return CheckedObjective(_PerExample(self, num_train), self._check)

    def _check(self, params: Any, inputs: Any, targets: Any) -> None:
        self.check_data(params, inputs, targets)


@dataclasses.dataclass(frozen=True)
class _PerExample:
    """The function of `LogJoint.objective`, equal where what it is made of is."""

    log_joint: LogJoint
    num_train: int

    def __call__(self, params: Any, key: Any, inputs: Any, targets: Any) -> Float[Array, ""]:
        del key  # deterministic given the batch
        mean = jnp.mean(self.log_joint.log_likelihoods_of_examples(params, inputs, targets))
        return -mean - self.log_joint.log_prior(params) / self.num_train


def _in_parts(num_batches: int, inputs: Any, targets: Any) -> tuple[Any, Any]:
    number = jax.tree.leaves(targets)[0].shape[0]
    if num_batches < 1 or number % num_batches:
        raise ConfigError(
            f"{number} examples do not fall into {num_batches} equal parts; take a number of parts that divides the "
            f"number of examples"
        )
    return jax.tree.map(lambda x: x.reshape(num_batches, -1, *x.shape[1:]), (inputs, targets))


def pure_apply(
    module: nn.Module,
    example: Any,
    *,
    plans: tuple[Any, ...] = (),
    frozen: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Apply:
    """`apply(params, inputs)` of a Flax module, after checking that its parameters are its only state.

    A network with batch norms has running statistics beside its parameters. As `frozen` constants, usually those of one
    trained network, they make it a function of its parameters, the same for all members, chains and families:

        apply = pure_apply(network, images[:1], frozen={"batch_stats": variables["batch_stats"]}, train=False)

    Args:
        module: the network.
        example: inputs of the shape that it takes (only the shape is used).
        plans: what the network takes before its inputs, as `plan_*` made it.
        frozen: every collection of the module but `params`, with the values that it keeps for ever.
        arguments: passed on to `module.apply`, e.g. `train=False`.

    Raises:
        ConfigError: the module has further collections (such as batch statistics) that are not frozen, or other ones
            than are; it would change them while it predicts; or it needs a random key to predict: its output is then
            no function of the parameters, and no log joint exists.
    """
    name = type(module).__name__
    example = jax.eval_shape(jnp.asarray, example)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), *plans, x, **arguments), example)
    if "params" not in variables:
        raise ConfigError(f"{name} keeps no parameters, but a log joint is a function of them")
    constants = jax.tree.map(jnp.asarray, dict(frozen or {}))
    _check_frozen(name, {key: tree for key, tree in variables.items() if key != "params"}, constants)

    def apply(params: Any, inputs: Any) -> Array:
        return module.apply({"params": params, **constants}, *plans, inputs, **arguments)  # pyright: ignore[reportReturnType]

    with _function_of_parameters(name):
        jax.eval_shape(apply, variables["params"], example)
    return apply


def check_only_params(tree: Any) -> None:
    """Refuse the variables of a Flax module where its parameters are asked for.

    What a prior is put on, and what moves, is the whole tree: a running variance would be sampled like a weight.

    Raises:
        ConfigError: a further collection stands beside `params`, or `batch_stats` at the top.
    """
    top = set(tree) if isinstance(tree, Mapping) else set()
    others = sorted(map(str, top - {"params"}))
    if others and top & {"params", "batch_stats"}:
        raise ConfigError(
            f"parameters alone are sampled and trained, got the collections {sorted(map(str, top))} of a module, of "
            f"which {', '.join(others)} would be taken for weights; give variables['params'], and the network by "
            f"pure_apply(module, inputs, frozen=...)"
        )


@contextlib.contextmanager
def _function_of_parameters(network: str) -> Iterator[None]:
    """While a network's shapes are found: errors of Flax that say that parameters are not all it depends on."""
    try:
        yield
    except (
        flax.errors.ApplyScopeInvalidVariablesTypeError,
        flax.errors.ApplyScopeInvalidVariablesStructureError,
        flax.errors.ScopeCollectionNotFound,
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ScopeParamShapeError,
    ) as error:
        raise ConfigError(
            f"{network} does not find its parameters in the tree given ({str(error).partition(' (http')[0]}); the "
            f"function pure_apply(module, inputs) takes the tree module.init(...)['params'] of the same configuration, "
            f"and as frozen=... what the module keeps beside it, such as batch_stats"
        ) from error
    except flax.errors.InvalidRngError as error:
        raise ConfigError(
            f"{network} needs a random key to predict, but a log joint is a function of the parameters alone; draw "
            f"the noise on the parameter tree (jaxgeo.posteriors.mc_dropout) or pass deterministic=True"
        ) from error
    except flax.errors.ModifyScopeVariableError as error:
        raise ConfigError(
            f"{network} changes its running statistics while it predicts, as in training, but a log joint is a "
            f"function of the parameters alone; pass what the module takes to predict by those it has, such as "
            f"train=False"
        ) from error


def _check_frozen(name: str, found: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
    others = sorted(set(found) - set(constants))
    if others:
        raise ConfigError(
            f"{name} keeps {', '.join(others)}, but a log joint is a function of the parameters alone; give them as "
            f"constants (frozen={{{others[0]!r}: variables[{others[0]!r}], ...}} of a trained network, with "
            f"train=False), or use layers without running state (layer norm in place of batch norm)"
        )
    shapes = [
        jax.tree.map(lambda leaf: tuple(leaf.shape), flax.core.unfreeze(dict(tree))) for tree in (constants, found)
    ]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"frozen must be the collections of {name} beside its parameters, of the shapes {shapes[1]}, got "
            f"{shapes[0]}"
        )
