"""Forgetting on real daemons: while others write, while the leader dies, over partitions."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from node.client import BatchPut, Forgotten, HivememClient, PutResult
from tests.cluster.harness import LocalCluster, hivemem
from tests.cluster.test_partitions import partitioned

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

KEYS = [f"{number:04}" for number in range(3_000)]
STRIDE = 37  # coprime to their number: what is rewritten lies everywhere
WRITERS = 4  # a divisor of their number: each has keys of its own


async def fill(client: HivememClient, namespace: str, session: str, keys: list[str]) -> None:
    for at in range(0, len(keys), 1_000):
        puts = [BatchPut(namespace, session, key, "old") for key in keys[at : at + 1_000]]
        results = await client.batch(puts)
        assert all(isinstance(each, PutResult) for each in results)


class Rewriter:
    """Writes over keys until it is stopped. `written`: what was acknowledged last of each."""

    def __init__(self, client: HivememClient) -> None:
        self.written: dict[str, tuple[str, int]] = {}  # value, revision
        self._client = client
        self._stop = asyncio.Event()
        writers = (self._write(number) for number in range(WRITERS))
        self._task = asyncio.gather(*writers)

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.written) < count and not self._task.done():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Raises what a write raised."""
        self._stop.set()
        await self._task

    async def _write(self, first: int) -> None:
        for number in itertools.count(first, WRITERS):
            if self._stop.is_set():
                return
            key, value = KEYS[number * STRIDE % len(KEYS)], f"new {number}"
            done = await self._client.put("n", "s", key, value)
            self.written[key] = value, done.revision


async def killing_the_leader(
    cluster: LocalCluster, client: HivememClient, leader: int
) -> Forgotten:
    """Forget the session, in requests of which the fourth loses the leader."""
    asked = 0
    killing: list[asyncio.Task[None]] = []
    ask = client.forget_page

    async def forget_page(*names: str, **options: Any) -> Forgotten:
        nonlocal asked
        asked += 1
        if asked == 4:
            killing.append(asyncio.create_task(cluster.kill(leader)))
        return await ask(*names, **options)

    client.forget_page = forget_page  # type: ignore[method-assign]
    done = await client.forget("n", "s")
    assert asked > 5, "it was to be killed midway"
    await asyncio.gather(*killing)
    return done


async def test_a_session_is_forgotten_through_a_follower_while_the_leader_dies(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.client_api.FORGET_KEYS", 250)
    leader = await cluster.wait_leader()
    follower = (leader + 1) % 3
    async with cluster.client() as writing, cluster.client(follower) as client:
        await fill(writing, "n", "s", KEYS)
        await fill(writing, "n", "other", KEYS[:10])
        rewriter = Rewriter(writing)
        await rewriter.reach(50)
        done = await killing_the_leader(cluster, client, leader)
        await rewriter.stop()
        await fill(writing, "n", "after", ["k"])
    newer = {
        key: value
        for key, (value, revision) in rewriter.written.items()
        if revision > done.revision
    }
    assert newer, "nothing was written meanwhile"
    assert len(newer) < len(KEYS) - 500, "hardly anything was left to be forgotten"
    assert not done.more
    assert 0 < done.deleted <= len(KEYS)
    assert done.kept <= len(newer)
    await cluster.restart(leader)
    for index in range(3):
        async with cluster.client(index) as reader:
            left = {item.key: item.text() async for item in reader.list("n", "s", values=True)}
            assert left == newer
            sessions = [name async for name in reader.sessions("n")]
            assert sessions == ["after", "other", "s"]
            assert len([item async for item in reader.list("n", "other")]) == 10


async def test_every_node_forgets_and_lists_in_all_partitions(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 5) as cluster:
        sessions = [f"session-{number}" for number in range(12)]
        async with cluster.client() as client:
            for session in sessions:
                await fill(client, "n", session, KEYS[:20])
            for namespace in ("a", "m", "z"):
                await client.create_collection(namespace, f"texts-{namespace}", "text")
        for index in range(5):
            async with cluster.client(index) as client:
                done = await client.forget("n", sessions[index], prefix="001")
                assert (done.deleted, done.kept) == (10, 0)
                done = await client.forget("n", sessions[index])
                assert (done.deleted, done.kept) == (10, 0)
                left = [name async for name in client.sessions("n")]
                assert left == sorted(sessions[index + 1 :])
                assert [name async for name in client.namespaces()] == ["a", "m", "n", "z"]
                assert await pages_of_one(client) == ["a", "m", "n", "z"]
        place = ("--endpoints", cluster.endpoints[4])
        ran = await hivemem("forget", "n", "--all-sessions", *place)
        assert ran.returncode == 2, "nobody can be asked"
        ran = await hivemem("forget", "n", "--all-sessions", "--yes", *place)
        assert (ran.returncode, ran.stdout) == (0, "deleted 140 keys of 7 sessions\n"), ran.stderr
        assert (await hivemem("ls", *place)).stdout == "a\nm\nz\n"


async def pages_of_one(client: HivememClient) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await client.namespaces_page(limit=1, cursor=cursor)
        found += page.names
        cursor = page.next_cursor
        if cursor is None:
            return found
