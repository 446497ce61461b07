"""CSV (RFC 4180) in and out, with what a spreadsheet's reader would lose: null is not "".

A cell without quotes that holds nothing is None, a quoted one with nothing in it is the empty
text, as PostgreSQL's COPY has it. Python's csv module tells them apart from 3.12 on only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import Final

from node.transfer_lines import BadLine

Cell = str | None

RECORD_BYTES_MAX: Final = 64 << 20  # as a line of JSON
COLUMNS_MAX: Final = 2_000
NUMBER_CHARACTERS_MAX: Final = 400
TYPES: Final = ("text", "number", "boolean", "json")
_BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"  # which spreadsheets put in front
_CELL: Final = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\Z)')
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Records:
    """Lines in, records out: a quoted cell may hold line ends."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._quoted = False  # is a quoted cell open?
        self._bytes = 0
        self._first = True

    @property
    def open(self) -> bool:
        """Does the record go on with the next line?"""
        return bool(self._open)

    def take(self, data: bytes) -> list[Cell] | None:
        """The record that ends with this line; None: it goes on, or the line is empty.

        Raises: BadLine. The record is over then.
        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self._take_open()
            raise BadLine("", "is not UTF-8") from None
        if self._first:
            text, self._first = text.removeprefix(_BOM), False
        self._open.append(text)
        self._bytes += len(data)
        self._quoted ^= text.count('"') % 2 == 1
        if self._bytes > RECORD_BYTES_MAX:
            self._take_open()
            raise BadLine("", f"a record is longer than {RECORD_BYTES_MAX} bytes")
        if self._quoted:
            if len(self._open) == 1:
                self._check_start(text)
            return None
        record = self._take_open().removesuffix("\r")
        return _cells(record) if record else None

    def _check_start(self, text: str) -> None:
        """A quote where none can be must not swallow what follows. Raises: BadLine."""
        try:
            _cells(f'{text}"')
        except BadLine:
            self._take_open()
            raise

    def _take_open(self) -> str:
        record = "\n".join(self._open)
        self._open.clear()
        self._quoted, self._bytes = False, 0
        return record


def _cells(record: str) -> list[Cell]:
    found: list[Cell] = []
    place = 0
    while True:
        match = _CELL.match(record, place)
        if match is None:
            raise BadLine("", f"column {len(found) + 1} has a quote where none can be")
        quoted, plain, separator = match.groups()
        found.append(plain or None if quoted is None else quoted.replace('""', '"'))
        if not separator:
            return found
        if len(found) == COLUMNS_MAX:
            raise BadLine("", f"has more than {COLUMNS_MAX} columns")
        place = match.end()


def record_of(cells: Sequence[Cell]) -> bytes:
    """A record, with its line end. Raises: BadLine."""
    record = ",".join(map(_quoted, cells))
    if not record:
        raise BadLine("", "one column that is null makes an empty line, which is no record")
    return record.encode() + b"\n"


def _quoted(cell: Cell) -> str:
    if cell is None:
        return ""
    if cell and not any(character in cell for character in ',"\n\r' + _BOM):
        return cell
    return '"{}"'.format(cell.replace('"', '""'))


class Columns:
    """Columns with types: `name` or `name:type`, text where none is given.

    A cell that is None stands for a member that is not there, whatever its column's type.
    """

    def __init__(self, header: Sequence[Cell]) -> None:
        """Raises: BadLine."""
        self.names: list[str] = []
        self._types: list[str] = []
        for place, cell in enumerate(header, 1):
            name, colon, kind = (cell or "").rpartition(":")
            if not colon or kind not in TYPES:
                name, kind = cell or "", "text"
            if not name:
                raise BadLine("", f"column {place} has no name")
            if name in self.names:
                raise BadLine(name, "is the name of two columns")
            self.names.append(name)
            self._types.append(kind)

    @property
    def header(self) -> list[Cell]:
        return [f"{name}:{kind}" for name, kind in zip(self.names, self._types, strict=True)]

    def row(self, cells: Sequence[Cell]) -> dict[str, object]:
        """Raises: BadLine, naming the column."""
        check_width(cells, self.names)
        return {
            name: _typed(name, kind, cell)
            for name, kind, cell in zip(self.names, self._types, cells, strict=True)
            if cell is not None
        }

    def cells(self, row: dict[str, object]) -> list[Cell]:
        """Raises: BadLine for a value that its column cannot hold."""
        return [
            _cell(name, kind, row[name]) if name in row else None
            for name, kind in zip(self.names, self._types, strict=True)
        ]


def check_width(cells: Sequence[Cell], names: Sequence[str]) -> None:
    """Raises: BadLine."""
    if len(cells) != len(names):
        raise BadLine("", f"has {len(cells)} columns, the header {len(names)}")


def number_of(name: str, cell: str) -> int | float:
    """Raises: BadLine."""
    match = _NUMBER.fullmatch(cell)
    if match is None or len(cell) > NUMBER_CHARACTERS_MAX:
        raise BadLine(name, "is not a number")
    if match[2] is None and match[3] is None:
        return int(cell)
    if not isfinite(number := float(cell)):
        raise BadLine(name, "is beyond what a 64-bit float holds")
    return number


def _typed(name: str, kind: str, cell: str) -> object:
    match kind:
        case "number":
            return number_of(name, cell)
        case "boolean":
            if cell not in ("true", "false"):
                raise BadLine(name, "is not true or false")
            return cell == "true"
        case "json":
            try:
                return json.loads(cell, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise BadLine(name, f"is not JSON: {error}") from None
        case _:
            return cell


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _cell(name: str, kind: str, value: object) -> str:
    fits = {
        "text": type(value) is str,
        "number": type(value) in (int, float),
        "boolean": type(value) is bool,
        "json": True,
    }[kind]
    if not fits:
        raise BadLine(name, f"a column of type {kind} cannot hold {json.dumps(value)[:60]}")
    return value if isinstance(value, str) and kind == "text" else json.dumps(value)
