"""The report's main tables for the terminal: drawn by Rich, plain text where the output is piped."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_COLUMNS = 160


def _text(cell: Any) -> str:
    if isinstance(cell, Mapping):
        return f"{cell['value']} ± {cell['error']}" if cell["error"] else str(cell["value"])
    return str(cell)


def print_tables(tables: Sequence[Mapping[str, Any]], stream: Any) -> None:
    """Write tables as `page.table` makes them.

    Args:
        tables: with their titles; notes belong to the page.
        stream: a terminal, which decides on colour and width, or any other text stream.
    """
    console = Console(file=stream, width=None if stream.isatty() else _PIPED_COLUMNS, highlight=False)
    for content in tables:
        table = Table(title=content["title"], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for i, head in enumerate(content["head"]):
            table.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
        for row in content["rows"]:
            table.add_row(*(Text(_text(cell)) for cell in row))
        console.print(table)
