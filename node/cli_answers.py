"""How the answer of a query is shown to people: rows as a table, the rest as lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from node import console

CELL_CHARACTERS_MAX = 60  # of one value, in tables
NOTHING = "nothing found"
_DIGITS = 6  # significant ones of a number that is not whole, in tables
_FIXED_MIN, _FIXED_MAX = 1e-12, 1e15  # beyond them a number needs an exponent to be read
# What answers hold their rows under, whichever engine gives them.
_ROWS = (
    "hits",
    "matches",
    "documents",
    "items",
    "rows",
    "points",
    "nodes",
    "edges",
    "series",
    "buckets",
    "values",
    "plan",
)


def show_result(result: Any, *, reads: bool) -> None:
    """`reads`: an answer with nothing in it says so; what a write answers is what it did."""
    if not isinstance(result, dict):
        console.write(NOTHING if result is None and reads else as_text(result))
        return
    named = {name: value for name, value in result.items() if value is not None}
    if isinstance(values := named.get("values"), list):
        named["values"] = [{"value": value} for value in values]  # a null is one, too
    name = next((each for each in _ROWS if isinstance(named.get(each), list)), None)
    shown = False
    if name is not None:
        rows = named.pop(name)
        shown = _show_rows(rows, named.pop("columns", None) if name == "rows" else None)
    if not shown and reads and (name is not None or not named):
        console.write(NOTHING)
        shown = True
    for name, value in named.items():
        console.write(f"{name}: {as_text(value)}")
    if not (shown or named):
        console.write("done")


def _show_rows(rows: list[Any], columns: list[str] | None) -> bool:
    """False if there are none. `columns`: what the places of a row are called, not always by
    different names; None: a row is an object, or one value."""
    if all(row is None for row in rows):
        return False
    if columns is not None:
        console.table(columns, [[cell(value) for value in row] for row in rows])
        return True
    objects = [row if isinstance(row, dict) or row is None else {"value": row} for row in rows]
    headings = list(dict.fromkeys(name for row in objects if row is not None for name in row))
    if not headings:
        headings, objects = ["value"], [{"value": row} for row in rows]
    console.table(headings, [_cells(row, headings) for row in objects])
    return True


def _cells(row: dict[str, Any] | None, headings: Sequence[str]) -> list[str]:
    """One that was asked for and is not there has its row all the same: the order says which."""
    if row is None:
        return ["-"] * len(headings)
    return [cell(row[name]) if name in row else "" for name in headings]


def cell(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    text = value if isinstance(value, str) else as_text(value)
    if len(text) > CELL_CHARACTERS_MAX:
        text = text[: CELL_CHARACTERS_MAX - 1] + "…"
    return console.printable(text)


def _number(value: float) -> str:
    """Six significant digits, and every digit before the point; no exponent while it can be read
    without: 0.00000123457, 123456789."""
    size = abs(value)
    if size == 0:
        return "0"
    if not _FIXED_MIN <= size < _FIXED_MAX:
        return f"{value:.{_DIGITS}g}"
    if size >= 10**_DIGITS:
        return f"{value:.0f}"
    return f"{Decimal(f'{value:.{_DIGITS}g}'):f}"


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
