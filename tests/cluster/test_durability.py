"""Real daemons, 64 writers, kill -9. What was acknowledged is there afterwards."""

from __future__ import annotations

import asyncio

import pytest

from node.client import HivememClient
from node.errors import Conflict, Unavailable
from scripts.workload import Writers, check_nothing_lost

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def endpoints(cluster) -> list[str]:
    return [node.http for node in cluster.nodes]


@pytest.mark.parametrize("victim", ["leader", "follower"])
async def test_kill_9_loses_no_acknowledged_write(cluster, victim):
    leader = await cluster.wait_leader()
    target = leader if victim == "leader" else (leader + 1) % 3
    async with Writers(endpoints(cluster)) as writers:
        await writers.reach(500)
        await cluster.kill(target)
        await writers.reach(500)
    survivors = [i for i in range(3) if i != target]
    for i in survivors:
        await check_nothing_lost(writers, cluster.nodes[i].http)
    await cluster.restart(target)
    await cluster.wait_leader()
    await check_nothing_lost(writers, cluster.nodes[target].http)


async def test_kill_9_of_all_three_loses_no_acknowledged_write(cluster):
    await cluster.wait_leader()
    async with Writers(endpoints(cluster)) as writers:
        await writers.reach(500)
        await cluster.kill_all()
        await asyncio.gather(*(cluster.restart(i, ready=False) for i in range(3)))
        await cluster.wait_leader()
        await writers.reach(200)
    for i in range(3):
        await check_nothing_lost(writers, cluster.nodes[i].http)


async def test_without_a_quorum_writes_fail_and_recover(cluster):
    leader = await cluster.wait_leader()
    others = [i for i in range(3) if i != leader]
    survivor = cluster.nodes[leader].http
    async with HivememClient([survivor], timeout_ms=10_000) as client:
        await client.put("q", "s", "before", "1")
        for i in others:
            await cluster.kill(i)
        loop = asyncio.get_running_loop()
        failures: dict[str, Unavailable] = {}
        for number in range(6):
            started = loop.time()
            with pytest.raises(Unavailable) as caught:
                await client.put("q", "s", f"k{number}", "x", timeout_ms=1500)
            assert loop.time() - started < 5  # a deadline is a deadline, not a measurement
            assert caught.value.code == "QUORUM_NOT_REACHED"
            failures[f"k{number}"] = caught.value
        assert any(error.definite for error in failures.values())
        await asyncio.gather(*(cluster.restart(i, ready=False) for i in others))
        await cluster.wait_leader()
        await client.put("q", "s", "after", "1")
        present = {item.key async for item in client.list("q", "s")}
        assert {"before", "after"} <= present
        for key, error in failures.items():
            assert not (error.definite and key in present)


async def test_a_paused_follower_catches_up(cluster):
    leader = await cluster.wait_leader()
    paused = (leader + 1) % 3
    async with Writers(endpoints(cluster), count=8) as writers:
        await writers.reach(50)
        cluster.pause(paused)
        await writers.reach(200)
        cluster.resume(paused)
        await writers.reach(50)
    await check_nothing_lost(writers, cluster.nodes[paused].http)


async def test_concurrent_compare_and_set_counts_every_success(cluster):
    """The reference MCP memory server keeps 1 of 20 concurrent acknowledged writes."""
    await cluster.wait_leader()
    async with HivememClient(endpoints(cluster), timeout_ms=20_000) as client:
        await client.put("cas", "s", "counter", "0")

        async def increment() -> None:
            while True:
                seen = await client.get("cas", "s", "counter")
                try:
                    text = str(int(seen.text()) + 1)
                    await client.put("cas", "s", "counter", text, if_version=seen.version)
                except Conflict:
                    continue
                return

        await asyncio.gather(*(increment() for _ in range(20)))
        final = await client.get("cas", "s", "counter")
    assert final.text() == "20"
    assert final.version == 21
