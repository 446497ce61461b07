"""Import and export of collections: equal after a round trip, nothing twice, bad rows named."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import collection_import
from node.client import HivememClient
from node.collection_export import CollectionExport, Request
from node.collection_import import CollectionImport
from node.errors import BadRequest, Unavailable
from node.transfer_checkpoint import path_of
from node.transfer_csv import Columns, Records, record_of
from node.transfer_import import Problem, Report
from node.transfer_lines import BadLine
from node.transfer_npy import VectorFile
from node.transfer_rows import CsvRows, JsonRows, Rows, VectorRows
from node.transfer_targets import target_of
from node.transfer_writers import CsvWriter, JsonWriter, new_file
from tests.unit.client_nodes import addressed_door, door_address
from tests.unit.http_door import OpenDoor

NPY = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }"


@dataclass
class Place:
    """A door, a client of it, and a folder for files."""

    door: OpenDoor
    client: HivememClient
    folder: Path
    problems: list[Problem] = field(default_factory=list)

    def write(self, lines: Iterable[object], name: str = "in.jsonl") -> Path:
        path = self.folder / name
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts), newline="")
        return path

    async def make(self, engine: str, name: str = "c", **settings: Any) -> None:
        await self.client.create_collection("n", name, engine, settings)

    async def query(self, operation: str, name: str = "c", **parameters: Any) -> Any:
        return (await self.client.query("n", name, operation, parameters))["result"]

    async def load(
        self,
        path: Path,
        name: str = "c",
        *,
        table: str | None = None,
        part: str | None = None,
        vectors: Path | None = None,
        **options: Any,
    ) -> Report:
        self.problems.clear()
        found = await self.client.collection("n", name)
        target = target_of(found["engine"], table=table, part=part)
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb", buffering=0))
            rows: Rows = CsvRows(target) if path.suffix == ".csv" else JsonRows()
            if vectors is not None:
                rows = VectorRows(VectorFile(stack.enter_context(vectors.open("rb"))))
            run = CollectionImport(
                self.client,
                collection_import.Request(file, path, "n", name, found["created_at"], **options),
                rows,
                target,
                on_problem=self.problems.append,
                on_progress=lambda items, done_bytes: None,
            )
            return await run.run()

    async def rows(self, name: str = "c", **of: str) -> list[dict[str, Any]]:
        engine = (await self.client.collection("n", name))["engine"]
        found: list[dict[str, Any]] = []
        run = CollectionExport(self.client, Request("n", name, **of), engine)
        report = await run.run(found.append)
        assert (report.exported, report.changed) == (len(found), False)
        return found


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        yield Place(door, client, tmp_path)


# --- Every engine ------------------------------------------------------------------------


async def test_documents_are_stored_once_and_the_later_line_wins(place: Place) -> None:
    await place.make("document")
    lines = [{"_id": f"{n % 700:03d}", "n": n} for n in range(1500)]
    assert await place.load(place.write(lines)) == Report(stored=1500)
    assert not path_of(place.folder / "in.jsonl").exists()
    expected = {line["_id"]: line for line in lines}
    assert await place.rows() == [expected[name] for name in sorted(expected)]


async def test_pages_of_an_export_fit_together(place: Place, monkeypatch) -> None:
    monkeypatch.setattr("node.collection_export.PAGE_ITEMS", 7)
    monkeypatch.setattr("node.collection_export.PAGE_POINTS", 7)
    await place.make("timeseries")
    points = [
        {"metric": metric, "tags": {"host": host} if host else {}, "time_ms": n, "value": n / 3}
        for metric in ("a", "b")
        for host in ("", "x", "ü;")
        for n in range(20)
    ]
    assert await place.load(place.write(points)) == Report(stored=120)
    order = [json.dumps(row, sort_keys=True) for row in await place.rows()]
    assert sorted(order) == sorted(json.dumps(row, sort_keys=True) for row in points)


async def test_a_table_is_exported_by_its_key(place: Place, monkeypatch) -> None:
    monkeypatch.setattr("node.collection_export.PAGE_ROWS", 7)
    await place.make("relational")
    for sql in (
        "CREATE TABLE plain (v, rowid TEXT)",
        "CREATE TABLE keyed (id INTEGER PRIMARY KEY, v AS (id * 2), w DEFAULT 'w')",
        "CREATE TABLE pairs (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "CREATE VIEW seen AS SELECT * FROM pairs",
        'CREATE TABLE "odd ""name" ("a b" TEXT)',
        "CREATE TABLE nulls (k TEXT PRIMARY KEY, rowid, _rowid_, oid)",
        "CREATE TABLE whole (k TEXT PRIMARY KEY NOT NULL, rowid, _rowid_, oid)",
        "INSERT INTO nulls (k) VALUES ('a'), (NULL), (NULL)",
        "INSERT INTO whole (k) VALUES ('b'), ('a')",
    ):
        await place.query("sql_execute", sql=sql)
    odd = [None, "", "ü", 0, -(1 << 63), 1.5, {"base64": "AP8="}, 'x,"\n', True, False]
    rows: list[dict[str, Any]] = [{"v": odd[n % 10], "rowid": None} for n in range(20)]
    assert (await place.load(place.write(rows), table="plain")).stored == 20
    assert await place.rows(table="plain") == [
        {**row, "v": int(row["v"]) if isinstance(row["v"], bool) else row["v"]} for row in rows
    ]
    await place.load(place.write([{"id": n} for n in range(20)]), table="keyed")
    assert await place.rows(table="keyed") == [{"id": n, "w": "w"} for n in range(20)]
    pairs = [{"a": f"{n % 3}", "b": n // 3} for n in range(30)]
    await place.load(place.write(pairs), table="pairs")
    assert await place.rows(table="pairs") == pairs
    assert await place.rows(sql="SELECT a AS x FROM pairs WHERE b = 1; ") == [
        {"x": "0"}, {"x": "1"}, {"x": "2"},
    ]  # fmt: skip
    await place.load(place.write([{"a b": "v"}, {}]), table='odd "name')
    assert await place.rows(table='odd "name') == [{"a b": "v"}, {"a b": None}]
    assert [row["k"] for row in await place.rows(table="whole")] == ["a", "b"]
    assert await place.rows(sql="SELECT 1 AS a, 2 AS a") == [{"a": 1, "a:1": 2}]
    bad_ones: list[dict[str, str]] = [{"table": "seen"}, {}, {"table": "nulls"}]
    for bad in bad_ones:
        with pytest.raises(BadRequest):
            await place.rows(**bad)


async def test_a_graph_goes_node_by_node(place: Place, monkeypatch) -> None:
    monkeypatch.setattr("node.collection_export.PAGE_ITEMS", 7)
    await place.make("graph")
    nodes = [{"node": {"id": f"{n:02d}", "labels": ["L"], "properties": {}}} for n in range(20)]
    edges = [
        {
            "edge": {
                "id": f"e{n:02d}",
                "from": f"{n:02d}",
                "to": f"{n * 7 % 20:02d}",
                "type": "t",
                "properties": {"n": None},
            }
        }
        for n in range(20)
    ]
    again = [{"node": {"id": "00"}}, {"edge": {"from": "00", "to": "none", "type": "t"}}]
    report = await place.load(place.write([*nodes, *edges, *again]), skip_bad=True)
    assert report == Report(stored=40, bad_lines=2)
    assert [(problem.line, problem.field) for problem in place.problems] == [(41, "id"), (42, "to")]
    assert await place.rows() == [*nodes, *edges]


@pytest.mark.parametrize("names", ["alike", "different"])
@pytest.mark.parametrize("corrected", ["removed", "replaced", "moved"])
async def test_a_corrected_file_of_single_items_doubles_nothing(
    place: Place, corrected: str, names: str
) -> None:
    """Nodes without ids. What was under way behind the bad row is stored already."""
    await place.make("graph")
    count = 60 if names == "different" else 1
    lines: list[Any] = [{"node": {"properties": {"n": n % count}}} for n in range(60)]
    lines[10] = {"node": {"labels": "none"}}
    lines[14] = {"node": {"labels": 5}}
    first = await place.load(place.write(lines))
    assert first.bad_lines == 1
    assert [problem.line for problem in place.problems] == [11]
    assert 10 <= first.stored <= 10 + collection_import.SINGLES_INFLIGHT_MAX
    again = await place.load(place.write(lines))
    assert (again.bad_lines, again.resumed_lines) == (1, 10)
    good = {"node": {"properties": {"n": -1}}}
    if corrected == "removed":
        lines[10:11] = []
    else:
        lines[10:11] = [good] if corrected == "replaced" else [good, good, good]
    second = await place.load(place.write(lines))
    assert second.bad_lines == 1
    lines = [line for line in lines if line["node"].get("labels") != 5]
    third = await place.load(place.write(lines))
    assert third.bad_lines == 0
    assert first.stored + again.stored + second.stored + third.stored == len(lines)
    stored = [row["node"]["properties"]["n"] for row in await place.rows()]
    assert sorted(stored) == sorted(line["node"]["properties"]["n"] for line in lines)
    assert not path_of(place.folder / "in.jsonl").exists()


async def test_graphs_come_from_csv_too(place: Place) -> None:
    await place.make("graph")
    nodes = place.write(["id,labels,age:number,note", "a,P;Q,41,", 'b,,,""'], "nodes.csv")
    assert (await place.load(nodes, part="nodes")).stored == 2
    edges = place.write(["id,from,to,type,w:json", 'e,a,b,knows,"[1, null]"'], "edges.csv")
    assert (await place.load(edges, part="edges")).stored == 1
    assert await place.rows() == [
        {"node": {"id": "a", "labels": ["P", "Q"], "properties": {"age": 41}}},
        {"node": {"id": "b", "labels": [], "properties": {"note": ""}}},
        {
            "edge": {
                "id": "e",
                "from": "a",
                "to": "b",
                "type": "knows",
                "properties": {"w": [1, None]},
            }
        },
    ]
    with pytest.raises(BadRequest, match="part"):
        await place.load(nodes)


async def test_vectors_lie_beside_their_lines(place: Place) -> None:
    await place.make("vector", dimensions=2)
    numbers = [1.0, 2.0, 0.1, -0.0, 3.0, 4.0]
    vectors = place.folder / "v.npy"
    vectors.write_bytes((NPY % (3, 2)).ljust(127) + b"\n" + struct.pack("<6f", *numbers))
    lines = [{"id": "a", "metadata": {"n": None}}, {"id": "b", "text": ""}]
    with pytest.raises(BadRequest, match="3 vectors for 2 lines"):
        await place.load(place.write(lines), vectors=vectors)
    report = await place.load(
        place.write([*lines, {"id": "c", "vector": [1, 2]}, {"id": "d"}]),
        vectors=vectors, restart=True, skip_bad=True,
    )  # fmt: skip
    assert report == Report(stored=2, bad_lines=2)
    assert [problem.line for problem in place.problems] == [3, 4]
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    assert await place.rows() == [
        {"id": "a", "metadata": {"n": None}, "vector": [1.0, 2.0]},
        {"id": "b", "metadata": {}, "vector": [single, -0.0], "text": ""},
    ]
    for header in (NPY % (4, 2), NPY.replace(b"<f4", b"<f8") % (3, 2), b"\x93NUMPY", b""):
        vectors.write_bytes(header.ljust(127) + b"\n" + bytes(24))
        with vectors.open("rb") as file, pytest.raises(BadRequest, match="vectors"):
            VectorFile(file)


# --- Bad rows ----------------------------------------------------------------------------


async def test_an_import_stops_at_a_bad_line_and_goes_on_from_there(place: Place) -> None:
    await place.make("document", indexes=[{"fields": ["n"], "unique": True}])
    lines: list[Any] = [{"n": n} for n in range(1200)]
    lines[700] = {"n": 3}
    path = place.write(lines)
    assert await place.load(path) == Report(stored=700, bad_lines=1)
    assert place.problems[0].line == 701
    lines[700] = '{"n": NaN}'
    place.write(lines)
    assert await place.load(path) == Report(resumed_lines=700, bad_lines=1)
    assert "line 701: cannot be read" in str(place.problems[0])
    lines[700] = {"n": -1}
    place.write(lines)
    # Documents without an id would be doubled by whatever is sent twice.
    assert await place.load(path) == Report(stored=500, resumed_lines=700)
    assert (await place.query("document_count"))["count"] == 1200


async def test_bad_lines_are_left_out_if_asked_for(place: Place) -> None:
    await place.make("text")
    lines: list[object] = [{"id": f"{n}", "text": "a bee"} for n in range(1100)]
    lines[10] = {"id": "10", "text": ""}
    lines[20] = "{"
    lines[30] = {"id": "30", "fields": {"absent": "x"}}
    lines[1050] = "[]"
    lines[1051] = {"id": "\ud800", "text": "x"}
    report = await place.load(place.write(lines), skip_bad=True)
    assert report == Report(stored=1095, bad_lines=5)
    assert sorted((problem.line, problem.field) for problem in place.problems) == [
        (11, "text"), (21, ""), (31, "fields"), (1051, ""), (1052, ""),
    ]  # fmt: skip
    assert (await place.query("text_count"))["count"] == 1095


async def test_a_collection_that_is_not_there_is_no_bad_line(place: Place) -> None:
    await place.make("document")
    path = place.write([{"n": 1}])
    found = await place.client.collection("n", "c")
    await place.client.drop_collection("n", "c")
    with path.open("rb", buffering=0) as file:
        run = CollectionImport(
            place.client,
            collection_import.Request(file, path, "n", "c", found["created_at"]),
            JsonRows(),
            target_of("document", table=None, part=None),
            on_problem=place.problems.append,
            on_progress=lambda items, done_bytes: None,
        )
        with pytest.raises(Exception, match="collection"):
            await run.run()
    assert place.problems == []
    await place.make("document")
    with pytest.raises(BadRequest, match="made anew"):
        await place.load(path)


# --- Retries -----------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
async def test_what_was_sent_is_not_applied_twice(
    place: Place, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without keys: whatever is applied twice shows."""
    monkeypatch.setattr(collection_import, "BATCH_BYTES_MAX", 200)
    await place.make("relational")
    await place.query("sql_execute", sql="CREATE TABLE t (n INTEGER, s TEXT)")
    if format_ == "csv":
        path = place.write(["n,s", *(f'{n},"a\n{n}"' for n in range(300))], "in.csv")
    else:
        path = place.write({"n": n, "s": f"a\n{n}"} for n in range(300))
    query = place.client.query
    calls = 0

    async def losing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        answer = await query(*arguments, **options)
        calls += 1
        if calls % 4 == 0:
            raise Unavailable("the answer was lost", code="OUTCOME_UNKNOWN", definite=False)
        return answer

    monkeypatch.setattr(place.client, "query", losing)
    runs = 0
    while True:
        runs += 1
        assert runs < 100
        try:
            report = await place.load(path, table="t")
        except Unavailable:
            continue
        break
    assert report.bad_lines == 0
    assert runs > 3
    monkeypatch.setattr(place.client, "query", query)
    assert await place.rows(table="t") == [{"n": n, "s": f"a\n{n}"} for n in range(300)]


