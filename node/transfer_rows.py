"""Lines of a file as rows: JSON Lines, CSV, or JSON Lines beside a file of vectors."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from node.errors import BadRequest
from node.transfer_csv import Records as CsvRecords
from node.transfer_lines import BadLine, Line, json_object
from node.transfer_npy import VectorFile
from node.transfer_targets import Records, Row, Target

Position = tuple[int, int]  # a line's number, and the offset of the byte after it


class Placed(NamedTuple):
    """Where a row stands. `size`: bytes that it was written with."""

    line: int  # its first
    size: int
    before: Position
    after: Position


class Rows(Protocol):
    """One format."""

    @property
    def line(self) -> int:
        """The first of the row that is being read."""

    @property
    def beside_bytes(self) -> int:
        """Of a row, that are not in its lines."""

    @property
    def unfinished(self) -> bool:
        """Is a row begun that goes on with the next line?"""

    @property
    def heading(self) -> bool:
        """Is what the file begins with needed still, wherever one goes on?"""

    def take(self, line: Line) -> Row | None:
        """The row that ends with this line; None: none does. Raises: BadLine."""

    def end(self) -> None:
        """There are no more lines. Raises: BadLine, BadRequest."""


class JsonRows:
    """One object a line; empty lines are none."""

    heading = unfinished = False
    line = beside_bytes = 0

    def take(self, line: Line) -> Row | None:
        self.line = line.number
        return json_object(line.data) if line.data.strip() else None

    def end(self) -> None:
        pass


class VectorRows:
    """One object a line, and its vector in the row of that number of a file of vectors."""

    heading = unfinished = False
    line = beside_bytes = 0

    def __init__(self, vectors: VectorFile) -> None:
        self._vectors = vectors
        self.beside_bytes = len(str(vectors.row(0))) if vectors.count else 0

    def take(self, line: Line) -> Row | None:
        self.line = line.number
        if line.number > self._vectors.count:
            raise BadLine("vector", f"there are only {self._vectors.count} vectors")
        row = json_object(line.data)
        if "vector" in row:
            raise BadLine("vector", "is given here and in the file of vectors")
        return {**row, "vector": self._vectors.row(line.number - 1)}

    def end(self) -> None:
        if self.line < self._vectors.count:
            raise BadRequest(
                f"vectors: there are {self._vectors.count} vectors for {self.line} lines: the "
                "lines are stored, each with the vector of its number",
                field="vectors",
            )


class CsvRows:
    """A header, then records."""

    beside_bytes = 0

    def __init__(self, target: Target) -> None:
        """Raises: BadRequest for an engine whose items are no records."""
        if target.csv is None:
            raise BadRequest("format: CSV cannot hold items of this engine", field="format")
        self._header = target.csv
        self._records = CsvRecords()
        self._row: Records | None = None
        self.line = 0

    @property
    def heading(self) -> bool:
        return self._row is None

    @property
    def unfinished(self) -> bool:
        return self._records.open

    def take(self, line: Line) -> Row | None:
        if not self._records.open:
            self.line = line.number
        cells = self._records.take(line.data)
        if cells is None:
            return None
        if self._row is None:
            try:
                self._row = self._header(cells)
            except BadLine as bad:  # without it no line means anything
                raise BadRequest(f"line {self.line}: {bad}", field=bad.field or "line") from bad
            return None
        return self._row(cells)

    def end(self) -> None:
        if self.unfinished:
            raise BadLine("", "has a quoted cell that does not end")
