r"""A report of equivariance: which layer of a model breaks it, by how much, and at which angles.

Two passes for each rotation R. In the first, the model runs on R x: the error of each layer's output against R times
its output on x has *accumulated* through all that came before. In the second, every named layer is handed the exactly
rotated input, and what it returns is replaced by the exactly rotated output: what a layer then does wrong is its *own*,
and what its input has wrong arose *before* it, since the last named layer, in whatever the model does between layers
(usually nonlinearities). So linear layers and nonlinear steps are measured apart.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.equivariance.capture import (
    Forced,
    Run,
    Seen,
    calls_of_modules,
    check_names,
    compiled,
    interceptor,
    matches,
    signal_place,
)
from jaxgeo.equivariance.domain_names import recognised, resolve
from jaxgeo.equivariance.domains import Domain
from jaxgeo.equivariance.meter import (
    DEFAULT_ANGLES_DEG,
    affine_sums,
    is_equal,
    plain,
    relative_error,
    rotations_by_angle,
    spectrum_of,
    turned,
    values_of,
)
from jaxgeo.equivariance.named_values import named_shapes, run_named_layers
from jaxgeo.errors import ConfigError

Kind = Literal["linear", "nonlinear"]
AnyDomain = Domain | str  # a `DomainName`
Layers = Mapping[str, AnyDomain | tuple[AnyDomain, AnyDomain]]
Errors = Float[np.ndarray, "angle draw"]

OUTPUT = "output"
_PARTS = ("own", "before", "accumulated", "out_of_band")


@dataclasses.dataclass(frozen=True)
class LayerErrors:
    """Relative errors of one layer, for each angle and drawn axis."""

    name: str
    kind: Kind | None  # found by trying; None for the output, which is no layer
    own: Errors | None  # of the layer by itself
    before: Errors  # of what the model does between the last named layer and this one
    accumulated: Errors  # of the layer's output in the whole model
    out_of_band: Errors  # part of this output that its domain's band does not hold, where no error is seen


@dataclasses.dataclass(frozen=True)
class EquivarianceReport:
    """Errors of all named layers in the order of their first call, and of the model's output as the last row."""

    angles_deg: Float[np.ndarray, " angle"]
    layers: tuple[LayerErrors, ...]

    @property
    def output(self) -> LayerErrors:
        """The row of the model's output; `accumulated` is the error of the whole model."""
        return self.layers[-1]

    @property
    def linear_error(self) -> float:
        """Largest error that a linear layer makes by itself; 0 where none was named."""
        return _largest(_worst(layer.own) for layer in self.layers if layer.kind == "linear")

    @property
    def nonlinear_error(self) -> float:
        """Largest error of a nonlinear layer by itself, or of what the model does between its named layers."""
        own = [_worst(layer.own) for layer in self.layers if layer.kind == "nonlinear"]
        return _largest([*own, *(_worst(layer.before) for layer in self.layers)])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON: mean and largest errors of each layer, and means by angle.

        JSON has no word for what is not finite: such a number is None, and the layers where it arises give a `reason`.
        """
        return {
            "angles_deg": [float(angle) for angle in self.angles_deg],
            "linear_error": _finite(self.linear_error),
            "nonlinear_error": _finite(self.nonlinear_error),
            "layers": [
                {"name": layer.name, "kind": layer.kind} | {part: _summary(getattr(layer, part)) for part in _PARTS}
                for layer in self.layers
            ],
        }

    def to_json(self) -> str:
        """`to_dict` as one line."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def table(self) -> str:
        """Mean errors of each layer as text."""
        width = max(len(layer.name) for layer in self.layers)
        heads = f"{'before':>8}  {'own':>8}  {'accumulated':>11}  {'out_of_band':>11}"
        lines = [f"{'layer':{width}}  {'kind':9}  {heads}"]
        for layer in self.layers:
            own = "" if layer.own is None else f"{layer.own.mean():.1e}"
            ends = f"{layer.accumulated.mean():11.1e}  {layer.out_of_band.mean():11.1e}"
            cells = f"{layer.before.mean():8.1e}  {own:>8}  {ends}"
            lines.append(f"{layer.name:{width}}  {layer.kind or '':9}  {cells}")
        return "\n".join(lines)


class Stage(NamedTuple):
    """One step of a model that is written as a list of functions."""

    name: str
    function: Callable[[Any], Any]
    target: AnyDomain  # of the function's result


