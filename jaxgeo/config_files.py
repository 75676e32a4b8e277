"""Configurations as files and nested dicts: unknown keys and wrong types are named, near ones suggested."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import dacite
import numpy as np

from jaxgeo.errors import ConfigError

Config = TypeVar("Config")
"""A frozen dataclass of values and of further such dataclasses."""

_RENAMED = {
    "attention_dropout": "attention_dropout_rate",
    "bfloat16": "compute_dtype",
    "context_drop": "context_dropout_rate",
    "dropout": "dropout_rate",
    "head_widths": "head_features",
    "input_channels": "channels",
    "num_outputs": "num_classes",
    "stochastic_depth": "stochastic_depth_rate",
    "widths": "features",
}  # settings in older files, and what they are called now


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON values: nested dicts, lists for tuples, Python's numbers for NumPy's."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=np.generic.item))


def _describe(expected: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if expected in names:
        return names[expected]
    if getattr(expected, "__origin__", None) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in expected.__args__)
    if getattr(expected, "__origin__", None) is tuple:
        return f"a list, each {_describe(expected.__args__[0])}"
    return "a table of keys" if dataclasses.is_dataclass(expected) else str(expected)


def _all_keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for field in dataclasses.fields(kind):
        keys.append(prefix + field.name)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            keys += _all_keys(field.type, f"{prefix}{field.name}.")
    return keys


def _check_keys(root: type, kind: type, values: Mapping[str, Any], hooks: Collection[Any], prefix: str = "") -> None:
    """Refuse unknown keys and what Python takes for a number but a person does not (true for 1)."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            everywhere = _all_keys(root)
            near = [prefix + other for other in difflib.get_close_matches(str(key), fields, 1)]
            near = near or [other for other in everywhere if other.split(".")[-1] == str(key)]
            near = near or difflib.get_close_matches(name, everywhere, 1, 0.7)
            hint = f"the nearest key is {near[0]}" if near else f"keys here are {', '.join(fields)}"
            if _RENAMED.get(key) in fields:
                hint = f"it is called {prefix}{_RENAMED[key]} now"
            raise ConfigError(f"unknown key {name} (value {value!r}) in the configuration; {hint}")
        expected: Any = fields[key].type
        if isinstance(expected, type) and dataclasses.is_dataclass(expected) and expected not in hooks:
            if not isinstance(value, Mapping):
                raise _wrong_type(name, expected, value)
            _check_keys(root, expected, value, hooks, f"{name}.")
        if getattr(expected, "__origin__", None) is tuple and not isinstance(value, list | tuple):
            raise _wrong_type(name, expected, value)
        items = value if isinstance(value, list | tuple) else [value]
        if expected is not bool and any(isinstance(item, bool) for item in items):
            raise _wrong_type(name, expected, value)


def _wrong_type(name: str, expected: Any, value: Any) -> ConfigError:
    return ConfigError(f"{name} must be {_describe(expected)}, got {value!r} of type {type(value).__name__}")


def _to_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def from_dict(
    kind: type[Config], values: Mapping[str, Any], type_hooks: Mapping[Any, Callable[[Any], Any]] | None = None
) -> Config:
    """A configuration of a kind from nested dicts; missing keys take its defaults.

    Args:
        kind: of configuration.
        values: by the names of its fields.
        type_hooks: for types that have a form of their own in files: what makes the value of a type of that form.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value; the message names the dotted key.
    """
    hooks = {float: _to_float, **(type_hooks or {})}
    _check_keys(kind, kind, values, hooks)
    settings = dacite.Config(strict=True, cast=[tuple], type_hooks=hooks)
    try:
        return dacite.from_dict(kind, dict(values), settings)
    except dacite.WrongTypeError as error:
        raise _wrong_type(str(error.field_path), error.field_type, error.value) from error
    except (dacite.DaciteError, TypeError) as error:  # a number cannot be cast to a tuple
        raise ConfigError(f"the configuration cannot be used: {error}") from error


def load_config(kind: type[Config], path: Path) -> Config:
    """A configuration of a kind from a `.json` or `.toml` file; missing keys take its defaults.

    Raises:
        ConfigError: the file cannot be read or parsed, or holds an unknown key, a wrong type or an impossible value.
    """
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        language = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(f"the configuration {path} is not valid {language}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration {path} must be a table of keys, got {type(values).__name__}")
    return from_dict(kind, values)


def check_same_settings(begun: Path, before: Any, now: Any, except_for: Collection[str] = ()) -> None:
    """Refuse to go on, under other settings, with what was begun.

    Args:
        begun: a file or folder, for the message.
        before: its settings, a configuration or its dictionary.
        now: the same settings as they are asked for.
        except_for: as for `first_difference`.

    Raises:
        ConfigError: they differ; with the first setting that does.
    """
    different = first_difference(before, now, except_for)
    if different:
        key, old, new = different
        raise ConfigError(f"{begun} was begun with {key} = {old!r}, not {new!r}; go on with that, or begin another")


def first_difference(one: Any, other: Any, except_for: Collection[str] = ()) -> tuple[str, Any, Any] | None:
    """Dotted key and both values of the first setting in which two configurations differ; None where equal.

    Of configurations, or of dictionaries with the same keys. Parts, and settings that belong to none, named in
    `except_for` may differ.
    """
    a, b = (tree if isinstance(tree, Mapping) else to_dict(tree) for tree in (one, other))
    for part, value in a.items():
        if part in except_for:
            continue
        if not (isinstance(value, dict) and isinstance(b[part], dict)):
            if value != b[part]:
                return part, value, b[part]
            continue
        for key in value:
            if value[key] != b[part].get(key):
                return f"{part}.{key}", value[key], b[part].get(key)
    return None
