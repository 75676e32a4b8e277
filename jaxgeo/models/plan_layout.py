"""What of a configuration the tables of a network depend on: kept in its plan, so that a plan of another is refused."""

from typing import Any, TypeAlias

from jaxgeo.errors import InputError

Layout: TypeAlias = tuple[tuple[str, Any], ...]
"""names of settings and their values"""


def layout_of(config: Any, *names: str) -> Layout:
    """The named settings of a configuration."""
    return tuple((name, getattr(config, name)) for name in names)


def check_layout(needed: Layout, made_for: Layout) -> None:
    """Refuse a plan of another network.

    Args:
        needed: by the network.
        made_for: what the plan holds.

    Raises:
        InputError: a setting differs.
    """
    found = dict(made_for)
    for name, value in needed:
        if name not in found or found[name] != value:
            raise InputError(
                f"the configured network has {name} {value!r}, got a plan for {found.get(name)!r}; make the plan from "
                f"the network's own configuration"
            )