async def test_an_import_that_was_killed_goes_on_and_stores_nothing_twice(place: Place) -> None:
    """In another process, with kill -9, into an engine that adds up what comes twice."""
    await place.make("timeseries", duplicates="sum")
    count = 60_000
    path = place.write({"metric": "m", "time_ms": n, "value": 1} for n in range(count))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.cli", "import", str(path), "--collection", "n/c"),
        env={**os.environ, "HIVEMEM_ENDPOINTS": door_address(place.door)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    noted = 0
    async with asyncio.timeout(30):
        while not noted and process.returncode is None:
            await asyncio.sleep(0.005)
            if path_of(path).exists():
                noted = json.loads(path_of(path).read_text())["lines"]
    assert process.returncode is None, "the import ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    report = await place.load(path)
    assert report.resumed_lines >= noted > 0
    assert report.stored == count - report.resumed_lines
    summed = await place.query(
        "series_downsample", metric="m", window_ms=count, aggregates=["sum", "count"]
    )
    (window,) = summed["groups"][0]["windows"]
    assert (window["sum"], window["count"]) == (count, count)


# --- Files -------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", '"', "\r", "\n", "\r\n", ",", "\ufeff", '""']
)


@given(st.lists(st.lists(TEXTS | st.none(), min_size=2, max_size=4), max_size=5))
def test_records_come_back_from_csv(records: list[list[str | None]]) -> None:
    data = b"".join(map(record_of, records))
    reader = Records()
    lines = data.split(b"\n")[:-1]
    found = [cells for line in lines if (cells := reader.take(line)) is not None]
    assert not reader.open
    assert found == records


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "text": TEXTS,
            "number": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
            "boolean": st.booleans(),
            "json": VALUES,
        },
    )
)
def test_typed_columns_hold_what_is_there_and_what_is_not(row: dict[str, object]) -> None:
    columns = Columns(["text", "number:number", "boolean:boolean", "json:json"])
    reader = Records()
    cells = columns.cells(row)
    if any(cell is not None for cell in cells):
        for line in record_of(cells).split(b"\n")[:-1]:
            read = reader.take(line)
        assert read is not None
        found = columns.row(read)
        assert found == row
        assert {name: type(value) for name, value in found.items()} == {
            name: type(value) for name, value in row.items()
        }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'a"b,c', "column 1 has a quote"),
        (b'"a"b,c', "column 1 has a quote"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_records_that_are_none_are_refused(record: bytes, message: str) -> None:
    reader = Records()
    with pytest.raises(BadLine, match=message):
        reader.take(record)
    assert reader.take(b"fine,too") == ["fine", "too"]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [("1.", "number"), ("1e999", "number"), ("0x1", "number"), ("yes", "boolean"), ("{", "json")],
)
def test_cells_that_their_column_cannot_hold_are_refused(cell: str, kind: str) -> None:
    with pytest.raises(BadLine, match="c: "):
        Columns([f"c:{kind}"]).row([cell])


def write_all(writer: CsvWriter, rows: Iterable[dict[str, object]]) -> None:
    for row in rows:
        writer.write(row)


def test_a_file_takes_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(b"before")
    with pytest.raises(FileExistsError), new_file(path, replace=False):
        pass
    with (
        pytest.raises(BadRequest, match="row 2: a: holds a blob"),
        new_file(path, replace=True) as file,
    ):
        write_all(CsvWriter(file, None), [{"a": None, "b": ""}, {"a": {"base64": ""}, "b": 1}])
    assert path.read_bytes() == b"before"
    with new_file(path, replace=True) as file:
        JsonWriter(file).write({"ü": None})
    assert path.read_text() == '{"ü":null}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
