"""Export of a collection: page by page, as rows that an import takes.

Each page is a linearizable read of its own. Whether the collection changed between the first
and the last is known at the end: by the log's index of its last change, before and after. If it
did not, the export is of one state; if it did, each page is as it was when it was read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.client import HivememClient
from node.errors import BadRequest, NotFound
from node.transfer_targets import Row, quoted

PAGE_ITEMS: Final = 1_000
PAGE_POINTS: Final = 10_000
PAGE_ROWS: Final = 5_000  # of a table
_TIMEOUT_MS: Final = 60_000  # an export rides out a failover
_ROWIDS: Final = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True)
class Request:
    """`table` or `sql`: what of a relational collection."""

    namespace: str
    collection: str
    table: str | None = None
    sql: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """`changed`: was the collection written to meanwhile?"""

    exported: int
    changed: bool


class CollectionExport:
    """One run."""

    def __init__(self, client: HivememClient, request: Request, engine: str) -> None:
        """Raises: BadRequest for what the engine has no use for, or export does not know."""
        self._client = client
        self._request = request
        named = (request.table is not None) + (request.sql is not None)
        if named != (engine == "relational"):
            needs = "name a table or a query" if engine == "relational" else "it has no tables"
            raise BadRequest(f"table: a collection of engine {engine}: {needs}", field="table")
        sources: Mapping[str, Callable[[], AsyncIterator[Row]]] = {
            "document": self._documents,
            "graph": self._graph,
            "relational": self._rows,
            "text": self._texts,
            "timeseries": self._points,
            "vector": self._vectors,
        }
        if engine not in sources:
            raise BadRequest(f"engine: export does not know {engine}", field="engine")
        self._source = sources[engine]

    async def run(self, write: Callable[[Row], None]) -> Report:
        """Give every row to `write`. Raises: HivememError, and what `write` raises."""
        before = await self._written_index()
        count = 0
        async for row in self._source():
            write(row)
            count += 1
        changed = await self._written_index() != before
        if changed and self._request.sql is not None:
            # Its pages are counted off, and do not fit together if rows came or went.
            raise BadRequest(
                "sql: the collection changed meanwhile, so that rows may be missing or doubled; "
                "export its tables, or repeat this while nothing is written",
                field="sql",
            )
        return Report(count, changed)

    async def _written_index(self) -> int:
        found = await self._client.collection(self._request.namespace, self._request.collection)
        return found["written_index"]

    # --- Pages ---------------------------------------------------------------------

    async def _query(self, operation: str, parameters: Mapping[str, Any]) -> Any:
        request = self._request
        answer = await self._client.query(
            request.namespace, request.collection, operation, parameters,
            writes=False, timeout_ms=_TIMEOUT_MS,
        )  # fmt: skip
        return answer["result"]

    async def _listed(self, operation: str, member: str, **more: Any) -> AsyncIterator[Any]:
        """The items of all pages of a listing."""
        cursor: str | None = None
        while True:
            parameters = {"limit": PAGE_ITEMS, **more}
            if cursor is not None:
                parameters["cursor"] = cursor
            page = await self._query(operation, parameters)
            for item in page[member]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def _documents(self) -> AsyncIterator[Row]:
        async for item in self._listed("document_find", "items"):
            yield item["document"]

    async def _texts(self) -> AsyncIterator[Row]:
        async for item in self._listed("text_list", "documents"):
            yield _without_nulls(item)

    async def _vectors(self) -> AsyncIterator[Row]:
        async for item in self._listed("vector_list", "items"):
            yield _without_nulls(item)

    async def _graph(self) -> AsyncIterator[Row]:
        """Nodes first: an edge needs both of its own."""
        async for node in self._listed("graph_list_nodes", "items"):
            yield {"node": node}
        async for edge in self._listed("graph_list_edges", "items"):
            yield {"edge": edge}

    async def _points(self) -> AsyncIterator[Row]:
        """Series are in order of their metric, of which one walk answers all."""
        metric: str | None = None
        async for series in self._listed("series_list", "items"):
            if series["metric"] == metric:
                continue
            metric = series["metric"]
            ranges = self._listed("series_range", "series", metric=metric, limit=PAGE_POINTS)
            async for each in ranges:
                named = {"metric": metric, "tags": each["tags"]}
                for time_ms, value in each["points"]:
                    yield {**named, "time_ms": time_ms, "value": value}

    # --- Tables --------------------------------------------------------------------

    async def _rows(self) -> AsyncIterator[Row]:
        if self._request.sql is not None:
            async for row in self._selected(self._request.sql.strip().rstrip(";")):
                yield row
            return
        assert self._request.table is not None
        async for row in self._table(self._request.table):
            yield row

    async def _selected(self, sql: str) -> AsyncIterator[Row]:
        # Of a query in parentheses SQLite makes the names of columns differ.
        paged = f"SELECT * FROM ({sql}\n) LIMIT {PAGE_ROWS} OFFSET ?"
        done = 0
        while True:
            columns, rows = await self._select(paged, [done])
            for row in rows:
                yield dict(zip(columns, row, strict=True))
            done += len(rows)
            if not rows:
                return

    async def _table(self, table: str) -> AsyncIterator[Row]:
        """Rows in order of their key, each page after the last key of the one before."""
        _, described = await self._select(
            'SELECT name, pk, "notnull" FROM pragma_table_info(?) ORDER BY cid', [table]
        )
        if not described:
            raise NotFound(f"there is no table {table}", code="ITEM_NOT_FOUND", field="table")
        names = [name for name, *_ in described]
        keys = await self._key(table, names, described)
        listed = ", ".join([*keys, *map(quoted, names)])
        order = ", ".join(keys)
        marks = ", ".join("?" * len(keys))
        last: list[Any] | None = None
        while True:
            after = "" if last is None else f"WHERE ({order}) > ({marks}) "
            sql = f"SELECT {listed} FROM {quoted(table)} {after}ORDER BY {order} LIMIT {PAGE_ROWS}"
            _, rows = await self._select(sql, last or [])
            for row in rows:
                yield dict(zip(names, row[len(keys) :], strict=True))
            if not rows:
                return
            last = rows[-1][: len(keys)]

    async def _key(self, table: str, names: list[str], described: list[Any]) -> list[str]:
        """What names one row: its number, or the primary key of a table without them."""
        _, found = await self._select("SELECT wr, type FROM pragma_table_list(?)", [table])
        if any(kind != "table" for _, kind in found):
            raise BadRequest(f"table: {table} is no table; export it with a query", field="table")
        numbered = not any(without_rowid for without_rowid, _ in found)
        if numbered:
            taken = {name.lower() for name in names}
            free = [name for name in _ROWIDS if name not in taken]
            if free:
                return free[:1]
        keyed = sorted((place, name) for name, place, _ in described if place)
        if not keyed:
            raise BadRequest(
                f"table: {table} has no key to page by; export it with a query", field="table"
            )
        if numbered and not all(notnull for _, place, notnull in described if place):
            # SQLite lets them be null then, and behind null comes nothing.
            raise BadRequest(
                f"table: the primary key of {table} may be null, and its columns take every name "
                "of a row's number; export it with a query",
                field="table",
            )
        return [quoted(name) for _, name in keyed]

    async def _select(self, sql: str, params: list[Any]) -> tuple[list[str], list[Any]]:
        answer = await self._query("sql_query", {"sql": sql, "params": params, "limit": PAGE_ROWS})
        if answer["truncated"] and not answer["rows"]:
            raise BadRequest("table: a row is larger than an answer may be", field="table")
        return answer["columns"], answer["rows"]


def _without_nulls(item: Mapping[str, Any]) -> Row:
    """What is null at the top stands for what was not given."""
    return {name: value for name, value in item.items() if value is not None}
