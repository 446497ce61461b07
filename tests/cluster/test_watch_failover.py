"""A watch through a change of leader: each event once, in order, resumable."""

from __future__ import annotations

import asyncio

import pytest

from node.client import HivememClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


async def test_watch_through_a_leader_change(cluster):
    leader = await cluster.wait_leader()
    endpoints = [node.http for node in cluster.nodes]
    total = 600
    seen: list[tuple[str, int]] = []

    async def watch(client: HivememClient, since: int) -> None:
        async for event in client.watch("w", "s", since=since):
            seen.append((event.key, event.revision))
            if event.key == f"{total - 1:05d}":
                return

    async with (
        HivememClient([endpoints[leader], *endpoints], timeout_ms=20_000) as watching,
        HivememClient(endpoints, timeout_ms=20_000) as writing,
    ):
        first = await writing.put("w", "s", "start", "x")
        task = asyncio.create_task(watch(watching, first.revision))
        written = []
        for number in range(total):
            if number == total // 2:
                await cluster.kill(leader)
            result = await writing.put("w", "s", f"{number:05d}", str(number))
            written.append((f"{number:05d}", result.revision))
        await asyncio.wait_for(task, 30)
        assert seen == written

        middle = written[total // 3]
        tail: list[tuple[str, int]] = []
        async for event in watching.watch("w", "s", since=middle[1]):
            tail.append((event.key, event.revision))
            if event.key == written[-1][0]:
                break
        assert tail == written[total // 3 + 1 :]
