"""Partitions on real daemons: where they are, who serves them, and how they move."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from cluster.slots import session_slot
from node.client import HivememClient
from node.client_types import Partition, Partitions
from node.errors import Conflict
from scripts.workload import Writers
from tests.cluster.harness import LocalCluster, eventually, hivemem, running_cluster

PARTITIONS = 8
SECONDS = 60.0  # for moves on a loaded machine
SESSIONS = [f"session-{number}" for number in range(40)]
FACTOR = 3


@asynccontextmanager
async def partitioned(folder: Path, count: int) -> AsyncIterator[LocalCluster]:
    """A cluster whose partitions all have their members and a leader."""
    async with running_cluster(folder, count, partitions=PARTITIONS) as cluster:
        async with cluster.client() as client:
            await until_settled(client)
        yield cluster


def is_settled(view: Partitions) -> bool:
    """Is every partition exactly where it should be, and led?"""
    return (
        view["epoch"] > 0
        and view["progress"] is not None
        and view["progress"]["partitions_done"] == view["progress"]["partitions_total"]
        and all(each["leader"] for each in view["partitions"])
    )


async def until_settled(client: HivememClient, epoch: int = 1) -> Partitions:
    """The partitions once they are where a map of at least this epoch says."""
    view: Partitions | None = None

    async def settled() -> bool:
        nonlocal view
        view = await client.partitions()
        return view["epoch"] >= epoch and is_settled(view)

    await eventually(settled, SECONDS, "the partitions are not where they should be")
    assert view is not None
    return view


def holders(view: Partitions) -> dict[int, set[str]]:
    """Partition → names of the nodes that hold it."""
    return {
        each["id"]: {replica["name"] for replica in each["replicas"]} for each in view["partitions"]
    }


def partition_with(view: Partitions, session: str) -> Partition:
    slot = session_slot(session)
    return next(
        each for each in view["partitions"] if each["first_slot"] <= slot <= each["last_slot"]
    )


async def fill(client: HivememClient) -> None:
    await asyncio.gather(
        *(client.put("n", session, "key", session.upper()) for session in SESSIONS)
    )


async def check_filled(client: HivememClient) -> None:
    """Every session is there, each with its own value, and listings show each once."""
    found = await asyncio.gather(*(client.get("n", session, "key") for session in SESSIONS))
    assert [record.value for record in found] == [name.upper().encode() for name in SESSIONS]
    assert [name async for name in client.sessions("n")] == sorted(SESSIONS)
    assert [name async for name in client.namespaces()] == ["n"]


async def test_five_nodes_hold_each_partition_three_times_and_every_node_serves_all(
    tmp_path: Path,
) -> None:
    async with partitioned(tmp_path, 5) as cluster:
        async with cluster.client() as client:
            view = await client.partitions()
            await fill(client)
        assert view["partitions"][0]["first_slot"] == 0
        assert view["partitions"][-1]["last_slot"] == 16_383
        assert all(len(nodes) == FACTOR for nodes in holders(view).values())
        held = Counter(name for nodes in holders(view).values() for name in nodes)
        assert max(held.values()) - min(held.values()) <= 1
        for index in range(5):
            async with HivememClient([cluster.endpoints[index]], follow=False) as client:
                await check_filled(client)
                status = await client.status()
                assert status["revision"] is None, "each partition has its own"
        shown = await hivemem("partitions", "--endpoints", cluster.endpoints[4])
        assert shown.returncode == 0
        assert "8 of 8 partitions are where they should be" in shown.stdout


async def test_a_revision_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 3) as cluster, cluster.client() as client:
        written = await client.put("n", "s", "k", "v")
        found = await client.get("n", "s", "k", min_revision=written.revision)
        assert found.value == b"v"
        with pytest.raises(HTTPError) as caught:
            await asyncio.to_thread(urlopen, f"{cluster.endpoints[0]}/v1/kv/n?min_revision=1")
        error = json.loads(caught.value.read())["error"]
        assert (caught.value.code, error["field"]) == (400, "min_revision")


async def test_the_death_of_a_node_costs_no_acknowledged_write(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 5) as cluster:
        async with Writers(cluster.endpoints, 32) as writers:
            await writers.reach(300)
            await cluster.kill(0)
            await writers.reach(300)
            await cluster.restart(0)
            await writers.reach(100)
        await cluster.check_nothing_lost(writers)


async def test_everything_is_there_after_all_were_killed(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 3) as cluster:
        async with cluster.client() as client:
            await fill(client)
        await cluster.kill_all()
        for index in range(3):
            await cluster.restart(index, ready=False)
        for index in range(3):
            await cluster.wait_ready(index)
        async with cluster.client() as client:
            await check_filled(client)


async def test_a_sixth_node_gets_its_share_and_nothing_else_moves(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 5) as cluster:
        async with cluster.client() as client:
            await fill(client)
            before = await client.partitions()
        index = await cluster.newcomer("node6")
        node = cluster.nodes[index]
        async with cluster.client() as client:
            await client.add_member(node.id, node.name, node.peer, node.http)
            after = await until_settled(client, before["epoch"] + 1)
            came = [
                (partition, nodes - holders(before)[partition])
                for partition, nodes in holders(after).items()
            ]
            assert {name for _, names in came for name in names} == {"node6"}
            assert sum(len(names) for _, names in came) == PARTITIONS * FACTOR // 6
            await check_filled(client)
        async with HivememClient([node.http], follow=False) as client:
            await check_filled(client)


async def test_a_node_is_drained_and_removed_and_its_data_stays(tmp_path: Path) -> None:
    async with partitioned(tmp_path, 4) as cluster:
        async with cluster.client() as client:
            await fill(client)
            before = await client.partitions()
            gone = cluster.nodes[1]
            await client.drain_member(gone.id)
            drained = await until_settled(client, before["epoch"] + 1)
            assert all(gone.name not in nodes for nodes in holders(drained).values())
            assert all(len(nodes) == FACTOR for nodes in holders(drained).values())
            stayed = {
                partition: nodes - {gone.name} for partition, nodes in holders(before).items()
            }
            assert all(nodes <= holders(drained)[each] for each, nodes in stayed.items())
            removed = await hivemem("member", "remove", gone.name, "--data-dir", cluster.plan.root)
            assert removed.returncode == 0, removed.stderr
            await cluster.ended(1)
            members = await client.members()
            assert gone.id not in [each["id"] for each in members["members"]]
        async with HivememClient([cluster.endpoints[0]]) as client:
            await check_filled(client)
        folders = [path.name for path in (gone.data_dir / "groups").iterdir()]
        assert folders == ["0"], "what a node gave away it keeps no longer"


async def test_a_cluster_without_partitions_says_so(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, 3) as cluster, cluster.client() as client:
        view = await client.partitions()
        assert (view["epoch"], view["progress"]) == (0, None)
        assert len(view["partitions"][0]["replicas"]) == 3
        with pytest.raises(Conflict) as caught:
            await client.drain_member(cluster.nodes[0].id)
        assert caught.value.code == "NOT_PARTITIONED"
