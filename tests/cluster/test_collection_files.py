"""Every engine's collections through files and back, on three nodes, by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from node import cli
from node.client import HivememClient
from node.transfer_checkpoint import path_of
from tests.cluster.harness import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

TEXTS = ("", "ü 🐝", 'a "quoted", one\r\n', "\u2028\x00\x1f\\", "null", " 1 ", "\ufeff")
NUMBERS = (0, -1, (1 << 63) - 1, -(1 << 63), (1 << 53) + 1, 0.1, -0.0, 5e-324, 1.7e308, 1e22)
NESTED: Any = {"a": [{}, [], [[None]], {"": {"ü.$": False}}], "deep": [[[[[["x"]]]]]]}


@dataclass(frozen=True)
class Case:
    """`flags`: of import and export alike; `more`: of one of them."""

    engine: str
    rows: Sequence[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def documents() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"_id": f"t{n}", "v": text} for n, text in enumerate(TEXTS)]
    rows += [{"_id": f"n{n}", "v": number} for n, number in enumerate(NUMBERS)]
    rows += [{"_id": "null", "v": None}, {"_id": "missing"}, {"_id": "nested", "v": NESTED}]
    return [*rows, {"_id": "ü/ \"'", "v": [True, False]}]


def points() -> list[dict[str, Any]]:
    return [
        {"metric": metric, "tags": tags, "time_ms": time_ms, "value": value}
        for metric in ("cpu", 'ü "m",')
        for tags in ({}, {"host": "a,b", "ü": '"'})
        for time_ms, value in zip(
            (-(1 << 53) + 1, -1, 0, 1, (1 << 53) - 1),
            (5e-324, -0.0, 1.7e308, 0.1, 9007199254740992.0),
            strict=True,
        )
    ]


def graph() -> list[dict[str, Any]]:
    nodes = [
        {"node": {"id": name, "labels": labels, "properties": {"v": value}}}
        for name, labels, value in zip(
            ("a", "b;c", "ü"), ([], ["P;Q", "ü"], ["P"]), (None, NESTED, TEXTS[2]), strict=True
        )
    ]
    edges = [
        {"edge": {"id": f"e{n}", "from": "a", "to": to, "type": "ü t", "properties": {"": n}}}
        for n, to in enumerate(("a", "b;c", "b;c"))
    ]
    for edge in edges:
        edge["edge"]["properties"] = {"n": edge["edge"]["properties"][""]}
    return [*nodes, *edges]


CASES = {
    "document": Case("document", documents(), {"indexes": [{"fields": ["v"]}]}),
    "graph": Case("graph", graph()),
    "table": Case(
        "relational",
        [
            {"n": n, "v": value, "f": n / 3}
            for n, value in enumerate(
                (None, "", *TEXTS, *(number for number in NUMBERS), {"base64": "AP8="})
            )
        ],
        flags=("--table", "t"),
    ),
    "text": Case(
        "text",
        [
            {"id": f"t{n}", "fields": {"title": text, "text": "x"}, "metadata": {"m": NESTED}}
            | {"session": "ü", "time_ms": n}
            for n, text in enumerate(TEXTS)
        ],
        {"fields": {"title": 2, "text": 1}},
    ),
    "timeseries": Case("timeseries", points()),
    "vector": Case(
        "vector",
        [
            {"id": f"v{n}", "metadata": {"m": NESTED, "z": None}, "vector": vector, "text": text}
            for n, (vector, text) in enumerate(
                zip(([1.0, -0.0], [0.5, 2.0**49], [3.0, 2**-30]), TEXTS[:3], strict=True)
            )
        ],
        {"dimensions": 2, "metric": "l2sq"},
    ),
}


async def hivemem(*arguments: str) -> None:
    """In this process, since thirty others would cost more than what is tested."""
    assert await asyncio.to_thread(cli.main, arguments) == 0, arguments


@dataclass(frozen=True)
class Files:
    """Moves one case through files."""

    name: str
    case: Case
    folder: Path
    endpoints: str

    async def load(self, file: str, to: str, *more: str) -> None:
        await hivemem(
            "import", str(self.folder / file), "--collection", to, "--create", "--engine",
            self.case.engine, "--settings", json.dumps(self.case.settings), "--endpoints",
            self.endpoints, *self.case.flags, *more,
        )  # fmt: skip

    async def dump(self, collection: str, file: str, *more: str) -> bytes:
        await hivemem(
            "export", "--collection", collection, "--out", str(self.folder / file),
            "--endpoints", self.endpoints, *self.case.flags, *more,
        )  # fmt: skip
        return (self.folder / file).read_bytes()


async def round_trip(files: Files) -> bytes:
    """From rows, out, and into another collection: what comes out of that is the same."""
    name = files.name
    lines = "".join(json.dumps(row) + "\n" for row in files.case.rows)
    (files.folder / f"{name}.jsonl").write_text(lines)
    await files.load(f"{name}.jsonl", name)
    first = await files.dump(name, f"{name}-1.jsonl")
    assert canonical(first) == canonical(lines.encode()), name
    await files.load(f"{name}-1.jsonl", f"{name}2")
    assert await files.dump(f"{name}2", f"{name}-2.jsonl") == first, name
    return first


def canonical(lines: bytes) -> list[str]:
    """Rows in one order, and numbers told apart by type and sign."""
    return sorted(
        json.dumps(json.loads(line), sort_keys=True) for line in lines.split(b"\n") if line
    )


async def test_collections_come_back_from_files_as_they_were(cluster, tmp_path):
    await cluster.wait_leader()
    endpoints = ",".join(cluster.endpoints)
    folder = tmp_path / "files"
    folder.mkdir()
    async with HivememClient(cluster.endpoints) as client:
        for name in ("table", "table2", "csv"):
            await client.create_collection("default", name, "relational")
            await client.query(
                "default", name, "sql_execute",
                {"sql": "CREATE TABLE t (n INTEGER PRIMARY KEY, v, f REAL)"},
            )  # fmt: skip
    cases = {name: Files(name, case, folder, endpoints) for name, case in CASES.items()}
    found = {name: await round_trip(files) for name, files in cases.items()}
    await csv_of_documents(cases["document"], found["document"])
    await csv_of_tables(cases["table"])
    await csv_of_points(cases["timeseries"], found["timeseries"])
    await numpy_of_vectors(cases["vector"], found["vector"])
    assert not list(folder.glob("*.hivemem-*")), "progress or unfinished files are left"


async def test_an_import_goes_on_through_a_leaders_death(cluster, tmp_path):
    """Points that are added up: one that is applied twice, or not at all, shows."""
    leader = await cluster.wait_leader()
    count = 100_000
    file = tmp_path / "points.jsonl"
    file.write_text(
        "".join(f'{{"metric": "m", "time_ms": {n}, "value": 1}}\n' for n in range(count))
    )
    settings = json.dumps({"duplicates": "sum"})
    importing = asyncio.create_task(
        hivemem(
            "import", str(file), "--collection", "sums", "--create", "--engine", "timeseries",
            "--settings", settings, "--endpoints", ",".join(cluster.endpoints),
        )
    )  # fmt: skip
    progress = path_of(file)

    async def begun() -> bool:
        return progress.exists() and json.loads(progress.read_text())["lines"] > 0

    await eventually(begun, 20, "nothing is imported")
    assert not importing.done(), "it was over before the leader could die"
    await cluster.kill(leader)
    await importing
    survivors = [index for index in range(3) if index != leader]
    async with cluster.client(*survivors) as client:
        ask = {"metric": "m", "window_ms": count, "aggregates": ["sum", "count"]}
        answer = await client.query("default", "sums", "series_downsample", ask)
    (window,) = answer["result"]["groups"][0]["windows"]
    assert (window["sum"], window["count"]) == (count, count)


async def csv_of_documents(files: Files, rows: bytes) -> None:
    columns = ("--columns", "_id,v:json")
    table = await files.dump("document", "document.csv", *columns)
    await files.load("document.csv", "document3")
    assert await files.dump("document3", "document-3.jsonl") == rows
    assert await files.dump("document3", "document-3.csv", *columns) == table


async def csv_of_tables(files: Files) -> None:
    """Without a blob, and typed by what the columns are."""
    query = ("--sql", "SELECT n, v, f FROM t WHERE typeof(v) IN ('text', 'null') ORDER BY n")
    plain = Files(files.name, Case("relational", ()), files.folder, files.endpoints)
    table = await plain.dump("table", "table.csv", *query)
    await files.load("table.csv", "csv")
    assert await plain.dump("csv", "csv.csv", *query) == table
    rows = await plain.dump("table", "some.jsonl", *query)
    assert await plain.dump("csv", "csv.jsonl", *query) == rows


async def csv_of_points(files: Files, rows: bytes) -> None:
    lines = ["time_ms,metric,value,host,ü"]
    for line in rows.splitlines():
        row = json.loads(line)
        tags = [row["tags"].get(name, "") for name in ("host", "ü")]
        cells = [str(row["time_ms"]), row["metric"], repr(row["value"]), *tags]
        lines.append(",".join('"{}"'.format(cell.replace('"', '""')) for cell in cells))
    (files.folder / "points.csv").write_text("\r\n".join(lines))
    await files.load("points.csv", "points")
    assert await files.dump("points", "points.jsonl") == rows


async def numpy_of_vectors(files: Files, rows: bytes) -> None:
    vectors = ("--vectors", str(files.folder / "v.npy"))
    lines = await files.dump("vector", "beside.jsonl", *vectors)
    assert b"vector" not in lines
    await files.load("beside.jsonl", "vector3", *vectors)
    assert await files.dump("vector3", "vector-3.jsonl") == rows