def report_equivariance(
    model: Callable[..., Any],
    arguments: Sequence[Any],
    source: AnyDomain,
    target: AnyDomain,
    *,
    layers: Layers | None = None,
    key: PRNGKeyArray,
    angles_deg: Sequence[float | int] = DEFAULT_ANGLES_DEG,
    draws: int = 2,
) -> EquivarianceReport:
    """Where a model breaks equivariance: layer by layer, angle by angle, linear and nonlinear parts apart.

    Args:
        model: pure and deterministic, called with the arguments: `functools.partial(module.apply, variables)`, any
            function that applies linen modules somewhere inside, or one without such modules, of which the values are
            looked at that it names: `x = jax.ad_checkpoint.checkpoint_name(x, "pooled")`. Each is a layer then, from
            the named values before it to itself.
        arguments: its arguments; the first one that is an array (and no plan) is the signal, with batch axes.
        source: domain of the signal, or its name; `domain_names` lists them.
        target: domain of the result.
        layers: which linen modules, or named values, to look at. By default all whose input and output have shapes that
            tell the domain (`domain_names.recognised`), without those that contain such modules; what a shape does not
            tell (another grid of pictures than the signal's) must be named. That is a pattern for the module's path
            (`fnmatch`, such as "trunk/hidden_layers_*") to the domains of its input and output, or one domain for both.
            A module's first array among its arguments is its input; of a named value only the output's domain counts.
            The first pattern that matches counts, and modules that no pattern matches are not looked at. Modules that
            contain each other cannot be looked at together.
        key: draws the axes.
        angles_deg: angles of the rotations.
        draws: axes for each angle.

    Raises:
        ConfigError: a pattern that matches nothing, or modules that contain each other.
        InputError: an array is none of its domain, or there is no signal among the arguments.
    """
    place = signal_place(arguments, "the model")
    known: dict[tuple, Domain] = {}
    source = resolve(source, arguments[place], known)
    calls = calls_of_modules(lambda: model(*arguments))
    named = {} if calls else named_shapes(_of_signal(model, arguments, place), arguments[place])
    wanted = _recognised_layers(calls, arguments[place], source, known) if layers is None else dict(layers)
    targets = _named_targets(named, layers, arguments[place], source, known)
    in_line = _in_line(source, targets)

    if isinstance(model, functools.partial):
        # A pytree, so that parameters are arguments of the compiled program and no constants to be folded.
        model = jax.tree_util.Partial(model.func, *model.args, **model.keywords)

    def run(constants: Any, values: Any, forced: Forced) -> tuple[Seen, Any]:
        model, arguments = constants
        function = _of_signal(model, arguments, place)
        if named:
            return run_named_layers(function, values, targets, forced)
        seen: Seen = {}
        with nn.intercept_methods(interceptor(wanted, seen, forced)):
            result = function(values)
        return seen, result

    def domains(name: str) -> tuple[AnyDomain, AnyDomain]:
        if named:
            return in_line[name]
        found = next(wanted[pattern] for pattern in wanted if matches(pattern, name))
        return found if isinstance(found, tuple) else (found, found)

    program = functools.partial(compiled(run), (model, tuple(arguments)))
    return _report(program, domains, wanted, arguments[place], source, target, known, key, angles_deg, draws)


def report_stages(
    stages: Sequence[Stage],
    values: Any,
    source: AnyDomain,
    *,
    key: PRNGKeyArray,
    angles_deg: Sequence[float | int] = DEFAULT_ANGLES_DEG,
    draws: int = 2,
) -> EquivarianceReport:
    """The same for a model that is a list of functions, each acting on the result of the one before.

    Args:
        stages: names, functions of one array, and the domains of their results. Names are unique.
        values: an array of the source, with batch axes.
        source: domain of the first function's argument, or its name.
        key: draws the axes.
        angles_deg: angles of the rotations.
        draws: axes for each angle.

    Raises:
        ConfigError: no stage, or two of one name.
        InputError: an array is none of its domain.
    """
    targets = {stage.name: stage.target for stage in stages}
    if not stages or len(targets) < len(stages):
        raise ConfigError(f"stages need names of their own, got {[stage.name for stage in stages]}")

    def run(values: Any, forced: Forced) -> tuple[Seen, Any]:
        seen: Seen = {}
        for stage in stages:
            before = values
            values = stage.function(before if forced is None else forced[stage.name][0])
            seen[stage.name] = before, values
            if forced is not None:
                values = forced[stage.name][1]
        return seen, values

    domains = _in_line(source, targets).__getitem__
    return _report(compiled(run), domains, {}, values, source, stages[-1].target, {}, key, angles_deg, draws)


def _in_line(source: AnyDomain, targets: Mapping[str, AnyDomain]) -> dict[str, tuple[AnyDomain, AnyDomain]]:
    """Domains of input and output of layers that act one after the other."""
    return dict(zip(targets, itertools.pairwise([source, *targets.values()]), strict=True))


def _of_signal(model: Callable[..., Any], arguments: Sequence[Any], place: int) -> Callable[[Any], Any]:
    """The model as a function of its signal."""
    return lambda values: model(*arguments[:place], values, *arguments[place + 1 :])


def _named_targets(
    shapes: Mapping[str, Any], layers: Layers | None, example: Any, source: Domain, known: dict[tuple, Domain]
) -> dict[str, AnyDomain]:
    """Domains of named values, as their shapes tell or as the caller says."""
    targets: dict[str, AnyDomain] = {}
    for name, shape in shapes.items():
        if layers is None:
            found = recognised(shape, example, source, known)
        else:
            found = next((layers[pattern] for pattern in layers if matches(pattern, name)), None)
        if found is not None:
            targets[name] = found[-1] if isinstance(found, tuple) else found
    return targets


