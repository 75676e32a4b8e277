"""Building blocks of the report's page: numbers as people read them, tables, figures inside the file itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Tone = Literal["good", "bad", "fair", ""]
_MINUS, _DASH = "\u2212", "\u2013"


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _DASH
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15 and abs(value) >= 100):
        return f"{int(value):,}"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return f"{value:,.{decimals}f}".replace("-", _MINUS)
    return f"{value:.{digits - 1}e}".replace("-", _MINUS)


def with_error(value: float | None, error: float | None) -> dict[str, str]:
    """A value and its standard error, both to the error's second significant digit.

    Without an error the value stands alone, with four significant digits.
    """
    if value is None or error is None or not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return {"value": number(value, 4), "error": ""}
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return {"value": f"{value:.{decimals}f}".replace("-", _MINUS), "error": f"{error:.{decimals}f}"}


def seconds(value: float) -> str:
    """A duration: `4.2 s`, `3 min 05 s`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def bytes_text(value: int | float) -> str:
    """An amount of memory in GiB or MiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def card(value: str, label: str, tone: Tone = "") -> dict[str, str]:
    """One figure at the head of the page."""
    return {"value": value, "label": label, "tone": tone}


def line(text: str, tone: Tone = "") -> dict[str, str]:
    """One sentence of the summary."""
    return {"text": text, "tone": tone}


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", note: str = "", words: bool = False
) -> dict[str, Any]:
    """A table; cells are texts, or values with errors by `with_error`; `words` aligns to the left."""
    return {"kind": "table", "title": title, "head": head, "rows": rows, "note": note, "words": words}


def details(title: str, text: str) -> dict[str, str]:
    """A text that is folded away."""
    return {"kind": "details", "title": title, "text": text}


def figures(*drawn: Mapping[str, str], narrow: bool = False) -> dict[str, Any]:
    """One figure, or several side by side where the screen is wide enough."""
    return {"kind": "figures", "figures": drawn, "narrow": narrow}


def section(identifier: str, title: str, text: Sequence[str], *blocks: Mapping[str, Any]) -> dict[str, Any]:
    """A section with its paragraphs, then its blocks."""
    return {"id": identifier, "title": title, "text": text, "blocks": [block for block in blocks if block]}


def render(
    title: str,
    lead: str,
    cards: Sequence[Mapping[str, str]],
    summary: Sequence[Mapping[str, str]],
    sections: Sequence[Mapping[str, Any]],
) -> str:
    """The page as one text of HTML; everything that comes in is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxgeo.study", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("report.html.j2")
    return template.render(title=title, lead=lead, cards=cards, summary=summary, sections=sections)
