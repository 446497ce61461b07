"""MCP on real clusters: every tool over every transport, and through the death of the leader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from mcp import Client

from tests import mcp_database_walk
from tests.cluster.harness import LocalCluster, eventually
from tests.mcp_process import http_server, stdio
from tests.mcp_walk import call, refusal, walk

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@contextlib.asynccontextmanager
async def connected(cluster: LocalCluster, transport: str, mode: str) -> AsyncIterator[Client]:
    """A client of a server that was told of one node only, and must find the others."""
    where = ("--endpoints", cluster.endpoints[0])
    if transport == "stdio":
        async with Client(stdio(*where), mode=mode) as client:
            yield client
        return
    async with http_server(*where) as url, Client(url, mode=mode) as client:
        yield client


async def test_every_tool_over_every_transport(cluster: LocalCluster) -> None:
    for transport in ("stdio", "http"):
        for mode in ("auto", "legacy"):
            async with connected(cluster, transport, mode) as client:
                await walk(client, f"{transport}-{mode}")
                if (transport, mode) in (("stdio", "auto"), ("http", "legacy")):
                    await mcp_database_walk.walk(client, f"{transport}-{mode}")


@pytest.mark.parametrize(("transport", "mode"), [("stdio", "auto"), ("http", "legacy")])
async def test_tools_follow_the_leader_when_it_dies(
    cluster: LocalCluster, transport: str, mode: str
) -> None:
    async with connected(cluster, transport, mode) as client:
        # Calls once made, the server knows all nodes, not only the one it was told of.
        place = {"session": "plan", "key": "step"}
        for number in range(20):
            await call(client, "put", **place, value=number, expect_version=number)
        texts = {"collection": "texts"}
        await call(client, "database_collection", action="create", engine="text", **texts)
        leader = await cluster.wait_leader()
        killed = asyncio.create_task(cluster.kill(leader))
        version = 20
        for number in range(20, 60):
            put = await call(client, "put", **place, value=number, expect_version=version)
            version = put["version"]
            await insert(client, number, **texts)
            await call(client, "remember", text=f"step {number}")
            counted = await call(client, "database_query", operation="text_count", **texts)
            assert counted["result"] == {"count": number - 19}, "an agent sees its own writes"
        assert version == 60, "retries through the change of leader were applied once"
        await killed
        recalled = await call(client, "recall", query="step", limit=50)
        assert len(recalled["hits"]) == 40, "texts were stored once"
        got = await call(client, "get", **place)
        assert (got["value"], got["version"]) == (59, 60)
        past = await call(client, "history", **place, limit=16)
        assert [item["value"] for item in past["items"]] == list(range(59, 43, -1))
        wrote = await call(
            client, "memory_distribute", operation="write", sessionId="plan", key="k", value=0
        )
        assert wrote["result"]["version"] == 1
        health = await call(client, "memory_health_check", detailed=True)
        assert health["overall"] == "degraded", health
        dead = cluster.nodes[leader].name
        assert dead in " ".join(health["issues"])
        assert dead not in wrote["decision"]["participants"]
        await cluster.restart(leader)

        async def healthy() -> bool:
            return bool((await call(client, "memory_health_check"))["overall"] == "healthy")

        await eventually(healthy, 20, "the cluster is not healthy again")


async def insert(client: Client, number: int, **place: str) -> None:
    """A text without an id, which would be there twice if it was applied twice."""
    parameters = {"documents": [{"text": f"step {number}"}]}
    await call(client, "database_query", operation="text_insert", parameters=parameters, **place)


async def test_without_a_quorum_nothing_claims_success(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    others = [index for index in range(3) if index != leader]
    guide = {"sessionId": "s", "key": "k"}
    async with connected(cluster, "stdio", "auto") as client:
        await call(client, "memory_distribute", operation="write", **guide, value="kept")
        await call(client, "remember", text="kept")
        for index in others:
            await cluster.kill(index)
        told = await refusal(
            client, "memory_distribute", operation="write", **guide, value="lost", timeout=1500
        )
        assert "QUORUM_NOT_REACHED" in told or "OUTCOME_UNKNOWN" in told
        claimed_nothing = "Nothing was changed" in told
        text = {"operation": "text_insert", "parameters": {"documents": [{"text": "lost"}]}}
        told = await refusal(
            client, "database_query", **text, collection="memory", requirements={"timeout": 1500}
        )
        assert told.startswith(("QUORUM_NOT_REACHED", "OUTCOME_UNKNOWN"))

        async def critical() -> bool:
            return bool((await call(client, "memory_health_check"))["overall"] == "critical")

        await eventually(critical, 15, "the loss of the quorum is not critical")
        # A stale read needs no quorum, and says who answered.
        read = await call(client, "memory_distribute", operation="read", **guide)
        assert read["result"]["servedBy"] == cluster.nodes[leader].name
        counted = await call(client, "database_query", operation="text_count", collection="memory")
        assert counted["result"] == {"count": 1}
        for index in others:
            await cluster.restart(index)
        await cluster.wait_leader()
        read = await call(
            client, "memory_distribute", operation="read", **guide, consistency="strong"
        )
        expected = {"kept"} if claimed_nothing else {"kept", "lost"}
        assert read["result"]["value"] in expected
