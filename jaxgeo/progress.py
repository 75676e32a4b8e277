"""Progress that a person sees: bars on a terminal, plain lines at a modest rate elsewhere, always on stderr."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

Callback = Callable[[int, int, Mapping[str, float]], None]
"""`progress(done, total, values)`, as long functions of the library take it."""


@runtime_checkable
class Progress(Protocol):
    """Where a study says what it does; a stage starts with `stage`, its long parts take a `bar`."""

    def stage(self, name: str, description: str) -> None:
        """A stage begins."""
        ...

    def bar(self, label: str, unit: str) -> Callback:
        """A callback for one long part; `unit` names what is counted."""
        ...

    def note(self, text: str) -> None:
        """One line worth reading."""
        ...


class SilentProgress:
    """Says nothing: the default of the functions."""

    def stage(self, name: str, description: str) -> None:
        """Nothing."""

    def bar(self, label: str, unit: str) -> Callback:
        """A callback that does nothing."""
        return lambda done, total, values: None

    def note(self, text: str) -> None:
        """Nothing."""


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class LineProgress:
    """Plain lines for logs: at most one each `every_s` seconds and part, and always the last one."""

    def __init__(self, stream: Any = None, every_s: float = 5.0) -> None:
        """Write to `stream`, by default stderr."""
        self._stream, self._every_s = stream, every_s

    def _print(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)

    def stage(self, name: str, description: str) -> None:
        """A headline."""
        self._print(f"[{name}] {description}")

    def bar(self, label: str, unit: str) -> Callback:
        """Lines with the share done, throughput, time left and the values given."""
        begun = said = time.monotonic()
        first: int | None = None

        def say(done: int, total: int, values: Mapping[str, float]) -> None:
            nonlocal said, first
            now = time.monotonic()
            first = done if first is None else first
            if done < total and now - said < self._every_s:
                return
            said = now
            text = f"  {label}: {done}/{total} {unit}"
            if done > first:
                rate = (done - first) / max(now - begun, 1e-9)
                text += f", {rate:.3g} {unit}/s, {(total - done) / rate:.0f} s left"
            self._print(f"{text}  {_values(values)}".rstrip())

        return say

    def note(self, text: str) -> None:
        """An indented line."""
        self._print(f"  {text}")

    def __enter__(self) -> "LineProgress":
        """Nothing to prepare."""
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Nothing to clean up."""


class BarProgress:
    """Rich's bars for a terminal; use as a context manager."""

    def __init__(self) -> None:
        """Draw on stderr, so that stdout keeps the result alone."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("[cyan]{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[values]}"),
            console=Console(stderr=True),
        )

    def stage(self, name: str, description: str) -> None:
        """A headline above the bars."""
        self._bars.console.print(f"[bold]{name}[/bold]  {description}", highlight=False)

    def bar(self, label: str, unit: str) -> Callback:
        """A bar of its own."""
        task = self._bars.add_task(label, total=None, unit=unit, rate="", values="")
        begun = time.monotonic()
        first: int | None = None

        def show(done: int, total: int, values: Mapping[str, float]) -> None:
            nonlocal first
            first = done if first is None else first
            rate = (done - first) / max(time.monotonic() - begun, 1e-9)
            text = f"{rate:.3g}/s" if done > first else ""
            self._bars.update(task, completed=done, total=total, rate=text, values=_values(values))

        return show

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(f"  {text}", highlight=False)

    def __enter__(self) -> "BarProgress":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Leave the bars as they are and give the terminal back."""
        self._bars.stop()


def progress_for(stream: Any) -> BarProgress | LineProgress:
    """Bars where a person watches, lines elsewhere."""
    return BarProgress() if stream.isatty() else LineProgress(stream)
