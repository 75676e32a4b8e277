"""Which networks the commands know: a JSON file of a model's configuration with its parameters, or a file of Keras.

The JSON holds the keys of the configuration and `model`, the name of the network (`healpix_classifier` where it is
left out); parameters are a safetensors file as `jaxgeo.files.save_tree` writes it: the tree `params`, or a tree with
`params` and `batch_stats` side by side. Several such files, or one whose arrays all have an axis of members in front,
are an ensemble: its members read one input, and what it puts out is the mean of their outputs.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgeo.config_files import from_dict
from jaxgeo.errors import ConfigError
from jaxgeo.files import load_tree
from jaxgeo.layers.fixed_point import FixedPoint

DEFAULT_MODEL = "healpix_classifier"
_FORMER = {"resnet": "batch_norm_resnet"}  # names in older files
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A network of `jaxgeo.models`: where it is, and the shape of a sample that a config asks for."""

    module: str
    config_name: str
    model_name: str
    input_shape: Callable[[Any], tuple[int, ...]]

    @property
    def config_class(self) -> Any:
        """The configuration's class; imported here, as JAX takes seconds."""
        return getattr(importlib.import_module(f"jaxgeo.models.{self.module}"), self.config_name)

    @property
    def model_class(self) -> Any:
        """The linen module's class."""
        return getattr(importlib.import_module(f"jaxgeo.models.{self.module}"), self.model_name)


