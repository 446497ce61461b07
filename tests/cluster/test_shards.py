"""A collection of several shards on real daemons: written while a leader is killed, and found."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from node.client import HivememClient
from tests.cluster.harness import LocalCluster, eventually, hivemem, running_cluster
from tests.cluster.test_partitions import is_settled, partition_with

PARTITIONS = 4
NODES = 5
BATCHES, BATCH = 40, 10
SECONDS = 40.0


async def _settled(client: HivememClient) -> None:
    async def settled() -> bool:
        return is_settled(await client.partitions())

    await eventually(settled, SECONDS, "the partitions are not where they should be")


async def _insert(client: HivememClient, number: int) -> None:
    documents = [
        {"_id": f"d{number * BATCH + each:04}", "n": number * BATCH + each, "batch": number}
        for each in range(BATCH)
    ]
    answer = await client.query(
        "n", "docs", "document_insert", {"documents": documents}, timeout_ms=30_000
    )
    assert answer["result"]["ids"] == [document["_id"] for document in documents]


async def _find_all(client: HivememClient) -> list[int]:
    """The members `n` of all documents, in order of them, page by page."""
    found: list[int] = []
    cursor = None
    while True:
        parameters = {"sort": {"n": 1}, "limit": 90, "cursor": cursor, "projection": {"n": True}}
        answer = (await client.query("n", "docs", "document_find", parameters))["result"]
        found += [item["document"]["n"] for item in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


async def _write_while_a_leader_dies(cluster: LocalCluster, client: HivememClient) -> int:
    """Insert everything, and kill a node that leads some of the parts in the middle of it."""
    view = await client.partitions()
    leaders = [each["leader"] for each in view["partitions"]]
    victim = next(index for index in map(cluster.index, filter(None, leaders)) if index > 0)
    half = BATCHES // 2
    await asyncio.gather(*(_insert(client, number) for number in range(half)))
    rest = [asyncio.create_task(_insert(client, number)) for number in range(half, BATCHES)]
    await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)  # the others are on their way
    await cluster.kill(victim)
    await asyncio.gather(*rest)
    return victim


async def test_everything_is_found_though_a_leader_is_killed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, NODES, partitions=PARTITIONS) as cluster:
        async with cluster.client() as client:
            await _settled(client)
        endpoints = ",".join(cluster.endpoints)
        made = await hivemem(
            "collection", "create", "n/docs", "document", "--shards", str(PARTITIONS),
            "--settings", '{"indexes": [{"fields": ["batch"]}]}', "--endpoints", endpoints,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        assert "in 4 shards" in made.stdout
        async with HivememClient(cluster.endpoints) as client:
            victim = await _write_while_a_leader_dies(cluster, client)
            total = BATCHES * BATCH
            for index in range(NODES):
                if index == victim:
                    continue
                async with HivememClient([cluster.endpoints[index]], follow=False) as asked:
                    assert await _find_all(asked) == list(range(total))
                    counted = await asked.query("n", "docs", "document_count", {})
                    assert counted["result"] == {"count": total}
                    assert counted["log_index"] == 0
            await cluster.restart(victim)
            await _changed_and_shown(client, total)
            await _vectors(client)
            await _exported(cluster, client, tmp_path / "docs.ndjson", total)
            await _made_anew(client)


async def _changed_and_shown(client: HivememClient, total: int) -> None:
    one = await client.query("n", "docs", "document_get", {"id": "d0007"})
    assert one["result"]["items"][0]["document"]["n"] == 7
    parameters = {"filter": {"batch": 3}, "update": {"$set": {"batch": -3}}}
    answer = (await client.query("n", "docs", "document_update", parameters))["result"]
    assert (answer["matched"], answer["more"]) == (BATCH, False)
    found = await client.query(
        "n", "docs", "document_find", {"filter": {"batch": -3}}, explain=True
    )
    assert len(found["result"]["items"]) == BATCH
    assert [each["plan"]["plan"] for each in found["explain"]["shards"]] == ["index"] * PARTITIONS
    described = await client.collection("n", "docs")
    assert described["shards"] == PARTITIONS
    assert described["items"] >= total
    view = await client.partitions()
    assert partition_with(view, "docs")["leader"] is not None

    async def seen() -> bool:
        stale = await client.query(
            "n", "docs", "document_count", {}, consistency="stale",
            routing={"load_balancing": "round_robin"},
        )  # fmt: skip
        return bool(stale["result"]["count"] == total)

    await eventually(seen, SECONDS, "replicas do not show everything")


async def _vectors(client: HivememClient) -> None:
    await client.create_collection(
        "n", "vectors", "vector", {"dimensions": 2, "metric": "l2sq"}, shards=3
    )
    documents: list[dict[str, Any]] = [
        {"id": f"v{number:03}", "vector": [number, 0]} for number in range(300)
    ]
    await client.query("n", "vectors", "vector_insert", {"documents": documents})
    answer = await client.query(
        "n", "vectors", "vector_search", {"vector": [150.2, 0], "limit": 4, "exact": True}
    )
    ids = [match["id"] for match in answer["result"]["matches"]]
    assert ids == ["v150", "v151", "v149", "v152"]
    names = [each["name"] async for each in client.collections("n")]
    assert names == ["docs", "vectors"], "and none of their parts"


async def _exported(cluster: LocalCluster, client: HivememClient, file: Path, total: int) -> None:
    endpoints = ",".join(cluster.endpoints)
    out = await hivemem("export", "--collection", "n/docs", "--out", file, "--endpoints", endpoints)
    assert out.returncode == 0, out.stderr
    assert len(file.read_text().splitlines()) >= total
    back = await hivemem(
        "import", "--collection", "n/copy", "--create", "--engine", "document", "--shards", "2",
        file, "--endpoints", endpoints,
    )  # fmt: skip
    assert back.returncode == 0, back.stderr
    counted = await client.query("n", "copy", "document_count", {})
    assert counted["result"] == {"count": total}
    shown = await hivemem("collection", "list", "n", "--endpoints", endpoints, "-o", "json")
    sizes = {each["name"]: each["shards"] for each in json.loads(shown.stdout)["items"]}
    assert sizes == {"docs": 4, "vectors": 3, "copy": 2}


async def _made_anew(client: HivememClient) -> None:
    assert await client.drop_collection("n", "docs") is True
    await client.create_collection("n", "docs", "document", shards=2)
    counted = await client.query("n", "docs", "document_count", {})
    assert counted["result"] == {"count": 0}
    assert (await client.collection("n", "docs"))["items"] == 0
