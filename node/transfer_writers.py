"""Rows written to a file that takes its name once it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from node import client_wire as wire
from node.errors import BadRequest
from node.transfer_csv import Cell, Columns, record_of
from node.transfer_lines import BadLine
from node.transfer_npy import VectorWriter
from node.transfer_targets import Row


class Writer(Protocol):
    """One format."""

    written: int  # bytes

    def write(self, row: Row) -> None:
        """Raises: BadRequest for a row that the format cannot hold, OSError."""


class JsonWriter:
    """JSON Lines; with `vectors`, each row's vector goes there."""

    def __init__(self, file: BinaryIO, vectors: VectorWriter | None = None) -> None:
        self._file = file
        self._vectors = vectors
        self.written = 0

    def write(self, row: Row) -> None:
        if self._vectors is not None:
            self._vectors.write(row["vector"])
            row = {name: value for name, value in row.items() if name != "vector"}
        line = wire.dumps(row) + b"\n"
        self._file.write(line)
        self.written += len(line)


class CsvWriter:
    """CSV. `columns` None: those of the first row, as of a table, without types."""

    def __init__(self, file: BinaryIO, columns: Columns | None) -> None:
        self._file = file
        self._columns = columns
        self._names: list[str] | None = None
        self._rows = 0
        self.written = 0
        if columns is not None:
            self._put(columns.header)

    def write(self, row: Row) -> None:
        self._rows += 1
        try:
            if self._columns is not None:
                self._put(self._columns.cells(row))
                return
            if self._names is None:
                self._names = [*row]
                self._put([*row])
            self._put([_table_cell(name, value) for name, value in row.items()])
        except BadLine as bad:
            raise BadRequest(f"row {self._rows}: {bad}; use JSON Lines", field="format") from bad

    def _put(self, cells: list[Cell]) -> None:
        record = record_of(cells)
        self._file.write(record)
        self.written += len(record)


def _table_cell(name: str, value: object) -> Cell:
    if isinstance(value, dict):
        raise BadLine(name, "holds a blob, which CSV cannot")
    if value is None or isinstance(value, str):
        return value
    return wire.dumps(value).decode()


@contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file that is at `path`, whole and on disk, after the block, or not at all.

    Raises: FileExistsError unless `replace`; OSError.
    """
    if not replace and path.exists():
        raise FileExistsError(path)
    new = path.with_name(f"{path.name}.hivemem-new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
