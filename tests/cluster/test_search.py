"""Full-text search over plain records, through the death of the leader."""

from __future__ import annotations

import pytest

from node.client import BatchPut, HivememClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

RECORDS = 100


async def found(client: HivememClient, query: str, **more: object) -> set[str]:
    page = await client.search("n", "s", query, limit=100, **more)  # type: ignore[arg-type]
    return {hit.item.key for hit in page.hits}


async def test_everything_is_found_at_other_nodes_when_the_leader_is_killed(cluster):
    leader = await cluster.wait_leader()
    others = [number for number in range(3) if number != leader]
    writes = [BatchPut("n", "s", f"note/{n}", f"bees dance, {n}") for n in range(RECORDS)]
    async with (
        HivememClient(cluster.endpoints, timeout_ms=20_000) as writing,
        # Each asks its own node, whoever leads.
        HivememClient([cluster.endpoints[others[0]]], timeout_ms=20_000, follow=False) as one,
        HivememClient([cluster.endpoints[others[1]]], timeout_ms=20_000, follow=False) as two,
    ):
        await writing.batch(writes)
        everything = {write.key for write in writes}
        # One of them has an index before, the other makes it afterwards.
        assert await found(one, "dancing") == everything
        await cluster.kill(leader)
        await writing.put("n", "s", "note/0", "wasps")
        await writing.delete("n", "s", "note/1")
        await writing.put("n", "s", "new", "a dance")
        expected = everything - {"note/0", "note/1"} | {"new"}
        for client in (one, two):
            assert await found(client, "dancing") == expected
            assert await found(client, "dancing", prefix="note/9") == {
                key for key in expected if key.startswith("note/9")
            }
            (hit,) = (await client.search("n", "s", "wasp", values=True, snippets=True)).hits
            assert (hit.item.key, hit.item.text(), hit.snippet) == ("note/0", "wasps", "[wasps]")