def _recognised_layers(
    calls: Mapping[str, Sequence[tuple[Any, Any]]], example: Any, source: Domain, known: dict[tuple, Domain]
) -> dict[str, tuple[Domain, Domain]]:
    """Domains of input and output of all modules that have them, the same in each call, but for those around others."""
    found: dict[str, tuple[Domain, Domain]] = {}
    for path, shapes in calls.items():
        pairs = [tuple(recognised(values, example, source, known) for values in pair) for pair in shapes]
        first, second = pairs[0]
        if first is not None and second is not None and all(a is first and b is second for a, b in pairs):
            found[path] = first, second
    return {path: pair for path, pair in found.items() if not any(other.startswith(f"{path}/") for other in found)}


def _report(
    run: Run,
    domains_of_layer: Callable[[str], tuple[AnyDomain, AnyDomain]],
    wanted: Layers,
    values: Any,
    source: AnyDomain,
    target: AnyDomain,
    known: dict[tuple, Domain],
    key: PRNGKeyArray,
    angles_deg: Sequence[float | int],
    draws: int,
) -> EquivarianceReport:
    source = resolve(source, values, known)
    spectrum = spectrum_of(source, values)
    seen, result = run(values_of(source, spectrum), None)
    check_names(wanted, seen)
    target = resolve(target, result, known)
    order = list(seen)
    exact: dict[str, list[tuple[Domain, Any]]] = {}
    for name in order:
        pairs = zip(domains_of_layer(name), seen[name], strict=True)
        resolved = [(resolve(domain, array, known), array) for domain, array in pairs]
        exact[name] = [(domain, spectrum_of(domain, array)) for domain, array in resolved]
    exact[OUTPUT] = [(target, spectrum_of(target, result))]
    kinds = _kinds(run, seen, values) if order else {}
    matrices = rotations_by_angle(key, angles_deg, draws, spectrum.real.dtype)
    shape = len(angles_deg), draws
    errors: dict[str, dict[str, np.ndarray]] = {name: {part: np.zeros(shape) for part in _PARTS} for name in exact}
    for at in np.ndindex(*shape):
        matrix = matrices[at]
        moved = {name: [turned(domain, x, matrix) for domain, x in pair] for name, pair in exact.items()}
        images: Seen = {}
        for name in order:
            (first, _), (second, _) = exact[name]
            images[name] = values_of(first, moved[name][0]), values_of(second, moved[name][1])
        rotated = values_of(source, turned(source, spectrum, matrix))
        through, through_result = run(rotated, None)
        # Without layers to force, this is the same run.
        alone, alone_result = run(rotated, images) if order else (through, through_result)
        for name in order:
            (domain_in, _), (domain_out, _) = exact[name]
            expected_in, expected_out = moved[name]
            found = errors[name]
            found["before"][at] = _errors(domain_in, alone[name][0], expected_in)[0]
            found["own"][at] = _errors(domain_out, alone[name][1], expected_out)[0]
            found["accumulated"][at], found["out_of_band"][at] = _errors(domain_out, through[name][1], expected_out)
        found = errors[OUTPUT]
        found["before"][at] = _errors(target, alone_result, moved[OUTPUT][0])[0]
        found["accumulated"][at], found["out_of_band"][at] = _errors(target, through_result, moved[OUTPUT][0])
    rows = [LayerErrors(name, kinds[name], **errors[name]) for name in order]
    last = LayerErrors(OUTPUT, None, **{**errors[OUTPUT], "own": None})
    return EquivarianceReport(np.asarray(angles_deg, float), (*rows, last))


def _kinds(run: Run, seen: Seen, values: Any) -> dict[str, Kind]:
    """Whether f(x + y) + f(0) = f(x) + f(y) for each layer; y is x with its entries in reverse."""

    def outputs(change: Callable) -> dict[str, Any]:
        changed, images = jax.tree.map(change, (values, seen))
        return {name: result for name, (_, result) in run(changed, images)[0].items()}

    left, right = affine_sums(outputs)
    return {name: "linear" if is_equal(left[name], right[name]) else "nonlinear" for name in seen}


@eqx.filter_jit
def _errors(domain: Domain, values: Any, expected: Array) -> tuple[Array, Array]:
    """Of the spectrum, and the part of the values that has none."""
    spectrum = domain.spectrum(values)
    return relative_error(spectrum, expected), relative_error(domain.values(spectrum), values)


def _worst(errors: Errors | None) -> float:
    return 0.0 if errors is None else float(errors.max())


def _largest(errors: Iterable[float]) -> float:
    """NaN where one error is: Python's `max` drops it or not, by its place."""
    return float(np.max(list(errors), initial=0.0))


def _summary(errors: Errors | None) -> dict[str, Any] | None:
    if errors is None:
        return None
    by_angle = [float(error) for error in errors.mean(-1)]
    return plain({"mean": float(errors.mean()), "worst": float(errors.max()), "mean_by_angle": by_angle}, errors)


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None
