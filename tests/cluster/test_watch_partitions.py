"""Watches in a cluster whose partitions live on some of its nodes: each change once, in order,
whichever node is asked, dies, or gives its replicas away."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from node.client import Event, HivememClient
from node.errors import BadRequest
from scripts.workload import NAMESPACE, Writers
from tests.cluster.harness import CALL_MS, ROOT, LocalCluster, eventually
from tests.cluster.test_partitions import partition_with, partitioned

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODES = 5
WRITERS = 12
SECONDS = 60.0  # for a watch to show what was written, on a loaded machine


class Watcher:
    """Follows the writers' namespace and remembers what it saw."""

    def __init__(self, client: HivememClient, since: str | None = None) -> None:
        self.client = client
        self.watch = client.watch(NAMESPACE, since=since)
        self.events: list[Event] = []

    async def __aenter__(self) -> Watcher:
        await self.client.__aenter__()
        await self.watch.__aenter__()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.watch.aclose()
        await self._task
        await self.client.__aexit__(None, None, None)

    async def _follow(self) -> None:
        async for event in self.watch:
            self.events.append(event)

    def keys(self) -> dict[str, list[str]]:
        """Session → the keys that were seen, in the order of their events."""
        found: dict[str, list[str]] = defaultdict(list)
        for event in self.events:
            found[event.session].append(event.key)
        return dict(found)

    async def check(self, writers: Writers) -> None:
        """What was acknowledged is there, all of it once and in its session's order."""

        async def all_seen() -> bool:
            assert not self._task.done(), self._task.exception()
            found = self.keys()
            return all(
                set(keys) <= set(found.get(session, ()))
                for session, keys in writers.acknowledged.items()
            )

        await eventually(all_seen, SECONDS, "the watch does not show what was acknowledged")
        for session, keys in self.keys().items():
            # Each writer's keys grow: so once, and in order.
            assert keys == sorted(set(keys)), session
            unknown = set(keys) - set(writers.acknowledged[session])
            assert len(unknown) <= writers.unknown, (session, unknown)
        for event in self.events:
            assert event.value is not None
            assert event.value.decode() == f"{event.session}:{int(event.key)}"


def only(cluster: LocalCluster, index: int) -> HivememClient:
    """A client that asks one node, and no other."""
    return HivememClient([cluster.endpoints[index]], follow=False, timeout_ms=CALL_MS)


def through(cluster: LocalCluster, first: int) -> HivememClient:
    """A client that begins at one node, and may go on at the others."""
    addresses = cluster.endpoints
    return HivememClient([addresses[first], *addresses], timeout_ms=CALL_MS)


async def test_a_session_is_watched_at_a_node_that_does_not_hold_it(tmp_path: Path) -> None:
    async with partitioned(tmp_path, NODES) as cluster, cluster.client() as client:
        partition = partition_with(await client.partitions(), "ann")
        holders = [cluster.index(replica["node"]) for replica in partition["replicas"]]
        outside = next(index for index in range(NODES) if index not in holders)
        total = 120
        seen: list[tuple[str, int]] = []

        async def follow(watching: HivememClient, since: str | None) -> None:
            async with watching.watch("w", "ann", since=since) as watch:
                async for event in watch:
                    seen.append((event.key, event.revision))
                    if event.key == f"{total - 1:05d}":
                        return

        before = await client.put("w", "ann", "start", "x")
        async with only(cluster, outside) as watching:
            task = asyncio.create_task(follow(watching, str(before.revision)))
            written: list[tuple[str, int]] = []
            for number in range(total):
                if number == total // 2:
                    # Whether or not it is the one that is asked: the next one may be.
                    await cluster.kill(holders[0])
                result = await client.put("w", "ann", f"{number:05d}", str(number))
                written.append((f"{number:05d}", result.revision))
            await asyncio.wait_for(task, SECONDS)
            assert seen == written
            # Ids are those of the partition, and good at every node.
            middle = written[total // 3]
            for index in (outside, holders[1]):
                seen.clear()
                async with only(cluster, index) as other:
                    await asyncio.wait_for(follow(other, f"{middle[1]}.0"), SECONDS)
                assert seen == written[total // 3 + 1 :]


async def test_a_namespace_is_watched_through_the_death_of_a_node(tmp_path: Path) -> None:
    async with partitioned(tmp_path, NODES) as cluster:
        dead = 1
        async with (
            Watcher(only(cluster, 0)) as steady,
            Watcher(through(cluster, dead)) as moved,
            Writers(cluster.endpoints, WRITERS) as writers,
        ):
            await writers.reach(200, SECONDS)
            await cluster.kill(dead)
            await writers.reach(200, SECONDS)
            await cluster.restart(dead)
            await writers.reach(100, SECONDS)
            await writers.stop()
            for watcher in (steady, moved):
                await watcher.check(writers)
            events = moved.events
            place = len(events) // 2
            async with Watcher(only(cluster, dead), str(events[place].id)) as resumed:
                expected = sorted((e.session, e.key) for e in events[place + 1 :])

                async def all_seen() -> bool:
                    return len(resumed.events) >= len(expected)

                await eventually(all_seen, SECONDS, "the rest does not come")
                assert sorted((e.session, e.key) for e in resumed.events) == expected
        async with only(cluster, 0) as client:
            with pytest.raises(BadRequest) as caught:
                await client.watch(NAMESPACE, since=7).__aenter__()
        assert caught.value.field == "since"


async def test_a_node_that_gives_its_replicas_away_goes_on_with_its_watches(
    tmp_path: Path,
) -> None:
    async with partitioned(tmp_path, NODES) as cluster, cluster.client() as client:
        name = cluster.nodes[2].name
        async with Watcher(only(cluster, 2)) as watcher, Writers(cluster.endpoints, 4) as writers:
            await writers.reach(50, SECONDS)
            await client.drain_member(cluster.nodes[2].id)

            async def empty() -> bool:
                view = await client.partitions()
                return all(
                    replica["name"] != name
                    for partition in view["partitions"]
                    for replica in partition["replicas"]
                )

            await eventually(empty, 2 * SECONDS, "the node keeps its replicas")
            await writers.reach(50, SECONDS)
            await writers.stop()
            await watcher.check(writers)


async def test_the_command_line_goes_on_from_an_event_id(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 3) as cluster, cluster.client() as client:
        async with client.watch("n") as watch:
            for number in range(4):
                await client.put("n", f"s{number}", "k", str(number))
            events = [await anext(watch) for _ in range(4)]
        arguments = ("watch", "n", "--since", str(events[1].id), "-o", "json")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "node.cli", *arguments, "--endpoints", cluster.endpoints[2],
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(SECONDS):
                lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        finally:
            process.kill()
            await process.wait()
        shown = {(line["session"], line["value"]) for line in lines}
        assert shown == {(event.session, (event.value or b"").decode()) for event in events[2:]}
