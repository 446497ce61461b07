"""What an import gives to each engine: rows of a file as items, items as requests. No I/O.

A row is an object as a line of JSON, or a record of CSV, says it; an item is what the engine's
operation takes. Whatever the engine checks itself is left to it, so that there is one place
that says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.errors import BadRequest
from node.transfer_csv import Cell, Columns, check_width, number_of
from node.transfer_lines import BadLine

Row = dict[str, Any]
Item = dict[str, Any]
Request = tuple[str, dict[str, Any]]  # an operation and its parameters
Records = Callable[[Sequence[Cell]], Row]  # a record of CSV as a row. Raises: BadLine

LABELS_SEPARATOR: Final = ";"  # of a node's labels in a cell


@dataclass(frozen=True, slots=True)
class Target:
    """How one engine takes items.

    `place`: finds the item and its field in the field that an error names. `identity`: two items
    of which it is equal are not sent together, so that the later one wins; None: there is none.
    `csv`: from a header to its records; None: this engine's items do not fit into columns.
    """

    request: Callable[[Sequence[Item]], Request]
    place: re.Pattern[str]
    items_max: int  # of one request
    item: Callable[[Row], Item] = lambda row: row  # Raises: BadLine
    identity: Callable[[Item], object | None] = lambda item: None
    kind: Callable[[Item], object] = lambda item: None  # items of one request are of one kind
    csv: Callable[[Sequence[Cell]], Records] | None = None


def target_of(engine: str, *, table: str | None, part: str | None) -> Target:
    """`table`: of a relational collection. `part`: nodes or edges, of a graph's CSV.

    Raises: BadRequest for an engine that nothing is known of, or what it has no use for.
    """
    if (table is not None) != (engine == "relational"):
        needs = "needs one: name the table" if table is None else "has no tables"
        raise BadRequest(f"table: a collection of engine {engine} {needs}", field="table")
    if part is not None and engine != "graph":
        raise BadRequest("part: only graphs have nodes and edges", field="part")
    if engine == "relational":
        assert table is not None
        return _relational(table)
    if engine == "graph":
        return _graph(part)
    if engine not in _SIMPLE:
        raise BadRequest(f"engine: import does not know {engine}", field="engine")
    return _SIMPLE[engine]


def _documents(operation: str, items_max: int, identity: str, csv: Any = None) -> Target:
    def request(items: Sequence[Item]) -> Request:
        return operation, {"documents": [*items]}

    return Target(
        request,
        re.compile(r"parameters\.documents\[(\d+)\]\.?(.*)"),
        items_max,
        identity=lambda item: _hashable(item.get(identity)),
        csv=csv,
    )


def _hashable(value: object) -> object | None:
    return value if isinstance(value, str) else None  # what else it is, the engine refuses


# --- Time series -------------------------------------------------------------------------


def _points(items: Sequence[Item]) -> Request:
    return "series_append", {"points": [*items]}


def _point_records(header: Sequence[Cell]) -> Records:
    """Columns metric, time_ms and value; each other column is a tag."""
    names = _names(header)
    for name in ("metric", "time_ms", "value"):
        if name not in names:
            raise BadLine(name, "is no column of the header")

    def row(cells: Sequence[Cell]) -> Row:
        check_width(cells, names)
        found = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        point: Row = {"metric": found.pop("metric", "")}
        for name in ("time_ms", "value"):
            point[name] = number_of(name, found.pop(name, ""))
        return {**point, "tags": found}

    return row


# --- Graphs ------------------------------------------------------------------------------


def _graph(part: str | None) -> Target:
    records = {"nodes": _node_records, "edges": _edge_records, None: _no_part}[part]
    return Target(
        lambda items: _creation(items[0]),
        re.compile(r"parameters()\.?(.*)"),
        1,
        _graph_item,
        identity=lambda item: _hashable(next(iter(item.values())).get("id")),
        kind=lambda item: next(iter(item)),
        csv=records,
    )


def _graph_item(row: Row) -> Item:
    if len(row) != 1 or not row.keys() <= {"node", "edge"}:
        raise BadLine("", 'must be {"node": {…}} or {"edge": {…}}')
    for name, value in row.items():
        if not isinstance(value, dict):
            raise BadLine(name, "must be an object")
    return row


def _creation(item: Item) -> Request:
    if "node" in item:
        return "graph_create_node", item["node"]
    return "graph_create_edge", item["edge"]


def _no_part(header: Sequence[Cell]) -> Records:
    raise BadRequest("part: say whether the CSV holds nodes or edges", field="part")


def _node_records(header: Sequence[Cell]) -> Records:
    """Columns id and labels (several by `;`); each other column is a property."""
    return _graph_records(header, "node", ("id", "labels"))


def _edge_records(header: Sequence[Cell]) -> Records:
    """Columns from, to and type, and id; each other column is a property."""
    return _graph_records(header, "edge", ("id", "from", "to", "type"))


def _graph_records(header: Sequence[Cell], kind: str, own: tuple[str, ...]) -> Records:
    columns = Columns(header)

    def row(cells: Sequence[Cell]) -> Row:
        found = columns.row(cells)
        item: Row = {name: found.pop(name) for name in own if name in found}
        if "labels" in item:
            item["labels"] = str(item["labels"]).split(LABELS_SEPARATOR) if item["labels"] else []
        return {kind: {**item, "properties": found}}

    return row


# --- Tables ------------------------------------------------------------------------------


def _relational(table: str) -> Target:
    def request(items: Sequence[Item]) -> Request:
        return "sql_execute", {"statements": [_insert(table, item) for item in items]}

    return Target(
        request,
        re.compile(r"parameters(?:\.statements\[(\d+)\])?\.?(?:sql)?(.*)"),
        500,
        _table_row,
        csv=_table_records,
    )


def _insert(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    if not row:
        return {"sql": f"INSERT INTO {quoted(table)} DEFAULT VALUES"}
    names = ", ".join(map(quoted, row))
    marks = ", ".join("?" * len(row))
    sql = f"INSERT INTO {quoted(table)} ({names}) VALUES ({marks})"
    return {"sql": sql, "params": [*row.values()]}


def quoted(name: str) -> str:
    """A name of SQL. Raises: BadLine."""
    if "\0" in name:
        raise BadLine("", "a column's name cannot hold NUL")
    return '"{}"'.format(name.replace('"', '""'))


def _table_row(row: Row) -> Item:
    for name, value in row.items():
        quoted(name)
        if isinstance(value, list) or (isinstance(value, dict) and value.keys() != {"base64"}):
            raise BadLine(name, 'must be null, a number, text, true, false, or {"base64": text}')
    return row


def _table_records(header: Sequence[Cell]) -> Records:
    names = _names(header)

    def row(cells: Sequence[Cell]) -> Row:
        check_width(cells, names)
        return dict(zip(names, cells, strict=True))

    return row


def _names(header: Sequence[Cell]) -> list[str]:
    """Names of columns without types. Raises: BadLine."""
    names: list[str] = []
    for place, cell in enumerate(header, 1):
        if not cell:
            raise BadLine("", f"column {place} has no name")
        if cell in names:
            raise BadLine(cell, "is the name of two columns")
        names.append(cell)
    return names


_SIMPLE: Final[Mapping[str, Target]] = {
    "document": _documents("document_upsert", 500, "_id", csv=lambda header: Columns(header).row),
    "text": _documents("text_upsert", 500, "id"),
    "vector": _documents("vector_upsert", 500, "id"),
    "timeseries": Target(
        _points, re.compile(r"parameters\.points\[(\d+)\]\.?(.*)"), 5_000, csv=_point_records
    ),
}
