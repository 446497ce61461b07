"""Every engine on three nodes, through HTTP and the command line; the leader is killed midway."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from engines.registry import BUILT_IN
from tests.cluster.harness import eventually, hivemem

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

WRITES = 20  # of each engine, before the leader dies and after it


@dataclass(frozen=True)
class Walk:
    """How one engine is written and read: `write` with a number, `read` finds it again."""

    engine: str
    write: str
    read: str
    settings: dict[str, Any] = field(default_factory=dict)
    setup: tuple[str, dict[str, Any]] | None = None

    def parameters(self, number: int) -> dict[str, Any]:
        return _WRITES[self.engine](number)

    def question(self, number: int) -> dict[str, Any]:
        return _READS[self.engine](number)

    def found(self, result: Any, number: int) -> bool:
        return _FOUND[self.engine](result, number)


_WRITES = {
    "text": lambda n: {"documents": [{"id": f"d{n}", "text": f"the bee called word{n}"}]},
    "relational": lambda n: {"sql": "INSERT INTO t VALUES (?, ?)", "params": [n, f"v{n}"]},
}
_READS = {
    "text": lambda n: {"query": f"word{n}"},
    "relational": lambda n: {"sql": "SELECT v FROM t WHERE n = ?", "params": [n]},
}
_FOUND = {
    "text": lambda result, n: [hit["id"] for hit in result["hits"]] == [f"d{n}"],
    "relational": lambda result, n: result["rows"] == [[f"v{n}"]],
}
WALKS = (
    Walk("text", "text_insert", "text_search"),
    Walk(
        "relational", "sql_execute", "sql_query",
        setup=("sql_execute", {"sql": "CREATE TABLE t (n INTEGER PRIMARY KEY, v)"}),
    ),
)  # fmt: skip


def test_every_engine_is_walked() -> None:
    assert {walk.engine for walk in WALKS} == {engine.name for engine in BUILT_IN}


async def test_engines_keep_what_they_acknowledged_through_a_leaders_death(cluster):
    leader = await cluster.wait_leader()
    endpoints = ",".join(cluster.endpoints)
    for walk in WALKS:
        made = await hivemem(
            "collection", "create", walk.engine, walk.engine, "--settings",
            json.dumps(walk.settings), "--endpoints", endpoints, "-o", "json",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    async with cluster.client(0, 1, 2) as client:
        for walk in WALKS:
            if walk.setup is not None:
                await client.query("default", walk.engine, *walk.setup)
        await write(client, range(WRITES))
        killed, writing = (
            asyncio.Event(),
            asyncio.create_task(write(client, range(100, 100 + WRITES))),
        )
        await cluster.kill(leader)
        killed.set()
        await writing
        await write(client, range(WRITES, 2 * WRITES))
    survivors = [index for index in range(3) if index != leader]
    for index in survivors:
        await check_node(cluster, index)
    await cluster.restart(leader)
    await check_node(cluster, leader)
    await check_command_line(endpoints)
    await check_digests(cluster)


async def write(client, numbers) -> None:
    await asyncio.gather(
        *(
            client.query("default", walk.engine, walk.write, walk.parameters(number))
            for walk in WALKS
            for number in numbers
        )
    )


async def check_node(cluster, index: int) -> None:
    """Everything is there, from this node's own state as well."""
    async with cluster.client(index) as client:
        for consistency in ("linearizable", "stale"):
            for walk in WALKS:
                for number in (*range(2 * WRITES), *range(100, 100 + WRITES)):
                    answer = await client.query(
                        "default", walk.engine, walk.read, walk.question(number),
                        consistency=consistency,
                    )  # fmt: skip
                    where = f"{walk.engine} {number} at node {index}, {consistency}"
                    assert walk.found(answer["result"], number), where


async def check_command_line(endpoints: str) -> None:
    for walk in WALKS:
        shown = await hivemem(
            "query", walk.engine, walk.read, json.dumps(walk.question(3)), "--endpoints", endpoints,
            "-o", "json",
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        assert walk.found(json.loads(shown.stdout)["result"], 3)
    listed = await hivemem("collection", "list", "--endpoints", endpoints, "-o", "json")
    names = {each["name"] for each in json.loads(listed.stdout)["items"]}
    assert names == {walk.engine for walk in WALKS}


async def check_digests(cluster) -> None:
    """The replicas' hash trees agree at one index."""

    async def agree() -> bool:
        done = await hivemem("doctor", "--endpoints", ",".join(cluster.endpoints), "-o", "json")
        return done.returncode == 0

    await eventually(agree, 20, "the replicas differ, or doctor is not content")
