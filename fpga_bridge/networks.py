"""Which networks the commands know: a JSON file of a model's configuration with its parameters, or a file of Keras.

The JSON holds the keys of the configuration and `model`, the name of the network (`healpix_classifier` where it is
left out); parameters are a safetensors file as `jaxgeo.files.save_tree` writes it: the tree `params`, or a tree with
`params` and `batch_stats` side by side.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dacite

from jaxgeo.errors import ConfigError
from jaxgeo.files import load_tree
from jaxgeo.layers.fixed_point import FixedPoint

DEFAULT_MODEL = "healpix_classifier"
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A network of `jaxgeo.models`: where it is, and the shape of a sample and the outputs that a config asks for."""

    module: str
    config_name: str
    model_name: str
    input_shape: Callable[[Any], tuple[int, ...]]
    num_outputs: Callable[[Any], int] = lambda config: config.num_classes

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
    "mlp": Kind("mlp", "MlpConfig", "Mlp", lambda config: (config.features,), lambda config: config.num_outputs),
    "planar_cnn": Kind(
        "planar_cnn", "CnnClassifierConfig", "CnnClassifier", lambda config: (config.size, config.size, config.channels)
    ),
    "svhn_cnn": Kind(
        "svhn_cnn", "SvhnCnnConfig", "SvhnCnn", lambda config: (config.size, config.size, config.channels)
    ),
    "resnet": Kind(
        "batch_norm_resnet", "BatchNormResNetConfig", "BatchNormResNet",
        lambda config: (config.size, config.size, config.channels),
    ),
    "enet": Kind("enet", "ENetConfig", "ENet", lambda config: (config.rows, config.columns, config.channels)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Described:
    """A network of `NETWORKS` with its configuration and variables (`params`, and `batch_stats` where it has them)."""

    name: str
    config: Any
    variables: Mapping[str, Any]

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
        """`apply(variables, x)` at inference, in the config's precision or in floating point."""
        config = self.config
        if not precision and self.precision is not None:
            config = dataclasses.replace(config, precision=None)
        return self.kind.model_class(config).apply


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
    name = tree.pop("model", DEFAULT_MODEL)
    if name not in NETWORKS:
        raise ConfigError(f"{path}: no network is called {name!r}; the key model may be {', '.join(NETWORKS)}")
    kind = NETWORKS[name]
    hooks = {FixedPoint: _format, float: lambda value: float(value) if isinstance(value, int) else value}
    options = dacite.Config(strict=True, cast=[tuple], type_hooks=hooks)
    try:
        return name, dacite.from_dict(kind.config_class, tree, options)
    except (dacite.DaciteError, TypeError) as error:
        raise ConfigError(f"{path} does not describe a {kind.model_name}: {error}") from error


def _format(value: Any) -> Any:
    return FixedPoint.parse(value) if isinstance(value, str) else value


def load_network(path: Path, params: Path | None, needs_precision: bool = False) -> Described:
    """A network of `NETWORKS` from its two files.

    Args:
        path: JSON.
        params: safetensors.
        needs_precision: whether formats must be in the configuration.

    Raises:
        ConfigError: as `load_config`; no parameters, parameters of another network, or no precision where needed.
        CorruptFileError, RunFolderError: parameters that cannot be read.
    """
    from fpga_bridge.checks import check_variables

    name, config = load_config(path)
    if params is None:
        raise ConfigError(f"{path} describes a network without its parameters; give their safetensors file too")
    if needs_precision and getattr(config, "precision", None) is None:
        raise ConfigError(
            f"{path} has no precision, and hardware needs formats; add the key precision, or export with --formats"
        )
    tree = load_tree(params)
    variables = tree if "params" in tree else {"params": tree}
    network = Described(name, config, variables)
    check_variables(network.kind.model_class(config), network.input_shape, variables)
    return network


def load_graph(path: Path, params: Path | None) -> Any:
    """The graph of either kind of file.

    Raises:
        ExportError: an operation, layer or quantiser that the bridge cannot carry.
        ConfigError, CorruptFileError, RunFolderError: as `load_network` and `load_keras_graph`.
    """
    if is_keras(path):
        from fpga_bridge.keras_files.qkeras_files import load_keras_graph

        return load_keras_graph(path, params)
    from fpga_bridge.tracing.trace import trace

    network = load_network(path, params)
    return trace(network.apply(), network.variables, network.input_shape)