NETWORKS: dict[str, Kind] = {
    "healpix_classifier": Kind(
        "healpix_classifier", "HealpixClassifierConfig", "HealpixClassifier",
        lambda config: (12 * config.nside**2, config.channels),
    ),
    "mlp": Kind("mlp", "MlpConfig", "Mlp", lambda config: (config.channels,)),
    "planar_cnn": Kind(
        "planar_cnn", "CnnClassifierConfig", "CnnClassifier", lambda config: (config.size, config.size, config.channels)
    ),
    "svhn_cnn": Kind(
        "svhn_cnn", "SvhnCnnConfig", "SvhnCnn", lambda config: (config.size, config.size, config.channels)
    ),
    "batch_norm_resnet": Kind(
        "batch_norm_resnet", "BatchNormResNetConfig", "BatchNormResNet",
        lambda config: (config.size, config.size, config.channels),
    ),
    "enet": Kind("enet", "ENetConfig", "ENet", lambda config: (config.rows, config.columns, config.channels)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Described:
    """A network of `NETWORKS` with its configuration and variables (`params`, and `batch_stats` where it has them).

    Of an ensemble all arrays have an axis of `members` in front; None stands for one network without that axis.
    """

    name: str
    config: Any
    variables: Mapping[str, Any]
    members: int | None = None

    @property
    def kind(self) -> Kind:
        """Its entry in the registry."""
        return NETWORKS[self.name]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.kind.input_shape(self.config)

    @property
    def precision(self) -> Any:
        """The formats of its configuration; None without."""
        return getattr(self.config, "precision", None)

    def apply(self, precision: bool = True) -> Callable[[Any, Any], Any]:
        """`apply(variables, x)` at inference, in the config's precision or in floating point; the mean of members.

        With a precision a mean over other numbers of members than 2, 4, 8 ... is rounded to the format of each.

        Raises:
            ConfigError: members whose mean would be too large a table, see `jaxgeo.layers.rounded_mean`.
        """
        config = self.config
        if not precision and self.precision is not None:
            config = dataclasses.replace(config, precision=None)
        one = self.kind.model_class(config).apply
        if self.members is None:
            return one
        divides = self.members & (self.members - 1) == 0
        return _mean_of_members(one, self._format(one) if getattr(config, "precision", None) and not divides else None)

    def _format(self, one: Callable[[Any, Any], Any]) -> FixedPoint:
        """Of a member's outputs, rounded to nearest."""
        import jax

        from fpga_bridge.tracing.trace import trace
        from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types

        graph = trace(one, jax.tree.map(lambda leaf: leaf[0], self.variables), self.input_shape)
        result = plan_types(graph, FLOAT64_BITS)[graph.output].result
        return FixedPoint(result.width, result.integer, result.signed, "RND", "SAT")

    def predictive(self, bits: int, logit_integer: int) -> Callable[[Any, Any], Any]:
        """`apply(variables, x)` to mean probabilities, their entropy and the mutual information, joined; by tables.

        Args:
            bits: of every number, see `jaxgeo.layers.quantised_predictive.PredictivePrecision.uniform`.
            logit_integer: integer bits of a member's logits.
        """
        import jax
        import jax.numpy as jnp

        from jaxgeo.layers.quantised_predictive import PredictivePrecision, ensemble_predictive

        formats = PredictivePrecision.uniform(bits, self.config.num_classes, logit_integer)
        believed = ensemble_predictive(self.kind.model_class(self.config).apply, formats)

        def apply(variables: Any, x: Any) -> Any:
            stacked = variables if self.members is not None else jax.tree.map(lambda leaf: leaf[None], variables)
            return jnp.concatenate(believed(stacked, x), axis=-1)

        return apply


def _mean_of_members(one: Callable[[Any, Any], Any], format: FixedPoint | None) -> Callable[[Any, Any], Any]:
    def apply(stacked: Any, x: Any) -> Any:
        import jax

        from jaxgeo.layers.rounded_mean import rounded_mean

        each = jax.vmap(one, (0, None))(stacked, x)
        return each.mean(axis=0) if format is None else rounded_mean(each, format)

    return apply


def is_keras(path: Path) -> bool:
    """Whether a file is one of Keras: by its name, or for JSON by its keys.

    Raises:
        ConfigError: a `.json` that is not one JSON object.
    """
    return path.suffix in KERAS_SUFFIXES or {"class_name", "config"} <= _read(path).keys()


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold one JSON object with the keys of a network, got {type(tree).__name__}")
    return tree


def load_config(path: Path) -> tuple[str, Any]:
    """Name and configuration of a network; formats are objects or texts such as `ap_fixed<12,4,AP_RND,AP_SAT>`.

    Raises:
        ConfigError: for a file that is not JSON, an unknown network, an unknown key or a value of a wrong type.
    """
    tree = _read(path)
    named = "model" in tree
    name = str(tree.pop("model", DEFAULT_MODEL))
    name = _FORMER.get(name, name)
    if name not in NETWORKS:
        raise ConfigError(f"{path}: no network is called {name!r}; the key model may be {', '.join(NETWORKS)}")
    kind = NETWORKS[name]
    try:
        return name, from_dict(kind.config_class, tree, {FixedPoint: _format})
    except ConfigError as error:
        taken = "" if named else ", for which it is taken without the key model"
        raise ConfigError(f"{path} does not describe a {kind.model_name}{taken}: {error}") from error


def _format(value: Any) -> Any:
    return FixedPoint.parse(value) if isinstance(value, str) else value


def load_network(path: Path, params: Path | Sequence[Path] | None, needs_precision: bool = False) -> Described:
    """A network of `NETWORKS`, or an ensemble of them, from its files.

    Args:
        path: JSON.
        params: safetensors; of a network, of stacked members, or of one member each.
        needs_precision: whether formats must be in the configuration.

    Raises:
        ConfigError: as `load_config`; no parameters, parameters of another network, or no precision where needed.
        CorruptFileError, RunFolderError: parameters that cannot be read.
        InputError: parameters that are not finite.
    """
    from fpga_bridge.checks import check_finite, check_variables, count_members

    name, config = load_config(path)
    files = [params] if isinstance(params, Path) else list(params or ())
    if not files:
        raise ConfigError(f"{path} describes a network without its parameters; give their safetensors file too")
    if needs_precision and getattr(config, "precision", None) is None:
        raise ConfigError(
            f"{path} has no precision, and hardware needs formats; add the key precision, or export with --formats"
        )
    trees: list[Mapping[str, Any]] = [tree if "params" in tree else {"params": tree} for tree in map(load_tree, files)]
    network = Described(name, config, trees[0])
    model = network.kind.model_class(config)
    members = count_members(model, network.input_shape, trees[0]) if len(trees) == 1 else None
    if members is None:
        for file, tree in zip(files, trees, strict=True):
            check_variables(model, network.input_shape, tree, "the parameters" if len(files) == 1 else str(file))
    for file, tree in zip(files, trees, strict=True):
        check_finite(tree, str(file))
    if len(trees) > 1:
        members = len(trees)
        network = dataclasses.replace(network, variables=_stacked(trees))
    return dataclasses.replace(network, members=members)


def _stacked(trees: list[Mapping[str, Any]]) -> Any:
    import jax
    import numpy as np

    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def load_graph(path: Path, params: Path | Sequence[Path] | None, tables: FixedPoint | None = None) -> Any:
    """The graph of either kind of file.

    Args:
        path: of the configuration, or of Keras.
        params: of its parameters.
        tables: format in which functions are looked up, see `load_keras_graph` and `trace`.

    Raises:
        ConfigError: several files of parameters for one of Keras.
        ExportError: an operation, layer or quantiser that the bridge cannot carry.
        ConfigError, CorruptFileError, RunFolderError: as `load_network` and `load_keras_graph`.
    """
    if is_keras(path):
        from fpga_bridge.keras_files.qkeras_files import load_keras_graph

        files = [params] if isinstance(params, Path) else list(params or ())
        if len(files) > 1:
            raise ConfigError(f"{path} is a file of Keras, which takes one file of weights, got {len(files)}")
        return load_keras_graph(path, files[0] if files else None, tables)
    from fpga_bridge.tracing.trace import trace

    network = load_network(path, params)
    return trace(network.apply(), network.variables, network.input_shape, tables=tables)
