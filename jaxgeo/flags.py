"""Flags of commands: every setting of a configuration is one, laid over settings that other flags bring."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

Command = tuple[str, Callable[[Sequence[str]], int]]
"""what a command does, in a line, and the function of the words behind its name that returns its status"""


def switch(text: str) -> Any:
    """The type of a flag of a command's own that is set or left out; settings have a pair of flags, on and off."""
    return tyro.conf.FlagCreatePairsOff[Annotated[bool, tyro.conf.arg(help=text)]]


def find(prog: str, argv: Sequence[str], wanted: Mapping[str, Mapping[str, Any]]) -> tuple[Any, list[str]]:
    """Flags that are wanted before the others are parsed, because the defaults of those come from them.

    Args:
        prog: the command.
        argv: what follows it.
        wanted: arguments of `add_argument` by flag.

    Returns:
        Their values, and the words without them.
    """
    first = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog} --help")
    for flag, how in wanted.items():
        first.add_argument(flag, **how)
    known, rest = first.parse_known_args(argv)
    return known, rest


def parse(prog: str, what: str, fields: Sequence[tuple[Any, ...]], base: Any, argv: Sequence[str]) -> Any:
    """The options of a command.

    Args:
        prog: the command.
        what: it does, the text above its flags.
        fields: flags of its own, as `dataclasses.make_dataclass` takes them.
        base: a configuration whose values are the defaults, and whose keys are flags too; None for none.
        argv: what follows the command.

    Returns:
        The values of the fields, by name; where there is a base, the configuration without its checks as `settings`.
    """
    fields = list(fields)
    if base is not None:
        flags = unchecked(type(base))
        values = dataclasses.field(default_factory=lambda: unchecked_instance(flags, base))
        fields.append(("settings", Annotated[flags, tyro.conf.arg(name="")], values))
    kind = dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"__doc__": what})
    return tyro.cli(kind, prog=prog, args=list(argv))


def unchecked(kind: Any) -> Any:
    """The same kind without its checks, for flags: tyro would wrap the checks' sentences in its own words."""
    fields = [
        (field.name, unchecked(field.type), dataclasses.field())
        for field in dataclasses.fields(kind)
        if dataclasses.is_dataclass(field.type)
    ]
    namespace = {"__post_init__": lambda self: None, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return dataclasses.make_dataclass(
        kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True, namespace=namespace
    )


def unchecked_instance(kind: Any, values: Any) -> Any:
    """An unchecked instance with the values of a checked one."""
    parts = {}
    for field in dataclasses.fields(kind):
        value = getattr(values, field.name)
        parts[field.name] = unchecked_instance(field.type, value) if dataclasses.is_dataclass(field.type) else value
    return kind(**parts)
